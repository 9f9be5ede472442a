//! The whole way from a request to pictures, on one screen.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::Axis;
use serde::Serialize;
use serde_json::json;

use crate::cache::{Cached, Store, Watch};
use crate::decoder::{self, Decoder};
use crate::denoiser::{Conditions, Denoiser, Guidance, Steering, Traits};
use crate::encoder::{Encoder, Posterior};
use crate::forecast::{Forecast, rooms};
use crate::graph::{Opened, Source};
use crate::library::Library;
use crate::memory::{Memory, OpeningMemory, Reading as MemoryReading};
use crate::model::{EmptyPrompt, Model};
use crate::noise::{Brownian, Noise, Seeds};
use crate::original::{self, Beginning, Mask, Original, PuttingBack, Task};
use crate::picture::{Picture, Provenance};
use crate::probe::Prober;
use crate::prompt_cache::PromptCache;
use crate::recording::Recording;
use crate::request::{KeptPixels, NoiseLayout, Plan, Request, SamplerNoise};
use crate::residency::{AnySlot, Residency, Slot};
use crate::sampler::{Latent, Step, Tally};
use crate::stage::Stage;
use crate::target::Target;
use crate::text::{Hidden, Reading, Run, TextEncoder, TextStage};
use crate::tiling::{Plane, USUAL_CELLS};
use crate::training::{Level, Training};
use crate::trajectory::Walk;
use crate::{Error, ErrorKind, Result};

/// A model opened on a target, ready to make pictures.
///
/// One worker owns a pipeline: ONNX Runtime's sessions are not shared. A server is a queue in front of it.
pub struct Pipeline {
    model: Model,
    target: Target,
    library: &'static Library,
    text: TextStage,
    traits: Traits,
    denoiser: Slot<Denoiser>,
    /// None where the model makes pixels.
    decoder: Option<Slot<Decoder>>,
    /// None before the first request that begins with a picture.
    encoder: Option<Slot<Encoder>>,
    keeping: Keeping,
    measures_memory: bool,
    observer: Observer,
    recording: Option<Recording>,
    open_time: Duration,
    open_memory: Option<OpeningMemory>,
}

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
}

/// Where the time of a generation went, in milliseconds, and how often the text encoder was spared.
#[derive(Debug, Clone, Default, Serialize)]
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
    /// Each step of each batch.
    pub steps_ms: Vec<f64>,
    /// Latents to pixels.
    pub decoder_ms: f64,
    /// Handing pictures to the caller, such as writing them to files.
    pub handover_ms: f64,
    /// The whole generation, with everything above but the first opening.
    pub total_ms: f64,
    /// The part of it inside `Session::run`.
    pub graphs_ms: f64,
}

impl Timings {
    /// Milliseconds of a generation that went neither into graphs, nor into opening them, nor to the caller:
    /// safelight's own.
    pub fn own_ms(&self) -> f64 {
        self.total_ms - self.graphs_ms - self.reopen_ms - self.handover_ms
    }
}

impl Pipeline {
    /// Opens a model's graphs with a target's settings, for pictures of the model's own size, one at a time. Where the
    /// target stages them, they are verified now and opened with each request.
    ///
    /// The library is the one that [`Library::open`] found; call that first to choose another.
    ///
    /// # Errors
    /// [`ErrorKind::Library`] for the library and providers,
    /// [`ErrorKind::Model`] for a graph that is damaged or not what its stage needs,
    /// [`ErrorKind::Limit`] for one that is larger than the target allows.
    pub fn open(target: &Target, model: &Model) -> Result<Self> {
        let extras = Extras { is_any: true, ..Extras::default() };
        Self::open_with(target, model, &Request::usual(model), extras)
    }

    /// The same for requests like `usual`: its size, batch and guidance. Every other request works, too, but opens
    /// graphs again whose free axes were fixed to those.
    ///
    /// # Errors
    /// As [`Pipeline::open`], and as [`Plan::new`] for the request.
    pub fn open_for(target: &Target, model: &Model, usual: &Request) -> Result<Self> {
        Self::open_with(target, model, usual, Extras::default())
    }

