//! Several evaluations a step, on the way from one level to the next: explicit Runge–Kutta methods in sigma.

use super::{Denoise, Latent, Run, alike, blend, churned, split};
use crate::Result;
use crate::options::Opt;
use crate::training::{Level, Training};

/// Coefficients of an explicit Runge–Kutta method of up to four stages (Butcher's tableau).
#[derive(Debug, Clone, Copy)]
struct Tableau {
    stages: usize,
    /// Where on the way each stage lies, 0 to 1; the first at 0.
    nodes: [f64; 4],
    /// What each later stage starts from: weights of the slopes before it.
    inner: [[f64; 3]; 3],
    /// Weights of the slopes in the step.
    weights: [f64; 4],
}

const EULER: Tableau = Tableau { stages: 1, nodes: [0.0; 4], inner: [[0.0; 3]; 3], weights: [1.0, 0.0, 0.0, 0.0] };

const TRAPEZOID: Tableau = Tableau {
    stages: 2,
    nodes: [0.0, 1.0, 0.0, 0.0],
    inner: [[1.0, 0.0, 0.0], [0.0; 3], [0.0; 3]],
    weights: [0.5, 0.5, 0.0, 0.0],
};

const THIRD_ORDER: Tableau = Tableau {
    stages: 3,
    nodes: [0.0, 1.0 / 3.0, 2.0 / 3.0, 0.0],
    inner: [[1.0 / 3.0, 0.0, 0.0], [0.0, 2.0 / 3.0, 0.0], [0.0; 3]],
    weights: [0.25, 0.0, 0.75, 0.0],
};

const CLASSICAL: Tableau = Tableau {
    stages: 4,
    nodes: [0.0, 0.5, 0.5, 1.0],
    inner: [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]],
    weights: [1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0],
};

/// Heun's method (Karras et al. 2022, arXiv:2206.00364, algorithms 1 and 2), with churn.
pub(super) fn heun(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    runge_kutta(denoiser, x, run, |_, to| if to.sigma == 0.0 { EULER } else { TRAPEZOID })
}

/// The midpoint method in sigma.
pub(super) fn rk2(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    runge_kutta(denoiser, x, run, |_, _| midpoint(0.5))
}

/// Heun's third-order method in sigma.
pub(super) fn rk3(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    runge_kutta(denoiser, x, run, |_, _| THIRD_ORDER)
}

/// The classical fourth-order method in sigma. Its last stage would ask about a clean latent in the last step, which
/// Heun's third-order method does not; the error of one third-order step is of fourth order.
pub(super) fn rk4(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    runge_kutta(denoiser, x, run, |_, to| if to.sigma == 0.0 { THIRD_ORDER } else { CLASSICAL })
}

/// DPM-Solver-2 in the form of Karras et al. 2022 (k-diffusion's `sample_dpm_2`): a midpoint method whose midpoint is
/// the geometric mean of the sigmas. With churn, and with eta the ancestral form.
pub(super) fn dpm2(denoiser: &mut dyn Denoise, x: Latent, run: &mut Run) -> Result<Latent> {
    runge_kutta(denoiser, x, run, |from, to| {
        // There is no geometric mean with a clean latent, nor with one that has no signal at all.
        if to.sigma == 0.0 || from.alpha == 0.0 {
            return EULER;
        }
        // Where the line from (alpha, sigma) to (alpha′, sigma′) has the geometric mean of the ratios.
        let ratio = (from.ratio() * to.ratio()).sqrt();
        let above = from.sigma - ratio * from.alpha;
        let below = to.sigma - ratio * to.alpha;
        midpoint(above / (above - below))
    })
}

/// Two stages of which the second, at `node`, decides alone.
fn midpoint(node: f64) -> Tableau {
    Tableau {
        stages: 2,
        nodes: [0.0, node, 0.0, 0.0],
        inner: [[node, 0.0, 0.0], [0.0; 3], [0.0; 3]],
        weights: [0.0, 1.0, 0.0, 0.0],
    }
}

fn runge_kutta(
    denoiser: &mut dyn Denoise,
    mut x: Latent,
    run: &mut Run,
    tableau: fn(Level, Level) -> Tableau,
) -> Result<Latent> {
    let mut slopes: [Latent; 4] = std::array::from_fn(|_| alike(&x));
    let (mut inside, mut denoised, mut fresh) = (alike(&x), alike(&x), alike(&x));
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        let from = churned(&mut x, &mut fresh, from, to, run)?;
        let (kept, added) = split(from, to, run.at(Opt::Eta, step));
        let Tableau { stages, nodes, inner, weights } = tableau(from, kept);
        let span = kept.sigma - from.sigma;
        for stage in 0..stages {
            let (before, later) = slopes.split_at_mut(stage);
            inside.assign(&x);
            if stage > 0 {
                let terms = before.iter().zip(inner[stage - 1]);
                terms.for_each(|(slope, weight)| add(&mut inside, span * weight, slope));
            }
            let at = along(run.training, from, kept, nodes[stage]);
            denoiser.denoise(&inside, at, &mut later[0])?;
            if stage == 0 {
                denoised.assign(&later[0]);
            }
            into_slope(&mut later[0], &inside, at, (from, kept));
        }
        for (slope, weight) in slopes.iter().zip(weights).take(stages) {
            add(&mut x, span * weight, slope);
        }
        run.add_noise(&mut x, &mut fresh, added, (from, to))?;
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

fn add(x: &mut Latent, weight: f64, slope: &Latent) {
    if weight != 0.0 {
        x.scaled_add(weight as f32, slope);
    }
}

/// The level at a share of the straight way between two.
fn along(training: &Training, from: Level, to: Level, share: f64) -> Level {
    if share == 0.0 || share == 1.0 {
        return if share == 0.0 { from } else { to };
    }
    let alpha = from.alpha + share * (to.alpha - from.alpha);
    let sigma = from.sigma + share * (to.sigma - from.sigma);
    Level { timestep: training.at_ratio(sigma / alpha).timestep, alpha, sigma }
}

/// Turns an estimate at `at` into `dx/dsigma` on the straight way between two levels: the noise, and as much of the
/// clean latent as alpha grows while sigma falls.
pub(super) fn into_slope(denoised: &mut Latent, x: &Latent, at: Level, (from, to): (Level, Level)) {
    let growth = (to.alpha - from.alpha) / (to.sigma - from.sigma);
    blend(denoised, growth - at.alpha / at.sigma, &[(1.0 / at.sigma, x)]);
}
