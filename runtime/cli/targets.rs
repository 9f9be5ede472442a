//! `safelight targets`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use safelight::machine::Choice;
use safelight::target::Board;
use safelight::{Error, ErrorKind, Machine, Stage, Target};
use serde_json::{Value, json};

use crate::folders::Detected;
use crate::{folders, print, tell};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Files to check instead of the targets that are here
    files: Vec<PathBuf>,
    /// Tell what this machine is, which target fits it best, and why
    #[arg(long, conflicts_with = "files")]
    detect: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match arguments.detect {
        true => detect(arguments),
        false => list(arguments),
    }
}

fn list(arguments: &Arguments) -> anyhow::Result<()> {
    let paths = if arguments.files.is_empty() { folders::all_targets() } else { arguments.files.clone() };
    let targets: Vec<_> = paths.iter().map(|path| (path.as_path(), folders::open_target(path))).collect();
    if arguments.json {
        let list: Vec<_> = targets.iter().map(|(path, target)| as_json(path, target)).collect();
        print(&serde_json::to_string_pretty(&list)?)?;
    } else {
        print(as_text(&targets).trim_end())?;
    }
    let broken = targets.iter().filter(|(_, target)| target.is_err()).count();
    match broken {
        0 => Ok(()),
        _ => Err(Error::new(ErrorKind::Usage, format!("{broken} of {} targets cannot be used", targets.len())).into()),
    }
}

fn as_text(targets: &[(&Path, safelight::Result<Target>)]) -> String {
    let mut text = String::new();
    for (path, target) in targets {
        let _ = match target {
            Ok(target) => writeln!(text, "{}", describe(target)),
            Err(error) => writeln!(text, "{}\n  broken: {error}", folders::stem(path)),
        };
    }
    if targets.is_empty() { "no target is here: expected YAML files in targets/".into() } else { text }
}

fn describe(target: &Target) -> String {
    let settings = target.stage(Stage::Denoiser);
    let providers: Vec<_> = settings.providers.iter().map(|provider| provider.name.to_string()).collect();
    let precision: Vec<_> = settings.precision.iter().map(|precision| precision.name()).collect();
    let mut text = format!("{}\n  {}", target.name, target.title);
    let board = board(&target.board);
    if !board.is_empty() {
        let _ = write!(text, "\n  {board}");
    }
    let measured = if target.measured.is_empty() { "unmeasured" } else { "measured" };
    let _ = write!(text, "\n  {}; {}; {measured}", providers.join(", "), precision.join(", "));
    text
}

fn board(board: &Board) -> String {
    let Board { memory_gib, cores, processor, accelerators } = board;
    let facts = [
        cores.map(|cores| format!("{cores} cores")),
        processor.clone(),
        memory_gib.map(|gib| format!("{gib} GiB")),
        (!accelerators.is_empty()).then(|| accelerators.join(", ")),
    ];
    facts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn as_json(path: &Path, target: &safelight::Result<Target>) -> Value {
    match target {
        Ok(target) => json!({ "path": path, "target": target }),
        Err(error) => json!({ "path": path, "error": error.to_string() }),
    }
}

fn detect(arguments: &Arguments) -> anyhow::Result<()> {
    let Detected { machine, targets, warnings } = folders::detect();
    warnings.iter().for_each(|warning| tell(warning));
    let fitting = machine.fitting_targets(&targets);
    if arguments.json {
        let fit = |fit: &Choice<'_>| json!({ "name": fit.target.name, "reason": fit.reason });
        let fitting: Vec<_> = fitting.iter().map(fit).collect();
        print(&serde_json::to_string_pretty(&json!({ "machine": machine, "fitting": fitting }))?)?;
    } else {
        print(&detected(&machine, &fitting))?;
    }
    match fitting.is_empty() {
        true => Err(Error::new(ErrorKind::Usage, "no target here fits this machine; choose one with --target").into()),
        false => Ok(()),
    }
}

fn detected(machine: &Machine, fitting: &[Choice<'_>]) -> String {
    let features: Vec<_> = machine.features.iter().map(ToString::to_string).collect();
    let facts = [
        machine.board.clone(),
        machine.l4t.map(|release| format!("Linux for Tegra {release}")),
        machine.processor.clone(),
        Some(format!("{} cores", machine.cores)),
        (!features.is_empty()).then(|| features.join(", ")),
        machine.memory_gib().map(|gib| format!("{gib:.1} GiB")),
        (!machine.gpus.is_empty()).then(|| machine.gpus.join(", ")),
    ];
    let facts: Vec<_> = facts.into_iter().flatten().collect();
    let mut text = format!("this machine: {} on {}; {}", machine.os, machine.arch, facts.join("; "));
    for (index, Choice { target, reason }) in fitting.iter().enumerate() {
        let what = if index == 0 { "target" } else { "also fits" };
        let _ = write!(text, "\n{what}: {} ({reason})", target.name);
    }
    text
}
