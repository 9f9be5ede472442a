//! Reading text files that may come from strangers: never more than they may be.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// It has more bytes than this.
    TooLong(u64),
    /// It could not be opened or read.
    Failed(io::Error),
    /// It is not UTF-8.
    NotText(std::string::FromUtf8Error),
}

/// Reads a UTF-8 file of at most `most` bytes. The limit holds while reading: a device or a pipe has no length that
/// could be asked for.
pub(crate) fn read(path: &Path, most: u64) -> Result<String, Unread> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes)).map_err(Unread::Failed)?;
    if bytes.len() as u64 > most {
        return Err(Unread::TooLong(most));
    }
    String::from_utf8(bytes).map_err(Unread::NotText)
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(most) => write!(f, "is longer than {most} bytes"),
            Self::Failed(error) => write!(f, "cannot be read: {error}"),
            Self::NotText(error) => write!(f, "is not UTF-8 text: {error}"),
        }
    }
}

impl std::error::Error for Unread {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_be_as_long_as_the_limit_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read(&path, 4).unwrap(), "four");
        assert!(matches!(read(&path, 3), Err(Unread::TooLong(3))));
        assert!(matches!(read(folder.path(), 4), Err(Unread::Failed(_))));
        std::fs::write(&path, b"\xff").unwrap();
        assert!(matches!(read(&path, 4), Err(Unread::NotText(_))));
    }
}
