//! What a caller asks for, checked against model and target before anything is opened.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::curve::Curve;
use crate::error::unknown;
use crate::guidance::{Rule, find_guidance};
use crate::input_picture::{InputMask, InputPicture};
use crate::model::{Condition, Model};
use crate::noise::{Generator, Leg, TORCH_CPU, find_generator, leg};
use crate::options::Options;
use crate::original;
use crate::prompt::{LongPrompts, Prompt, Syntax, find_weight};
use crate::residency::Residency;
use crate::route::{Route, Sampling};
use crate::stage::Stage;
use crate::target::Target;
use crate::tiling::Tiling;
use crate::training::Training;
use crate::trajectory::{Relay, Trajectory};
use crate::{Error, Result};

mod field;

pub use field::{FIELDS, Field, parse_condition, parse_option, parse_size};

/// What to make. Fields that are `None` or empty take the model's default.
///
/// ```
/// use safelight::{Curve, Request, Sampling};
///
/// let request = Request {
///     prompt: "a lighthouse in the fog".into(),
///     negative: Some("blurry".into()),
///     seed: 7,
///     count: 4,
///     // Strong at first, weak at the end.
///     guidance: Some(Curve::new(vec![7.5, 5.0, 3.0])?),
///     sampling: Sampling { sampler: Some("dpmpp_2m".into()), ..Sampling::in_steps(20) },
///     // Fields are added in any release.
///     ..Request::default()
/// };
/// # Ok::<(), safelight::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Request {
    /// What the picture shows; may be empty, and must be for a model that no words steer.
    pub prompt: String,
    /// What it must not show; needs guidance.
    pub negative: Option<String>,
    /// How both are read.
    pub syntax: Syntax,
    /// What becomes of them where they are longer than the text encoder's window.
    pub long_prompts: LongPrompts,
    /// Numbers for the model's [`conditions`](Model::conditions), by name.
    pub conditions: BTreeMap<String, f64>,
    /// How the noise becomes a latent.
    pub sampling: Sampling,
    /// Guidance scale, or several spread over the steps; 1 or less is off.
    pub guidance: Option<Curve>,
    /// A name from [`GUIDANCES`](crate::guidance::GUIDANCES).
    pub guidance_method: Option<String>,
    /// How the two predictions of guidance are asked for.
    pub guidance_runs: GuidanceRuns,
    /// Seed of the first picture; the next has the next seed.
    pub seed: u64,
    /// Seeds to walk to from `seed`, one after the other: the pictures are then the frames of that walk, the first
    /// exactly the picture of the first seed and the last that of the last. All noise is walked, the sampler's too.
    pub walk: Vec<u64>,
    /// Seed of the sampler's own noise, where that is not to continue the initial noise; all frames of a walk share it.
    pub noise_seed: Option<u64>,
    /// A name from [`GENERATORS`](crate::noise::GENERATORS).
    pub generator: Option<String>,
    /// How the sampler's own noise hangs together.
    pub sampler_noise: SamplerNoise,
    /// How many pictures.
    pub count: usize,
    /// How many of them go through the graphs together; the pictures are the same, memory is not.
    pub batch: usize,
    /// Where the noise of a batch comes from.
    pub noise: NoiseLayout,
    /// Width and height in pixels.
    pub size: Option<(usize, usize)>,
    /// A picture to begin with, resized to the size of this request. `sampling.strength` says how much of it noise takes.
    pub image: Option<Arc<InputPicture>>,
    /// Which part of it is painted anew, instead of all.
    pub mask: Option<Arc<InputMask>>,
    /// What becomes of the other part.
    pub kept: KeptPixels,
    /// Whether the autoencoder works in tiles, instead of what the target says.
    pub tile: Option<Tiling>,
    /// After how many steps each a picture is decoded and told as [`Event::Preview`](crate::Event::Preview); 0 is never.
    pub preview_every: usize,
    /// Stops the generation from another thread.
    pub cancel: Cancel,
}

/// Where the noise of several pictures comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseLayout {
    /// A generator for each picture: picture n is what `seed + n` alone would give.
    #[default]
    PerImage,
    /// One generator for all of them, drawn in one call, as diffusers does with a single generator. All pictures
    /// then form one batch.
    Shared,
}

/// How the noise of a sampler's steps hangs together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerNoise {
    /// Each draw is a new one, as in diffusers.
    #[default]
    Independent,
    /// All draws are increments of one Brownian motion, as k-diffusion has it: more steps refine the same picture.
    Brownian,
}

