//! A training process and a number of steps → the noise levels that a sampler visits.

use serde::Serialize;

use crate::error::unknown;
use crate::options::{Opt, Options};
use crate::training::{Level, Prediction, Training, TrainingSpec};
use crate::{Error, Result};

/// Which levels n steps visit: a name that users type, and the function behind it.
#[derive(Debug)]
pub struct Timetable {
    /// The name in requests, manifests and reports.
    pub name: &'static str,
    /// One line for help texts.
    pub about: &'static str,
    /// The options that it takes, with its own defaults.
    pub options: &'static [(Opt, f64)],
    points: Points,
    start: Start,
}

/// How a schedule places its n levels, noisiest first.
#[derive(Debug, Clone, Copy)]
enum Points {
    /// As training timesteps, counted from 0, fractional between two.
    Indexes(fn(&Training, usize, Grid) -> Result<Vec<f64>>),
    /// The same, of the cleaner part of what the model was distilled on: all of it, or a share.
    Distilled(fn(&Training, usize, f64) -> Result<Vec<f64>>),
    /// As own sigmas of the process.
    Sigmas(fn(&Training, usize, &Options) -> Result<Vec<f64>>),
}

/// What the first latent of an ODE solver is, given unit Gaussian noise.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// The noise at the first level's own strength.
    Sigma,
    /// The variance of a noised latent.
    NoisedLatent,
}

