//! `safelight verify`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use safelight::model::Bound;
use safelight::verify::{Case, Comparison, Difference, Numbers, Outcome, Retry, coarsest, compare, retry};
use safelight::{Cancel, Error, ErrorKind, Event, Library, Model, Opened, Pipeline, Request, Stage, Target};
use serde_json::{Value, json};

use crate::device::DeviceArguments;
use crate::signals::cancel_on_signals;
use crate::{folders, print, tell};

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    device: DeviceArguments,
    /// Compare with what this machine's CPU makes of the same request in the same precision, instead of the goldens
    #[arg(long, value_name = "WHAT")]
    against: Option<Against>,
    /// What the picture shows [default: the goldens' requests, or "a red apple"]
    #[arg(long, value_name = "PROMPT", requires = "against")]
    prompt: Option<String>,
    /// Number of steps [default: the goldens', or the model's]
    #[arg(short = 'n', long, value_name = "N", requires = "against", allow_negative_numbers = true)]
    steps: Option<usize>,
    /// Seed of the picture [default: the goldens', or 0]
    #[arg(short, long, value_name = "SEED", requires = "against", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Print a report as JSON
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Against {
    /// This machine's CPU
    Cpu,
}

const EXAMPLES: &str = "\
Examples:
  safelight verify
  safelight verify --target my-board --precision int8
  safelight verify --model ./my-sd-export --against cpu --prompt \"a cat\" --steps 4
  safelight verify --json > report.json";

/// A request to be made, and where its numbers are known from.
struct Job {
    request: Request,
    /// The golden's index in the model; without one it is the CPU that is compared with.
    golden: Option<usize>,
}

/// All that was found.
struct Findings {
    graphs: BTreeMap<Stage, Opened>,
    cases: Vec<Case>,
    outcomes: Vec<Outcome>,
    /// Present where a comparison failed and the target allows it.
    retries: Option<Vec<Retry>>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let model = folders::model(arguments.device.model.as_deref())?;
    let (described, choice) = arguments.device.described_target()?;
    choice.iter().for_each(|line| tell(line));
    let target = arguments.device.narrowed(described.clone());
    let cancel = Cancel::new();
    let jobs = jobs(arguments, &model, &cancel)?;
    cancel_on_signals(&cancel);
    arguments.device.open_library()?;
    let progress = progress(arguments);
    let findings = find(&model, (&described, &target), &jobs, &progress);
    progress.finish_and_clear();
    let findings = findings?;
    if arguments.json {
        print(&serde_json::to_string_pretty(&as_json(&model, &target, &jobs, &findings)?)?)?;
    } else {
        print(as_text(&model, &target, &jobs, &findings).trim_end())?;
    }
    conclude(&jobs, &findings)
}

/// The goldens' requests, or the one that was asked for.
fn jobs(arguments: &Arguments, model: &Model, cancel: &Cancel) -> safelight::Result<Vec<Job>> {
    let own = arguments.prompt.is_some() || arguments.steps.is_some() || arguments.seed.is_some();
    let against_cpu = arguments.against == Some(Against::Cpu);
    if !against_cpu && model.goldens.is_empty() {
        let told = format!("model \"{}\" has no goldens; compare with the CPU instead: --against cpu", model.name);
        return Err(Error::new(ErrorKind::Usage, told));
    }
    let goldens = model.goldens.iter().enumerate().filter(|_| !own).map(|(index, golden)| Job {
        request: Request { cancel: cancel.clone(), ..golden.request() },
        golden: Some(index).filter(|_| !against_cpu),
    });
    let mut jobs: Vec<_> = goldens.collect();
    if jobs.is_empty() {
        let mut request = Request { cancel: cancel.clone(), ..Request::usual(model) };
        if let Some(prompt) = &arguments.prompt {
            request.prompt.clone_from(prompt);
        }
        request.sampling.steps = arguments.steps;
        request.seed = arguments.seed.unwrap_or(request.seed);
        jobs.push(Job { request, golden: None });
    }
    Ok(jobs)
}