/// What becomes of the part of a picture that a mask keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptPixels {
    /// It goes through the autoencoder with the rest, which changes it a little and leaves no edge, as in diffusers.
    #[default]
    Decoded,
    /// Its pixels are put into the picture that was made, as they were.
    Pasted,
}

/// How the two predictions of guidance are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuidanceRuns {
    /// In one run of the graph where it takes both.
    #[default]
    Together,
    /// In two runs, which needs less memory.
    InTurn,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative: None,
            syntax: Syntax::default(),
            long_prompts: LongPrompts::default(),
            conditions: BTreeMap::new(),
            sampling: Sampling::default(),
            guidance: None,
            guidance_method: None,
            guidance_runs: GuidanceRuns::default(),
            seed: 0,
            walk: Vec::new(),
            noise_seed: None,
            generator: None,
            sampler_noise: SamplerNoise::default(),
            count: 1,
            batch: 1,
            noise: NoiseLayout::default(),
            size: None,
            image: None,
            mask: None,
            kept: KeptPixels::default(),
            tile: None,
            preview_every: 0,
            cancel: Cancel::new(),
        }
    }
}

impl Request {
    /// A request that a model takes, whatever it is steered by: for opening and measuring, not for looking at.
    pub fn usual(model: &Model) -> Self {
        let prompt = if model.reads_prompts() { USUAL_PROMPT } else { "" };
        let number = |condition: &Condition| condition.default.unwrap_or(condition.range.0);
        let conditions = model.conditions.iter().map(|(name, condition)| (name.clone(), number(condition)));
        Self { prompt: prompt.into(), conditions: conditions.collect(), ..Self::default() }
    }

    /// Where on the walk picture `index` is; without a walk, at its own seed.
    pub(crate) fn leg(&self, index: usize) -> Leg {
        if self.walk.is_empty() {
            let seed = self.seed + index as u64;
            return Leg { from: seed, to: seed, share: 0.0 };
        }
        leg(&self.walked_seeds(), index, self.count)
    }

    /// Seed of picture `index`; of one between two seeds, the first of them.
    pub(crate) fn seed_of(&self, index: usize) -> u64 {
        self.leg(index).from
    }

    /// Seed of the sampler's own noise of picture `index`.
    pub(crate) fn noise_seed_of(&self, index: usize) -> Option<u64> {
        let offset = if self.walk.is_empty() { index as u64 } else { 0 };
        self.noise_seed.map(|seed| seed + offset)
    }

    fn walked_seeds(&self) -> Vec<u64> {
        [&[self.seed], self.walk.as_slice()].concat()
    }
}

/// What is asked for where any prompt will do.
const USUAL_PROMPT: &str = "a red apple";

/// A request with every default filled in and every bound checked.
pub struct Plan {
    /// The prompt.
    pub prompt: Prompt,
    /// What guidance leads away from, where it is on and words steer the model.
    pub negative: Prompt,
    /// The samplers.
    pub relay: Relay,
    /// The schedule's name; `timesteps` or `sigmas` where the request gives those, `adaptive` where a tolerance decides.
    pub schedule: String,
    /// The levels that the samplers walk.
    pub trajectory: Trajectory,
    /// The training process at this size.
    pub training: Training,
    /// What the samplers, the schedule and the guidance are tuned with.
    pub options: Options,
    /// Numbers that steer the denoiser, in the order of the model's conditions.
    pub conditions: Vec<Chosen>,
    /// Guidance scale; 1 or less is off.
    pub guidance: Curve,
    /// The way of guidance.
    pub rule: &'static Rule,
    /// How the two predictions of guidance are asked for.
    pub guidance_runs: GuidanceRuns,
    /// The generator of noise.
    pub generator: &'static Generator,
    /// Pictures that go through the graphs together.
    pub batch: usize,
    /// The same, where it is so for every batch: the last may be smaller.
    pub every_batch: Option<usize>,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Shape of one latent: channels, height, width.
    pub latent: (usize, usize, usize),
    /// How much of the picture to begin with noise takes; absent without one.
    pub strength: Option<f64>,
    /// Whether the autoencoder works in tiles.
    pub tiling: Tiling,
    /// Cells of a tile each way, where that is decided.
    pub(crate) tile: Option<usize>,
    /// What the caller should know, such as steps that the model was not made for.
    pub warnings: Vec<String>,
}

/// A number for one of a model's conditions.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The condition's name.
    pub name: String,
    /// What the denoiser's graph calls it.
    pub tensor: String,
    /// The number.
    pub value: f64,
    /// What guidance leads away from: the number again where nothing stands for none.
    pub unguided: f64,
}