    /// The same, with hidden states of prompts kept on disk: the text encoder is opened when a prompt is not there, and
    /// may be missing where all are and the model comes from [`Model::open_with_prompts`].
    ///
    /// # Errors
    /// As [`Pipeline::open_for`]; a cache that is damaged or cannot be written to is a warning.
    pub fn open_with_prompts(target: &Target, model: &Model, usual: &Request, prompts: PromptCache) -> Result<Self> {
        Self::open_with(target, model, usual, Extras { prompts: Some(prompts), ..Extras::default() })
    }

    /// The same, where `watch` is told what becomes of each graph in the target's cache while it is opened: building an
    /// entry may take minutes. Where the target stages graphs, it is told in each generation.
    ///
    /// # Errors
    /// As [`Pipeline::open_with_prompts`]; [`ErrorKind::Library`] where the cache lacks an entry and must not build it.
    pub fn open_watched(
        target: &Target,
        model: &Model,
        usual: &Request,
        prompts: Option<PromptCache>,
        watch: Watch,
    ) -> Result<Self> {
        Self::open_with(target, model, usual, Extras { prompts, watch: Some(watch), ..Extras::default() })
    }

    /// The same; the library writes down in a folder which node of each graph ran where.
    pub(crate) fn open_profiled(target: &Target, model: &Model, usual: &Request, profiles: &Path) -> Result<Self> {
        Self::open_with(target, model, usual, Extras { profiles: Some(profiles), ..Extras::default() })
    }

    fn open_with(target: &Target, model: &Model, usual: &Request, extras: Extras) -> Result<Self> {
        let (start, before) = (Instant::now(), MemoryReading::now());
        let mut plan = Plan::new(usual, model, target)?;
        check_graph_sizes(target, model)?;
        choose_tiles(usual, &mut plan, model, target)?;
        let Extras { profiles, prompts, watch, is_any } = extras;
        let prober = Prober::of(target, &usual.cancel, watch.clone());
        let keeping = Keeping { store: Store::of(target, model, watch), prober };
        let find = |stage: Stage| {
            let dispensable = Stage::TEXT_ENCODERS.contains(&stage) && prompts.is_some();
            let find = if dispensable { Source::find_or_promised } else { Source::find };
            Ok(keeping.source(find(stage, model, target)?).profiled(profiles))
        };
        // Loading the library and hashing the graphs take about as long, so they go side by side.
        let (library, sources) = std::thread::scope(|scope| {
            let library = scope.spawn(|| Library::open(None));
            let text = model.tokenizers.keys().map(|&stage| find(stage)).collect::<Result<Vec<_>>>();
            let decoder = model.stages.contains_key(&Stage::Decoder).then(|| find(Stage::Decoder)).transpose();
            (join(library), (text, find(Stage::Denoiser), decoder))
        });
        let (text, denoiser, decoder, library) = (sources.0?, sources.1?, sources.2?, library?);
        let entries = prompts.map(|prompts| prompts.of(&text, &denoiser, model)).transpose()?;
        let entries = entries.into_iter().flatten().map(Some).chain(std::iter::repeat_with(|| None));
        let traits = Traits::of(&denoiser.outline, model);
        if !is_any {
            Task::of(usual, traits.shown_channels > 0)?;
        }
        let residency = target.residency;
        let reader = |(text, entries): (Source, _)| {
            (text.stage(), Slot::new(library, text, TextEncoder::open, residency), entries)
        };
        let text: Vec<_> = text.into_iter().zip(entries).map(reader).collect();
        let mut denoiser = Slot::new(library, denoiser, Denoiser::open, residency);
        let mut decoder = decoder.map(|decoder| Slot::new(library, decoder, Decoder::open, residency));
        let settled = std::thread::scope(|scope| {
            let text = scope.spawn(|| TextStage::settled(text, model, &plan));
            let decoder = scope.spawn(|| decoder.as_mut().map_or(Ok(()), |decoder| decoder.settle(model, &plan)));
            let denoiser = denoiser.settle(model, &plan);
            (join(text), denoiser, join(decoder))
        });
        let text = settled.0?;
        settled.1.and(settled.2)?;
        let encoder = plan.stages(model).contains(&Stage::Encoder).then(|| {
            let source = keeping.encoder(model, target)?.profiled(profiles);
            let mut encoder = Slot::new(library, source, Encoder::open, residency);
            encoder.settle(model, &plan).map(|()| encoder)
        });
        Ok(Self {
            encoder: encoder.transpose()?,
            keeping,
            measures_memory: false,
            model: model.clone(),
            target: target.clone(),
            library,
            text,
            traits,
            denoiser,
            decoder,
            observer: Box::new(|_| ()),
            recording: None,
            open_time: start.elapsed(),
            open_memory: before.zip(MemoryReading::now()).map(|(before, after)| OpeningMemory::new(before, after)),
        })
    }

