//! Samplers: plain functions over a denoiser, and the one table of their names.
//!
//! An application brings one of its own as it brings a denoiser: as a function. What the built-in ones are made of is
//! here for it, too: [`Run`] with its levels, options and noise, [`alike`], [`blend`], [`split`], [`churned`] and
//! [`into_noise`].
//!
//! ```
//! use safelight::sampler::{Denoise, Latent, Method, Run, alike, blend};
//! use safelight::{Result, Sampling};
//!
//! /// Walks on straight lines from level to level: Euler's method.
//! fn straight(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
//!     let mut denoised = alike(&x);
//!     for step in 0..run.steps() {
//!         let (from, to) = run.interval(step);
//!         denoiser.denoise(&x, from, &mut denoised)?;
//!         let keep = to.sigma / from.sigma;
//!         blend(&mut x, keep, &[(to.alpha - keep * from.alpha, &denoised)]);
//!         run.done(step, &mut x, &denoised)?;
//!     }
//!     Ok(x)
//! }
//!
//! const STRAIGHT: Method = Method { name: "straight", sample: straight, ..Method::PLAIN };
//!
//! let sampling = Sampling {
//!     sampler: Some("straight until step 3, then dpmpp_2m".into()),
//!     own_samplers: vec![&STRAIGHT],
//!     ..Sampling::in_steps(8)
//! };
//! ```

use std::ops::RangeInclusive;

use ndarray::{Array4, Zip};

use crate::curve::Curve;
use crate::error::unknown;
use crate::options::{Opt, Options, check_option};
use crate::schedule::Grid;
use crate::training::{Level, Training};
use crate::{Error, Result};

mod adaptive;
mod exponential;
mod first_order;
mod linear_multistep;
mod predictor_corrector;
mod runge_kutta;
mod table;

use exponential::{Ending, Form, Multistep, Second, multistep, singlestep};
pub use first_order::ddim_inverse;
use predictor_corrector::{Bh, unipc};
use runge_kutta::into_slope;
pub use table::SAMPLERS;

/// Latents of a batch, `[batch, channels, height, width]`.
pub type Latent = Array4<f32>;

/// Estimates the clean latent that lies behind a noisy one.
///
/// A closure `|x, at, denoised| …` is a denoiser, so samplers are tested without a graph.
/// Applications implement it, too; methods that are added later have a default.
pub trait Denoise {
    /// Writes the estimate of `x₀` given `x = at.alpha·x₀ + at.sigma·noise` into `denoised`, of `x`'s shape.
    ///
    /// # Errors
    /// Whatever stops the denoiser: a failed run, non-finite numbers, cancellation.
    fn denoise(&mut self, x: &Latent, at: Level, denoised: &mut Latent) -> Result<()>;

    /// The estimate that tells how much of the last latent is noise, where that is another one than was written: the
    /// unguided one for CFG++.
    fn noise_estimate(&self) -> Option<&Latent> {
        None
    }

    /// The last estimate before limits, where those cut.
    fn unlimited_estimate(&self) -> Option<&Latent> {
        None
    }
}

impl<F: FnMut(&Latent, Level, &mut Latent) -> Result<()>> Denoise for F {
    fn denoise(&mut self, x: &Latent, at: Level, denoised: &mut Latent) -> Result<()> {
        self(x, at, denoised)
    }
}

/// What a sampler is given besides the denoiser and the initial latent.
pub struct Run<'a> {
    /// The `n + 1` levels to visit, noisiest first; `n` is at least 1.
    pub levels: &'a [Level],
    /// The process that they belong to, for methods that stop between two levels.
    pub training: &'a Training,
    /// The numbers that the method can be tuned with.
    pub options: &'a Options,
    /// Fills a latent with fresh unit Gaussian noise for the way between two levels.
    pub noise: &'a mut dyn FnMut(&mut Latent, Level, Level) -> Result<()>,
    /// Told after each step, whose latent it may change.
    pub on_step: &'a mut dyn FnMut(&mut Step) -> Result<()>,
    /// Which part of the whole trajectory this run is.
    pub part: Part,
    /// What an adaptive method has tried.
    pub tally: Tally,
}

/// Which part of a trajectory a run is: all of it, unless samplers are switched or intervals repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Steps of the trajectory before this run.
    pub before: usize,
    /// Steps of the whole trajectory.
    pub of: usize,
}

/// Steps that an adaptive method has taken and has thrown away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Tally {
    /// Good enough.
    pub accepted: usize,
    /// Done again, shorter.
    pub rejected: usize,
}

/// A step that is done.
#[derive(Debug)]
pub struct Step<'a> {
    /// From 0, over the whole trajectory.
    pub index: usize,
    /// Where it began.
    pub from: Level,
    /// Where it ended.
    pub to: Level,
    /// The latent there, from which the next step begins.
    pub latent: &'a mut Latent,
    /// The estimate of the clean latent that it came from.
    pub denoised: &'a Latent,
}

