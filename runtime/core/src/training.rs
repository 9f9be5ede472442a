//! How a model was trained → the noise levels that it knows, and what its graph is told at each of them.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One noise level of the forward process, `x = alpha·x₀ + sigma·noise`.
///
/// `alpha` and `sigma` are kept apart, instead of the one ratio `sigma/alpha` of Karras et al. 2022, because
/// that ratio is infinite where a zero-terminal-SNR or a flow-matching model starts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Level {
    /// What the graph is told: a training timestep, fractional between two of them.
    pub timestep: f64,
    /// Weight of the clean latent.
    pub alpha: f64,
    /// Weight of the unit Gaussian noise.
    pub sigma: f64,
}

impl Level {
    /// Where every trajectory ends: no noise.
    pub const CLEAN: Self = Self { timestep: 0.0, alpha: 1.0, sigma: 0.0 };

    /// The variance-preserving level of a cumulative product ᾱ of alphas: `alpha = √ᾱ`, `sigma = √(1 − ᾱ)`.
    pub fn variance_preserving(timestep: f64, alpha_cumprod: f64) -> Self {
        Self { timestep, alpha: alpha_cumprod.sqrt(), sigma: (1.0 - alpha_cumprod).sqrt() }
    }

    /// The variance-preserving level whose ratio `sigma/alpha` is `ratio` (the sigma of Karras et al. 2022).
    pub fn from_ratio(timestep: f64, ratio: f64) -> Self {
        let norm = ratio.hypot(1.0);
        Self { timestep, alpha: 1.0 / norm, sigma: ratio / norm }
    }

    /// `sigma/alpha`, the same in every scaling of the latent; infinite for pure noise.
    pub fn ratio(self) -> f64 {
        self.sigma / self.alpha
    }

    /// Half the log of the signal-to-noise ratio, `λ = ln(alpha/sigma)` (Lu et al. 2022, arXiv:2206.00927):
    /// −∞ for pure noise, ∞ for a clean latent.
    pub fn half_log_snr(self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }
}

/// How betas run from `beta_start` to `beta_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Betas {
    /// Evenly spaced (Ho et al. 2020, arXiv:2006.11239).
    Linear,
    /// Evenly spaced square roots (Rombach et al. 2022, arXiv:2112.10752).
    ScaledLinear,
    /// The cosine schedule, each beta capped at 0.999 (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17).
    SquaredcosCapV2,
    /// A logistic curve from −6 to 6 (GeoDiff, Xu et al. 2022, arXiv:2203.02923).
    Sigmoid,
}

/// What the denoiser's graph predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prediction {
    /// The noise.
    #[serde(rename = "epsilon")]
    Epsilon,
    /// The velocity `alpha·noise − sigma·x₀` (Salimans & Ho 2022, arXiv:2202.00512).
    #[serde(rename = "v_prediction", alias = "v")]
    V,
    /// The clean latent.
    #[serde(rename = "sample")]
    Sample,
    /// The velocity `noise − x₀` of the straight path (Lipman et al. 2023, arXiv:2210.02747).
    #[serde(rename = "flow_prediction", alias = "flow")]
    Flow,
    /// The raw network of Karras et al. 2022 (arXiv:2206.00364, eq. 7 and table 1).
    #[serde(rename = "edm")]
    Edm,
    /// The raw network of a consistency model, whose estimate is the latent itself at `sigma_min` (Song et al.
    /// 2023, arXiv:2303.01469, appendix C).
    #[serde(rename = "consistency")]
    Consistency,
}

/// How a graph's input and output become the clean latent: `D(x) = skip·x + out·F(input·x)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preconditioning {
    /// What the graph's input is multiplied with.
    pub input: f64,
    /// Weight of the latent.
    pub skip: f64,
    /// Weight of the graph's output.
    pub out: f64,
}

/// How a model was trained: the facts that its manifest or `scheduler_config.json` states.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingSpec {
    /// A variance-preserving diffusion with a table of betas.
    Diffusion(DiffusionSpec),
    /// Flow matching on the straight path from noise to data.
    Flow(FlowSpec),
    /// The design space of Karras et al. 2022, conditioned on sigma.
    Edm(EdmSpec),
}

/// A variance-preserving diffusion with a table of betas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionSpec {
    /// Number of training timesteps.
    #[serde(default = "default_timesteps")]
    pub timesteps: usize,
    /// First beta.
    pub beta_start: f64,
    /// Last beta.
    pub beta_end: f64,
    /// Their curve.
    pub betas: Betas,
    /// Betas rescaled so that the last level is pure noise (Lin et al. 2023, arXiv:2305.08891, algorithm 1).
    #[serde(default)]
    pub zero_terminal_snr: bool,
    /// What the graph predicts.
    pub prediction: Prediction,
    /// Added to every timestep of the leading spacing (1 for SD 1.x).
    #[serde(default)]
    pub steps_offset: usize,
    /// Whether DDIM's last step lands on ᾱ = 1, or on the first training level.
    #[serde(default = "default_true")]
    pub set_alpha_to_one: bool,
    /// The grid of steps that a latent consistency model was distilled on.
    #[serde(default = "default_original_steps")]
    pub original_steps: usize,
    /// Sharpness of a consistency model's boundary condition (Luo et al. 2023, arXiv:2310.04378).
    #[serde(default = "default_timestep_scaling")]
    pub timestep_scaling: f64,
}

