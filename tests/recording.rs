//! What graphs are given along real trajectories, written down for calibrating their quantisation.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use common::{Outcome, Place, repository, tiny};
use ndarray::{ArrayD, Axis};
use ndarray_npy::{NpzReader, ReadableElement};
use serde_json::Value;

mod common;

fn array<T: ReadableElement>(path: &Path, name: &str) -> ArrayD<T> {
    NpzReader::new(File::open(path).unwrap()).unwrap().by_name(name).unwrap()
}

fn close(a: &ArrayD<f32>, b: &ArrayD<f32>) -> bool {
    let worst = a.iter().zip(b).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
    a.shape() == b.shape() && worst < 1e-3 * b.iter().fold(1f32, |most, b| most.max(b.abs()))
}

fn record(place: &Place, more: &[&str]) -> Outcome {
    let mut command = place.command(["generate", "a red apple", "--seed", "7", "--sampler", "ddim", "--model"]);
    command.arg(tiny("tiny-sd")).args([
        "--schedule",
        "trailing",
        "--guidance",
        "7.5",
        "--record-calibration",
        "tensors",
    ]);
    Outcome::of({
        command.args(more);
        command
    })
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn about(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("calibration.json")).unwrap()).unwrap()
}

/// α² of a timestep, of the betas that Stable Diffusion was trained with.
fn alpha_squared(timestep: i64) -> f64 {
    let [first, last] = [0.00085f64, 0.012].map(f64::sqrt);
    let beta = |t: i64| (first + (last - first) * t as f64 / 999.0).powi(2);
    (0..=timestep).map(|t| 1.0 - beta(t)).product()
}

/// Where DDIM goes on to from `latent` (Song et al. 2020, arXiv:2010.02502, equation 12, eta 0).
fn ddim(latent: &ArrayD<f32>, estimate: &ArrayD<f32>, from: i64, to: i64) -> ArrayD<f32> {
    let [from, to] = [from, to].map(alpha_squared);
    let noise = (latent - &(estimate * from.sqrt() as f32)) / (1.0 - from).sqrt() as f32;
    estimate * to.sqrt() as f32 + noise * (1.0 - to).sqrt() as f32
}

/// The trajectory that diffusers made, from its noise by its estimates: `tests/reference.rs` holds ours to the same.
#[test]
fn the_inputs_are_those_of_the_golden_trajectory() {
    let place = Place::new();
    record(&place, &["--steps", "8"]).expect("record", 0, "seed 7");
    let folder = place.work().join("tensors");
    let file = |stage: &str, index: usize| folder.join(format!("{stage}-{index:06}.npz"));
    let golden = repository().join("tests/golden/sd-ddim-trailing.npz");
    let estimates = array::<f32>(&golden, "steps.npy");
    let mut expected = array::<f32>(&golden, "initial.npy");
    for index in 0..8 {
        let time = 999 - 125 * index as i64;
        let sample = array::<f32>(&file("denoiser", index), "sample.npy");
        assert_eq!(sample.shape(), [2, 4, 8, 8], "both halves of guidance");
        for row in sample.axis_iter(Axis(0)) {
            assert!(close(&row.insert_axis(Axis(0)).to_owned(), &expected), "step {index}");
        }
        let timestep = array::<i64>(&file("denoiser", index), "timestep.npy");
        assert_eq!((timestep.ndim(), timestep.first()), (0, Some(&time)));
        assert_eq!(array::<f32>(&file("denoiser", index), "encoder_hidden_states.npy").shape()[0], 2);
        expected = ddim(&expected, &estimates.index_axis(Axis(0), index).to_owned(), time, time - 125);
    }
    let latent = array::<f32>(&golden, "latents.npy") / 0.18215;
    assert!(close(&array(&file("decoder", 0), "latent_sample.npy"), &latent));
    assert_eq!(names(&folder).len(), 1 + 8 + 1 + 2, "both prompts, the steps, the picture, and what they are");
    assert_eq!(names(&folder)[0], "calibration.json");
}

