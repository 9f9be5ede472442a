//! The denoiser's graph with its conditioning → the clean latent behind a noisy one.

use crate::cancel::Cancel;
use crate::graph::{Contract, Graph, REAL, Rule, Source, TIME};
use crate::guard::{all_finite, is_constant};
use crate::library::Library;
use crate::model::Model;
use crate::request::Plan;
use crate::sampler::{Denoise, Latent};
use crate::schedule::{Level, Prediction};
use crate::stage::Stage;
use crate::text::Hidden;
use crate::{Error, Result};

/// Widest guidance embedding that is made; LCM's is 256.
const MAX_EMBEDDING_WIDTH: usize = 1 << 16;

/// The denoiser's graph, opened.
pub(crate) struct Denoiser {
    pub(crate) graph: Graph,
    prediction: Prediction,
    sample: usize,
    timestep: usize,
    hidden: usize,
    guidance_embedding: Option<usize>,
}

/// How strongly the prompt steers, and through what.
#[derive(Clone, Copy)]
pub(crate) enum Guidance<'a> {
    /// The model's own strength: one evaluation, no scale.
    Off,
    /// Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) away from `negative`, on the graph's output
    /// as diffusers has it: `uncond + scale·(cond − uncond)`.
    ClassifierFree { scale: f64, negative: &'a Hidden },
    /// The scale is an input of the graph (Luo et al. 2023, arXiv:2310.04378): one evaluation.
    Embedded { scale: f64 },
}

impl Denoiser {
    pub(crate) fn open(library: &'static Library, source: Source, model: &Model, plan: &Plan) -> Result<Self> {
        let name = |name| model.tensor(Stage::Denoiser, name);
        let embeds = source.outline.inputs.iter().any(|input| input.name == name("timestep_cond"));
        let halves = if plan.guidance > 1.0 && !embeds { 2 } else { 1 };
        let rows = plan.every_batch.map(|batch| batch * halves);
        let (channels, height, width) = plan.latent;
        let latent = [None, Some(channels), None, None];
        let contract = Contract {
            inputs: vec![
                Rule::new(name("sample"), REAL, &latent).usually(&[rows, Some(channels), Some(height), Some(width)]),
                Rule::new(name("timestep"), TIME, &[]).or_shape(&[None]),
                Rule::new(name("encoder_hidden_states"), REAL, &[None; 3]).usually(&[rows, None, None]),
                Rule::new(name("timestep_cond"), REAL, &[None; 2]).optional(),
            ],
            output: Rule::new(name("out_sample"), REAL, &latent),
        };
        let graph = Graph::open(library, source, &contract)?;
        let input = |role| graph.find_input(name(role)).expect("the contract has checked that it is there");
        Ok(Self {
            prediction: model.training.spec().prediction,
            sample: input("sample"),
            timestep: input("timestep"),
            hidden: input("encoder_hidden_states"),
            guidance_embedding: graph.find_input(name("timestep_cond")),
            graph,
        })
    }

    /// Whether the graph takes the guidance scale as an input.
    pub(crate) fn embeds_guidance(&self) -> bool {
        self.guidance_embedding.is_some()
    }

    /// How many latents the graph takes at once, where it was exported for a fixed number.
    pub(crate) fn fixed_batch(&self) -> Option<usize> {
        self.graph.fixed_size(self.sample, 0)
    }

