//! The process that is measured: opens a model, makes images as it is told, and tells what each took.
//!
//! What measures is another process, so that its own memory, threads and files have no part in what is measured, and a
//! crash of a provider ends one case and no more.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::report::{Detailed, GraphUsed, Workload};
use super::{Executor, Look, Made, requests};
use crate::cancel::Cancel;
use crate::child::{Child, Input, PATIENCE, advice, describe};
use crate::graph::Opened;
use crate::library::Library;
use crate::memory::{Memory, Reading, StageMemory};
use crate::model::Model;
use crate::pipeline::{Output, Pipeline, Timings};
use crate::stage::Stage;
use crate::target::Target;
use crate::{Error, ErrorKind, Result, hash};

/// What a worker is to do, on the first line of its standard input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Errand {
    /// The model's folder.
    pub model: PathBuf,
    /// What each image is.
    pub workload: Workload,
    /// Whether memory is read around each stage.
    pub watches_memory: bool,
}

/// What a worker is asked, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    /// Make the images of these requests, one after the other.
    Make { requests: Vec<usize>, look: Look },
    /// Tell what is known in the end.
    End,
}

/// What a worker tells, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// safelight's own code runs.
    Started,
    /// All is open.
    Opened { open_ms: f64 },
    /// Requests were made.
    Made(Vec<Made>),
    /// What is known in the end.
    Ended(Box<Ended>),
    /// It cannot go on.
    Failed { kind: ErrorKind, message: String },
}

/// What a worker knows in the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The ONNX Runtime that it opened.
    pub library: PathBuf,
    /// That library's version.
    pub version: String,
    /// The graphs that ran.
    pub graphs: BTreeMap<Stage, GraphUsed>,
    /// What became of graphs in the target's cache.
    pub cache: BTreeMap<Stage, String>,
    /// Where a graph's best provider was not used: the stage, and what was told.
    pub fallen_back: Vec<String>,
    /// What was told as warnings.
    pub warnings: Vec<String>,
    /// The most that was resident, in bytes.
    pub peak_bytes: Option<u64>,
    /// Memory around each stage, where it was watched.
    pub stages: BTreeMap<Stage, StageMemory>,
}

/// A worker process, from the side of what measures.
pub struct Worker {
    child: Child,
    input: Option<Input>,
    lines: Receiver<Line>,
    words: Option<JoinHandle<String>>,
    cancel: Cancel,
    began: Instant,
    process_ms: f64,
    open_ms: f64,
}

impl Worker {
    /// Starts a worker, and waits until all is open. `arguments` are its whole command line: the hidden subcommand, and which
    /// target, library and precision it is to use.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where it cannot be started; what it fails of itself, with the same kind; how it died;
    /// [`ErrorKind::Cancelled`].
    pub fn start(program: &Path, arguments: &[OsString], errand: &Errand, cancel: &Cancel) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments);
        let began = Instant::now();
        let mut child = Child::start(command).map_err(|e| {
            let advice = advice(&e).map(|advice| format!("; {advice}")).unwrap_or_default();
            Error::io(format!("{} cannot be started to be measured: {e}{advice}", program.display()))
        })?;
        let (input, lines, words) = (child.input(), child.lines()?, child.last_words()?);
        let mut worker =
            Self { child, input, lines, words, cancel: cancel.clone(), began, process_ms: 0.0, open_ms: 0.0 };
        worker.say(errand)?;
        match worker.hear()? {
            Line::Started => worker.process_ms = milliseconds(began.elapsed()),
            other => return Err(unexpected(&other)),
        }
        match worker.hear()? {
            Line::Opened { open_ms } => {
                worker.open_ms = open_ms;
                // This process may have been woken late for the first line, and for this one: the earlier end of what came
                // before is nearer to the truth, and no time counts twice.
                worker.process_ms = worker.process_ms.min(milliseconds(began.elapsed()) - open_ms).max(0.0);
            }
            other => return Err(unexpected(&other)),
        }
        Ok(worker)
    }

    /// Milliseconds from the process's start until safelight's own code ran.
    pub fn process_ms(&self) -> f64 {
        self.process_ms
    }

    /// Milliseconds that finding the library, verifying hashes and opening graphs took.
    pub fn open_ms(&self) -> f64 {
        self.open_ms
    }

    /// Its number in the system.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it, and returns what it knows then.
    ///
    /// # Errors
    /// As [`Worker::start`].
    pub fn end(mut self) -> Result<Ended> {
        self.say(&Ask::End)?;
        match self.hear()? {
            Line::Ended(ended) => Ok(*ended),
            other => Err(unexpected(&other)),
        }
    }

    fn say(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("a line to a process that is measured: {e}")))?;
        text.push('\n');
        // One that has died is heard of next.
        let _ = self.input.as_mut().map(|pipe| pipe.write_all(text.as_bytes()).and_then(|()| pipe.flush()));
        Ok(())
    }

    fn hear(&mut self) -> Result<Line> {
        loop {
            self.cancel.check()?;
            match self.lines.recv_timeout(PATIENCE) {
                Ok(Line::Failed { kind, message }) => return Err(Error::new(kind, message)),
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => return Err(self.death()),
            }
        }
    }

    fn death(&mut self) -> Error {
        let how = match self.child.wait(Instant::now() + GRACE, &self.cancel) {
            Err(e) => return e,
            Ok(None) => "something that closed its output".into(),
            Ok(Some(status)) => describe(status),
        };
        let words = self.words.take().and_then(|words| words.join().ok()).unwrap_or_default();
        let advice = "where it was SIGKILL, memory may have run out: try safelight generate --plan";
        Error::new(ErrorKind::Library, format!("the process that is measured died of {how}{words}; {advice}"))
    }
}

