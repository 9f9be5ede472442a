//! Exponential integrators that correct the last step with the evaluation of the next one: UniPC and SA-Solver.

use super::exponential::integrals;
use super::{Denoise, History, Latent, Run, alike, blend};
use crate::Result;
use crate::options::Opt;
use crate::training::Level;

/// Most estimates that are remembered.
const MOST: usize = 4;

/// UniPC's two choices of B(h) (Zhao et al. 2023, arXiv:2302.04867, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bh {
    /// B(h) = h.
    One,
    /// B(h) = e^h − 1.
    Two,
}

/// UniPC (Zhao et al. 2023, arXiv:2302.04867, algorithms 5 and 6), orders 1 to 3, for the clean latent; every step but
/// the first begins with a correction of the one before, which costs no evaluation.
pub(super) fn unipc(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run, bh: Bh) -> Result<Latent> {
    let most = run.options.whole(Opt::Order).min(3);
    let mut estimates = History::<MOST>::new(&x);
    let mut start = alike(&x);
    let mut order = 0;
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        denoiser.denoise(&x, from, estimates.next(from))?;
        if order > 0 {
            x.assign(&start);
            correct(&mut x, &estimates, order, bh);
        }
        start.assign(&x);
        order = most.min(run.steps() - step).min(estimates.len());
        predict(&mut x, &estimates, to, order, bh);
        run.done(step, &mut x, &estimates.entries()[0])?;
        if from.alpha == 0.0 {
            estimates.forget();
            order = 0;
        }
    }
    Ok(x)
}

/// From the newest level to `to`, with the estimates of `order` levels.
fn predict(x: &mut Latent, estimates: &History<MOST>, to: Level, order: usize, bh: Bh) {
    let (levels, entries) = (estimates.levels(), estimates.entries());
    let (from, lambda) = (levels[0], levels[0].half_log_snr());
    let h = to.half_log_snr() - lambda;
    let ratio = |i: usize| (levels[i].half_log_snr() - lambda) / h;
    let system = System::new(h, bh, order);
    let rhos = match order {
        1 => [0.0; 3],
        2 => [0.5, 0.0, 0.0],
        _ => system.solve(&[ratio(1), ratio(2)]),
    };
    let mut newest = -system.first;
    let mut terms = [(0.0, &entries[0]); 3];
    for i in 1..order {
        let weight = -to.alpha * system.scale * rhos[i - 1] / ratio(i);
        terms[i] = (weight, &entries[i]);
        newest -= weight / to.alpha;
    }
    terms[0].0 = to.alpha * newest;
    blend(x, to.sigma / from.sigma, &terms[..order]);
}

/// The step to the newest level again, from the level before it, with the newest estimate as one more.
fn correct(x: &mut Latent, estimates: &History<MOST>, order: usize, bh: Bh) {
    let (levels, entries) = (estimates.levels(), estimates.entries());
    let (to, from, lambda) = (levels[0], levels[1], levels[1].half_log_snr());
    let h = to.half_log_snr() - lambda;
    let ratio = |i: usize| (levels[i + 1].half_log_snr() - lambda) / h;
    let system = System::new(h, bh, order);
    let rhos = match order {
        1 => [0.5, 0.0, 0.0],
        2 => system.solve(&[ratio(1), 1.0]),
        _ => system.solve(&[ratio(1), ratio(2), 1.0]),
    };
    let mut before = -system.first;
    let mut terms = [(0.0, &entries[0]); MOST];
    for i in 1..order {
        let weight = -to.alpha * system.scale * rhos[i - 1] / ratio(i);
        terms[i] = (weight, &entries[i + 1]);
        before -= weight / to.alpha;
    }
    let weight = -to.alpha * system.scale * rhos[order - 1];
    terms[order] = (weight, &entries[0]);
    terms[0] = (to.alpha * before - weight, &entries[1]);
    blend(x, to.sigma / from.sigma, &terms[..=order]);
}

/// The linear system that UniPC's weights solve: row `i` of it is the ratios to the power `i`.
struct System {
    /// e^(−h) − 1.
    first: f64,
    /// B(−h).
    scale: f64,
    right: [f64; 3],
}

impl System {
    fn new(h: f64, bh: Bh, order: usize) -> Self {
        let first = (-h).exp_m1();
        let scale = if bh == Bh::One { -h } else { first };
        let mut right = [0.0; 3];
        let (mut phi, mut factorial) = (first / -h - 1.0, 1.0);
        for (i, right) in right.iter_mut().enumerate().take(order) {
            *right = phi * factorial / scale;
            factorial *= (i + 2) as f64;
            phi = phi / -h - 1.0 / factorial;
        }
        Self { first, scale, right }
    }

