//! One generation while it is under way.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use image::RgbImage;
use ndarray::{ArrayView3, Axis};

use super::{Event, Observer, Report, milliseconds};
use crate::checkpoint::{Came, Tape};
use crate::decoder::{self, Decoder};
use crate::model::Model;
use crate::noise::{Brownian, Noise, Seeds};
use crate::original::{Beginning, Original};
use crate::request::{NoiseLayout, Plan, Request, SamplerNoise};
use crate::residency::{AnySlot as _, Slot};
use crate::sampler::{Latent, Step, Tally};
use crate::stage::Stage;
use crate::text::Hidden;
use crate::training::{Level, Training};
use crate::{Error, ErrorKind, Result};

/// One generation while it is under way.
pub(super) struct Job<'a> {
    pub(super) request: &'a Request,
    pub(super) plan: &'a Plan,
    /// Pictures that go through the graphs together.
    pub(super) batch: usize,
    /// Its number in the pipeline's checkpoint, where there is one.
    pub(super) number: u64,
    /// Width and height of the tiles, in pixels, that a stage works in.
    pub(super) tiles: BTreeMap<Stage, [usize; 2]>,
    pub(super) report: Report,
}

/// Clean latents of one batch.
pub(super) struct Batch {
    /// Index of its first picture.
    pub(super) first: usize,
    pub(super) latents: Latent,
    pub(super) work: Work,
}

/// What the denoiser had to do for a batch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Work {
    pub(super) steps: usize,
    pub(super) evaluations: usize,
    pub(super) saved: usize,
    pub(super) tally: Tally,
}

pub(super) struct Prompts {
    /// Present where words steer the model.
    pub(super) positive: Option<Arc<Hidden>>,
    /// The same, where guidance leads away from it.
    pub(super) negative: Option<Arc<Hidden>>,
    /// Whether guidance takes two predictions.
    pub(super) classifier_free: bool,
}

/// What steers the denoising of every batch.
pub(super) struct Given {
    pub(super) prompts: Prompts,
    pub(super) original: Original,
}

impl<'a> Job<'a> {
    pub(super) fn new(request: &'a Request, plan: &'a Plan, batch: usize) -> Self {
        Self { request, plan, batch, number: 0, tiles: BTreeMap::new(), report: Report::default() }
    }

    /// Pictures of the batch that starts with picture `first`; the last may be smaller.
    pub(super) fn rows(&self, first: usize) -> usize {
        self.batch.min(self.request.count - first)
    }