/// Every schedule that a request or a manifest can name.
pub const SCHEDULES: &[Timetable] = &[
    Timetable {
        name: "leading",
        about: "every T/n-th timestep from the clean end (SD 1.x)",
        options: &[],
        points: Points::Indexes(leading),
        start: Start::NoisedLatent,
    },
    Timetable {
        name: "linspace",
        about: "timesteps evenly spread, both ends included",
        options: &[],
        points: Points::Indexes(linspace),
        start: Start::Sigma,
    },
    Timetable {
        name: "trailing",
        about: "every T/n-th timestep from the noisy end",
        options: &[],
        points: Points::Indexes(trailing),
        start: Start::Sigma,
    },
    Timetable {
        name: "simple",
        about: "every T/n-th timestep from the noisy end, rounded to the noisier one",
        options: &[],
        points: Points::Indexes(simple),
        start: Start::Sigma,
    },
    Timetable {
        name: "sgm_uniform",
        about: "timesteps evenly spread, the clean end left out",
        options: &[],
        points: Points::Sigmas(sgm_uniform),
        start: Start::Sigma,
    },
    Timetable {
        name: "karras",
        about: "sigma^(1/rho) evenly spread (Karras et al. 2022)",
        options: &[(Opt::Rho, 7.0)],
        points: Points::Sigmas(karras),
        start: Start::Sigma,
    },
    Timetable {
        name: "exponential",
        about: "ln sigma evenly spread",
        options: &[],
        points: Points::Sigmas(exponential),
        start: Start::Sigma,
    },
    Timetable {
        name: "polyexponential",
        about: "ln sigma as a polynomial of degree rho",
        options: &[(Opt::Rho, 1.0)],
        points: Points::Sigmas(polyexponential),
        start: Start::Sigma,
    },
    Timetable {
        name: "lu",
        about: "log-SNR evenly spread (Lu et al. 2022)",
        options: &[],
        points: Points::Sigmas(exponential),
        start: Start::Sigma,
    },
    Timetable {
        name: "beta",
        about: "sigmas at quantiles of a Beta distribution, dense at both ends (Lee et al. 2024)",
        options: &[(Opt::Alpha, 0.6), (Opt::Beta, 0.6)],
        points: Points::Sigmas(beta),
        start: Start::Sigma,
    },
    Timetable {
        name: "kl_optimal",
        about: "arctan sigma evenly spread (Sabour et al. 2024, theorem 3.1)",
        options: &[],
        points: Points::Sigmas(kl_optimal),
        start: Start::Sigma,
    },
    Timetable {
        name: "ays_sd1",
        about: "Align Your Steps for SD 1.5 (Sabour et al. 2024), log-linear between its 10 steps",
        options: &[],
        points: Points::Sigmas(ays_sd1),
        start: Start::Sigma,
    },
    Timetable {
        name: "ays_sdxl",
        about: "Align Your Steps for SDXL (Sabour et al. 2024), log-linear between its 10 steps",
        options: &[],
        points: Points::Sigmas(ays_sdxl),
        start: Start::Sigma,
    },
    Timetable {
        name: "consistency",
        about: "every 40/n-th of the 40 levels that consistency models are trained on (Song et al. 2023)",
        options: &[(Opt::Rho, 7.0)],
        points: Points::Sigmas(consistency),
        start: Start::Sigma,
    },
    Timetable {
        name: "lcm",
        about: "the timetable of latent consistency distillation",
        options: &[],
        points: Points::Distilled(lcm),
        start: Start::NoisedLatent,
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

/// How a sampler turns a schedule into levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grid {
    /// Whole timesteps and their ᾱ in the process's own scaling, as DDIM and LCM are defined.
    Timesteps,
    /// The same, ending clean whatever the model says of its end, as DDPM does.
    TimestepsToClean,
    /// Fractional timesteps and interpolated sigmas, ending at zero, as ODE solvers over sigma are defined.
    Sigmas,
    /// Whole timesteps, the clean end left out, as the field defines its exponential integrators.
    LogSnr,
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
    /// The levels of `steps` steps through `timetable`, bent as its options say.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for zero steps, more than the timetable holds or than its options
    /// leave room for, or a timetable that was made for another kind of process.
    pub fn new(
        training: &Training,
        timetable: &Timetable,
        grid: Grid,
        steps: usize,
        options: &Options,
    ) -> Result<Self> {
        Self::of_share(training, timetable, grid, (steps, 1.0), options)
    }

    /// The same for a picture of which noise takes the share `strength`, more than 0 and up to 1. The first steps are left
    /// out, so that int(steps·strength) are left (`get_timesteps` of diffusers); where the timetable is a distillation's,
    /// as many steps as are asked for are taken from its cleaner part (`LCMScheduler` of diffusers).
    ///
    /// # Errors
    /// As [`Schedule::new`]; [`ErrorKind::Usage`](crate::ErrorKind::Usage) where no step is left.
    pub fn for_strength(
        training: &Training,
        timetable: &Timetable,
        grid: Grid,
        (steps, strength): (usize, f64),
        options: &Options,
    ) -> Result<Self> {
        check_strength(strength)?;
        match timetable.points {
            Points::Distilled(_) => Self::of_share(training, timetable, grid, (steps, strength), options),
            Points::Indexes(_) | Points::Sigmas(_) => {
                Self::of_share(training, timetable, grid, (steps, 1.0), options)?.cut(strength)
            }
        }
    }

    /// The same without the first steps: int(steps·strength) of them are left.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where none is left, or the strength is not between 0 and 1.
    pub fn cut(mut self, strength: f64) -> Result<Self> {
        check_strength(strength)?;
        let steps = self.levels.len() - 1;
        let left = (steps as f64 * strength) as usize;
        if left == 0 {
            return Err(Error::usage(format!(
                "strength {strength} leaves none of {steps} steps; give it at least {} steps, or strength {:.3} or more",
                (1.0 / strength).ceil(),
                (1000.0 / steps as f64).ceil() / 1000.0
            )));
        }
        self.levels.drain(..steps - left);
        Ok(self)
    }

    fn of_share(
        training: &Training,
        timetable: &Timetable,
        grid: Grid,
        (steps, share): (usize, f64),
        options: &Options,
    ) -> Result<Self> {
        let most = training.timesteps();
        if steps == 0 || steps > most {
            return Err(Error::usage(format!("steps is {steps}, expected 1 to {most}")));
        }
        let at_indexes = |indexes: Vec<f64>| match indexes.iter().find(|&&t| t > (most - 1) as f64) {
            None => Ok(Self::of_indexes(training, &indexes, grid, timetable.start)),
            Some(beyond) => Err(Error::usage(format!(
                "{steps} steps with schedule \"{}\" reach timestep {beyond}, but training ended at {}; use fewer steps or \
                 another schedule",
                timetable.name,
                most - 1
            ))),
        };
        let schedule = match timetable.points {
            Points::Indexes(place) => at_indexes(place(training, steps, grid)?)?,
            Points::Distilled(place) => at_indexes(place(training, steps, share)?)?,
            Points::Sigmas(place) => {
                Self::of_sigmas(training, &place(training, steps, options)?, grid, timetable.start)
            }
        };
        let told = || format!("{steps} steps with schedule \"{}\"", timetable.name);
        check_falling(training, schedule.starts(), told)?;
        Ok(schedule)
    }

    /// The levels where the graph is told the given timesteps.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) unless they fall, even when rounded for a grid of whole ones, and
    /// lie within those of training.
    pub fn of_timesteps(training: &Training, timesteps: &[f64], grid: Grid) -> Result<Self> {
        let told = |index| training.at_index(index).timestep;
        let (least, most) = (told(0.0), told((training.timesteps() - 1) as f64));
        check_given("timesteps", timesteps, least, most, training.timesteps())?;
        let schedule = if matches!(training.spec(), TrainingSpec::Diffusion(_)) {
            Self::of_indexes(training, timesteps, grid, Start::Sigma)
        } else {
            let levels = timesteps.iter().map(|&timestep| training.at_timestep(timestep)).collect();
            Self::of_straight(training, levels, grid, Start::Sigma)
        };
        check_falling(training, schedule.starts(), || "timesteps".into())?;
        Ok(schedule)
    }

    /// The levels of the given sigmas, those that the process's field speaks of; a zero at the end may be left out.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) unless they fall, are at least a millionth and no larger than
    /// training's.
    pub fn of_given_sigmas(training: &Training, sigmas: &[f64], grid: Grid) -> Result<Self> {
        let sigmas = sigmas.strip_suffix(&[0.0]).unwrap_or(sigmas);
        // Tables of the literature round the largest sigma up.
        let most = 1.01 * training.sigma_range().1;
        check_given("sigmas", sigmas, LEAST_SIGMA, most, training.timesteps())?;
        let schedule = Self::of_sigmas(training, sigmas, grid, Start::Sigma);
        check_falling(training, schedule.starts(), || "sigmas".into())?;
        Ok(schedule)
    }

    /// Where each step begins. How far the last one goes is the model's business: DDIM of some models ends where its
    /// last step began.
    fn starts(&self) -> &[Level] {
        self.levels.split_last().map_or(&[], |(_, starts)| starts)
    }

    fn of_indexes(training: &Training, indexes: &[f64], grid: Grid, start: Start) -> Self {
        let at = |&index: &f64| match grid {
            Grid::Timesteps | Grid::TimestepsToClean => training.at_own_index(index),
            Grid::Sigmas => training.at_index(index),
            Grid::LogSnr => training.at_index(whole(training, index)),
        };
        let levels = indexes.iter().map(at).collect();
        match grid {
            Grid::Timesteps | Grid::TimestepsToClean => Self::of_own(training, levels, grid),
            Grid::Sigmas | Grid::LogSnr => Self::of_straight(training, levels, grid, start),
        }
    }

    fn of_sigmas(training: &Training, sigmas: &[f64], grid: Grid, start: Start) -> Self {
        let levels = sigmas.iter().map(|&sigma| training.at_sigma(sigma)).collect();
        Self::of_straight(training, levels, grid, start)
    }

    /// Levels on the straight line, put into the scaling of the grid.
    fn of_straight(training: &Training, mut levels: Vec<Level>, grid: Grid, start: Start) -> Self {
        match grid {
            Grid::Timesteps | Grid::TimestepsToClean => {
                let levels = levels.into_iter().map(|level| training.in_own_scaling(level)).collect();
                return Self::of_own(training, levels, grid);
            }
            Grid::Sigmas => (),
            Grid::LogSnr => levels.iter_mut().for_each(|level| level.timestep = whole(training, level.timestep)),
        }
        let first = levels[0];
        let noised = first.alpha.hypot(first.sigma);
        let initial_scale = match (training.spec(), start) {
            (TrainingSpec::Flow(_), _) => first.sigma,
            (TrainingSpec::Diffusion(_), Start::Sigma) if grid == Grid::Sigmas => first.sigma,
            (TrainingSpec::Edm(spec), _) if spec.prediction == Prediction::Consistency => first.sigma,
            _ => noised,
        };
        levels.push(Level::CLEAN);
        Self { levels, initial_scale }
    }

    fn of_own(training: &Training, mut levels: Vec<Level>, grid: Grid) -> Self {
        let first = levels[0];
        let initial_scale = match training.spec() {
            TrainingSpec::Flow(_) => first.sigma,
            TrainingSpec::Diffusion(_) | TrainingSpec::Edm(_) => first.alpha.hypot(first.sigma),
        };
        levels.push(if grid == Grid::Timesteps { training.last_level() } else { Level::CLEAN });
        Self { levels, initial_scale }
    }
}

/// Least sigma that can be asked for: weights of one over sigma have to fit into single precision with room to spare.
const LEAST_SIGMA: f64 = 1e-6;

/// Levels nearer than this, relative to their sigma, are one: what lies between them is mostly rounding.
const CLOSEST: f64 = 1e-9;

/// The whole timestep next to one that a diffusion is told.
fn whole(training: &Training, timestep: f64) -> f64 {
    match training.spec() {
        TrainingSpec::Diffusion(_) => timestep.round_ties_even(),
        TrainingSpec::Flow(_) | TrainingSpec::Edm(_) => timestep,
    }
}

fn check_given(what: &str, values: &[f64], least: f64, most: f64, longest: usize) -> Result<()> {
    if values.is_empty() || values.len() > longest {
        return Err(Error::usage(format!("{what}: {} values, expected 1 to {longest}", values.len())));
    }
    if let Some(value) = values.iter().find(|value| !(least..=most).contains(*value)) {
        return Err(Error::usage(format!("{what}: {value} is outside of this model's {least} to {most}")));
    }
    if let Some(pair) = values.windows(2).find(|pair| pair[0] <= pair[1]) {
        return Err(Error::usage(format!("{what}: {} follows {}; they must fall at every step", pair[1], pair[0])));
    }
    Ok(())
}

fn check_strength(strength: f64) -> Result<()> {
    match strength > 0.0 && strength <= 1.0 {
        true => Ok(()),
        false => Err(Error::usage(format!("strength is {strength}, expected more than 0 and at most 1"))),
    }
}

/// Refuses two steps at one level: solvers divide by the way between them.
pub(crate) fn check_falling(training: &Training, levels: &[Level], told: impl Fn() -> String) -> Result<()> {
    let sigmas: Vec<_> = levels.iter().map(|&level| training.own_sigma(level)).collect();
    let falls = |pair: &[f64]| pair[1] > 0.0 && pair[1] < pair[0] * (1.0 - CLOSEST);
    match sigmas.windows(2).position(|pair| !falls(pair)) {
        None => Ok(()),
        Some(step) => Err(Error::usage(format!(
            "{}: step {} begins at sigma {}, where step {} begins already; use fewer steps or other levels",
            told(),
            step + 2,
            sigmas[step + 1],
            step + 1
        ))),
    }
}

fn leading(training: &Training, steps: usize, grid: Grid) -> Result<Vec<f64>> {
    let (count, skipped) = match grid {
        Grid::Timesteps | Grid::TimestepsToClean | Grid::Sigmas => (steps, 0),
        Grid::LogSnr => (steps + 1, 1),
    };
    let stride = training.timesteps() / count;
    Ok((skipped..count).rev().map(|i| (i * stride + training.steps_offset()) as f64).collect())
}

fn linspace(training: &Training, steps: usize, grid: Grid) -> Result<Vec<f64>> {
    // One step of NumPy's linspace is its start, the clean end, which no sampler can begin at; the field's code
    // does start there and returns noise. One step here is the noisy end.
    let (first, last) = (training.first_index(), (training.timesteps() - 1) as f64);
    let gaps = match grid {
        Grid::Timesteps | Grid::TimestepsToClean | Grid::Sigmas => (steps - 1).max(1),
        Grid::LogSnr => steps,
    };
    Ok((0..steps).map(|i| last + (first - last) * i as f64 / gaps as f64).collect())
}

fn trailing(training: &Training, steps: usize, _: Grid) -> Result<Vec<f64>> {
    let total = training.timesteps() as f64;
    let stride = total / steps as f64;
    let at = |i: usize| total - i as f64 * stride;
    Ok((0..steps).map(|i| whole(training, at(i)) - 1.0).collect())
}

fn simple(training: &Training, steps: usize, _: Grid) -> Result<Vec<f64>> {
    let total = training.timesteps();
    Ok((0..steps).map(|i| (total - 1 - i * total / steps) as f64).collect())
}

fn sgm_uniform(training: &Training, steps: usize, _: &Options) -> Result<Vec<f64>> {
    let last = (training.timesteps() - 1) as f64;
    Ok((0..steps).map(|i| training.sigma_at(last * (1.0 - i as f64 / steps as f64))).collect())
}

fn lcm(training: &Training, steps: usize, share: f64) -> Result<Vec<f64>> {
    let grid = training.original_steps().min(training.timesteps());
    let stride = training.timesteps() / grid;
    let part = (grid as f64 * share) as usize;
    if steps > grid {
        return Err(Error::usage(format!(
            "{steps} steps, but schedule \"lcm\" has {grid} (original_steps of this model); use fewer steps or another \
             schedule"
        )));
    }
    if steps > part {
        return Err(Error::usage(format!(
            "{steps} steps, but strength {share} leaves {part} of the {grid} that schedule \"lcm\" has; use fewer steps, \
             or strength {:.3} or more",
            (1000.0 * steps as f64 / grid as f64).ceil() / 1000.0
        )));
    }
    Ok((0..steps).map(|i| ((part - i * part / steps) * stride - 1) as f64).collect())
}

/// Values of `at` for shares 0, …, 1 of the way from the noisy end to the clean one; one step is the noisy end.
fn spread(steps: usize, at: impl Fn(f64) -> f64) -> Result<Vec<f64>> {
    Ok((0..steps).map(|i| at(i as f64 / (steps - 1).max(1) as f64)).collect())
}

fn karras(training: &Training, steps: usize, options: &Options) -> Result<Vec<f64>> {
    spread(steps, |share| karras_sigma(training, share, options))
}

/// Karras et al. 2022, arXiv:2206.00364, eq. 5.
fn karras_sigma(training: &Training, share: f64, options: &Options) -> f64 {
    let (rho, (low, high)) = (options.get(Opt::Rho), training.sigma_range());
    let (low, high) = (low.powf(1.0 / rho), high.powf(1.0 / rho));
    // Both ends are weighted: small powers of rho make one vanish beside the other, and their difference lose it.
    (low * share + high * (1.0 - share)).powf(rho)
}

fn consistency(training: &Training, steps: usize, options: &Options) -> Result<Vec<f64>> {
    const GRID: usize = 40;
    if steps > GRID {
        return Err(Error::usage(format!(
            "{steps} steps, but schedule \"consistency\" has {GRID}; use fewer steps or another schedule"
        )));
    }
    let at = |i: usize| karras_sigma(training, (i * (GRID / steps)) as f64 / (GRID - 1) as f64, options);
    Ok((0..steps).map(at).collect())
}

fn exponential(training: &Training, steps: usize, _: &Options) -> Result<Vec<f64>> {
    spread(steps, |share| log_between(training, 1.0 - share))
}

/// `get_sigmas_polyexponential` of k-diffusion.
fn polyexponential(training: &Training, steps: usize, options: &Options) -> Result<Vec<f64>> {
    let rho = options.get(Opt::Rho);
    spread(steps, |share| log_between(training, (1.0 - share).powf(rho)))
}

/// The sigma at a share of the way, in ln sigma, from the least to the largest.
fn log_between(training: &Training, share: f64) -> f64 {
    let (low, high) = training.sigma_range();
    (low.ln() + share * (high.ln() - low.ln())).exp()
}

/// Lee et al. 2024, arXiv:2407.12173, on sigmas as diffusers has it.
fn beta(training: &Training, steps: usize, options: &Options) -> Result<Vec<f64>> {
    let (alpha, beta) = (options.get(Opt::Alpha), options.get(Opt::Beta));
    let (low, high) = training.sigma_range();
    spread(steps, |share| low + puruspe::invbetai(1.0 - share, alpha, beta) * (high - low))
}

/// Sabour et al. 2024, arXiv:2404.14507, eq. 13.
fn kl_optimal(training: &Training, steps: usize, _: &Options) -> Result<Vec<f64>> {
    let (low, high) = training.sigma_range();
    let (low, high) = (low.atan(), high.atan());
    spread(steps, |share| (share * low + (1.0 - share) * high).tan())
}

fn ays_sd1(training: &Training, steps: usize, _: &Options) -> Result<Vec<f64>> {
    const SIGMAS: [f64; 11] = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029];
    ays(training, steps, &SIGMAS)
}

fn ays_sdxl(training: &Training, steps: usize, _: &Options) -> Result<Vec<f64>> {
    const SIGMAS: [f64; 11] = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029];
    ays(training, steps, &SIGMAS)
}

/// A published table, log-linear between its entries for other numbers of steps.
fn ays(training: &Training, steps: usize, table: &[f64; 11]) -> Result<Vec<f64>> {
    if !matches!(training.spec(), TrainingSpec::Diffusion(_)) {
        return Err(Error::usage("the ays schedules are tables for diffusion models, which this one is not"));
    }
    let at = |i: usize| {
        let place = i as f64 * (table.len() - 1) as f64 / steps as f64;
        let below = (place.floor() as usize).min(table.len() - 2);
        let weight = place - below as f64;
        (table[below].ln() * (1.0 - weight) + table[below + 1].ln() * weight).exp()
    };
    Ok((0..steps).map(at).collect())
}