/// Flow matching on the straight path from noise to data: `alpha = 1 − sigma` (Liu et al. 2023,
/// arXiv:2209.03003).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowSpec {
    /// Number of training timesteps; the graph is told `sigma·timesteps`.
    #[serde(default = "default_timesteps")]
    pub timesteps: usize,
    /// Moves every sigma towards noise: `shift·σ / (1 + (shift − 1)·σ)` (Esser et al. 2024, arXiv:2403.03206, eq. 23).
    #[serde(default = "default_shift")]
    pub shift: f64,
    /// Takes the shift from the size of the picture instead.
    #[serde(default)]
    pub dynamic_shift: Option<DynamicShift>,
    /// What the graph predicts.
    #[serde(default = "default_flow")]
    pub prediction: Prediction,
}

/// A shift of `e^mu`, with `mu` linear in the number of tokens that the transformer sees (Flux).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicShift {
    /// `mu` at `base_tokens`.
    pub base: f64,
    /// `mu` at `most_tokens`.
    pub most: f64,
    /// Tokens of the smallest training picture.
    pub base_tokens: usize,
    /// Tokens of the largest training picture.
    pub most_tokens: usize,
    /// Latent cells that a token is wide and high.
    pub patch: usize,
}

/// The design space of Karras et al. 2022 (arXiv:2206.00364), conditioned on sigma.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdmSpec {
    /// Least noise that was trained.
    pub sigma_min: f64,
    /// Most noise that was trained.
    pub sigma_max: f64,
    /// Standard deviation of clean latents.
    #[serde(default = "default_sigma_data")]
    pub sigma_data: f64,
    /// What the graph is told of sigma.
    #[serde(default)]
    pub timestep: EdmTimestep,
    /// What that is multiplied with: 1 for EDM, 1000 for consistency models.
    #[serde(default = "default_timestep_scale")]
    pub timestep_scale: f64,
    /// What the graph gives: `edm` or `consistency`, or `sample` where it takes `x₀ + sigma·noise` as it is and gives the
    /// clean latent itself.
    pub prediction: Prediction,
}

/// What a graph is told of sigma.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EdmTimestep {
    /// `ln(sigma)/4` (Karras et al. 2022, table 1).
    #[default]
    LogSigma,
    /// Sigma itself.
    Sigma,
}

impl EdmTimestep {
    fn of(self, sigma: f64) -> f64 {
        match self {
            Self::LogSigma => 0.25 * sigma.max(f64::MIN_POSITIVE).ln(),
            Self::Sigma => sigma,
        }
    }

    fn sigma(self, timestep: f64) -> f64 {
        match self {
            Self::LogSigma => (4.0 * timestep).exp(),
            Self::Sigma => timestep,
        }
    }
}

fn default_timesteps() -> usize {
    1000
}

fn default_true() -> bool {
    true
}

fn default_original_steps() -> usize {
    50
}

fn default_timestep_scaling() -> f64 {
    10.0
}

fn default_shift() -> f64 {
    1.0
}

fn default_flow() -> Prediction {
    Prediction::Flow
}

fn default_sigma_data() -> f64 {
    0.5
}

fn default_timestep_scale() -> f64 {
    1.0
}

impl From<DiffusionSpec> for TrainingSpec {
    fn from(spec: DiffusionSpec) -> Self {
        Self::Diffusion(spec)
    }
}

impl From<FlowSpec> for TrainingSpec {
    fn from(spec: FlowSpec) -> Self {
        Self::Flow(spec)
    }
}

impl From<EdmSpec> for TrainingSpec {
    fn from(spec: EdmSpec) -> Self {
        Self::Edm(spec)
    }
}

/// A training process with its table of noise levels.
///
/// Its *own sigma* is the one that its field speaks of: `sigma/alpha` for diffusion and EDM, the weight of the noise
/// on the straight path for flow matching. Levels given by own sigma lie on a straight line in `(alpha, sigma)`:
/// `(1, sigma)` or `(1 − sigma, sigma)`. Solvers of ODEs over sigma need that.
#[derive(Debug, Clone)]
pub struct Training {
    spec: TrainingSpec,
    /// ᾱ of each timestep, falling; empty unless this is a diffusion.
    alphas_cumprod: Vec<f64>,
    /// Own sigma of each timestep, rising.
    sigmas: Vec<f64>,
    /// The shift of a flow; 1 for other processes.
    shift: f64,
}

