//! `safelight generate`.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use indicatif::{ProgressBar, ProgressStyle};
use ndarray_npy::WriteNpyExt as _;
use safelight::cache::{Outcome, Watch};
use safelight::forecast::rooms;
use safelight::guidance::GUIDANCES;
use safelight::noise::GENERATORS;
use safelight::prompt::{LongPrompts, Syntax};
use safelight::request::{parse_condition, parse_size};
use safelight::sampler::Latent;
use safelight::{
    Checkpoint, Curve, Error, ErrorKind, Event, Forecast, Format, GuidanceRuns, Model, NoiseLayout, Opened, Pipeline,
    Plan, PromptCache, Provenance, Recording, Report, Request, SamplerNoise, Target,
};
use serde_json::json;

use crate::checkpoint::{self, CheckpointArguments};
use crate::destination::{Destination, Place, prepare_folder};
use crate::device::{DeviceArguments, tell_opening};
use crate::picture_arguments::PictureArguments;
use crate::sampling::SamplingArguments;
use crate::signals::cancel_on_signals;
use crate::{folders, memory, print, prompts, tell};

mod stream;

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// What the picture shows; left out for a model that no words steer
    prompt: Option<String>,
    /// File of prompts, one a line: pictures of each, all with the same seeds; - makes those of each line of standard input
    /// as soon as it is there
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "save_latents"])]
    prompts: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArguments,
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    pictures: PictureArguments,
    /// Guidance scale, or several spread over the steps, such as 7.5,5,3; 1 or less is off [default: the model's]
    #[arg(short, long, value_name = "SCALE", allow_negative_numbers = true)]
    guidance: Option<Curve>,
    #[arg(long, value_name = "NAME", help = guidance_help())]
    guidance_method: Option<String>,
    /// Ask for the two predictions of guidance in turn, which needs less memory
    #[arg(long)]
    sequential_guidance: bool,
    /// A number for one of the model's conditions, such as class=7 (safelight inspect tells them); may be repeated
    #[arg(long = "condition", value_name = "NAME=NUMBER", value_parser = parse_condition)]
    conditions: Vec<(String, f64)>,
    /// What the picture must not show; needs guidance
    #[arg(long, value_name = "PROMPT")]
    negative: Option<String>,
    /// Read weights in prompts: (words:1.3), (words) for 1.1, [words] for 1/1.1; a backslash before a plain bracket
    #[arg(long)]
    weighted: bool,
    #[arg(long, value_name = "HOW", help = long_prompts_help())]
    long_prompts: Option<LongPrompts>,
    /// Seed of the first picture; the next has the next seed [default: a new one each time]
    #[arg(short, long, value_name = "SEED", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Walk from the seed to this one, or along several, such as 9,12: the noise of COUNT pictures goes from one seed's to
    /// the next's; first and last are the pictures of their seeds
    #[arg(long, value_name = "SEEDS", value_delimiter = ',', requires_all = ["seed", "count"], allow_negative_numbers = true)]
    walk: Vec<u64>,
    /// Seed of the sampler's own noise [default: it continues the initial noise]
    #[arg(long, value_name = "SEED", allow_negative_numbers = true)]
    noise_seed: Option<u64>,
    #[arg(long, value_name = "NAME", help = generator_help())]
    generator: Option<String>,
    /// Draw the sampler's own noise from one Brownian motion, as k-diffusion does: more steps refine the same picture
    #[arg(long)]
    brownian: bool,
    /// How many pictures
    #[arg(short, long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    count: usize,
    /// How many of them go through the graphs together
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    batch: usize,
    /// Draw the noise of all pictures from one generator, as diffusers does with a single one
    #[arg(long)]
    shared_noise: bool,
    /// Size in pixels [default: the model's]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size)]
    size: Option<(usize, usize)>,
    /// File, folder (with a / at its end, or already there) or - for standard output [default: PROMPT-SEED.png here]
    #[arg(short, long, value_name = "PATH")]
    out: Option<String>,
    /// Format: png, jpeg or webp [default: what the file name says, or png]
    #[arg(short, long, value_name = "FORMAT", value_parser = format)]
    format: Option<Format>,
    /// Print a report as JSON
    #[arg(long)]
    json: bool,
    /// Keep what the text encoder makes of prompts in this folder; with every prompt there, the encoder may be missing
    #[arg(long, value_name = "FOLDER")]
    prompt_cache: Option<PathBuf>,
    #[command(flatten)]
    checkpoint: CheckpointArguments,
    /// Also write the initial noise and every step's latent as .npy files
    #[arg(long, value_name = "FOLDER")]
    save_latents: Option<PathBuf>,
    /// Write down what each graph is given, as .npz files, for calibrating its quantisation
    #[arg(long, value_name = "FOLDER", conflicts_with = "dry_run")]
    record_calibration: Option<PathBuf>,
    /// How many files a stage; of more runs, a sample is kept that is spread over all
    #[arg(long, value_name = "N", requires = "record_calibration", default_value_t = Recording::USUAL_LIMIT)]
    record_limit: usize,
    /// Tell which graphs will run, when they are opened and what memory they are expected to take; afterwards, what they
    /// took
    #[arg(long, conflicts_with = "quiet")]
    plan: bool,
    /// Print the plan and make nothing; neither ONNX Runtime nor any graph is opened
    #[arg(long, conflicts_with_all = ["quiet", "save_latents"])]
    dry_run: bool,
    /// Print only paths, warnings and errors
    #[arg(short, long)]
    quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  safelight generate \"a red apple\"
  safelight generate \"a blue house\" --seed 7 --count 4 --out houses/
  safelight generate \"a red apple\" --seed 7 --walk 9 --count 24 --out frames/
  safelight generate \"a (red:1.4) apple on [a table]\" --weighted
  safelight generate --prompts words.txt --seed 7 --out pictures/
  safelight generate --prompts kiosk.txt --prompt-cache cache/
  safelight generate --prompts words.txt --seed 7 --steps 30 --out pictures/ --checkpoint-every 5 --resume
  safelight generate \"a blue house\" --image red-house.png --strength 0.6
  safelight generate \"a cat\" --image photo.jpg --mask sofa.png --keep-pixels
  safelight generate --prompts words.txt --precision fp32 --record-calibration tensors/ --out pictures/
  safelight generate \"a red apple\" --target raspberry-pi-5 --dry-run
  safelight generate \"a cat\" --model ./my-sd-export --steps 20 --sampler euler --guidance 7.5 --negative blurry
  safelight generate \"a yellow star\" --quiet --out - | display";

