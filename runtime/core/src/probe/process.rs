//! Starting a probe process, listening to it, and ending it.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::child::{Errand, Limits, Line, Step, Told};
use crate::cancel::Cancel;
use crate::{Error, ErrorKind, Result};

/// How a probe process ended.
pub(super) enum End {
    /// It told what became of the graph.
    Told(Told),
    /// It was still busy with a step when its time was over.
    TooLong(Step),
    /// It died in a step: of which signal or with which exit code, and what it wrote last, as `; its last words: …`.
    Died { step: Step, how: String, words: String },
}

/// How often it is looked whether the caller has cancelled.
const PATIENCE: Duration = Duration::from_millis(25);

/// After how long it is told that a process is waited for.
const LONG: Duration = Duration::from_secs(2);

/// Tries an errand in a process of its own; calls `waiting` once where that takes long.
///
/// # Errors
/// [`ErrorKind::Io`] where it cannot be started, [`ErrorKind::Cancelled`].
pub(super) fn run(
    program: &Path,
    errand: &Errand,
    (limits, cancel): (Limits, &Cancel),
    waiting: &dyn Fn(),
) -> Result<End> {
    let mut text = serde_json::to_string(errand)
        .map_err(|e| Error::new(ErrorKind::Internal, format!("what a probe process is to try: {e}")))?;
    text.push('\n');
    let mut running = Running::start(program, limits)?;
    let start = Instant::now();
    let deadline = start + Duration::from_secs(limits.max_seconds);
    let mut is_told = false;
    // A process that has died already is told below. The pipe stays open: its end would end the process.
    let stdin = running.0.stdin.as_mut();
    let _ = stdin.map_or(Ok(()), |pipe| pipe.write_all(text.as_bytes()).and_then(|()| pipe.flush()));
    let words = running.0.stderr.take().map(last_words);
    let lines = lines(running.0.stdout.take());
    let mut step = Step::Starting;
    loop {
        cancel.check()?;
        match lines.recv_timeout(PATIENCE) {
            Ok(Line::Begins(next)) => step = next,
            Ok(Line::Ends(told)) => return Ok(End::Told(told)),
            Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => return Ok(End::TooLong(step)),
            Err(RecvTimeoutError::Timeout) if !is_told && start.elapsed() >= LONG => {
                is_told = true;
                waiting();
            }
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // It has closed its output: it is dead, or as good as that.
    let Some(status) = running.wait(deadline, cancel)? else { return Ok(End::TooLong(step)) };
    drop(running);
    let words = words.and_then(|words| words.join().ok()).unwrap_or_default();
    Ok(End::Died { step, how: describe(status), words })
}

/// A process that does not outlive this.
struct Running(Child);

impl Running {
    fn start(program: &Path, limits: Limits) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("probe-graph").arg("--max-seconds").arg(limits.max_seconds.to_string());
        if let Some(bytes) = limits.max_bytes {
            command.arg("--max-bytes").arg(bytes.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: what is typed to interrupt this process is this process's to pass on.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(|e| {
            let what = format!("the probe process {} cannot be started: {e}", program.display());
            Error::io(format!("{what}; give the path of a safelight executable, or --no-probe")).because(e)
        })?;
        Ok(Self(child))
    }

    /// How it ended; nothing where it has not until the deadline.
    fn wait(&mut self, deadline: Instant, cancel: &Cancel) -> Result<Option<ExitStatus>> {
        loop {
            cancel.check()?;
            match self.0.try_wait() {
                Ok(Some(status)) => return Ok(Some(status)),
                Ok(None) if Instant::now() >= deadline => return Ok(None),
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                Err(e) => return Err(Error::io(format!("the probe process cannot be waited for: {e}"))),
            }
        }
    }
}

impl Drop for Running {
    /// Ends it and whatever it has started, and takes it out of the system's table.
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        #[cfg(unix)]
        if let Some(group) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Longest line that is understood, in bytes; a longer one is none of the probe's.
const MAX_LINE: u64 = 64 << 10;

/// What it tells, as it comes; what the library or a driver may print between is passed over.
fn lines(pipe: Option<impl Read + Send + 'static>) -> Receiver<Line> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let (Some(pipe), mut text) = (pipe, Vec::new()) else { return };
        let mut pipe = BufReader::new(pipe);
        while pipe.by_ref().take(MAX_LINE).read_until(b'\n', &mut text).is_ok_and(|bytes| bytes > 0) {
            if serde_json::from_slice(&text).is_ok_and(|line| sender.send(line).is_err()) {
                return;
            }
            text.clear();
        }
    });
    lines
}

/// Most bytes of its complaints that are kept.
const MAX_WORDS: usize = 4 << 10;

/// Most characters of its last words that are quoted.
const MAX_QUOTED: usize = 200;

/// The last line that it complains in, as the end of a message; nothing where it died in silence. Everything is read, so
/// that it never waits for a reader.
fn last_words(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut kept, mut chunk) = (Vec::new(), [0; MAX_WORDS]);
        while let Ok(bytes @ 1..) = pipe.read(&mut chunk) {
            kept.extend_from_slice(&chunk[..bytes]);
            kept.drain(..kept.len().saturating_sub(MAX_WORDS));
        }
        let text = String::from_utf8_lossy(&kept);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let words: String = last.chars().take(MAX_QUOTED).map(plain).collect();
        if words.is_empty() { words } else { format!("; its last words: {words}") }
    })
}

/// A signal by its name, or an exit code.
fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let known = SIGNALS.iter().find(|(number, _)| *number == signal);
        return known.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned());
    }
    match status.code() {
        // What Windows calls exceptions are large.
        Some(code) if !(0..=255).contains(&code) => format!("exit code {:#x}", code.cast_unsigned()),
        Some(code) => format!("exit code {code}"),
        None => status.to_string(),
    }
}

/// Signals that end a process by its own fault, or by the system's hand.
#[cfg(unix)]
const SIGNALS: [(i32, &str); 8] = {
    use rustix::process::Signal as S;
    [
        (S::SEGV.as_raw(), "SIGSEGV"),
        (S::ABORT.as_raw(), "SIGABRT"),
        (S::FPE.as_raw(), "SIGFPE"),
        (S::BUS.as_raw(), "SIGBUS"),
        (S::ILL.as_raw(), "SIGILL"),
        (S::KILL.as_raw(), "SIGKILL"),
        (S::XCPU.as_raw(), "SIGXCPU"),
        (S::TRAP.as_raw(), "SIGTRAP"),
    ]
};