/// Guidance beyond this is a mistake, not a wish.
const MAX_GUIDANCE: f64 = 1000.0;

impl Plan {
    /// Resolves a request. Nothing is opened.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for what cannot be,
    /// [`ErrorKind::Limit`](crate::ErrorKind::Limit) for what the target does not allow,
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where the model has none of the target's precisions.
    pub fn new(request: &Request, model: &Model, target: &Target) -> Result<Self> {
        let guidance = request.guidance.clone().unwrap_or(Curve::constant(model.defaults.guidance));
        let rule = find_guidance(request.guidance_method.as_deref().unwrap_or("cfg"))?;
        let (width, height) = request.size.unwrap_or((model.picture.width, model.picture.height));
        check_numbers(request, &guidance)?;
        check_size(width, height, model)?;
        check_limits(request, (width, height), target)?;
        for stage in model.stages_to_picture() {
            model.graph(stage, &target.stage(stage).precision)?;
        }
        let latent = (model.latent.channels, height / model.latent.downscale, width / model.latent.downscale);
        let on = guidance.values().iter().any(|&scale| rule.is_on(scale));
        check_words(request, model, on)?;
        if request.guidance_method.is_some() && !on {
            let name = rule.name;
            return Err(Error::usage(format!(
                "guidance method {name} would have no effect: guidance {guidance} is off"
            )));
        }
        let guided = on.then_some((rule, &guidance));
        let strength = original::check(request, model, target)?;
        let sampling = Sampling { strength, ..request.sampling.clone() };
        let route = Route::new(&sampling, model, (latent.1, latent.2), guided)?;
        let steps = route.trajectory.steps;
        within("steps", steps.unwrap_or(1) as u64, target.limits.max_steps as u64)?;
        let batch = batch(request, target)?;
        let tiling = tiling(request, model, target)?;
        check_previews(request, target)?;
        let [prompt, negative] = read_prompts(request)?;
        Ok(Self {
            strength,
            tiling,
            tile: tiling.cells(model.latent.downscale)?,
            prompt,
            negative,
            conditions: conditions(request, model)?,
            generator: request.generator.as_deref().map_or(Ok(&TORCH_CPU), find_generator)?,
            batch,
            every_batch: request.count.is_multiple_of(batch).then_some(batch),
            width,
            height,
            latent,
            warnings: [
                warnings(request, model, &guidance, (steps, on)),
                route.warnings(),
                weight_warnings(request),
                noise_warnings(request, &route),
                original::warnings(request, (width, height)),
            ]
            .concat(),
            relay: route.relay,
            schedule: route.schedule,
            trajectory: route.trajectory,
            training: route.training,
            options: route.options,
            guidance,
            rule,
            guidance_runs: request.guidance_runs,
        })
    }

    /// Whether the negative prompt is asked about at all.
    pub fn is_guided(&self) -> bool {
        self.guidance.values().iter().any(|&scale| self.rule.is_on(scale))
    }

    /// The stages that the request runs, in the order of the data.
    pub fn stages(&self, model: &Model) -> Vec<Stage> {
        let mut stages: Vec<_> = model.stages_to_picture().collect();
        let denoiser = stages.iter().position(|&stage| stage == Stage::Denoiser);
        // A model that makes pixels has no autoencoder.
        if self.uses(Stage::Encoder) && model.stages.contains_key(&Stage::Decoder) {
            stages.insert(denoiser.unwrap_or(0), Stage::Encoder);
        }
        stages
    }

    /// Whether a request runs a stage: the encoder only where there is a picture to begin with.
    pub(crate) fn uses(&self, stage: Stage) -> bool {
        stage != Stage::Encoder || self.strength.is_some()
    }

    /// Steps, where no tolerance decides.
    pub fn steps(&self) -> Option<usize> {
        self.trajectory.steps
    }
}

/// Pictures that go through the graphs together.
fn batch(request: &Request, target: &Target) -> Result<usize> {
    let batch = match request.noise {
        NoiseLayout::PerImage => request.batch.min(request.count),
        NoiseLayout::Shared => request.count,
    };
    within("batch", batch as u64, target.limits.max_batch as u64)?;
    Ok(batch)
}

