//! What else kept a machine busy between two moments.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Contention;
use super::busy::{Jiffies, waited_micros};
use crate::root::Root;

/// Shortest time of which shares are told: Linux counts in hundredths of a second.
const LEAST: Duration = Duration::from_secs(1);

/// A stretch of time that has begun.
///
/// In a container `/proc/stat` is the host's: shares are of all the host's processors, and others are all that run there.
#[derive(Debug, Clone)]
pub struct Watch {
    root: PathBuf,
    pids: Vec<u32>,
    began: Instant,
    before: Counters,
}

impl Watch {
    /// Begins. `pids` are the processes that are measured; this one is not an other either, and need not be among them.
    /// Children that they have waited for are theirs; such as run still are others.
    pub fn begin(root: &Path, pids: &[u32]) -> Self {
        let before = Counters::read(Root(root), pids);
        Self { root: root.to_path_buf(), pids: pids.to_vec(), began: Instant::now(), before }
    }

    /// Ends. Shares of less than a second are absent, and so is what the system does not tell, or tells no more because
    /// a process that is measured has ended.
    pub fn end(self) -> Contention {
        let after = Counters::read(Root(&self.root), &self.pids);
        self.before.until(&after, self.began.elapsed())
    }
}

/// Counters that only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counters {
    all: Option<Jiffies>,
    own: Option<u64>,
    cpu_waited_micros: Option<u64>,
    memory_waited_micros: Option<u64>,
    swapped_pages: Option<u64>,
    switches: Option<u64>,
}

impl Counters {
    fn read(root: Root<'_>, pids: &[u32]) -> Self {
        let waited = |resource| waited_micros(&root.text(format!("/proc/pressure/{resource}"))?);
        let this = std::process::id();
        // This process is under a folder of a test never; under / it always is.
        let others_than_this = pids.iter().filter(|pid| **pid != this);
        let measured: Option<u64> = others_than_this.map(|pid| worked(root, *pid)).sum();
        Self {
            all: root.text("/proc/stat").and_then(|text| Jiffies::parse(&text)),
            own: measured.map(|jiffies| jiffies + worked(root, this).unwrap_or(0)),
            cpu_waited_micros: waited("cpu"),
            memory_waited_micros: waited("memory"),
            swapped_pages: root.text("/proc/vmstat").and_then(|text| swapped_pages(&text)),
            switches: pids.iter().map(|pid| switches(root, *pid)).sum(),
        }
    }

    fn until(&self, after: &Self, passed: Duration) -> Contention {
        let is_long = passed >= LEAST;
        let grown = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?));
        let jiffies = self.all.zip(after.all).map(|(before, after)| after.since(before));
        let jiffies = jiffies.filter(|passed| is_long && passed.all > 0);
        let own = grown(self.own, after.own);
        let share = |before, after| {
            let waited = grown(before, after).filter(|_| is_long)? as f64;
            Some((waited / passed.as_micros() as f64).min(1.0))
        };
        Contention {
            others: jiffies.zip(own).map(|(all, own)| all.busy.saturating_sub(own) as f64 / all.all as f64),
            stolen: jiffies.map(|all| all.stolen as f64 / all.all as f64),
            cpu_pressure: share(self.cpu_waited_micros, after.cpu_waited_micros),
            memory_pressure: share(self.memory_waited_micros, after.memory_waited_micros),
            swapped_bytes: grown(self.swapped_pages, after.swapped_pages).map(|pages| pages * page_bytes()),
            involuntary_switches: grown(self.switches, after.switches),
        }
    }
}

