//! Pictures that begin with a picture. Their numbers against diffusers': tests/reference.rs.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Outcome, Place, tiny};
use image::{GrayImage, Luma, Rgb, RgbImage};
use safelight::sampler::{SAMPLERS, Steps};
use safelight::{ErrorKind, InputPicture, Model, Pipeline, Request, Residency, Sampling, Target};
use serde_json::Value;

fn family(name: &str) -> PathBuf {
    tiny("families").join(name)
}

/// A picture whose every pixel differs from its neighbours.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 3) as u8, (y * 3) as u8, (x * y / 20) as u8]))
}

fn written(place: &Place, name: &str, width: u32, height: u32) -> PathBuf {
    let path = place.inputs().join(name);
    picture(width, height).save(&path).unwrap();
    path
}

fn pipeline(model: &Path, residency: Residency) -> Pipeline {
    let target = Target::open(&common::repository().join("targets/generic-cpu.yaml")).unwrap();
    let target = target.with_threads(1).with_residency(residency);
    Pipeline::open(&target, &Model::open(model).unwrap()).unwrap()
}

fn request(steps: usize, strength: f64) -> Request {
    Request {
        prompt: "a red apple".into(),
        image: Some(Arc::new(picture(64, 64).into())),
        sampling: Sampling { strength: Some(strength), ..Sampling::in_steps(steps) },
        guidance: Some(1.0.into()),
        seed: 5,
        ..Request::default()
    }
}

#[test]
fn every_sampler_begins_with_a_picture() {
    let mut pipeline = pipeline(&family("sd15"), Residency::Resident);
    for method in SAMPLERS {
        let mut request = request(6, 0.5);
        request.sampling.sampler = Some(method.name.into());
        request.sampling.steps = (method.steps == Steps::Any).then_some(6);
        match (method.steps, pipeline.generate(&request)) {
            (Steps::Any, made) => {
                let picture = made.unwrap().pictures.remove(0);
                // A distillation's timetable keeps its steps, and begins later.
                let steps = if method.schedule == Some("lcm") { 6 } else { 3 };
                assert_eq!(
                    (picture.provenance.steps, picture.provenance.strength),
                    (steps, Some(0.5)),
                    "{}",
                    method.name
                );
            }
            (Steps::One, made) => {
                let error = made.unwrap_err();
                assert!(error.to_string().contains("leaves none of 1 steps"), "{}: {error}", method.name);
            }
            (Steps::Adaptive, made) => {
                let error = made.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Usage);
                assert!(error.to_string().contains("chooses its own levels"), "{}: {error}", method.name);
            }
        }
    }
}

/// With every step but the last left out, little of the picture changes; with none, much does.
#[test]
fn strength_says_how_much_of_the_picture_is_left() {
    let mut pipeline = pipeline(&common::repository().join("models/emoji"), Residency::Resident);
    let house = Request { prompt: "a red house".into(), seed: 7, ..Request::default() };
    let house = pipeline.generate(&house).unwrap().pictures.remove(0).pixels;
    let mut difference = |strength| {
        let request = Request {
            prompt: "a blue house".into(),
            image: Some(Arc::new(house.clone().into())),
            sampling: Sampling { strength: Some(strength), ..Sampling::in_steps(8) },
            ..Request::default()
        };
        let made = pipeline.generate(&request).unwrap().pictures.remove(0).pixels;
        let differences = made.as_raw().iter().zip(house.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b)));
        differences.sum::<u64>() / made.as_raw().len() as u64
    };
    let differences = [0.16, 0.5, 1.0].map(&mut difference);
    assert!(differences.is_sorted() && differences[0] < 15 && differences[2] > 25, "{differences:?}");
}

#[test]
fn a_picture_is_the_same_alone_and_in_a_batch_staged_and_resident() {
    let mut resident = pipeline(&family("sd15"), Residency::Resident);
    let mut staged = pipeline(&family("sd15"), Residency::Staged);
    let both = resident.generate(&Request { count: 2, batch: 2, ..request(4, 0.5) }).unwrap().pictures;
    for (i, picture) in both.iter().enumerate() {
        let alone = Request { seed: 5 + i as u64, ..request(4, 0.5) };
        let [resident, staged] = [&mut resident, &mut staged].map(|pipeline| pipeline.generate(&alone).unwrap());
        for alone in [resident, staged] {
            assert!(alone.timings.encoder_ms > 0.0);
            let difference = &alone.pictures[0].latent - &picture.latent;
            assert!(difference.iter().all(|x| x.abs() < 1e-4));
        }
    }
}

