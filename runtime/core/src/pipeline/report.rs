//! What a generation tells besides its pictures, and with each of them.

use std::collections::BTreeMap;
use std::time::Duration;

use image::RgbImage;
use serde::Serialize;
use serde_json::json;

use super::Pipeline;
use super::job::{Job, Work};
use crate::cache::Cached;
use crate::checkpoint::Resumed;
use crate::memory::{Memory, Reading as MemoryReading};
use crate::picture::{Picture, Provenance};
use crate::request::{Plan, Request};
use crate::sampler::Latent;
use crate::stage::Stage;
use crate::tiling::Plane;

/// What a pipeline tells its observer while it works.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Something that the caller should know and that stops nothing.
    Warning(&'a str),
    /// The noise that a batch starts from, before any scaling.
    Noise {
        /// Index of the batch's first picture.
        first: usize,
        /// `[batch, channels, height, width]`.
        latent: &'a Latent,
    },
    /// A step is done.
    Step {
        /// Index of the batch's first picture.
        first: usize,
        /// From 0.
        step: usize,
        /// Steps of this picture, where no tolerance decides.
        steps: Option<usize>,
        /// What the denoiser was told.
        timestep: f64,
        /// The latent at the next level. Its scale is the sampler's: of unit variance for those that count timesteps,
        /// `x₀ + sigma·noise` for those that walk sigmas.
        latent: &'a Latent,
        /// The estimate of the clean latent that it came from.
        denoised: &'a Latent,
    },
    /// Steps before this one were not done again: a checkpoint had what they need. Told once a batch, when it is done.
    Resumed {
        /// Index of the batch's first picture.
        first: usize,
        /// The step that was done, from 0.
        step: usize,
        /// Steps of this picture, where no tolerance decides.
        steps: Option<usize>,
    },
    /// What the picture would be if this step were the last: its estimate, decoded, as [`Request::preview_every`] asks.
    /// Where the decoder makes nothing of an estimate yet, NaN or black, there is none.
    Preview {
        /// Index of the picture.
        index: usize,
        /// The step that was done, from 0.
        step: usize,
        /// The picture.
        pixels: &'a RgbImage,
    },
    /// The picture to begin with is a latent.
    Encoded,
    /// A picture is decoded.
    Decoded {
        /// Index of the picture.
        index: usize,
        /// Pictures of this request.
        count: usize,
    },
}

/// What a generation gives.
#[derive(Debug)]
#[non_exhaustive]
pub struct Output {
    /// The pictures, in the order of their seeds.
    pub pictures: Vec<Picture>,
    /// Where the time went.
    pub timings: Timings,
    /// What was told as [`Event::Warning`].
    pub warnings: Vec<String>,
    /// Where the memory went, where [`Pipeline::measure_memory`] asked for it and the system tells.
    pub memory: Option<Memory>,
}

/// What a generation tells besides its pictures.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Where the time went.
    pub timings: Timings,
    /// What was told as [`Event::Warning`].
    pub warnings: Vec<String>,
    /// What became of each graph in the target's cache; empty where nothing is kept.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cached: BTreeMap<Stage, Cached>,
    /// Where the memory went, where [`Pipeline::measure_memory`] asked for it and the system tells.
    pub memory: Option<Memory>,
    /// What did not have to be done again, where there is a checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Resumed>,
}

/// Where the time of a generation went, in milliseconds, and how often the text encoder was spared.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Timings {
    /// Finding the library, verifying hashes and opening graphs; once a pipeline.
    pub open_ms: f64,
    /// Opening graphs during the generation, and giving them back: once a request where the target stages them; once more
    /// where the request's size or batch is not what they were opened for.
    pub reopen_ms: f64,
    /// Prompts to hidden states.
    pub text_encoder_ms: f64,
    /// Prompts, or chunks of them, whose hidden states came from the prompt cache on disk, a count.
    pub text_hits: usize,
    /// Prompts, or chunks of them, that a text encoder read, a count; those that the pipeline remembers are neither.
    pub text_misses: usize,
    /// The picture to begin with to its latent, with its mask.
    pub encoder_ms: f64,
    /// All steps of all pictures.
    pub denoiser_ms: f64,
    /// Each step of each batch, but those that a checkpoint spared.
    pub steps_ms: Vec<f64>,
    /// Estimates to previews, where any were asked for; no part of the denoiser's or the decoder's time.
    #[serde(skip_serializing_if = "is_nothing")]
    pub preview_ms: f64,
    /// Latents to pixels.
    pub decoder_ms: f64,
    /// Handing pictures to the caller, such as writing them to files.
    pub handover_ms: f64,
    /// The whole generation, with everything above but the first opening.
    pub total_ms: f64,
    /// The part of it inside `Session::run`.
    pub graphs_ms: f64,
}

fn is_nothing(time_ms: &f64) -> bool {
    *time_ms == 0.0
}

impl Timings {
    /// Milliseconds of a generation that went neither into graphs, nor into opening them, nor to the caller:
    /// safelight's own.
    pub fn own_ms(&self) -> f64 {
        self.total_ms - self.graphs_ms - self.reopen_ms - self.handover_ms
    }
}

