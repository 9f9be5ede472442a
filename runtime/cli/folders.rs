//! Where models and targets are looked for.

use std::path::{Path, PathBuf};

use safelight::machine::Choice;
use safelight::model::{find_model, list_models};
use safelight::target::{find_target, list_targets};
use safelight::{Error, ErrorKind, Machine, Model, Result, Target};

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

/// The models that requests can name.
pub(crate) fn all_models() -> Vec<PathBuf> {
    first_of_each("models", list_models)
}

/// The target files that requests can name.
pub(crate) fn all_targets() -> Vec<PathBuf> {
    first_of_each("targets", list_targets)
}

/// What is listed of each folder: of several with one name, the one in the first folder.
fn first_of_each(name: &str, list: fn(&[PathBuf]) -> Vec<PathBuf>) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in folders(name) {
        for path in list(&[folder]) {
            if !found.iter().any(|other| other.file_name() == path.file_name()) {
                found.push(path);
            }
        }
    }
    found
}

/// Opens a target file; what it extends lies beside it or in the targets' folders.
pub(crate) fn open_target(path: &Path) -> Result<Target> {
    Target::open_with(path, &folders("targets"))
}

/// The model of that name, or the only one that is here.
pub(crate) fn model(name: Option<&str>) -> Result<Model> {
    Model::open(&model_folder(name)?)
}

/// The folder of the model of that name, or of the only one that is here.
pub(crate) fn model_folder(name: Option<&str>) -> Result<PathBuf> {
    if let Some(name) = name {
        return find_model(name, &folders("models"));
    }
    match all_models().as_slice() {
        [only] => Ok(only.clone()),
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

/// The target of that name; for `auto` the one that fits this machine best, with lines that tell which and why.
pub(crate) fn target(name: &str) -> Result<(Target, Vec<String>)> {
    if name != Target::AUTO {
        return Ok((open_target(&find_target(name, &folders("targets"))?)?, Vec::new()));
    }
    let Detected { machine, targets, mut warnings } = detect();
    let Some(Choice { target, reason }) = machine.best_target(&targets) else {
        let looked: Vec<_> = folders("targets").iter().map(|folder| folder.display().to_string()).collect();
        let what = format!("no target here fits this machine (looked in {})", looked.join(", "));
        return Err(Error::new(ErrorKind::Usage, format!("{what}; choose one with --target")));
    };
    warnings.push(format!("target {}, chosen for: {reason}", target.name));
    Ok((target.clone().with_optional_providers(), warnings))
}

/// This machine, and the targets that are here.
pub(crate) struct Detected {
    pub(crate) machine: Machine,
    pub(crate) targets: Vec<Target>,
    /// A line for each target file that cannot be used, and so cannot be chosen.
    pub(crate) warnings: Vec<String>,
}

pub(crate) fn detect() -> Detected {
    let (mut targets, mut warnings) = (Vec::new(), Vec::new());
    for path in all_targets() {
        match open_target(&path) {
            Ok(target) => targets.push(target),
            Err(error) => warnings.push(format!("warning: {error}")),
        }
    }
    Detected { machine: Machine::read(Path::new("/")), targets, warnings }
}

/// A folder's or file's own name.
pub(crate) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().display().to_string()
}
