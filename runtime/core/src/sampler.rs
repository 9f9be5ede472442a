//! Samplers: plain functions over a denoiser, and the one table of their names.

use ndarray::{Array4, Zip};

use crate::error::unknown;
use crate::schedule::{Grid, Level};
use crate::{Error, Result};

/// Latents of a batch, `[batch, channels, height, width]`.
pub type Latent = Array4<f32>;

/// Estimates the clean latent that lies behind a noisy one.
///
/// A closure `|x, at, denoised| …` is a denoiser, so samplers are tested without a graph.
pub trait Denoise {
    /// Writes the estimate of `x₀` given `x = at.alpha·x₀ + at.sigma·noise` into `denoised`, of `x`'s shape.
    ///
    /// # Errors
    /// Whatever stops the denoiser: a failed run, non-finite numbers, cancellation.
    fn denoise(&mut self, x: &Latent, at: Level, denoised: &mut Latent) -> Result<()>;
}

impl<F: FnMut(&Latent, Level, &mut Latent) -> Result<()>> Denoise for F {
    fn denoise(&mut self, x: &Latent, at: Level, denoised: &mut Latent) -> Result<()> {
        self(x, at, denoised)
    }
}

/// What a sampler is given besides the denoiser and the initial latent.
pub struct Run<'a> {
    /// The `n + 1` levels to visit, noisiest first.
    pub levels: &'a [Level],
    /// Fills a latent with fresh unit Gaussian noise.
    pub noise: &'a mut dyn FnMut(&mut Latent) -> Result<()>,
    /// Told after each step: its index from 0, the latent and the denoised estimate it came from.
    pub on_step: &'a mut dyn FnMut(usize, &Latent, &Latent) -> Result<()>,
    /// Share of fresh noise in DDIM: 0 deterministic, 1 as DDPM.
    pub eta: f64,
    /// Sharpness of a consistency model's boundary condition; see [`lcm`].
    pub timestep_scaling: f64,
}

/// A sampler takes a latent from `levels[0]` to the last level.
pub type Sampler = fn(&mut dyn Denoise, Latent, &mut Run) -> Result<Latent>;

/// A sampler with the name that users type.
pub struct Method {
    /// The name in requests, manifests and reports.
    pub name: &'static str,
    /// One line for help texts.
    pub about: &'static str,
    /// The function.
    pub sample: Sampler,
    /// Which kind of levels it is defined on.
    pub grid: Grid,
    /// Whether [`Run::eta`] changes anything.
    pub takes_eta: bool,
    /// Its own timetable, where the model's default would be wrong for it.
    pub schedule: Option<&'static str>,
}

/// Every sampler that a request or a manifest can name.
pub const SAMPLERS: &[Method] = &[
    Method {
        name: "ddim",
        about: "Song et al. 2021; eta adds noise",
        sample: ddim,
        takes_eta: true,
        grid: Grid::Timesteps,
        schedule: None,
    },
    Method {
        name: "euler",
        about: "first-order ODE solver",
        sample: euler,
        takes_eta: false,
        grid: Grid::Sigmas,
        schedule: None,
    },
    Method {
        name: "lcm",
        about: "latent consistency, 1 to 8 steps, distilled models",
        sample: lcm,
        takes_eta: false,
        grid: Grid::Timesteps,
        schedule: Some("lcm"),
    },
];

/// Looks a sampler up by name.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage), listing the known names.
pub fn find_sampler(name: &str) -> Result<&'static Method> {
    let found = SAMPLERS.iter().find(|method| method.name == name);
    found.ok_or_else(|| Error::usage(unknown("sampler", name, SAMPLERS.iter().map(|method| method.name))))
}

/// Euler's method for the probability-flow ODE in `x/alpha` over `sigma/alpha` (Karras et al. 2022,
/// arXiv:2206.00364, algorithm 1 without churn), written so that `alpha = 0` needs no division.
pub fn euler(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    let mut denoised = Latent::zeros(x.dim());
    for step in 0..run.levels.len() - 1 {
        let (from, to) = (run.levels[step], run.levels[step + 1]);
        denoiser.denoise(&x, from, &mut denoised)?;
        move_along_noise(&mut x, &denoised, from, to.alpha, to.sigma);
        (run.on_step)(step, &x, &denoised)?;
    }
    Ok(x)
}

