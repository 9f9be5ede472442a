//! The denoiser's graph with its conditioning → the clean latent behind a noisy one.

use std::cell::Cell;

use crate::cancel::Cancel;
use crate::checkpoint::Tape;
use crate::graph::{Contract, Graph, Source, TIME_IDS};
use crate::guard::{all_finite, is_constant};
use crate::guidance::{self, Apg, Kind};
use crate::library::Library;
use crate::model::Model;
use crate::onnx::{Outline, Size};
use crate::options::Opt;
use crate::original::Shown;
use crate::prompt::LongPrompts;
use crate::request::{Chosen, GuidanceRuns, Plan};
use crate::residency::RunsGraph;
use crate::sampler::{Denoise, Latent};
use crate::stage::Stage;
use crate::text::Hidden;
use crate::training::{Level, Preconditioning};
use crate::{Error, Result};

/// Widest guidance embedding that is made; LCM's is 256.
const MAX_EMBEDDING_WIDTH: usize = 1 << 16;

/// The denoiser's graph, opened.
pub(crate) struct Denoiser {
    graph: Graph,
    sample: usize,
    timestep: usize,
    hidden: Option<usize>,
    /// Pooled hidden states, and the numbers that tell the picture's size (SDXL).
    pooled: Option<usize>,
    time_ids: Option<usize>,
    /// In the order of the plan's conditions.
    conditions: Vec<usize>,
    guidance_embedding: Option<usize>,
    shown_channels: usize,
}

/// What steers one prediction.
#[derive(Clone, Copy)]
pub(crate) struct Steering<'a> {
    /// Of a prompt, where words steer the model.
    pub(crate) hidden: Option<&'a Hidden>,
    /// Which number of each condition.
    pub(crate) number: fn(&Chosen) -> f64,
}

/// How strongly the prompt steers, and through what.
#[derive(Clone, Copy)]
pub(crate) enum Guidance<'a> {
    /// The model's own strength: one evaluation, no scale.
    Off,
    /// Away from `negative`, as the plan's rule has it: two evaluations.
    Guided { negative: Steering<'a> },
    /// The scale is an input of the graph (Luo et al. 2023, arXiv:2310.04378): one evaluation.
    Embedded,
}

/// What a denoiser's graph tells before it is opened.
#[derive(Clone, Copy)]
pub(crate) struct Traits {
    /// Whether it takes the guidance scale as an input.
    pub(crate) embeds_guidance: bool,
    /// How many latents it takes at once, where it was exported for a fixed number.
    pub(crate) fixed_batch: Option<usize>,
    /// Channels that it takes with each latent, where those are a mask and the latent of what is around it.
    pub(crate) shown_channels: usize,
    /// How many hidden states it takes, where it was exported for a fixed number.
    pub(crate) fixed_tokens: Option<usize>,
}

impl Traits {
    pub(crate) fn of(outline: &Outline, model: &Model) -> Self {
        let find = |name| {
            let name = model.tensor(Stage::Denoiser, name);
            outline.inputs.iter().find(|input| input.name == name)
        };
        let fixed = |name, axis| match find(name).and_then(|input| input.sizes.get(axis)) {
            Some(Size::Fixed(size)) => usize::try_from(*size).ok(),
            _ => None,
        };
        let shown = model.latent.channels + 1;
        let sees_masks = fixed("sample", 1) == Some(model.latent.channels + shown);
        Self {
            shown_channels: if sees_masks { shown } else { 0 },
            embeds_guidance: find("timestep_cond").is_some(),
            fixed_batch: fixed("sample", 0),
            fixed_tokens: fixed("encoder_hidden_states", 1),
        }
    }

    /// Refuses the chunks of a long prompt where there is room for one.
    pub(crate) fn check_tokens(&self, tokens: usize, plan: &Plan) -> Result<()> {
        match self.fixed_tokens {
            Some(fixed) if tokens > fixed && plan.prompt.long == LongPrompts::Chunks => Err(Error::usage(format!(
                "a prompt fills {tokens} tokens in chunks, but the denoiser's graph was exported for {fixed}; take \
                 --long-prompts cut, or export it with a free axis of tokens"
            ))),
            _ => Ok(()),
        }
    }
}

