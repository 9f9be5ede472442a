//! A model folder → a checked [`Model`]: our `model.yaml`, or a diffusers pipeline as Optimum exports it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::curve::Curve;
use crate::guidance::{GUIDANCES, LIMITS};
use crate::options::Options;
use crate::prompt_cache::{PromptCache, noted_encoders};
use crate::request::Request;
use crate::route::Sampling;
use crate::schedule::find_schedule;
use crate::stage::{Precision, Stage};
use crate::training::{Training, TrainingSpec};
use crate::trajectory::Relay;
use crate::{Error, Result, catalogue};

mod files;
mod manifest;
mod optimum;

pub use files::{DataFile, GraphFile};
pub(crate) use files::{Stamp, Verified};
pub(crate) use manifest::FILE as MANIFEST;
pub(crate) use optimum::FILE as INDEX;

/// A model, checked as far as is possible without opening a graph.
#[derive(Debug, Clone)]
pub struct Model {
    /// The name that requests use.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// SPDX expression, where it is known.
    pub licence: Option<String>,
    /// The folder.
    pub root: PathBuf,
    /// Graphs and tensor names of each stage that it has.
    pub stages: BTreeMap<Stage, StageFiles>,
    /// How pictures become latents.
    pub latent: LatentGeometry,
    /// Sizes that it makes.
    pub picture: PictureSize,
    /// How it was trained, as noise levels.
    pub training: Training,
    /// How prompts become token ids for each text encoder; none where no words steer it.
    pub tokenizers: BTreeMap<Stage, TokenizerFiles>,
    /// What an absent negative prompt is.
    pub empty_prompt: EmptyPrompt,
    /// Numbers that steer it, by the name that requests use.
    pub conditions: BTreeMap<String, Condition>,
    /// What a request that does not say gets.
    pub defaults: Defaults,
    /// What it was made for; outside of it a request is warned.
    pub range: Range,
    /// Requests whose numbers are known, to compare a device with.
    pub goldens: Vec<Golden>,
    /// What its files ask for and safelight does not do; told with every picture.
    pub warnings: Vec<String>,
}

/// The graphs of one stage.
#[derive(Debug, Clone, Default)]
pub struct StageFiles {
    /// One graph a precision.
    pub graphs: BTreeMap<Precision, GraphFile>,
    /// Tensor names of its graphs where they differ from Optimum's, by Optimum's name.
    pub tensors: BTreeMap<String, String>,
}

/// How pictures become latents.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentGeometry {
    /// Channels of a latent.
    pub channels: usize,
    /// Pixels a latent cell is wide and high.
    pub downscale: usize,
    /// A latent is divided by this before it is decoded.
    pub scale: f64,
    /// Added to it after that.
    #[serde(default)]
    pub shift: f64,
}

/// Sizes that a model makes, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureSize {
    /// Width unless a request says otherwise.
    pub width: usize,
    /// Height unless a request says otherwise.
    pub height: usize,
    /// Other sizes are multiples of this; absent where there are no other sizes.
    #[serde(default)]
    pub multiple: Option<usize>,
}

/// What an absent negative prompt is to guidance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptyPrompt {
    /// What the text encoders make of no words.
    #[default]
    Encoded,
    /// Zeros (`force_zeros_for_empty_prompt` of diffusers' SDXL).
    Zeros,
}

/// A further input of the denoiser's graph: one number a picture.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// What the graph calls it.
    pub tensor: String,
    /// What it means, in a few words.
    pub about: String,
    /// Whether it counts something, such as classes.
    #[serde(default)]
    pub whole: bool,
    /// Least and most.
    pub range: (f64, f64),
    /// What a request that does not say gets; absent where it must say.
    pub default: Option<f64>,
    /// What stands for none of them under guidance; may lie outside of the range.
    pub unguided: Option<f64>,
}