#[test]
fn recordings_are_continued_and_bounded_and_told() {
    let place = Place::new();
    let prompts = place.input("prompts", "a cat\na dog\na house\n");
    record(&place, &["--steps", "2"]).expect("first", 0, "seed 7");
    let mut more = place.command(["generate", "--seed", "7", "--steps", "4", "--out", "pictures/", "--model"]);
    more.arg(tiny("tiny-sd")).arg("--prompts").arg(prompts);
    more.args(["--record-calibration", "tensors", "--record-limit", "3", "--guidance", "1", "--sampler", "ddim"]);
    Outcome::of(more).expect("more", 0, "seed 7");
    let folder = place.work().join("tensors");
    let of = |stage: &str| names(&folder).into_iter().filter(|name| name.starts_with(stage)).collect::<Vec<_>>();
    assert_eq!(of("denoiser"), (0..5).map(|index| format!("denoiser-{index:06}.npz")).collect::<Vec<_>>());
    assert_eq!((of("decoder").len(), of("text_encoder").len()), (4, 5));

    let about = about(&folder);
    let sessions = about["sessions"].as_array().unwrap();
    assert_eq!((about["schema"].as_str(), sessions.len()), (Some("safelight-calibration/1"), 2));
    let denoiser = serde_json::json!({ "first": 2, "files": 3, "runs": 12 });
    assert_eq!((&sessions[1]["recorded"]["denoiser"], &sessions[1]["limit"]), (&denoiser, &3.into()));
    let requests = sessions[1]["requests"].as_array().unwrap();
    let prompts: Vec<_> = requests.iter().map(|request| request["prompt"].as_str().unwrap()).collect();
    assert_eq!(prompts, ["a cat", "a dog", "a house"]);
    assert_eq!((&requests[0]["seed"], &requests[0]["steps"]), (&7.into(), &4.into()));
    assert_eq!(sessions[0]["graphs"]["denoiser"]["sha256"].as_str().unwrap().len(), 64);

    let mut other = place.command(["generate", "a cat", "--model", "emoji", "--record-calibration", "tensors"]);
    other.args(["--out", "other.png"]);
    Outcome::of(other).expect("another model", 2, "tensors: holds recordings of another text_encoder graph");
}

#[test]
fn half_precision_is_written_as_it_is() {
    let place = Place::new();
    let mut command = place.command(["generate", "a cat", "--seed", "7", "--steps", "1", "--model"]);
    command.arg(tiny("tiny-static")).args(["--precision", "fp16", "--record-calibration", "tensors"]);
    Outcome::of(command).expect("half", 0, "seed 7");
    let bytes = fs::read(place.work().join("tensors/denoiser-000000.npz")).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("'descr': '<f2'") && text.contains("(1, 4, 8, 8)"), "{text}");
}

#[test]
fn what_cannot_be_recorded_is_refused_before_anything_is_computed() {
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--record-calibration", "FILE"], 7, "cannot be created: File exists"),
        (&["--record-calibration", "/proc"], 7, "cannot be written: "),
        (&["--record-calibration", "tensors", "--record-limit", "0"], 2, "0 files a stage, expected 1 to 1000000"),
        (&["--record-limit", "2"], 2, "--record-calibration"),
    ];
    let place = Place::new();
    let file = place.input("file", "").display().to_string();
    for (arguments, code, telling) in cases {
        let mut command = place.without_library(["generate", "x", "--model"]);
        command.arg(tiny("tiny-sd")).args(arguments.iter().map(|argument| argument.replace("FILE", &file)));
        Outcome::of(command).expect(telling, code, telling);
        assert_eq!(place.left(), [""; 0]);
    }
}

/// A file that cannot be written ends the generation, and what was recorded before is whole.
#[test]
fn a_full_place_ends_the_generation() {
    let place = Place::new();
    let blocked: PathBuf = place.work().join("tensors/denoiser-000001.npz");
    fs::create_dir_all(blocked.join("in the way")).unwrap();
    record(&place, &["--steps", "2"]).expect("blocked", 0, "seed 7");
    assert!(place.work().join("tensors/denoiser-000003.npz").exists(), "it goes on behind what is there");
    let place = Place::new();
    fs::create_dir_all(place.work().join("tensors/calibration.json")).unwrap();
    record(&place, &["--steps", "2"]).expect("blocked", 7, "calibration.json: ");
}
