//! `safelight bench`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use indicatif::ProgressBar;
use safelight::bench::report::{LibraryUsed, ModelUsed, Protocol, Scenario, TargetUsed, Tool, Workload};
use safelight::bench::{Report, requests, validity};
use safelight::request::parse_size;
use safelight::sensor::State;
use safelight::{Cancel, Error, ErrorKind, Machine, Model, Plan, Precision, Stage, Target};

use crate::device::DeviceArguments;
use crate::progress::spinner;
use crate::report::{csv, html, markdown, picture_beside};
use crate::signals::cancel_on_signals;
use crate::{folders, print, tell};

mod case;
mod device;

pub(crate) use case::precision_flag;
use case::{Bench, Planned, Subject};
use device::Device;

#[derive(clap::Args)]
#[command(after_help = EXAMPLES, mut_arg("precision", |arg| arg.help(PRECISION_HELP)))]
pub(crate) struct Arguments {
    #[command(flatten)]
    device: DeviceArguments,
    /// Kinds of use: single-stream (latency), offline (throughput, several images at once), cold (a fresh process an
    /// image), sustained (ten minutes, or --duration: does it keep its speed?)
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = scenario, default_value = "single-stream")]
    scenario: Vec<Scenario>,
    /// Numbers of steps, a case each [default: the model's]
    #[arg(short = 'n', long, value_name = "LIST", value_delimiter = ',')]
    steps: Vec<usize>,
    /// Sizes in pixels, a case each [default: the model's]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = parse_size)]
    sizes: Vec<(usize, usize)>,
    /// Images that go through the graphs together [default: 1; offline 4, where the target allows it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    batch: Option<u16>,
    /// Sampler [default: the model's]
    #[arg(long, value_name = "NAME")]
    sampler: Option<String>,
    /// Seconds of each case's headline pass [default: until there are 64 images and 60 s, at most 600 s]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    duration: Option<f64>,
    /// Fresh processes whose start is measured, each case [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1000))]
    cold: Option<u16>,
    /// Pictures of each case that are compared with the model's best graphs on the CPU; 0 compares none, and no goldens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=requests::COUNT as i64))]
    quality: Option<u16>,
    /// Try it in a few seconds a case: 11 images, one fresh process, one compared picture
    #[arg(long, conflicts_with = "duration")]
    quick: bool,
    /// Most seconds that a busy or hot device is waited for before each case; 0 does not wait [default: 30 for a busy
    /// one, and for a hot one what the target says]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    wait: Option<u64>,
    /// What only you know, such as "ambient 21 °C, heat sink without fan"; may be repeated
    #[arg(long = "note", value_name = "TEXT")]
    notes: Vec<String>,
    /// Folder for report.json, report.html, report.md, images.csv and pictures; must not be there yet
    /// [default: bench-MODEL-TARGET-TIME here]
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print the report as JSON, too
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Fail with exit code 6 where a case is invalid
    #[arg(long)]
    strict: bool,
}

const PRECISION_HELP: &str = "Precisions to measure, a case each [default: the target's best]";

const EXAMPLES: &str = "\
Examples:
  safelight bench --steps 1,2,4,8 --precision int8,fp16 --out results/my-board
  safelight bench --quick
  safelight bench --scenario sustained --duration 600 --note \"heat sink, no fan, 21 °C\"
  safelight bench --scenario offline --batch 8
  safelight bench --scenario cold --target jetson-orin-nano

Docs: docs/benchmarking.md says how to measure a board, and what each number means.";