    /// The model that was opened.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What each stage runs.
    pub fn graphs(&self) -> BTreeMap<Stage, Opened> {
        self.opened().map(|(stage, opened)| (stage, opened.clone())).collect()
    }

    fn opened(&self) -> impl Iterator<Item = (Stage, &Opened)> {
        let text = self.text.encoders().map(|(stage, encoder)| (stage, encoder.opened()));
        let decoder = self.decoder.iter().map(|decoder| (Stage::Decoder, decoder.opened()));
        let encoder = self.encoder.iter().map(|encoder| (Stage::Encoder, encoder.opened()));
        text.chain([(Stage::Denoiser, self.denoiser.opened())]).chain(decoder).chain(encoder)
    }

    /// Every stage, whatever it is.
    fn slots(&mut self) -> impl Iterator<Item = (Stage, &mut dyn AnySlot)> {
        let text = self.text.encoders_mut().map(|(stage, encoder)| (stage, encoder as &mut dyn AnySlot));
        let denoiser = (Stage::Denoiser, &mut self.denoiser as &mut dyn AnySlot);
        let decoder = self.decoder.iter_mut().map(|decoder| (Stage::Decoder, decoder as &mut dyn AnySlot));
        let encoder = self.encoder.iter_mut().map(|encoder| (Stage::Encoder, encoder as &mut dyn AnySlot));
        text.chain([denoiser]).chain(decoder).chain(encoder)
    }

    /// Puts another observer in the place of the one that was set, and returns that.
    pub(crate) fn replace_observer(&mut self, observer: Observer) -> Observer {
        std::mem::replace(&mut self.observer, observer)
    }

    /// The profile of each stage that is open, ended.
    pub(crate) fn end_profiles(&mut self) -> Result<Vec<(Stage, PathBuf)>> {
        let open = self.slots().filter_map(|(stage, slot)| Some((stage, slot.graph()?)));
        open.map(|(stage, graph)| Ok((stage, graph.end_profile()?))).collect()
    }

    /// Has every generation from now on tell where its memory went. Reading it takes tens of microseconds a stage, and
    /// the process's peak is reset at each: other tools that read it see only what came after.
    pub fn measure_memory(&mut self) {
        self.slots().for_each(|(_, slot)| slot.measure_memory());
        self.measures_memory = true;
    }

    /// Has what graphs are given written down from now on, for calibrating their quantisation.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where the folder has recordings of other graphs.
    pub fn record(&mut self, recording: &Recording) -> Result<()> {
        let about = json!({
            "safelight": env!("CARGO_PKG_VERSION"),
            "onnxruntime": self.library.version(),
            "model": self.model.name,
            "target": self.target.name,
        });
        recording.begin(about, &self.graphs())?;
        self.slots().for_each(|(_, slot)| slot.record_in(recording));
        self.recording = Some(recording.clone());
        Ok(())
    }

    /// Sets who is told about progress; it is called on the thread that generates.
    pub fn on_event(&mut self, observer: impl FnMut(&Event) + Send + 'static) {
        self.observer = Box::new(observer);
    }

    /// Makes the pictures of a request.
    ///
    /// # Errors
    /// As [`Plan::new`] for the request; [`ErrorKind::Numeric`] naming the step and the
    /// stage where NaN, a constant latent or a black picture appeared;
    /// [`ErrorKind::Cancelled`].
    pub fn generate(&mut self, request: &Request) -> Result<Output> {
        let mut pictures = Vec::new();
        let Report { timings, warnings, memory, .. } = self.generate_each(request, |picture| {
            pictures.push(picture);
            Ok(())
        })?;
        Ok(Output { pictures, timings, warnings, memory })
    }