/// EDM was trained on all sigmas; schedules that count timesteps count this many, evenly spread in `ln sigma`.
const EDM_TIMESTEPS: usize = 1000;

impl Training {
    /// Most training timesteps that are accepted.
    pub const MAX_TIMESTEPS: usize = 100_000;

    /// Computes the table of a checked specification.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) for impossible betas, no timesteps or too many, a prediction that
    /// the process cannot have, or an epsilon model with zero terminal SNR (its first step would divide by zero).
    pub fn new(spec: impl Into<TrainingSpec>) -> Result<Self> {
        let spec = spec.into();
        let told = |fault| Error::model(format!("training schedule: {fault}"));
        let (alphas_cumprod, sigmas) = match &spec {
            TrainingSpec::Diffusion(diffusion) => {
                check_diffusion(diffusion).map_err(told)?;
                let alphas_cumprod = alphas_cumprod(diffusion);
                check_alphas_cumprod(diffusion, &alphas_cumprod).map_err(told)?;
                let sigmas = alphas_cumprod.iter().map(|&alpha_cumprod| own_sigma(alpha_cumprod)).collect();
                (alphas_cumprod, sigmas)
            }
            TrainingSpec::Flow(flow) => {
                check_flow(flow).map_err(told)?;
                (Vec::new(), shifted_sigmas(flow.timesteps, flow.shift))
            }
            TrainingSpec::Edm(edm) => {
                check_edm(edm).map_err(told)?;
                let (low, high) = (edm.sigma_min.ln(), edm.sigma_max.ln());
                let at = |i| (low + (high - low) * i as f64 / (EDM_TIMESTEPS - 1) as f64).exp();
                (Vec::new(), (0..EDM_TIMESTEPS).map(at).collect())
            }
        };
        let shift = if let TrainingSpec::Flow(flow) = &spec { flow.shift } else { 1.0 };
        Ok(Self { spec, alphas_cumprod, sigmas, shift })
    }

    /// The process for latents of `height` × `width` cells, where its shift depends on that.
    pub fn at_size(&self, height: usize, width: usize) -> Self {
        let TrainingSpec::Flow(FlowSpec { dynamic_shift: Some(dynamic), .. }) = &self.spec else { return self.clone() };
        let shift = dynamic.shift(height, width);
        Self { sigmas: shifted_sigmas(self.sigmas.len(), shift), shift, ..self.clone() }
    }

    /// The specification that the table was made from.
    pub fn spec(&self) -> &TrainingSpec {
        &self.spec
    }

    /// What the graph predicts.
    pub fn prediction(&self) -> Prediction {
        match &self.spec {
            TrainingSpec::Diffusion(spec) => spec.prediction,
            TrainingSpec::Flow(spec) => spec.prediction,
            TrainingSpec::Edm(spec) => spec.prediction,
        }
    }

    /// ᾱ of each training timestep, `[timesteps]`, falling; empty unless this is a diffusion.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// Number of training timesteps.
    pub fn timesteps(&self) -> usize {
        self.sigmas.len()
    }

    /// Own sigma of the least and the most noise.
    pub fn sigma_range(&self) -> (f64, f64) {
        (self.sigmas[0], self.sigmas[self.sigmas.len() - 1])
    }

    /// Added to every timestep of the leading spacing.
    pub fn steps_offset(&self) -> usize {
        self.diffusion().map_or(0, |spec| spec.steps_offset)
    }

    /// The grid of steps that a latent consistency model was distilled on.
    pub fn original_steps(&self) -> usize {
        self.diffusion().map_or(default_original_steps(), |spec| spec.original_steps)
    }

    /// Sharpness of a latent consistency model's boundary condition.
    pub fn timestep_scaling(&self) -> f64 {
        self.diffusion().map_or(default_timestep_scaling(), |spec| spec.timestep_scaling)
    }

    /// The level of a training timestep, counted from 0, fractional between two. Its own sigma lies linearly between
    /// those of the two, as the field's Euler schedulers have it.
    pub fn at_index(&self, index: f64) -> Level {
        if let TrainingSpec::Flow(_) = self.spec {
            // A shift towards the clean end places the last of evenly spread timesteps before the first of training.
            let straight = ((index + 1.0) / self.sigmas.len() as f64).clamp(1e-12, 1.0);
            return self.at_sigma(shifted(straight, self.shift));
        }
        let (index, below, above) = self.neighbours(index);
        let weight = index - below as f64;
        let level = self.at_sigma(self.sigmas[below] * (1.0 - weight) + self.sigmas[above] * weight);
        if self.counts_timesteps() { Level { timestep: index, ..level } } else { level }
    }

    /// Own sigma of a training timestep, counted from 0; between two of a diffusion, log sigma is linear, as in
    /// k-diffusion. It is what the timesteps of [`Training::at_sigma`] are the inverse of.
    pub fn sigma_at(&self, index: f64) -> f64 {
        if let TrainingSpec::Flow(_) = self.spec {
            return self.at_index(index).sigma;
        }
        let (index, below, above) = self.neighbours(index);
        let weight = index - below as f64;
        (self.sigmas[below].ln() * (1.0 - weight) + self.sigmas[above].ln() * weight).exp()
    }

