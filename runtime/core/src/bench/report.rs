//! What a benchmark writes down: every raw sample, what they add up to, and whether they can be trusted.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fmt, io};

use serde::{Deserialize, Serialize};

use super::field;
use crate::bounded::{self, Unread};
use crate::machine::Machine;
use crate::memory::StageMemory;
use crate::sensor::{Contention, Energy, Source, State, Throttling, Timeline};
use crate::stage::{Precision, Stage};
use crate::stats::Distribution;
use crate::{Error, ErrorKind, Result, hash, picture};

/// A benchmark of one model on one device. It is written after each case: what an interruption leaves is whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(title = "Report of safelight bench", extend("$id" = "urn:safelight-bench:1")))]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The form of this file, [`Report::SCHEMA`].
    #[cfg_attr(test, schemars(extend("const" = Report::SCHEMA)))]
    pub schema: String,
    /// When it was begun, as RFC 3339 in UTC.
    pub created: String,
    /// Whether every case was measured: an interruption leaves it false.
    pub finished: bool,
    /// What measured.
    pub tool: Tool,
    /// The ONNX Runtime that ran.
    pub library: LibraryUsed,
    /// The device.
    pub machine: Machine,
    /// Its state before the first case.
    pub state: State,
    /// What of that state should be otherwise, and what was told while graphs were opened and images made.
    pub warnings: Vec<String>,
    /// What only people know: ambient temperature, cooling, power supply.
    pub notes: Vec<String>,
    /// How graphs were run.
    pub target: TargetUsed,
    /// What was run.
    pub model: ModelUsed,
    /// How it was measured. A sustained case lasts ten minutes, unless a duration was asked for, and a cold one has eleven
    /// processes at least.
    pub protocol: Protocol,
    /// Every sensor that was looked for.
    pub sensors: Vec<Source>,
    /// What was measured, in order.
    pub cases: Vec<Case>,
}

/// What measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Its version.
    pub safelight: String,
    /// Whether it was built with optimisation; a report of one that was not is invalid.
    pub release: bool,
    /// The arguments that it was given.
    pub arguments: Vec<String>,
}

/// The ONNX Runtime that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LibraryUsed {
    /// Its version.
    pub version: String,
    /// Its file's name.
    pub file: String,
    /// SHA-256 of its file; empty where the system's loader found it, which does not tell where.
    pub sha256: String,
}

/// How graphs were run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TargetUsed {
    /// The target's name.
    pub name: String,
    /// Its title.
    pub title: String,
    /// All that holds, with what it extends and what arguments changed.
    pub settings: serde_json::Value,
}

/// What was run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ModelUsed {
    /// The model's name.
    pub name: String,
    /// Its title.
    pub title: String,
}

/// How it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// Requests that are made in turn: other words and another seed each, the same in every run.
    pub requests: usize,
    /// SHA-256 over these words and seeds.
    pub requests_sha256: String,
    /// Fresh processes that a case's cold phases are measured in.
    pub cold_processes: usize,
    /// Least and most images before those that count.
    pub warm_up_images: [usize; 2],
    /// Two images in a row may differ by this share when warm.
    pub warm_up_tolerance: f64,
    /// Least images of the headline pass.
    pub least_images: usize,
    /// Least seconds of the headline pass.
    pub least_seconds: f64,
    /// Seconds after which a headline pass ends with fewer images.
    pub most_seconds: f64,
    /// Images of the second pass, which looks at stages and steps.
    pub detailed_images: usize,
    /// Pictures that are compared with the reference.
    pub compared_pictures: usize,
    /// Readings of each sensor a second.
    pub readings_per_second: f64,
    /// A run is invalid where others took more than this share of all processors' time.
    pub most_contention: f64,
    /// A run is not steady where the median of its last quarter is further from its first quarter's than this share.
    pub most_drift: f64,
    /// It is waited until the device is no hotter than this, in °C, before each case.
    pub start_celsius: Option<f64>,
}