    /// Binds prompt, guidance and shape, and allocates everything that the steps need.
    pub(crate) fn condition<'a>(
        &'a mut self,
        shape: (usize, usize, usize, usize),
        hidden: &'a Hidden,
        guidance: Guidance<'a>,
        cancel: &'a Cancel,
    ) -> Result<Conditioned<'a>> {
        let (batch, channels, height, width) = shape;
        let together = matches!(guidance, Guidance::ClassifierFree { .. })
            && self.fixed_batch().is_none_or(|fixed| fixed == 2 * batch);
        let rows = if together { 2 * batch } else { batch };
        self.graph.reshape(self.sample, &[rows, channels, height, width])?;
        self.graph.reshape(self.hidden, &[rows, hidden.tokens, hidden.width])?;
        let timesteps = self.timestep_shape(rows)?;
        self.graph.reshape(self.timestep, &timesteps)?;
        self.embed_guidance(rows, guidance)?;
        let elements = batch * channels * height * width;
        let mut conditioned = Conditioned {
            denoiser: self,
            hidden,
            guidance,
            together,
            shape: [rows, channels, height, width],
            scaled: vec![0.0; elements],
            predicted: vec![0.0; elements],
            evaluations: 0,
            cancel,
        };
        match guidance {
            Guidance::ClassifierFree { negative, .. } if together => {
                conditioned.write_hidden(0, batch, negative)?;
                conditioned.write_hidden(batch, batch, hidden)?;
            }
            _ => conditioned.write_hidden(0, batch, hidden)?,
        }
        Ok(conditioned)
    }

    /// One timestep, or one a row where the graph's axis is that of the batch.
    fn timestep_shape(&self, rows: usize) -> Result<Vec<usize>> {
        if self.graph.rank(self.timestep) == 0 {
            return Ok(Vec::new());
        }
        match self.graph.fixed_size(self.timestep, 0) {
            Some(fixed) if fixed != 1 && fixed != rows => Err(Error::model(format!(
                "denoiser: its graph wants {fixed} timesteps for {rows} latents, expected one, or one each"
            ))),
            Some(fixed) => Ok(vec![fixed]),
            None if self.graph.share_first_axis(self.timestep, self.sample) => Ok(vec![rows]),
            None => Ok(vec![1]),
        }
    }

    fn embed_guidance(&mut self, rows: usize, guidance: Guidance) -> Result<()> {
        let Some(input) = self.guidance_embedding else { return Ok(()) };
        let Some(width) = self.graph.fixed_size(input, 1).filter(|&width| width <= MAX_EMBEDDING_WIDTH) else {
            return Err(Error::model(format!(
                "denoiser: timestep_cond has no fixed width of at most {MAX_EMBEDDING_WIDTH}, so the guidance \
                 embedding cannot be made; export it with the width of time_cond_proj_dim"
            )));
        };
        let scale = match guidance {
            Guidance::Embedded { scale } => scale,
            Guidance::Off | Guidance::ClassifierFree { .. } => 1.0,
        };
        let embedding = guidance_embedding(scale - 1.0, width);
        self.graph.reshape(input, &[rows, width])?;
        (0..rows).try_for_each(|row| self.graph.write(input, row * width, &embedding))
    }
}

/// A denoiser bound to one prompt, guidance and shape: what samplers are given.
pub(crate) struct Conditioned<'a> {
    denoiser: &'a mut Denoiser,
    hidden: &'a Hidden,
    guidance: Guidance<'a>,
    /// Both halves of classifier-free guidance go through the graph in one run: `[uncond, cond]`.
    together: bool,
    shape: [usize; 4],
    scaled: Vec<f32>,
    predicted: Vec<f32>,
    evaluations: usize,
    cancel: &'a Cancel,
}

impl Denoise for Conditioned<'_> {
    fn denoise(&mut self, x: &Latent, at: Level, denoised: &mut Latent) -> Result<()> {
        // Graphs want unit variance: the input is divided by √(alpha² + sigma²), which is 1 for most models.
        let norm = at.alpha.hypot(at.sigma);
        let unit = Level { alpha: at.alpha / norm, sigma: at.sigma / norm, ..at };
        let input_scale = (1.0 / norm) as f32;
        for (scaled, x) in self.scaled.iter_mut().zip(x) {
            *scaled = x * input_scale;
        }
        self.predict(at.timestep)?;
        let (of_x, of_output) = self.denoiser.prediction.denoised_coefficients(unit);
        let (of_x, of_output) = (of_x as f32, of_output as f32);
        let sources = self.scaled.iter().zip(&self.predicted);
        for (denoised, (x, output)) in denoised.iter_mut().zip(sources) {
            *denoised = x * of_x + output * of_output;
        }
        self.check_numbers(denoised)
    }
}

