//! A device's numbers against known ones: a model's goldens, or the same request on the CPU.
//!
//! [`verify`] runs a golden request and says how far each step's estimate, the final latent and the picture are from
//! what the model's makers saw, and where they first part. For a model without goldens [`Numbers::record`] writes down
//! what the CPU makes ([`Target::on_cpu`]), and [`compare`] holds another pipeline to it. [`retry`] finds the stage
//! whose precision was too coarse. NaN, constant latents and black pictures are the pipeline's own errors, of
//! [`ErrorKind::Numeric`].

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::graph::Opened;
use crate::model::{Bound, Golden, Model};
use crate::pipeline::Pipeline;
use crate::request::Request;
use crate::stage::{Precision, Stage};
use crate::target::Target;
use crate::{ErrorKind, Result};

mod difference;
mod numbers;

pub use difference::{Difference, psnr_db};
pub use numbers::Numbers;

/// Relative L2 distance at which initial noise is another: it is made without any graph, so only single precision's
/// own rounding may differ from machine to machine.
pub const MAX_NOISE_L2: f64 = 1e-5;

/// How far the numbers of one request are from known ones.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What they were held to.
    pub bound: Bound,
    /// The initial noise, before any scaling; its own bound is [`MAX_NOISE_L2`].
    pub noise: Difference,
    /// The denoised estimate of each step, from the first.
    pub steps: Vec<Difference>,
    /// The latent that was decoded.
    pub latent: Difference,
    /// Peak signal-to-noise ratio of the picture in dB; `None` where every pixel is the same.
    pub psnr_db: Option<f64>,
    /// The first of them beyond the bound.
    pub first_divergence: Option<Divergence>,
    /// What was told meanwhile, as by [`Pipeline::generate`].
    pub warnings: Vec<String>,
}

/// Where numbers first part from those that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "at")]
pub enum Divergence {
    /// Before any graph ran: another generator, seed or layout.
    Noise,
    /// In a step of the denoiser.
    Step {
        /// From 1.
        step: usize,
    },
    /// In the latent after the last step, whose estimate was right.
    Latent,
    /// In the decoder.
    Picture,
}

/// What became of a comparison that could be made at all.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// There are numbers.
    Compared(Box<Comparison>),
    /// NaN, a constant latent or a black picture ended it.
    Broken {
        /// Which of them, in which stage and step.
        error: String,
    },
}

/// A request and what is known of its numbers.
pub struct Case {
    /// The request.
    pub request: Request,
    /// The numbers that it should give.
    pub expected: Numbers,
    /// How far from them it may be.
    pub bound: Bound,
}