/// What kind of use a case stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// One image after the other, each asked for when the one before is there: latency.
    SingleStream,
    /// All images are there to be made at once: images a second.
    Offline,
    /// A fresh process an image: what a command line or a restarted device takes.
    Cold,
    /// One image after the other for long enough to heat the device.
    Sustained,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::SingleStream, Self::Offline, Self::Cold, Self::Sustained];

    /// Its name in arguments and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::SingleStream => "single-stream",
            Self::Offline => "offline",
            Self::Cold => "cold",
            Self::Sustained => "sustained",
        }
    }
}

/// What a case asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// The kind of use.
    pub scenario: Scenario,
    /// What the denoiser's weights are in.
    pub precision: Precision,
    /// Steps of each image.
    pub steps: usize,
    /// Width of each image in pixels.
    pub width: usize,
    /// Its height.
    pub height: usize,
    /// Images that go through the graphs together.
    pub batch: usize,
    /// The sampler.
    pub sampler: String,
}

/// One workload, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What was asked for.
    pub workload: Workload,
    /// Why nothing, or not everything, could be measured; absent where all was.
    pub error: Option<String>,
    /// The graphs that ran.
    pub graphs: BTreeMap<Stage, GraphUsed>,
    /// Fresh processes, one after the other.
    pub cold: Vec<ColdStart>,
    /// Milliseconds of each image before those that count.
    pub warm_up_ms: Vec<f64>,
    /// The headline pass: nothing but whole images is looked at.
    pub images: Images,
    /// The second pass: stages and steps are looked at.
    pub detailed: Vec<Detailed>,
    /// What they add up to; absent where no image was made.
    pub summary: Option<Summary>,
    /// Memory of a fresh process; absent where the system does not tell.
    pub memory: Option<MemoryUsed>,
    /// What sensors told during the headline pass.
    pub timeline: Timeline,
    /// Energy of the headline pass; absent where nothing measures it.
    pub energy: Option<Energy>,
    /// Whether the device was slowed down during the headline pass.
    pub throttling: Throttling,
    /// What else kept the machine busy during the headline pass.
    pub contention: Contention,
    /// How right the pictures are; absent where it was not asked for.
    pub quality: Option<Quality>,
    /// Whether the numbers can be trusted.
    pub validity: Validity,
    /// What would make them better.
    pub advice: Vec<String>,
}

/// A graph that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GraphUsed {
    /// What its weights are in.
    pub precision: Precision,
    /// SHA-256 of its file.
    pub sha256: String,
    /// Execution providers that the session was given, best first.
    pub providers: Vec<String>,
    /// Nodes that each provider was given; empty where the library does not tell.
    pub nodes: BTreeMap<String, usize>,
}

/// One fresh process, from its start to its first image. Milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ColdStart {
    /// Until safelight's own code runs.
    pub process_ms: f64,
    /// Finding the library, verifying hashes, opening graphs.
    pub open_ms: f64,
    /// The first image, once all that is open.
    pub first_image_ms: f64,
    /// From the process's start to its first image, with what lies between.
    pub total_ms: f64,
    /// The most that was resident, in bytes.
    pub peak_bytes: Option<u64>,
    /// What became of graphs in the target's cache, such as `hit` or `built`; empty where nothing is kept.
    pub cache: BTreeMap<Stage, String>,
}

/// Images of the headline pass.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// When each was begun, in seconds since the pass was.
    pub start_s: Vec<f64>,
    /// What each took: of a batch, the whole batch's time.
    pub ms: Vec<f64>,
    /// What came out: for each request, its pixels' SHA-256 and how often they came. Two hashes of one request are no
    /// repeatable result.
    pub outputs: Vec<OutputHash>,
    /// Numbers that were not finite. Such an image is an error, which ends the case.
    pub non_finite: usize,
}

/// Pixels that came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OutputHash {
    /// Index of the request, from 0.
    pub request: usize,
    /// SHA-256 of the pixels, RGB8, row by row.
    pub sha256: String,
    /// How often they came.
    pub count: usize,
}

