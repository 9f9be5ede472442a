//! `--prompts FILE`: one prompt a line.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use safelight::{Error, ErrorKind, Result};

const MOST_BYTES: u64 = 1 << 20;
const MOST_PROMPTS: usize = 10_000;

/// The lines of a file, or of standard input for `-`, without empty ones.
///
/// # Errors
/// [`ErrorKind::Io`] where it cannot be read or is not text, [`ErrorKind::Limit`] where it is longer than 1 MiB
/// or holds more than 10,000 prompts, [`ErrorKind::Usage`] where it holds none.
pub(crate) fn read(path: &Path) -> Result<Vec<String>> {
    let told = |kind, what: String| Error::new(kind, format!("--prompts {}: {what}", path.display()));
    let source: std::io::Result<Box<dyn Read>> = match path.as_os_str() == "-" {
        true => Ok(Box::new(std::io::stdin())),
        false => File::open(path).map(|file| Box::new(file) as _),
    };
    let mut bytes = Vec::new();
    source
        .and_then(|source| source.take(MOST_BYTES + 1).read_to_end(&mut bytes))
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
