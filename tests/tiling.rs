//! The autoencoder in tiles. Against diffusers' own tiling: tests/reference/check_tiles.py.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::path::{Path, PathBuf};

use common::{Outcome, Place, tiny};
use image::RgbImage;
use safelight::{Model, Pipeline, Request, Sampling, Target, Tiling};
use serde_json::Value;

fn pipeline(model: &Path) -> Pipeline {
    let target = Target::open(&common::repository().join("targets/generic-cpu.yaml")).unwrap();
    Pipeline::open(&target.with_threads(1), &Model::open(model).unwrap()).unwrap()
}

fn request(tile: Tiling) -> Request {
    Request {
        prompt: "a red apple".into(),
        sampling: Sampling::in_steps(3),
        guidance: Some(1.0.into()),
        size: Some((160, 112)),
        tile: Some(tile),
        ..Request::default()
    }
}

/// Widest step between neighbours in a row, where `at` says.
fn widest_step(picture: &RgbImage, at: impl Fn(u32) -> bool) -> u8 {
    let steps = (1..picture.width()).filter(|&x| at(x)).flat_map(|x| {
        (0..picture.height()).flat_map(move |y| {
            let (left, right) = (picture.get_pixel(x - 1, y).0, picture.get_pixel(x, y).0);
            (0..3).map(move |channel| left[channel].abs_diff(right[channel]))
        })
    });
    steps.max().unwrap()
}

fn psnr_db(a: &RgbImage, b: &RgbImage) -> f64 {
    let squares = a.as_raw().iter().zip(b.as_raw()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    10.0 * (255.0 * 255.0 * a.as_raw().len() as f64 / squares.sum::<f64>()).log10()
}

/// These decoders were never trained: how close tiles come to the whole says something of the edges of tiles, where a
/// convolution sees zeros, and of statistics over a tile instead of the whole, and nothing of real pictures.
#[test]
fn tiles_come_close_to_the_whole_and_show_no_seams() {
    for (model, least_psnr_db) in [("tiny-sd", 25.0), ("families/sd15", 20.0)] {
        let mut pipeline = pipeline(&tiny(model));
        let [whole, tiled] = [Tiling::Off, Tiling::Pixels(64)].map(|tile| {
            let picture = pipeline.generate(&request(tile)).unwrap().pictures.remove(0);
            let side = picture.provenance.tiles.values().next().map(|size| size[0]);
            assert_eq!(side, (tile == Tiling::Pixels(64)).then_some(64));
            picture.pixels
        });
        let psnr = psnr_db(&whole, &tiled);
        // Tiles begin every 48 pixels.
        let seam = |x: u32| x.is_multiple_of(48);
        let (at_seams, elsewhere) = (widest_step(&tiled, seam), widest_step(&tiled, |x| !seam(x)));
        println!("{model}: {psnr:.1} dB; widest step at seams {at_seams}, elsewhere {elsewhere}");
        assert!(psnr > least_psnr_db, "{model}: {psnr} dB");
        assert!(at_seams <= elsewhere, "{model}: {at_seams} at seams, {elsewhere} elsewhere");
    }
}

/// A model whose decoder was exported for 64×64 pixels, and whose denoiser takes any size.
fn with_static_decoder(place: &Place) -> PathBuf {
    let model = place.copy_of("tiny-sd");
    let graph = "vae_decoder/model.onnx";
    std::fs::copy(tiny("tiny-static").join(graph), model.join(graph)).unwrap();
    // Half-precision edges have it taken for FP16.
    model
}

#[test]
fn a_decoder_of_one_size_makes_larger_pictures_in_tiles() {
    let place = Place::new();
    let model = with_static_decoder(&place);
    let command = |arguments: &[&str]| {
        let mut command = place.command(["generate", "apple", "--steps", "2", "--json", "--precision", "fp32,fp16"]);
        command.arg("--model").arg(&model).args(["--size", "128x96"]).args(arguments);
        Outcome::of(command)
    };
    let outcome = command(&[]);
    let told = "the decoder works in 6 tiles that overlap, because its graph was exported for 64×64 pixels";
    outcome.expect("tiles", 0, told);
    let report: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(report["pictures"][0]["provenance"]["tiles"]["decoder"], serde_json::json!([64, 64]));
    command(&["--tile", "off"]).expect("off", 3, "exported for");
}

#[test]
fn a_model_of_pixels_has_nothing_to_cut() {
    let place = Place::new();
    let mut command = place.without_library(["generate", "--tile", "64", "--model"]);
    command.arg(tiny("families/ddpm"));
    Outcome::of(command).expect("pixels", 2, "makes pixels and has no autoencoder; leave --tile out");
}

#[test]
fn a_target_can_ask_for_tiles() {
    let place = Place::new();
    let told = |tile: &str, arguments: &[&str]| {
        let target = format!(
            "schema: safelight-target/1\nname: tiled\ntitle: T\nprecision: [fp32]\n\
             providers: [{{name: cpu, need: required}}]\ntile: {tile}\n"
        );
        let target = place.input("tiled.yaml", target);
        let mut command = place.command(["generate", "apple", "--steps", "1", "--json", "--size", "128x128"]);
        command.arg("--model").arg(tiny("tiny-sd")).arg("--target").arg(target).args(arguments);
        let outcome = Outcome::of(command);
        outcome.expect(tile, 0, "");
        let report: Value = serde_json::from_slice(&outcome.stdout).unwrap();
        report["pictures"][0]["provenance"]["tiles"]["decoder"].clone()
    };
    assert_eq!(told("64", &[]), serde_json::json!([64, 64]));
    assert_eq!(told("64", &["--tile", "off"]), Value::Null);
    assert_eq!(told("off", &["--tile", "32"]), serde_json::json!([32, 32]));
    assert_eq!(told("auto", &[]), Value::Null);
}
