//! Exponential integrators in half log-SNR: the DPM-Solver family, its stochastic forms, and DEIS.

use super::{Denoise, History, Latent, Run, alike, blend, into_noise, split};
use crate::Result;
use crate::options::Opt;
use crate::training::Level;

/// What a method integrates, and how far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Multistep {
    pub(super) order: usize,
    pub(super) form: Form,
    pub(super) second: Second,
    pub(super) ending: Ending,
}

/// What is taken to be smooth along the trajectory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The clean latent (DPM-Solver++), with as much fresh noise as eta says.
    Data,
    /// The noise (DPM-Solver).
    Noise,
    /// The noise, in the reverse SDE.
    NoiseSde,
}

/// The two second-order corrections of the papers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Second {
    Midpoint,
    Heun,
}

/// What becomes of the order as the end comes near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It falls to 1 over the last steps of a short trajectory.
    Lowered,
    /// It stays, but for the step to the clean latent.
    Kept,
}

/// Trajectories shorter than this end in lower orders (Lu et al. 2022, arXiv:2211.01095, section 5).
const SHORT: usize = 15;

/// Multistep DPM-Solver (Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095, algorithm 2 and appendix D), orders 1
/// to 3, its SDE forms (arXiv:2211.01095, appendix D.3), and between them whatever eta says.
pub(super) fn multistep(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run, method: Multistep) -> Result<Latent> {
    let mut outputs = History::<3>::new(&x);
    let (mut denoised, mut fresh) = (alike(&x), alike(&x));
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        denoiser.denoise(&x, from, &mut denoised)?;
        let output = outputs.next(from);
        output.assign(&denoised);
        let ends = to.sigma == 0.0 || from.alpha == 0.0;
        let form = if ends { Form::Data } else { method.form };
        if form != Form::Data {
            into_noise(output, &x, from);
        }
        let left = run.steps() - step;
        let most = if method.ending == Ending::Lowered && run.steps() < SHORT { left } else { usize::MAX };
        let order = if ends { 1 } else { method.order.min(most).min(outputs.len()) };
        let eta = if method.form == Form::NoiseSde { 1.0 } else { run.at(Opt::Eta, step) };
        let coefficients = Coefficients::new(form, from, to, eta);
        let levels = outputs.levels();
        let weights = match order {
            1 => [coefficients.gain, 0.0, 0.0],
            2 => {
                let slope = coefficients.second(method.second) / relative(levels, to, 0);
                [coefficients.gain + slope, -slope, 0.0]
            }
            _ => third_order(&coefficients, relative(levels, to, 0), relative(levels, to, 1)),
        };
        let terms: [_; 3] = std::array::from_fn(|i| (weights[i], &outputs.entries()[i]));
        blend(&mut x, coefficients.keep, &terms[..order]);
        run.add_noise(&mut x, &mut fresh, coefficients.noise, (from, to))?;
        if from.alpha == 0.0 {
            outputs.forget();
        }
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// The step from the `i`-th newest level but one to the `i`-th, in units of the step to `to`.
fn relative(levels: &[Level], to: Level, i: usize) -> f64 {
    let span = to.half_log_snr() - levels[0].half_log_snr();
    (levels[i].half_log_snr() - levels[i + 1].half_log_snr()) / span
}

/// Weights of the last three outputs, newest first, from divided differences over relative steps `r0` and `r1`.
fn third_order(coefficients: &Coefficients, r0: f64, r1: f64) -> [f64; 3] {
    let (first, second) = (coefficients.heun, coefficients.third);
    let bend = second / (r0 + r1);
    let newer = first * (1.0 + r0 / (r0 + r1)) + bend;
    let older = -first * r0 / (r0 + r1) - bend;
    [coefficients.gain + newer / r0, older / r1 - newer / r0, -older / r1]
}

/// Weights of one step in half log-SNR, `h` wide.
#[derive(Debug, Clone, Copy)]
struct Coefficients {
    /// Of the latent.
    keep: f64,
    /// Of the newest output.
    gain: f64,
    /// Of the first derivative over the step, in its two second-order forms.
    midpoint: f64,
    heun: f64,
    /// Of the second derivative.
    third: f64,
    /// Of fresh noise.
    noise: f64,
}

impl Coefficients {
    fn new(form: Form, from: Level, to: Level, eta: f64) -> Self {
        let h = to.half_log_snr() - from.half_log_snr();
        match form {
            Form::Data => {
                // Pure noise and a clean latent are infinitely far, and 0·∞ is not 0.
                let fresh = if eta == 0.0 { 0.0 } else { eta * h };
                let whole = h + fresh;
                let gain = -(-whole).exp_m1();
                let heun = 1.0 - gain / whole;
                Self {
                    keep: to.sigma / from.sigma * (-fresh).exp(),
                    gain: to.alpha * gain,
                    midpoint: to.alpha * gain / 2.0,
                    heun: to.alpha * heun,
                    third: -to.alpha * (heun / whole - 0.5),
                    noise: to.sigma * (-(-2.0 * fresh).exp_m1()).sqrt(),
                }
            }
            Form::Noise | Form::NoiseSde => {
                let (times, noise) = match form {
                    Form::NoiseSde => (2.0, to.sigma * (2.0 * h).exp_m1().sqrt()),
                    Form::Data | Form::Noise => (1.0, 0.0),
                };
                let gain = h.exp_m1();
                let heun = gain / h - 1.0;
                Self {
                    keep: to.alpha / from.alpha,
                    gain: -times * to.sigma * gain,
                    midpoint: -times * to.sigma * gain / 2.0,
                    heun: -times * to.sigma * heun,
                    third: -times * to.sigma * (heun / h - 0.5),
                    noise,
                }
            }
        }
    }

    fn second(&self, second: Second) -> f64 {
        match second {
            Second::Midpoint => self.midpoint,
            Second::Heun => self.heun,
        }
    }
}

/// Singlestep DPM-Solver (Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2; arXiv:2211.01095, algorithm 1): groups
/// of up to `order` steps, each taken anew from the group's start with all that has been seen since, and with as much
/// fresh noise as eta says.
pub(super) fn singlestep(
    denoiser: &mut dyn Denoise,
    mut x: Latent,
    run: &mut Run,
    (order, form): (usize, Form),
) -> Result<Latent> {
    let mut outputs = History::<3>::new(&x);
    let (mut denoised, mut start, mut fresh) = (alike(&x), alike(&x), alike(&x));
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        denoiser.denoise(&x, from, &mut denoised)?;
        let place = place_in_group(step, run, order);
        if place == 1 {
            outputs.forget();
            start.assign(&x);
        }
        let output = outputs.next(from);
        output.assign(&denoised);
        let form = if to.sigma == 0.0 || from.alpha == 0.0 { Form::Data } else { form };
        if form == Form::Noise {
            into_noise(output, &x, from);
        }
        let base = outputs.levels()[place - 1];
        let coefficients = Coefficients::new(form, base, to, run.at(Opt::Eta, step));
        let span = to.half_log_snr() - base.half_log_snr();
        let slope = match place {
            1 => 0.0,
            2 => coefficients.midpoint,
            _ => coefficients.heun,
        };
        let slope = slope * span / (from.half_log_snr() - base.half_log_snr());
        x.assign(&start);
        match place {
            1 => blend(&mut x, coefficients.keep, &[(coefficients.gain, &outputs.entries()[0])]),
            _ => {
                let (newest, first) = (&outputs.entries()[0], &outputs.entries()[place - 1]);
                blend(&mut x, coefficients.keep, &[(coefficients.gain - slope, first), (slope, newest)]);
            }
        }
        run.add_noise(&mut x, &mut fresh, coefficients.noise, (base, to))?;
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// Which step of its group a step is, from 1: groups of `order`. The first step is one of its own where there is no
/// signal at all, and so is the last where it ends clean or would complete a group.
fn place_in_group(step: usize, run: &Run, order: usize) -> usize {
    let alone = usize::from(run.levels[0].alpha == 0.0);
    if step < alone {
        return 1;
    }
    let place = (step - alone) % order + 1;
    let last = step + 1 == run.steps();
    if last && (place == order || run.levels[step + 1].sigma == 0.0) { 1 } else { place }
}

/// DPM-Solver++(2S) with ancestral noise (k-diffusion's `sample_dpmpp_2s_ancestral`): two evaluations a step, the second
/// half-way in log-SNR.
pub(super) fn dpmpp_2s_ancestral(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    let (mut denoised, mut inside, mut middle, mut fresh) = (alike(&x), alike(&x), alike(&x), alike(&x));
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        denoiser.denoise(&x, from, &mut denoised)?;
        let (kept, added) = split(from, to, run.at(Opt::Eta, step));
        if kept.sigma == 0.0 || from.alpha == 0.0 {
            step_to(&mut x, &denoised, from, kept);
        } else {
            let half = run.training.at_ratio((from.ratio() * kept.ratio()).sqrt());
            inside.assign(&x);
            step_to(&mut inside, &denoised, from, half);
            denoiser.denoise(&inside, half, &mut middle)?;
            step_to(&mut x, &middle, from, kept);
        }
        run.add_noise(&mut x, &mut fresh, added, (from, to))?;
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// DPM-Solver++ for the reverse SDE, two evaluations a step (k-diffusion's `sample_dpmpp_sde` with r = 1/2).
pub(super) fn dpmpp_sde(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    let (mut denoised, mut inside, mut middle, mut fresh) = (alike(&x), alike(&x), alike(&x), alike(&x));
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        denoiser.denoise(&x, from, &mut denoised)?;
        let eta = run.at(Opt::Eta, step);
        let (kept, added) = split(from, to, eta);
        if to.sigma == 0.0 || from.alpha == 0.0 {
            step_to(&mut x, &denoised, from, kept);
        } else {
            let half = run.training.at_ratio((from.ratio() * to.ratio()).sqrt());
            let (kept_half, added_half) = split(from, half, eta);
            inside.assign(&x);
            step_to(&mut inside, &denoised, from, kept_half);
            run.add_noise(&mut inside, &mut fresh, added_half, (from, half))?;
            denoiser.denoise(&inside, half, &mut middle)?;
            step_to(&mut x, &middle, from, kept);
        }
        run.add_noise(&mut x, &mut fresh, added, (from, to))?;
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// The first-order exponential step: keeps the noise that lies between a latent and its estimate.
fn step_to(x: &mut Latent, denoised: &Latent, from: Level, to: Level) {
    let keep = to.sigma / from.sigma;
    blend(x, keep, &[(to.alpha - keep * from.alpha, denoised)]);
}

/// DEIS in log rho (Zhang & Chen 2023, arXiv:2204.13902, section 3.3), orders 1 to 3: the noise as a polynomial in
/// log-SNR, integrated exactly.
pub(super) fn deis(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    let most = run.options.whole(Opt::Order).min(3);
    let mut noises = History::<3>::new(&x);
    let mut denoised = alike(&x);
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        denoiser.denoise(&x, from, &mut denoised)?;
        let noise = noises.next(from);
        noise.assign(&denoised);
        into_noise(noise, &x, from);
        let left = if run.steps() < SHORT { run.steps() - step } else { usize::MAX };
        let order = most.min(left).min(noises.len());
        if order == 1 || to.sigma == 0.0 || from.alpha == 0.0 {
            step_to(&mut x, &denoised, from, to);
        } else {
            let weights = exponential_weights(-1.0, &noises.levels()[..order], to);
            let terms: [_; 3] = std::array::from_fn(|i| (-to.sigma * weights[i], &noises.entries()[i]));
            blend(&mut x, to.alpha / from.alpha, &terms[..order]);
        }
        if from.alpha == 0.0 {
            noises.forget();
        }
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

/// Integrals of `e^(k·(λ − λ_to))·L_j(λ)` from the newest of `levels` to `to`, where `L_j` is the Lagrange polynomial
/// in half log-SNR λ that is 1 at level `j`; at most four levels, the newest first.
pub(super) fn exponential_weights(k: f64, levels: &[Level], to: Level) -> [f64; 4] {
    integrals(k, levels[0], levels, to)
}

/// The same, from `from` on: the newest of `levels` may be the end of the step.
pub(super) fn integrals(k: f64, from: Level, levels: &[Level], to: Level) -> [f64; 4] {
    let end = to.half_log_snr();
    let start = from.half_log_snr() - end;
    // Moments of the exponential by parts: M_m = [u^m·e^(ku)/k] − m/k·M_(m−1).
    let mut moments = [0.0; 4];
    for m in 0..levels.len() {
        let at_start = if m == 0 { 1.0 } else { start.powi(m as i32) };
        let at_end = if m == 0 { 1.0 } else { 0.0 };
        let before = if m == 0 { 0.0 } else { m as f64 * moments[m - 1] };
        moments[m] = (at_end - at_start * (k * start).exp() - before) / k;
    }
    if start.is_infinite() {
        moments[0] = 1.0 / k;
    }
    let mut weights = [0.0; 4];
    for (j, weight) in weights.iter_mut().enumerate().take(levels.len()) {
        let polynomial = lagrange(levels, j, end);
        *weight = polynomial.iter().zip(moments).map(|(coefficient, moment)| coefficient * moment).sum();
    }
    weights
}

/// Coefficients, the constant one first, of the Lagrange polynomial in `λ − origin` that is 1 at level `j`.
fn lagrange(levels: &[Level], j: usize, origin: f64) -> [f64; 4] {
    let node = |level: Level| level.half_log_snr() - origin;
    let mut polynomial = [1.0, 0.0, 0.0, 0.0];
    for other in levels.iter().enumerate().filter(|(i, _)| *i != j).map(|(_, &other)| other) {
        let (root, scale) = (node(other), node(levels[j]) - node(other));
        let before = polynomial;
        for m in 0..4 {
            let raised = if m == 0 { 0.0 } else { before[m - 1] };
            polynomial[m] = (raised - root * before[m]) / scale;
        }
    }
    polynomial
}
