//! The arithmetic of guidance: two predictions for one latent, with the prompt and away from it → the one to follow.
//!
//! Every function takes slices of one picture: `positive` was predicted with the prompt, `negative` with the
//! negative prompt or none, both in the same order and of the same length. A batch is as many calls, since norms,
//! deviations and quantiles are a picture's own. Noise, velocity and clean latents can all be guided, unless it says
//! otherwise; a scale of 1 is the prompt alone. Nothing here allocates once its buffers are there, and NaN and
//! infinities go through to the checks of the result: they are neither hidden nor a reason to panic.
//!
//! CFG++ (Chung et al. 2024, arXiv:2406.08070, algorithm 2) is plain guidance with a scale from 0 to 1, which stays
//! between the two predictions. What makes it CFG++ is the sampler's part: it goes to the guided estimate of the clean
//! latent, but adds back the noise of the unguided one, `x' = alpha'·guided x₀ + sigma'·ε(negative)`.

use crate::curve::Curve;
use crate::error::unknown;
use crate::options::{Opt, Options};
use crate::{Error, Result};

/// A way of guidance with the name that users type, and what they should know of it.
#[derive(Debug)]
pub struct Rule {
    /// The name in requests and reports.
    pub name: &'static str,
    /// One line for help texts.
    pub about: &'static str,
    /// Options that it takes, with its own defaults.
    pub options: &'static [(Opt, f64)],
    pub(crate) kind: Kind,
}

/// What a rule does with the two predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    PlusPlus,
    Projected,
    ZeroStar,
}

const MIN: (Opt, f64) = (Opt::GuidanceMin, 0.0);
const MAX: (Opt, f64) = (Opt::GuidanceMax, 1e6);

/// Every way of guidance that a request can name.
pub const GUIDANCES: &[Rule] = &[
    Rule {
        name: "cfg",
        about: "classifier-free guidance (Ho & Salimans 2022)",
        options: &[(Opt::Rescale, 0.0), MIN, MAX],
        kind: Kind::Plain,
    },
    Rule {
        name: "cfg_pp",
        about: "CFG++, scales from 0 to 1 (Chung et al. 2024)",
        options: &[MIN, MAX],
        kind: Kind::PlusPlus,
    },
    Rule {
        name: "apg",
        about: "adaptive projected guidance, high scales without saturation (Sadat et al. 2024)",
        options: &[(Opt::Parallel, 0.0), (Opt::Norm, 15.0), (Opt::Momentum, -0.5), MIN, MAX],
        kind: Kind::Projected,
    },
    Rule {
        name: "cfg_zero",
        about: "CFG-Zero* for flow matching (Fan et al. 2025)",
        options: &[(Opt::ZeroSteps, 1.0), MIN, MAX],
        kind: Kind::ZeroStar,
    },
];

/// What every estimate goes through, guided or not.
pub(crate) const LIMITS: &[(Opt, f64)] = &[(Opt::Clip, 0.0), (Opt::Threshold, 0.0), (Opt::ThresholdMax, 1.0)];

/// Looks a way of guidance up by name.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage), listing the known names.
pub fn find_guidance(name: &str) -> Result<&'static Rule> {
    let found = GUIDANCES.iter().find(|rule| rule.name == name);
    found.ok_or_else(|| Error::usage(unknown("guidance method", name, GUIDANCES.iter().map(|rule| rule.name))))
}

impl Rule {
    /// Whether a scale asks for more than the prompt alone gives.
    pub(crate) fn is_on(&self, scale: f64) -> bool {
        match self.kind {
            // Whatever the scale, it adds the noise of the unguided prediction.
            Kind::PlusPlus => true,
            Kind::Plain | Kind::Projected | Kind::ZeroStar => scale > 1.0,
        }
    }

    /// Whether some evaluations can do without the negative prompt.
    pub(crate) fn may_rest(&self, scale: &Curve, options: &Options) -> bool {
        let bounded = options.get(Opt::GuidanceMin) > 0.0 || options.get(Opt::GuidanceMax) < 1e6;
        bounded || scale.values().iter().any(|&scale| !self.is_on(scale))
    }
}

/// The part of [`cfg_zero_star`] that keeps a prediction of zeros from dividing by zero.
const ZERO_STAR_EPSILON: f64 = 1e-8;

/// A norm below this has no direction, as in `torch.nn.functional.normalize`.
const LEAST_NORM: f64 = 1e-12;

/// Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, eq. 6, counted as diffusers does):
/// `negative + scale·(positive − negative)`, in place of `negative`.
pub(crate) fn guide(negative: &mut [f32], positive: &[f32], scale: f64) {
    let scale = scale as f32;
    for (negative, positive) in negative.iter_mut().zip(positive) {
        *negative += scale * (positive - *negative);
    }
}

/// Brings the contrast that guidance has raised back to that of the prompt's prediction (Lin et al. 2023,
/// arXiv:2305.08891, eq. 15 and 16; `rescale_noise_cfg` of diffusers), in place of `guided`.
///
/// `share`, from 0 to 1, is φ in the paper: how much of the way back to go; 0 changes nothing, 0.7 is the paper's.
/// Deviations are the unbiased ones. Where `guided` has none, there is nothing to rescale and it stays as it is;
/// diffusers divides by zero there.
pub(crate) fn rescale(guided: &mut [f32], positive: &[f32], share: f64) {
    let raised = deviation(guided);
    if raised > 0.0 {
        let factor = (1.0 + share * (deviation(positive) / raised - 1.0)) as f32;
        guided.iter_mut().for_each(|value| *value *= factor);
    }
}

/// The unbiased standard deviation, as `torch.std` has it; no positive number for fewer than two values.
fn deviation(values: &[f32]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let squares: f64 = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum();
    (squares / (count - 1.0)).sqrt()
}

/// CFG-Zero* (Fan et al. 2025, arXiv:2503.18886, section 4.1; `ClassifierFreeZeroStarGuidance` of diffusers):
/// [`guide`] away from the multiple of `negative` that is nearest to `positive`, in place of `negative`.
///
/// Made for the velocities of flow matching. The other half of the method, zeros instead of a prediction in the first
/// steps, is the caller's.
pub(crate) fn cfg_zero_star(negative: &mut [f32], positive: &[f32], scale: f64) {
    let nearest = (dot(positive, negative) / (dot(negative, negative) + ZERO_STAR_EPSILON)) as f32;
    negative.iter_mut().for_each(|value| *value *= nearest);
    guide(negative, positive, scale);
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416, algorithm 1), for one picture over its steps.
///
/// The difference of the predictions is averaged over the steps, kept from growing too long, and relieved of the part
/// that only saturates: what is parallel to the prompt's own prediction. It is for estimates of the clean latent.
pub(crate) struct Apg {
    parallel: f64,
    threshold: f64,
    momentum: f64,
    /// The running average of the differences, `[len]`.
    average: Vec<f32>,
}

impl Apg {
    /// Guidance of a picture of `len` numbers, before its first step.
    ///
    /// - `parallel`, η in the paper: how much to keep of the parallel part, 0 in the paper and 1 in plain guidance;
    /// - `threshold`, r in the paper: the longest that the difference may be, in the Euclidean norm of the whole
    ///   picture; 0 is no limit;
    /// - `momentum`, β in the paper: how much of the last average to add to a difference, negative there to push away
    ///   from it; 0 is no memory.
    pub(crate) fn new(len: usize, parallel: f64, threshold: f64, momentum: f64) -> Self {
        Self { parallel, threshold, momentum, average: vec![0.0; len] }
    }

    /// Guides one step, in place of `negative`: `positive + (scale − 1)·update`, as the paper has it.
    ///
    /// It is diffusers' `normalized_guidance` with `use_original_formulation` and a scale that is smaller by 1. Its
    /// other formulation, `negative + scale·update`, does not give `positive` for a scale of 1 once anything is left
    /// out of the update.
    pub(crate) fn guide(&mut self, negative: &mut [f32], positive: &[f32], scale: f64) {
        self.remember(negative, positive);
        let kept = self.kept();
        let along = kept * dot(&self.average, positive) / dot(positive, positive).max(LEAST_NORM * LEAST_NORM);
        // The update is kept·average with its projection, along·positive, scaled to the share that is to remain.
        let of_average = ((scale - 1.0) * kept) as f32;
        let of_positive = (1.0 + (scale - 1.0) * (self.parallel - 1.0) * along) as f32;
        let sources = self.average.iter().zip(positive);
        for (guided, (average, positive)) in negative.iter_mut().zip(sources) {
            *guided = of_positive * positive + of_average * average;
        }
    }

