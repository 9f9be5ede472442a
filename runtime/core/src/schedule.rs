//! Training betas and a number of steps → the noise levels that a sampler visits.

use serde::{Deserialize, Serialize};

use crate::error::unknown;
use crate::{Error, Result};

/// One noise level of the forward process, `x = alpha·x₀ + sigma·noise`.
///
/// `alpha` and `sigma` are kept apart, instead of the one ratio `sigma/alpha` of Karras et al. 2022, because
/// that ratio is infinite where a zero-terminal-SNR or a flow-matching model starts. Variance-preserving models
/// have `alpha² + sigma² = 1`.
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
}

impl Prediction {
    /// Coefficients `(of x, of the graph's output)` that give the clean latent at `level`.
    pub fn denoised_coefficients(self, level: Level) -> (f64, f64) {
        let Level { alpha, sigma, .. } = level;
        match self {
            Self::Epsilon => (1.0 / alpha, -sigma / alpha),
            Self::V => (alpha, -sigma),
            Self::Sample => (0.0, 1.0),
        }
    }
}

/// How a model was trained: the facts that its manifest or `scheduler_config.json` states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSpec {
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

/// A training schedule with its table of ᾱ, ready to be asked for levels.
#[derive(Debug, Clone)]
pub struct Training {
    spec: TrainingSpec,
    alphas_cumprod: Vec<f64>,
}

impl Training {
    /// Most training timesteps that are accepted.
    pub const MAX_TIMESTEPS: usize = 100_000;

    /// Computes the table of a checked specification.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) for impossible betas, no timesteps or too many, or an
    /// epsilon model with zero terminal SNR (its first step would divide by zero).
    pub fn new(spec: TrainingSpec) -> Result<Self> {
        check(&spec)?;
        let mut alphas_cumprod = cumulative_alphas(&spec);
        if spec.zero_terminal_snr {
            rescale_to_zero_terminal_snr(&mut alphas_cumprod);
        }
        Ok(Self { spec, alphas_cumprod })
    }

    /// The specification that the table was made from.
    pub fn spec(&self) -> &TrainingSpec {
        &self.spec
    }

    /// ᾱ of each training timestep, `[timesteps]`, falling.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// The level of a whole training timestep.
    fn level(&self, timestep: usize) -> Level {
        Level::variance_preserving(timestep as f64, self.alphas_cumprod[timestep])
    }

    /// `sigma/alpha` at a fractional timestep, linear between two training timesteps as Euler schedulers have it.
    fn ratio(&self, timestep: f64) -> f64 {
        // The ratio of a zero-terminal-SNR model is infinite at its end; 2⁻²⁴ is what the field puts there.
        let ratio_at = |t: usize| {
            let alpha_cumprod = self.alphas_cumprod[t].max(f64::exp2(-24.0));
            ((1.0 - alpha_cumprod) / alpha_cumprod).sqrt()
        };
        let below = timestep.floor() as usize;
        let above = (below + 1).min(self.alphas_cumprod.len() - 1);
        let weight = timestep - below as f64;
        ratio_at(below) * (1.0 - weight) + ratio_at(above) * weight
    }
}

fn check(spec: &TrainingSpec) -> Result<()> {
    let fault = if spec.timesteps == 0 || spec.timesteps > Training::MAX_TIMESTEPS {
        format!("timesteps is {}, expected 1 to {}", spec.timesteps, Training::MAX_TIMESTEPS)
    } else if !(spec.beta_start > 0.0 && spec.beta_start <= spec.beta_end && spec.beta_end < 1.0) {
        format!("betas run from {} to {}, expected 0 < start ≤ end < 1", spec.beta_start, spec.beta_end)
    } else if spec.zero_terminal_snr && spec.prediction == Prediction::Epsilon {
        "epsilon prediction cannot have zero_terminal_snr: its first step divides by zero".into()
    } else if spec.steps_offset >= spec.timesteps {
        format!("steps_offset is {}, expected less than the {} timesteps", spec.steps_offset, spec.timesteps)
    } else if spec.original_steps == 0 || spec.original_steps > spec.timesteps {
        format!("original_steps is {}, expected 1 to {}", spec.original_steps, spec.timesteps)
    } else if !(spec.timestep_scaling.is_finite() && spec.timestep_scaling > 0.0) {
        format!("timestep_scaling is {}, expected a positive number", spec.timestep_scaling)
    } else {
        return Ok(());
    };
    Err(Error::model(format!("training schedule: {fault}")))
}