impl Run<'_> {
    /// How many steps this run has, at least 1.
    pub fn steps(&self) -> usize {
        self.levels.len().saturating_sub(1)
    }

    /// Where a step begins and where it ends, for `step` from 0 to [`steps`](Self::steps) − 1; beyond them, it panics.
    pub fn interval(&self, step: usize) -> (Level, Level) {
        (self.levels[step], self.levels[step + 1])
    }

    /// The value of an option at a step of this run: what the request says, the method's default, or what changes
    /// nothing where the method does not take the option.
    pub fn at(&self, opt: Opt, step: usize) -> f64 {
        self.options.at(opt, (self.part.before + step) as f64 / self.part.of.saturating_sub(1).max(1) as f64)
    }

    /// Overwrites `fresh` with unit Gaussian noise for the way between two levels. All noise of a sampler is to come
    /// from here: so a seed gives the same picture on every machine.
    ///
    /// # Errors
    /// Whatever the source of the noise returns.
    pub fn draw(&mut self, fresh: &mut Latent, from: Level, to: Level) -> Result<()> {
        (self.noise)(fresh, from, to)
    }

    /// Adds fresh noise of standard deviation `sigma` times the option `noise_scale`, if any, for the way between two
    /// levels. `fresh` is room for it, of the shape of `x`.
    ///
    /// # Errors
    /// As [`Run::draw`].
    pub fn add_noise(&mut self, x: &mut Latent, fresh: &mut Latent, sigma: f64, way: (Level, Level)) -> Result<()> {
        if sigma > 0.0 {
            self.draw(fresh, way.0, way.1)?;
            x.scaled_add((sigma * self.options.get(Opt::NoiseScale)) as f32, fresh);
        }
        Ok(())
    }

    /// Tells that a step is done, once for each of them and in their order; `x` is the latent from which the next one
    /// begins, which whoever is told may change, `denoised` the estimate that it came from.
    ///
    /// # Errors
    /// Whatever the observer returns; the sampler is to end with it.
    pub fn done(&mut self, step: usize, x: &mut Latent, denoised: &Latent) -> Result<()> {
        self.done_between(step, self.interval(step), x, denoised)
    }

    /// The same between two levels of the sampler's own choice, for methods whose steps a tolerance decides.
    ///
    /// # Errors
    /// As [`Run::done`].
    pub fn done_between(
        &mut self,
        step: usize,
        (from, to): (Level, Level),
        x: &mut Latent,
        denoised: &Latent,
    ) -> Result<()> {
        (self.on_step)(&mut Step { index: self.part.before + step, from, to, latent: x, denoised })
    }
}

/// A sampler takes a latent from `levels[0]` to the last level, and tells after each step that it is
/// [`done`](Run::done).
pub type Sampler = fn(&mut dyn Denoise, Latent, &mut Run) -> Result<Latent>;

/// A sampler with the name that users type, and what they should know of it.
///
/// One of your own says where it differs from [`Method::PLAIN`]; fields may be added in any release. It is a constant, and
/// its function captures nothing: what a request tunes are [options](crate::options::OPTIONS), of which it names those that
/// it takes.
pub struct Method {
    /// The name in requests, manifests and reports.
    pub name: &'static str,
    /// One line for help texts.
    pub about: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// Which models it suits.
    pub suits: &'static str,
    /// The function.
    pub sample: Sampler,
    /// Which kind of levels it is defined on.
    pub grid: Grid,
    /// Its own timetable, where the model's default would be wrong for it.
    pub schedule: Option<&'static str>,
    /// How many steps it takes.
    pub steps: Steps,
    /// Options that it takes, with its own defaults.
    pub options: &'static [(Opt, f64)],
    /// Orders that it has, where it takes the option.
    pub orders: RangeInclusive<usize>,
    /// Order of convergence without noise; none for methods that jump to the estimate.
    pub order: Option<usize>,
    /// Evaluations a step: of `n` steps altogether.
    pub evaluations: fn(usize) -> usize,
    /// Whether CFG++ works with it.
    pub cfg_pp: bool,
    /// Whether it draws noise with its default options.
    pub stochastic: bool,
    /// Whether few steps are enough to leave the pure noise where zero-terminal-SNR models begin.
    pub from_pure_noise: bool,
}

/// How many steps a method takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steps {
    /// As many as are asked for.
    Any,
    /// One.
    One,
    /// As many as its tolerance needs.
    Adaptive,
}

impl Method {
    /// What most methods have, and a start for one of your own. Only `name` and `sample` must be said.
    pub const PLAIN: Self = Self {
        name: "",
        about: "",
        source: "",
        suits: "undistilled models",
        sample: first_order::ancestral,
        grid: Grid::Sigmas,
        schedule: None,
        steps: Steps::Any,
        options: &[],
        orders: 1..=4,
        order: Some(1),
        evaluations: |n| n,
        cfg_pp: false,
        stochastic: false,
        from_pure_noise: true,
    };

    /// Whether it is a row of the table.
    pub(crate) fn is_built_in(&self) -> bool {
        SAMPLERS.iter().any(|method| method.name == self.name)
    }
}

impl std::fmt::Debug for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Method({})", self.name)
    }
}

/// Looks a sampler up by name.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage), listing the known names.
pub fn find_sampler(name: &str) -> Result<&'static Method> {
    find_among(&[], name)
}