    /// Seeds of the initial noise of the batch that starts with picture `first`.
    pub(super) fn seeds(&self, first: usize) -> Seeds {
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
    pub(super) fn noise_seeds(&self, first: usize) -> Option<Seeds> {
        let (request, pictures) = (self.request, first..first + self.rows(first));
        let of_each = |i| request.noise_seed_of(i);
        match request.noise {
            NoiseLayout::PerImage => pictures.map(of_each).collect::<Option<_>>().map(Seeds::PerImage),
            NoiseLayout::Shared => request.noise_seed.map(Seeds::Shared),
        }
    }

    /// Counts what a checkpoint spared for a batch.
    pub(super) fn add_replayed(&mut self, tape: Option<&Tape>) {
        if let (Some(resumed), Some(tape)) = (&mut self.report.resumed, tape) {
            resumed.steps += tape.replayed().steps;
            resumed.evaluations += tape.replayed().evaluations;
        }
    }

    /// Tells a warning, once.
    pub(super) fn warn(&mut self, observer: &mut Observer, warning: &str) {
        if !self.report.warnings.iter().any(|told| told == warning) {
            observer(&Event::Warning(warning));
            self.report.warnings.push(warning.to_owned());
        }
    }
}

/// Where a sampler's own noise comes from.
pub(super) enum SamplerSource<'a> {
    Independent(Noise),
    Brownian(Box<Brownian>, &'a Training),
}

impl<'a> SamplerSource<'a> {
    /// `initial` goes on, unless the request has a seed for this noise alone.
    pub(super) fn new(job: &Job<'a>, first: usize, initial: Noise) -> Result<Self> {
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

    pub(super) fn fill(&mut self, latent: &mut Latent, from: Level, to: Level) -> Result<()> {
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
pub(super) fn brownian_time(training: &Training, level: Level) -> f64 {
    training.own_sigma(level).min(training.sigma_range().1)
}

/// Decodes estimates on the way, where the request asks for it.
pub(super) struct Previews<'a> {
    /// None where the model makes pixels.
    pub(super) decoder: Option<&'a mut Slot<Decoder>>,
    pub(super) model: &'a Model,
    pub(super) request: &'a Request,
    pub(super) plan: &'a Plan,
}

impl Previews<'_> {
    /// Whether some are asked for once so many steps are done. After the last comes the picture itself.
    fn are_due(&self, done: usize) -> bool {
        let every = self.request.preview_every;
        every > 0 && done.is_multiple_of(every) && Some(done) != self.plan.steps()
    }

    /// An estimate's picture; nothing where there is none in it yet.
    fn decode(&mut self, estimate: ArrayView3<f32>) -> Result<Option<RgbImage>> {
        let decoded = match &mut self.decoder {
            Some(slot) => {
                let decoder = slot.begin(self.model, self.plan)?;
                let plane = decoder.plane(self.plan);
                let decoded = decoder.decode(estimate, &plane, &self.request.cancel);
                slot.end();
                decoded
            }
            None => decoder::pixels(estimate, self.model.latent),
        };
        match decoded {
            Err(e) if e.kind() == ErrorKind::Numeric => Ok(None),
            decoded => decoded.map(Some),
        }
    }
}

/// Times each step and tells the observer.
pub(super) struct StepWatch<'a> {
    pub(super) previews: Previews<'a>,
    pub(super) beginning: &'a Beginning<'a>,
    pub(super) first: usize,
    pub(super) start: Instant,
    pub(super) done: &'a Cell<usize>,
    pub(super) observer: &'a mut Observer,
    pub(super) report: &'a mut Report,
    pub(super) tape: Option<&'a Tape>,
}

impl StepWatch<'_> {
    pub(super) fn step(&mut self, step: &mut Step) -> Result<()> {
        let steps = self.previews.plan.steps();
        self.beginning.put_back(step, Some(step.index + 1) == steps);
        let Step { index, from, ref latent, denoised, .. } = *step;
        let (first, timestep) = (self.first, from.timestep);
        let came = self.tape.map_or(Came::Anew, Tape::step);
        if came != Came::Replayed {
            self.report.timings.steps_ms.push(milliseconds(self.start.elapsed()));
        }
        if came == Came::Resumed {
            (self.observer)(&Event::Resumed { first, step: index, steps });
        }
        if let Some(warning) = self.tape.and_then(Tape::take_warning) {
            (self.observer)(&Event::Warning(&warning));
            self.report.warnings.push(warning);
        }
        self.start = Instant::now();
        self.done.set(index + 1);
        (self.observer)(&Event::Step { first, step: index, steps, timestep, latent, denoised });
        let is_due = came != Came::Replayed && self.previews.are_due(index + 1);
        if is_due { self.preview(index, denoised) } else { Ok(()) }
    }

    /// Tells what each picture of the batch would be after a step. It takes no part of the next step's time.
    fn preview(&mut self, step: usize, estimates: &Latent) -> Result<()> {
        let start = Instant::now();
        for (offset, estimate) in estimates.axis_iter(Axis(0)).enumerate() {
            if let Some(pixels) = self.previews.decode(estimate)? {
                (self.observer)(&Event::Preview { index: self.first + offset, step, pixels: &pixels });
            }
        }
        self.report.timings.preview_ms += milliseconds(start.elapsed());
        self.start += start.elapsed();
        Ok(())
    }

    /// Says in which step the numbers went wrong.
    pub(super) fn locate(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Numeric {
            return error;
        }
        let step = self.done.get() + 1;
        match self.previews.plan.steps() {
            Some(steps) => error.context(format_args!("denoiser: step {step} of {steps}")),
            None => error.context(format_args!("denoiser: step {step}")),
        }
    }
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