    /// The same, handing over each picture as soon as it is made: what is made is not lost when a later one fails,
    /// and memory holds one batch. Where the target stages graphs, every picture is denoised before the first is decoded,
    /// and memory holds a latent of each.
    ///
    /// # Errors
    /// As [`Pipeline::generate`], and whatever `take` returns, which ends the generation.
    pub fn generate_each(&mut self, request: &Request, mut take: impl FnMut(Picture) -> Result<()>) -> Result<Report> {
        let start = Instant::now();
        let mut plan = Plan::new(request, &self.model, &self.target)?;
        choose_tiles(request, &mut plan, &self.model, &self.target)?;
        let task = Task::of(request, self.traits.shown_channels > 0)?;
        let mut job = Job::new(request, &plan, self.batch(request, &plan));
        plan.warnings.iter().for_each(|warning| job.warn(&mut self.observer, warning));
        self.recording.as_ref().map_or(Ok(()), |recording| recording.note(as_recorded(request, &plan)))?;
        let made = self.make(&mut job, task, &mut take);
        // Whatever ended it: no staged graph outlives its request.
        self.slots().for_each(|(_, slot)| slot.end());
        let opening = [self.take_opening_times(), self.open_time].map(milliseconds);
        let memory = self.take_memory();
        made?;
        let cached = self.graphs().into_iter().filter_map(|(stage, opened)| Some((stage, opened.cached?)));
        job.report.cached = cached.collect();
        job.report.memory = memory;
        let timings = &mut job.report.timings;
        [timings.reopen_ms, timings.open_ms] = opening;
        timings.total_ms = milliseconds(start.elapsed());
        Ok(job.report)
    }

    /// Prompts, and a picture where there is one → latents → pictures. Staged graphs are opened once each: all latents are
    /// there before the first is decoded.
    fn make(&mut self, job: &mut Job, task: Task, take: &mut dyn FnMut(Picture) -> Result<()>) -> Result<()> {
        self.warn_of_graphs(job);
        let prompts = self.encode_prompts(job)?;
        let original = self.encode_picture(job, task)?;
        self.encoder.iter_mut().for_each(Slot::end);
        let given = Given { prompts, original };
        let batches = (0..job.request.count).step_by(job.batch);
        match self.target.residency {
            Residency::Resident => {
                for first in batches {
                    let batch = self.denoise(job, &given, first)?;
                    self.denoiser.end();
                    self.decode(job, &given.original, batch, take)?;
                    self.decoder.iter_mut().for_each(Slot::end);
                }
                Ok(())
            }
            Residency::Staged => {
                let latents = batches.map(|first| self.denoise(job, &given, first)).collect::<Result<Vec<_>>>()?;
                self.denoiser.end();
                latents.into_iter().try_for_each(|batch| self.decode(job, &given.original, batch, take))
            }
        }
    }

    /// Time spent on opening graphs since this was last asked.
    fn take_opening_times(&mut self) -> Duration {
        self.slots().map(|(_, slot)| slot.take_reopen_time()).sum()
    }

    /// Where the memory went since this was last asked; nothing where no stage was watched.
    fn take_memory(&mut self) -> Option<Memory> {
        let stages: Vec<_> = self.slots().map(|(stage, slot)| (stage, slot.take_memory())).collect();
        let highest = stages.iter().map(|(_, (_, highest))| *highest).max().filter(|&highest| highest > 0)?;
        let (pipeline, now) = (self.open_memory?, MemoryReading::now()?);
        let process = MemoryReading { peak: now.peak.max(highest), ..now };
        let stages = stages.into_iter().filter_map(|(stage, (memory, _))| Some((stage, memory?)));
        Some(Memory { pipeline, stages: stages.collect(), process })
    }

    /// A graph that was exported for few pictures at once takes a larger batch in parts, which makes the same pictures.
    fn batch(&self, request: &Request, plan: &Plan) -> usize {
        match (request.noise, self.traits.fixed_batch) {
            (NoiseLayout::PerImage, Some(fixed)) => plan.batch.min(fixed.max(1)),
            _ => plan.batch,
        }
    }