    fn remember(&mut self, negative: &[f32], positive: &[f32]) {
        let momentum = self.momentum as f32;
        let predictions = negative.iter().zip(positive);
        for (average, (negative, positive)) in self.average.iter_mut().zip(predictions) {
            *average = (positive - negative) + momentum * *average;
        }
    }

    /// What the average is multiplied with to be no longer than the threshold.
    fn kept(&self) -> f64 {
        let norm = dot(&self.average, &self.average).sqrt();
        if self.threshold > 0.0 { (self.threshold / norm).min(1.0) } else { 1.0 }
    }
}

/// Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3; `_threshold_sample` of diffusers'
/// `DDIMScheduler`) of an estimate of the clean picture, in place: limits it to ±s and divides by s.
///
/// s is the `quantile`, from 0 to 1, of the absolute values, interpolated as `torch.quantile` does, but at least 1 and
/// at most `most`, which is at least 1. Results are within ±1, so it is for pixels and not for latents. `scratch` grows
/// to the size of the picture the first time.
pub(crate) fn threshold(denoised: &mut [f32], quantile: f64, most: f64, scratch: &mut Vec<f32>) {
    scratch.clear();
    scratch.extend(denoised.iter().map(|value| value.abs()));
    // In this order no NaN is left, nor a limit that is below 1.
    let limit = find_quantile(scratch, quantile).min(most).max(1.0) as f32;
    for value in denoised {
        *value = limited(*value, limit) / limit;
    }
}

/// The value below which the share `quantile` of `values` lies, on a straight line between its two neighbours. Reorders
/// `values`; 0 where there are none.
fn find_quantile(values: &mut [f32], quantile: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    let rank = quantile.clamp(0.0, 1.0) * last as f64;
    let (_, below, larger) = values.select_nth_unstable_by(rank as usize, f32::total_cmp);
    let below = f64::from(*below);
    let above = larger.iter().copied().min_by(f32::total_cmp).map_or(below, f64::from);
    below + (above - below) * rank.fract()
}

/// Limits an estimate of the clean latent to ±`range`, in place, as diffusers does with `clip_sample`.
pub(crate) fn clip(denoised: &mut [f32], range: f64) {
    let range = range as f32;
    denoised.iter_mut().for_each(|value| *value = limited(*value, range));
}

