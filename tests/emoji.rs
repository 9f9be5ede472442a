//! The shipped model does what its card says, as far as a few pictures can show; exporter-specs/emoji measures the rest.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use image::RgbImage;
use safelight::{Model, Pipeline, Precision, Request, Sampling, Target};

/// All of it must travel easily.
const MOST_BYTES: u64 = 32_000_000;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emoji")
}

fn open(precision: Precision) -> Pipeline {
    let target = Target::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("targets/generic-cpu.yaml")).unwrap();
    let model = Model::open(&folder()).unwrap();
    Pipeline::open(&target.with_precision(vec![precision]).with_threads(1), &model).unwrap()
}

fn picture(pipeline: &mut Pipeline, prompt: &str, steps: usize) -> RgbImage {
    let request = Request { prompt: prompt.into(), sampling: Sampling::in_steps(steps), seed: 5, ..Request::default() };
    let mut output = pipeline.generate(&request).unwrap();
    assert!(output.warnings.is_empty(), "{prompt}: {:?}", output.warnings);
    output.pictures.remove(0).pixels
}

/// Hue in degrees, saturation and value of a pixel.
fn hsv(pixel: &image::Rgb<u8>) -> (f64, f64, f64) {
    let [r, g, b] = pixel.0.map(|channel| f64::from(channel) / 255.0);
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    let span = high - low;
    let sixth = match high {
        _ if span == 0.0 => 0.0,
        _ if high == r => ((g - b) / span).rem_euclid(6.0),
        _ if high == g => (b - r) / span + 2.0,
        _ => (r - g) / span + 4.0,
    };
    (sixth * 60.0, if high == 0.0 { 0.0 } else { span / high }, high)
}

/// Share of a picture's colour, by saturation and value, that lies within 30 degrees of a hue.
fn share_of_hue(picture: &RgbImage, wanted: f64) -> f64 {
    let (mut near, mut all) = (0.0, 0.0);
    for (hue, saturation, value) in picture.pixels().map(hsv).filter(|hsv| hsv.1 > 0.25 && hsv.2 > 0.25) {
        let weight = saturation * value;
        all += weight;
        let distance = (hue - wanted).rem_euclid(360.0);
        near += if distance.min(360.0 - distance) <= 30.0 { weight } else { 0.0 };
    }
    near / f64::max(all, 1.0)
}

#[test]
fn things_have_the_colour_that_was_asked_for_in_one_step_and_in_many() {
    let mut pipeline = open(Precision::Int8);
    // The last three are combinations that training never saw.
    for (prompt, hue) in [
        ("a red apple", 0.0),
        ("a yellow star", 50.0),
        ("a blue heart", 215.0),
        ("a purple umbrella", 272.0),
        ("a blue house", 215.0),
        ("a green key", 115.0),
        ("a turquoise backpack", 175.0),
    ] {
        for steps in [1, 2, 4, 8] {
            let share = share_of_hue(&picture(&mut pipeline, prompt, steps), hue);
            assert!(share > 0.5, "{prompt}, {steps} steps: {share:.2} of the colour");
        }
    }
}

#[test]
fn pictures_stand_on_white() {
    let mut pipeline = open(Precision::Int8);
    for prompt in ["a red apple", "penguin", "guitar", ""] {
        let picture = picture(&mut pipeline, prompt, 4);
        for (x, y) in [(0, 0), (127, 0), (0, 127), (127, 127)] {
            assert!(picture.get_pixel(x, y).0.iter().all(|&channel| channel > 200), "{prompt}: corner {x}, {y}");
        }
    }
}

#[test]
fn int8_makes_nearly_the_pictures_of_fp16() {
    let (mut int8, mut fp16) = (open(Precision::Int8), open(Precision::Fp16));
    for prompt in ["a red apple", "a blue house", "rocket, glossy style", "smiling face with sunglasses", "penguin"] {
        let (a, b) = (picture(&mut int8, prompt, 4), picture(&mut fp16, prompt, 4));
        let squares = a.iter().zip(b.iter()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
        let psnr_db = 10.0 * (255.0 * 255.0 * a.len() as f64 / squares.sum::<f64>()).log10();
        assert!(psnr_db > 18.0, "{prompt}: {psnr_db:.1} dB");
    }
}

#[test]
fn the_folder_travels_easily() {
    let size = |path: PathBuf| -> u64 {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        entries.sum()
    };
    let bytes = size(folder()) + size(folder().join("golden"));
    assert!(bytes <= MOST_BYTES, "{bytes} bytes");
}
