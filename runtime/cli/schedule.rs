//! `safelight schedule`.

use std::path::PathBuf;

use safelight::request::parse_size;
use safelight::training::{Level, Training};
use safelight::{Curve, Model, Plan, Request, Target};
use serde_json::{Value, json};

use crate::picture_arguments::stand_in;
use crate::sampling::SamplingArguments;
use crate::{folders, generate, plot, print, tell};

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Model: a name in models/, or a folder with a model.yaml or an exported diffusers pipeline
    /// [default: the only one]
    #[arg(short, long, value_name = "NAME|FOLDER")]
    model: Option<String>,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Guidance scale, or several spread over the steps, such as 7.5,5,3; 1 or less is off [default: the model's]
    #[arg(short, long, value_name = "SCALE", allow_negative_numbers = true)]
    guidance: Option<Curve>,
    #[arg(long, value_name = "NAME", help = generate::guidance_help())]
    guidance_method: Option<String>,
    /// Size in pixels, for models whose levels depend on it [default: the model's]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size)]
    size: Option<(usize, usize)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Draw the levels into this SVG file, and print its path instead of a table
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

const EXAMPLES: &str = "\
A latent at a level is alpha times the clean one plus sigma times noise. Its own sigma is what --sigmas takes: sigma/alpha, \
for flow matching sigma/(alpha + sigma). SNR dB is 20 log10(alpha/sigma). A row of the table has the level after so many \
steps. In JSON, null stands for what is infinite, and for counts that a tolerance decides.

Examples:
  safelight schedule
  safelight schedule --model ./my-sd-export --sampler dpmpp_2m --schedule karras --steps 20 --guidance 7.5
  safelight schedule --sampler euler --steps 20 --restart 2..0.1:4x2 --plot levels.svg
  safelight schedule --sampler \"euler_ancestral until sigma 2, then dpmpp_2m\" --steps 30 --json";

/// Allows what a target without limits of its own allows; in every precision, since no graph is opened.
const ANY_TARGET: &str = "\
schema: safelight-target/1
name: any
title: Any device
providers: [{ name: cpu, need: required }]
precision: [int8, fp16, fp32]
";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let model = folders::model(arguments.model.as_deref())?;
    // The plan of a picture, so that whatever `generate` would refuse is refused here in the same words.
    let plan = Plan::new(&request(arguments, &model), &model, &Target::parse(ANY_TARGET)?)?;
    plan.warnings.iter().for_each(|warning| tell(&format!("warning: {warning}")));
    let runs = runs(&plan);
    if let Some(path) = &arguments.plot {
        safelight::save(path, plot::svg(&plan, &runs, &model.name).as_bytes())?;
    }
    match &arguments.plot {
        _ if arguments.json => print(&serde_json::to_string_pretty(&as_json(&plan, &runs, &model))?)?,
        Some(path) => print(&path.display().to_string())?,
        None => print(&as_text(&plan, &runs))?,
    }
    Ok(())
}

fn request(arguments: &Arguments, model: &Model) -> Request {
    let sampling = arguments.sampling.sampling();
    Request {
        // A strength is of a picture; which, no level depends on.
        image: sampling.strength.map(|_| stand_in(arguments.size, model)),
        sampling,
        guidance: arguments.guidance.clone(),
        guidance_method: arguments.guidance_method.clone(),
        size: arguments.size,
        ..Request::default()
    }
}

/// What one sampler visits in one go.
pub(crate) struct Run {
    pub(crate) sampler: &'static str,
    /// Whether noise lifts the latent from where the run before has ended.
    pub(crate) rises: bool,
    /// Whether the next run begins where this one ends.
    goes_on: bool,
    /// Every level, both ends included.
    pub(crate) visits: Vec<Visit>,
}

impl Run {
    /// The levels without the one that the next run begins at, so that none is shown twice.
    pub(crate) fn shown(&self) -> &[Visit] {
        &self.visits[..self.visits.len() - usize::from(self.goes_on)]
    }
}

/// A level, and what people read of it.
pub(crate) struct Visit {
    /// Steps that are done there.
    pub(crate) step: usize,
    pub(crate) level: Level,
    pub(crate) own_sigma: f64,
}

/// The signal-to-noise ratio in decibels: −∞ for pure noise, ∞ for a clean latent.
pub(crate) fn snr_db(level: Level) -> f64 {
    20.0 * level.half_log_snr() / std::f64::consts::LN_10
}

fn runs(plan: &Plan) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut before = 0;
    for (method, levels, rises) in plan.trajectory.runs() {
        if let Some(last) = runs.last_mut() {
            last.goes_on = !rises;
        }
        let visits = levels.iter().enumerate().map(|(i, &level)| visit(before + i, level, &plan.training)).collect();
        runs.push(Run { sampler: method.name, rises, goes_on: false, visits });
        before += levels.len() - 1;
    }
    runs
}

fn visit(step: usize, level: Level, training: &Training) -> Visit {
    Visit { step, level, own_sigma: training.own_sigma(level) }
}

/// Evaluations without guidance, and at most with that of the request; none where a tolerance decides.
fn evaluations(plan: &Plan) -> Option<(usize, usize)> {
    let evaluations = plan.trajectory.evaluations()?;
    Some((evaluations, evaluations * if plan.is_guided() { 2 } else { 1 }))
}

fn as_json(plan: &Plan, runs: &[Run], model: &Model) -> Value {
    let evaluations = evaluations(plan);
    json!({
        "model": model.name,
        "sampler": plan.relay.to_string(),
        "schedule": plan.schedule,
        "options": plan.options.named(),
        "steps": plan.steps(),
        "evaluations": evaluations.map(|(alone, _)| alone),
        "guided_evaluations": evaluations.map(|(_, guided)| guided),
        "initial_scale": plan.trajectory.initial_scale,
        "runs": runs.iter().map(run_as_json).collect::<Vec<_>>(),
    })
}