    fn encode_prompts(&mut self, job: &mut Job) -> Result<Prompts> {
        let start = Instant::now();
        let request = job.request;
        let classifier_free = job.plan.is_guided() && !self.traits.embeds_guidance;
        let zeros = request.negative.is_none() && self.model.empty_prompt == EmptyPrompt::Zeros;
        let mut texts = vec![&job.plan.prompt];
        texts.extend((classifier_free && !zeros).then_some(&job.plan.negative));
        let mut prompts = if self.model.reads_prompts() {
            let run = Run { model: &self.model, plan: job.plan, cancel: &request.cancel };
            self.text.encode(&texts, run)?.into_iter()
        } else {
            Vec::new().into_iter()
        };
        let (positive, negative) = (prompts.next(), prompts.next());
        let negative =
            negative.or_else(|| Some(positive.as_ref()?.zeros_like().into()).filter(|_| zeros && classifier_free));
        if let Some(hidden) = &positive {
            self.traits.check_tokens(hidden.tokens, job.plan)?;
        }
        let Reading { hits, misses, warnings } = self.text.take_reading();
        (job.report.timings.text_hits, job.report.timings.text_misses) = (hits, misses);
        warnings.iter().for_each(|warning| job.warn(&mut self.observer, warning));
        self.warn_of_graphs(job);
        if self.traits.embeds_guidance {
            for what in unused_by_embedding(request, job.plan) {
                let warning = format!("{what} has no effect: this model takes the guidance scale as an input");
                job.warn(&mut self.observer, &warning);
            }
        }
        for (what, hidden) in [("prompt", positive.as_ref()), ("negative prompt", negative.as_ref())] {
            if let Some(cut) = hidden.and_then(|hidden| hidden.cut.as_ref()) {
                let instead = match self.traits.fixed_tokens {
                    Some(_) => "",
                    None => "; --long-prompts chunks reads all of it",
                };
                let warning = format!("the {what} is longer than the model reads; cut off: \"{cut}\"{instead}");
                job.warn(&mut self.observer, &warning);
            }
        }
        let run_times = self.text.encoders_mut().map(|(_, encoder)| encoder.take_run_time());
        job.report.timings.graphs_ms += milliseconds(run_times.sum());
        job.report.timings.text_encoder_ms += milliseconds(start.elapsed());
        Ok(Prompts { positive, negative, classifier_free })
    }

    /// The picture that the request begins with, if there is one → its latents, and what of it is to be kept.
    fn encode_picture(&mut self, job: &mut Job, task: Task) -> Result<Original> {
        let (start, request, plan) = (Instant::now(), job.request, job.plan);
        let Some(image) = &request.image else { return Ok(Original::none()) };
        let mut planes = image.planes(plan.width, plan.height);
        let painted = request.mask.as_ref().map(|mask| mask.painted(plan.width, plan.height)).unwrap_or_default();
        let begins_with_noise = task != Task::WholePicture && plan.strength == Some(1.0);
        let mut pictures = Vec::new();
        if task != Task::Shown || !begins_with_noise {
            pictures.push(self.encode(job, &planes)?);
        }
        if task == Task::Shown {
            original::grey_out(&mut planes, &painted);
            pictures.push(self.encode(job, &planes)?);
        }
        let masked = if task == Task::Shown { pictures.pop() } else { None };
        let picture = pictures.pop();
        job.report.timings.encoder_ms += milliseconds(start.elapsed());
        (self.observer)(&Event::Encoded);
        let kept = (request.kept == KeptPixels::Pasted).then(|| image.resized(plan.width, plan.height));
        Ok(Original { task, picture, masked, begins_with_noise, mask: Mask::new(painted, plan), kept })
    }

    /// A picture, `[3, height, width]` in −1 … 1 → its latents; where the model makes pixels, it is one.
    fn encode(&mut self, job: &mut Job, picture: &[f32]) -> Result<Posterior> {
        let (request, plan) = (job.request, job.plan);
        if self.decoder.is_none() {
            return Posterior::of_pixels(picture, plan, self.model.latent);
        }
        let slot = match self.encoder.take() {
            Some(slot) => slot,
            None => self.new_encoder()?,
        };
        let slot = self.encoder.insert(slot);
        let encoder = slot.begin(&self.model, plan)?;
        let plane = encoder.plane(plan);
        let posterior = encoder.encode(picture, &plane, &request.cancel)?;
        job.report.timings.graphs_ms += milliseconds(slot.take_run_time());
        self.tell_tiles(job, Stage::Encoder, &plane);
        self.warn_of_graphs(job);
        Ok(posterior)
    }

    /// The encoder, which is looked for when the first request begins with a picture.
    fn new_encoder(&self) -> Result<Slot<Encoder>> {
        let source = self.keeping.encoder(&self.model, &self.target)?;
        let mut slot = Slot::new(self.library, source, Encoder::open, self.target.residency);
        self.recording.iter().for_each(|recording| slot.record_in(recording));
        if self.measures_memory {
            slot.measure_memory();
        }
        Ok(slot)
    }