impl RunsGraph for Denoiser {
    fn graph(&mut self) -> &mut Graph {
        &mut self.graph
    }
}

impl Denoiser {
    pub(crate) fn open(library: &'static Library, source: Source, model: &Model, plan: &Plan) -> Result<Self> {
        let name = |name| model.tensor(Stage::Denoiser, name);
        let Traits { embeds_guidance, shown_channels, .. } = Traits::of(&source.outline, model);
        let halves = if plan.is_guided() && !embeds_guidance && runs_together(plan) { 2 } else { 1 };
        let rows = plan.every_batch.map(|batch| batch * halves);
        let (channels, height, width) = plan.latent;
        let contract = Contract::of_model(Stage::Denoiser, model)
            .usually(name("sample"), &[rows, Some(channels + shown_channels), Some(height), Some(width)])
            .usually(name("encoder_hidden_states"), &[rows, None, None]);
        let graph = Graph::open(library, source, &contract)?;
        let named = |tensor: &str| graph.find_input(tensor).expect("the contract has checked that it is there");
        let optional = |role| graph.find_input(name(role)).filter(|_| model.reads_prompts());
        Ok(Self {
            sample: named(name("sample")),
            timestep: named(name("timestep")),
            hidden: optional("encoder_hidden_states"),
            pooled: optional("text_embeds"),
            time_ids: optional("time_ids"),
            conditions: model.conditions.values().map(|condition| named(&condition.tensor)).collect(),
            guidance_embedding: graph.find_input(name("timestep_cond")),
            shown_channels,
            graph,
        })
    }

    /// How many latents the graph takes at once, where it was exported for a fixed number.
    fn fixed_batch(&self) -> Option<usize> {
        self.graph.fixed_size(self.sample, 0)
    }