/// Jiffies that a process and the children that it has waited for worked (`proc_pid_stat(5)`, fields 14 to 17).
fn worked(root: Root<'_>, pid: u32) -> Option<u64> {
    let stat = root.text(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces and parentheses.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let words = after_name.split_whitespace().skip(11).take(4);
    let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
    (numbers.len() == 4).then(|| numbers.iter().sum())
}

/// How often threads of a process had to leave a processor to another.
fn switches(root: Root<'_>, pid: u32) -> Option<u64> {
    let threads = root.list(format!("/proc/{pid}/task"), "");
    let of_thread = |thread: &PathBuf| {
        let status = root.text(thread.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    // A thread that ends meanwhile tells nothing.
    let told: Vec<_> = threads.iter().filter_map(of_thread).collect();
    (!told.is_empty()).then(|| told.iter().sum())
}

/// Linux counts what is swapped in pages; those of a Raspberry Pi 5 have 16 KiB.
#[cfg(unix)]
fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// Nothing is counted here.
#[cfg(not(unix))]
fn page_bytes() -> u64 {
    0
}

fn swapped_pages(vmstat: &str) -> Option<u64> {
    let field = |name: &str| {
        vmstat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
    };
    Some(field("pswpin")? + field("pswpout")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::boards::{Board, LINUX};

    const PID: u32 = u32::MAX;

    fn stat(jiffies: [u64; 4]) -> String {
        let [user, system, waited_user, waited_system] = jiffies;
        format!(
            "{PID} (safe (light) x) S 1 1 1 0 -1 4194304 9 9 9 9 {user} {system} {waited_user} {waited_system} 20 0 1 0"
        )
    }

    fn machine(stat_line: &str, own: [u64; 4], switches: u64, micros: u64) -> Board {
        let board = Board::new(&[LINUX]);
        board.write("proc/stat", stat_line);
        board.write(&format!("proc/{PID}/stat"), &stat(own));
        for (thread, switches) in [("1", switches), ("2", 5)] {
            board.write(
                &format!("proc/{PID}/task/{thread}/status"),
                &format!("Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t{switches}"),
            );
        }
        board.write("proc/pressure/cpu", &format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={micros}"));
        board.write("proc/vmstat", &format!("pswpin {micros}\npswpout 1"));
        board
    }

    /// What passed between two moments of a machine, in a second.
    fn passed(before: &Board, after: &Board, millis: u64) -> Contention {
        let counters = |board: &Board| Counters::read(Root(board.root()), &[PID]);
        counters(before).until(&counters(after), Duration::from_millis(millis))
    }

    #[test]
    fn others_are_what_the_measured_process_did_not_use() {
        let before = machine("cpu  100 0 20 1000 5 1 2 3 9 9", [10, 5, 0, 0], 7, 1000);
        // 200 jiffies: 120 busy, of which 90 our own and our child's; 20 stolen.
        let after = machine("cpu  200 10 25 1050 15 3 5 23 9 9", [70, 15, 15, 5], 10, 251_000);
        let told = passed(&before, &after, 1000);
        assert_eq!((told.others, told.stolen, told.cpu_pressure), (Some(0.15), Some(0.1), Some(0.25)));
        assert_eq!((told.memory_pressure, told.swapped_bytes), (Some(0.0), Some(250_000 * page_bytes())));
        assert_eq!(told.involuntary_switches, Some(3));
    }

    #[test]
    fn others_are_never_negative_and_short_times_have_no_shares() {
        let before = machine("cpu  100 0 20 1000 5 1 2 3 9 9", [10, 5, 0, 0], 7, 1000);
        let after = machine("cpu  150 0 20 1050 5 1 2 3 9 9", [64, 5, 0, 0], 7, 1000);
        assert_eq!(passed(&before, &after, 1000).others, Some(0.0));
        let short = passed(&before, &after, 999);
        assert_eq!((short.others, short.stolen, short.cpu_pressure), (None, None, None));
        assert_eq!(short.involuntary_switches, Some(0));
    }

    #[test]
    fn a_process_that_has_ended_makes_others_unknown() {
        let before = machine("cpu  100 0 20 1000 5 1 2 3 9 9", [10, 5, 0, 0], 7, 1000);
        let after = Board::new(&[LINUX]);
        after.write("proc/stat", "cpu  150 0 20 1050 5 1 2 3 9 9");
        let told = passed(&before, &after, 1000);
        assert_eq!((told.others, told.involuntary_switches), (None, None));
        assert!(told.stolen.is_some());
        assert_eq!(passed(&Board::new(&[]), &Board::new(&[]), 1000), Contention::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_tells_of_itself() {
        let watch = Watch::begin("/".as_ref(), &[std::process::id()]);
        let until = Instant::now() + Duration::from_millis(1100);
        while Instant::now() < until {
            std::hint::black_box(0);
        }
        let told = watch.end();
        assert!(told.others.is_some_and(|share| (0.0..=1.0).contains(&share)), "{told:?}");
        assert!(told.involuntary_switches.is_some(), "{told:?}");
    }
}
