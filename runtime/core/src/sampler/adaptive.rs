//! Steps as long as the error allows: embedded pairs of two orders and a controller between them.

use super::{Denoise, Latent, Run, alike, blend, into_noise, into_slope};
use crate::options::Opt;
use crate::training::{Level, Training};
use crate::{Error, Result};

/// A PID controller of the step (Söderlind 2003, "Digital filters in adaptive time-stepping"), with the smooth limiter
/// and the acceptance by factor of k-diffusion.
struct Controller {
    step: f64,
    /// Exponents of the inverse errors: this one, the last accepted and the one before it.
    exponents: [f64; 3],
    inverse_errors: [f64; 3],
    started: bool,
}

/// A step is taken if the next would be at least this much of it.
const ACCEPT_FROM: f64 = 0.81;

impl Controller {
    /// For a pair whose error falls with `order`; gains of the proportional, integral and differential part.
    fn new(step: f64, order: f64, (p, i, d): (f64, f64, f64)) -> Self {
        let exponents = [(p + i + d) / order, -(p + 2.0 * d) / order, d / order];
        Self { step, exponents, inverse_errors: [1.0; 3], started: false }
    }

    /// Whether a step with this error, in units of the tolerance, is good enough; proposes the next.
    fn accept(&mut self, error: f64) -> bool {
        let inverse = 1.0 / (error + 1e-8);
        if !self.started {
            self.inverse_errors = [inverse; 3];
            self.started = true;
        }
        self.inverse_errors[0] = inverse;
        let terms = self.inverse_errors.iter().zip(self.exponents);
        let factor: f64 = terms.map(|(inverse, exponent)| inverse.powf(exponent)).product();
        let factor = 1.0 + (factor - 1.0).atan();
        let accepted = factor >= ACCEPT_FROM;
        if accepted {
            self.inverse_errors[2] = self.inverse_errors[1];
            self.inverse_errors[1] = self.inverse_errors[0];
        }
        self.step *= factor;
        accepted
    }
}

/// Adaptive DPM-Solver-12 (order 2) and DPM-Solver-23 (order 3) (Lu et al. 2022, arXiv:2206.00927, appendix C;
/// k-diffusion's `sample_dpm_adaptive`), from the first level to the least of training and from there to the estimate.
pub(super) fn dpm_adaptive(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    let order = run.options.whole(Opt::Order).clamp(2, 3);
    let controller = Controller::new(0.05, order as f64, (0.0, 1.0, 0.0));
    adaptive(denoiser, x, run, controller, if order == 2 { dpm_12 } else { dpm_23 })
}

/// Bogacki & Shampine's embedded Runge–Kutta pair of orders 3 and 2 (1989, "A 3(2) pair of Runge–Kutta formulas"), in
/// sigma, with a PID controller of the step in log sigma; the last evaluation of a step is the first of the next.
pub(super) fn rk_adaptive(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    let controller = Controller::new(0.5, 3.0, (0.4, 0.3, 0.0));
    adaptive(denoiser, x, run, controller, bogacki_shampine)
}

/// One step of an embedded pair from `x` at a level to another: fills the better result and the other one.
type Pair = fn(&mut dyn Denoise, &Latent, (Level, Level), &Training, &mut Work) -> Result<usize>;

/// Everything that a step writes, allocated once.
struct Work {
    denoised: Latent,
    inside: Latent,
    slopes: [Latent; 4],
    better: Latent,
    other: Latent,
    /// What the last stage saw, for pairs whose last stage is the first of the next step.
    ahead: Latent,
    /// Whether the first slope and estimate of the next step are known already.
    known: bool,
}

fn adaptive(
    denoiser: &mut dyn Denoise,
    mut x: Latent,
    run: &mut Run,
    mut controller: Controller,
    pair: Pair,
) -> Result<Latent> {
    let most = run.options.whole(Opt::MaxEvaluations);
    let (rtol, atol) = (run.options.get(Opt::Rtol), run.options.get(Opt::Atol));
    let mut work = Work {
        denoised: alike(&x),
        inside: alike(&x),
        slopes: std::array::from_fn(|_| alike(&x)),
        better: alike(&x),
        other: alike(&x),
        ahead: alike(&x),
        known: false,
    };
    let mut before = x.clone();
    let mut from = run.levels[0];
    let (mut step, mut evaluations) = (0, 0);
    if from.alpha == 0.0 {
        // There is no log sigma to step in from pure noise: one short plain step leaves it.
        let to = run.training.at_sigma(0.99 * from.sigma);
        denoiser.denoise(&x, from, &mut work.denoised)?;
        blend(&mut x, to.sigma / from.sigma, &[(to.alpha, &work.denoised)]);
        evaluations += 1;
        run.done_between(step, (from, to), &mut x, &work.denoised)?;
        (from, step) = (to, step + 1);
    }
    let end = run.training.at_index(0.0);
    while from.ratio() > end.ratio() * (1.0 + 1e-5) {
        if evaluations >= most {
            return Err(Error::limit(format!(
                "the sampler has spent {evaluations} evaluations and is only at sigma {:.4}; allow more with option \
                 max_evaluations, or a larger error with rtol and atol",
                from.sigma
            )));
        }
        let to = run.training.at_ratio((from.ratio() * (-controller.step).exp()).max(end.ratio()));
        evaluations += pair(denoiser, &x, (from, to), run.training, &mut work)?;
        if controller.accept(scaled_error(&work, &before, rtol, atol)) {
            before.assign(&work.other);
            x.assign(&work.better);
            run.tally.accepted += 1;
            run.done_between(step, (from, to), &mut x, &work.denoised)?;
            (from, step) = (to, step + 1);
            if work.known {
                work.slopes.swap(0, 3);
                std::mem::swap(&mut work.denoised, &mut work.ahead);
            }
        } else {
            run.tally.rejected += 1;
        }
    }
    denoiser.denoise(&x, from, &mut work.denoised)?;
    x.assign(&work.denoised);
    run.done_between(step, (from, Level::CLEAN), &mut x, &work.denoised)?;
    Ok(x)
}