fn cumulative_alphas(spec: &TrainingSpec) -> Vec<f64> {
    let count = spec.timesteps;
    let between = |start: f64, end: f64, i: usize| match count {
        1 => start,
        _ => start + (end - start) * i as f64 / (count - 1) as f64,
    };
    let beta = |i: usize| match spec.betas {
        Betas::Linear => between(spec.beta_start, spec.beta_end, i),
        Betas::ScaledLinear => between(spec.beta_start.sqrt(), spec.beta_end.sqrt(), i).powi(2),
        Betas::SquaredcosCapV2 => {
            let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
            let (from, to) = (i as f64 / count as f64, (i + 1) as f64 / count as f64);
            (1.0 - alpha_bar(to) / alpha_bar(from)).min(0.999)
        }
    };
    let cumulate = |product: &mut f64, i: usize| {
        *product *= 1.0 - beta(i);
        Some(*product)
    };
    (0..count).scan(1.0, cumulate).collect()
}

fn rescale_to_zero_terminal_snr(alphas_cumprod: &mut [f64]) {
    let (Some(first), Some(last)) = (alphas_cumprod.first(), alphas_cumprod.last()) else { return };
    let (first, last) = (first.sqrt(), last.sqrt());
    for alpha_cumprod in alphas_cumprod {
        *alpha_cumprod = ((alpha_cumprod.sqrt() - last) * first / (first - last)).powi(2);
    }
}

/// Which timesteps n steps visit: a name that users type, and the function behind it.
#[derive(Debug)]
pub struct Timetable {
    /// The name in requests, manifests and reports.
    pub name: &'static str,
    /// One line for help texts.
    pub about: &'static str,
    timesteps: fn(&TrainingSpec, usize) -> Result<Vec<f64>>,
    start: Start,
}

/// What the first latent of an ODE solver is, given unit Gaussian noise.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// The noise at the first level's own strength.
    Sigma,
    /// The noise as it is: the variance of a noised latent.
    UnitVariance,
}

/// Every schedule that a request or a manifest can name.
pub const SCHEDULES: &[Timetable] = &[
    Timetable {
        name: "leading",
        about: "every T/n-th timestep from the clean end (SD 1.x)",
        timesteps: leading,
        start: Start::UnitVariance,
    },
    Timetable {
        name: "linspace",
        about: "evenly spread, both ends included",
        timesteps: linspace,
        start: Start::Sigma,
    },
    Timetable {
        name: "trailing",
        about: "every T/n-th timestep from the noisy end",
        timesteps: trailing,
        start: Start::Sigma,
    },
    Timetable {
        name: "lcm",
        about: "the timetable of latent consistency distillation",
        timesteps: lcm,
        start: Start::UnitVariance,
    },
];

/// Looks a schedule up by name.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage), listing the known names.
pub fn find_schedule(name: &str) -> Result<&'static Timetable> {
    let found = SCHEDULES.iter().find(|timetable| timetable.name == name);
    found.ok_or_else(|| Error::usage(unknown("schedule", name, SCHEDULES.iter().map(|timetable| timetable.name))))
}

/// How a sampler turns timesteps into levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// Whole timesteps and their ᾱ, as DDIM and LCM are defined.
    Timesteps,
    /// Fractional timesteps and interpolated `sigma/alpha`, ending at zero, as ODE solvers are defined.
    Sigmas,
}

/// The levels of one trajectory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schedule {
    /// `n + 1` levels: the n at which the denoiser is asked, and the one where the trajectory ends.
    pub levels: Vec<Level>,
    /// What unit Gaussian noise is multiplied with to start at `levels[0]`.
    pub initial_scale: f64,
}

impl Schedule {
    /// The levels of `steps` steps through `timetable`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for zero steps or more than the timetable holds.
    pub fn new(training: &Training, timetable: &Timetable, grid: Grid, steps: usize) -> Result<Self> {
        let most = training.spec.timesteps;
        if steps == 0 || steps > most {
            return Err(Error::usage(format!("steps is {steps}, expected 1 to {most}")));
        }
        let timesteps = (timetable.timesteps)(&training.spec, steps)?;
        if let Some(beyond) = timesteps.iter().find(|&&t| t > (most - 1) as f64) {
            return Err(Error::usage(format!(
                "{steps} steps with schedule \"{}\" reach timestep {beyond}, but training ended at {}; use fewer \
                 steps or another schedule",
                timetable.name,
                most - 1
            )));
        }
        Ok(match grid {
            Grid::Timesteps => Self::of_timesteps(training, &timesteps),
            Grid::Sigmas => Self::of_sigmas(training, &timesteps, timetable.start),
        })
    }

    fn of_timesteps(training: &Training, timesteps: &[f64]) -> Self {
        let level = |t: &f64| training.level(t.round_ties_even() as usize);
        let mut levels: Vec<_> = timesteps.iter().map(level).collect();
        levels.push(if training.spec.set_alpha_to_one { Level::CLEAN } else { training.level(0) });
        Self { levels, initial_scale: 1.0 }
    }

    fn of_sigmas(training: &Training, timesteps: &[f64], start: Start) -> Self {
        let level = |&t: &f64| Level::from_ratio(t, training.ratio(t));
        let mut levels: Vec<_> = timesteps.iter().map(level).collect();
        let initial_scale = match start {
            Start::Sigma => levels[0].sigma,
            Start::UnitVariance => 1.0,
        };
        levels.push(Level::CLEAN);
        Self { levels, initial_scale }
    }
}

