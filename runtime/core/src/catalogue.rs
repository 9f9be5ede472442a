//! Models and targets by name, in the folders where they are kept.

use std::path::{Path, PathBuf};

use crate::error::unknown;

/// Every entry of the given folders that `is_one`, sorted; folders that are not there count as empty.
pub(crate) fn list(folders: &[PathBuf], is_one: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let mut found: Vec<_> = entries.map(|entry| entry.path()).filter(|path| is_one(path)).collect();
    found.sort();
    found
}

/// What to say of a name that no folder has: the names that they have, and which folders they are.
pub(crate) fn missing(what: &str, name: &str, known: impl Iterator<Item = String>, folders: &[PathBuf]) -> String {
    let looked: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
    format!("{} (looked in {})", unknown(what, name, known), looked.join(", "))
}