/// An image whose stages and steps were looked at. Milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Detailed {
    /// All of it.
    pub total_ms: f64,
    /// Opening staged graphs and giving them back.
    pub reopen_ms: f64,
    /// Words to hidden states.
    pub text_encoder_ms: f64,
    /// All steps.
    pub denoiser_ms: f64,
    /// Each step.
    pub steps_ms: Vec<f64>,
    /// Latent to pixels.
    pub decoder_ms: f64,
    /// What went neither into graphs nor into opening them: safelight's own time.
    pub own_ms: f64,
}

/// What a case's samples add up to. Milliseconds, unless they say otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The headline: an image, from words to pixels; of a cold case, from the process's start.
    pub image: Distribution,
    /// Images a second, without what lies between two of them: that is what measures.
    pub images_per_second: f64,
    /// By the name of a stage, with `own` for what is safelight's own: what it takes an image; from the second pass.
    pub stages: BTreeMap<String, Distribution>,
    /// Each step, from the first; from the second pass.
    pub steps: Vec<Distribution>,
    /// By how much of the first quarter's median the last quarter's is more; absent of fewer than 16 images.
    pub drift: Option<f64>,
    /// Images that took longer than the median by more than 5 times the usual deviation (1.4826·MAD).
    pub outliers: usize,
    /// How speed holds over time; of sustained cases of two minutes or more.
    pub sustained: Option<Sustained>,
}

/// How speed holds over time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Sustained {
    /// Median of the images begun in the first minute, in ms.
    pub first_minute_ms: f64,
    /// Median of those begun in the last, in ms.
    pub last_minute_ms: f64,
    /// The first over the second: 1 where no speed was lost.
    pub retention: f64,
}

/// Memory of a fresh process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MemoryUsed {
    /// The most that was resident, in bytes: of the cold processes and of the one that made all images, whose arenas grow.
    pub peak_bytes: u64,
    /// Around each stage, of the last of these processes.
    pub stages: BTreeMap<Stage, StageMemory>,
    /// Memory of an accelerator in use while images were made, in bytes; absent where nothing tells.
    pub device_bytes: Option<u64>,
}

/// How right pictures are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// The model's own goldens in this precision; absent where it has none.
    pub goldens: Option<GoldensHeld>,
    /// What pictures were compared with, such as `fp32 on the CPU`; absent where there is nothing better.
    pub reference: Option<String>,
    /// Each picture that was compared.
    pub pictures: Vec<PictureHeld>,
    /// Whether nothing is beyond its bound; absent where nothing could be compared.
    pub passed: Option<bool>,
    /// What could not be compared, and why.
    pub notes: Vec<String>,
}

/// A model's goldens, held to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GoldensHeld {
    /// How many were made.
    pub made: usize,
    /// How many are beyond their bound, or broken.
    pub failed: usize,
    /// Least PSNR of them in dB; absent where every pixel is the same.
    pub least_psnr_db: Option<f64>,
    /// The most that a final latent is off, as relative L2 distance.
    pub most_latent_l2: Option<f64>,
    /// Where the first that failed parts from what is known.
    pub first_divergence: Option<String>,
}

/// A picture beside the reference's of the same words and noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PictureHeld {
    /// The words.
    pub prompt: String,
    /// The seed.
    pub seed: u64,
    /// Peak signal-to-noise ratio in dB; absent where every pixel is the same.
    pub psnr_db: Option<f64>,
    /// How far the final latent is off, as relative L2 distance.
    pub latent_l2: f64,
    /// How far each step's estimate is off, as relative L2 distance.
    pub steps_l2: Vec<f64>,
    /// The picture's file, beside the report.
    pub file: Option<String>,
    /// The reference's file, beside the report.
    pub reference_file: Option<String>,
}

/// Whether a case's numbers can be trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Validity {
    /// Whether no check failed.
    pub valid: bool,
    /// Why not, one sentence a check that failed.
    pub reasons: Vec<String>,
    /// By the check's name: whether it held; nothing where it could not be made.
    pub checks: BTreeMap<String, Option<bool>>,
}