/// Makes every comparison. `described` is what the target's file says, `target` what runs; one pipeline is open at a
/// time, which is all that small boards have room for.
fn find(
    model: &Model,
    (described, target): (&Target, &Target),
    jobs: &[Job],
    progress: &ProgressBar,
) -> safelight::Result<Findings> {
    let open = |target: &Target| -> safelight::Result<Pipeline> {
        let mut pipeline = Pipeline::open_for(target, model, &jobs[0].request)?;
        let bar = progress.clone();
        pipeline.on_event(move |event| observe(event, &bar));
        Ok(pipeline)
    };
    let expected = expected(model, target, jobs, progress, open)?;
    let mut pipeline = open(target)?;
    let coarsest = coarsest(&pipeline.graphs());
    let (mut cases, mut outcomes) = (Vec::new(), Vec::new());
    for (index, (job, expected)) in jobs.iter().zip(expected).enumerate() {
        progress.set_message(format!("comparing {} of {}", index + 1, jobs.len()));
        let bound = job.golden.map_or(Bound::usual(coarsest), |golden| model.goldens[golden].bound(coarsest));
        outcomes.push(Outcome::of(compare(&mut pipeline, &job.request, &expected, bound))?);
        cases.push(Case { request: job.request.clone(), expected, bound });
    }
    // Not before: staged graphs have not been opened until they have run.
    let graphs = pipeline.graphs();
    drop(pipeline);
    let failed = outcomes.iter().any(|outcome| !outcome.passed());
    let retries = (failed && target.verify.retry).then(|| {
        progress.set_message("trying better precisions");
        retry(described, model, &graphs, &cases, open)
    });
    Ok(Findings { graphs, cases, outcomes, retries: retries.transpose()? })
}

/// What is known of each job's numbers: read from its golden, or made on the CPU.
fn expected(
    model: &Model,
    target: &Target,
    jobs: &[Job],
    progress: &ProgressBar,
    open: impl Fn(&Target) -> safelight::Result<Pipeline>,
) -> safelight::Result<Vec<Numbers>> {
    let mut cpu = None;
    let mut expected = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        let numbers = match job.golden {
            Some(golden) => Numbers::read(&model.goldens[golden], model)?,
            None => {
                progress.set_message(format!("on the CPU, {} of {}", index + 1, jobs.len()));
                let pipeline = match &mut cpu {
                    Some(pipeline) => pipeline,
                    none => none.insert(open(&target.clone().on_cpu())?),
                };
                Numbers::record(pipeline, &job.request).map_err(|e| e.context("on the CPU"))?.0
            }
        };
        expected.push(numbers);
    }
    Ok(expected)
}

/// A line of what is under way; how much there is to come depends on what is found.
fn progress(arguments: &Arguments) -> ProgressBar {
    if arguments.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::no_length();
    bar.set_style(ProgressStyle::with_template("{msg}: {pos} steps").expect("the template is well-formed"));
    bar
}

fn observe(event: &Event, bar: &ProgressBar) {
    match event {
        Event::Noise { .. } => bar.set_position(0),
        Event::Step { .. } => bar.inc(1),
        _ => (),
    }
}

fn conclude(jobs: &[Job], findings: &Findings) -> anyhow::Result<()> {
    let failed: Vec<_> = jobs.iter().zip(&findings.outcomes).filter(|(_, outcome)| !outcome.passed()).collect();
    let Some((job, outcome)) = failed.first() else { return Ok(()) };
    let first = match outcome {
        Outcome::Compared(comparison) => {
            comparison.first_divergence.map_or(String::new(), |at| format!("first in {at}"))
        }
        Outcome::Broken { error } => error.clone(),
    };
    let told = format!(
        "{} of {} comparisons failed: \"{}\", seed {}: {first}",
        failed.len(),
        jobs.len(),
        job.request.prompt,
        job.request.seed
    );
    Err(Error::new(ErrorKind::Numeric, told).into())
}

/// What the user should know of how the comparison was made.
fn notes(jobs: &[Job], graphs: &BTreeMap<Stage, Opened>) -> Vec<String> {
    let on_cpu = |opened: &Opened| opened.providers.iter().all(|provider| provider.as_str() == "cpu");
    let trivial = jobs.iter().all(|job| job.golden.is_none()) && graphs.values().all(on_cpu);
    let told = "this target runs everything on the CPU: the comparison only shows that it repeats itself";
    trivial.then(|| told.to_owned()).into_iter().collect()
}

fn golden_file<'a>(model: &'a Model, job: &Job) -> Option<&'a Path> {
    let golden = &model.goldens[job.golden?];
    golden.numbers.path.strip_prefix(&model.root).ok()
}