/// Root mean square of the difference of the pair, in units of the tolerance.
fn scaled_error(work: &Work, before: &Latent, rtol: f64, atol: f64) -> f64 {
    let numbers = work.better.iter().zip(&work.other).zip(before);
    let squares = numbers.map(|((better, other), before)| {
        let tolerance = atol.max(rtol * f64::from(other.abs().max(before.abs())));
        ((f64::from(*other) - f64::from(*better)) / tolerance).powi(2)
    });
    (squares.sum::<f64>() / work.better.len() as f64).sqrt()
}

fn dpm_12(
    denoiser: &mut dyn Denoise,
    x: &Latent,
    (from, to): (Level, Level),
    training: &Training,
    work: &mut Work,
) -> Result<usize> {
    let h = to.half_log_snr() - from.half_log_snr();
    let Work { denoised, inside, slopes: [noise, later, ..], better, other, .. } = work;
    first_noise(denoiser, x, from, denoised, noise)?;
    let half = training.at_ratio(from.ratio() * (-h / 2.0).exp());
    first_order(inside, x, noise, from, half);
    denoiser.denoise(inside, half, later)?;
    into_noise(later, inside, half);
    first_order(other, x, noise, from, to);
    better.assign(other);
    let weight = -to.sigma * h.exp_m1();
    blend(better, 1.0, &[(weight, later), (-weight, noise)]);
    Ok(2)
}

fn dpm_23(
    denoiser: &mut dyn Denoise,
    x: &Latent,
    (from, to): (Level, Level),
    training: &Training,
    work: &mut Work,
) -> Result<usize> {
    const R1: f64 = 1.0 / 3.0;
    const R2: f64 = 2.0 / 3.0;
    let h = to.half_log_snr() - from.half_log_snr();
    let Work { denoised, inside, slopes: [noise, later, last, _], better, other, .. } = work;
    first_noise(denoiser, x, from, denoised, noise)?;
    let third = training.at_ratio(from.ratio() * (-R1 * h).exp());
    first_order(inside, x, noise, from, third);
    denoiser.denoise(inside, third, later)?;
    into_noise(later, inside, third);
    // Order 2, from the first two.
    first_order(other, x, noise, from, to);
    better.assign(other);
    let weight = -to.sigma / (2.0 * R1) * h.exp_m1();
    blend(other, 1.0, &[(weight, later), (-weight, noise)]);
    // Order 3, with one more.
    let two_thirds = training.at_ratio(from.ratio() * (-R2 * h).exp());
    first_order(inside, x, noise, from, two_thirds);
    let weight = -two_thirds.sigma * (R2 / R1) * ((R2 * h).exp_m1() / (R2 * h) - 1.0);
    blend(inside, 1.0, &[(weight, later), (-weight, noise)]);
    denoiser.denoise(inside, two_thirds, last)?;
    into_noise(last, inside, two_thirds);
    let weight = -to.sigma / R2 * (h.exp_m1() / h - 1.0);
    blend(better, 1.0, &[(weight, last), (-weight, noise)]);
    Ok(3)
}

fn first_noise(
    denoiser: &mut dyn Denoise,
    x: &Latent,
    from: Level,
    denoised: &mut Latent,
    noise: &mut Latent,
) -> Result<()> {
    denoiser.denoise(x, from, denoised)?;
    noise.assign(denoised);
    into_noise(noise, x, from);
    Ok(())
}

/// Carries a latent to another level by its noise.
fn first_order(out: &mut Latent, x: &Latent, noise: &Latent, from: Level, to: Level) {
    let keep = to.alpha / from.alpha;
    out.assign(x);
    blend(out, keep, &[(to.sigma - keep * from.sigma, noise)]);
}

fn bogacki_shampine(
    denoiser: &mut dyn Denoise,
    x: &Latent,
    (from, to): (Level, Level),
    training: &Training,
    work: &mut Work,
) -> Result<usize> {
    const NODES: [f64; 4] = [0.0, 0.5, 0.75, 1.0];
    const INNER: [[f64; 3]; 3] = [[0.5, 0.0, 0.0], [0.0, 0.75, 0.0], [2.0 / 9.0, 1.0 / 3.0, 4.0 / 9.0]];
    const SECOND: [f64; 4] = [7.0 / 24.0, 0.25, 1.0 / 3.0, 0.125];
    let span = to.sigma - from.sigma;
    let Work { denoised, inside, slopes, better, other, ahead, known } = work;
    let first = usize::from(*known);
    for stage in first..4 {
        inside.assign(x);
        if stage > 0 {
            let terms = slopes.iter().zip(INNER[stage - 1]).take(stage);
            terms.for_each(|(slope, weight)| inside.scaled_add((span * weight) as f32, slope));
        }
        let at = match stage {
            0 => from,
            3 => to,
            _ => training.at_sigma(from.sigma + span * NODES[stage]),
        };
        if stage == 3 {
            better.assign(inside);
        }
        denoiser.denoise(inside, at, &mut slopes[stage])?;
        match stage {
            0 => denoised.assign(&slopes[0]),
            3 => ahead.assign(&slopes[3]),
            _ => (),
        }
        into_slope(&mut slopes[stage], inside, at, (from, to));
    }
    other.assign(x);
    slopes.iter().zip(SECOND).for_each(|(slope, weight)| other.scaled_add((span * weight) as f32, slope));
    *known = true;
    Ok(4 - first)
}
