//! `safelight warm`.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use indicatif::ProgressBar;
use safelight::cache::{Build, Cached, Caching, Opening, Outcome};
use safelight::request::parse_size;
use safelight::{
    Curve, Error, ErrorKind, Event, Model, Opened, Output, Pipeline, Plan, Request, Residency, Stage, Target,
};
use serde_json::json;

use crate::device::DeviceArguments;
use crate::picture_arguments::with_stand_ins;
use crate::progress::spinner;
use crate::signals::cancel_on_signals;
use crate::{folders, print, tell};

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    device: DeviceArguments,
    /// Size in pixels that requests will have [default: the model's]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size)]
    size: Option<(usize, usize)>,
    /// Guidance scale that requests will have: with guidance, twice as many go through the denoiser [default: the model's]
    #[arg(short, long, value_name = "SCALE", allow_negative_numbers = true)]
    guidance: Option<Curve>,
    /// How many pictures will go through the graphs together
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    batch: usize,
    /// Also the encoder, for requests that begin with a picture; models that are shown masks need it
    #[arg(long)]
    encoder: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  safelight warm --model emoji --target jetson-orin-nano
  safelight warm --target x86-64 --cache /var/cache/safelight --size 256x256
  safelight warm --cached-only && echo \"nothing is left to build\"";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let model = folders::model(arguments.device.model.as_deref())?;
    let (target, choice) = arguments.device.described_target()?;
    choice.iter().for_each(|line| tell(line));
    let target = to_warm(arguments.device.narrowed(target), arguments.device.cached_only)?;
    let request = Request {
        guidance: arguments.guidance.clone(),
        count: arguments.batch,
        batch: arguments.batch,
        size: arguments.size,
        ..Request::usual(&model)
    };
    let request = if arguments.encoder { with_stand_ins(request, &model) } else { request };
    let stages = Plan::new(&request, &model, &target)?.stages(&model);
    cancel_on_signals(&request.cancel);
    arguments.device.open_library()?;
    let (pipeline, output) = warm(&target, &model, &request, stages)?;
    let folder = target.cache.as_ref().and_then(|caching| caching.folder.as_deref());
    let report = match arguments.json {
        true => serde_json::to_string_pretty(&as_json(&pipeline, &output, folder))?,
        false => as_text(&pipeline, folder),
    };
    print(&report)?;
    let unkept = unkept(&pipeline);
    std::mem::forget(pipeline);
    unkept.map_or(Ok(()), |why| Err(Error::new(ErrorKind::Io, format!("not all is warm: {why}")).into()))
}

/// Why something was not kept that could have been, if so: a warning to whoever makes pictures, a failure here.
fn unkept(pipeline: &Pipeline) -> Option<String> {
    let graphs = pipeline.graphs().into_iter().filter(|(_, opened)| opened.cached.is_none());
    graphs.flat_map(|(_, opened)| opened.warnings).find(|warning| warning.starts_with("cache "))
}

/// The target with its cache, and one graph in memory at a time: building takes more than running.
fn to_warm(mut target: Target, cached_only: bool) -> safelight::Result<Target> {
    match &mut target.cache {
        Some(Caching { build, .. }) if !cached_only => *build = Build::WhenMissing,
        Some(_) => (),
        None => {
            let what = format!("target {} has no cache to warm", target.name);
            let advice = "add \"cache: {}\" to it, or give a folder with --cache";
            return Err(Error::new(ErrorKind::Usage, format!("{what}; {advice}")));
        }
    }
    Ok(target.with_residency(Residency::Staged))
}

/// Opens every graph and makes the pictures of one request: some providers build when they first run.
fn warm(target: &Target, model: &Model, request: &Request, stages: Vec<Stage>) -> anyhow::Result<(Pipeline, Output)> {
    let bar = spinner("{spinner} {msg}, {elapsed}");
    let (shown, told) = (bar.clone(), bar.clone());
    let watch = Arc::new(move |opening: &Opening| show(opening, &stages, &shown));
    let mut pipeline = Pipeline::open_watched(target, model, request, None, watch)?;
    pipeline.on_event(move |event| {
        if let Event::Warning(warning) = event {
            told.suspend(|| tell(&format!("warning: {warning}")));
        }
    });
    let output = pipeline.generate(request);
    bar.finish_and_clear();
    Ok((pipeline, output?))
}

fn show(opening: &Opening, stages: &[Stage], bar: &ProgressBar) {
    let of = |stage: &Stage| {
        let index = stages.iter().position(|other| other == stage).unwrap_or(0);
        format!("{} of {}: {stage}", index + 1, stages.len())
    };
    let begin = |line: String| {
        bar.suspend(|| tell(&line));
        bar.set_message(line);
        bar.reset_elapsed();
    };
    match opening {
        Opening::Probing { stage } => begin(format!("{}, trying it in a process of its own", of(stage))),
        Opening::Waiting { stage } => begin(format!("{}, waiting for another process that builds it", of(stage))),
        Opening::Building { stage, why } => begin(format!("{}, building ({why})", of(stage))),
        Opening::Opened { stage, cached } => begin(format!("{}, {}", of(stage), outcome(*cached))),
        _ => (),
    }
}

fn outcome(cached: Option<&Cached>) -> &'static str {
    match cached.map(|cached| cached.outcome) {
        Some(Outcome::Hit) => "hit",
        Some(Outcome::Built) => "built",
        None => "nothing to cache",
    }
}

fn providers(opened: &Opened) -> String {
    opened.providers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn as_text(pipeline: &Pipeline, folder: Option<&Path>) -> String {
    let mut text = format!("{:<14}{:<24}{:<18}{:>10}{:>16}\n", "stage", "providers", "cache", "seconds", "bytes");
    for (stage, opened) in pipeline.graphs() {
        let (providers, cached) = (providers(&opened), opened.cached.as_ref());
        let _ = write!(text, "{:<14}{providers:<24}{:<18}", stage.name(), outcome(cached));
        let _ = match cached {
            Some(Cached { ms, bytes, .. }) => writeln!(text, "{:>10.2}{bytes:>16}", ms / 1000.0),
            None => writeln!(text, "{:>10}{:>16}", "", ""),
        };
    }
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    format!("{}\ncache: {}", lines.join("\n"), folder.unwrap_or(Path::new("")).display())
}

fn as_json(pipeline: &Pipeline, output: &Output, folder: Option<&Path>) -> serde_json::Value {
    let stage = |(stage, opened): (Stage, Opened)| {
        let (outcome, providers) = (outcome(opened.cached.as_ref()), &opened.providers);
        let about = json!({ "outcome": outcome, "providers": providers, "cached": opened.cached });
        (stage.name().to_owned(), about)
    };
    let stages: serde_json::Map<_, _> = pipeline.graphs().into_iter().map(stage).collect();
    json!({ "folder": folder, "stages": stages, "warnings": output.warnings })
}