/// DDIM (Song et al. 2021, arXiv:2010.02502, eqs. 12 and 16).
pub fn ddim(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    let mut denoised = Latent::zeros(x.dim());
    let mut fresh = Latent::zeros(x.dim());
    for step in 0..run.levels.len() - 1 {
        let (from, to) = (run.levels[step], run.levels[step + 1]);
        denoiser.denoise(&x, from, &mut denoised)?;
        let fresh_sigma = run.eta * ancestral_sigma(from, to);
        move_along_noise(&mut x, &denoised, from, to.alpha, (to.sigma.powi(2) - fresh_sigma.powi(2)).max(0.0).sqrt());
        if fresh_sigma > 0.0 {
            (run.noise)(&mut fresh)?;
            x.scaled_add(fresh_sigma as f32, &fresh);
        }
        (run.on_step)(step, &x, &denoised)?;
    }
    Ok(x)
}

/// Multistep latent consistency sampling (Luo et al. 2023, arXiv:2310.04378, algorithm 2): each step jumps to the
/// consistency function `c_skip·x + c_out·x₀` and, but for the last, back to the next level with fresh noise.
pub fn lcm(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    const SIGMA_DATA: f64 = 0.5;
    let mut denoised = Latent::zeros(x.dim());
    let last = run.levels.len() - 2;
    for step in 0..=last {
        let (from, to) = (run.levels[step], run.levels[step + 1]);
        denoiser.denoise(&x, from, &mut denoised)?;
        let scaled = from.timestep * run.timestep_scaling;
        let c_skip = SIGMA_DATA.powi(2) / (scaled.powi(2) + SIGMA_DATA.powi(2));
        let c_out = scaled / scaled.hypot(SIGMA_DATA);
        combine(&mut denoised, c_out, &x, c_skip);
        if step == last {
            x.assign(&denoised);
        } else {
            (run.noise)(&mut x)?;
            combine(&mut x, to.sigma, &denoised, to.alpha);
        }
        (run.on_step)(step, &x, &denoised)?;
    }
    Ok(x)
}

/// Keeps the noise that lies between `x` and `denoised`, and gives both their weights of another level.
fn move_along_noise(x: &mut Latent, denoised: &Latent, from: Level, alpha: f64, sigma: f64) {
    let keep = sigma / from.sigma;
    combine(x, keep, denoised, alpha - keep * from.alpha);
}

/// `x = x·weight + other·other_weight`.
fn combine(x: &mut Latent, weight: f64, other: &Latent, other_weight: f64) {
    let (weight, other_weight) = (weight as f32, other_weight as f32);
    Zip::from(x).and(other).for_each(|x, &other| *x = *x * weight + other * other_weight);
}