fn check_numbers(request: &Request, guidance: &Curve) -> Result<()> {
    if let Some(scale) = guidance.values().iter().find(|scale| !(0.0..=MAX_GUIDANCE).contains(*scale)) {
        return Err(Error::usage(format!("guidance is {scale}, expected 0 to {MAX_GUIDANCE} (1 or less is off)")));
    }
    for (name, value) in [("count", request.count), ("batch", request.batch)] {
        if value == 0 {
            return Err(Error::usage(format!("{name} is 0, expected at least 1")));
        }
    }
    let same = request.noise_seed.filter(|seed| request.walked_seeds().contains(seed));
    if let Some(seed) = same.filter(|_| request.sampler_noise == SamplerNoise::Independent) {
        return Err(Error::usage(format!(
            "noise seed {seed} is the seed, too: the sampler would draw the initial noise again; give it another one"
        )));
    }
    if request.sampler_noise == SamplerNoise::Brownian && !request.sampling.restarts.is_empty() {
        return Err(Error::usage(
            "restarts walk an interval again, and Brownian noise would be the same each time; leave one of them out",
        ));
    }
    if !request.walk.is_empty() {
        return check_walk(request);
    }
    for seed in [Some(request.seed), request.noise_seed].into_iter().flatten() {
        if seed.checked_add(request.count as u64 - 1).is_none() {
            return Err(Error::usage(format!("seed {seed} leaves no room for {} pictures", request.count)));
        }
    }
    Ok(())
}

fn check_walk(request: &Request) -> Result<()> {
    let seeds = request.walked_seeds();
    if let Some(pair) = seeds.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::usage(format!("the walk goes from seed {} to itself; give another one", pair[0])));
    }
    if request.count < seeds.len() {
        return Err(Error::usage(format!(
            "count is {}, but a walk along {} seeds has at least as many frames; try --count {}",
            request.count,
            seeds.len(),
            12 * (seeds.len() - 1) + 1
        )));
    }
    if request.noise == NoiseLayout::Shared {
        return Err(Error::usage("a walk needs noise of its own for each picture; leave out the shared noise"));
    }
    Ok(())
}

/// The prompt and the negative prompt.
fn read_prompts(request: &Request) -> Result<[Prompt; 2]> {
    let read = |text: &str| Prompt::new(text, request.syntax, request.long_prompts);
    let negative = read(request.negative.as_deref().unwrap_or_default());
    Ok([read(&request.prompt)?, negative.map_err(|e| e.context("negative"))?])
}

/// Refuses words for a model that reads none, and guidance away from nothing.
fn check_words(request: &Request, model: &Model, on: bool) -> Result<()> {
    let has_unguided = model.conditions.values().any(|condition| condition.unguided.is_some());
    if on && !model.reads_prompts() && !has_unguided {
        return Err(Error::usage(format!(
            "guidance has nothing to lead away from: model \"{}\" reads no prompt and has no condition with a number for \
             none; leave guidance out",
            model.name
        )));
    }
    if model.reads_prompts() || request.prompt.is_empty() && request.negative.is_none() {
        return Ok(());
    }
    let names: Vec<_> = model.conditions.keys().map(String::as_str).collect();
    let instead = if names.is_empty() { String::new() } else { format!("; it has conditions: {}", names.join(", ")) };
    Err(Error::usage(format!("model \"{}\" reads no prompt; leave it out{instead}", model.name)))
}

/// The numbers for a model's conditions.
fn conditions(request: &Request, model: &Model) -> Result<Vec<Chosen>> {
    if let Some(name) = request.conditions.keys().find(|name| !model.conditions.contains_key(*name)) {
        if model.conditions.is_empty() {
            return Err(Error::usage(format!("model \"{}\" has no conditions, you gave \"{name}\"", model.name)));
        }
        return Err(Error::usage(unknown("condition", name, model.conditions.keys().map(String::as_str))));
    }
    let chosen = model.conditions.iter().map(|(name, condition)| {
        let Some(value) = request.conditions.get(name).copied().or(condition.default) else {
            let (low, high) = condition.range;
            return Err(Error::usage(format!(
                "condition \"{name}\" ({}) is not given, and the model has no default; give it a number from {low} to \
                 {high}",
                condition.about
            )));
        };
        condition.accepts(value).map_err(|what| Error::usage(format!("condition \"{name}\" is {what}")))?;
        let unguided = condition.unguided.unwrap_or(value);
        Ok(Chosen { name: name.clone(), tensor: condition.tensor.clone(), value, unguided })
    });
    chosen.collect()
}