    /// Binds prompt, guidance and shape, and allocates everything that the steps need.
    pub(crate) fn condition<'a>(
        &'a mut self,
        shape: (usize, usize, usize, usize),
        steering: Steering<'a>,
        guidance: Guidance<'a>,
        with: Conditions<'a>,
    ) -> Result<Conditioned<'a>> {
        let (batch, channels, height, width) = shape;
        let together = matches!(guidance, Guidance::Guided { .. }) && self.takes_both(batch, with.plan);
        if let Some(Chosen { tensor, .. }) = self.shared_condition(with.plan).filter(|_| together) {
            return Err(Error::model(format!(
                "denoiser: its graph takes one {tensor} for both predictions of guidance, which differ in it; export it with \
                 one a row, or with a batch of 1"
            )));
        }
        let rows = if together { 2 * batch } else { batch };
        self.graph.reshape(self.sample, &[rows, channels + self.shown_channels, height, width])?;
        self.give_number(self.timestep, "timestep", rows)?;
        self.reshape_conditions(rows, steering.hidden, with.plan)?;
        let embedding = self.embedding(rows, guidance)?;
        let buffers = Buffers::new(shape, guidance, with.plan);
        let mut conditioned = Conditioned {
            denoiser: self,
            steering,
            guidance,
            together,
            shape: [rows, channels, height, width],
            buffers: Buffers { replayed: replayed(rows * channels * height * width, with.tape), ..buffers },
            embedding,
            guided: false,
            timestep: 0.0,
            evaluations: 0,
            saved: 0,
            with,
        };
        match guidance {
            Guidance::Guided { negative } if together => {
                conditioned.steer(0, batch, negative)?;
                conditioned.steer(batch, batch, steering)?;
            }
            _ => conditioned.steer(0, batch, steering)?,
        }
        if let Some(shown) = with.shown {
            conditioned.write_shown(shown)?;
        }
        Ok(conditioned)
    }

    /// Gives everything that steers its shape, and the numbers that are the same in every row.
    fn reshape_conditions(&mut self, rows: usize, hidden: Option<&Hidden>, plan: &Plan) -> Result<()> {
        for (index, chosen) in self.conditions.clone().into_iter().zip(&plan.conditions) {
            self.give_number(index, &chosen.tensor, rows)?;
        }
        let Some(hidden) = hidden else { return Ok(()) };
        if let Some(input) = self.hidden {
            self.graph.reshape(input, &[rows, hidden.tokens, hidden.width])?;
        }
        if let Some(input) = self.pooled {
            if hidden.pooled.is_empty() {
                return Err(Error::model(
                    "denoiser: its graph takes text_embeds, but no text encoder gives any; export the second text encoder \
                     with its projection",
                ));
            }
            self.graph.reshape(input, &[rows, hidden.pooled.len()])?;
        }
        if let Some(input) = self.time_ids {
            let [height, width] = [plan.height, plan.width].map(|side| side as f32);
            // Size of the original, where it was cropped, size that is wanted (Podell et al. 2023, arXiv:2307.01952, 2.2).
            let ids: [f32; TIME_IDS] = [height, width, 0.0, 0.0, height, width];
            self.graph.reshape(input, &[rows, TIME_IDS])?;
            (0..rows).try_for_each(|row| self.graph.write(input, row * TIME_IDS, &ids))?;
        }
        Ok(())
    }

    /// Whether both predictions of guidance go through the graph in one run.
    fn takes_both(&self, batch: usize, plan: &Plan) -> bool {
        match self.fixed_batch() {
            Some(fixed) => fixed == 2 * batch,
            None => runs_together(plan) && self.shared_condition(plan).is_none(),
        }
    }

    /// A condition of one number for all rows, which would have to be two at once for both predictions of guidance.
    fn shared_condition<'a>(&self, plan: &'a Plan) -> Option<&'a Chosen> {
        let is_shared = |input: usize| match self.graph.fixed_size(input, 0) {
            Some(fixed) => fixed == 1,
            None => self.graph.rank(input) == 0 || !self.graph.share_first_axis(input, self.sample),
        };
        let mut conditions = self.conditions.iter().zip(&plan.conditions);
        let found = conditions.find(|(input, chosen)| chosen.value != chosen.unguided && is_shared(**input));
        found.map(|(_, chosen)| chosen)
    }

    /// Shapes an input of one number, or of one a row where the graph's axis is that of the batch.
    fn give_number(&mut self, input: usize, name: &str, rows: usize) -> Result<()> {
        let rank = self.graph.rank(input);
        let count = match self.graph.fixed_size(input, 0) {
            Some(fixed) if fixed != 1 && fixed != rows => {
                return Err(Error::model(format!(
                    "denoiser: its graph wants {fixed} numbers of {name} for {rows} latents, expected one, or one each"
                )));
            }
            Some(fixed) => fixed,
            None if self.graph.share_first_axis(input, self.sample) => rows,
            None => 1,
        };
        self.graph.reshape(input, &[count, 1][..rank.min(2)])
    }

    /// Room for the embedding of the guidance scale of one row, where the graph takes that.
    fn embedding(&mut self, rows: usize, guidance: Guidance) -> Result<Vec<f32>> {
        let Some(input) = self.guidance_embedding else { return Ok(Vec::new()) };
        let Some(width) = self.graph.fixed_size(input, 1).filter(|&width| width <= MAX_EMBEDDING_WIDTH) else {
            return Err(Error::model(format!(
                "denoiser: timestep_cond has no fixed width of at most {MAX_EMBEDDING_WIDTH}, so the guidance \
                 embedding cannot be made; export it with the width of time_cond_proj_dim"
            )));
        };
        self.graph.reshape(input, &[rows, width])?;
        let mut embedding = vec![0.0; width];
        if !matches!(guidance, Guidance::Embedded) {
            embed_guidance(0.0, &mut embedding);
            (0..rows).try_for_each(|row| self.graph.write(input, row * width, &embedding))?;
        }
        Ok(embedding)
    }
}