impl Pipeline {
    /// Time spent on opening graphs since this was last asked.
    pub(super) fn take_opening_times(&mut self) -> Duration {
        self.slots().map(|(_, slot)| slot.take_reopen_time()).sum()
    }

    /// Where the memory went since this was last asked; nothing where no stage was watched.
    pub(super) fn take_memory(&mut self) -> Option<Memory> {
        let stages: Vec<_> = self.slots().map(|(stage, slot)| (stage, slot.take_memory())).collect();
        let highest = stages.iter().map(|(_, (_, highest))| *highest).max().filter(|&highest| highest > 0)?;
        let (pipeline, now) = (self.open_memory?, MemoryReading::now()?);
        let process = MemoryReading { peak: now.peak.max(highest), ..now };
        let stages = stages.into_iter().filter_map(|(stage, (memory, _))| Some((stage, memory?)));
        Some(Memory { pipeline, stages: stages.collect(), process })
    }

    pub(super) fn provenance(&self, job: &Job, index: usize, work: Work) -> Provenance {
        let (request, plan) = (job.request, job.plan);
        Provenance {
            safelight: env!("CARGO_PKG_VERSION"),
            prompt: request.prompt.clone(),
            negative: request.negative.clone(),
            syntax: request.syntax,
            long_prompts: request.long_prompts,
            conditions: plan.conditions.iter().map(|chosen| (chosen.name.clone(), chosen.value)).collect(),
            seed: request.seed_of(index),
            walk: Some(request.leg(index)).filter(|leg| leg.share > 0.0),
            noise: request.noise,
            noise_seed: request.noise_seed_of(index),
            generator: plan.generator.name,
            sampler_noise: request.sampler_noise,
            sampler: plan.relay.to_string(),
            own_samplers: plan.relay.own_methods().map(|method| (method.name, method.source)).collect(),
            schedule: plan.schedule.clone(),
            timesteps: request.sampling.timesteps.clone(),
            sigmas: request.sampling.sigmas.clone(),
            restarts: request.sampling.restarts.clone(),
            steps: work.steps,
            evaluations: work.evaluations,
            evaluations_saved: work.saved,
            adaptive: plan.steps().is_none().then_some(work.tally),
            guidance: plan.guidance.clone(),
            guidance_method: plan.is_guided().then_some(plan.rule.name),
            options: plan.options.named(),
            width: plan.width,
            height: plan.height,
            image_sha256: request.image.as_ref().map(|image| image.sha256.clone()),
            mask_sha256: request.mask.as_ref().map(|mask| mask.sha256.clone()),
            strength: plan.strength,
            kept: request.mask.as_ref().map(|_| request.kept),
            tiles: job.tiles.clone(),
            model: self.model.name.clone(),
            graphs: self.graphs().into_iter().filter(|(stage, _)| plan.uses(*stage)).collect(),
            target: self.target.name.clone(),
            onnxruntime: self.library.version().to_owned(),
        }
    }

    /// Tells what opening the graphs has found, as far as they have been opened.
    pub(super) fn warn_of_graphs(&mut self, job: &mut Job) {
        let opened = self.opened().filter(|(stage, _)| job.plan.uses(*stage));
        let warnings: Vec<_> = opened.flat_map(|(_, opened)| opened.warnings.iter().cloned()).collect();
        warnings.iter().for_each(|warning| job.warn(&mut self.observer, warning));
    }

    /// Tells that a stage works in tiles, which changes the picture a little, and why it does.
    pub(super) fn tell_tiles(&mut self, job: &mut Job, stage: Stage, plane: &Plane) {
        let (downscale, tiles) = (self.model.latent.downscale, plane.tiles());
        if tiles == 1 || job.tiles.contains_key(&stage) {
            return;
        }
        let (height, width) = (plane.cut.0.tile * downscale, plane.cut.1.tile * downscale);
        job.tiles.insert(stage, [width, height]);
        if plane.is_fixed() {
            let warning = format!(
                "the {stage} works in {tiles} tiles that overlap, because its graph was exported for {width}×{height} pixels; \
                 colours may differ a little between them"
            );
            job.warn(&mut self.observer, &warning);
        }
    }
}

/// A request as the recording of its graphs' inputs tells it.
pub(super) fn as_recorded(request: &Request, plan: &Plan) -> serde_json::Value {
    json!({
        "prompt": request.prompt,
        "negative": request.negative,
        "seed": request.seed,
        "count": request.count,
        "sampler": plan.relay.to_string(),
        "schedule": plan.schedule,
        "steps": plan.steps(),
        "guidance": plan.guidance,
        "width": plan.width,
        "height": plan.height,
    })
}

/// What a request says of guidance that needs two predictions.
pub(super) fn unused_by_embedding(request: &Request, plan: &Plan) -> Vec<String> {
    let negative = request.negative.as_ref().filter(|negative| !negative.is_empty());
    let method = request.guidance_method.as_ref();
    let options = plan.rule.options.iter().map(|(opt, _)| opt.row().name);
    let options = options.filter(|&name| request.sampling.options.contains_key(name));
    negative
        .map(|_| "the negative prompt".to_owned())
        .into_iter()
        .chain(method.map(|method| format!("guidance method {method}")))
        .chain(options.map(|name| format!("option \"{name}\"")))
        .collect()
}