fn leading(spec: &TrainingSpec, steps: usize) -> Result<Vec<f64>> {
    let stride = spec.timesteps / steps;
    Ok((0..steps).rev().map(|i| (i * stride + spec.steps_offset) as f64).collect())
}

fn linspace(spec: &TrainingSpec, steps: usize) -> Result<Vec<f64>> {
    // One step of NumPy's linspace is its start, the clean end, which no sampler can begin at; the field's code
    // does start there and returns noise. One step here is the noisy end.
    let last = (spec.timesteps - 1) as f64;
    let at = |i: usize| if steps == 1 { last } else { last * i as f64 / (steps - 1) as f64 };
    Ok((0..steps).rev().map(at).collect())
}

fn trailing(spec: &TrainingSpec, steps: usize) -> Result<Vec<f64>> {
    let total = spec.timesteps as f64;
    let stride = total / steps as f64;
    Ok((0..steps).map(|i| (total - i as f64 * stride).round_ties_even() - 1.0).collect())
}

fn lcm(spec: &TrainingSpec, steps: usize) -> Result<Vec<f64>> {
    let grid = spec.original_steps;
    if steps > grid {
        return Err(Error::usage(format!(
            "{steps} steps, but schedule \"lcm\" has {grid} (original_steps of this model); use fewer steps or another \
             schedule"
        )));
    }
    let stride = spec.timesteps / grid;
    Ok((0..steps).map(|i| ((grid - i * grid / steps) * stride - 1) as f64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> TrainingSpec {
        TrainingSpec {
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

    #[test]
    fn zero_terminal_snr_keeps_the_first_level_and_ends_in_pure_noise() {
        let plain = Training::new(TrainingSpec { zero_terminal_snr: false, ..spec() }).unwrap();
        let rescaled = Training::new(spec()).unwrap();
        assert!((plain.alphas_cumprod()[0] - rescaled.alphas_cumprod()[0]).abs() < 1e-12);
        assert_eq!(*rescaled.alphas_cumprod().last().unwrap(), 0.0);
    }

    #[test]
    fn every_beta_of_the_cosine_schedule_counts() {
        let cosine = TrainingSpec { betas: Betas::SquaredcosCapV2, zero_terminal_snr: false, ..spec() };
        let table = Training::new(cosine).unwrap().alphas_cumprod().to_vec();
        assert!(table.windows(2).all(|pair| pair[1] < pair[0]), "falls at every step");
        assert!((table[499] - 0.5).abs() < 0.01, "half-way the signal is about half: {}", table[499]);
    }

    #[test]
    fn lcm_timetable_is_the_one_of_distillation() {
        let training = Training::new(spec()).unwrap();
        let levels = Schedule::new(&training, find_schedule("lcm").unwrap(), Grid::Timesteps, 4).unwrap().levels;
        let timesteps: Vec<_> = levels.iter().map(|level| level.timestep).collect();
        assert_eq!(timesteps, [999.0, 759.0, 499.0, 259.0, 0.0]);
    }

    #[test]
    fn one_step_is_finite_on_every_schedule_and_starts_with_noise() {
        let training = Training::new(spec()).unwrap();
        for timetable in SCHEDULES.iter().filter(|timetable| timetable.name != "leading") {
            for grid in [Grid::Timesteps, Grid::Sigmas] {
                let schedule = Schedule::new(&training, timetable, grid, 1).unwrap();
                assert_eq!(schedule.levels.len(), 2, "{}", timetable.name);
                assert_eq!(schedule.levels[0].timestep, 999.0, "{}", timetable.name);
                assert_eq!(schedule.levels[1], Level::CLEAN);
            }
        }
    }

    #[test]
    fn impossible_steps_are_refused() {
        let training = Training::new(TrainingSpec { steps_offset: 1, ..spec() }).unwrap();
        for (name, steps) in [("leading", 0), ("leading", 1000), ("trailing", 1001), ("lcm", 51)] {
            let timetable = find_schedule(name).unwrap();
            let error = Schedule::new(&training, timetable, Grid::Timesteps, steps).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Usage, "{name} {steps}: {error}");
        }
    }

    #[test]
    fn bad_training_schedules_are_refused() {
        let bad = [
            TrainingSpec { timesteps: 0, ..spec() },
            TrainingSpec { beta_start: 0.0, ..spec() },
            TrainingSpec { beta_end: f64::NAN, ..spec() },
            TrainingSpec { prediction: Prediction::Epsilon, ..spec() },
            TrainingSpec { original_steps: 0, ..spec() },
            TrainingSpec { timestep_scaling: f64::INFINITY, ..spec() },
        ];
        for spec in bad {
            assert!(Training::new(spec.clone()).is_err(), "{spec:?}");
        }
    }
}
