//! Waiting until a device is quiet and cool, so that one measurement does not heat the next.

use std::path::Path;
use std::time::Duration;

use super::State;
use crate::{Cancel, Result};

/// What a device must be before it is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quiet {
    /// No hotter than this, in °C, where anything tells; without it heat is not waited for.
    pub start_celsius: Option<f64>,
    /// In the last ten seconds some task waited for a processor for no more than this share of the time, 0 to 1.
    pub most_pressure: f64,
    /// Longest wait in seconds.
    pub most_seconds: u64,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    /// Seconds that were waited.
    pub seconds: u64,
    /// What was not as it should be when time was up, such as `it is at 61.0 °C, and should be at 50.0 °C`; empty where
    /// all was.
    pub left: Vec<String>,
}

/// Between two lines that tell what is waited for.
const TELL_EVERY_SECONDS: u64 = 10;

impl Quiet {
    /// Waits, reading below `root` once a second. `sleep` passes the time, which is counted by it; `tell` gets a line
    /// for people at first and every ten seconds.
    ///
    /// # Errors
    /// [`Cancelled`](crate::ErrorKind::Cancelled) once `cancel` is.
    pub fn wait(
        &self,
        root: &Path,
        cancel: &Cancel,
        sleep: &mut dyn FnMut(Duration),
        tell: &mut dyn FnMut(&str),
    ) -> Result<Waited> {
        let mut seconds = 0;
        loop {
            cancel.check()?;
            let left = self.faults(&State::read(root));
            if left.is_empty() || seconds >= self.most_seconds {
                return Ok(Waited { seconds, left });
            }
            if seconds % TELL_EVERY_SECONDS == 0 {
                tell(&format!("waiting, {} s at most: {}", self.most_seconds - seconds, left.join("; ")));
            }
            sleep(Duration::from_secs(1));
            seconds += 1;
        }
    }

    fn faults(&self, state: &State) -> Vec<String> {
        let heat = state.hottest_celsius.zip(self.start_celsius).filter(|(now, start)| now > start);
        let heat = heat.map(|(now, start)| format!("it is at {now:.1} °C, and should be at {start:.1} °C"));
        let busy = state.cpu_pressure.filter(|share| *share > self.most_pressure);
        let busy = busy.map(|share| {
            let (now, most) = (100.0 * share, 100.0 * self.most_pressure);
            format!("tasks waited for a processor {now:.0} % of the last 10 s, and should {most:.0} % at most")
        });
        heat.into_iter().chain(busy).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::boards;

    const QUIET: Quiet = Quiet { start_celsius: Some(50.0), most_pressure: 0.1, most_seconds: 25 };
    const TEMPERATURE: &str = "sys/class/thermal/thermal_zone0/temp";

    /// Waits for a Raspberry Pi that is this hot after each second; the last value stays.
    fn waited(quiet: Quiet, millidegrees: &[u32]) -> (Waited, Vec<String>) {
        let board = boards::raspberry_pi_5();
        let mut later = millidegrees.iter();
        let mut next = || board.write(TEMPERATURE, &later.next().or(millidegrees.last()).unwrap().to_string());
        next();
        let mut lines = Vec::new();
        let mut sleep = |slept: Duration| {
            assert_eq!(slept.as_secs(), 1);
            next();
        };
        let waited = quiet.wait(board.root(), &Cancel::new(), &mut sleep, &mut |line| lines.push(line.to_owned()));
        (waited.unwrap(), lines)
    }

    #[test]
    fn it_waits_until_the_device_is_cool() {
        assert_eq!(waited(QUIET, &[49_000]), (Waited { seconds: 0, left: Vec::new() }, Vec::new()));
        let (after, lines) = waited(QUIET, &[61_000, 55_000, 50_000]);
        assert_eq!(after, Waited { seconds: 2, left: Vec::new() });
        assert_eq!(lines, ["waiting, 25 s at most: it is at 61.0 °C, and should be at 50.0 °C"]);
        let anyway = Quiet { start_celsius: None, ..QUIET };
        assert_eq!(waited(anyway, &[90_000]).0.seconds, 0);
    }

    #[test]
    fn it_waits_no_longer_than_it_may_and_says_what_is_left() {
        let (after, lines) = waited(QUIET, &[61_000]);
        assert_eq!(after.seconds, 25);
        assert_eq!(after.left, ["it is at 61.0 °C, and should be at 50.0 °C"]);
        assert_eq!(lines.len(), 3, "one line every ten seconds: {lines:?}");
        let (after, lines) = waited(Quiet { most_seconds: 0, ..QUIET }, &[61_000]);
        assert_eq!((after.seconds, after.left.len(), lines.len()), (0, 1, 0));
    }

    #[test]
    fn other_work_is_waited_for_too() {
        let board = boards::raspberry_pi_5();
        board.write(TEMPERATURE, "40000");
        board.write("proc/pressure/cpu", "some avg10=42.00 avg60=0.00 avg300=0.00 total=1");
        let mut sleep = |_| board.write("proc/pressure/cpu", "some avg10=9.00 avg60=0.00 avg300=0.00 total=1");
        let mut lines = Vec::new();
        let waited = QUIET.wait(board.root(), &Cancel::new(), &mut sleep, &mut |line| lines.push(line.to_owned()));
        assert_eq!(waited.unwrap().seconds, 1);
        assert!(lines[0].ends_with("tasks waited for a processor 42 % of the last 10 s, and should 10 % at most"));
    }

    #[test]
    fn it_can_be_cancelled() {
        let board = boards::raspberry_pi_5();
        let cancel = Cancel::new();
        let mut sleep = |_| cancel.cancel();
        let error = QUIET.wait(board.root(), &cancel, &mut sleep, &mut |_| ()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Cancelled);
    }
}
