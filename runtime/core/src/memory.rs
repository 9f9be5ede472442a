//! Memory of this process at the boundaries of stages: what it holds, and the most that it held.
//!
//! Linux and Android tell it under `/proc/self`; of macOS and Windows nothing is known yet, and everything here is
//! absent there. A resident set is counted in pages by several cores, so that it is right to about half a MiB.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bounded;
use crate::stage::Stage;

/// What the system tells of this process's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// Most that was resident, since the process began or the peak was last reset.
    pub peak: u64,
    /// What is resident: memory of its own, and pages of files.
    pub resident: u64,
    /// The part that no file stands behind: what the process really needs.
    pub anonymous: Option<u64>,
    /// The part that are pages of files, such as the library and mapped weights. The system can take these back.
    pub file: Option<u64>,
}

/// Memory of a generation: resident sets of the whole process, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Memory {
    /// Around the opening of the pipeline. Resident graphs are opened side by side, so that no stage's share of it
    /// is known.
    pub pipeline: OpeningMemory,
    /// Around each stage that worked.
    #[serde(flatten)]
    pub stages: BTreeMap<Stage, StageMemory>,
    /// After the generation; its peak is the most that this pipeline has seen.
    pub process: Reading,
}

/// Resident sets around the opening of a pipeline, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OpeningMemory {
    /// Before anything was opened.
    pub before: u64,
    /// The most until it was open; absent where the process had held more earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
    /// Afterwards.
    pub opened: u64,
}

/// Resident sets around a stage, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StageMemory {
    /// Before it began, and before its graph was opened, where it was opened for it.
    pub before: u64,
    /// The most while its graph was opened; absent where it was open before, or the peak cannot be reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opening_peak: Option<u64>,
    /// With its graph open; absent where it was open before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opened: Option<u64>,
    /// The most while it worked, which for the decoder includes what the caller does with pictures; absent where the peak
    /// cannot be reset and an earlier one stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
    /// After it: with its graph given back where it is staged, still open where it is resident.
    pub after: u64,
}

impl Reading {
    /// What is known now; nothing where the system does not tell.
    pub fn now() -> Option<Self> {
        Self::parse(&bounded::read(Path::new("/proc/self/status"), MAX_STATUS_BYTES).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        let [peak, resident, anonymous, file] = ["VmHWM", "VmRSS", "RssAnon", "RssFile"].map(bytes);
        Some(Self { peak: peak?, resident: resident?, anonymous, file })
    }
}

/// Longest `/proc/self/status` that is read.
const MAX_STATUS_BYTES: u64 = 64 << 10;

impl StageMemory {
    /// The most that was resident while its graph was opened or worked.
    pub fn highest(&self) -> Option<u64> {
        self.opening_peak.max(self.peak)
    }

    /// The same stage with another stretch of its work.
    fn and(self, later: Self) -> Self {
        Self {
            before: self.before,
            opening_peak: self.opening_peak.or(later.opening_peak),
            opened: self.opened.or(later.opened),
            peak: self.peak.max(later.peak),
            after: later.after,
        }
    }
}

impl OpeningMemory {
    /// Two readings, before and after.
    pub(crate) fn new(before: Reading, after: Reading) -> Self {
        let peak = (after.peak > before.peak).then_some(after.peak);
        Self { before: before.resident, peak, opened: after.resident }
    }
}

/// Watches the memory of one stage. It is off until it is asked for: resetting the peak takes it from others who read it.
#[derive(Default)]
pub(crate) struct Watch {
    on: bool,
    /// What was known when the stage began, where it is under way.
    began: Option<Start>,
    /// What was told while the graph was opened, where it was.
    opening: Option<(Option<u64>, u64)>,
    seen: Option<StageMemory>,
    highest: u64,
}

/// A reading, and whether the peak was reset after it.
#[derive(Clone, Copy)]
struct Start {
    reading: Reading,
    reset: bool,
}

impl Start {
    fn now() -> Option<Self> {
        let reading = Reading::now()?;
        Some(Self { reading, reset: reset_peak() })
    }

    /// The most from here to a later reading; unknown where only an earlier peak is told.
    fn peak_until(&self, later: Reading) -> Option<u64> {
        (self.reset || later.peak > self.reading.peak).then_some(later.peak)
    }
}

impl Watch {
    /// Watches from now on.
    pub(crate) fn turn_on(&mut self) {
        self.on = true;
    }

    /// The stage begins, unless it is under way.
    pub(crate) fn begin(&mut self) {
        if self.on && self.began.is_none() {
            self.began = self.start();
        }
    }

