//! Checks of the folders that are written to.

use std::path::{Path, PathBuf};

use super::{Severity, Subject, Told, ok, told};

/// Endings of the providers' options that name a folder to write to.
const FOLDER_OPTIONS: &[&str] = &["cache_path", "cache_dir", "CacheDirectory"];

/// Whether the user's data folder and the target's cache folders can be written. One that is not there is tried where
/// it would be made.
pub(super) fn folders(subject: &Subject<'_>) -> Vec<Told> {
    let user = user_data(subject).map(|folder| ("the user's data folder".to_owned(), folder));
    let providers = subject.providers();
    let options = providers.iter().flat_map(|at| at.options.iter().map(|(key, value)| (at.name, key, value)));
    let caches = options
        .filter(|(_, key, _)| FOLDER_OPTIONS.iter().any(|ending| key.ends_with(ending)))
        .map(|(name, key, value)| (format!("{key} of {name}"), PathBuf::from(value.to_option())));
    let findings: Vec<_> =
        user.into_iter().chain(caches).map(|(what, folder)| writable(subject, &what, &folder)).collect();
    super::or_ok(findings, "no folder is written to")
}

pub(super) fn writable(subject: &Subject<'_>, what: &str, folder: &Path) -> Told {
    let exists = |folder: &&Path| folder.as_os_str().is_empty() || subject.at(folder).exists();
    let nearest = folder.ancestors().find(exists).unwrap_or(folder);
    let nearest = if nearest.as_os_str().is_empty() { Path::new(".") } else { nearest };
    match tempfile::tempfile_in(subject.at(nearest)) {
        Ok(_) => ok(format!("{what}, {}, can be written", folder.display())),
        Err(error) => {
            let evidence = format!("{what}, {}, cannot be written: {error}", folder.display());
            told(Severity::Warning, evidence, "give yourself the right to write there, or choose another folder")
        }
    }
}

fn user_data(subject: &Subject<'_>) -> Option<PathBuf> {
    let home = |rest: &str| subject.folder("HOME").map(|home| home.join(rest));
    let folder = if cfg!(target_os = "macos") {
        home("Library/Application Support")
    } else if cfg!(windows) {
        subject.folder("LOCALAPPDATA")
    } else {
        subject.folder("XDG_DATA_HOME").or_else(|| home(".local/share"))
    };
    folder.map(|folder| folder.join("safelight"))
}
