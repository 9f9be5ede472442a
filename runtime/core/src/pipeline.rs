//! The whole way from a request to pictures, on one screen.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::Axis;
use serde_json::json;

use crate::Result;
use crate::checkpoint::{self, Checkpoint, Resumed, Tape};
use crate::decoder::{self, Decoder};
use crate::denoiser::{Conditions, Denoiser, Guidance, Steering, Traits};
use crate::encoder::{Encoder, Posterior};
use crate::graph::Opened;
use crate::library::Library;
use crate::memory::OpeningMemory;
use crate::model::{EmptyPrompt, Model};
use crate::noise::Noise;
use crate::original::{self, Mask, Original, PuttingBack, Shown, Task};
use crate::picture::Picture;
use crate::recording::Recording;
use crate::request::{KeptPixels, NoiseLayout, Plan, Request};
use crate::residency::{AnySlot, Residency, Slot};
use crate::stage::Stage;
use crate::target::Target;
use crate::text::{Hidden, Reading, Run, TextStage};
use crate::trajectory::Walk;

mod job;
mod open;
mod report;

use job::{Batch, Given, Job, Previews, Prompts, SamplerSource, StepWatch, Work};
pub(crate) use open::check_graph_sizes;
use open::{Keeping, choose_tiles};
pub use report::{Event, Output, Report, Timings};
use report::{as_recorded, unused_by_embedding};

/// A model opened on a target, ready to make pictures.
///
/// One worker owns a pipeline: ONNX Runtime's sessions are not shared. A server is a queue in front of it.
///
/// ```no_run
/// use std::path::Path;
/// use safelight::{ErrorKind, Event, Model, Pipeline, Request, Target};
///
/// # fn main() -> safelight::Result<()> {
/// let target = Target::open(Path::new("targets/generic-cpu.yaml"))?;
/// let mut pipeline = Pipeline::open(&target, &Model::open(Path::new("models/emoji"))?)?;
/// pipeline.on_event(|event| if let Event::Step { step, .. } = event { /* show it */ });
///
/// let request = Request { prompt: "a red apple".into(), count: 4, ..Request::default() };
/// let cancel = request.cancel.clone();
/// std::thread::spawn(move || cancel.cancel()); // from wherever the user presses a button
/// match pipeline.generate(&request) {
///     Ok(output) => println!("{} pictures in {:.0} ms", output.pictures.len(), output.timings.total_ms),
///     Err(error) if error.kind() == ErrorKind::Cancelled => println!("stopped; the pipeline is ready for the next"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
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
    checkpoint: Option<Checkpoint>,
    open_time: Duration,
    open_memory: Option<OpeningMemory>,
}

impl Pipeline {
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
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where the folder has recordings of other graphs.
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

    /// Has the requests that come from now on made with a checkpoint, in the order that it was opened for; or without one.
    pub fn set_checkpoint(&mut self, checkpoint: Option<Checkpoint>) {
        self.checkpoint = checkpoint;
    }

    /// Sets who is told about progress; it is called on the thread that generates.
    pub fn on_event(&mut self, observer: impl FnMut(&Event) + Send + 'static) {
        self.observer = Box::new(observer);
    }