/// How long a process that has closed its output may take to end.
const GRACE: Duration = Duration::from_secs(2);

impl Executor for Worker {
    fn make(&mut self, request: usize, look: Look) -> Result<Made> {
        let made = self.make_each(&[request], look)?.pop();
        made.ok_or_else(|| Error::new(ErrorKind::Internal, "a process that is measured made nothing"))
    }

    fn make_each(&mut self, requests: &[usize], look: Look) -> Result<Vec<Made>> {
        self.say(&Ask::Make { requests: requests.to_vec(), look })?;
        match self.hear()? {
            Line::Made(made) if made.len() == requests.len() => Ok(made),
            other => Err(unexpected(&other)),
        }
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

fn unexpected(line: &Line) -> Error {
    Error::new(ErrorKind::Internal, format!("a process that is measured told {line:?} out of turn"))
}

/// Longest line that a worker reads, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// Is a worker: reads its errand from standard input, opens what `open` gives, makes what it is asked for, and tells on
/// standard output.
///
/// # Errors
/// [`ErrorKind::Usage`] where nobody says what to do. All else is told to whoever asked.
pub fn serve(open: impl FnOnce(&Errand) -> Result<(Target, Model)>) -> Result<()> {
    end_with_parent();
    say(&Line::Started);
    let mut input = BufReader::new(io::stdin());
    let errand: Errand = read(&mut input)?
        .ok_or_else(|| Error::usage("standard input says nothing to measure; safelight bench starts this itself"))?;
    if let Err(e) = work(&errand, open, &mut input) {
        say(&Line::Failed { kind: e.kind(), message: e.to_string() });
    }
    Ok(())
}

/// Nobody waits for what this process measures once the one that asked is gone, however that went. It is started by the
/// main thread, whose end is the process's; where the system cannot do it, the end of standard input does, later.
fn end_with_parent() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

fn work(
    errand: &Errand,
    open: impl FnOnce(&Errand) -> Result<(Target, Model)>,
    input: &mut BufReader<io::Stdin>,
) -> Result<()> {
    let began = Instant::now();
    let (target, model) = open(errand)?;
    let mut requests: Vec<_> =
        (0..requests::COUNT).map(|index| requests::request(&model, &errand.workload, index)).collect();
    let mut pipeline = Pipeline::open_for(&target, &model, &requests[0])?;
    if errand.watches_memory {
        pipeline.measure_memory();
    }
    say(&Line::Opened { open_ms: milliseconds(began.elapsed()) });
    let (mut warnings, mut memory) = (Vec::new(), None);
    loop {
        match read(input)? {
            Some(Ask::Make { requests: asked, look }) => {
                let mut made = Vec::with_capacity(asked.len());
                for request in asked {
                    let begun = began.elapsed();
                    let output = pipeline.generate(&requests[request % requests::COUNT])?;
                    // Nothing of it is kept: the next image is to find memory as this one did.
                    made.push(told(begun, began.elapsed() - begun, &output, look));
                    memory = output.memory.or(memory);
                    for warning in output.warnings {
                        if !warnings.contains(&warning) {
                            warnings.push(warning);
                        }
                    }
                }
                say(&Line::Made(made));
            }
            Some(Ask::End) => {
                say(&Line::Ended(Box::new(ended(&pipeline, &target, warnings, memory)?)));
                break;
            }
            None => break,
        }
    }
    requests.clear();
    // The process ends here: giving back every buffer of every graph first would only take time.
    std::mem::forget(pipeline);
    Ok(())
}

fn told(begun: Duration, took: Duration, output: &Output, look: Look) -> Made {
    let ms = whole_micros(milliseconds(took));
    let mut hash = Sha256::new();
    output.pictures.iter().for_each(|picture| hash.update(picture.pixels.as_raw()));
    let detailed = (look == Look::StagesAndSteps).then(|| detailed(ms, &output.timings));
    Made { begun_s: begun.as_secs_f64(), ms, sha256: hash::hex(&hash.finalize()), detailed }
}

fn detailed(ms: f64, timings: &Timings) -> Detailed {
    Detailed {
        total_ms: ms,
        reopen_ms: whole_micros(timings.reopen_ms),
        text_encoder_ms: whole_micros(timings.text_encoder_ms),
        denoiser_ms: whole_micros(timings.denoiser_ms),
        steps_ms: timings.steps_ms.iter().copied().map(whole_micros).collect(),
        decoder_ms: whole_micros(timings.decoder_ms),
        own_ms: whole_micros(timings.own_ms()),
    }
}

fn ended(pipeline: &Pipeline, target: &Target, warnings: Vec<String>, memory: Option<Memory>) -> Result<Ended> {
    let (library, graphs) = (Library::open(None)?, pipeline.graphs());
    let fallen_back = graphs.iter().filter_map(|(stage, opened)| fallen_back(*stage, opened, target));
    let cache = graphs.iter().filter_map(|(stage, opened)| Some((*stage, opened.cached.as_ref()?.outcome.to_string())));
    let peak = Reading::now().map(|reading| reading.peak);
    Ok(Ended {
        library: library.path().to_path_buf(),
        version: library.version().to_owned(),
        fallen_back: fallen_back.collect(),
        cache: cache.collect(),
        graphs: graphs.iter().map(|(stage, opened)| (*stage, used(opened))).collect(),
        warnings,
        peak_bytes: peak.max(memory.as_ref().map(|memory| memory.process.peak)),
        stages: memory.map(|memory| memory.stages).unwrap_or_default(),
    })
}

fn used(opened: &Opened) -> GraphUsed {
    GraphUsed {
        precision: opened.precision,
        sha256: opened.sha256.clone(),
        providers: opened.providers.iter().map(ToString::to_string).collect(),
        nodes: opened.nodes.clone(),
    }
}

/// What a stage runs on instead of what its target wants first.
fn fallen_back(stage: Stage, opened: &Opened, target: &Target) -> Option<String> {
    let wanted = target.stage(stage).providers.first()?.name;
    let first = opened.providers.first()?;
    let why = opened.warnings.first().map(|warning| format!(": {warning}")).unwrap_or_default();
    (*first != wanted).then(|| format!("{stage} is to run on {wanted} and ran on {first}{why}"))
}

/// The next line; nothing once whoever asked is gone.
fn read<T: for<'a> Deserialize<'a>>(input: &mut BufReader<io::Stdin>) -> Result<Option<T>> {
    let mut line = String::new();
    let read = input.take(MAX_LINE).read_line(&mut line);
    read.map_err(|e| Error::usage(format!("standard input cannot be read: {e}")))?;
    if line.is_empty() {
        return Ok(None);
    }
    let told = |e| Error::usage(format!("a line on standard input that is none of safelight bench's: {e}"));
    serde_json::from_str(&line).map(Some).map_err(told)
}

/// Nobody to tell is no reason to stop: the other end of standard input says that.
fn say(line: &Line) {
    let Ok(text) = serde_json::to_string(line) else { return };
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// To a thousandth: finer digits say nothing, and make a report twice as long.
fn whole_micros(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