/// `value` within ±`most`. NaN stays NaN, and no `most` is a panic as it would be with `f32::clamp`.
fn limited(value: f32, most: f32) -> f32 {
    if value > most {
        most
    } else if value < -most {
        -most
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use serde::Deserialize;

    use super::*;

    /// Two pictures, one after the other.
    type Pictures = [Vec<f32>; 2];

    #[derive(Deserialize)]
    struct Golden {
        calls: Vec<Predictions>,
        guide: Vec<Guided>,
        rescale: Vec<Rescaled>,
        cfg_zero_star: Vec<Guided>,
        apg: Vec<Projected>,
        threshold: Vec<Thresholded>,
        clip: Vec<Clipped>,
    }

    #[derive(Deserialize)]
    struct Predictions {
        negative: Pictures,
        positive: Pictures,
    }

    #[derive(Deserialize)]
    struct Guided {
        scale: f64,
        pictures: Pictures,
    }

    #[derive(Deserialize)]
    struct Rescaled {
        scale: f64,
        share: f64,
        pictures: Pictures,
    }

    #[derive(Deserialize)]
    struct Projected {
        scale: f64,
        parallel: f64,
        threshold: f64,
        momentum: f64,
        calls: Vec<Pictures>,
    }

    #[derive(Deserialize)]
    struct Thresholded {
        quantile: f64,
        most: f64,
        pictures: Pictures,
    }

    #[derive(Deserialize)]
    struct Clipped {
        range: f64,
        pictures: Pictures,
    }

    fn golden() -> Golden {
        let path = format!("{}/../../tests/golden/guidance.json", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_reader(File::open(path).unwrap()).unwrap()
    }

    /// A number near zero is a difference of others around 1, and has their rounding.
    fn assert_close(found: &[f32], expected: &[f32], relative: f32) {
        assert_eq!(found.len(), expected.len());
        for (index, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() <= relative * b.abs().max(0.1), "number {index}: found {a}, expected {b}");
        }
    }

    /// Guides each picture of the first call and compares it.
    fn assert_guided(predictions: &Predictions, expected: &Pictures, mut guide: impl FnMut(&mut [f32], &[f32])) {
        let Predictions { negative, positive } = predictions;
        for ((negative, positive), expected) in negative.iter().zip(positive).zip(expected) {
            let mut found = negative.clone();
            guide(&mut found, positive);
            assert_close(&found, expected, 1e-5);
        }
    }

    fn pair() -> (Vec<f32>, Vec<f32>) {
        let mut calls = golden().calls;
        let Predictions { negative: [negative, _], positive: [positive, _] } = calls.swap_remove(0);
        (negative, positive)
    }

    #[test]
    fn guidance_is_that_of_diffusers() {
        let Golden { calls, guide: cases, .. } = golden();
        for Guided { scale, pictures } in cases {
            assert_guided(&calls[0], &pictures, |negative, positive| guide(negative, positive, scale));
        }
    }

    #[test]
    fn rescaling_is_that_of_diffusers() {
        let Golden { calls, rescale: cases, .. } = golden();
        for Rescaled { scale, share, pictures } in cases {
            assert_guided(&calls[0], &pictures, |negative, positive| {
                guide(negative, positive, scale);
                rescale(negative, positive, share);
            });
        }
    }

    #[test]
    fn zero_star_is_that_of_diffusers() {
        let Golden { calls, cfg_zero_star: cases, .. } = golden();
        for Guided { scale, pictures } in cases {
            assert_guided(&calls[0], &pictures, |negative, positive| cfg_zero_star(negative, positive, scale));
        }
    }

    #[test]
    fn projected_guidance_is_that_of_diffusers_over_several_steps() {
        let Golden { calls, apg: cases, .. } = golden();
        for Projected { scale, parallel, threshold, momentum, calls: expected } in cases {
            assert_eq!(expected.len(), calls.len());
            let mut pictures = [0; 2].map(|_| Apg::new(calls[0].negative[0].len(), parallel, threshold, momentum));
            for (predictions, expected) in calls.iter().zip(&expected) {
                let mut apg = pictures.iter_mut();
                assert_guided(predictions, expected, |negative, positive| {
                    apg.next().unwrap().guide(negative, positive, scale);
                });
            }
        }
    }

    #[test]
    fn thresholding_is_that_of_diffusers() {
        let Golden { calls, threshold: cases, .. } = golden();
        let mut scratch = Vec::new();
        for Thresholded { quantile, most, pictures } in cases {
            for (positive, expected) in calls[0].positive.iter().zip(&pictures) {
                let mut found = positive.clone();
                threshold(&mut found, quantile, most, &mut scratch);
                assert_close(&found, expected, 1e-5);
            }
        }
    }

    #[test]
    fn clipping_is_that_of_diffusers() {
        let Golden { calls, clip: cases, .. } = golden();
        for Clipped { range, pictures } in cases {
            for (positive, expected) in calls[0].positive.iter().zip(&pictures) {
                let mut found = positive.clone();
                clip(&mut found, range);
                assert_close(&found, expected, 0.0);
            }
        }
    }

    #[test]
    fn a_scale_of_one_is_the_prompt_alone() {
        let (negative, positive) = pair();
        let by_apg = |negative: &mut [f32], positive: &[f32], scale: f64| {
            Apg::new(positive.len(), 0.0, 0.5, -0.5).guide(negative, positive, scale);
        };
        for guide in [guide, cfg_zero_star, by_apg] {
            let mut found = negative.clone();
            guide(&mut found, &positive, 1.0);
            assert_close(&found, &positive, 1e-6);
        }
    }

    #[test]
    fn rescaling_goes_from_nothing_to_the_deviation_of_the_prompt() {
        let (mut guided, positive) = pair();
        guide(&mut guided, &positive, 7.5);
        let mut found = guided.clone();
        rescale(&mut found, &positive, 0.0);
        assert_eq!(found, guided);
        rescale(&mut found, &positive, 1.0);
        assert!((deviation(&found) / deviation(&positive) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn zero_star_ignores_the_length_of_the_negative() {
        let (mut negative, positive) = pair();
        let mut longer: Vec<_> = negative.iter().map(|value| 3.0 * value).collect();
        cfg_zero_star(&mut negative, &positive, 4.0);
        cfg_zero_star(&mut longer, &positive, 4.0);
        assert_close(&longer, &negative, 1e-5);
    }

    #[test]
    fn projected_guidance_that_leaves_nothing_out_is_plain_guidance() {
        let (negative, positive) = pair();
        let mut expected = negative.clone();
        guide(&mut expected, &positive, 7.5);
        for limit in [0.0, 1e9, f64::INFINITY] {
            let mut found = negative.clone();
            Apg::new(found.len(), 1.0, limit, 0.0).guide(&mut found, &positive, 7.5);
            assert_close(&found, &expected, 1e-5);
        }
    }

    #[test]
    fn projected_guidance_adds_nothing_along_the_prompt_and_no_more_than_the_threshold() {
        let (mut negative, positive) = pair();
        Apg::new(negative.len(), 0.0, 0.5, 0.0).guide(&mut negative, &positive, 2.0);
        let update: Vec<_> = negative.iter().zip(&positive).map(|(guided, positive)| guided - positive).collect();
        assert!(dot(&update, &positive).abs() < 1e-5);
        assert!(dot(&update, &update).sqrt() <= 0.5);
    }

    #[test]
    fn thresholded_pictures_are_within_one_and_small_ones_stay() {
        let (_, positive) = pair();
        let mut scratch = Vec::new();
        for quantile in [0.0, 0.5, 0.995, 1.0] {
            for most in [0.0, 1.0, 1.5, 1e300, f64::INFINITY] {
                let mut found = positive.clone();
                threshold(&mut found, quantile, most, &mut scratch);
                assert!(found.iter().all(|value| value.abs() <= 1.0), "quantile {quantile}, most {most}");
            }
        }
        let mut small = [0.5, -1.0, 0.0, 0.9];
        threshold(&mut small, 1.0, 2.0, &mut scratch);
        assert_eq!(small, [0.5, -1.0, 0.0, 0.9]);
    }

    #[test]
    fn scratch_is_allocated_once() {
        let (_, mut positive) = pair();
        let mut scratch = Vec::new();
        threshold(&mut positive, 0.9, 2.0, &mut scratch);
        let (place, capacity) = (scratch.as_ptr(), scratch.capacity());
        threshold(&mut positive, 0.1, 2.0, &mut scratch);
        assert_eq!((scratch.as_ptr(), scratch.capacity()), (place, capacity));
    }

    /// Runs everything with these numbers as input and as settings.
    fn run_all(negative: &[f32], positive: &[f32], setting: f64) -> [Vec<f32>; 6] {
        let results = [0; 6].map(|_| negative.to_vec());
        let [mut guided, mut rescaled, mut zero_star, mut projected, mut thresholded, mut clipped] = results;
        guide(&mut guided, positive, setting);
        rescale(&mut rescaled, positive, setting);
        cfg_zero_star(&mut zero_star, positive, setting);
        let mut apg = Apg::new(negative.len(), setting, setting, setting);
        apg.guide(&mut projected, positive, setting);
        apg.guide(&mut projected, positive, setting);
        threshold(&mut thresholded, setting, setting, &mut Vec::new());
        clip(&mut clipped, setting);
        [guided, rescaled, zero_star, projected, thresholded, clipped]
    }

    #[test]
    fn nothing_panics_and_nan_is_not_hidden() {
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 0.0];
        let settings = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, 0.5, 1.0, 7.5, f64::MAX];
        for setting in settings {
            run_all(&[], &[], setting);
            for (a, b) in odd.iter().flat_map(|&a| odd.map(|b| (a, b))) {
                run_all(&[a], &[b], setting);
                run_all(&[a, b, 1.0], &[b, 2.0, a], setting);
            }
            for result in run_all(&[0.5, f32::NAN, 3.0], &[1.0, 2.0, 3.0], setting) {
                assert!(result.iter().any(|value| value.is_nan()), "{setting}: {result:?}");
            }
        }
    }

    #[test]
    fn predictions_without_length_or_contrast_stay_finite() {
        let (zeros, ones, ramp) = ([0.0; 3], [1.0; 3], [1.0, 2.0, 3.0]);
        for (negative, positive) in [(zeros, zeros), (zeros, ramp), (ramp, zeros), (ones, ramp), (ramp, ones)] {
            for result in run_all(&negative, &positive, 0.5) {
                assert!(result.iter().all(|value| value.is_finite()), "{negative:?} {positive:?}: {result:?}");
            }
        }
        let mut constant = ones;
        rescale(&mut constant, &ramp, 1.0);
        assert_eq!(constant, ones);
    }
}