impl Arguments {
    /// Whether prompts come from standard input, one after the other.
    fn is_stream(&self) -> bool {
        self.prompts.as_ref().is_some_and(|path| path.as_os_str() == "-")
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // Opening a cache makes its folder, which is more than a plan may do.
    let cache = arguments.prompt_cache.as_deref().filter(|folder| !arguments.dry_run || folder.is_dir());
    let prompts = cache.map(PromptCache::open).transpose()?;
    let folder = folders::model_folder(arguments.device.model.as_deref())?;
    let model = match &prompts {
        Some(prompts) => Model::open_with_prompts(&folder, prompts)?,
        None => Model::open(&folder)?,
    };
    let target = target(arguments)?;
    if model.reads_prompts() && arguments.prompt.is_none() && arguments.prompts.is_none() {
        let told = "what should the picture show? safelight generate \"a red apple\", or --prompts FILE";
        return Err(Error::new(ErrorKind::Usage, told).into());
    }
    let destination = destination(arguments)?;
    if arguments.is_stream() && arguments.checkpoint.is_asked() {
        let told = "--checkpoint-every needs prompts that can be read again: a file instead of standard input";
        return Err(Error::new(ErrorKind::Usage, told).into());
    }
    let words = arguments.prompts.as_deref().map(folders::stem).or_else(|| arguments.prompt.clone());
    let kept_in = arguments.checkpoint.path(&destination, &words.unwrap_or_default());
    let seed = arguments.seed.map_or_else(|| arguments.checkpoint.seed(kept_in.as_deref()), |seed| Ok(Some(seed)))?;
    let requests = requests(arguments, &target, seed.unwrap_or_else(new_seed))?;
    // Everything that can be wrong with a request is told before ONNX Runtime is even opened.
    let plans = requests.iter().map(|request| Plan::new(request, &model, &target));
    let mut plans = plans.collect::<safelight::Result<Vec<_>>>()?;
    // Requests differ in their prompts alone, which change no size.
    let forecast =
        (arguments.plan || arguments.dry_run).then(|| forecast(&requests[0], &mut plans[0], &model, &target));
    let forecast = forecast.transpose()?;
    forecast.as_ref().map_or(Ok(()), |forecast| tell_plan(arguments, &plans[0], forecast))?;
    if arguments.dry_run {
        return Ok(());
    }
    destination.prepare()?;
    let left = arguments.checkpoint.resume(kept_in.as_deref(), &requests, (&model, &target))?;
    arguments.save_latents.as_deref().map_or(Ok(()), prepare_folder)?;
    let record = |folder: &PathBuf| Recording::open(folder, arguments.record_limit);
    let recording = arguments.record_calibration.as_ref().map(record).transpose()?;
    cancel_on_signals(&requests[0].cancel);
    arguments.device.open_library()?;
    let watch: Watch = if arguments.quiet { Arc::new(|_| ()) } else { Arc::new(tell_opening) };
    let mut pipeline = Pipeline::open_watched(&target, &model, &requests[0], prompts, watch)?;
    if arguments.json || arguments.plan {
        pipeline.measure_memory();
    }
    recording.as_ref().map_or(Ok(()), |recording| pipeline.record(recording))?;
    if arguments.is_stream() {
        let done = stream::make(arguments, &mut pipeline, &requests[0], &destination, forecast.as_ref());
        recording.as_ref().map_or(Ok(()), Recording::save)?;
        std::mem::forget(pipeline);
        return done;
    }
    let checkpoint = match left {
        Some(left) => Some(resumed(arguments, left, &requests, &destination)),
        None => begun(arguments, kept_in.as_deref(), &requests, (&model, &target))?,
    };
    let work = Work { requests: &requests, plans: &plans, destination: &destination, checkpoint };
    let done = make_or_leave(arguments, &mut pipeline, &work);
    // Also of a generation that was broken off: what was recorded is there.
    recording.as_ref().map_or(Ok(()), Recording::save)?;
    conclude(arguments, &done?, forecast.as_ref())?;
    // The process ends here: giving back every buffer of every graph first would only take time.
    std::mem::forget(pipeline);
    Ok(())
}

/// What a request is expected to take, and whether that has the autoencoder work in tiles.
fn forecast(request: &Request, plan: &mut Plan, model: &Model, target: &Target) -> safelight::Result<Forecast> {
    let rooms = rooms(target, Path::new("/"));
    Forecast::choose_tiles(request, plan, model, target, &rooms)?;
    Ok(Forecast::new(request, plan, model, target)?.within(&rooms))
}

/// A checkpoint that is gone on from.
fn resumed(arguments: &Arguments, left: Checkpoint, requests: &[Request], destination: &Destination) -> Checkpoint {
    checkpoint::check_saved(&left, |number, picture| {
        let request = requests.get(number)?;
        let seed = request.seed.saturating_add(picture as u64);
        destination.path((&request.prompt, request.count), seed, place(arguments, number, picture))
    });
    if !arguments.quiet {
        checkpoint::tell_resuming(&left);
    }
    left
}

/// A checkpoint that is begun, where one is asked for.
fn begun(
    arguments: &Arguments,
    path: Option<&Path>,
    requests: &[Request],
    on: (&Model, &Target),
) -> safelight::Result<Option<Checkpoint>> {
    if !arguments.quiet {
        arguments.checkpoint.tell_beginning(path);
    }
    arguments.checkpoint.create(path, requests, on)
}

/// Where a picture goes, by the numbers of its prompt and its own.
fn place(arguments: &Arguments, number: usize, picture: usize) -> Place {
    let frame = (!arguments.walk.is_empty()).then_some(picture + 1);
    Place { number: arguments.prompts.as_ref().map(|_| number + 1), frame }
}

/// What is to be made, where it goes, and where what is done is kept meanwhile.
struct Work<'a> {
    requests: &'a [Request],
    plans: &'a [Plan],
    destination: &'a Destination,
    checkpoint: Option<Checkpoint>,
}