/// Where the vocabulary is, and how a prompt fills the encoder's window.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizerFiles {
    /// The vocabulary.
    pub vocabulary: Vocabulary,
    /// Length and special tokens of the window.
    pub window: crate::tokenizer::Window,
}

/// The two forms that a CLIP vocabulary comes in.
#[derive(Debug, Clone, PartialEq)]
pub enum Vocabulary {
    /// One `tokenizer.json`.
    TokenizerJson(PathBuf),
    /// `vocab.json` and `merges.txt`.
    VocabAndMerges(PathBuf, PathBuf),
}

/// What a request that does not say gets.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// A name from [`SAMPLERS`](crate::sampler::SAMPLERS), or several in turn; see [`Relay`].
    pub sampler: String,
    /// A name from [`SCHEDULES`](crate::schedule::SCHEDULES), for samplers that have none of their own.
    pub schedule: String,
    /// Number of steps.
    pub steps: usize,
    /// Guidance scale; 1 is off.
    pub guidance: f64,
    /// Names and values from [`OPTIONS`](crate::options::OPTIONS), for the default sampler.
    #[serde(default)]
    pub options: BTreeMap<String, Curve>,
}

/// What a model was made for.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Range {
    /// Fewest and most steps.
    pub steps: Option<(usize, usize)>,
    /// Smallest and largest guidance scale.
    pub guidance: Option<(f64, f64)>,
    /// Why, such as "distilled for 4 steps"; quoted in the warning.
    pub why: Option<String>,
}

/// A request whose numbers are known; all that it does not say is the model's default.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    /// What the picture shows.
    pub prompt: String,
    /// Numbers for the model's conditions.
    pub conditions: BTreeMap<String, f64>,
    /// Seed of the picture.
    pub seed: u64,
    /// Number of steps.
    pub steps: usize,
    /// Precision of the graphs that made the numbers, on the CPU.
    pub precision: Precision,
    /// A NumPy archive (`.npz`) of `initial` noise and final `latents`, `[1, channels, height, width]`, the denoised
    /// estimate of each of the `steps`, `[steps, 1, channels, height, width]`, and `images`, `[1, height, width, 3]`.
    pub numbers: DataFile,
    /// How far another precision may be from them, where it is not [`Bound::usual`].
    pub bounds: BTreeMap<Precision, Bound>,
}

/// How far numbers may be from those that are known.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// Largest relative L2 distance of a step's estimate and of the final latent.
    pub relative_l2: f64,
    /// Smallest peak signal-to-noise ratio of the picture, in dB.
    pub psnr_db: f64,
}

impl Golden {
    /// The request that made the numbers.
    pub fn request(&self) -> Request {
        Request {
            prompt: self.prompt.clone(),
            conditions: self.conditions.clone(),
            seed: self.seed,
            sampling: Sampling::in_steps(self.steps),
            ..Request::default()
        }
    }

    /// How far a device that runs graphs of `precision` may be.
    pub fn bound(&self, precision: Precision) -> Bound {
        self.bounds.get(&precision).copied().unwrap_or(Bound::usual(precision))
    }
}

impl Bound {
    /// The bound where nothing else is said.
    ///
    /// It is for goldens that FP16 graphs, or better ones, made on the CPU.
    ///
    /// - INT8: the shipped model's graphs against its FP16 graphs, 200 pictures each of 1, 2, 4 and 8 steps on an
    ///   x86-64 CPU with VNNI, ONNX Runtime 1.31.1: relative L2 of the worst step 0.06 to 0.07 in the middle and
    ///   0.165 at most; PSNR 35.7 to 37.4 dB in the middle, 31 to 33 dB at the 5th percentile, 26.5 dB at least
    ///   (`cargo test --test verify -- --ignored --nocapture`).
    /// - FP16: the three goldens of the shipped model on the same CPU, which computes them in FP32: at most 5.8e-4 and
    ///   at least 67 dB; through OpenVINO 1.24.1 1.1e-3 and 63.9 dB; through OpenVINO computing in BF16, which is eight
    ///   times coarser than half precision, 0.024 and 43.6 dB. The bound lets the last pass. No device that computes in
    ///   half precision itself was measured.
    /// - FP32: what `tests/reference.rs` holds whole pipelines to.
    pub fn usual(precision: Precision) -> Self {
        let (relative_l2, psnr_db) = match precision {
            Precision::Int8 => (0.2, 25.0),
            Precision::Fp16 => (0.05, 35.0),
            Precision::Fp32 => (1e-3, 45.0),
        };
        Self { relative_l2, psnr_db }
    }