    /// An index within the table, and the whole ones that it lies between.
    fn neighbours(&self, index: f64) -> (f64, usize, usize) {
        let last = self.sigmas.len() - 1;
        let index = index.clamp(0.0, last as f64);
        let below = index.floor() as usize;
        (index, below, (below + 1).min(last))
    }

    /// The level of an own sigma, with the timestep that the graph is told there.
    pub fn at_sigma(&self, sigma: f64) -> Level {
        let timestep = self.timestep(sigma);
        match self.spec {
            // Rounding must not leave a trace of signal where there is none: solvers divide by alpha.
            TrainingSpec::Flow(_) if sigma > 1.0 - 1e-9 => Level { timestep, alpha: 0.0, sigma: 1.0 },
            TrainingSpec::Flow(_) => Level { timestep, alpha: 1.0 - sigma, sigma },
            TrainingSpec::Diffusion(_) | TrainingSpec::Edm(_) => Level { timestep, alpha: 1.0, sigma },
        }
    }

    /// The level, on the straight line, of a ratio `sigma/alpha`.
    pub fn at_ratio(&self, ratio: f64) -> Level {
        self.at_sigma(match self.spec {
            TrainingSpec::Flow(_) if ratio.is_infinite() => 1.0,
            TrainingSpec::Flow(_) => ratio / (1.0 + ratio),
            TrainingSpec::Diffusion(_) | TrainingSpec::Edm(_) => ratio,
        })
    }

    /// The level of a training timestep in the scaling that the process itself has: of unit variance for a diffusion.
    pub fn at_own_index(&self, index: f64) -> Level {
        let index = index.round_ties_even().clamp(0.0, (self.sigmas.len() - 1) as f64);
        match self.alphas_cumprod.get(index as usize) {
            Some(&alpha_cumprod) => Level::variance_preserving(index, alpha_cumprod),
            None => self.at_index(index),
        }
    }

    /// Own sigma of a level of any scaling.
    pub fn own_sigma(&self, level: Level) -> f64 {
        match self.spec {
            TrainingSpec::Flow(_) => level.sigma / (level.alpha + level.sigma),
            TrainingSpec::Diffusion(_) | TrainingSpec::Edm(_) => level.ratio(),
        }
    }

    /// Where a level lies among the training timesteps, counted from 0.
    pub fn index(&self, level: Level) -> f64 {
        let sigma = self.own_sigma(level);
        let above = self.sigmas.partition_point(|&s| s <= sigma);
        if above == 0 || above == self.sigmas.len() {
            return above.saturating_sub(1) as f64;
        }
        let (low, high) = (self.sigmas[above - 1].ln(), self.sigmas[above].ln());
        (above - 1) as f64 + (sigma.ln() - low) / (high - low)
    }

    /// Whether a level lies on the straight line in `(alpha, sigma)` that own sigmas are given on.
    pub(crate) fn is_straight(&self, level: Level) -> bool {
        match self.spec {
            TrainingSpec::Flow(_) => true,
            TrainingSpec::Diffusion(_) | TrainingSpec::Edm(_) => level.alpha == 1.0,
        }
    }

    /// The level where the graph is told `timestep`, in the process's own scaling.
    pub fn at_own_timestep(&self, timestep: f64) -> Level {
        match self.spec {
            TrainingSpec::Diffusion(_) if timestep.fract() == 0.0 => self.at_own_index(timestep),
            _ => self.in_own_scaling(self.at_timestep(timestep)),
        }
    }

    /// Whether timesteps are counted, as those of a diffusion are, instead of standing for sigmas.
    pub fn counts_timesteps(&self) -> bool {
        self.diffusion().is_some()
    }

    /// The same latent's level in the process's own scaling.
    pub fn in_own_scaling(&self, level: Level) -> Level {
        match self.spec {
            TrainingSpec::Diffusion(_) => Level::from_ratio(level.timestep, level.ratio()),
            TrainingSpec::Flow(_) | TrainingSpec::Edm(_) => level,
        }
    }

    /// The level where the graph is told `timestep`.
    pub fn at_timestep(&self, timestep: f64) -> Level {
        match &self.spec {
            TrainingSpec::Diffusion(_) => self.at_index(timestep),
            TrainingSpec::Flow(spec) => self.at_sigma(timestep / spec.timesteps as f64),
            TrainingSpec::Edm(spec) => self.at_sigma(spec.timestep.sigma(timestep / spec.timestep_scale)),
        }
    }