/// Whether both predictions of guidance go through the graph in one run, as far as the request says. Where some
/// steps need only one of them, two runs spare what one run of both would not.
pub(crate) fn runs_together(plan: &Plan) -> bool {
    plan.guidance_runs == GuidanceRuns::Together && !plan.rule.may_rest(&plan.guidance, &plan.options)
}

/// Whether estimates are to be kept within limits.
fn is_limited(plan: &Plan) -> bool {
    plan.options.get(Opt::Clip) > 0.0 || plan.options.get(Opt::Threshold) > 0.0
}

fn as_slice(latent: &mut Latent) -> &mut [f32] {
    latent.as_slice_mut().expect("it was allocated in standard layout")
}

/// What steers the denoiser besides prompt and guidance.
#[derive(Clone, Copy)]
pub(crate) struct Conditions<'a> {
    pub(crate) plan: &'a Plan,
    /// Steps that are done, for settings that change over them.
    pub(crate) done: &'a Cell<usize>,
    pub(crate) cancel: &'a Cancel,
    /// A mask and what is around it, for a denoiser that takes them.
    pub(crate) shown: Option<&'a Shown>,
    /// What the graph gave before, and where that is written down.
    pub(crate) tape: Option<&'a Tape>,
}

/// A denoiser bound to one prompt, guidance and shape: what samplers are given.
pub(crate) struct Conditioned<'a> {
    denoiser: &'a mut Denoiser,
    steering: Steering<'a>,
    guidance: Guidance<'a>,
    /// Both halves of guidance go through the graph in one run: `[negative, positive]`.
    together: bool,
    shape: [usize; 4],
    buffers: Buffers,
    embedding: Vec<f32>,
    /// Whether the last evaluation was guided.
    guided: bool,
    /// Of the last evaluation.
    timestep: f64,
    evaluations: usize,
    saved: usize,
    with: Conditions<'a>,
}

/// What an evaluation writes, allocated once.
struct Buffers {
    /// The graph's input.
    scaled: Vec<f32>,
    /// The graph's output, of the negative prompt until it is guided; in the end the estimate.
    predicted: Vec<f32>,
    /// The graph's output for the prompt, while there are two.
    positive: Vec<f32>,
    /// The estimate that the noise is to be read off: of the negative prompt for CFG++, or before it is limited.
    noise_estimate: Latent,
    /// One a picture.
    apg: Vec<Apg>,
    scratch: Vec<f32>,
    /// What the graph gave before, for both halves of guidance; of no numbers where nothing is written down.
    replayed: Vec<f32>,
}

impl Buffers {
    fn new(shape: (usize, usize, usize, usize), guidance: Guidance, plan: &Plan) -> Self {
        let (batch, channels, height, width) = shape;
        let picture = channels * height * width;
        let option = |opt| plan.options.get(opt);
        let apg = |_| Apg::new(picture, option(Opt::Parallel), option(Opt::Norm), option(Opt::Momentum));
        let guided = if matches!(guidance, Guidance::Guided { .. }) { batch } else { 0 };
        let projected = if plan.rule.kind == Kind::Projected { guided } else { 0 };
        let judged = if plan.rule.kind == Kind::PlusPlus || is_limited(plan) { batch } else { 0 };
        Self {
            scaled: vec![0.0; batch * picture],
            predicted: vec![0.0; batch * picture],
            positive: vec![0.0; guided * picture],
            noise_estimate: Latent::zeros((judged, channels, height, width)),
            apg: (0..projected).map(apg).collect(),
            scratch: Vec::new(),
            replayed: Vec::new(),
        }
    }

    /// Takes what the graph gave: for the prompt, or where it is guided, for the negative prompt and for the prompt.
    fn take(&mut self, output: &[f32], (together, guided): (bool, bool)) {
        let (first, second) = output.split_at(self.scaled.len());
        match (together, guided) {
            (true, true) => {
                self.predicted.copy_from_slice(first);
                self.positive.copy_from_slice(second);
            }
            (true, false) => self.predicted.copy_from_slice(second),
            (false, _) => self.predicted.copy_from_slice(first),
        }
    }
}