    fn check(&self) -> Result<()> {
        let Self { relative_l2, psnr_db } = *self;
        if relative_l2.is_finite() && relative_l2 > 0.0 && psnr_db.is_finite() && psnr_db > 0.0 {
            return Ok(());
        }
        Err(Error::model(format!("relative_l2 {relative_l2} and psnr_db {psnr_db}, expected both above 0 and finite")))
    }
}

impl Model {
    /// Reads and checks a model folder.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) naming the file and the field: the folder is missing, holds
    /// neither `model.yaml` nor `model_index.json`, a field is unknown or impossible, a graph is missing, leaves
    /// the folder, or is a Git LFS pointer or a web page instead of a graph.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::read(folder, None)
    }

    /// The same, where the text encoder's graphs may be missing: for requests whose prompts are all in a prompt cache.
    /// Of a pipeline without a manifest, the cache tells which text encoder that was.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with_prompts(folder: &Path, prompts: &PromptCache) -> Result<Self> {
        Self::read(folder, Some(prompts))
    }

    fn read(folder: &Path, prompts: Option<&PromptCache>) -> Result<Self> {
        let root = folder
            .canonicalize()
            .map_err(|e| Error::model(format!("model folder {}: cannot be read: {e}", folder.display())).because(e))?;
        let dispensable: &[_] = if prompts.is_some() { &Stage::TEXT_ENCODERS } else { &[] };
        let mut model = if root.join(manifest::FILE).is_file() {
            manifest::open(&root, dispensable)?
        } else if root.join(optimum::FILE).is_file() {
            optimum::open(&root)?
        } else {
            return Err(Error::model(format!(
                "model folder {}: holds neither {} (safelight's manifest) nor {} (an exported diffusers pipeline)",
                folder.display(),
                manifest::FILE,
                optimum::FILE
            )));
        };
        let is_missing = model.tokenizers.keys().any(|stage| !model.stages.contains_key(stage));
        if let Some(prompts) = prompts.filter(|_| is_missing) {
            for (stage, precision, graph) in noted_encoders(prompts, &model)? {
                model.stages.entry(stage).or_default().graphs.entry(precision).or_insert(graph);
            }
        }
        model.check().map_err(|e| e.context(format!("model {}", folder.display())))?;
        Ok(model)
    }

    /// Reads every graph and golden and compares its hash with the manifest's.
    ///
    /// # Errors
    /// As [`GraphFile::verify`] for the first file that is not what the manifest promises.
    pub fn verify(&self) -> Result<()> {
        let graphs = self.stages.values().flat_map(|stage| stage.graphs.values());
        graphs.map(GraphFile::verify).collect::<Result<Vec<_>>>()?;
        self.goldens.iter().try_for_each(|golden| golden.numbers.verify())
    }

    /// The first of `precisions` that the model has for a stage.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where it has none of them, listing what it has.
    pub fn graph(&self, stage: Stage, precisions: &[Precision]) -> Result<(Precision, &GraphFile)> {
        let files = self.stages.get(&stage);
        let graphs = files.map(|files| &files.graphs);
        let wanted = |precision: &Precision| Some((*precision, graphs?.get(precision)?));
        precisions.iter().find_map(wanted).ok_or_else(|| {
            let names = |list: &mut dyn Iterator<Item = &Precision>| {
                list.map(|precision| precision.name()).collect::<Vec<_>>().join(", ")
            };
            let has = graphs.map_or_else(String::new, |graphs| names(&mut graphs.keys()));
            Error::model(format!(
                "model \"{}\" has no {stage} in {}; it has {}",
                self.name,
                names(&mut precisions.iter()),
                if has.is_empty() { "no such stage" } else { &has }
            ))
        })
    }

    /// Whether words steer it.
    pub fn reads_prompts(&self) -> bool {
        !self.tokenizers.is_empty()
    }

    /// Token ids that a text encoder reads at once; none where no words steer it.
    pub(crate) fn window_tokens(&self) -> usize {
        self.tokenizers.values().next().map_or(0, |tokenizer| tokenizer.window.length)
    }

    /// Its stages from words, or numbers, to a picture, in the order of the data.
    pub fn stages_to_picture(&self) -> impl Iterator<Item = Stage> {
        Stage::TEXT_TO_IMAGE.into_iter().filter(|stage| self.stages.contains_key(stage))
    }

    /// What a graph of `stage` calls the tensor that Optimum calls `name`.
    pub(crate) fn tensor<'a>(&'a self, stage: Stage, name: &'a str) -> &'a str {
        self.stages.get(&stage).and_then(|files| files.tensors.get(name)).map_or(name, String::as_str)
    }

    fn check(&self) -> Result<()> {
        self.check_stages()?;
        let LatentGeometry { channels, downscale, scale, shift } = self.latent;
        if !(1..=256).contains(&channels) || !(1..=64).contains(&downscale) {
            return Err(Error::model(format!(
                "latent: {channels} channels and downscale {downscale}, expected 1 to 256 and 1 to 64"
            )));
        }
        if !scale.is_finite() || scale == 0.0 || !shift.is_finite() {
            return Err(Error::model(format!("latent: scale {scale} and shift {shift}, expected finite, scale not 0")));
        }
        let PictureSize { width, height, multiple } = self.picture;
        for (side, multiple) in [(width, multiple), (height, multiple)] {
            let multiple = multiple.unwrap_or(downscale);
            if side == 0 || multiple == 0 || !multiple.is_multiple_of(downscale) || !side.is_multiple_of(multiple) {
                return Err(Error::model(format!(
                    "picture: {width}×{height} in multiples of {multiple}, expected multiples of downscale {downscale}"
                )));
            }
        }
        let Defaults { sampler, schedule, steps, guidance, options } = &self.defaults;
        let told = |e: Error| Error::model(format!("defaults: {e}"));
        let relay = Relay::parse(sampler).map_err(told)?;
        let timetable = find_schedule(schedule).map_err(told)?;
        let mut methods: Vec<_> = relay.methods().map(|method| (method.name, method.options)).collect();
        methods.push((timetable.name, timetable.options));
        methods.extend(GUIDANCES.iter().map(|rule| (rule.name, rule.options)));
        methods.push(("every sampler", LIMITS));
        Options::resolve(&methods, options).map_err(told)?;
        if *steps == 0 || !guidance.is_finite() || *guidance < 0.0 {
            return Err(Error::model(format!(
                "defaults: steps {steps} and guidance {guidance}, expected from 1 and from 0"
            )));
        }
        for (stage, TokenizerFiles { window, .. }) in &self.tokenizers {
            if !(3..=4096).contains(&window.length) {
                return Err(Error::model(format!("{stage}'s tokenizer: length {}, expected 3 to 4096", window.length)));
            }
        }
        if self.conditions.len() > MOST_CONDITIONS {
            let count = self.conditions.len();
            return Err(Error::model(format!("conditions: {count} of them, expected at most {MOST_CONDITIONS}")));
        }
        let mut given: Vec<_> =
            Stage::Denoiser.tensors().iter().map(|name| self.tensor(Stage::Denoiser, name)).collect();
        for (name, condition) in &self.conditions {
            let told = |e: Error| e.context(format_args!("conditions.{name}"));
            condition.check(name).map_err(told)?;
            if given.contains(&condition.tensor.as_str()) {
                let tensor = &condition.tensor;
                return Err(told(Error::model(format!("tensor \"{tensor}\" is given by something else already"))));
            }
            given.push(&condition.tensor);
        }
        Ok(())
    }

    /// Refuses a stage without graphs, or without what it needs besides them.
    fn check_stages(&self) -> Result<()> {
        let has = |stage| self.stages.get(&stage).is_some_and(|files| !files.graphs.is_empty());
        let needed = self.tokenizers.keys().copied().chain([Stage::Denoiser]);
        if let Some(stage) = needed.chain(self.stages.keys().copied()).find(|&stage| !has(stage)) {
            return Err(Error::model(format!("no {stage} graph")));
        }
        if let Some(stage) =
            Stage::TEXT_ENCODERS.iter().find(|stage| has(**stage) && !self.tokenizers.contains_key(stage))
        {
            return Err(Error::model(format!("{stage} has no tokenizer, so that it cannot read a prompt")));
        }
        let LatentGeometry { channels, downscale, .. } = self.latent;
        let makes_pixels = matches!(channels, 1 | 3) && downscale == 1;
        if !(has(Stage::Decoder) || makes_pixels) {
            return Err(Error::model(format!(
                "no decoder graph; only a model that makes pixels does without one, and its latent has 1 or 3 channels \
                 and downscale 1, not {channels} and {downscale}"
            )));
        }
        Ok(())
    }
}

