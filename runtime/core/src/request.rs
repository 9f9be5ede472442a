//! What a caller asks for, checked against model and target before anything is opened.

use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::model::Model;
use crate::sampler::{Method, find_sampler};
use crate::schedule::{Schedule, Timetable, find_schedule};
use crate::stage::Stage;
use crate::target::Target;
use crate::{Error, Result};

/// What to make. Fields that are `None` take the model's default.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the picture shows; may be empty.
    pub prompt: String,
    /// What it must not show; needs guidance.
    pub negative: Option<String>,
    /// A name from [`SAMPLERS`](crate::sampler::SAMPLERS).
    pub sampler: Option<String>,
    /// A name from [`SCHEDULES`](crate::schedule::SCHEDULES).
    pub schedule: Option<String>,
    /// Number of steps, from 1.
    pub steps: Option<usize>,
    /// Guidance scale; 1 or less is off.
    pub guidance: Option<f64>,
    /// Share of fresh noise in DDIM, 0 to 1.
    pub eta: f64,
    /// Seed of the first picture; the next has the next seed.
    pub seed: u64,
    /// How many pictures.
    pub count: usize,
    /// How many of them go through the graphs together; the pictures are the same, memory is not.
    pub batch: usize,
    /// Where the noise of a batch comes from.
    pub noise: NoiseLayout,
    /// Width and height in pixels.
    pub size: Option<(usize, usize)>,
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

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative: None,
            sampler: None,
            schedule: None,
            steps: None,
            guidance: None,
            eta: 0.0,
            seed: 0,
            count: 1,
            batch: 1,
            noise: NoiseLayout::default(),
            size: None,
            cancel: Cancel::new(),
        }
    }
}

/// A request with every default filled in and every bound checked.
pub struct Plan {
    /// The sampler.
    pub method: &'static Method,
    /// The schedule's name and function.
    pub timetable: &'static Timetable,
    /// The noise levels to visit.
    pub schedule: Schedule,
    /// Number of steps.
    pub steps: usize,
    /// Guidance scale; 1 or less is off.
    pub guidance: f64,
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
    /// What the caller should know, such as steps that the model was not made for.
    pub warnings: Vec<String>,
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
        let method = find_sampler(request.sampler.as_deref().unwrap_or(&model.defaults.sampler))?;
        let own = request.schedule.as_deref().or(method.schedule);
        let timetable = find_schedule(own.unwrap_or(&model.defaults.schedule))?;
        let steps = request.steps.unwrap_or(model.defaults.steps);
        let guidance = request.guidance.unwrap_or(model.defaults.guidance);
        let (width, height) = request.size.unwrap_or((model.picture.width, model.picture.height));
        check_numbers(request, guidance)?;
        check_size(width, height, model)?;
        check_limits(request, steps, (width, height), target)?;
        for stage in Stage::TEXT_TO_IMAGE {
            model.graph(stage, &target.stage(stage).precision)?;
        }
        let batch = match request.noise {
            NoiseLayout::PerImage => request.batch.min(request.count),
            NoiseLayout::Shared => request.count,
        };
        within("batch", batch as u64, target.limits.max_batch as u64)?;
        Ok(Self {
            method,
            timetable,
            schedule: Schedule::new(&model.training, timetable, method.grid, steps)?,
            steps,
            guidance,
            batch,
            every_batch: request.count.is_multiple_of(batch).then_some(batch),
            width,
            height,
            latent: (model.latent.channels, height / model.latent.downscale, width / model.latent.downscale),
            warnings: warnings(request, model, method, (steps, guidance)),
        })
    }
}

fn check_numbers(request: &Request, guidance: f64) -> Result<()> {
    if !(0.0..=MAX_GUIDANCE).contains(&guidance) {
        return Err(Error::usage(format!("guidance is {guidance}, expected 0 to {MAX_GUIDANCE} (1 or less is off)")));
    }
    if !(0.0..=1.0).contains(&request.eta) {
        return Err(Error::usage(format!("eta is {}, expected 0 to 1", request.eta)));
    }
    for (name, value) in [("count", request.count), ("batch", request.batch)] {
        if value == 0 {
            return Err(Error::usage(format!("{name} is 0, expected at least 1")));
        }
    }
    if request.seed.checked_add(request.count as u64 - 1).is_none() {
        return Err(Error::usage(format!("seed {} leaves no room for {} pictures", request.seed, request.count)));
    }
    Ok(())
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

fn check_limits(request: &Request, steps: usize, (width, height): (usize, usize), target: &Target) -> Result<()> {
    let limits = target.limits;
    let pixels = (width as u64).saturating_mul(height as u64);
    within("pixels", pixels, limits.max_pixels)?;
    within("steps", steps as u64, limits.max_steps as u64)?;
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

fn warnings(request: &Request, model: &Model, method: &Method, (steps, guidance): (usize, f64)) -> Vec<String> {
    let mut warnings = model.warnings.clone();
    let why = model.range.why.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
    if let Some((fewest, most)) = model.range.steps.filter(|(fewest, most)| !(fewest..=most).contains(&&steps)) {
        warnings
            .push(format!("model \"{}\" is made for {fewest} to {most} steps{why}, you asked for {steps}", model.name));
    }
    if let Some((low, high)) = model.range.guidance.filter(|(low, high)| !(low..=high).contains(&&guidance)) {
        warnings.push(format!(
            "model \"{}\" is made for guidance {low} to {high}{why}, you asked for {guidance}",
            model.name
        ));
    }
    if request.negative.as_ref().is_some_and(|negative| !negative.is_empty()) && guidance <= 1.0 {
        warnings.push(format!("the negative prompt has no effect: guidance {guidance} is off; try --guidance 2"));
    }
    if request.eta > 0.0 && !method.takes_eta {
        warnings.push(format!("eta has no effect with sampler {}; use ddim", method.name));
    }
    warnings
}