/// Room for what the graph gives once, where that is written down.
fn replayed(numbers: usize, tape: Option<&Tape>) -> Vec<f32> {
    let Some(tape) = tape else { return Vec::new() };
    tape.reserve(numbers);
    vec![0.0; numbers]
}

impl Denoise for Conditioned<'_> {
    fn denoise(&mut self, x: &Latent, at: Level, denoised: &mut Latent) -> Result<()> {
        let Conditions { plan, done, .. } = self.with;
        let weights = plan.training.preconditioning(at);
        for (scaled, x) in self.buffers.scaled.iter_mut().zip(x) {
            *scaled = x * weights.input as f32;
        }
        let scale = plan.guidance.at(self.share());
        self.guided = matches!(self.guidance, Guidance::Guided { .. }) && self.needs_negative(scale, at);
        let skipped =
            self.guided && plan.rule.kind == Kind::ZeroStar && done.get() < plan.options.whole(Opt::ZeroSteps);
        if skipped {
            self.buffers.predicted.fill(0.0);
            self.saved += if self.together { 1 } else { 2 };
        } else {
            self.predict(at.timestep, scale)?;
        }
        if self.guided && !skipped {
            self.guide(x, weights, scale);
        } else {
            into_estimate(&mut self.buffers.predicted, x, weights);
        }
        if is_limited(plan) {
            self.limit();
        }
        for (denoised, estimate) in denoised.iter_mut().zip(&self.buffers.predicted) {
            *denoised = *estimate;
        }
        self.check_numbers(&self.buffers.predicted)
    }

    fn noise_estimate(&self) -> Option<&Latent> {
        Some(&self.buffers.noise_estimate).filter(|_| self.is_plus_plus())
    }

    fn unlimited_estimate(&self) -> Option<&Latent> {
        Some(&self.buffers.noise_estimate).filter(|_| is_limited(self.with.plan))
    }
}

