//! `safelight doctor`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use safelight::doctor::{Depth, Finding, Severity, Subject, checks, examine, worst_kind};
use safelight::{Error, Library, Target};
use serde_json::json;

use crate::folders::Detected;
use crate::{folders, print, tell};

#[derive(clap::Args)]
#[command(after_help = after_help())]
pub(crate) struct Arguments {
    /// Model: a name in models/, or a folder [default: the only one, if there is one]
    #[arg(short, long, value_name = "NAME|FOLDER")]
    model: Option<String>,
    /// Target: a name in targets/, a YAML file, or auto for the one that fits this machine best
    #[arg(short, long, value_name = "NAME|FILE", default_value = Target::AUTO)]
    target: String,
    /// Also read the model's files and compare their hashes
    #[arg(long)]
    deep: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// ONNX Runtime library to open, or a folder that holds it
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
}

/// The table of checks, and examples.
fn after_help() -> String {
    let checks = checks().fold(String::from("Checks:\n"), |mut text, (name, what)| {
        let _ = writeln!(text, "  {name:<12}{what}");
        text
    });
    format!(
        "{checks}\nExamples:\n  safelight doctor --target jetson-orin-nano\n  safelight doctor --deep --json > findings.json"
    )
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let library = Library::search(arguments.library.as_deref());
    let Detected { targets, .. } = folders::detect();
    let target = folders::target(&arguments.target).map(|(target, lines)| {
        lines.iter().for_each(|line| tell(line));
        target
    });
    let is_asked = arguments.model.is_some() || folders::all_models().len() == 1;
    let model = is_asked.then(|| folders::model(arguments.model.as_deref()));
    let findings = examine(&Subject {
        root: Path::new("/"),
        variable: &|name| std::env::var_os(name),
        free_bytes: &free_bytes,
        library: &library,
        targets: &targets,
        target: target.as_ref(),
        model: model.as_ref().map(Result::as_ref),
        depth: if arguments.deep { Depth::Hashes } else { Depth::Lengths },
    });
    if arguments.json {
        let worst = findings.iter().map(|finding| finding.severity).max();
        print(&serde_json::to_string_pretty(&json!({ "worst": worst, "findings": findings }))?)?;
    } else {
        print(&as_text(&findings))?;
    }
    let Some(kind) = worst_kind(&findings) else { return Ok(()) };
    let problems = findings.iter().filter(|finding| finding.severity == Severity::Problem);
    let mut names: Vec<_> = problems.map(|finding| finding.check).collect();
    let told = count(names.len(), "problem");
    names.dedup();
    Err(Error::new(kind, format!("{told} found: {}", names.join(", "))).into())
}

/// Bytes that are free where a folder is, for whoever is not root.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    let told = rustix::fs::statvfs(folder).ok()?;
    told.f_bavail.checked_mul(told.f_frsize)
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

/// Findings by how bad they are, the worst first.
fn as_text(findings: &[Finding]) -> String {
    let groups = [
        (Severity::Problem, "problem"),
        (Severity::Warning, "warning"),
        (Severity::Note, "note"),
        (Severity::Ok, "ok"),
    ];
    let mut text = String::new();
    for (severity, name) in groups {
        let group: Vec<_> = findings.iter().filter(|finding| finding.severity == severity).collect();
        if group.is_empty() {
            continue;
        }
        let title = if severity == Severity::Ok { format!("{} ok", group.len()) } else { count(group.len(), name) };
        let _ = writeln!(text, "{title}");
        for Finding { check, evidence, advice, .. } in group {
            let _ = writeln!(text, "  {check}: {evidence}");
            if !advice.is_empty() {
                let _ = writeln!(text, "    do this: {advice}");
            }
        }
    }
    text.trim_end().to_owned()
}

/// `1 problem`, `2 problems`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
