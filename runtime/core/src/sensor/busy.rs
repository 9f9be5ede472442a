//! Use of the processors, and what waits for them: `/proc/stat` and pressure stall information.

use std::path::PathBuf;
use std::time::Instant;

use super::Quantity::{Load, Pressure};
use super::file::{Found, source};
use crate::root::Root;

/// Time of all processors since the start, in jiffies (`Documentation/filesystems/proc.rst`, `/proc/stat`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Jiffies {
    /// Somebody's work, of this machine.
    pub(super) busy: u64,
    /// Given to other machines by the hypervisor.
    pub(super) stolen: u64,
    /// All of it.
    pub(super) all: u64,
}

impl Jiffies {
    /// Of the line that begins with `cpu `.
    pub(super) fn parse(stat: &str) -> Option<Self> {
        let words = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let mut numbers = [0_u64; 8];
        let mut count = 0;
        for (number, word) in numbers.iter_mut().zip(words) {
            *number = word.parse().ok()?;
            count += 1;
        }
        let [user, nice, system, idle, waiting, interrupts, soft_interrupts, stolen] = numbers;
        (count == numbers.len()).then_some(())?;
        // What guests use is in user and nice already.
        let busy = user + nice + system + interrupts + soft_interrupts;
        Some(Self { busy, stolen, all: busy + stolen + idle + waiting })
    }

    /// What passed since an earlier moment; idle time may run backwards a little.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            stolen: self.stolen.saturating_sub(earlier.stolen),
            all: self.all.saturating_sub(earlier.all),
        }
    }
}

/// Use of the processors since the reading before.
pub(super) fn load(root: Root<'_>) -> Vec<Found> {
    let what = source("load/processors", Load, "all processors of the machine; of a container, those of its host");
    let mut last = None;
    vec![Found::files(root, what, &["/proc/stat".into()], move |files| {
        let now = Jiffies::parse(files[0].text()?)?;
        let passed = now.since(last.replace(now)?);
        (passed.all > 0).then(|| passed.busy as f64 / passed.all as f64)
    })]
}

/// Microseconds in which some task waited, since the start (`Documentation/accounting/psi.rst`).
pub(super) fn waited_micros(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

/// Share of the last ten seconds, 0 to 1, in which some task waited.
pub(super) fn waited_share(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent: f64 = some.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()?;
    Some(percent / 100.0)
}

/// Share of the time since the reading before in which some task waited.
pub(super) fn pressure(root: Root<'_>) -> Vec<Found> {
    let one = |resource: &str| {
        let covers = format!("tasks that waited for {resource}, this one's included");
        let what = source(format!("pressure/{resource}"), Pressure, covers);
        let path = PathBuf::from(format!("/proc/pressure/{resource}"));
        let mut last: Option<(Instant, u64)> = None;
        Found::files(root, what, &[path], move |files| {
            let now = (Instant::now(), waited_micros(files[0].text()?)?);
            let before = last.replace(now)?;
            share(now.1.saturating_sub(before.1), now.0.duration_since(before.0).as_micros())
        })
    };
    ["cpu", "memory"].map(one).into()
}

fn share(waited_micros: u64, micros: u128) -> Option<f64> {
    (micros > 0).then(|| (waited_micros as f64 / micros as f64).min(1.0))
}
