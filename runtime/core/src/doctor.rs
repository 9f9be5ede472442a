//! A machine, a library, a target and a model → what stands in the way of them working together, and what to do.
//!
//! Every file is read below a root and every variable through a function, so that each finding has a test that
//! provokes it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::library::Search;
use crate::provider::{Need, Provider, ProviderName};
use crate::root::Root;
use crate::{Error, ErrorKind, Machine, Model, Stage, Target};

mod cache;
mod elf;
mod gpu;
mod library;
mod loader;
mod model;
mod platform;
mod probe;
mod storage;

/// What is examined.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The folder that stands for `/`.
    pub root: &'a Path,
    /// Reads an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// Tells how many bytes are free where a folder is.
    pub free_bytes: &'a dyn Fn(&Path) -> Option<u64>,
    /// What [`Library::search`](crate::Library::search) came upon.
    pub library: &'a Search,
    /// The targets that are here, for recognising the machine.
    pub targets: &'a [Target],
    /// The target to run on, or why it cannot be used.
    pub target: Result<&'a Target, &'a Error>,
    /// The model to run, or why it cannot be used; nothing where none was asked for.
    pub model: Option<Result<&'a Model, &'a Error>>,
    /// How closely the model's files are looked at.
    pub depth: Depth,
}

/// How closely files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Lengths only.
    Lengths,
    /// Every byte, where a hash is promised.
    Hashes,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check, from [`checks`].
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen, and where.
    pub evidence: String,
    /// What to do; empty where all is well.
    pub advice: String,
    /// Whose fault it is where it is a problem.
    #[serde(skip)]
    pub kind: ErrorKind,
}

/// How bad a finding is; a worse one compares greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be, or not asked for on this machine.
    Ok,
    /// Worth knowing.
    Note,
    /// It works, but slower, or not for long.
    Warning,
    /// It does not work.
    Problem,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// One row of the table of checks.
struct Check {
    name: &'static str,
    what: &'static str,
    kind: ErrorKind,
    run: fn(&Subject<'_>) -> Vec<Told>,
}

/// Every check, in the order in which their findings are told.
#[rustfmt::skip]
const CHECKS: &[Check] = &[
    Check { name: "machine", what: "a target here is made for this machine", kind: ErrorKind::Usage, run: platform::machine },
    Check { name: "target", what: "the target can be used, and is made for this machine", kind: ErrorKind::Usage, run: platform::target },
    Check { name: "library", what: "an ONNX Runtime can be opened, and why others cannot", kind: ErrorKind::Library, run: library::library },
    Check { name: "shadowed", what: "there is one ONNX Runtime on the search path", kind: ErrorKind::Library, run: library::shadowed },
    Check { name: "variable", what: "ORT_DYLIB_PATH leads somewhere", kind: ErrorKind::Library, run: library::variable },
    Check { name: "glibc", what: "the C library is new enough for ONNX Runtime", kind: ErrorKind::Library, run: loader::glibc },
    Check { name: "providers", what: "the library has the target's providers", kind: ErrorKind::Library, run: library::providers },
    Check { name: "companions", what: "what the providers' own libraries need is there, in the right version", kind: ErrorKind::Library, run: loader::companions },
    Check { name: "gpu", what: "providers of NVIDIA find a device, and a driver that is new enough", kind: ErrorKind::Library, run: gpu::gpu },
    Check { name: "telemetry", what: "ONNX Runtime's telemetry is off", kind: ErrorKind::Library, run: library::telemetry },
    Check { name: "files", what: "the model's files are what was promised (--deep: by their hashes)", kind: ErrorKind::Model, run: model::files },
    Check { name: "precision", what: "model and target have a precision in common", kind: ErrorKind::Model, run: model::precision },
    Check { name: "memory", what: "the model's graphs fit into memory and the target's limits", kind: ErrorKind::Limit, run: model::memory },
    Check { name: "swap", what: "nothing is swapped out", kind: ErrorKind::Limit, run: platform::swap },
    Check { name: "power", what: "a Jetson is in its fastest power mode", kind: ErrorKind::Limit, run: platform::power },
    Check { name: "throttled", what: "a Raspberry Pi has enough voltage and is not slowed down", kind: ErrorKind::Limit, run: platform::throttled },
    Check { name: "thermal", what: "no thermal zone is at a trip point", kind: ErrorKind::Limit, run: platform::thermal },
    Check { name: "governor", what: "the processor's clock is not held down", kind: ErrorKind::Limit, run: platform::governor },
    Check { name: "load", what: "nothing else keeps the processor busy", kind: ErrorKind::Limit, run: platform::load },
    Check { name: "cache", what: "the target's cache can be written, has room, and holds what can be used here", kind: ErrorKind::Io, run: cache::cache },
    Check { name: "probe", what: "graphs are tried in a process of their own before they are opened first", kind: ErrorKind::Io, run: probe::probe },
    Check { name: "storage", what: "the user's data folder and the providers' caches can be written", kind: ErrorKind::Io, run: storage::folders },
];

/// Names of all checks, and what each makes sure of.
pub fn checks() -> impl Iterator<Item = (&'static str, &'static str)> {
    CHECKS.iter().map(|check| (check.name, check.what))
}

/// Runs every check. Nothing that is found is an error, and every check tells something, if only that all is well.
///
/// Writes nothing that stays: whether a folder can be written is tried with a file without a name. Reads files below
/// [`Subject::root`], the library's files and the model's; only [`Depth::Hashes`] reads the model's whole.
pub fn examine(subject: &Subject<'_>) -> Vec<Finding> {
    let run = |check: &'static Check| {
        let told = (check.run)(subject).into_iter();
        told.map(|Told { severity, evidence, advice, kind }| Finding {
            check: check.name,
            severity,
            evidence,
            advice,
            kind: kind.unwrap_or(check.kind),
        })
    };
    CHECKS.iter().flat_map(run).collect()
}