/// Makes all pictures, or leaves what it takes to go on.
fn make_or_leave(
    arguments: &Arguments,
    pipeline: &mut Pipeline,
    work: &Work,
) -> anyhow::Result<Vec<(Report, Vec<Made>)>> {
    pipeline.set_checkpoint(work.checkpoint.clone());
    let progress = progress(arguments, work.requests.iter().zip(work.plans));
    let done = make(arguments, pipeline, work, &progress);
    progress.finish_and_clear();
    match (&done, &work.checkpoint) {
        (Ok(_), Some(checkpoint)) => checkpoint::remove(checkpoint),
        (Err(error), Some(checkpoint)) => checkpoint::leave(checkpoint, error),
        (_, None) => (),
    }
    done
}

/// Makes and writes the pictures of all requests.
fn make(
    arguments: &Arguments,
    pipeline: &mut Pipeline,
    work: &Work,
    progress: &ProgressBar,
) -> anyhow::Result<Vec<(Report, Vec<Made>)>> {
    let &Work { requests, destination, .. } = work;
    let checkpoint = work.checkpoint.as_ref();
    let (bar, latents, cancel) = (progress.clone(), arguments.save_latents.clone(), requests[0].cancel.clone());
    let quiet = arguments.quiet;
    let (fault, faults) = mpsc::channel();
    pipeline.on_event(move |event| {
        if quiet && matches!(event, Event::Resumed { .. }) {
            return;
        }
        if let Err(error) = observe(event, &bar, latents.as_deref()) {
            // An observer cannot fail a generation, but it can stop it.
            cancel.cancel();
            let _ = fault.send(error);
        }
    });
    let mut done = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        let is_saved = |picture: usize| checkpoint.is_some_and(|checkpoint| checkpoint.is_saved(index, picture));
        let missing: Vec<_> = (0..request.count).filter(|&picture| !is_saved(picture)).collect();
        let mut made = Vec::new();
        let outcome = pipeline.generate_each(request, |picture| {
            let place = place(arguments, index, missing.get(made.len()).copied().unwrap_or_default());
            let path = destination.write(&picture, request.count, place, checkpoint)?;
            if let Some(path) = path.as_ref().filter(|_| !arguments.json) {
                progress.suspend(|| print(&path.display().to_string()))?;
            }
            made.push((path, picture.provenance));
            Ok(())
        });
        faults.try_recv().map_or(Ok(()), Err)?;
        done.push((outcome?, made));
    }
    Ok(done)
}

