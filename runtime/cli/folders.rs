//! Where models and targets are looked for.

use std::path::{Path, PathBuf};

use safelight::model::{find_model, list_models};
use safelight::target::{find_target, list_targets};
use safelight::{Error, ErrorKind, Model, Result, Target};

/// `NAME` in `$SAFELIGHT_HOME`, the current folder, beside the executable and in its `../share/safelight`; only where
/// none of them has it, in the project that the executable was built in.
fn folders(name: &str) -> Vec<PathBuf> {
    let home = std::env::var_os("SAFELIGHT_HOME").map(PathBuf::from);
    let executable = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.to_path_buf()));
    let shared = executable.as_ref().map(|folder| folder.join("../share/safelight"));
    let built = executable.as_ref().and_then(|folder| folder.parent()).filter(|folder| folder.ends_with("target"));
    let project = built.and_then(Path::parent).map(Path::to_path_buf);
    let mut found: Vec<PathBuf> = Vec::new();
    for root in home.into_iter().chain([PathBuf::new()]).chain(executable).chain(shared) {
        let folder = root.join(name);
        let same = |other: &PathBuf| other.canonicalize().ok() == folder.canonicalize().ok();
        if folder.is_dir() && !found.iter().any(same) {
            found.push(folder);
        }
    }
    if found.is_empty() {
        found.push(project.map(|root| root.join(name)).filter(|folder| folder.is_dir()).unwrap_or(PathBuf::from(name)));
    }
    found
}

pub(crate) fn all_models() -> Vec<PathBuf> {
    list_models(&folders("models"))
}

pub(crate) fn all_targets() -> Vec<PathBuf> {
    list_targets(&folders("targets"))
}

/// The model of that name, or the only one that is here.
pub(crate) fn model(name: Option<&str>) -> Result<Model> {
    if let Some(name) = name {
        return Model::open(&find_model(name, &folders("models"))?);
    }
    match all_models().as_slice() {
        [only] => Model::open(only),
        [] => Err(Error::new(
            ErrorKind::Model,
            "no model is here; give one with --model FOLDER, or stand where models/ is",
        )),
        several => {
            let names: Vec<_> =
                several.iter().filter_map(|path| Some(path.file_name()?.display().to_string())).collect();
            Err(Error::new(ErrorKind::Model, format!("choose one with --model: {}", names.join(", "))))
        }
    }
}

/// The target of that name, or the one for this processor.
pub(crate) fn target(name: Option<&str>) -> Result<Target> {
    let default = if cfg!(target_arch = "x86_64") { "x86-64" } else { "generic-cpu" };
    Target::open(&find_target(name.unwrap_or(default), &folders("targets"))?)
}

/// A folder's or file's own name.
pub(crate) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().display().to_string()
}
