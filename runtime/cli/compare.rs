//! `safelight compare`: two reports, or what they measured again, in turn.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser as _;

use safelight::bench::compare::{Comparison, Gate, InTurn, Pair, Turns, compare, interleave};
use safelight::bench::report::{Case, Scenario, Workload};
use safelight::bench::worker::Errand;
use safelight::bench::{Report, Worker};
use safelight::{Cancel, Error, ErrorKind, Machine};
use serde_json::json;

use crate::progress::spinner;
use crate::report::{comparison, file};
use crate::signals::cancel_on_signals;
use crate::{Command, bench, folders, print, tell};

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Report that safelight bench wrote, or its folder
    #[arg(value_name = "A.json")]
    a: PathBuf,
    /// The one that is compared with it
    #[arg(value_name = "B.json")]
    b: PathBuf,
    /// Measure both again, in turn, on this device: what it does slowly is then in both. Both are in memory at once. Runs
    /// what the reports' arguments say, so give only reports that you made
    #[arg(long)]
    vs: bool,
    /// Least difference that matters
    #[arg(long, value_name = "SHARE", value_parser = share, default_value = "2%")]
    threshold: f64,
    /// Exit code 6 where B is slower than A by more than this: its median is, and its interval excludes that B is not
    /// slower at all. Exit code 5 where too little was measured to say that it is not
    #[arg(long, value_name = "SHARE", value_parser = share)]
    fail_above: Option<f64>,
    /// Exit code 6 where a report is invalid or was interrupted
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  safelight compare before/report.json after/report.json
  safelight compare before/ after/ --fail-above 5%        # for CI
  safelight compare ort-1.22/ ort-1.24/ --vs              # measures both again, in turn";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let paths = [file(&arguments.a), file(&arguments.b)];
    let (a, b) = (Report::read(&paths[0])?, Report::read(&paths[1])?);
    let mut compared = compare(&a, &b, arguments.threshold);
    if arguments.vs {
        measure_in_turn(&mut compared, (&a, &b))?;
    }
    let gates = arguments.fail_above.map(|bound| gates(&compared, bound));
    if arguments.json {
        let gates = gates.as_ref().map(|gates| gates.iter().map(|(_, gate)| gate).collect::<Vec<_>>());
        let told = json!({ "a": paths[0], "b": paths[1], "comparison": compared, "gates": gates });
        print(&serde_json::to_string_pretty(&told)?)?;
    } else {
        print(comparison::as_text([(&paths[0], &a), (&paths[1], &b)], &compared).trim_end())?;
    }
    conclude(arguments, &compared, gates.unwrap_or_default())
}

/// What the gate says of each case: of what was measured in turn, where that was done.
fn gates(compared: &Comparison, bound: f64) -> Vec<(&Pair, Gate)> {
    compared.cases.iter().map(|pair| (pair, Gate::of(pair.best().0, bound))).collect()
}

fn conclude(arguments: &Arguments, compared: &Comparison, gates: Vec<(&Pair, Gate)>) -> anyhow::Result<()> {
    let fail = |kind, told: String| Err(Error::new(kind, told).into());
    if compared.cases.is_empty() {
        let told = "the reports have no workload in common, and more than one each; measure the same in both";
        return fail(ErrorKind::Usage, told.into());
    }
    if let Some(invalid) = compared.warnings.first().filter(|_| arguments.strict) {
        return fail(ErrorKind::Numeric, invalid.clone());
    }
    let with = |gate: Gate| gates.iter().find(|(_, found)| *found == gate).map(|(pair, _)| *pair);
    let bound = comparison::percent(arguments.fail_above.unwrap_or_default());
    if let Some(pair) = with(Gate::Beyond) {
        let told = comparison::ratio(pair.best().0);
        return fail(ErrorKind::Numeric, format!("{}: B/A is {told}: slower by more than {bound}", pair.a));
    }
    if let Some(pair) = with(Gate::Undecided) {
        let told = comparison::ratio(pair.best().0);
        let what =
            format!("{}: B/A is {told}: too little was measured to say that B is slower by less than {bound}", pair.a);
        return fail(ErrorKind::Limit, format!("{what}; measure longer, or both in turn with --vs"));
    }
    Ok(())
}