fn as_text(model: &Model, target: &Target, jobs: &[Job], findings: &Findings) -> String {
    let graphs = findings.graphs.iter().map(|(stage, opened)| {
        let providers: Vec<_> = opened.providers.iter().map(ToString::to_string).collect();
        format!("{stage} {} on {}", opened.precision, providers.join(", "))
    });
    let mut text = format!("{} on {}: {}\n", model.name, target.name, graphs.collect::<Vec<_>>().join("; "));
    for note in notes(jobs, &findings.graphs) {
        let _ = writeln!(text, "note: {note}");
    }
    let told = jobs.iter().zip(&findings.cases).zip(&findings.outcomes);
    for ((job, case), outcome) in told {
        let against = golden_file(model, job).map_or("the CPU".into(), |path| path.display().to_string());
        let Request { prompt, seed, .. } = &case.request;
        let steps = case.expected.estimates.len();
        let _ = writeln!(text, "\n\"{prompt}\", seed {seed}, {steps} steps, against {against}");
        match outcome {
            Outcome::Compared(comparison) => text += &table(comparison),
            Outcome::Broken { error } => {
                let _ = writeln!(text, "  FAILED: {error}");
            }
        }
    }
    if let Some(retries) = &findings.retries {
        text += &retries_as_text(retries, jobs.len());
    }
    text
}

/// The numbers of one comparison, and its verdict.
fn table(comparison: &Comparison) -> String {
    let Comparison { bound, noise, steps, latent, psnr_db, first_divergence, warnings } = comparison;
    let mut text: String = warnings.iter().map(|warning| format!("  warning: {warning}\n")).collect();
    let _ = writeln!(text, "  {:<10}{:>10}{:>11}{:>11}", "", "max-abs", "rel. L2", "cosine");
    let mut row = |name: &str, difference: &Difference| {
        let Difference { max_abs, relative_l2, cosine } = difference;
        let _ = writeln!(text, "  {name:<10}{max_abs:>10.1e}{relative_l2:>11.1e}{cosine:>11.6}");
    };
    row("noise", noise);
    for (index, step) in steps.iter().enumerate() {
        row(&format!("step {}", index + 1), step);
    }
    row("latent", latent);
    let psnr = psnr_db.map_or("the same in every pixel".into(), |psnr_db| format!("{psnr_db:.1} dB"));
    let _ = writeln!(text, "  {:<10}{psnr:>10}", "picture");
    let Bound { relative_l2, psnr_db } = bound;
    let verdict = match first_divergence {
        None => "passed: within".into(),
        Some(at) => format!("FAILED: from {at} on beyond"),
    };
    let _ = writeln!(text, "  {verdict} the bound of rel. L2 {relative_l2} and {psnr_db} dB");
    text
}

fn retries_as_text(retries: &[Retry], cases: usize) -> String {
    let mut text = String::from("\n");
    if retries.is_empty() {
        text += "no stage has a better precision that both model and target have\n";
    }
    for tried in retries {
        let Retry { stage, from, to, outcomes, error } = tried;
        let passed = outcomes.iter().filter(|outcome| outcome.passed()).count();
        let told = match error {
            Some(error) => format!("cannot be opened: {error}"),
            None if tried.passed() => format!("all {cases} pass; give the target this precision for it"),
            None => format!("{passed} of {cases} pass"),
        };
        let _ = writeln!(text, "retry with {stage} in {to} instead of {from}: {told}");
    }
    text
}

fn as_json(model: &Model, target: &Target, jobs: &[Job], findings: &Findings) -> safelight::Result<Value> {
    let Findings { graphs, cases, outcomes, retries } = findings;
    // It is open already: this only asks which one it was.
    let onnxruntime = Library::open(None)?.version();
    let comparison = |((job, case), outcome): ((&Job, &Case), &Outcome)| {
        let request = json!({ "prompt": case.request.prompt, "seed": case.request.seed,
            "steps": case.expected.estimates.len() });
        let golden = job.golden.map(|index| &model.goldens[index]);
        let against = golden.map_or(json!("cpu"), |golden| {
            json!({ "golden": golden.numbers.path, "sha256": golden.numbers.sha256, "precision": golden.precision })
        });
        json!({ "request": request, "against": against, "passed": outcome.passed(),
            "outcome": outcome })
    };
    let retry = |retry: &Retry| json!({ "passed": retry.passed(), "tried": retry });
    let comparisons = jobs.iter().zip(cases).zip(outcomes).map(comparison);
    Ok(json!({
        "safelight": env!("CARGO_PKG_VERSION"),
        "onnxruntime": onnxruntime,
        "model": model.name,
        "target": target.name,
        "graphs": graphs,
        "notes": notes(jobs, graphs),
        "passed": outcomes.iter().all(Outcome::passed),
        "comparisons": comparisons.collect::<Vec<_>>(),
        "retries": retries.as_ref().map(|retries| retries.iter().map(retry).collect::<Vec<_>>()),
    }))
}
