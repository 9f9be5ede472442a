//! How right pictures are that were measured: beside the model's best graphs on the CPU, and by its goldens.

use image::RgbImage;

use super::report::{GoldensHeld, PictureHeld, Quality, Workload};
use super::requests;
use crate::cancel::Cancel;
use crate::graph::Opened;
use crate::model::{Bound, Model};
use crate::pipeline::Pipeline;
use crate::request::Request;
use crate::stage::{Precision, Stage};
use crate::target::Target;
use crate::verify::{Comparison, Numbers, Outcome, coarsest, verify};
use crate::{Error, ErrorKind, Result};

/// Pictures of the model's best graphs on the CPU, for one size and number of steps.
pub struct Reference {
    /// What made them, such as `fp16 on the CPU`.
    pub name: String,
    /// Hashes of its graphs: what runs the same is no comparison.
    graphs: Vec<String>,
    numbers: Vec<(Request, Numbers)>,
}

impl Reference {
    /// Makes the first `count` pictures of a workload.
    ///
    /// # Errors
    /// As [`Pipeline::open_for`] and [`Numbers::record`].
    pub fn make(target: &Target, model: &Model, workload: &Workload, count: usize, cancel: &Cancel) -> Result<Self> {
        let target = target.clone().on_cpu().with_precision(Precision::ALL.into_iter().rev().collect());
        let requests = compared(model, workload, count, cancel);
        let usual = requests.first().ok_or_else(|| Error::usage("a reference of no pictures"))?;
        let mut pipeline = Pipeline::open_for(&target, model, usual)?;
        let numbers = requests.iter().map(|request| Ok((request.clone(), Numbers::record(&mut pipeline, request)?.0)));
        let numbers = numbers.collect::<Result<Vec<_>>>()?;
        let graphs = pipeline.graphs();
        let precision = graphs.get(&Stage::Denoiser).map_or(Precision::Fp32, |opened| opened.precision);
        let graphs = graphs.values().map(|opened| opened.sha256.clone()).collect();
        Ok(Self { name: format!("{precision} on the CPU"), graphs, numbers })
    }

    /// The picture of a seed, of which each request has its own.
    pub fn picture(&self, seed: u64) -> Option<&RgbImage> {
        let (_, numbers) = self.numbers.iter().find(|(request, _)| request.seed == seed)?;
        Some(&numbers.pixels)
    }
}

/// What was found of a case's pictures, and the pictures themselves.
pub struct Held {
    /// For the report; its pictures have no files yet.
    pub quality: Quality,
    /// In the order of [`Quality::pictures`].
    pub pictures: Vec<RgbImage>,
}

/// Makes a workload's first pictures on its target and compares them with the reference; also makes the model's goldens
/// where `goldens` asks for them.
///
/// # Errors
/// As [`Pipeline::open_for`], and as [`compare`](crate::verify::compare) for what is no numeric fault: those are found.
pub fn hold(target: &Target, model: &Model, reference: &Reference, goldens: Goldens) -> Result<Held> {
    let usual = &reference.numbers[0].0;
    let mut pipeline = Pipeline::open_for(target, model, usual)?;
    let (mut held, mut pictures, mut failed) = (Vec::new(), Vec::new(), 0);
    let mut notes = Vec::new();
    for (request, expected) in &reference.numbers {
        let found = match Numbers::record(&mut pipeline, request) {
            Err(e) if e.kind() == ErrorKind::Numeric => {
                failed += 1;
                notes.push(format!("\"{}\", seed {}: {e}", request.prompt, request.seed));
                continue;
            }
            found => found?.0,
        };
        let bound = Bound::usual(coarsest(&pipeline.graphs()));
        let comparison = Comparison::of(expected, &found, bound, Vec::new())?;
        failed += usize::from(!comparison.passed());
        held.push(of_picture(request, &comparison));
        pictures.push(found.pixels);
    }
    let is_itself = |opened: &Opened| reference.graphs.contains(&opened.sha256);
    if pipeline.graphs().values().all(is_itself) {
        notes.push(format!("these graphs are the reference itself, {}", reference.name));
    }
    let goldens = match goldens {
        Goldens::Made if !model.goldens.is_empty() => Some(hold_goldens(&mut pipeline)?),
        Goldens::Known(known) => known,
        Goldens::Made => None,
    };
    let passed = failed == 0 && goldens.as_ref().is_none_or(|goldens| goldens.failed == 0);
    let reference = Some(reference.name.clone());
    let quality = Quality { goldens, reference, pictures: held, passed: Some(passed), notes };
    Ok(Held { quality, pictures })
}

/// Where what is known of goldens comes from.
#[derive(Debug, Clone)]
pub enum Goldens {
    /// They are made now.
    Made,
    /// They were made in this precision before.
    Known(Option<GoldensHeld>),
}

fn compared(model: &Model, workload: &Workload, count: usize, cancel: &Cancel) -> Vec<Request> {
    let workload = Workload { batch: 1, ..workload.clone() };
    let request = |index| Request { cancel: cancel.clone(), ..requests::request(model, &workload, index) };
    (0..count.min(requests::COUNT)).map(request).collect()
}

fn of_picture(request: &Request, comparison: &Comparison) -> PictureHeld {
    PictureHeld {
        prompt: request.prompt.clone(),
        seed: request.seed,
        psnr_db: comparison.psnr_db,
        latent_l2: comparison.latent.relative_l2,
        steps_l2: comparison.steps.iter().map(|step| step.relative_l2).collect(),
        file: None,
        reference_file: None,
    }
}

fn hold_goldens(pipeline: &mut Pipeline) -> Result<GoldensHeld> {
    let goldens = pipeline.model().goldens.clone();
    let mut told = GoldensHeld {
        made: goldens.len(),
        failed: 0,
        least_psnr_db: None,
        most_latent_l2: None,
        first_divergence: None,
    };
    for golden in &goldens {
        let outcome = Outcome::of(verify(pipeline, golden))?;
        let broken = match &outcome {
            Outcome::Compared(comparison) => {
                let least = told.least_psnr_db.into_iter().chain(comparison.psnr_db).reduce(f64::min);
                let most = told.most_latent_l2.into_iter().chain([comparison.latent.relative_l2]).reduce(f64::max);
                (told.least_psnr_db, told.most_latent_l2) = (least, most);
                comparison.first_divergence.map(|at| at.to_string())
            }
            Outcome::Broken { error } => Some(error.clone()),
        };
        told.failed += usize::from(broken.is_some());
        told.first_divergence = told.first_divergence.or(broken);
    }
    Ok(told)
}
