//! What measuring itself costs: images of `safelight bench`'s worker, while sensors are read 10 times a second, against
//! those of a loop over `Pipeline::generate` in a process that nothing looks at.
//!
//!     cargo bench --bench overhead -- --minutes 4
//!
//! Every round starts a process of each kind, warms both, and has them make blocks of images in turn, ABBA BAAB ABBA, so
//! that what else the machine does disturbs both alike. Told is the ratio of the medians of a round's images, and that of its seconds an image seen from outside, hashes and
//! pipes included: the median over rounds, and its 95 % interval.

#![allow(clippy::print_stdout, reason = "it tells what it measured")]

use std::error::Error;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use safelight::bench::report::{Scenario, Workload};
use safelight::bench::worker::{Errand, serve};
use safelight::bench::{Executor as _, Look, Worker, requests};
use safelight::sensor::contention::Watch;
use safelight::sensor::{Recorder, Sensors};
use safelight::stats::Distribution;
use safelight::{Cancel, Model, Pipeline, Precision, Target};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Seconds of a block, about.
const BLOCK_SECONDS: f64 = 1.0;
/// Whose blocks follow each other in a round: the bare loop's where it is true.
const TURNS: [bool; 12] = [true, false, false, true, false, true, true, false, true, false, false, true];
const WARM_UP: usize = 6;
const IN_BLOCK: usize = 16;
/// A loop that never waits is put behind by others more than a process that waits for its next line: beyond this share of
/// all processors' time, nothing is told.
const MOST_CONTENTION: f64 = 0.05;
/// The most that measuring may cost.
const BOUND: f64 = 1.01;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bare"] => bare(),
        ["worker"] => Ok(serve(|errand| Ok((target()?, Model::open(&errand.model)?)))?),
        ["--minutes", minutes] => measure(Duration::from_secs_f64(60.0 * minutes.parse::<f64>()?)),
        _ => {
            println!(
                "overhead: takes minutes, so that it is to be asked for: cargo bench --bench overhead -- --minutes 4"
            );
            Ok(())
        }
    }
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emoji")
}

fn target() -> safelight::Result<Target> {
    Target::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("targets/generic-cpu.yaml"))
}

fn workload(model: &Model) -> Workload {
    Workload {
        scenario: Scenario::SingleStream,
        precision: Precision::Int8,
        steps: model.defaults.steps,
        width: model.picture.width,
        height: model.picture.height,
        batch: 1,
        sampler: model.defaults.sampler.clone(),
    }
}

/// The loop that nothing looks at: reads how many images are wanted, a line each time, and tells what each took, in ms.
fn bare() -> Result<()> {
    let model = Model::open(&model())?;
    let workload = workload(&model);
    let requests: Vec<_> = (0..requests::COUNT).map(|index| requests::request(&model, &workload, index)).collect();
    let mut pipeline = Pipeline::open_for(&target()?, &model, &requests[0])?;
    let mut next = requests.iter().cycle();
    for line in std::io::stdin().lines() {
        let mut took = Vec::new();
        for request in next.by_ref().take(line?.parse()?) {
            let start = Instant::now();
            let output = pipeline.generate(request)?;
            took.push(milliseconds(start));
            drop(output);
        }
        println!("{}", serde_json::to_string(&took)?);
    }
    Ok(())
}

/// A block of images: what each took, and what all took as seen from outside, in ms.
struct Block {
    images: Vec<f64>,
    whole: f64,
}

struct Bare(Child, BufReader<ChildStdout>);

impl Bare {
    fn start() -> Result<Self> {
        let mut child =
            Command::new(std::env::current_exe()?).arg("bare").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self(child, output))
    }

    fn block(&mut self, images: usize) -> Result<Block> {
        let start = Instant::now();
        let input = self.0.stdin.as_mut().ok_or("no pipe")?;
        writeln!(input, "{images}")?;
        let mut line = String::new();
        self.1.read_line(&mut line)?;
        Ok(Block { images: serde_json::from_str(&line)?, whole: milliseconds(start) })
    }
}

