//! Starting a probe process, listening to it, and ending it.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::child::{Errand, Limits, Line, Step, Told};
use crate::cancel::Cancel;
use crate::child::{Child, PATIENCE, advice, describe};
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
    let mut running = start(program, limits)?;
    let start = Instant::now();
    let deadline = start + Duration::from_secs(limits.max_seconds);
    let mut is_told = false;
    // A process that has died already is told below. The pipe stays open: its end would end the process.
    let mut input = running.input();
    let _ = input.as_mut().map_or(Ok(()), |pipe| pipe.write_all(text.as_bytes()).and_then(|()| pipe.flush()));
    let words = running.last_words()?;
    let lines = running.lines()?;
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

fn start(program: &Path, limits: Limits) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg("probe-graph").arg("--max-seconds").arg(limits.max_seconds.to_string());
    if let Some(bytes) = limits.max_bytes {
        command.arg("--max-bytes").arg(bytes.to_string());
    }
    Child::start(command).map_err(|e| {
        let what = format!("the probe process {} cannot be started: {e}", program.display());
        let advice = advice(&e).unwrap_or("give the path of a safelight executable, or --no-probe");
        Error::io(format!("{what}; {advice}")).because(e)
    })
}