/// One stage, tried alone in its next better precision.
#[derive(Debug, Clone, Serialize)]
pub struct Retry {
    /// The stage.
    pub stage: Stage,
    /// What it had run in.
    pub from: Precision,
    /// What it was tried in; the other stages stayed as they were.
    pub to: Precision,
    /// What became of each case, in their order; of none where the stage could not be opened.
    pub outcomes: Vec<Outcome>,
    /// Why the stage could not be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Runs a golden request and compares every number with the golden's.
///
/// The bound is the golden's for the coarsest precision that the pipeline runs.
///
/// # Errors
/// As [`Numbers::read`] for the golden and as [`compare`].
pub fn verify(pipeline: &mut Pipeline, golden: &Golden) -> Result<Comparison> {
    let expected = Numbers::read(golden, pipeline.model())?;
    let bound = golden.bound(coarsest(&pipeline.graphs()));
    compare(pipeline, &golden.request(), &expected, bound)
}

/// Runs a request of one picture and compares every number with known ones.
///
/// # Errors
/// As [`Numbers::record`]; [`ErrorKind::Model`] where it takes another number of steps, or makes another size, than
/// was expected.
pub fn compare(pipeline: &mut Pipeline, request: &Request, expected: &Numbers, bound: Bound) -> Result<Comparison> {
    let (found, warnings) = Numbers::record(pipeline, request)?;
    Comparison::of(expected, &found, bound, warnings)
}

fn first_divergence(
    bound: Bound,
    noise: &Difference,
    steps: &[Difference],
    latent: &Difference,
    psnr_db: Option<f64>,
) -> Option<Divergence> {
    let is_beyond = |difference: &Difference| difference.relative_l2 > bound.relative_l2;
    if noise.relative_l2 > MAX_NOISE_L2 {
        Some(Divergence::Noise)
    } else if let Some(index) = steps.iter().position(is_beyond) {
        Some(Divergence::Step { step: index + 1 })
    } else if is_beyond(latent) {
        Some(Divergence::Latent)
    } else {
        psnr_db.filter(|&psnr_db| psnr_db < bound.psnr_db).map(|_| Divergence::Picture)
    }
}

/// The smallest precision of a pipeline's graphs, which is the one that bounds are looked up by.
pub fn coarsest(graphs: &BTreeMap<Stage, Opened>) -> Precision {
    graphs.values().map(|opened| opened.precision).min().unwrap_or(Precision::Fp32)
}

/// Tries one stage after the other (decoder, denoiser, text encoder) in the next better precision that both model and
/// target have, until all `cases` pass; tells every stage that was tried.
///
/// `ran` is what failed: every other stage stays in its precision. `open` opens a pipeline for the target that it is
/// given; only one is open at a time.
///
/// # Errors
/// As [`compare`], but numeric faults, which are an [`Outcome`], and faults of opening a stage, which the
/// [`Retry`] tells; [`ErrorKind::Cancelled`].
pub fn retry(
    target: &Target,
    model: &Model,
    ran: &BTreeMap<Stage, Opened>,
    cases: &[Case],
    mut open: impl FnMut(&Target) -> Result<Pipeline>,
) -> Result<Vec<Retry>> {
    let mut tried = Vec::new();
    for stage in Stage::TEXT_TO_IMAGE.into_iter().rev() {
        let Some(from) = ran.get(&stage).map(|opened| opened.precision) else { continue };
        let Some(to) = next_better(stage, from, model, target) else { continue };
        let other = ran.iter().fold(target.clone(), |target, (&of, opened)| {
            target.with_stage_precision(of, vec![if of == stage { to } else { opened.precision }])
        });
        let (outcomes, error) = match open(&other) {
            Ok(mut pipeline) => {
                let outcome =
                    |case: &Case| Outcome::of(compare(&mut pipeline, &case.request, &case.expected, case.bound));
                (cases.iter().map(outcome).collect::<Result<Vec<_>>>()?, None)
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        tried.push(Retry { stage, from, to, outcomes, error });
        if tried.last().is_some_and(Retry::passed) {
            break;
        }
    }
    Ok(tried)
}

/// The next precision above `from` that the model has for a stage and the target allows there.
fn next_better(stage: Stage, from: Precision, model: &Model, target: &Target) -> Option<Precision> {
    let allowed = target.stage(stage).precision;
    let graphs = &model.stages.get(&stage)?.graphs;
    graphs.keys().copied().find(|precision| *precision > from && allowed.contains(precision))
}

impl Comparison {
    /// Compares numbers that were found with those that are known.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] where they are of another number of steps or size.
    pub fn of(expected: &Numbers, found: &Numbers, bound: Bound, warnings: Vec<String>) -> Result<Self> {
        expected.check_alike(found)?;
        let noise = Difference::between(expected.noise.iter(), found.noise.iter());
        let steps = expected.estimates.iter().zip(&found.estimates);
        let steps: Vec<_> = steps.map(|(expected, found)| Difference::between(expected, found)).collect();
        let latent = Difference::between(&expected.latent, &found.latent);
        let psnr_db = psnr_db(expected.pixels.as_raw(), found.pixels.as_raw());
        let first_divergence = first_divergence(bound, &noise, &steps, &latent, psnr_db);
        Ok(Self { bound, noise, steps, latent, psnr_db, first_divergence, warnings })
    }

    /// Whether nothing is beyond the bound.
    pub fn passed(&self) -> bool {
        self.first_divergence.is_none()
    }
}

impl Outcome {
    /// Keeps a numeric fault as an outcome and passes every other one on.
    ///
    /// # Errors
    /// Those of `compared` that are not [`ErrorKind::Numeric`].
    pub fn of(compared: Result<Comparison>) -> Result<Self> {
        match compared {
            Ok(comparison) => Ok(Self::Compared(Box::new(comparison))),
            Err(error) if error.kind() == ErrorKind::Numeric => Ok(Self::Broken { error: error.to_string() }),
            Err(error) => Err(error),
        }
    }

    /// Whether there are numbers, and none is beyond the bound.
    pub fn passed(&self) -> bool {
        matches!(self, Self::Compared(comparison) if comparison.passed())
    }
}

impl Retry {
    /// Whether every case passes with this stage in the better precision.
    pub fn passed(&self) -> bool {
        self.error.is_none() && self.outcomes.iter().all(Outcome::passed)
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Noise => f.write_str("the initial noise"),
            Self::Step { step } => write!(f, "step {step}"),
            Self::Latent => f.write_str("the final latent"),
            Self::Picture => f.write_str("the picture"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Bound = Bound { relative_l2: 0.1, psnr_db: 30.0 };

    fn off(relative_l2: f64) -> Difference {
        Difference { max_abs: relative_l2, relative_l2, cosine: 1.0 }
    }

    #[test]
    fn the_first_number_beyond_the_bound_is_named() {
        let steps = |first, second| [off(first), off(second)];
        let cases = [
            (0.0, steps(0.1, 0.1), 0.1, Some(30.0), None),
            (0.0, steps(0.0, 0.0), 0.0, None, None),
            (1e-4, steps(0.2, 0.2), 0.2, Some(1.0), Some(Divergence::Noise)),
            (1e-6, steps(0.1, 0.2), 0.2, Some(1.0), Some(Divergence::Step { step: 2 })),
            (1e-6, steps(f64::INFINITY, 0.0), 0.0, None, Some(Divergence::Step { step: 1 })),
            (1e-6, steps(0.1, 0.1), 0.2, Some(1.0), Some(Divergence::Latent)),
            (1e-6, steps(0.1, 0.1), 0.1, Some(29.9), Some(Divergence::Picture)),
        ];
        for (noise, steps, latent, psnr_db, expected) in cases {
            assert_eq!(first_divergence(BOUND, &off(noise), &steps, &off(latent), psnr_db), expected);
        }
    }

    #[test]
    fn only_numeric_faults_are_outcomes() {
        let fault = |kind| Outcome::of(Err(crate::Error::new(kind, "told")));
        assert!(matches!(fault(ErrorKind::Numeric), Ok(Outcome::Broken { error }) if error == "told"));
        assert_eq!(fault(ErrorKind::Cancelled).unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn a_stage_is_retried_in_the_next_better_precision_that_model_and_target_have() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let model = Model::open(&root.join("models/emoji")).unwrap();
        let target = Target::open(&root.join("targets/generic-cpu.yaml")).unwrap();
        let better = |from, target: &Target| next_better(Stage::Decoder, from, &model, target);
        assert_eq!(better(Precision::Int8, &target), Some(Precision::Fp16));
        assert_eq!(better(Precision::Fp16, &target), None);
        let coarse = target.with_stage_precision(Stage::Decoder, vec![Precision::Int8]);
        assert_eq!(better(Precision::Int8, &coarse), None);
    }
}