/// Measures again, in turn, every case that both have.
fn measure_in_turn(compared: &mut Comparison, (a, b): (&Report, &Report)) -> anyhow::Result<()> {
    let cancel = Cancel::new();
    cancel_on_signals(&cancel);
    let bar = spinner("{spinner} {msg}");
    let turns = Turns::usual(compared.threshold);
    for pair in &mut compared.cases {
        if [&pair.a, &pair.b].iter().any(|workload| workload.scenario == Scenario::Cold) {
            tell(&format!("{}: fresh processes are not measured in turn", pair.a));
            continue;
        }
        let (case_a, case_b) = (case(a, &pair.a)?, case(b, &pair.b)?);
        let mut in_a = open_executor(a, case_a, &cancel).map_err(|e| e.context("A"))?;
        let mut in_b = open_executor(b, case_b, &cancel).map_err(|e| e.context("B"))?;
        let name = pair.a.to_string();
        let mut between = |told: &InTurn| {
            bar.set_message(format!("{name}: {} pairs, B/A {}", told.a_ms.len(), comparison::ratio(told.ratio)));
            cancel.check()
        };
        pair.in_turn = Some(interleave(&mut in_a, &mut in_b, &turns, &mut between)?);
        for (worker, case, name) in [(in_a, case_a, "A"), (in_b, case_b, "B")] {
            if worker.end()?.graphs != case.graphs {
                compared.warnings.push(format!("{name}: {}: its graphs are not those of the report", case.workload));
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn case<'a>(report: &'a Report, workload: &Workload) -> safelight::Result<&'a Case> {
    let case = report.cases.iter().find(|case| case.workload == *workload);
    case.ok_or_else(|| Error::new(ErrorKind::Internal, "a case that was compared is in none of the reports"))
}

/// Opens again what a report measured, in a process of its own, as the report's arguments say.
fn open_executor(report: &Report, case: &Case, cancel: &Cancel) -> anyhow::Result<Worker> {
    let usage = |told: String| Error::new(ErrorKind::Usage, told);
    if !is_same(&Machine::read(Path::new("/")), &report.machine) {
        return Err(usage("was measured on another device; --vs measures both on this one".into()).into());
    }
    let typed = std::iter::once("safelight").chain(report.tool.arguments.iter().map(String::as_str));
    let parsed = crate::Arguments::try_parse_from(typed).map(|parsed| parsed.command);
    let Ok(Command::Bench(arguments)) = parsed else {
        let typed = report.tool.arguments.join(" ");
        return Err(usage(format!("its arguments are none of safelight bench: {typed}")).into());
    };
    let device = arguments.device();
    let (target, _) = device.described_target()?;
    if serde_json::to_value(&target)? != report.target.settings {
        return Err(usage(format!("target {} has changed since it was measured; measure it again", target.name)).into());
    }
    let mut worker = vec![OsString::from("bench-worker")];
    worker.extend(device.as_flags());
    if !device.precisions().is_empty() {
        worker.extend(["--precision".into(), bench::precision_flag(case.workload.precision)]);
    }
    let model = folders::model_folder(device.model.as_deref())?;
    let errand = Errand { model, workload: case.workload.clone(), watches_memory: false };
    let program = std::env::current_exe()
        .map_err(|e| Error::new(ErrorKind::Io, format!("this executable cannot be found: {e}")))?;
    Ok(Worker::start(&program, &worker, &errand, cancel)?)
}

/// Whether it is the same device, as far as it tells; another kernel leaves it a little more or less memory.
fn is_same(a: &Machine, b: &Machine) -> bool {
    let known = |machine: &Machine| {
        let Machine { os, arch, board, processor, cores, gpus, .. } = machine.clone();
        (os, arch, board, processor, cores, gpus)
    };
    known(a) == known(b)
}

/// `2%` or `0.5%`.
fn share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let share = percent.map(|percent| percent / 100.0).filter(|share| (0.0001..=10.0).contains(share));
    share.ok_or_else(|| "expected a share with its sign, from 0.01% to 1000%, such as 2%".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_their_sign() {
        assert_eq!(share("2%"), Ok(0.02));
        assert_eq!(share("0.5 %"), Ok(0.005));
        for wrong in ["2", "0.02", "-2%", "0%", "%", "NaN%", "inf%", ""] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