impl Conditioned<'_> {
    /// Runs of the graph so far, counting each half of unbatched guidance.
    pub(crate) fn evaluations(&self) -> usize {
        self.evaluations
    }

    /// Runs that were not needed because guidance rested.
    pub(crate) fn saved(&self) -> usize {
        self.saved
    }

    /// How much of the trajectory is done.
    fn share(&self) -> f64 {
        let steps = self.with.plan.steps().unwrap_or(1);
        self.with.done.get() as f64 / (steps - 1).max(1) as f64
    }

    fn needs_negative(&self, scale: f64, at: Level) -> bool {
        let Plan { rule, options, training, .. } = self.with.plan;
        let within = options.get(Opt::GuidanceMin)..=options.get(Opt::GuidanceMax);
        // Pure noise has an infinite sigma; the bound that stands for none is finite.
        let sigma = training.own_sigma(at).min(Opt::GuidanceMax.row().range.1);
        rule.is_on(scale) && within.contains(&sigma)
    }

    /// Two outputs of the graph → one guided estimate, in `predicted`.
    fn guide(&mut self, x: &Latent, weights: Preconditioning, scale: f64) {
        let Plan { rule, options, .. } = self.with.plan;
        let one = self.buffers.scaled.len() / x.dim().0;
        match rule.kind {
            Kind::PlusPlus => {
                let unguided = as_slice(&mut self.buffers.noise_estimate);
                unguided.copy_from_slice(&self.buffers.predicted);
                into_estimate(unguided, x, weights);
            }
            Kind::Projected => {
                into_estimate(&mut self.buffers.predicted, x, weights);
                into_estimate(&mut self.buffers.positive, x, weights);
            }
            Kind::Plain | Kind::ZeroStar => (),
        }
        let share = options.get(Opt::Rescale);
        let pictures = self.buffers.predicted.chunks_exact_mut(one).zip(self.buffers.positive.chunks_exact(one));
        for (i, (negative, positive)) in pictures.enumerate() {
            match rule.kind {
                Kind::Plain | Kind::PlusPlus => guidance::guide(negative, positive, scale),
                Kind::ZeroStar => guidance::cfg_zero_star(negative, positive, scale),
                Kind::Projected => self.buffers.apg[i].guide(negative, positive, scale),
            }
            if share > 0.0 {
                guidance::rescale(negative, positive, share);
            }
        }
        if rule.kind != Kind::Projected {
            into_estimate(&mut self.buffers.predicted, x, weights);
        }
    }

    fn is_plus_plus(&self) -> bool {
        self.guided && self.with.plan.rule.kind == Kind::PlusPlus
    }

    /// Keeps the estimate within the limits that were asked for.
    fn limit(&mut self) {
        if !self.is_plus_plus() {
            as_slice(&mut self.buffers.noise_estimate).copy_from_slice(&self.buffers.predicted);
        }
        let options = &self.with.plan.options;
        let (clip, quantile) = (options.get(Opt::Clip), options.get(Opt::Threshold));
        if clip > 0.0 {
            guidance::clip(&mut self.buffers.predicted, clip);
        }
        if quantile > 0.0 {
            let one = self.shape[1..].iter().product();
            let most = options.get(Opt::ThresholdMax);
            let pictures = self.buffers.predicted.chunks_exact_mut(one);
            pictures.for_each(|picture| guidance::threshold(picture, quantile, most, &mut self.buffers.scratch));
        }
    }

    /// Refuses what cannot become a picture, picture by picture.
    fn check_numbers(&self, numbers: &[f32]) -> Result<()> {
        let one = self.shape[1..].iter().product();
        let fault = if !all_finite(numbers) {
            "NaN or infinite numbers"
        } else if numbers.chunks_exact(one).any(is_constant) {
            "one number everywhere"
        } else {
            return Ok(());
        };
        Err(Error::numeric(format!(
            "timestep {}: gave {fault}; another precision of the denoiser may do better (--precision), or less guidance",
            self.timestep
        )))
    }

    /// Writes what steers a prediction into its rows.
    fn steer(&mut self, first_row: usize, rows: usize, steering: Steering) -> Result<()> {
        let Denoiser { graph, hidden, pooled, conditions, .. } = &mut *self.denoiser;
        let rows = first_row..first_row + rows;
        if let Some(words) = steering.hidden {
            for (input, values) in [(*hidden, &words.values), (*pooled, &words.pooled)] {
                let Some(input) = input else { continue };
                rows.clone().try_for_each(|row| graph.write(input, row * values.len(), values))?;
            }
        }
        for (&input, chosen) in conditions.iter().zip(&self.with.plan.conditions) {
            let part = if graph.size(input) == 1 { 0..1 } else { rows.clone() };
            graph.fill_part(input, part, (steering.number)(chosen))?;
        }
        Ok(())
    }

    /// Writes the mask and the masked picture beside every latent, where they stay.
    fn write_shown(&mut self, shown: &Shown) -> Result<()> {
        let Denoiser { graph, sample, .. } = &mut *self.denoiser;
        let [rows, channels, height, width] = self.shape;
        let (latent, cells) = (channels * height * width, height * width);
        let masked = shown.masked.as_slice().expect("it was allocated in standard layout");
        let masked: Vec<_> = masked.chunks_exact(latent).collect();
        for row in 0..rows {
            let place = row * (2 * latent + cells) + latent;
            graph.write(*sample, place, &shown.mask)?;
            // Both halves of guidance are shown the same.
            graph.write(*sample, place + cells, masked[row % masked.len()])?;
        }
        Ok(())
    }

    fn write_embedding(&mut self, scale: f64) -> Result<()> {
        let Some(input) = self.denoiser.guidance_embedding else { return Ok(()) };
        embed_guidance(scale - 1.0, &mut self.embedding);
        let width = self.embedding.len();
        (0..self.shape[0]).try_for_each(|row| self.denoiser.graph.write(input, row * width, &self.embedding))
    }

    /// Runs the graph for the latent in `scaled`: its output for the prompt in `predicted`, or where it is guided, for
    /// the negative prompt there and for the prompt in `positive`.
    fn predict(&mut self, timestep: f64, scale: f64) -> Result<()> {
        let input = self.denoiser.timestep;
        self.timestep = timestep;
        self.denoiser.graph.fill(input, timestep)?;
        let (steering, batch) = (self.steering, self.shape[0]);
        match self.guidance {
            Guidance::Off => self.evaluate()?,
            Guidance::Embedded => {
                self.write_embedding(scale)?;
                self.evaluate()?;
            }
            Guidance::Guided { .. } if self.together => self.evaluate()?,
            Guidance::Guided { .. } if !self.guided => {
                self.saved += 1;
                self.evaluate()?;
            }
            Guidance::Guided { negative } => {
                self.evaluate()?;
                std::mem::swap(&mut self.buffers.predicted, &mut self.buffers.positive);
                self.steer(0, batch, negative)?;
                self.evaluate()?;
                self.steer(0, batch, steering)?;
            }
        }
        self.check_numbers(&self.buffers.predicted)
    }

    /// Runs the graph once, or takes what it gave when it was run before.
    fn evaluate(&mut self) -> Result<()> {
        self.evaluations += 1;
        let Some(tape) = self.with.tape else { return self.run() };
        self.with.cancel.check()?;
        let mut replayed = std::mem::take(&mut self.buffers.replayed);
        let was_there = tape.play(self.timestep, &self.buffers.scaled, &mut replayed)?;
        if was_there {
            self.buffers.take(&replayed, (self.together, self.guided));
        } else {
            self.run()?;
        }
        self.buffers.replayed = replayed;
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let Denoiser { graph, sample, shown_channels, .. } = &mut *self.denoiser;
        let [_, channels, height, width] = self.shape;
        let (latent, stride) = (channels * height * width, (channels + *shown_channels) * height * width);
        let latents = self.buffers.scaled.chunks_exact(latent);
        let copies = if self.together { 2 } else { 1 };
        for (row, latent) in std::iter::repeat_n(latents, copies).flatten().enumerate() {
            graph.write(*sample, row * stride, latent)?;
        }
        let (output, shape) = graph.run(self.with.cancel)?;
        if shape != self.shape {
            return Err(Error::model(format!("denoiser: returned {shape:?} for a latent of {:?}", self.shape)));
        }
        if let Some(tape) = self.with.tape {
            tape.keep(output);
        }
        self.buffers.take(output, (self.together, self.guided));
        Ok(())
    }
}

