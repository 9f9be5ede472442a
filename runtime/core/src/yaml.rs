//! Reading the small YAML files that describe targets and models, which may come from strangers.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, ErrorKind, Result};

/// Largest description that is read; nested brackets make YAML parsers quadratic, so this stays small.
const MAX_YAML_BYTES: u64 = 64 * 1024;

/// Parses a file into `T`, refusing unknown fields where `T` does; faults are of `kind`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, kind: ErrorKind) -> Result<T> {
    let fault = |what: String| Error::new(kind, format!("{}: {what}", path.display()));
    let length = std::fs::metadata(path).map_err(|e| fault(format!("cannot be read: {e}")).because(e))?.len();
    if length > MAX_YAML_BYTES {
        return Err(fault(format!("is {length} bytes, expected at most {MAX_YAML_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| fault(format!("cannot be read: {e}")).because(e))?;
    parse(&text).map_err(|e| fault(e.to_string()).because(e))
}

/// Parses YAML text into `T`.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, serde_yaml::Error> {
    serde_yaml::from_str(text)
}