/// The encoder is opened by the first request that needs it, and no others speak of it.
#[test]
fn other_requests_know_nothing_of_the_encoder() {
    let mut pipeline = pipeline(&family("sd15"), Residency::Resident);
    let stages = |pipeline: &mut Pipeline, request: &Request| {
        let picture = pipeline.generate(request).unwrap().pictures.remove(0);
        picture.provenance.graphs.keys().map(|stage| stage.name()).collect::<Vec<_>>()
    };
    let plain = Request { image: None, sampling: Sampling::in_steps(2), ..request(2, 1.0) };
    assert_eq!(stages(&mut pipeline, &plain), ["text_encoder", "denoiser", "decoder"]);
    assert_eq!(stages(&mut pipeline, &request(2, 1.0)), ["text_encoder", "denoiser", "decoder", "encoder"]);
    assert_eq!(stages(&mut pipeline, &plain), ["text_encoder", "denoiser", "decoder"]);
}

/// A model that makes pixels has no autoencoder: the picture is its own latent (Meng et al. 2021, SDEdit).
#[test]
fn a_model_of_pixels_begins_with_them() {
    let mut pipeline = pipeline(&family("ddpm"), Residency::Resident);
    let (width, height) = (pipeline.model().picture.width as u32, pipeline.model().picture.height as u32);
    let mask = GrayImage::from_fn(width, height, |x, _| Luma([if x < width / 2 { 0 } else { 255 }]));
    let original = picture(width, height);
    let request = Request {
        prompt: String::new(),
        image: Some(Arc::new(original.clone().into())),
        mask: Some(Arc::new(mask.into())),
        ..request(4, 0.5)
    };
    let made = pipeline.generate(&request).unwrap().pictures.remove(0);
    assert_eq!(made.provenance.graphs.keys().map(|stage| stage.name()).collect::<Vec<_>>(), ["denoiser"]);
    let halves = made.pixels.enumerate_pixels().filter(|(x, ..)| *x < width / 2);
    let differ = halves.filter(|(x, y, pixel)| original.get_pixel(*x, *y) != *pixel).count();
    assert_eq!(differ, 0);
    assert_ne!(made.pixels, original);
}