/// Turns the graph's output for a latent into its estimate of the clean one.
fn into_estimate(output: &mut [f32], x: &Latent, weights: Preconditioning) {
    let (skip, out) = (weights.skip as f32, weights.out as f32);
    for (output, x) in output.iter_mut().zip(x) {
        *output = x * skip + *output * out;
    }
}

/// The sinusoidal embedding of `w = guidance scale − 1`, `[width]`: sines, then cosines, of `1000·w` over
/// frequencies from 1 to 10⁻⁴ (Luo et al. 2023, appendix; `get_guidance_scale_embedding` of diffusers).
fn embed_guidance(w: f64, embedding: &mut [f32]) {
    let half = embedding.len() / 2;
    let step = 10_000_f64.ln() / (half.max(2) - 1) as f64;
    embedding.fill(0.0);
    for i in 0..half {
        let angle = 1000.0 * w * (-(i as f64) * step).exp();
        (embedding[i], embedding[half + i]) = (angle.sin() as f32, angle.cos() as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedding(w: f64, width: usize) -> Vec<f32> {
        let mut embedding = vec![9.0; width];
        embed_guidance(w, &mut embedding);
        embedding
    }

    #[test]
    fn embedding_of_no_guidance_is_zeros_and_ones() {
        assert_eq!(embedding(0.0, 5), [0.0, 0.0, 1.0, 1.0, 0.0]);
        assert!(embedding(7.5, 256).iter().all(|value| value.abs() <= 1.0));
    }
}