/// Standard deviation of the noise that DDPM would add between two levels (DDIM, eq. 16 with eta 1).
fn ancestral_sigma(from: Level, to: Level) -> f64 {
    let shrink = from.alpha / to.alpha;
    to.sigma / from.sigma * (1.0 - shrink.powi(2)).max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Level;

    const SHAPE: (usize, usize, usize, usize) = (1, 1, 2, 2);
    const MEAN: f64 = 0.7;
    const DEVIATION: f64 = 0.4;

    /// The exact denoiser of data that is Gaussian, for which the ODE has a closed solution.
    fn gaussian(x: &Latent, at: Level, denoised: &mut Latent) -> Result<()> {
        let variance = DEVIATION.powi(2);
        let gain = at.alpha * variance / (at.alpha.powi(2) * variance + at.sigma.powi(2));
        Zip::from(denoised).and(x).for_each(|d, &x| {
            *d = (MEAN + gain * (f64::from(x) - at.alpha * MEAN)) as f32;
        });
        Ok(())
    }

    fn levels(steps: usize) -> Vec<Level> {
        let ratio = |i: usize| 10.0 * (1.0 - i as f64 / steps as f64);
        (0..=steps).map(|i| Level::from_ratio(i as f64, ratio(i))).collect()
    }

    /// Samples with torch's noise of a seed.
    fn sample(sampler: Sampler, levels: &[Level], x: Latent, eta: f64, seed: u64) -> Latent {
        let mut source = crate::noise::TorchCpu::new(seed);
        let mut run = Run {
            levels,
            noise: &mut |latent| {
                source.fill(latent.as_slice_mut().unwrap());
                Ok(())
            },
            on_step: &mut |_, _, _| Ok(()),
            eta,
            timestep_scaling: 10.0,
        };
        sampler(&mut gaussian, x, &mut run).unwrap()
    }

    fn exact() -> f64 {
        let start = levels(1)[0];
        let spread = (start.alpha.powi(2) * DEVIATION.powi(2) + start.sigma.powi(2)).sqrt();
        MEAN + DEVIATION * (1.3 - start.alpha * MEAN) / spread
    }

    #[test]
    fn deterministic_samplers_converge_with_order_one() {
        for (name, sampler) in [("euler", euler as Sampler), ("ddim", ddim)] {
            let end = |steps| sample(sampler, &levels(steps), Latent::from_elem(SHAPE, 1.3), 0.0, 7);
            let error = |steps| (f64::from(end(steps)[[0, 0, 0, 0]]) - exact()).abs();
            let order = (error(200) / error(400)).log2();
            assert!((order - 1.0).abs() < 0.1, "{name}: order {order}, errors {} {}", error(200), error(400));
        }
    }

    #[test]
    fn one_step_returns_the_denoised_latent() {
        for method in SAMPLERS {
            let x = Latent::from_elem(SHAPE, 1.3);
            let mut expected = Latent::zeros(SHAPE);
            let start = Level { timestep: 999.0, ..levels(1)[0] };
            gaussian(&x, start, &mut expected).unwrap();
            let mut run = Run {
                levels: &[start, Level::CLEAN],
                noise: &mut |_| panic!("the last step draws no noise"),
                on_step: &mut |_, _, _| Ok(()),
                eta: 1.0,
                timestep_scaling: 10.0,
            };
            let got = (method.sample)(&mut gaussian, x, &mut run).unwrap();
            let worst = (&got - &expected).iter().fold(0f32, |worst, d| worst.max(d.abs()));
            assert!(worst < 1e-6, "{}: {worst}", method.name);
        }
    }

    #[test]
    fn pure_noise_without_any_signal_is_a_valid_start() {
        let start = Level { timestep: 999.0, alpha: 0.0, sigma: 1.0 };
        let levels = [start, Level::from_ratio(499.0, 1.0), Level::CLEAN];
        for method in SAMPLERS {
            let mut run = Run {
                levels: &levels,
                noise: &mut |latent| {
                    latent.fill(0.5);
                    Ok(())
                },
                on_step: &mut |_, _, _| Ok(()),
                eta: 0.0,
                timestep_scaling: 10.0,
            };
            let got = (method.sample)(&mut gaussian, Latent::from_elem(SHAPE, 1.3), &mut run).unwrap();
            assert!(got.iter().all(|x| x.is_finite()), "{}: {got}", method.name);
        }
    }

    #[test]
    fn ddim_with_eta_one_draws_the_variance_of_the_data() {
        // Many independent pixels: their spread must be the data's, as every exact sampler's is in the limit.
        let levels = levels(1500);
        let start = levels[0];
        let spread = (start.alpha * DEVIATION).hypot(start.sigma) as f32;
        let mut x = Latent::zeros((1, 1, 64, 64));
        crate::noise::TorchCpu::new(3).fill(x.as_slice_mut().unwrap());
        x.mapv_inplace(|noise| (start.alpha * MEAN) as f32 + spread * noise);
        let got = sample(ddim, &levels, x, 1.0, 4);
        let mean = got.mean().unwrap();
        let deviation = got.std(0.0);
        assert!((f64::from(mean) - MEAN).abs() < 0.02, "mean {mean}");
        assert!((f64::from(deviation) - DEVIATION).abs() < 0.02, "deviation {deviation}");
    }

    #[test]
    fn an_error_of_the_observer_stops_the_run() {
        let levels = levels(8);
        let mut steps_seen = 0;
        let mut run = Run {
            levels: &levels,
            noise: &mut |_| Ok(()),
            on_step: &mut |step, _, _| {
                steps_seen = step + 1;
                if step == 2 { Err(Error::numeric("stop")) } else { Ok(()) }
            },
            eta: 0.0,
            timestep_scaling: 10.0,
        };
        assert!(euler(&mut gaussian, Latent::zeros(SHAPE), &mut run).is_err());
        assert_eq!(steps_seen, 3);
    }
}