/// JSON has no infinity: serde_json writes null for it.
fn run_as_json(run: &Run) -> Value {
    let level = |Visit { level, own_sigma, .. }: &Visit| {
        json!({
            "timestep": level.timestep,
            "alpha": level.alpha,
            "sigma": level.sigma,
            "own_sigma": own_sigma,
            "snr_db": snr_db(*level),
        })
    };
    json!({
        "sampler": run.sampler,
        "rises": run.rises,
        "levels": run.visits.iter().map(level).collect::<Vec<_>>(),
    })
}

fn as_text(plan: &Plan, runs: &[Run]) -> String {
    let options = plan.options.named();
    let options: Vec<_> = options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let options = if options.is_empty() { String::new() } else { format!("options: {}\n", options.join(", ")) };
    let (scale, table) = (significant(plan.trajectory.initial_scale), table(plan, runs).join("\n"));
    format!("{}, initial scale {scale}\n{options}\n{table}", summary(plan))
}

/// Sampler, steps, schedule and cost in one line.
pub(crate) fn summary(plan: &Plan) -> String {
    let Plan { relay, schedule, .. } = plan;
    let guidance = match plan.is_guided() {
        true => format!("guidance {} ({})", plan.guidance, plan.rule.name),
        false => "no guidance".into(),
    };
    match (plan.steps(), evaluations(plan)) {
        (Some(steps), Some((alone, guided))) => {
            let guidance = if guided > alone { format!("up to {guided} with {guidance}") } else { guidance };
            let (steps, alone) = (counted(steps, "step"), counted(alone, "evaluation"));
            format!("{relay}, {steps} ({schedule}), {alone}, {guidance}")
        }
        _ => format!("{relay}, steps chosen by its tolerance ({schedule}), {guidance}"),
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A line of the table.
enum Line {
    Cells(Vec<String>),
    Note(String),
}

/// Whether a sampler chooses its own steps, so that only both ends are known.
pub(crate) fn is_adaptive(plan: &Plan) -> bool {
    plan.steps().is_none()
}

fn table(plan: &Plan, runs: &[Run]) -> Vec<String> {
    let several = runs.iter().any(|run| run.sampler != runs[0].sampler);
    let mut header = vec!["step", "timestep", "own sigma", "alpha", "sigma", "SNR dB"];
    header.extend(several.then_some("sampler"));
    let mut lines = vec![Line::Cells(header.into_iter().map(Into::into).collect())];
    let mut before: Option<&Run> = None;
    for run in runs {
        lines.extend(before.filter(|_| run.rises).map(|before| Line::Note(lift(before, run))));
        for visit in run.shown() {
            let same = before.is_some_and(|before| before.sampler == run.sampler);
            let named = several.then(|| if same { String::new() } else { run.sampler.into() });
            lines.push(Line::Cells(cells(visit).into_iter().chain(named).collect()));
            before = Some(run);
        }
    }
    if is_adaptive(plan) {
        lines.insert(2, Line::Note("the tolerance chooses the steps between".into()));
        if let Some(Line::Cells(cells)) = lines.last_mut() {
            cells[0] = "end".into();
        }
    }
    aligned(&lines)
}

/// How far noise lifts the latent.
fn lift(from: &Run, to: &Run) -> String {
    let sigma = |visit: Option<&Visit>| significant(visit.map_or(0.0, |visit| visit.own_sigma));
    format!("noise lifts the latent from own sigma {} to {}", sigma(from.visits.last()), sigma(to.visits.first()))
}

fn cells(visit: &Visit) -> Vec<String> {
    let Visit { step, level, own_sigma } = visit;
    let numbers = [level.timestep, *own_sigma, level.alpha, level.sigma, snr_db(*level)];
    std::iter::once(step.to_string()).chain(numbers.map(significant)).collect()
}

/// Columns of numbers, to the right; a sampler's name has no column after it, and goes to the left.
fn aligned(lines: &[Line]) -> Vec<String> {
    let mut widths = [0; 6];
    for line in lines {
        if let Line::Cells(cells) = line {
            widths.iter_mut().zip(cells).for_each(|(width, cell)| *width = cell.len().max(*width));
        }
    }
    let written = |line: &Line| match line {
        Line::Note(note) => format!("{:1$}  {note}", "", widths[0]),
        Line::Cells(cells) => {
            let numbers = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}"));
            let all: Vec<_> = numbers.chain(cells.iter().skip(widths.len()).cloned()).collect();
            all.join("  ").trim_end().to_owned()
        }
    };
    lines.iter().map(written).collect()
}

/// A number with six significant digits, without zeros at its end.
pub(crate) fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{}", value + 0.0);
    }
    let exponent = value.abs().log10().floor();
    if !(-5.0..6.0).contains(&exponent) {
        let digits = format!("{value:.5e}");
        let (digits, power) = digits.split_once('e').unwrap_or((&digits, "0"));
        return format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'));
    }
    let digits = format!("{value:.*}", (5.0 - exponent) as usize);
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.').into() } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_six_significant_digits() {
        #[rustfmt::skip]
        let cases = [
            (0.0, "0"), (-0.0, "0"), (999.0, "999"), (1000.0, "1000"), (100_000.0, "100000"),
            (14.614_647, "14.6146"), (9.999_999_9, "10"), (-0.068_264_5, "-0.0682645"), (0.000_012_345_67, "0.0000123457"),
            (1.234_567_8e-7, "1.23457e-7"), (1_234_567.8, "1.23457e6"), (2e299, "2e299"),
            (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf"),
        ];
        for (value, written) in cases {
            assert_eq!(significant(value), written);
        }
    }
}