impl Drop for Bare {
    /// The end of its input is the end of its work.
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

struct Measured {
    worker: Worker,
    sensors: Option<Sensors>,
    next: usize,
}

impl Measured {
    fn start(model: &Model) -> Result<Self> {
        let errand = Errand { model: self::model(), workload: workload(model), watches_memory: false };
        let worker = Worker::start(&std::env::current_exe()?, &["worker".into()], &errand, &Cancel::new())?;
        let sensors = Some(Sensors::find(Path::new("/"), &target()?.bench));
        Ok(Self { worker, sensors, next: 0 })
    }

    fn block(&mut self, images: usize) -> Result<Block> {
        let recorder = Recorder::start(self.sensors.take().ok_or("no sensors")?, Recorder::USUAL_RATE)?;
        let start = Instant::now();
        let mut took = Vec::new();
        while took.len() < images {
            // As many as the protocol has made before it is told of them.
            let requests: Vec<_> = (self.next..self.next + IN_BLOCK.min(images - took.len())).collect();
            took.extend(self.worker.make_each(&requests, Look::Image)?.iter().map(|made| made.ms));
            self.next += requests.len();
        }
        let whole = milliseconds(start);
        let (sensors, _) = recorder.stop();
        self.sensors = Some(sensors);
        Ok(Block { images: took, whole })
    }
}

fn measure(time: Duration) -> Result<()> {
    let (begun, model) = (Instant::now(), Model::open(&model())?);
    // Processes that have ended by then count as ours.
    let watch = Watch::begin(Path::new("/"), &[]);
    let (mut of_images, mut of_wholes, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
    while of_images.len() < 3 || begun.elapsed() + longest < time {
        let start = Instant::now();
        let (image, whole) = round(&model, of_images.len())?;
        of_images.push(image);
        of_wholes.push(whole);
        longest = longest.max(start.elapsed());
    }
    let others = watch.end().others;
    for (what, ratios) in [("an image", of_images), ("seconds an image, from outside", of_wholes)] {
        let told = Distribution::of(&ratios).ok_or("no round")?;
        println!("{what}: {}", ratio(&told));
        println!("  {}", verdict(&told, others));
    }
    Ok(())
}

/// Ratios of one round: of the medians of all images, and of all that the blocks took.
fn round(model: &Model, number: usize) -> Result<(f64, f64)> {
    let (mut bare, mut measured) = (Bare::start()?, Measured::start(model)?);
    measured.block(WARM_UP)?;
    let warm = median(&bare.block(WARM_UP)?.images)?;
    let images = (1000.0 * BLOCK_SECONDS / warm).ceil() as usize;
    let (mut a, mut b) = (Block { images: vec![], whole: 0.0 }, Block { images: vec![], whole: 0.0 });
    for is_bare in TURNS.map(|is_bare| is_bare == number.is_multiple_of(2)) {
        let (sum, block) = if is_bare { (&mut a, bare.block(images)?) } else { (&mut b, measured.block(images)?) };
        sum.images.extend(block.images);
        sum.whole += block.whole;
    }
    measured.worker.end()?;
    Ok((median(&b.images)? / median(&a.images)?, b.whole / a.whole))
}

fn ratio(told: &Distribution) -> String {
    let Distribution { n, p50, min, max, p50_interval, .. } = told;
    let interval = p50_interval.map(|[low, high]| format!(", 95 % interval {low:.4} to {high:.4}")).unwrap_or_default();
    format!("{p50:.4} of the bare loop's{interval} ({min:.4} to {max:.4}, {n} rounds)")
}

fn verdict(told: &Distribution, others: Option<f64>) -> String {
    match (others, told.p50_interval) {
        (Some(share), _) if share > MOST_CONTENTION => format!(
            "no measurement: others took {:.0} % of all processors' time; close what else runs, and repeat it",
            100.0 * share
        ),
        (_, Some([_, high])) if high <= BOUND => "at most 1 % is what it costs".into(),
        (_, Some([low, _])) if low > BOUND => "more than 1 % is what it costs".into(),
        _ => "whether that is at most 1 % cannot be told: give it more minutes".into(),
    }
}

fn median(samples: &[f64]) -> Result<f64> {
    Ok(Distribution::of(samples).ok_or("no image was made")?.p50)
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}