    /// Gaussian elimination of the system's leading part; the ratios are distinct.
    fn solve(&self, ratios: &[f64]) -> [f64; 3] {
        let count = ratios.len();
        let mut rows = [[0.0; 4]; 3];
        for (i, row) in rows.iter_mut().enumerate().take(count) {
            for (j, ratio) in ratios.iter().enumerate() {
                row[j] = ratio.powi(i as i32);
            }
            row[3] = self.right[i];
        }
        for pivot in 0..count {
            let best = (pivot..count).max_by(|&a, &b| rows[a][pivot].abs().total_cmp(&rows[b][pivot].abs()));
            rows.swap(pivot, best.unwrap_or(pivot));
            let chosen = rows[pivot];
            for row in rows.iter_mut().skip(pivot + 1).take(count - pivot - 1) {
                let factor = row[pivot] / chosen[pivot];
                (pivot..4).for_each(|j| row[j] -= factor * chosen[j]);
            }
        }
        let mut solution = [0.0; 3];
        for i in (0..count).rev() {
            let known: f64 = (i + 1..count).map(|j| rows[i][j] * solution[j]).sum();
            solution[i] = (rows[i][3] - known) / rows[i][i];
        }
        solution
    }
}

/// SA-Solver (Xue et al. 2023, arXiv:2309.05019, algorithm 1): stochastic Adams predictor and corrector of the clean
/// latent, with noise of strength tau in the middle of the trajectory, as `SASolverScheduler` of diffusers has it.
pub(super) fn sa(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    let predictor = run.options.whole(Opt::Predictor);
    let corrector = run.options.whole(Opt::Corrector);
    let mut estimates = History::<MOST>::new(&x);
    let (mut start, mut fresh) = (alike(&x), alike(&x));
    let mut corrected = 0;
    let mut tau_before = 0.0;
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        let before = estimates.len();
        denoiser.denoise(&x, from, estimates.next(from))?;
        if corrected > 0 && before > 0 {
            x.assign(&start);
            let levels = estimates.levels();
            adams(&mut x, &estimates, &fresh, (levels[1], from), (corrected, tau_before), Role::Corrector);
        }
        start.assign(&x);
        let tau = tau(run, from);
        if run.options.get(Opt::Tau) > 0.0 {
            run.draw(&mut fresh, from, to)?;
        }
        let left = run.steps() - step;
        let order = predictor.min(left).min(estimates.len());
        adams(&mut x, &estimates, &fresh, (from, to), (order, tau), Role::Predictor);
        corrected = corrector.min(left + 1).min(estimates.len() + 1).min(MOST);
        tau_before = tau;
        run.done(step, &mut x, &estimates.entries()[0])?;
        if from.alpha == 0.0 {
            estimates.forget();
        }
    }
    Ok(x)
}

/// Noise belongs into the middle of the trajectory.
fn tau(run: &Run, at: Level) -> f64 {
    let share = run.training.index(at) / run.training.timesteps() as f64;
    let middle = run.options.get(Opt::TauMin)..=run.options.get(Opt::TauMax);
    if middle.contains(&share) { run.options.get(Opt::Tau) } else { 0.0 }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Predictor,
    Corrector,
}

/// One stochastic Adams step with the newest `order` estimates.
fn adams(
    x: &mut Latent,
    estimates: &History<MOST>,
    fresh: &Latent,
    (from, to): (Level, Level),
    (order, tau): (usize, f64),
    role: Role,
) {
    let h = to.half_log_snr() - from.half_log_snr();
    let k = 1.0 + tau.powi(2);
    let levels = &estimates.levels()[..order];
    let mut weights = integrals(k, from, levels, to);
    if order == 2 {
        // The authors' modification, of higher order than the method's, which helps with few steps.
        let excess = h * k - 1.0 + (-k * h).exp();
        let shift = match role {
            Role::Predictor => {
                (h.powi(2) / 2.0 - excess / k.powi(2)) / (levels[0].half_log_snr() - levels[1].half_log_snr())
            }
            Role::Corrector => h / 2.0 - excess / (k.powi(2) * h),
        };
        weights[0] += shift;
        weights[1] -= shift;
    }
    let damping = if tau == 0.0 { 0.0 } else { tau.powi(2) * h };
    let mut terms = [(0.0, fresh); MOST + 1];
    for (term, (entry, weight)) in terms.iter_mut().zip(estimates.entries().iter().zip(weights)).take(order) {
        *term = (k * to.alpha * weight, entry);
    }
    terms[order] = (to.sigma * (-(-2.0 * damping).exp_m1()).sqrt(), fresh);
    blend(x, to.sigma / from.sigma * (-damping).exp(), &terms[..=order]);
}