/// Tells what is expected of memory: to standard error beside pictures, as the result where it is all that is wanted.
fn tell_plan(arguments: &Arguments, plan: &Plan, forecast: &Forecast) -> anyhow::Result<()> {
    // Those of the plan are told with the pictures, where some are made.
    let told = plan.warnings.iter().filter(|_| arguments.dry_run).chain(&forecast.warnings);
    told.for_each(|warning| tell(&format!("warning: {warning}")));
    match (arguments.dry_run, arguments.json) {
        (true, true) => print(&serde_json::to_string_pretty(&json!({ "plan": forecast }))?)?,
        (true, false) => print(&memory::expected(forecast))?,
        (false, true) => (),
        (false, false) => tell(&memory::expected(forecast)),
    }
    Ok(())
}

/// Prints what was made: as JSON, one report or a list of them, or as a summary of the last.
fn conclude(arguments: &Arguments, done: &[(Report, Vec<Made>)], forecast: Option<&Forecast>) -> anyhow::Result<()> {
    if arguments.json {
        let mut reports: Vec<_> = done.iter().map(|(report, made)| as_json(report, made, forecast)).collect();
        let one_or_all = if arguments.prompts.is_none() { reports.remove(0) } else { reports.into() };
        print(&serde_json::to_string_pretty(&one_or_all)?)?;
    } else if let Some((report, made)) = done.last().filter(|_| !arguments.quiet) {
        tell(&summary(report, made));
        let first = done.first().and_then(|(report, _)| report.memory.as_ref());
        match (forecast, first) {
            (Some(forecast), Some(measured)) => tell(&memory::measured(forecast, measured)),
            (Some(_), None) => tell("memory was not measured: this system does not tell it"),
            (None, _) => (),
        }
    }
    Ok(())
}

/// A picture that was made: where it was written, unless to standard output, and how to make it again.
type Made = (Option<PathBuf>, Provenance);

fn destination(arguments: &Arguments) -> safelight::Result<Destination> {
    let destination = Destination::new(arguments.out.as_deref(), arguments.format)?;
    let conflict = match destination {
        Destination::Standard(_) | Destination::File(..) if arguments.prompts.is_some() => {
            let told =
                format!("--out {}: --prompts needs a folder; end it with a /", arguments.out.as_deref().unwrap_or("-"));
            return Err(Error::new(ErrorKind::Usage, told));
        }
        Destination::Standard(_) if arguments.count != 1 => "takes one picture; give a folder for several",
        Destination::Standard(_) if arguments.json => {
            "and --json both want standard output; write the picture to a file"
        }
        _ => return Ok(destination),
    };
    Err(Error::new(ErrorKind::Usage, format!("--out - {conflict}")))
}

