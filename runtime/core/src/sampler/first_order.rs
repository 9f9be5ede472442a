//! One evaluation a step, nothing remembered: DDIM and Euler, plain and ancestral, and what distillation made of them.

use super::{Denoise, Latent, Run, alike, blend, churned, split};
use crate::options::Opt;
use crate::training::Level;
use crate::{Error, Result};

/// Euler's method for the probability-flow ODE (Karras et al. 2022, arXiv:2206.00364, algorithm 2 without the second
/// half), and with eta the generalised DDPM of Song et al. 2021 (DDIM, arXiv:2010.02502, eqs. 12 and 16).
///
/// Which of its names it goes by depends on the levels and on eta alone: ddpm walks whole timesteps, euler and
/// euler_ancestral sigmas. Where the denoiser has another estimate for the noise, that is the noise which is kept. What
/// limits cut off an estimate is noise, too, as in the posterior of Ho et al. 2020 (arXiv:2006.11239, eq. 7).
pub(super) fn ancestral(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    walk(denoiser, x, run, |denoiser| denoiser.noise_estimate())
}

/// The same on whole timesteps, where limits leave the noise as it was predicted (`DDIMScheduler` of diffusers, unless
/// told to `use_clipped_model_output`).
pub(super) fn ddim(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    walk(denoiser, x, run, |denoiser| denoiser.noise_estimate().or(denoiser.unlimited_estimate()))
}

/// The estimate that tells the noise, where that is another one than was written.
type NoiseEstimate = fn(&dyn Denoise) -> Option<&Latent>;

fn walk(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run, noisy: NoiseEstimate) -> Result<Latent> {
    let (mut denoised, mut fresh) = (alike(&x), alike(&x));
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        let from = churned(&mut x, &mut fresh, from, to, run)?;
        denoiser.denoise(&x, from, &mut denoised)?;
        let (kept, added) = split(from, to, run.at(Opt::Eta, step));
        let keep = kept.sigma / from.sigma;
        match noisy(denoiser) {
            None => blend(&mut x, keep, &[(to.alpha - keep * from.alpha, &denoised)]),
            Some(noisy) => blend(&mut x, keep, &[(to.alpha, &denoised), (-keep * from.alpha, noisy)]),
        }
        run.add_noise(&mut x, &mut fresh, added, (from, to))?;
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// DDIM without noise, backwards: from a clean latent to the noise that it comes from (Song et al.
/// 2021, section 4.3; `DDIMInverseScheduler` of diffusers). `run.levels` are those of a generation, noisiest first.
///
/// The noise that is found at a level is read off the estimate for the latent of the level before, which is what makes
/// the way back approximate: the error falls with the number of steps.
pub fn ddim_inverse(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    let mut denoised = alike(&x);
    for step in 0..run.steps() {
        let (to, from) = run.interval(run.steps() - 1 - step);
        // A clean latent says nothing about its noise: the first level of training does.
        let from = if from.sigma == 0.0 { run.training.at_own_index(0.0) } else { from };
        let asked = Level { timestep: to.timestep, ..from };
        denoiser.denoise(&x, asked, &mut denoised)?;
        let keep = to.sigma / from.sigma;
        blend(&mut x, keep, &[(to.alpha - keep * from.alpha, &denoised)]);
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// Multistep latent consistency sampling (Luo et al. 2023, arXiv:2310.04378, algorithm 2): each step jumps to the
/// consistency function `c_skip·x + c_out·x₀` and, but for the last, back to the next level with fresh noise.
pub(super) fn lcm(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    const SIGMA_DATA: f64 = 0.5;
    let mut denoised = alike(&x);
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        denoiser.denoise(&x, from, &mut denoised)?;
        let scaled = from.timestep * run.training.timestep_scaling();
        let c_skip = SIGMA_DATA.powi(2) / (scaled.powi(2) + SIGMA_DATA.powi(2));
        let c_out = scaled / scaled.hypot(SIGMA_DATA);
        blend(&mut denoised, c_out, &[(c_skip, &x)]);
        if step + 1 == run.steps() {
            x.assign(&denoised);
        } else {
            run.draw(&mut x, from, to)?;
            blend(&mut x, to.sigma, &[(to.alpha, &denoised)]);
        }
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// Trajectory consistency distillation (Zheng et al. 2024, arXiv:2402.19159, algorithm 4): each step goes on to
/// `(1 − gamma)` of the next timestep without noise, and back up to the next timestep with fresh noise.
pub(super) fn tcd(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    let gamma = run.options.get(Opt::Gamma);
    let (mut denoised, mut fresh) = (alike(&x), alike(&x));
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        denoiser.denoise(&x, from, &mut denoised)?;
        let last = step + 1 == run.steps();
        let below = if last { to } else { below(run, to, gamma) };
        let keep = below.sigma / from.sigma;
        // Up again to the next level: the clean part fades by this, and fresh noise takes its place.
        let fade = to.alpha / below.alpha;
        blend(&mut x, fade * keep, &[(fade * (below.alpha - keep * from.alpha), &denoised)]);
        let added = (to.sigma.powi(2) - (fade * below.sigma).powi(2)).max(0.0).sqrt();
        let added = if last || gamma == 0.0 { 0.0 } else { added };
        run.add_noise(&mut x, &mut fresh, added, (from, to))?;
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// The level at `(1 − gamma)` of the timestep of `to`, rounded towards the clean end.
fn below(run: &Run, to: Level, gamma: f64) -> Level {
    if gamma == 0.0 { to } else { run.training.at_own_timestep(((1.0 - gamma) * to.timestep).floor()) }
}

/// Multistep consistency sampling (Song et al. 2023, arXiv:2303.01469, algorithm 1): each step jumps to the estimate
/// and, but for the last, back to the next level with as much fresh noise as lifts it there from the least level.
pub(super) fn consistency(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    let (mut denoised, mut fresh) = (alike(&x), alike(&x));
    let least = run.training.at_index(0.0).ratio();
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        denoiser.denoise(&x, from, &mut denoised)?;
        x.assign(&denoised);
        if to.sigma > 0.0 {
            // Weights before the division by alpha, which may be 0 where a flow begins.
            let added = (to.sigma.powi(2) - (to.alpha * least).powi(2)).max(0.0).sqrt();
            x *= to.alpha as f32;
            run.add_noise(&mut x, &mut fresh, added, (from, to))?;
        }
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// The estimate itself, for models that were distilled to one step (SD-Turbo, SDXS and other GAN distillations).
pub(super) fn one_step(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    if run.steps() != 1 {
        return Err(Error::usage(format!("sampler one_step takes 1 step, you asked for {}", run.steps())));
    }
    let mut denoised = alike(&x);
    denoiser.denoise(&x, run.levels[0], &mut denoised)?;
    x.assign(&denoised);
    run.done(0, &mut x, &denoised)?;
    Ok(x)
}