impl Case {
    /// A case of which nothing is known yet.
    pub fn of(workload: Workload) -> Self {
        Self {
            workload,
            error: None,
            graphs: BTreeMap::new(),
            cold: Vec::new(),
            warm_up_ms: Vec::new(),
            images: Images::default(),
            detailed: Vec::new(),
            summary: None,
            memory: None,
            timeline: Timeline::default(),
            energy: None,
            throttling: Throttling::default(),
            contention: Contention::default(),
            quality: None,
            validity: Validity::default(),
            advice: Vec::new(),
        }
    }
}

impl LibraryUsed {
    /// What is known of a library that was opened.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where its file cannot be read.
    pub fn of(path: &Path, version: &str) -> Result<Self> {
        let unread = |e| Error::io(format!("{}: cannot be read: {e}", path.display()));
        // The system's loader does not tell where it found a bare name.
        let sha256 = if path.is_absolute() { hash::of_file(path).map_err(unread)? } else { String::new() };
        let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { version: version.into(), file, sha256 })
    }
}

impl Report {
    /// The only value of the field `schema`.
    pub const SCHEMA: &'static str = "safelight-bench/1";

    /// Longest file that is read or written, in bytes: over a million images.
    pub const MAX_BYTES: u64 = 64 << 20;

    /// Reads a report, which may come from another device or from a stranger.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where it cannot be read; [`ErrorKind::Limit`] beyond [`Report::MAX_BYTES`];
    /// [`ErrorKind::Usage`] where it is no report, or one of another schema, naming the field.
    pub fn read(path: &Path) -> Result<Self> {
        let text = bounded::read(path, Self::MAX_BYTES).map_err(|unread| match unread {
            Unread::Failed(error) if error.kind() == io::ErrorKind::IsADirectory => {
                Error::io("is a folder; give the report in it, such as report.json")
            }
            Unread::Failed(_) => Error::io(unread.to_string()),
            Unread::TooLong(_) => Error::limit(unread.to_string()),
            Unread::NotText(_) => Error::usage(unread.to_string()),
        });
        text.and_then(|text| Self::parse(&text)).map_err(|error| error.context(path.display()))
    }

    /// Reads the text of a report.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] as [`Report::read`].
    pub fn parse(text: &str) -> Result<Self> {
        check_schema(text)?;
        let reader = &mut serde_json::Deserializer::from_str(text);
        let report = Self::deserialize(&mut *reader).map_err(|error| {
            let field = field::at(text, (error.line(), error.column()));
            Error::usage(format!("{field}: {error}"))
        })?;
        reader.end().map_err(|error| Error::usage(format!("something follows the report: {error}")))?;
        for (index, case) in report.cases.iter().enumerate() {
            case.check().map_err(|error| error.context(format!("cases[{index}]")))?;
        }
        Ok(report)
    }

    /// Writes it as JSON, whole or not at all, and waits until the disk has it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where it cannot be written; [`ErrorKind::Limit`]
    /// where [`Report::read`] would refuse its length, [`ErrorKind::Internal`] where a number is not finite.
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = |reason: String| Error::new(ErrorKind::Internal, format!("{}: {reason}", path.display()));
        let text = serde_json::to_string(self).map_err(|e| failed(format!("no report can be made: {e}")))? + "\n";
        if text.len() as u64 > Self::MAX_BYTES {
            let told = format!("{}: the report would be longer than {} bytes", path.display(), Self::MAX_BYTES);
            return Err(Error::limit(format!("{told}; measure fewer images, or fewer cases at a time")));
        }
        // JSON has no NaN: one would be written as null, and found by whoever reads the report.
        Self::parse(&text).map_err(|e| failed(format!("the report could not be read back: {e}")))?;
        picture::save_durably(path, text.as_bytes())
    }
}

/// What a file says of its own form; the rest is not looked at.
#[derive(Deserialize)]
struct Form {
    schema: Option<serde_json::Value>,
}