/// The same, among the application's own, too.
pub(crate) fn find_among(own: &[&'static Method], name: &str) -> Result<&'static Method> {
    let mut known = own.iter().copied().chain(SAMPLERS);
    let found = known.clone().find(|method| method.name == name);
    found.ok_or_else(|| Error::usage(unknown("sampler", name, known.by_ref().map(|method| method.name))))
}

/// Refuses samplers of an application that could not be told from others, or whose defaults could not be asked for.
pub(crate) fn check_own(own: &[&'static Method]) -> Result<()> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    for (index, method) in own.iter().enumerate() {
        let name = method.name;
        let fault = |what: &str| Err(Error::usage(format!("the application's sampler \"{name}\" {what}")));
        if name.is_empty() || !name.chars().all(is_word) {
            return fault("has other characters in its name than letters, digits, _ and -, or none");
        }
        if method.is_built_in() {
            return fault("would hide the built-in one; give it another name");
        }
        if own[..index].iter().any(|other| other.name == name) {
            return fault("is given twice");
        }
        for &(opt, default) in method.options {
            check_option(opt.row(), &Curve::constant(default))
                .map_err(|e| e.context(format_args!("sampler {name}")))?;
        }
    }
    Ok(())
}

/// The last outputs of a denoiser and the levels that they are of, newest first; allocated once.
struct History<const N: usize> {
    entries: [Latent; N],
    levels: [Level; N],
    len: usize,
}

impl<const N: usize> History<N> {
    fn new(x: &Latent) -> Self {
        Self { entries: std::array::from_fn(|_| alike(x)), levels: [Level::CLEAN; N], len: 0 }
    }

    /// Makes room for the output at a level, in place of the oldest, and returns it to be written.
    fn next(&mut self, at: Level) -> &mut Latent {
        self.entries.rotate_right(1);
        self.levels.rotate_right(1);
        self.levels[0] = at;
        self.len = (self.len + 1).min(N);
        &mut self.entries[0]
    }

    fn entries(&self) -> &[Latent; N] {
        &self.entries
    }

    fn levels(&self) -> &[Level; N] {
        &self.levels
    }

    fn len(&self) -> usize {
        self.len
    }

    fn forget(&mut self) {
        self.len = 0;
    }
}

/// A latent of the shape of `x`, all zeros.
pub fn alike(x: &Latent) -> Latent {
    Latent::zeros(x.raw_dim())
}

/// `x = x·keep + Σ weight·latent`, over latents of one shape; in single precision.
pub fn blend(x: &mut Latent, keep: f64, terms: &[(f64, &Latent)]) {
    let Some(((weight, first), more)) = terms.split_first() else { return };
    let (keep, weight) = (keep as f32, *weight as f32);
    Zip::from(&mut *x).and(*first).for_each(|x, &other| *x = *x * keep + other * weight);
    for (weight, other) in more {
        x.scaled_add(*weight as f32, other);
    }
}

/// Turns an estimate of the clean latent at a level into one of the noise, `(x − alpha·denoised)/sigma`.
pub fn into_noise(denoised: &mut Latent, x: &Latent, at: Level) {
    blend(denoised, -at.alpha / at.sigma, &[(1.0 / at.sigma, x)]);
}

/// A step to `to` with fresh noise: the level to walk to without, and the deviation of what is then added. With eta 1
/// that is what DDPM adds (Song et al. 2021, eq. 16), the same in every scaling of the latent.
pub fn split(from: Level, to: Level, eta: f64) -> (Level, f64) {
    if eta == 0.0 {
        return (to, 0.0);
    }
    let added = eta * to.sigma * (1.0 - (to.ratio() / from.ratio()).powi(2)).max(0.0).sqrt();
    (Level { sigma: (to.sigma.powi(2) - added.powi(2)).max(0.0).sqrt(), ..to }, added)
}

/// Raises the noise before a step as the option `churn` says (Karras et al. 2022, algorithm 2), and returns the level
/// that this leads to. As in k-diffusion, noise is drawn for every step, used or not. `fresh` is room for it.
///
/// # Errors
/// As [`Run::draw`].
pub fn churned(x: &mut Latent, fresh: &mut Latent, from: Level, to: Level, run: &mut Run) -> Result<Level> {
    let churn = run.options.get(Opt::Churn) / run.part.of as f64;
    if churn == 0.0 {
        return Ok(from);
    }
    run.draw(fresh, from, to)?;
    let within = run.options.get(Opt::ChurnMin)..=run.options.get(Opt::ChurnMax);
    if from.alpha == 0.0 || !within.contains(&from.ratio()) {
        return Ok(from);
    }
    let ratio = from.ratio() * (1.0 + churn.min(std::f64::consts::SQRT_2 - 1.0));
    let raised =
        Level { timestep: run.training.at_ratio(ratio).timestep, alpha: from.alpha, sigma: ratio * from.alpha };
    let added = (raised.sigma.powi(2) - from.sigma.powi(2)).max(0.0).sqrt();
    x.scaled_add((added * run.options.get(Opt::NoiseScale)) as f32, fresh);
    Ok(raised)
}