impl Arguments {
    /// Which model runs where.
    pub(crate) fn device(&self) -> &DeviceArguments {
        &self.device
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = folders::model_folder(arguments.device.model.as_deref())?;
    let model = Model::open(&folder)?;
    let (target, choice) = arguments.device.described_target()?;
    choice.iter().for_each(|line| tell(line));
    let plan = plan(arguments, &model, &target)?;
    let out = arguments.out.clone().unwrap_or_else(|| usual_folder(&model, &target));
    prepare(&out)?;
    let cancel = Cancel::new();
    cancel_on_signals(&cancel);
    let bar = if arguments.quiet { ProgressBar::hidden() } else { spinner("{spinner} {msg}") };
    let mut device = Device::new(&target, arguments.wait);
    let mut report = begin(arguments, &model, &target, &mut device);
    report.warnings.iter().for_each(|warning| tell(&format!("warning: {warning}")));
    let subject = Subject { folder: &folder, model: &model, flags: arguments.device.as_flags(), out: &out };
    let mut bench = Bench::new(subject, device, &cancel, &bar)?;
    for (index, planned) in plan.iter().enumerate() {
        bench.at = (index, plan.len());
        let case = bench.measure(planned);
        bar.suspend(|| tell(&case::line(&case)));
        report.cases.push(case);
        validity::advise_across(&mut report.cases);
        report.library = bench.library.clone().unwrap_or(report.library);
        bench.take_warnings(&mut report.warnings);
        report.finished = index + 1 == plan.len() && !cancel.is_cancelled();
        if report.cases.iter().any(|case| case.summary.is_some()) {
            write(&report, &out)?;
        }
        if cancel.is_cancelled() {
            break;
        }
    }
    bar.finish_and_clear();
    conclude(arguments, &report, &out, bench.failure)
}

/// Every case, checked before the first is measured.
fn plan(arguments: &Arguments, model: &Model, target: &Target) -> safelight::Result<Vec<Planned>> {
    let sizes = or_usual(&arguments.sizes, (model.picture.width, model.picture.height));
    let steps = or_usual(&arguments.steps, model.defaults.steps);
    let precisions = precisions(arguments, model, target)?;
    let sampler = arguments.sampler.as_ref().unwrap_or(&model.defaults.sampler);
    let mut workloads = Vec::new();
    for &scenario in &arguments.scenario {
        let usual = if scenario == Scenario::Offline { OFFLINE_BATCH.min(target.limits.max_batch) } else { 1 };
        let batch = arguments.batch.map_or(usual, usize::from);
        for &(width, height) in &sizes {
            for (precision, target) in &precisions {
                let workload = |&steps: &usize| Workload {
                    scenario,
                    precision: *precision,
                    steps,
                    width,
                    height,
                    batch,
                    sampler: sampler.clone(),
                };
                workloads.extend(steps.iter().map(workload).map(|workload| (workload, target)));
            }
        }
    }
    let mut seen = BTreeSet::new();
    workloads.retain(|(workload, _)| seen.insert(workload.clone()));
    let planned = |(workload, target): (Workload, &Target)| {
        Plan::new(&requests::request(model, &workload, 0), model, target)?;
        let (target, is_narrowed) = (target.clone(), !arguments.device.precisions().is_empty());
        let protocol = protocol(arguments, &target, workload.scenario);
        Ok(Planned { workload, target, is_narrowed, protocol })
    };
    workloads.into_iter().map(planned).collect()
}

fn or_usual<T: Clone>(given: &[T], usual: T) -> Vec<T> {
    if given.is_empty() { vec![usual] } else { given.to_vec() }
}

/// Images that go through the graphs together offline, unless something else is asked for.
const OFFLINE_BATCH: usize = 4;

/// Each precision of the denoiser, with a target that wants it first; other stages take the nearest that they have.
fn precisions(arguments: &Arguments, model: &Model, target: &Target) -> safelight::Result<Vec<(Precision, Target)>> {
    let wanted = arguments.device.precisions();
    if wanted.is_empty() {
        let (precision, _) = model.graph(Stage::Denoiser, &target.stage(Stage::Denoiser).precision)?;
        return Ok(vec![(precision, target.clone())]);
    }
    let of = |&precision: &Precision| {
        model.graph(Stage::Denoiser, &[precision])?;
        Ok((precision, target.clone().with_precision(case::preference(precision))))
    };
    wanted.iter().map(of).collect()
}

fn protocol(arguments: &Arguments, target: &Target, scenario: Scenario) -> Protocol {
    let usual = Protocol::usual(scenario);
    let mut protocol = match arguments.duration {
        Some(seconds) => usual.lasting(seconds),
        None => usual,
    };
    if arguments.quick {
        protocol = protocol.quick();
    }
    protocol.cold_processes = arguments.cold.map_or(protocol.cold_processes, usize::from);
    protocol.compared_pictures = arguments.quality.map_or(protocol.compared_pictures, usize::from);
    protocol.start_celsius = target.bench.start_celsius;
    protocol
}

fn begin(arguments: &Arguments, model: &Model, target: &Target, device: &mut Device) -> Report {
    let state = State::read(Path::new("/"));
    Report {
        schema: Report::SCHEMA.into(),
        created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        finished: false,
        tool: Tool {
            safelight: env!("CARGO_PKG_VERSION").into(),
            release: !cfg!(debug_assertions),
            arguments: std::env::args().skip(1).collect(),
        },
        library: LibraryUsed { version: String::new(), file: String::new(), sha256: String::new() },
        machine: Machine::read(Path::new("/")),
        warnings: device::warnings(&state),
        state,
        notes: arguments.notes.clone(),
        target: TargetUsed {
            name: target.name.clone(),
            title: target.title.clone(),
            settings: serde_json::to_value(target).unwrap_or_default(),
        },
        model: ModelUsed { name: model.name.clone(), title: model.title.clone() },
        protocol: protocol(arguments, target, Scenario::SingleStream),
        sensors: device.sources(),
        cases: Vec::new(),
    }
}

fn usual_folder(model: &Model, target: &Target) -> PathBuf {
    let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let time: String = time.chars().filter(char::is_ascii_alphanumeric).collect();
    PathBuf::from(format!("bench-{}-{}-{time}", model.name, target.name))
}

/// Makes the folder; one that holds a report already is not written over.
fn prepare(out: &Path) -> safelight::Result<()> {
    let report = out.join(REPORT);
    if report.exists() {
        let told = format!("{}: is there already; give another folder with --out", report.display());
        return Err(Error::new(ErrorKind::Usage, told));
    }
    crate::destination::prepare_folder(out)
}

const REPORT: &str = "report.json";

/// Everything, after each case: what an interruption leaves is whole.
fn write(report: &Report, out: &Path) -> safelight::Result<()> {
    report.write(&out.join(REPORT))?;
    let page = html(report, &|name| picture_beside(out, name));
    let written = [("report.html", page), ("report.md", markdown(report)), ("images.csv", csv(report))];
    written.iter().try_for_each(|(name, text)| safelight::save(&out.join(name), text.as_bytes()))
}

fn conclude(arguments: &Arguments, report: &Report, out: &Path, failure: Option<Error>) -> anyhow::Result<()> {
    let path = out.join(REPORT);
    if path.exists() {
        tell(&format!("report: {} and report.html beside it", path.display()));
    }
    if arguments.json {
        print(&serde_json::to_string(report)?)?;
    }
    if let Some(error) = failure {
        let failed = report.cases.iter().filter(|case| case.error.is_some()).count();
        return Err(error
            .context(format!("{failed} of {} cases not measured to their end", report.cases.len()))
            .into());
    }
    let invalid = report.cases.iter().find(|case| !case.validity.valid);
    if let Some(case) = invalid.filter(|_| arguments.strict) {
        let told = format!("{}: invalid: {}", case::name(&case.workload), case.validity.reasons.join("; "));
        return Err(Error::new(ErrorKind::Numeric, told).into());
    }
    Ok(())
}

fn scenario(name: &str) -> Result<Scenario, String> {
    let found = Scenario::ALL.into_iter().find(|scenario| scenario.name() == name);
    found.ok_or_else(|| "expected single-stream, offline, cold or sustained, or several joined by commas".into())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds, from 0 to 86400".into())
}
