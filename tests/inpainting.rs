//! A part of a picture painted anew. Its numbers against diffusers': tests/reference.rs.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Outcome, Place, tiny};
use image::{GrayImage, Luma, Rgb, RgbImage};
use safelight::sampler::{SAMPLERS, Steps};
use safelight::{ErrorKind, KeptPixels, Model, Pipeline, Request, Sampling, Target};

fn picture() -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| Rgb([(x * 3) as u8, (y * 3) as u8, (x * y / 20) as u8]))
}

/// The right half is painted.
fn mask() -> GrayImage {
    GrayImage::from_fn(64, 64, |x, _| Luma([if x < 32 { 0 } else { 255 }]))
}

fn pipeline(model: &str) -> Pipeline {
    let target = Target::open(&common::repository().join("targets/generic-cpu.yaml")).unwrap();
    Pipeline::open(&target.with_threads(1), &Model::open(&tiny("families").join(model)).unwrap()).unwrap()
}

fn request(strength: f64, seed: u64) -> Request {
    Request {
        prompt: "a red apple".into(),
        image: Some(Arc::new(picture().into())),
        mask: Some(Arc::new(mask().into())),
        sampling: Sampling { strength: Some(strength), ..Sampling::in_steps(6) },
        guidance: Some(1.0.into()),
        seed,
        ..Request::default()
    }
}

/// Whatever the sampler is, what is kept ends as it was encoded, and the rest does not.
#[test]
fn every_sampler_keeps_what_the_mask_keeps() {
    let mut pipeline = pipeline("sd15");
    let mut kept = Vec::new();
    for method in SAMPLERS.iter().filter(|method| method.steps == Steps::Any) {
        for strength in [0.5, 1.0] {
            let mut request = request(strength, 3);
            request.sampling.sampler = Some(method.name.into());
            let latent = pipeline.generate(&request).unwrap().pictures.remove(0).latent;
            let left = latent.slice(ndarray::s![.., .., ..4]).to_owned();
            let expected = kept.first().unwrap_or(&left);
            assert!(left.iter().zip(expected.iter()).all(|(a, b)| (a - b).abs() < 1e-5), "{}", method.name);
            kept.push(left);
            let right = latent.slice(ndarray::s![.., .., 4..]).to_owned();
            assert!(right.iter().all(|x| x.is_finite()), "{}", method.name);
        }
    }
}

#[test]
fn painted_parts_differ_from_seed_to_seed() {
    let mut pipeline = pipeline("sd15");
    let [one, other] = [1, 2].map(|seed| pipeline.generate(&request(1.0, seed)).unwrap().pictures.remove(0).latent);
    let right = (&one - &other).slice(ndarray::s![.., .., 4..]).iter().map(|x| x.abs()).sum::<f32>();
    assert!(right > 1.0, "{right}");
}

#[test]
fn kept_pixels_can_be_pasted() {
    let mut pipeline = pipeline("sd15");
    let pasted = Request { kept: KeptPixels::Pasted, ..request(1.0, 1) };
    let [decoded, pasted] = [request(1.0, 1), pasted].map(|request| pipeline.generate(&request).unwrap());
    let (decoded, pasted) = (&decoded.pictures[0], &pasted.pictures[0]);
    assert_eq!(pasted.provenance.kept, Some(KeptPixels::Pasted));
    for (x, y, original) in picture().enumerate_pixels() {
        let expected = if x < 32 { original } else { decoded.pixels.get_pixel(x, y) };
        assert_eq!(pasted.pixels.get_pixel(x, y), expected, "{x}, {y}");
    }
}

/// A denoiser that takes a mask and what is around it makes nothing without them.
#[test]
fn a_model_that_is_shown_masks_needs_a_picture_and_a_mask() {
    let mut pipeline = pipeline("sd15-inpainting");
    let told = "give it a picture and a mask (--image and --mask)";
    for request in [
        Request { mask: None, ..request(0.5, 1) },
        Request { prompt: "a red apple".into(), guidance: Some(1.0.into()), ..Request::default() },
    ] {
        let error = pipeline.generate(&request).unwrap_err();
        assert!(error.kind() == ErrorKind::Usage && error.to_string().contains(told), "{error}");
    }
    assert_eq!(pipeline.generate(&request(0.5, 1)).unwrap().pictures.len(), 1);
    let place = Place::new();
    let mut command = place.command(["generate", "apple", "--model"]);
    command.arg(tiny("families").join("sd15-inpainting"));
    Outcome::of(command).expect("command", 2, told);
}
