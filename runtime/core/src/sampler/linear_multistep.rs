//! One evaluation a step and a polynomial through the last ones: linear multistep methods.

use super::{Denoise, History, Latent, Run, alike, blend, into_noise, into_slope};
use crate::Result;
use crate::options::Opt;
use crate::training::Level;

/// Most slopes that are remembered.
const MOST: usize = 4;

/// Adams–Bashforth for a constant step, orders 1 to 4: weights of the newest slope first.
const ADAMS_BASHFORTH: [[f64; MOST]; MOST] = [
    [1.0, 0.0, 0.0, 0.0],
    [3.0 / 2.0, -1.0 / 2.0, 0.0, 0.0],
    [23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0, 0.0],
    [55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// Linear multistep in sigma with the weights of the steps as they are (Katherine Crowson's `sample_lms`).
pub(super) fn lms(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    adams(denoiser, x, run, |levels, to| {
        let mut weights = [0.0; MOST];
        for (j, weight) in weights.iter_mut().enumerate().take(levels.len()) {
            *weight = integral_of_lagrange(levels, j, to.sigma);
        }
        weights
    })
}

/// iPNDM (Zhang & Chen 2023, arXiv:2204.13902, appendix): the weights of a constant step, whatever the steps are; the
/// last step, to the clean latent, is a plain one.
pub(super) fn ipndm(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    adams(denoiser, x, run, |levels, to| {
        let span = to.sigma - levels[0].sigma;
        let order = if to.sigma == 0.0 { 1 } else { levels.len() };
        ADAMS_BASHFORTH[order - 1].map(|weight| weight * span)
    })
}

/// Steps by a weighted sum of the last slopes; `weights` is given their levels, newest first, and where to go.
fn adams(
    denoiser: &mut dyn Denoise,
    mut x: Latent,
    run: &mut Run,
    weights: fn(&[Level], Level) -> [f64; MOST],
) -> Result<Latent> {
    let order = run.options.whole(Opt::Order);
    let mut slopes = History::<MOST>::new(&x);
    let mut denoised = alike(&x);
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        let slope = slopes.next(from);
        denoiser.denoise(&x, from, slope)?;
        denoised.assign(slope);
        into_slope(slope, &x, from, (from, to));
        let count = slopes.len().min(order);
        let weights = weights(&slopes.levels()[..count], to);
        for (slope, weight) in slopes.entries().iter().zip(weights).take(count) {
            x.scaled_add(weight as f32, slope);
        }
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// The integral, from the newest level to `end`, of the Lagrange polynomial that is 1 at level `j`.
fn integral_of_lagrange(levels: &[Level], j: usize, end: f64) -> f64 {
    let start = levels[0].sigma;
    let polynomial = |sigma: f64| -> f64 {
        let others = levels.iter().enumerate().filter(|(k, _)| *k != j);
        others.map(|(_, other)| (sigma - other.sigma) / (levels[j].sigma - other.sigma)).product()
    };
    // Two points of Gauss and Legendre are exact for polynomials of the third degree, the most that there is.
    let (middle, half) = ((start + end) / 2.0, (end - start) / 2.0);
    let offset = half / 3f64.sqrt();
    half * (polynomial(middle - offset) + polynomial(middle + offset))
}

/// PLMS (Liu et al. 2022, arXiv:2202.09778, eq. 12): Adams–Bashforth of the noise, carried from level to level as DDIM
/// carries it; the first step is an improved Euler step (CompVis' `plms.py`).
pub(super) fn plms(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    pseudo_numerical(denoiser, x, run, 0)
}

/// PNDM (Liu et al. 2022, arXiv:2202.09778, algorithm 2): PLMS after three steps of a pseudo Runge–Kutta method.
pub(super) fn pndm(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    let warm_up = 3.min(run.steps().saturating_sub(1));
    pseudo_numerical(denoiser, x, run, warm_up)
}

fn pseudo_numerical(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run, warm_up: usize) -> Result<Latent> {
    let mut noises = History::<MOST>::new(&x);
    let (mut denoised, mut start, mut mean, mut inside) = (alike(&x), alike(&x), alike(&x), alike(&x));
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        denoiser.denoise(&x, from, &mut denoised)?;
        let noise = noises.next(from);
        noise.assign(&denoised);
        into_noise(noise, &x, from);
        let noise = &noises.entries()[0];
        start.assign(&x);
        let alone = noises.len() == 1 && step + 1 == run.steps();
        if alone || from.alpha == 0.0 {
            // Pure noise cannot be carried by its noise alone; a plain step leaves it.
            let keep = to.sigma / from.sigma;
            blend(&mut x, keep, &[(to.alpha - keep * from.alpha, &denoised)]);
        } else if step < warm_up {
            let middle = halfway(run, from, to);
            mean.assign(noise);
            mean /= 6.0;
            inside.assign(noise);
            for (at, weight) in [(middle, 1.0 / 3.0), (middle, 1.0 / 3.0), (to, 1.0 / 6.0)] {
                x.assign(&start);
                carry(&mut x, &inside, from, at);
                denoiser.denoise(&x, at, &mut inside)?;
                into_noise(&mut inside, &x, at);
                mean.scaled_add(weight as f32, &inside);
            }
            x.assign(&start);
            carry(&mut x, &mean, from, to);
        } else if noises.len() == 1 {
            carry(&mut x, noise, from, to);
            denoiser.denoise(&x, to, &mut inside)?;
            into_noise(&mut inside, &x, to);
            mean.assign(noise);
            blend(&mut mean, 0.5, &[(0.5, &inside)]);
            x.assign(&start);
            carry(&mut x, &mean, from, to);
        } else {
            mean.fill(0.0);
            let weights = ADAMS_BASHFORTH[noises.len() - 1];
            for (noise, weight) in noises.entries().iter().zip(weights).take(noises.len()) {
                mean.scaled_add(weight as f32, noise);
            }
            carry(&mut x, &mean, from, to);
        }
        if from.alpha == 0.0 {
            noises.forget();
        }
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// Half-way in timesteps, rounded towards the clean end where those are counted.
fn halfway(run: &Run, from: Level, to: Level) -> Level {
    let half = (from.timestep - to.timestep) / 2.0;
    run.training.at_own_timestep(to.timestep + if run.training.counts_timesteps() { half.floor() } else { half })
}

/// Takes a latent to another level, believing that `noise` is its noise.
fn carry(x: &mut Latent, noise: &Latent, from: Level, to: Level) {
    let keep = to.alpha / from.alpha;
    blend(x, keep, &[(to.sigma - keep * from.sigma, noise)]);
}
