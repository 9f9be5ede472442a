//! Files that are opened once and read again and again, and sensors made of them.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use super::{Quantity, Sensor, Source};
use crate::root::{Root, unread};

/// Bytes of a file that are looked at: every value of `sysfs` is shorter, and so are the lines of `/proc` that count.
const BYTES: usize = 512;

/// A file that stays open.
#[derive(Debug)]
pub(super) struct Kept {
    file: File,
    bytes: [u8; BYTES],
}

impl Kept {
    /// Opens a file of the machine and reads it once, because some files open and then cannot be read.
    pub(super) fn open(root: Root<'_>, path: &Path) -> Result<Self, String> {
        let told = |error: Error| unread(path, &error);
        let mut kept = Self { file: File::open(root.at(path)).map_err(told)?, bytes: [0; BYTES] };
        kept.try_text().map_err(told)?;
        Ok(kept)
    }

    /// What it begins with now, without spaces around it.
    pub(super) fn text(&mut self) -> Option<&str> {
        self.try_text().ok()
    }

    /// The number that it begins with now.
    pub(super) fn number(&mut self) -> Option<f64> {
        self.text()?.split_whitespace().next()?.parse().ok()
    }

    fn try_text(&mut self) -> std::io::Result<&str> {
        let length = read_at_start(&self.file, &mut self.bytes)?;
        let text = std::str::from_utf8(&self.bytes[..length]);
        text.map(str::trim).map_err(|error| Error::new(ErrorKind::InvalidData, error))
    }
}

#[cfg(unix)]
fn read_at_start(file: &File, bytes: &mut [u8]) -> std::io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, 0)
}

#[cfg(windows)]
fn read_at_start(file: &File, bytes: &mut [u8]) -> std::io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, bytes, 0)
}

/// A sensor, or why it is not there.
pub(super) enum Found {
    /// It can be read.
    Here(Box<dyn Sensor>),
    /// It cannot.
    Absent(Source),
}

impl Found {
    /// A sensor that is not there, and why.
    pub(super) fn absent(source: Source, reason: impl Into<String>) -> Self {
        Self::Absent(Source { absent: Some(reason.into()), ..source })
    }

    /// A sensor that computes its value from a few files; one that cannot be read makes it absent.
    pub(super) fn files<F>(root: Root<'_>, source: Source, paths: &[PathBuf], value: F) -> Self
    where
        F: FnMut(&mut [Kept]) -> Option<f64> + Send + 'static,
    {
        let opened: Result<Vec<_>, _> = paths.iter().map(|path| Kept::open(root, path)).collect();
        match opened {
            Err(reason) => Self::absent(source, reason),
            Ok(files) => Self::Here(Box::new(Files { source, files, value })),
        }
    }

    /// A sensor that is one file's number times `scale`.
    pub(super) fn file(root: Root<'_>, source: Source, path: PathBuf, scale: f64) -> Self {
        Self::files(root, source, &[path], move |files| Some(files[0].number()? * scale))
    }
}

/// What is looked for.
pub(super) fn source(name: impl Into<String>, quantity: Quantity, covers: impl Into<String>) -> Source {
    Source { name: name.into(), quantity, covers: covers.into(), absent: None }
}

/// The last part of a path.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

struct Files<F> {
    source: Source,
    files: Vec<Kept>,
    value: F,
}

impl<F: FnMut(&mut [Kept]) -> Option<f64> + Send> Sensor for Files<F> {
    fn source(&self) -> &Source {
        &self.source
    }

    fn read(&mut self) -> Option<f64> {
        (self.value)(&mut self.files).filter(|value| value.is_finite())
    }
}