/// The kind of the first problem; nothing where there is none.
pub fn worst_kind(findings: &[Finding]) -> Option<ErrorKind> {
    findings.iter().find(|finding| finding.severity == Severity::Problem).map(|finding| finding.kind)
}

/// A finding before its check's name is known.
#[derive(Debug)]
struct Told {
    severity: Severity,
    evidence: String,
    advice: String,
    /// Where it is not the check's own.
    kind: Option<ErrorKind>,
}

fn told(severity: Severity, evidence: impl Into<String>, advice: impl Into<String>) -> Told {
    Told { severity, evidence: evidence.into(), advice: advice.into(), kind: None }
}

fn ok(evidence: impl Into<String>) -> Told {
    told(Severity::Ok, evidence, "")
}

/// What a check says that found nothing else.
fn or_ok(found: Vec<Told>, evidence: impl Into<String>) -> Vec<Told> {
    if found.is_empty() { vec![ok(evidence)] } else { found }
}

impl<'a> Subject<'a> {
    fn files(&self) -> Root<'a> {
        Root(self.root)
    }

    /// A path of the machine, below the root; one that is not absolute is as it is.
    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.files().at(path)
    }

    /// A file of the machine, without spaces around it; nothing where it cannot be read.
    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        self.files().text(path)
    }

    /// Entries of a folder of the machine whose names begin with `prefix`, by name, as paths of the machine.
    fn list(&self, folder: impl AsRef<Path>, prefix: &str) -> Vec<PathBuf> {
        self.files().list(folder, prefix)
    }

    fn machine(&self) -> Machine {
        Machine::read(self.root)
    }

    /// A folder that a variable names; nothing where it is not set, or empty.
    fn folder(&self, variable: &str) -> Option<PathBuf> {
        (self.variable)(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// Target and model, where both can be used.
    fn pair(&self) -> Option<(&'a Target, &'a Model)> {
        self.target.ok().zip(self.model.and_then(Result::ok))
    }

    /// The target's providers over all stages but the CPU: of one that several stages name, the strictest need.
    fn providers(&self) -> Vec<Provider> {
        let mut found: BTreeMap<&str, Provider> = BTreeMap::new();
        let stages = self.target.ok().into_iter().flat_map(|target| Stage::TEXT_TO_IMAGE.map(|at| target.stage(at)));
        for provider in stages.flat_map(|settings| settings.providers).filter(|at| at.name != ProviderName::CPU) {
            let need = provider.need;
            let entry = found.entry(provider.name.as_str()).or_insert(provider);
            if need == Need::Required {
                entry.need = need;
            }
        }
        found.into_values().collect()
    }
}

/// Bytes for people.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
