//! `--prompts FILE`: one prompt a line, of a file as a whole, of standard input as they come.

use std::fs::File;
use std::io::{self, BufRead, Read as _};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use safelight::{Cancel, Error, ErrorKind, Result};

const MOST_BYTES: u64 = 1 << 20;
const MOST_PROMPTS: usize = 10_000;

/// The lines of a file, without empty ones.
///
/// # Errors
/// [`ErrorKind::Io`] where it cannot be read or is not text, [`ErrorKind::Limit`] where it is longer than 1 MiB
/// or holds more than 10,000 prompts, [`ErrorKind::Usage`] where it holds none.
pub(crate) fn read(path: &Path) -> Result<Vec<String>> {
    let told = |kind, what: String| Error::new(kind, format!("--prompts {}: {what}", path.display()));
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| told(ErrorKind::Io, format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(told(ErrorKind::Limit, format!("is longer than {MOST_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|e| told(ErrorKind::Io, format!("is not UTF-8 text: {e}")))?;
    let prompts: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    match prompts.len() {
        0 => Err(told(ErrorKind::Usage, "holds no prompt; write one a line".into())),
        1..=MOST_PROMPTS => Ok(prompts),
        many => Err(told(ErrorKind::Limit, format!("holds {many} prompts, expected at most {MOST_PROMPTS}"))),
    }
}

/// How often it is looked whether the caller has cancelled.
const PATIENCE: Duration = Duration::from_millis(25);

/// The lines of standard input, each as soon as it is there, without empty ones.
pub(crate) struct Lines(Receiver<Result<String>>);

impl Lines {
    /// Begins to read.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] where no thread can be started for it.
    pub(crate) fn read() -> Result<Self> {
        // One line ahead: whoever writes faster than pictures are made waits.
        let (sender, lines) = mpsc::sync_channel(1);
        let read = move || {
            let mut input = io::stdin().lock();
            while let Some(line) = next(&mut input) {
                let is_last = line.as_ref().is_err_and(|e| e.kind() == ErrorKind::Io);
                if sender.send(line).is_err() || is_last {
                    return;
                }
            }
        };
        let reader = std::thread::Builder::new().spawn(read);
        let told = |e| Error::new(ErrorKind::Limit, format!("--prompts -: a thread cannot be started to read it: {e}"));
        reader.map(|_| Self(lines)).map_err(told)
    }

    /// Waits for the next line; nothing where there are no more, and an error within where it is none that could be used.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`].
    pub(crate) fn next(&self, cancel: &Cancel) -> Result<Option<Result<String>>> {
        loop {
            cancel.check()?;
            match self.0.recv_timeout(PATIENCE) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }
}

/// The next line that is not empty: [`ErrorKind::Io`] where it cannot be read, [`ErrorKind::Usage`] where it is not text,
/// [`ErrorKind::Limit`] where it is longer than 1 MiB, all of which is passed over.
fn next(input: &mut impl BufRead) -> Option<Result<String>> {
    let told = |kind, what: String| Some(Err(Error::new(kind, format!("--prompts -: {what}"))));
    loop {
        let mut bytes = Vec::new();
        match input.by_ref().take(MOST_BYTES).read_until(b'\n', &mut bytes) {
            Ok(0) => return None,
            Ok(_) if bytes.len() as u64 == MOST_BYTES && !bytes.ends_with(b"\n") => {
                return match input.skip_until(b'\n') {
                    Ok(_) => told(ErrorKind::Limit, format!("a line is longer than {MOST_BYTES} bytes")),
                    Err(e) => told(ErrorKind::Io, format!("cannot be read: {e}")),
                };
            }
            Ok(_) => (),
            Err(e) => return told(ErrorKind::Io, format!("cannot be read: {e}")),
        }
        match String::from_utf8(bytes) {
            Ok(line) if line.trim().is_empty() => (),
            Ok(line) => return Some(Ok(line.trim().to_owned())),
            Err(e) => return told(ErrorKind::Usage, format!("a line is not UTF-8 text: {e}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_one_by_one_and_what_is_none_is_told_in_its_place() {
        let long = "x".repeat(MOST_BYTES as usize);
        let text = [b"\n a red apple \r\n\na\xff\n", long.as_bytes(), b"y\n\tthe last"].concat();
        let mut input = text.as_slice();
        let found: Vec<_> = std::iter::from_fn(|| next(&mut input)).map(|line| line.map_err(|e| e.kind())).collect();
        let expected = [Ok("a red apple".into()), Err(ErrorKind::Usage), Err(ErrorKind::Limit), Ok("the last".into())];
        assert_eq!(found, expected);
    }
}