    /// What the graph is told at an own sigma. For a diffusion it lies between two timesteps as `ln sigma` lies
    /// between theirs.
    fn timestep(&self, sigma: f64) -> f64 {
        match &self.spec {
            TrainingSpec::Flow(spec) => sigma.min(1.0) * spec.timesteps as f64,
            TrainingSpec::Edm(spec) => spec.timestep_scale * spec.timestep.of(sigma),
            TrainingSpec::Diffusion(_) => self.index(Level { timestep: 0.0, alpha: 1.0, sigma }),
        }
    }

    /// How the graph's input and output become the clean latent at `level`, in whatever scaling that is.
    pub fn preconditioning(&self, level: Level) -> Preconditioning {
        let Level { alpha, sigma, .. } = level;
        let (data, sigma_min) = match &self.spec {
            TrainingSpec::Edm(spec) => (spec.sigma_data, spec.sigma_min),
            TrainingSpec::Diffusion(_) | TrainingSpec::Flow(_) => (1.0, self.sigmas[0]),
        };
        let norm = (data * alpha).hypot(sigma);
        let input = match self.spec {
            TrainingSpec::Flow(_) => 1.0 / (alpha + sigma),
            TrainingSpec::Edm(EdmSpec { prediction: Prediction::Sample, .. }) => 1.0 / alpha,
            TrainingSpec::Diffusion(_) | TrainingSpec::Edm(_) => 1.0 / norm,
        };
        let (skip, out) = match self.prediction() {
            Prediction::Epsilon => (1.0 / alpha, -sigma / alpha),
            Prediction::V => (alpha / norm.powi(2), -sigma / norm),
            Prediction::Sample => (0.0, 1.0),
            Prediction::Flow => (1.0 / (alpha + sigma), -sigma / (alpha + sigma)),
            Prediction::Edm => (alpha * (data / norm).powi(2), sigma * data / norm),
            Prediction::Consistency => {
                let beyond = sigma - alpha * sigma_min;
                (alpha * data.powi(2) / (beyond.powi(2) + (alpha * data).powi(2)), beyond * data / norm)
            }
        };
        Preconditioning { input, skip, out }
    }

    fn diffusion(&self) -> Option<&DiffusionSpec> {
        match &self.spec {
            TrainingSpec::Diffusion(spec) => Some(spec),
            TrainingSpec::Flow(_) | TrainingSpec::Edm(_) => None,
        }
    }

    /// Where evenly spread timesteps begin. The field's flow schedulers spread them from the least *shifted* sigma, and
    /// shift that once more; pictures of SD3 are made so.
    pub(crate) fn first_index(&self) -> f64 {
        match &self.spec {
            TrainingSpec::Flow(spec) if spec.dynamic_shift.is_none() => self.sigmas[0] * self.sigmas.len() as f64 - 1.0,
            _ => 0.0,
        }
    }

    /// Where a trajectory over timesteps ends: clean, or at the first training level.
    pub(crate) fn last_level(&self) -> Level {
        match self.diffusion() {
            Some(spec) if !spec.set_alpha_to_one => self.at_own_index(0.0),
            _ => Level::CLEAN,
        }
    }
}

impl DynamicShift {
    fn shift(&self, height: usize, width: usize) -> f64 {
        let tokens = height.div_ceil(self.patch) as f64 * width.div_ceil(self.patch) as f64;
        let slope = (self.most - self.base) / (self.most_tokens as f64 - self.base_tokens as f64);
        // Far beyond the largest training picture the line would leave nothing but noise, or nothing of it.
        (self.base + slope * (tokens - self.base_tokens as f64)).clamp(-MOST_MU, MOST_MU).exp()
    }
}

/// Largest mu of a dynamic shift, which is then a shift of about 1000.
const MOST_MU: f64 = 7.0;

fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

fn shifted_sigmas(timesteps: usize, shift: f64) -> Vec<f64> {
    (1..=timesteps).map(|i| shifted(i as f64 / timesteps as f64, shift)).collect()
}

/// The ratio of a zero-terminal-SNR model is infinite at its end; 2⁻²⁴ is what the field puts there for ᾱ.
fn own_sigma(alpha_cumprod: f64) -> f64 {
    let alpha_cumprod = alpha_cumprod.max(f64::exp2(-24.0));
    ((1.0 - alpha_cumprod) / alpha_cumprod).sqrt()
}

fn check_diffusion(spec: &DiffusionSpec) -> Result<(), String> {
    check_timesteps(spec.timesteps)?;
    check_prediction(spec.prediction, &[Prediction::Epsilon, Prediction::V, Prediction::Sample])?;
    Err(if !(spec.beta_start > 0.0 && spec.beta_start <= spec.beta_end && spec.beta_end < 1.0) {
        format!("betas run from {} to {}, expected 0 < start ≤ end < 1", spec.beta_start, spec.beta_end)
    } else if spec.zero_terminal_snr && spec.prediction == Prediction::Epsilon {
        "epsilon prediction cannot have zero_terminal_snr: its first step divides by zero".into()
    } else if spec.steps_offset >= spec.timesteps {
        format!("steps_offset is {}, expected less than the {} timesteps", spec.steps_offset, spec.timesteps)
    } else if spec.original_steps == 0 || spec.original_steps > spec.timesteps {
        format!("original_steps is {}, expected 1 to {}", spec.original_steps, spec.timesteps)
    } else if spec.zero_terminal_snr && spec.timesteps == 1 {
        "zero_terminal_snr needs at least 2 timesteps: its first level stays, its last becomes noise".into()
    } else if !(spec.timestep_scaling > 0.0 && spec.timestep_scaling <= 1e6) {
        format!("timestep_scaling is {}, expected more than 0 and at most 10⁶", spec.timestep_scaling)
    } else {
        return Ok(());
    })
}