    /// Makes the pictures of a request.
    ///
    /// # Errors
    /// As [`Plan::new`] for the request; [`ErrorKind::Numeric`](crate::ErrorKind::Numeric) naming the step and the
    /// stage where NaN, a constant latent or a black picture appeared;
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
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
        let checkpoint = self.checkpoint.as_ref();
        let number = checkpoint.map(|it| it.begin(request, &mut plan, (&self.model, &self.target))).transpose()?;
        let mut job = Job { number: number.unwrap_or(0), ..Job::new(request, &plan, self.batch(request, &plan)) };
        job.report.resumed = checkpoint.map(|it| Resumed { pictures: it.saved_of(job.number), ..Resumed::default() });
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
        if self.are_saved(job, 0..job.request.count) {
            return Ok(());
        }
        self.warn_of_graphs(job);
        let prompts = self.encode_prompts(job)?;
        let original = self.encode_picture(job, task)?;
        self.encoder.iter_mut().for_each(Slot::end);
        let given = Given { prompts, original };
        let batches = (0..job.request.count).step_by(job.batch);
        let missing = batches.filter(|&first| !self.are_saved(job, first..first + job.rows(first)));
        let batches: Vec<_> = missing.collect();
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
                let latents =
                    batches.into_iter().map(|first| self.denoise(job, &given, first)).collect::<Result<Vec<_>>>()?;
                self.denoiser.end();
                latents.into_iter().try_for_each(|batch| self.decode(job, &given.original, batch, take))
            }
        }
    }

    /// Whether a checkpoint says of these pictures that they are where they belong.
    fn are_saved(&self, job: &Job, mut pictures: Range<usize>) -> bool {
        let Some(checkpoint) = &self.checkpoint else { return false };
        pictures.all(|picture| checkpoint.is_saved(job.number as usize, picture))
    }

    /// What the denoiser gave before for the batch that starts with picture `first`, where there is a checkpoint.
    fn tape(&self, job: &Job, given: &Given, (first, shown): (usize, Option<&Shown>)) -> Result<Option<Tape>> {
        let Some(checkpoint) = &self.checkpoint else { return Ok(None) };
        // What the encoder gives shows in what the denoiser is asked, and not every request has one.
        let graphs = self.opened().filter(|(stage, _)| *stage != Stage::Encoder);
        let weights = || self.denoiser.weights();
        checkpoint.check_graphs(graphs, weights, self.library.version())?;
        let Prompts { positive, negative, .. } = &given.prompts;
        let words = [positive, negative].into_iter().flatten().flat_map(|words| [&words.values[..], &words.pooled[..]]);
        let shown = shown.into_iter().flat_map(|shown| [Some(&shown.mask[..]), shown.masked.as_slice()]).flatten();
        Ok(Some(checkpoint.tape(job.number, (first, job.rows(first)), checkpoint::hash_of(words.chain(shown)))))
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
        self.warn_of_prompts(job, [("prompt", positive.as_ref()), ("negative prompt", negative.as_ref())]);
        let run_times = self.text.encoders_mut().map(|(_, encoder)| encoder.take_run_time());
        job.report.timings.graphs_ms += milliseconds(run_times.sum());
        job.report.timings.text_encoder_ms += milliseconds(start.elapsed());
        Ok(Prompts { positive, negative, classifier_free })
    }

    /// Tells what of the prompts has no effect.
    fn warn_of_prompts(&mut self, job: &mut Job, prompts: [(&str, Option<&Arc<Hidden>>); 2]) {
        if self.traits.embeds_guidance {
            for what in unused_by_embedding(job.request, job.plan) {
                let warning = format!("{what} has no effect: this model takes the guidance scale as an input");
                job.warn(&mut self.observer, &warning);
            }
        }
        for (what, hidden) in prompts {
            if let Some(cut) = hidden.and_then(|hidden| hidden.cut.as_ref()) {
                let instead = match self.traits.fixed_tokens {
                    Some(_) => "",
                    None => "; --long-prompts chunks reads all of it",
                };
                let warning = format!("the {what} is longer than the model reads; cut off: \"{cut}\"{instead}");
                job.warn(&mut self.observer, &warning);
            }
        }
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
        let tape = self.tape(job, given, (first, beginning.shown()))?;
        let tape = tape.as_ref();
        let with = Conditions { plan, done: &done, cancel: &request.cancel, shown: beginning.shown(), tape };
        let denoiser = self.denoiser.begin(&self.model, plan)?;
        let mut denoiser = denoiser.condition(latent.dim(), wanted, guidance, with)?;
        let mut fresh = SamplerSource::new(job, first, noise)?;
        let observer = &mut self.observer;
        let report = &mut job.report;
        let (start_of_step, beginning) = (Instant::now(), &beginning);
        let previews = Previews { decoder: self.decoder.as_mut(), model: &self.model, request, plan };
        let previewed_ms = report.timings.preview_ms;
        let mut watch =
            StepWatch { previews, first, beginning, start: start_of_step, done: &done, observer, report, tape };
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
        job.add_replayed(tape);
        job.report.timings.graphs_ms += milliseconds(self.denoiser.take_run_time());
        let timings = &mut job.report.timings;
        timings.denoiser_ms += milliseconds(start.elapsed()) - (timings.preview_ms - previewed_ms);
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
            if self.are_saved(job, index..index + 1) {
                continue;
            }
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
            self.checkpoint.iter().for_each(|checkpoint| checkpoint.hands_over(job.number, index));
            take(picture)?;
            timings.handover_ms += milliseconds(handover.elapsed());
        }
        Ok(())
    }
}

pub(crate) type Observer = Box<dyn FnMut(&Event) + Send>;

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
