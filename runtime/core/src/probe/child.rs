//! The probe process: opens one graph, runs it once on zeros, and tells how far it came, a line of JSON each time.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::graph::trial;
use crate::library::Library;
use crate::memory::Reading;
use crate::stage::Stage;
use crate::target::StageSettings;
use crate::{Error, ErrorKind, Result};

/// What a probe process may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Seconds that it may run, and that each of its cores may be busy.
    pub max_seconds: u64,
    /// Bytes of memory of its own, without pages of files; enforced by Linux alone.
    pub max_bytes: Option<u64>,
}

/// What a probe process is told to try, on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Errand {
    pub(super) library: PathBuf,
    pub(super) stage: Stage,
    pub(super) graph: PathBuf,
    pub(super) settings: StageSettings,
    pub(super) fixed: Vec<(String, usize)>,
    pub(super) inputs: Vec<(String, Vec<usize>)>,
}

/// How far a probe process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    Starting,
    Library,
    Opening,
    Running,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "while the process started",
            Self::Library => "while the library was opened",
            Self::Opening => "while it was opened",
            Self::Running => "while it ran once, on zeros",
        })
    }
}

/// What a probe process tells, one a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// It begins with something.
    Begins(Step),
    /// It is done.
    Ends(Told),
}

/// What a probe process has found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) verdict: Verdict,
    pub(super) message: String,
    /// Most that was resident.
    pub(super) peak_bytes: Option<u64>,
}

/// What became of the graph in a process that survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// It was opened, and ran or was refused in good order when it ran.
    Passed,
    /// The library refused it in good order.
    Refused,
    /// The memory was not enough.
    Memory,
    /// The library could not be opened.
    Library,
    /// A provider could not be used.
    Provider,
}

/// Longest errand that is read, in bytes.
const MAX_ERRAND: u64 = 4 << 20;

/// Is a probe process: limits itself, reads what to try from standard input, and tells on standard output what becomes of
/// it. `safelight probe-graph` is nothing but this call.
///
/// # Errors
/// [`ErrorKind::Usage`] where nobody says what to try.
pub fn serve(limits: Limits) -> Result<()> {
    let mut input = BufReader::new(io::stdin());
    let mut line = String::new();
    let read = (&mut input).take(MAX_ERRAND).read_line(&mut line);
    read.map_err(|e| Error::usage(format!("standard input cannot be read: {e}")))?;
    let errand: Errand = serde_json::from_str(&line).map_err(|e| {
        Error::usage(format!(
            "standard input says nothing that could be tried ({e}); safelight starts this command itself"
        ))
    })?;
    // Whoever asked holds the other end: when it is gone, nobody waits for an answer.
    let watch = std::thread::Builder::new().spawn(move || {
        let _ = io::copy(&mut input, &mut io::sink());
        std::process::exit(8);
    });
    watch.map_err(|e| Error::limit(format!("the probe process cannot start a thread: {e}")))?;
    limit(limits);
    let (verdict, message) = attempt(&errand);
    say(&Line::Ends(Told { verdict, message, peak_bytes: Reading::now().map(|reading| reading.peak) }));
    Ok(())
}

/// Opens the graph, runs it, and gives it back: memory that was written over may be noticed only then.
fn attempt(errand: &Errand) -> (Verdict, String) {
    say(&Line::Begins(Step::Library));
    let library = match Library::open(Some(&errand.library)) {
        Ok(library) => library,
        Err(e) => return (Verdict::Library, e.to_string()),
    };
    say(&Line::Begins(Step::Opening));
    let opened = trial::open(library, &errand.graph, &errand.settings, &errand.fixed);
    let mut session = match opened {
        Ok(session) => session,
        Err(e) => return (of_error(&e), e.to_string()),
    };
    say(&Line::Begins(Step::Running));
    let ran = trial::run(&mut session, errand.stage, &errand.inputs);
    drop(session);
    match ran {
        Err(e) if e.kind() == ErrorKind::Limit => (of_error(&e), e.to_string()),
        Err(e) => (Verdict::Passed, e.to_string()),
        Ok(()) => (Verdict::Passed, String::new()),
    }
}

fn of_error(error: &Error) -> Verdict {
    match error.kind() {
        ErrorKind::Model => Verdict::Refused,
        ErrorKind::Limit if error.is_of_threads() => Verdict::Library,
        ErrorKind::Limit => Verdict::Memory,
        _ => Verdict::Provider,
    }
}

/// Nobody to tell is no reason to stop: the other end of standard input says that.
fn say(line: &Line) {
    let Ok(text) = serde_json::to_string(line) else { return };
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Bounds what this process may take. A limit that the system does not know is one less; the parent watches the clock.
#[cfg(unix)]
fn limit(limits: Limits) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let most = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let _ = setrlimit(Resource::Core, most(0));
    let _ = setrlimit(Resource::Cpu, most(limits.max_seconds.saturating_mul(cores)));
    // What is the process's own. The space of addresses would count mapped weights, and what graphics drivers reserve
    // and never use.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(bytes) = limits.max_bytes {
        let _ = setrlimit(Resource::Data, most(bytes));
        // Where memory runs out nevertheless, this process is to end and no other.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
}

#[cfg(not(unix))]
fn limit(_: Limits) {}