/// Betas that are too small for single precision add no noise, and very large ones leave none of the signal long before
/// the end: both make timesteps that are one level.
fn check_alphas_cumprod(spec: &DiffusionSpec, alphas_cumprod: &[f64]) -> Result<(), String> {
    let before = [1.0].into_iter().chain(alphas_cumprod.iter().copied());
    let falls = |(before, &now): (f64, &f64)| now < before && (now > 0.0 || spec.zero_terminal_snr);
    match before.zip(alphas_cumprod).position(|pair| !falls(pair)) {
        None => Ok(()),
        Some(timestep) => Err(format!(
            "betas from {} to {} leave ᾱ = {} at timestep {timestep}, expected it to fall at every timestep and to stay \
             above 0; check beta_start, beta_end and timesteps",
            spec.beta_start, spec.beta_end, alphas_cumprod[timestep]
        )),
    }
}

fn check_flow(spec: &FlowSpec) -> Result<(), String> {
    check_timesteps(spec.timesteps)?;
    check_prediction(spec.prediction, &[Prediction::Flow, Prediction::Sample])?;
    if !(1e-3..=1e3).contains(&spec.shift) {
        return Err(format!("shift is {}, expected 0.001 to 1000", spec.shift));
    }
    let Some(dynamic) = &spec.dynamic_shift else { return Ok(()) };
    let sane = |mu: f64| mu.abs() <= MOST_MU;
    if spec.shift != 1.0 {
        Err("shift and dynamic_shift cannot both be given".into())
    } else if !(sane(dynamic.base) && sane(dynamic.most)) {
        Err(format!("dynamic_shift runs from {} to {}, expected −{MOST_MU} to {MOST_MU}", dynamic.base, dynamic.most))
    } else if dynamic.base_tokens >= dynamic.most_tokens || dynamic.patch == 0 {
        Err("dynamic_shift needs base_tokens < most_tokens and a patch of at least 1".into())
    } else {
        Ok(())
    }
}

fn check_edm(spec: &EdmSpec) -> Result<(), String> {
    check_prediction(spec.prediction, &[Prediction::Edm, Prediction::Consistency, Prediction::Sample])?;
    if !(spec.sigma_min >= 1e-6 && spec.sigma_min < spec.sigma_max && spec.sigma_max < 1e6) {
        return Err(format!(
            "sigma runs from {} to {}, expected 10⁻⁶ ≤ min < max < 10⁶",
            spec.sigma_min, spec.sigma_max
        ));
    }
    for (name, value) in [("sigma_data", spec.sigma_data), ("timestep_scale", spec.timestep_scale)] {
        if !(1e-6..1e6).contains(&value) {
            return Err(format!("{name} is {value}, expected 10⁻⁶ to 10⁶"));
        }
    }
    Ok(())
}

fn check_timesteps(timesteps: usize) -> Result<(), String> {
    if timesteps == 0 || timesteps > Training::MAX_TIMESTEPS {
        return Err(format!("timesteps is {timesteps}, expected 1 to {}", Training::MAX_TIMESTEPS));
    }
    Ok(())
}

fn check_prediction(prediction: Prediction, possible: &[Prediction]) -> Result<(), String> {
    if possible.contains(&prediction) {
        return Ok(());
    }
    let name = |prediction| serde_json::to_string(prediction).unwrap_or_default();
    let possible: Vec<_> = possible.iter().map(name).collect();
    Err(format!("prediction is {}, expected {}", name(&prediction), possible.join(" or ")))
}

/// The table in single precision, as the field's code keeps it: at the clean end that moves sigma by a part in 10⁵.
fn alphas_cumprod(spec: &DiffusionSpec) -> Vec<f64> {
    let (count, start, end) = (spec.timesteps, spec.beta_start, spec.beta_end);
    let beta = |i: usize| match spec.betas {
        Betas::Linear => linspace(start, end, i, count),
        Betas::ScaledLinear => linspace(start.sqrt(), end.sqrt(), i, count).powi(2),
        Betas::SquaredcosCapV2 => {
            let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
            let (from, to) = (i as f64 / count as f64, (i + 1) as f64 / count as f64);
            (1.0 - alpha_bar(to) / alpha_bar(from)).min(0.999) as f32
        }
        Betas::Sigmoid => {
            let logistic = 1.0 / (1.0 + (-linspace(-6.0, 6.0, i, count)).exp());
            start as f32 + (end - start) as f32 * logistic
        }
    };
    let cumulate = |product: &mut f64, i: usize| {
        *product *= f64::from(1.0 - beta(i));
        Some(f64::from(*product as f32))
    };
    let mut table: Vec<_> = (0..count).scan(1.0, cumulate).collect();
    if spec.zero_terminal_snr {
        rescale_to_zero_terminal_snr(&mut table);
    }
    table
}