#[test]
fn a_request_can_be_cancelled_before_its_picture_is_encoded() {
    let mut pipeline = pipeline(&family("sd15"), Residency::Staged);
    let request = request(4, 0.5);
    request.cancel.cancel();
    assert_eq!(pipeline.generate(&request).unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn pictures_of_other_sizes_are_resized() {
    let mut pipeline = pipeline(&family("sd15"), Residency::Resident);
    let image: InputPicture = picture(100, 50).into();
    let request = Request { image: Some(Arc::new(image)), ..request(4, 0.5) };
    let output = pipeline.generate(&request).unwrap();
    assert_eq!(output.pictures[0].pixels.dimensions(), (64, 64));
    assert!(output.warnings.iter().any(|warning| warning.contains("100×50 pixels and is stretched to 64×64")));
}

#[test]
fn the_command_writes_down_what_it_began_with() {
    let place = Place::new();
    let image = written(&place, "picture.png", 64, 64);
    let command = |place: &Place| {
        let mut command =
            place.command(["generate", "apple", "--json", "--steps", "4", "--strength", "0.5", "--model"]);
        command.arg(family("sd15")).arg("--image").arg(&image);
        command
    };
    let outcome = Outcome::of(command(&place));
    outcome.expect("image", 0, "");
    let told: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let provenance = &told["pictures"][0]["provenance"];
    let hash = safelight_hash(&std::fs::read(&image).unwrap());
    assert_eq!((&provenance["image_sha256"], &provenance["strength"]), (&hash.into(), &0.5.into()));
    assert!(provenance["graphs"]["encoder"]["sha256"].is_string());
    assert!(told["timings"]["encoder_ms"].as_f64().unwrap() > 0.0);
    assert!(told["memory"]["encoder"]["before"].is_u64() || told["memory"].is_null());

    let mut planned = command(&place);
    planned.arg("--dry-run");
    let told: Value = serde_json::from_slice(&Outcome::of(planned).stdout).unwrap();
    let stages = told["plan"]["stages"].as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap());
    assert_eq!(stages.collect::<Vec<_>>(), ["text_encoder", "encoder", "denoiser", "decoder"]);
}

fn safelight_hash(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Everything that can be wrong is told before ONNX Runtime is opened.
#[test]
fn what_cannot_be_is_told() {
    let place = Place::new();
    let good = written(&place, "picture.png", 64, 64);
    let small = written(&place, "small.png", 1, 1);
    let text = place.input("text.png", "not a picture");
    let mask = place.inputs().join("mask.png");
    GrayImage::from_pixel(32, 64, Luma([255])).save(&mask).unwrap();
    let black = place.inputs().join("black.png");
    GrayImage::new(64, 64).save(&black).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (good, small, text, mask, black) = (path(&good), path(&small), path(&text), path(&mask), path(&black));
    let absent = path(&place.inputs().join("absent.png"));
    let folder = path(&place.inputs());
    let cases: [(&[&str], i32, &str); 16] = [
        (&["--strength", "0.5"], 2, "there is no picture to begin with (--image)"),
        (&["--image", &good, "--strength", "0"], 2, "strength is 0, expected more than 0 and at most 1"),
        (&["--image", &good, "--strength", "1.5"], 2, "expected more than 0 and at most 1"),
        (&["--image", &good, "--strength", "nan"], 2, "expected more than 0 and at most 1"),
        (
            &["--image", &good, "--strength", "0.2", "--steps", "4"],
            2,
            "leaves none of 4 steps; give it at least 5 steps, or strength 0.250 or more",
        ),
        (&["--image", &good, "--sampler", "rk_adaptive"], 2, "chooses its own levels"),
        (&["--image", &small], 2, "the picture is 1×1 pixels"),
        (&["--image", &absent], 7, "is missing"),
        (&["--image", &folder], 7, "is not a regular file"),
        (&["--image", &text], 7, "is not a picture that is known, expected PNG, JPEG or WebP"),
        (&["--mask", &mask], 2, "--image"),
        (&["--image", &good, "--mask", &mask], 2, "the mask is 32×64 pixels, but its picture 64×64"),
        (&["--image", &good, "--mask", &black], 2, "the mask is black everywhere"),
        (&["--image", &good, "--keep-pixels"], 2, "--mask"),
        (&["--tile", "100"], 2, "tile is 100 pixels, expected a multiple of 8 from 32"),
        (&["--tile", "some"], 2, "expected auto, off or the pixels of a tile"),
    ];
    for (arguments, code, told) in cases {
        let mut command = place.without_library(["generate", "apple", "--model"]);
        command.arg(family("sd15")).args(arguments);
        Outcome::of(command).expect(&arguments.join(" "), code, told);
    }
    let mut command = place.without_library(["generate", "apple", "--image", &good, "--model"]);
    command.arg(tiny("tiny-sd"));
    Outcome::of(command).expect("no encoder", 3, "needs the encoder of the model's autoencoder");
    assert!(place.left().is_empty(), "{:?}", place.left());
}

#[test]
fn limits_of_the_target_hold() {
    let place = Place::new();
    let good = written(&place, "picture.png", 64, 64);
    for (limit, told) in [
        ("max_input_pixels: 4095", "is 64×64 pixels, more than the 4095 that the target allows"),
        ("max_input_bytes: 100", "is longer than the 100 bytes that the target allows"),
    ] {
        let target = format!(
            "schema: safelight-target/1\nname: tight\ntitle: T\nprecision: [fp32]\n\
             providers: [{{name: cpu, need: required}}]\nlimits: {{ {limit} }}\n"
        );
        let target = place.input("tight.yaml", target);
        let mut command = place.without_library(["generate", "apple", "--model"]);
        command.arg(family("sd15")).arg("--target").arg(target).arg("--image").arg(&good);
        Outcome::of(command).expect(limit, 5, told);
    }
}

/// The schedule of a request that begins with a picture can be looked at.
#[test]
fn the_schedule_of_a_strength_is_told() {
    let place = Place::new();
    let steps = |arguments: &[&str]| {
        let mut command = place.without_library(["schedule", "--json", "--model"]);
        command.arg(family("sd15-lcm")).args(arguments);
        let outcome = Outcome::of(command);
        outcome.expect("schedule", 0, "");
        let told: Value = serde_json::from_slice(&outcome.stdout).unwrap();
        told.to_string()
    };
    // A distilled timetable keeps its steps and leaves out its noisy part; others lose their first steps.
    assert_ne!(steps(&["--steps", "4"]), steps(&["--steps", "4", "--strength", "0.5"]));
}

/// What is built ahead, and what is asked where it runs, can be the encoder, too.
#[test]
fn the_encoder_is_warmed_and_placed_where_that_is_asked() {
    let place = Place::new();
    for model in ["sd15", "sd15-inpainting"] {
        let command = |arguments: &[&str]| {
            let mut command = place.command(arguments);
            command.args(["--encoder", "--json", "--target", "generic-cpu", "--model"]).arg(family(model));
            command
        };
        // The two share an encoder: each has a cache of its own.
        let mut warm = command(&["warm"]);
        warm.arg("--cache").arg(place.inputs().join(model));
        let outcome = Outcome::of(warm);
        outcome.expect("warm", 0, "encoder, built");
        let told: Value = serde_json::from_slice(&outcome.stdout).unwrap();
        assert_eq!(told["stages"]["encoder"]["outcome"], "built", "{told}");

        let outcome = Outcome::of(command(&["place"]));
        outcome.expect("place", 0, "");
        assert!(String::from_utf8_lossy(&outcome.stdout).contains("\"stage\": \"encoder\""));
    }
}