/// Refuses previews where the decoder is not in memory beside the denoiser.
fn check_previews(request: &Request, target: &Target) -> Result<()> {
    if request.preview_every == 0 || target.residency == Residency::Resident {
        return Ok(());
    }
    Err(Error::usage(format!(
        "previews need the decoder in memory beside the denoiser, and target {} opens one graph at a time (residency: \
         staged); leave preview-every out",
        target.name
    )))
}

/// Whether the autoencoder works in tiles.
fn tiling(request: &Request, model: &Model, target: &Target) -> Result<Tiling> {
    match request.tile {
        Some(Tiling::Pixels(_)) if !model.stages.contains_key(&Stage::Decoder) => Err(Error::usage(format!(
            "tiles would have no effect: model \"{}\" makes pixels and has no autoencoder; leave --tile out",
            model.name
        ))),
        asked => Ok(asked.unwrap_or(target.tile)),
    }
}

fn check_size(width: usize, height: usize, model: &Model) -> Result<()> {
    let native = model.picture;
    let Some(multiple) = native.multiple else {
        if (width, height) == (native.width, native.height) {
            return Ok(());
        }
        return Err(Error::usage(format!(
            "size is {width}×{height}, but model \"{}\" makes only {}×{}",
            model.name, native.width, native.height
        )));
    };
    if width == 0 || height == 0 || !width.is_multiple_of(multiple) || !height.is_multiple_of(multiple) {
        return Err(Error::usage(format!(
            "size is {width}×{height}, expected multiples of {multiple} such as {}×{}",
            native.width, native.height
        )));
    }
    Ok(())
}

fn check_limits(request: &Request, (width, height): (usize, usize), target: &Target) -> Result<()> {
    let limits = target.limits;
    let pixels = (width as u64).saturating_mul(height as u64);
    within("pixels", pixels, limits.max_pixels)?;
    within("steps", request.sampling.steps.unwrap_or(1) as u64, limits.max_steps as u64)?;
    within("count", request.count as u64, limits.max_count as u64)?;
    for prompt in [Some(&request.prompt), request.negative.as_ref()].into_iter().flatten() {
        within("prompt bytes", prompt.len() as u64, limits.max_prompt_bytes as u64)?;
    }
    Ok(())
}

fn within(what: &str, asked: u64, most: u64) -> Result<()> {
    if asked > most {
        return Err(Error::limit(format!(
            "{what}: {asked} asked for, but the target allows {most} (limits in its file)"
        )));
    }
    Ok(())
}

fn warnings(request: &Request, model: &Model, guidance: &Curve, (steps, on): (Option<usize>, bool)) -> Vec<String> {
    let mut warnings = model.warnings.clone();
    let why = model.range.why.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
    if let (Some((fewest, most)), Some(steps)) = (model.range.steps, steps)
        && !(fewest..=most).contains(&steps)
    {
        warnings
            .push(format!("model \"{}\" is made for {fewest} to {most} steps{why}, you asked for {steps}", model.name));
    }
    if let Some((low, high)) = model.range.guidance
        && !guidance.values().iter().all(|scale| (low..=high).contains(scale))
    {
        warnings.push(format!(
            "model \"{}\" is made for guidance {low} to {high}{why}, you asked for {guidance}",
            model.name
        ));
    }
    if request.negative.as_ref().is_some_and(|negative| !negative.is_empty()) && !on {
        warnings.push(format!("the negative prompt has no effect: guidance {guidance} is off; try --guidance 2"));
    }
    warnings
}

/// What is said of weights in prompts that are read as plain text.
fn weight_warnings(request: &Request) -> Vec<String> {
    let prompts = [("prompt", Some(&request.prompt)), ("negative prompt", request.negative.as_ref())];
    let found = prompts.into_iter().filter_map(|(what, text)| Some((what, find_weight(text?)?)));
    let found = found.filter(|_| request.syntax == Syntax::Plain);
    found
        .map(|(what, weight)| format!("\"{weight}\" in the {what} is read as text; --weighted reads weights"))
        .collect()
}

/// What is said of a sampler's own noise where there is none.
fn noise_warnings(request: &Request, route: &Route) -> Vec<String> {
    let brownian = request.sampler_noise == SamplerNoise::Brownian;
    let said = [(request.noise_seed.is_some(), "the noise seed"), (brownian, "Brownian noise")];
    if route.draws_noise(&request.sampling.restarts) {
        return Vec::new();
    }
    let said = said.into_iter().filter(|(is_said, _)| *is_said);
    said.map(|(_, what)| format!("{what} has no effect: sampler {} draws no noise of its own", route.relay)).collect()
}