impl Conditioned<'_> {
    /// Runs of the graph so far, counting each half of unbatched guidance.
    pub(crate) fn evaluations(&self) -> usize {
        self.evaluations
    }

    /// Refuses what cannot become a picture: the graph's output and the estimate made of it, picture by picture.
    fn check_numbers(&self, denoised: &Latent) -> Result<()> {
        let one = denoised.len() / denoised.dim().0;
        let denoised = denoised.as_slice().expect("samplers allocate in standard layout");
        let constant = |numbers: &[f32]| numbers.chunks_exact(one).any(is_constant);
        let fault = if !all_finite(denoised) {
            "NaN or infinite numbers"
        } else if constant(&self.predicted) || constant(denoised) {
            "one number everywhere"
        } else {
            return Ok(());
        };
        Err(Error::numeric(format!(
            "gave {fault}; another precision of the denoiser may do better (--precision), or less guidance"
        )))
    }

    fn write_hidden(&mut self, first_row: usize, rows: usize, hidden: &Hidden) -> Result<()> {
        let Denoiser { graph, hidden: input, .. } = &mut *self.denoiser;
        (first_row..first_row + rows).try_for_each(|row| graph.write(*input, row * hidden.values.len(), &hidden.values))
    }

    /// Fills `predicted` with the graph's guided output for the latent in `scaled`.
    fn predict(&mut self, timestep: f64) -> Result<()> {
        let input = self.denoiser.timestep;
        self.denoiser.graph.fill(input, timestep)?;
        let (hidden, batch) = (self.hidden, self.shape[0]);
        match self.guidance {
            Guidance::Off | Guidance::Embedded { .. } => {
                self.evaluate(|predicted, output| predicted.copy_from_slice(output))
            }
            Guidance::ClassifierFree { scale, .. } if self.together => self.evaluate(|predicted, output| {
                let (negative, positive) = output.split_at(predicted.len());
                predicted.copy_from_slice(negative);
                guide(predicted, positive, scale);
            }),
            Guidance::ClassifierFree { scale, negative } => {
                self.write_hidden(0, batch, negative)?;
                self.evaluate(|predicted, output| predicted.copy_from_slice(output))?;
                self.write_hidden(0, batch, hidden)?;
                self.evaluate(|predicted, output| guide(predicted, output, scale))
            }
        }
    }

    /// Runs the graph once and gives its output to `take`, together with `predicted`.
    fn evaluate(&mut self, take: impl FnOnce(&mut [f32], &[f32])) -> Result<()> {
        let Denoiser { graph, sample, .. } = &mut *self.denoiser;
        for copy in 0..if self.together { 2 } else { 1 } {
            graph.write(*sample, copy * self.scaled.len(), &self.scaled)?;
        }
        self.evaluations += 1;
        let (output, shape) = graph.run(self.cancel)?;
        if shape != self.shape {
            return Err(Error::model(format!("denoiser: returned {shape:?} for a latent of {:?}", self.shape)));
        }
        take(&mut self.predicted, output);
        Ok(())
    }
}

/// `negative + scale·(positive − negative)`, in place.
fn guide(negative: &mut [f32], positive: &[f32], scale: f64) {
    let scale = scale as f32;
    for (negative, positive) in negative.iter_mut().zip(positive) {
        *negative += scale * (positive - *negative);
    }
}

/// The sinusoidal embedding of `w = guidance scale − 1`, `[width]`: sines, then cosines, of `1000·w` over
/// frequencies from 1 to 10⁻⁴ (Luo et al. 2023, appendix; `get_guidance_scale_embedding` of diffusers).
fn guidance_embedding(w: f64, width: usize) -> Vec<f32> {
    let half = width / 2;
    let step = 10_000_f64.ln() / (half.max(2) - 1) as f64;
    let angle = |i: usize| 1000.0 * w * (-(i as f64) * step).exp();
    let sines = (0..half).map(|i| angle(i).sin());
    let cosines = (0..half).map(|i| angle(i).cos());
    let mut embedding: Vec<_> = sines.chain(cosines).map(|value| value as f32).collect();
    embedding.resize(width, 0.0);
    embedding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_one_is_the_prompt_alone_and_more_goes_beyond_it() {
        let mut negative = [1.0, 2.0];
        guide(&mut negative, &[3.0, 3.0], 1.0);
        assert_eq!(negative, [3.0, 3.0]);
        let mut negative = [1.0, 2.0];
        guide(&mut negative, &[3.0, 3.0], 2.0);
        assert_eq!(negative, [5.0, 4.0]);
    }

    #[test]
    fn embedding_of_no_guidance_is_zeros_and_ones() {
        assert_eq!(guidance_embedding(0.0, 5), [0.0, 0.0, 1.0, 1.0, 0.0]);
        assert!(guidance_embedding(7.5, 256).iter().all(|value| value.abs() <= 1.0));
    }
}