/// Refuses other forms than [`Report::SCHEMA`] before their fields are told as faults.
fn check_schema(text: &str) -> Result<()> {
    let refuse = |found: String| Err(Error::usage(format!("is no benchmark report: {found}")));
    let schema = match serde_json::from_str::<Form>(text) {
        Ok(Form { schema: Some(serde_json::Value::String(schema)) }) => schema,
        Ok(_) => return refuse(format!("it has no field schema, which would be \"{}\"", Report::SCHEMA)),
        Err(error) => return refuse(error.to_string()),
    };
    let (family, ours) = Report::SCHEMA.rsplit_once('/').unwrap_or_default();
    let theirs = schema.strip_prefix(family).and_then(|rest| rest.strip_prefix('/')?.parse::<u32>().ok());
    match (theirs, ours.parse::<u32>()) {
        _ if schema == Report::SCHEMA => Ok(()),
        (Some(theirs), Ok(ours)) if theirs > ours => {
            Err(Error::usage(format!("its schema is {schema}: made by a newer safelight; read it with that one")))
        }
        _ => refuse(format!("its schema is \"{schema}\", not \"{}\"", Report::SCHEMA)),
    }
}

impl Case {
    /// What a case is about, in ms, in the order in which it was measured: whole images; of a cold case whole processes.
    pub fn times_ms(&self) -> Vec<f64> {
        match self.workload.scenario {
            Scenario::Cold => super::summary::built_nothing(&self.cold).map(|start| start.total_ms).collect(),
            _ => self.images.ms.clone(),
        }
    }

    /// Energy of an image in J; nothing where nothing measured it.
    pub fn joules_per_image(&self) -> Option<f64> {
        let images = self.summary.as_ref()?.image.n as f64 * self.workload.batch as f64;
        Some(self.energy.as_ref()?.joules / images).filter(|joules| joules.is_finite())
    }
}

impl Quality {
    /// Where nothing could be compared.
    pub fn unknown(why: String) -> Self {
        Self { goldens: None, reference: None, pictures: Vec::new(), passed: None, notes: vec![why] }
    }

    /// The least peak signal-to-noise ratio in dB of pictures beside their reference, or of the goldens where no picture
    /// was compared: infinite where every pixel is the same. Nothing where nothing was compared.
    pub fn least_psnr_db(&self) -> Option<f64> {
        let or_same = |psnr_db: Option<f64>| psnr_db.unwrap_or(f64::INFINITY);
        let goldens = self.goldens.as_ref().filter(|goldens| goldens.made > 0);
        let pictures = self.pictures.iter().map(|picture| or_same(picture.psnr_db)).reduce(f64::min);
        pictures.or_else(|| Some(or_same(goldens?.least_psnr_db)))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, precision, steps, width, height, batch, sampler } = self;
        let plural = if *steps == 1 { "" } else { "s" };
        write!(f, "{} {precision}, {steps} step{plural}, {width}×{height}, {sampler}", scenario.name())?;
        if *batch > 1 { write!(f, ", {batch} at once") } else { Ok(()) }
    }
}

impl Case {
    /// What no type says: columns are equally long, times are more than nothing.
    fn check(&self) -> Result<()> {
        let Images { start_s, ms, .. } = &self.images;
        let refuse = |told: String| Err(Error::usage(told));
        if start_s.len() != ms.len() {
            return refuse(format!("images: start_s has {} numbers, but ms has {}", start_s.len(), ms.len()));
        }
        if let Some(wrong) = ms.iter().find(|ms| **ms <= 0.0) {
            return refuse(format!("images.ms: {wrong} is no time that an image can take"));
        }
        let rows = self.timeline.seconds.len();
        match self.timeline.values.iter().find(|(_, column)| column.len() != rows) {
            Some((name, column)) => {
                refuse(format!("timeline.values[{name:?}] has {} rows, but seconds has {rows}", column.len()))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use schemars::transform::Transform as _;

    use super::*;

    #[test]
    fn the_schema_of_results_is_that_of_the_types() {
        let mut schema = schemars::schema_for!(Report);
        schemars::transform::RecursiveTransform(unlink).transform(&mut schema);
        crate::target_file::schema::keep("docs/results/report.schema.json", &schema);
    }

    /// Takes the brackets of rustdoc's links off what is said: nothing follows them here.
    fn unlink(schema: &mut schemars::Schema) {
        if let Some(serde_json::Value::String(about)) = schema.get_mut("description") {
            *about = about.replace("[`", "`").replace("`]", "`");
        }
    }
}