    /// The graph was opened since it began.
    pub(crate) fn opened(&mut self) {
        let Some(before) = self.began else { return };
        let Some(now) = self.start() else { return };
        self.opening = Some((before.peak_until(now.reading), now.reading.resident));
        // What follows is the stage's work: it keeps what was before the opening, but not its peak.
        let resident = before.reading.resident;
        self.began = Some(Start { reading: Reading { resident, ..now.reading }, reset: now.reset });
    }

    /// The stage rests: its graph is given back, or stays open for the next request.
    pub(crate) fn end(&mut self) {
        let Some(start) = self.began.take() else { return };
        let Some(now) = Reading::now() else { return };
        self.highest = self.highest.max(now.peak);
        let (opening_peak, opened) = self.opening.take().unzip();
        let stage = StageMemory {
            before: start.reading.resident,
            opening_peak: opening_peak.flatten(),
            opened,
            peak: start.peak_until(now),
            after: now.resident,
        };
        self.seen = Some(self.seen.map_or(stage, |seen| seen.and(stage)));
    }

    /// What was seen since this was last asked.
    pub(crate) fn take(&mut self) -> Option<StageMemory> {
        self.seen.take()
    }

    /// The most that the process held whenever this has looked, in bytes.
    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    fn start(&mut self) -> Option<Start> {
        let start = Start::now()?;
        self.highest = self.highest.max(start.reading.peak);
        Some(start)
    }
}

/// Forgets the peak, so that the next one is that of what follows; false where the system does not let us.
fn reset_peak() -> bool {
    let file = std::fs::OpenOptions::new().write(true).open("/proc/self/clear_refs");
    file.and_then(|mut file| file.write_all(b"5")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tsafelight\nVmPeak:\t  9000 kB\nVmHWM:\t    4096 kB\nVmRSS:\t    3072 kB\n\
                          RssAnon:\t    2048 kB\nRssFile:\t    1024 kB\nRssShmem:\t       0 kB\n";

    fn reading(peak: u64, resident: u64) -> Reading {
        Reading { peak, resident, anonymous: None, file: None }
    }

    #[test]
    fn a_status_is_read() {
        let mib = |mib: u64| mib << 20;
        let read = Reading::parse(STATUS).unwrap();
        assert_eq!((read.peak, read.resident, read.anonymous, read.file), (mib(4), mib(3), Some(mib(2)), Some(mib(1))));
        // Kernels before 4.5 tell no parts.
        let old = STATUS.split("RssAnon").next().unwrap();
        assert_eq!(Reading::parse(old).unwrap(), reading(mib(4), mib(3)));
        for broken in
            ["", "VmHWM:\t1 kB\n", "VmHWM:\tx kB\nVmRSS:\t1 kB\n", "VmHWM:\t18446744073709551615 kB\nVmRSS:\t1 kB"]
        {
            assert_eq!(Reading::parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn a_peak_that_stood_before_is_nobodys() {
        let start = |reset| Start { reading: reading(90, 50), reset };
        assert_eq!(start(false).peak_until(reading(90, 80)), None);
        assert_eq!(start(false).peak_until(reading(95, 80)), Some(95));
        assert_eq!(start(true).peak_until(reading(80, 70)), Some(80));
        assert_eq!(OpeningMemory::new(reading(90, 50), reading(90, 80)).peak, None);
    }

    #[test]
    fn stretches_of_a_stage_are_one() {
        let first = StageMemory { before: 1, opening_peak: Some(9), opened: Some(5), peak: Some(7), after: 4 };
        let later = StageMemory { before: 4, opening_peak: None, opened: None, peak: Some(8), after: 6 };
        assert_eq!(first.and(later), StageMemory { peak: Some(8), after: 6, ..first });
        assert_eq!(first.highest(), Some(9));
    }

    #[test]
    fn a_watch_that_is_off_sees_nothing() {
        let mut watch = Watch::default();
        watch.begin();
        watch.opened();
        watch.end();
        assert_eq!((watch.take(), watch.highest()), (None, 0));
    }

    /// In a process whose other tests allocate meanwhile, so that only bounds can be told.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_watch_sees_what_is_allocated() {
        const BYTES: usize = 256 << 20;
        let mut watch = Watch::default();
        watch.turn_on();
        watch.begin();
        drop(std::hint::black_box(vec![1u8; BYTES]));
        watch.opened();
        watch.end();
        let seen = watch.take().unwrap();
        assert!(seen.opening_peak.unwrap() >= BYTES as u64, "{seen:?}");
        assert!(watch.highest() >= seen.highest().unwrap());
        assert_eq!(watch.take(), None);
    }
}