/// `torch.linspace` in single precision, which counts from the nearer end.
fn linspace(start: f64, end: f64, i: usize, count: usize) -> f32 {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / (count - 1).max(1) as f32;
    if i < count.div_ceil(2) { start + step * i as f32 } else { end - step * (count - 1 - i) as f32 }
}

fn rescale_to_zero_terminal_snr(alphas_cumprod: &mut [f64]) {
    let (Some(first), Some(last)) = (alphas_cumprod.first(), alphas_cumprod.last()) else { return };
    let (first, last) = (first.sqrt(), last.sqrt());
    for alpha_cumprod in alphas_cumprod {
        *alpha_cumprod = ((alpha_cumprod.sqrt() - last) * first / (first - last)).powi(2);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn diffusion() -> DiffusionSpec {
        DiffusionSpec {
            timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            betas: Betas::ScaledLinear,
            zero_terminal_snr: true,
            prediction: Prediction::V,
            steps_offset: 0,
            set_alpha_to_one: true,
            original_steps: 50,
            timestep_scaling: 10.0,
        }
    }

    pub(crate) fn flow() -> FlowSpec {
        FlowSpec { timesteps: 1000, shift: 3.0, dynamic_shift: None, prediction: Prediction::Flow }
    }

    fn edm() -> EdmSpec {
        EdmSpec {
            sigma_min: 0.002,
            sigma_max: 80.0,
            sigma_data: 0.5,
            timestep: EdmTimestep::LogSigma,
            timestep_scale: 1.0,
            prediction: Prediction::Edm,
        }
    }

    fn every_process() -> [Training; 4] {
        let sigma = EdmSpec { timestep: EdmTimestep::Sigma, prediction: Prediction::Sample, ..edm() };
        [Training::new(diffusion()), Training::new(flow()), Training::new(edm()), Training::new(sigma)]
            .map(Result::unwrap)
    }

    #[test]
    fn zero_terminal_snr_keeps_the_first_level_and_ends_in_pure_noise() {
        let plain = Training::new(DiffusionSpec { zero_terminal_snr: false, ..diffusion() }).unwrap();
        let rescaled = Training::new(diffusion()).unwrap();
        assert!((plain.alphas_cumprod()[0] - rescaled.alphas_cumprod()[0]).abs() < 1e-12);
        assert_eq!(*rescaled.alphas_cumprod().last().unwrap(), 0.0);
    }

    #[test]
    fn every_beta_of_the_cosine_schedule_counts() {
        let cosine = DiffusionSpec { betas: Betas::SquaredcosCapV2, zero_terminal_snr: false, ..diffusion() };
        let table = Training::new(cosine).unwrap().alphas_cumprod().to_vec();
        assert!(table.windows(2).all(|pair| pair[1] < pair[0]), "falls at every step");
        assert!((table[499] - 0.5).abs() < 0.01, "half-way the signal is about half: {}", table[499]);
    }

    #[test]
    fn sigma_and_timestep_name_the_same_level() {
        for training in every_process() {
            for index in [0.0, 1.0, 499.0, 998.0] {
                let level = training.at_index(index);
                let again = training.at_timestep(level.timestep);
                assert!((level.sigma - again.sigma).abs() < 1e-9 * level.sigma, "{level:?} {again:?}");
                assert!((level.timestep - training.at_sigma(level.sigma).timestep).abs() < 1e-6, "{level:?}");
                let again = training.at_ratio(level.ratio());
                assert!((level.sigma - again.sigma).abs() < 1e-9 * level.sigma, "{level:?} {again:?}");
            }
        }
    }

    #[test]
    fn a_perfect_graph_gives_the_clean_latent_in_every_scaling() {
        let (x0, noise) = (0.7, -1.3);
        let specs = [Prediction::Epsilon, Prediction::V, Prediction::Sample].map(|prediction| {
            TrainingSpec::from(DiffusionSpec { prediction, zero_terminal_snr: false, ..diffusion() })
        });
        let told_sigma = EdmSpec { timestep: EdmTimestep::Sigma, prediction: Prediction::Sample, ..edm() };
        for spec in specs.into_iter().chain([flow().into(), edm().into(), told_sigma.into()]) {
            let training = Training::new(spec).unwrap();
            let level = training.at_index(600.0);
            for scale in [1.0, 0.3] {
                let level = Level { alpha: level.alpha * scale, sigma: level.sigma * scale, ..level };
                let x = level.alpha * x0 + level.sigma * noise;
                let Preconditioning { skip, out, .. } = training.preconditioning(level);
                let norm = level.alpha.hypot(level.sigma);
                let data_norm = (0.5 * level.alpha).hypot(level.sigma);
                let output = match training.prediction() {
                    Prediction::Epsilon => noise,
                    Prediction::V => (level.alpha * noise - level.sigma * x0) / norm,
                    Prediction::Sample => x0,
                    Prediction::Flow => noise - x0,
                    // The target of Karras et al. 2022, eq. 8.
                    Prediction::Edm | Prediction::Consistency => {
                        let skip = level.alpha * 0.25 / data_norm.powi(2);
                        (x0 - skip * x) / (level.sigma * 0.5 / data_norm)
                    }
                };
                assert!((skip * x + out * output - x0).abs() < 1e-12, "{:?} {scale}", training.prediction());
            }
        }
    }

    #[test]
    fn a_consistency_model_leaves_the_least_noise_alone() {
        let training = Training::new(EdmSpec { prediction: Prediction::Consistency, ..edm() }).unwrap();
        let Preconditioning { skip, out, .. } = training.preconditioning(training.at_sigma(0.002));
        assert_eq!((skip, out), (1.0, 0.0));
    }

    #[test]
    fn a_dynamic_shift_grows_with_the_picture() {
        let dynamic = DynamicShift { base: 0.5, most: 1.15, base_tokens: 256, most_tokens: 4096, patch: 2 };
        let training = Training::new(FlowSpec { shift: 1.0, dynamic_shift: Some(dynamic), ..flow() }).unwrap();
        let middle = |side| training.at_size(side, side).at_index(499.0).sigma;
        assert!((middle(32) - 0.5f64.exp() / (0.5f64.exp() + 1.0)).abs() < 1e-12, "{}", middle(32));
        assert!(middle(128) > middle(64) && middle(64) > middle(32));
        let (steep, flat) = (DynamicShift { most: 7.0, most_tokens: 257, ..dynamic }, dynamic);
        for (dynamic, side) in [(steep, 4096), (flat, usize::MAX)] {
            let training = Training::new(FlowSpec { shift: 1.0, dynamic_shift: Some(dynamic), ..flow() }).unwrap();
            assert_eq!(training.at_size(side, side).shift, 7f64.exp());
        }
    }

    #[test]
    fn an_index_beyond_the_table_is_its_end() {
        for training in every_process() {
            let (least, most) = training.sigma_range();
            for (index, sigma) in [(1e9, most), (f64::INFINITY, most), (999.0, most), (0.0, least)] {
                assert!((training.sigma_at(index) - sigma).abs() < 1e-9 * sigma, "{index}");
                assert!((training.at_index(index).sigma - sigma).abs() < 1e-9 * sigma, "{index}");
            }
            assert!(training.sigma_at(f64::NAN).is_nan());
        }
    }

    #[test]
    fn bad_training_schedules_are_refused() {
        let bad: [TrainingSpec; 21] = [
            DiffusionSpec { timesteps: 1, ..diffusion() }.into(),
            DiffusionSpec { beta_start: 1e-9, ..diffusion() }.into(),
            DiffusionSpec { beta_end: 0.9, zero_terminal_snr: false, ..diffusion() }.into(),
            DiffusionSpec { beta_end: 0.999_999_999, timesteps: 2, zero_terminal_snr: false, ..diffusion() }.into(),
            DiffusionSpec { timestep_scaling: 1e200, ..diffusion() }.into(),
            EdmSpec { sigma_min: 1e-300, ..edm() }.into(),
            DiffusionSpec { timesteps: 0, ..diffusion() }.into(),
            DiffusionSpec { beta_start: 0.0, ..diffusion() }.into(),
            DiffusionSpec { beta_end: f64::NAN, ..diffusion() }.into(),
            DiffusionSpec { prediction: Prediction::Epsilon, ..diffusion() }.into(),
            DiffusionSpec { prediction: Prediction::Flow, ..diffusion() }.into(),
            DiffusionSpec { original_steps: 0, ..diffusion() }.into(),
            DiffusionSpec { timestep_scaling: f64::INFINITY, ..diffusion() }.into(),
            FlowSpec { timesteps: 0, ..flow() }.into(),
            FlowSpec { shift: 0.0, ..flow() }.into(),
            FlowSpec { prediction: Prediction::Epsilon, ..flow() }.into(),
            EdmSpec { sigma_min: 0.0, ..edm() }.into(),
            EdmSpec { sigma_max: 0.001, ..edm() }.into(),
            EdmSpec { sigma_data: f64::NAN, ..edm() }.into(),
            EdmSpec { prediction: Prediction::V, ..edm() }.into(),
            EdmSpec { timestep_scale: 0.0, ..edm() }.into(),
        ];
        for spec in bad {
            let error = Training::new(spec.clone()).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Model, "{spec:?}");
        }
    }
}