    /// Noise → the clean latents of the batch that starts with picture `first`.
    fn denoise(&mut self, job: &mut Job, given: &Given, first: usize) -> Result<Batch> {
        let start = Instant::now();
        self.denoiser.begin(&self.model, job.plan)?;
        self.warn_of_graphs(job);
        let (request, plan) = (job.request, job.plan);
        let mut noise = Noise::start(plan.generator, job.seeds(first));
        let beginning = given.original.begin(&mut noise, (request.noise, job.rows(first)), plan)?;
        (self.observer)(&Event::Noise { first, latent: beginning.noise() });
        let latent = beginning.latent(plan);
        let prompts = &given.prompts;

        let wanted = Steering { hidden: prompts.positive.as_deref(), number: |chosen| chosen.value };
        let unwanted = Steering { hidden: prompts.negative.as_deref(), number: |chosen| chosen.unguided };
        let guidance = match prompts.classifier_free {
            true => Guidance::Guided { negative: unwanted },
            false if self.traits.embeds_guidance => Guidance::Embedded,
            false => Guidance::Off,
        };
        let done = Cell::new(0);
        let with = Conditions { plan, done: &done, cancel: &request.cancel, shown: beginning.shown() };
        let denoiser = self.denoiser.begin(&self.model, plan)?;
        let mut denoiser = denoiser.condition(latent.dim(), wanted, guidance, with)?;
        let mut fresh = SamplerSource::new(job, first, noise)?;
        let observer = &mut self.observer;
        let timings = &mut job.report.timings;
        let (start_of_step, beginning) = (Instant::now(), &beginning);
        let mut watch = StepWatch { plan, first, beginning, start: start_of_step, done: &done, observer, timings };
        let mut walk = Walk {
            training: &plan.training,
            options: &plan.options,
            noise: &mut |latent, from, to| fresh.fill(latent, from, to),
            on_step: &mut |step| watch.step(step),
        };
        let mut putting_back = PuttingBack::new(&mut denoiser, beginning);
        let walked = plan.trajectory.walk(&mut putting_back, latent, &mut walk);
        let (latents, tally) = walked.map_err(|e| watch.locate(e))?;
        let work = Work { steps: done.get(), evaluations: denoiser.evaluations(), saved: denoiser.saved(), tally };
        job.report.timings.graphs_ms += milliseconds(self.denoiser.take_run_time());
        job.report.timings.denoiser_ms += milliseconds(start.elapsed());
        Ok(Batch { first, latents, work })
    }

    fn decode(
        &mut self,
        job: &mut Job,
        original: &Original,
        batch: Batch,
        take: &mut dyn FnMut(Picture) -> Result<()>,
    ) -> Result<()> {
        for (offset, latent) in batch.latents.axis_iter(Axis(0)).enumerate() {
            let (start, index) = (Instant::now(), batch.first + offset);
            let mut pixels = match &mut self.decoder {
                Some(decoder) => {
                    let decoder = decoder.begin(&self.model, job.plan)?;
                    let plane = decoder.plane(job.plan);
                    let pixels = decoder.decode(latent, &plane, &job.request.cancel)?;
                    self.tell_tiles(job, Stage::Decoder, &plane);
                    pixels
                }
                None => decoder::pixels(latent, self.model.latent)?,
            };
            original.paste(&mut pixels);
            self.warn_of_graphs(job);
            let provenance = self.provenance(job, index, batch.work);
            let picture = Picture { pixels, latent: latent.to_owned(), provenance };
            let timings = &mut job.report.timings;
            timings.graphs_ms += milliseconds(self.decoder.as_mut().map_or(Duration::ZERO, Slot::take_run_time));
            timings.decoder_ms += milliseconds(start.elapsed());
            (self.observer)(&Event::Decoded { index, count: job.request.count });
            let handover = Instant::now();
            take(picture)?;
            timings.handover_ms += milliseconds(handover.elapsed());
        }
        Ok(())
    }

