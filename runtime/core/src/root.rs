//! Files of a machine below a folder that stands for `/`: what reads a machine reads a folder in tests.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use crate::bounded::{self, Unread};

/// The folder that stands for `/`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root<'a>(pub(crate) &'a Path);

/// Longest file of a machine that is read; a `cpuinfo` of 512 cores has about 800 kB.
const MAX_BYTES: u64 = 4 << 20;

impl Root<'_> {
    /// A path of the machine, below the root; one that is not absolute is as it is.
    pub(crate) fn at(self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        path.strip_prefix("/").map_or_else(|_| path.to_path_buf(), |path| self.0.join(path))
    }

    /// A file of the machine, without spaces around it; nothing where it cannot be read.
    pub(crate) fn text(self, path: impl AsRef<Path>) -> Option<String> {
        self.try_text(path).ok()
    }

    /// The same, or why not, with the path.
    pub(crate) fn try_text(self, path: impl AsRef<Path>) -> Result<String, String> {
        let path = path.as_ref();
        match bounded::read(&self.at(path), MAX_BYTES) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(Unread::Failed(error)) => Err(unread(path, &error)),
            Err(error) => Err(format!("{} {error}", path.display())),
        }
    }

    /// The number that a file begins with.
    pub(crate) fn number(self, path: impl AsRef<Path>) -> Option<f64> {
        self.text(path)?.split_whitespace().next()?.parse().ok()
    }

    /// Entries of a folder of the machine whose names begin with `prefix`, as paths of the machine, by name: zone2 comes
    /// before zone10.
    pub(crate) fn list(self, folder: impl AsRef<Path>, prefix: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.at(&folder)).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name());
        let mut names: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with(prefix)).collect();
        names.sort_by_cached_key(|name| {
            let text = name.to_string_lossy();
            let stem = text.trim_end_matches(|c: char| c.is_ascii_digit());
            (stem.to_owned(), text[stem.len()..].parse::<u64>().ok(), name.clone())
        });
        names.into_iter().map(|name| folder.as_ref().join(name)).collect()
    }
}

/// Why a file cannot be read, and what to do about it.
pub(crate) fn unread(path: &Path, error: &Error) -> String {
    let path = path.display();
    match error.kind() {
        ErrorKind::NotFound => format!("{path}: not there"),
        ErrorKind::PermissionDenied => {
            format!("{path}: permission denied; run as root, or let others read it: sudo chmod a+r {path}")
        }
        _ => format!("{path}: {error}"),
    }
}