/// One request a prompt, all with the same seeds and cancelled together.
fn requests(arguments: &Arguments, target: &Target, seed: u64) -> safelight::Result<Vec<Request>> {
    let prompts = match (&arguments.prompts, &arguments.prompt) {
        // Those that come later differ in their prompts alone.
        _ if arguments.is_stream() => vec![String::new()],
        (Some(path), _) => prompts::read(path)?,
        (None, prompt) => vec![prompt.clone().unwrap_or_default()],
    };
    let usual = arguments.pictures.apply(Request { seed, ..request(arguments) }, target)?;
    Ok(prompts.into_iter().map(|prompt| Request { prompt, ..usual.clone() }).collect())
}

fn request(arguments: &Arguments) -> Request {
    Request {
        negative: arguments.negative.clone(),
        syntax: if arguments.weighted { Syntax::Weighted } else { Syntax::Plain },
        long_prompts: arguments.long_prompts.unwrap_or_default(),
        conditions: arguments.conditions.iter().cloned().collect(),
        sampling: arguments.sampling.sampling(),
        guidance: arguments.guidance.clone(),
        guidance_method: arguments.guidance_method.clone(),
        guidance_runs: if arguments.sequential_guidance { GuidanceRuns::InTurn } else { GuidanceRuns::Together },
        walk: arguments.walk.clone(),
        noise_seed: arguments.noise_seed,
        generator: arguments.generator.clone(),
        sampler_noise: if arguments.brownian { SamplerNoise::Brownian } else { SamplerNoise::Independent },
        count: arguments.count,
        batch: arguments.batch,
        noise: if arguments.shared_noise { NoiseLayout::Shared } else { NoiseLayout::PerImage },
        size: arguments.size,
        ..Request::default()
    }
}

fn target(arguments: &Arguments) -> safelight::Result<Target> {
    let (target, choice) = arguments.device.described_target()?;
    if !arguments.quiet {
        choice.iter().for_each(|line| tell(line));
    }
    Ok(arguments.device.narrowed(target))
}

/// A seed of 32 bits, which is what PyTorch's CPU generator uses of it.
fn new_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish() & u64::from(u32::MAX)
}

fn progress<'a>(arguments: &Arguments, work: impl Iterator<Item = (&'a Request, &'a Plan)>) -> ProgressBar {
    if arguments.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    // A tolerance decides how many steps there are: those pictures count one.
    let steps = |plan: &Plan| plan.steps().unwrap_or(0);
    let ticks = work.map(|(request, plan)| steps(plan) * request.count.div_ceil(plan.batch) + request.count);
    let bar = ProgressBar::new(ticks.sum::<usize>() as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}").expect("the template is well-formed");
    bar.set_style(style);
    bar
}

fn observe(event: &Event, bar: &ProgressBar, latents: Option<&Path>) -> safelight::Result<()> {
    let save = |name: String, latent: &Latent| latents.map_or(Ok(()), |folder| save_latent(&folder.join(name), latent));
    match event {
        Event::Warning(warning) => bar.suspend(|| tell(&format!("warning: {warning}"))),
        Event::Noise { first, latent } => save(format!("{first:04}-noise.npy"), latent)?,
        Event::Step { first, step, steps, latent, .. } => {
            save(format!("{first:04}-step-{:03}.npy", step + 1), latent)?;
            bar.inc(u64::from(steps.is_some()));
        }
        Event::Resumed { step, steps, .. } => {
            let of = steps.map(|steps| format!(" of {steps}")).unwrap_or_default();
            bar.suspend(|| tell(&format!("resumed at step {}{of}", step + 1)));
            bar.reset_eta();
        }
        Event::Decoded { .. } => bar.inc(1),
        _ => (),
    }
    Ok(())
}

fn save_latent(path: &Path, latent: &Latent) -> safelight::Result<()> {
    let mut bytes = Vec::new();
    latent.write_npy(&mut bytes).map_err(|e| Error::new(ErrorKind::Internal, format!("{}: {e}", path.display())))?;
    safelight::save(path, &bytes)
}