    fn provenance(&self, job: &Job, index: usize, work: Work) -> Provenance {
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
    fn warn_of_graphs(&mut self, job: &mut Job) {
        let opened = self.opened().filter(|(stage, _)| job.plan.uses(*stage));
        let warnings: Vec<_> = opened.flat_map(|(_, opened)| opened.warnings.iter().cloned()).collect();
        warnings.iter().for_each(|warning| job.warn(&mut self.observer, warning));
    }

    /// Tells that a stage works in tiles, which changes the picture a little, and why it does.
    fn tell_tiles(&mut self, job: &mut Job, stage: Stage, plane: &Plane) {
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

fn choose_tiles(request: &Request, plan: &mut Plan, model: &Model, target: &Target) -> Result<()> {
    let (_, height, width) = plan.latent;
    // Reading what memory there is takes as long as some pictures' own code.
    if height.max(width) <= USUAL_CELLS {
        return Ok(());
    }
    Forecast::choose_tiles(request, plan, model, target, &rooms(target, Path::new("/")))
}

/// What graphs are opened with, whenever that is.
struct Keeping {
    store: Option<Arc<Store>>,
    prober: Option<Arc<Prober>>,
}

impl Keeping {
    fn source(&self, source: Source) -> Source {
        source.kept_in(self.store.clone()).probed_by(self.prober.clone())
    }

    /// The encoder's graph, which only requests that begin with a picture need.
    fn encoder(&self, model: &Model, target: &Target) -> Result<Source> {
        check_graph_size(Stage::Encoder, target, model)?;
        Ok(self.source(Source::find(Stage::Encoder, model, target)?))
    }
}

/// What a pipeline is opened with besides target, model and usual request.
#[derive(Default)]
struct Extras<'a> {
    /// Where the library is to write down which node ran where.
    profiles: Option<&'a Path>,
    prompts: Option<PromptCache>,
    watch: Option<Watch>,
    /// Whether nothing is known of the requests that will come.
    is_any: bool,
}

pub(crate) type Observer = Box<dyn FnMut(&Event) + Send>;

/// One generation while it is under way.
struct Job<'a> {
    request: &'a Request,
    plan: &'a Plan,
    /// Pictures that go through the graphs together.
    batch: usize,
    /// Width and height of the tiles, in pixels, that a stage works in.
    tiles: BTreeMap<Stage, [usize; 2]>,
    report: Report,
}

/// Clean latents of one batch.
struct Batch {
    /// Index of its first picture.
    first: usize,
    latents: Latent,
    work: Work,
}

/// What the denoiser had to do for a batch.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    steps: usize,
    evaluations: usize,
    saved: usize,
    tally: Tally,
}

struct Prompts {
    /// Present where words steer the model.
    positive: Option<Arc<Hidden>>,
    /// The same, where guidance leads away from it.
    negative: Option<Arc<Hidden>>,
    /// Whether guidance takes two predictions.
    classifier_free: bool,
}

/// What steers the denoising of every batch.
struct Given {
    prompts: Prompts,
    original: Original,
}

impl<'a> Job<'a> {
    fn new(request: &'a Request, plan: &'a Plan, batch: usize) -> Self {
        Self { request, plan, batch, tiles: BTreeMap::new(), report: Report::default() }
    }

    /// Pictures of the batch that starts with picture `first`; the last may be smaller.
    fn rows(&self, first: usize) -> usize {
        self.batch.min(self.request.count - first)
    }

    /// Seeds of the initial noise of the batch that starts with picture `first`.
    fn seeds(&self, first: usize) -> Seeds {
        let request = self.request;
        let pictures = first..first + self.rows(first);
        match request.noise {
            NoiseLayout::PerImage if request.walk.is_empty() => {
                Seeds::PerImage(pictures.map(|i| request.seed_of(i)).collect())
            }
            NoiseLayout::PerImage => Seeds::Walk(pictures.map(|i| request.leg(i)).collect()),
            NoiseLayout::Shared => Seeds::Shared(request.seed),
        }
    }

    /// Seeds of the sampler's own noise, where the request has one for it.
    fn noise_seeds(&self, first: usize) -> Option<Seeds> {
        let (request, pictures) = (self.request, first..first + self.rows(first));
        let of_each = |i| request.noise_seed_of(i);
        match request.noise {
            NoiseLayout::PerImage => pictures.map(of_each).collect::<Option<_>>().map(Seeds::PerImage),
            NoiseLayout::Shared => request.noise_seed.map(Seeds::Shared),
        }
    }

    /// Tells a warning, once.
    fn warn(&mut self, observer: &mut Observer, warning: &str) {
        if !self.report.warnings.iter().any(|told| told == warning) {
            observer(&Event::Warning(warning));
            self.report.warnings.push(warning.to_owned());
        }
    }
}