/// More numbers than these would not be typed.
const MOST_CONDITIONS: usize = 16;

impl Condition {
    /// Refuses a number that the condition does not take.
    pub(crate) fn accepts(&self, value: f64) -> std::result::Result<(), String> {
        let (low, high) = self.range;
        let kind = if self.whole { "a whole number from" } else { "" };
        if (low..=high).contains(&value) && (!self.whole || value.fract() == 0.0) {
            return Ok(());
        }
        Err(format!("{value}, expected {kind} {low} to {high} ({})", self.about).replace("  ", " "))
    }

    fn check(&self, name: &str) -> Result<()> {
        let Self { range: (low, high), default, unguided, .. } = self;
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(is_word) {
            return Err(Error::model("its name has other characters than letters, digits, _ and -"));
        }
        if !(low.is_finite() && high.is_finite() && low <= high) {
            return Err(Error::model(format!("range {low} to {high}, expected two finite numbers, the least first")));
        }
        if unguided.is_some_and(|value| !value.is_finite() || self.whole && value.fract() != 0.0) {
            return Err(Error::model("unguided is not a number that the condition can be"));
        }
        default.map_or(Ok(()), |value| self.accepts(value)).map_err(|what| Error::model(format!("default is {what}")))
    }
}

/// A training schedule with the model's name in its error.
fn training(spec: impl Into<TrainingSpec>, file: &Path) -> Result<Training> {
    Training::new(spec).map_err(|e| e.context(file.display()))
}

/// Finds the folder of a model by name in the first of `folders` that has it, or takes a path as it is.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) listing the models that are there.
pub fn find_model(name: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    if name.contains(std::path::MAIN_SEPARATOR) || name.contains('/') || name == "." {
        return Ok(PathBuf::from(name));
    }
    if let Some(found) = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_dir()) {
        return Ok(found);
    }
    let models = list_models(folders);
    let known = models.iter().filter_map(|path| Some(path.file_name()?.display().to_string()));
    let told = catalogue::missing("model", name, known, folders);
    Err(Error::model(format!("{told}; a path such as ./{name} works too")))
}

/// Every folder in the given folders that holds a model, sorted; folders that are not there count as empty.
pub fn list_models(folders: &[PathBuf]) -> Vec<PathBuf> {
    let is_model = |path: &Path| path.join(manifest::FILE).is_file() || path.join(optimum::FILE).is_file();
    catalogue::list(folders, is_model)
}