fn as_json(report: &Report, made: &[Made], forecast: Option<&Forecast>) -> serde_json::Value {
    let picture = |(path, provenance): &Made| json!({ "path": path, "provenance": provenance });
    let mut told = json!({
        "pictures": made.iter().map(picture).collect::<Vec<_>>(),
        "timings": report.timings,
        "warnings": report.warnings,
        "cached": report.cached,
        "memory": report.memory,
    });
    if let Some(resumed) = &report.resumed {
        told["resumed"] = json!(resumed);
    }
    if let Some(forecast) = forecast {
        told["plan"] = json!(forecast);
    }
    told
}

fn summary(report: &Report, made: &[Made]) -> String {
    let (Some((_, about)), Some((_, last))) = (made.first(), made.last()) else { return String::new() };
    let seeds = match last.seed {
        last if made.iter().any(|(_, about)| about.walk.is_some()) => {
            format!("{} frames from seed {} to {last}", made.len(), about.seed)
        }
        last if last != about.seed => format!("seeds {} to {last}", about.seed),
        only => format!("seed {only}"),
    };
    let guidance = match about.guidance_method {
        Some(method) => format!("guidance {} ({method})", about.guidance),
        None => "no guidance".into(),
    };
    let graphs = about.graphs.iter().map(|(stage, opened)| {
        let providers: Vec<_> = opened.providers.iter().map(ToString::to_string).collect();
        match providers.as_slice() {
            [] => format!("{stage} {} not needed", opened.precision),
            providers => {
                let on = providers.join(", ");
                format!("{stage} {} on {on}{}{}", opened.precision, shares(opened), cached(opened))
            }
        }
    });
    let time = &report.timings;
    format!(
        "{seeds}, {}, {} steps ({}), {} evaluations, {guidance}, {}×{}{}\n{} on {}: {} (ONNX Runtime {})\n\
         opening {:.0} ms, text {:.1} ms, {}denoiser {:.1} ms ({:.1} ms a step), decoder {:.1} ms, \
         writing {:.1} ms, outside the graphs {:.2} ms",
        about.sampler,
        about.steps,
        about.schedule,
        about.evaluations,
        about.width,
        about.height,
        tiles(about),
        about.model,
        about.target,
        graphs.collect::<Vec<_>>().join("; "),
        about.onnxruntime,
        time.open_ms,
        time.text_encoder_ms,
        if about.strength.is_some() { format!("encoder {:.1} ms, ", time.encoder_ms) } else { String::new() },
        time.denoiser_ms,
        time.denoiser_ms / time.steps_ms.len().max(1) as f64,
        time.decoder_ms,
        time.handover_ms,
        time.own_ms(),
    )
}

/// Which stages worked in tiles, and how large those were.
fn tiles(about: &Provenance) -> String {
    about.tiles.iter().map(|(stage, [width, height])| format!(", {stage} in tiles of {width}×{height}")).collect()
}

/// What became of a graph in the cache, after its providers.
fn cached(opened: &Opened) -> &'static str {
    match opened.cached.as_ref().map(|cached| cached.outcome) {
        Some(Outcome::Hit) => " (cached)",
        Some(Outcome::Built) => " (built for the cache)",
        None => "",
    }
}

/// How many nodes went where, where that is more than one place.
fn shares(opened: &Opened) -> String {
    if opened.nodes.len() < 2 {
        return String::new();
    }
    let nodes = opened.nodes.iter().map(|(provider, nodes)| format!("{nodes} on {provider}"));
    format!(" (nodes: {})", nodes.collect::<Vec<_>>().join(", "))
}

pub(crate) fn guidance_help() -> String {
    let rules = GUIDANCES.iter().map(|rule| format!("{} ({})", rule.name, rule.about));
    format!("How guidance combines its two predictions [default: cfg]: {}", rules.collect::<Vec<_>>().join("; "))
}

fn generator_help() -> String {
    let generators = GENERATORS.iter().map(|generator| format!("{} ({})", generator.name, generator.about));
    format!("Where noise comes from [default: torch_cpu]: {}", generators.collect::<Vec<_>>().join("; "))
}

fn long_prompts_help() -> String {
    let ways = LongPrompts::ALL.map(|way| format!("{} ({})", way.name(), way.about()));
    format!("What becomes of prompts that are longer than the model reads at once [default: cut]: {}", ways.join("; "))
}

fn format(name: &str) -> Result<Format, String> {
    let found = Format::ALL.into_iter().find(|format| format.name() == name);
    found.ok_or_else(|| "expected png, jpeg or webp".into())
}