/// Where a sampler's own noise comes from.
enum SamplerSource<'a> {
    Independent(Noise),
    Brownian(Box<Brownian>, &'a Training),
}

impl<'a> SamplerSource<'a> {
    /// `initial` goes on, unless the request has a seed for this noise alone.
    fn new(job: &Job<'a>, first: usize, initial: Noise) -> Result<Self> {
        let Job { request, plan, .. } = job;
        let own = job.noise_seeds(first);
        match request.sampler_noise {
            SamplerNoise::Independent => {
                Ok(Self::Independent(own.map_or(initial, |seeds| Noise::start(plan.generator, seeds))))
            }
            SamplerNoise::Brownian => {
                let seeds = own.unwrap_or_else(|| job.seeds(first));
                let (least, most) = plan.training.sigma_range();
                let times = plan.trajectory.levels().map(|level| brownian_time(&plan.training, level));
                let least = times.filter(|&time| time > 0.0).fold(least, f64::min);
                Ok(Self::Brownian(Box::new(Brownian::new(seeds, least, most)?), &plan.training))
            }
        }
    }

    fn fill(&mut self, latent: &mut Latent, from: Level, to: Level) -> Result<()> {
        match self {
            Self::Independent(noise) => noise.fill(latent),
            Self::Brownian(motion, training) => {
                motion.fill(latent, brownian_time(training, from), brownian_time(training, to))
            }
        }
    }
}

/// Sigma as k-diffusion has it, no more than training's: pure noise, whose sigma is infinite, is to be noisier than what
/// follows it, and so are tables that round the largest sigma up.
fn brownian_time(training: &Training, level: Level) -> f64 {
    training.own_sigma(level).min(training.sigma_range().1)
}

/// Times each step and tells the observer.
struct StepWatch<'a> {
    plan: &'a Plan,
    beginning: &'a Beginning<'a>,
    first: usize,
    start: Instant,
    done: &'a Cell<usize>,
    observer: &'a mut Observer,
    timings: &'a mut Timings,
}

impl StepWatch<'_> {
    fn step(&mut self, step: &mut Step) -> Result<()> {
        let steps = self.plan.steps();
        self.beginning.put_back(step, Some(step.index + 1) == steps);
        let Step { index, from, ref latent, denoised, .. } = *step;
        self.timings.steps_ms.push(milliseconds(self.start.elapsed()));
        self.start = Instant::now();
        self.done.set(index + 1);
        let (first, timestep) = (self.first, from.timestep);
        (self.observer)(&Event::Step { first, step: index, steps, timestep, latent, denoised });
        Ok(())
    }

    /// Says in which step the numbers went wrong.
    fn locate(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Numeric {
            return error;
        }
        let step = self.done.get() + 1;
        match self.plan.steps() {
            Some(steps) => error.context(format_args!("denoiser: step {step} of {steps}")),
            None => error.context(format_args!("denoiser: step {step}")),
        }
    }
}

/// A request as the recording of its graphs' inputs tells it.
fn as_recorded(request: &Request, plan: &Plan) -> serde_json::Value {
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
fn unused_by_embedding(request: &Request, plan: &Plan) -> Vec<String> {
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

/// Refuses graphs that are larger than the target allows.
pub(crate) fn check_graph_sizes(target: &Target, model: &Model) -> Result<()> {
    model.stages_to_picture().into_iter().try_for_each(|stage| check_graph_size(stage, target, model))
}

fn check_graph_size(stage: Stage, target: &Target, model: &Model) -> Result<()> {
    let (_, file) = model.graph(stage, &target.stage(stage).precision)?;
    let (bytes, most) = (file.total_bytes(), target.limits.max_graph_bytes);
    if bytes > most {
        return Err(Error::limit(format!(
            "{}: is {bytes} bytes with its weights, but the target allows {most}",
            file.path.display()
        )));
    }
    Ok(())
}

fn join<T>(thread: std::thread::ScopedJoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::tests::{diffusion, flow};

    #[test]
    fn brownian_times_rise_with_the_noise_up_to_pure_noise() {
        for training in [Training::new(diffusion()).unwrap(), Training::new(flow()).unwrap()] {
            assert_eq!(training.at_own_index(999.0).alpha, 0.0);
            let times: Vec<_> =
                (0..1000).map(|i| brownian_time(&training, training.at_own_index(f64::from(i)))).collect();
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] > 1e-6), "{times:?}");
        }
    }
}
