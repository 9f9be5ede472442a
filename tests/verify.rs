//! A device is held to the numbers that came with a model, or to the CPU's.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::{Outcome, Place, copy_folder, repository, tiny};
use ndarray::{Array1, Array4, Array5, ArrayD, s};
use ndarray_npy::{NpzReader, NpzWriter};
use safelight::model::Golden;
use safelight::verify::{Numbers, compare, psnr_db, verify};
use safelight::{Event, Model, Pipeline, Precision, Request, Sampling, Target};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

mod common;

const FIRST_GOLDEN: &str = "golden/a-red-apple-3.npz";

/// The arrays of a golden.
struct Arrays {
    initial: Array4<f32>,
    steps: Array5<f32>,
    latents: Array4<f32>,
    images: Array4<u8>,
}

impl Arrays {
    fn read(path: &Path) -> Self {
        let mut file = NpzReader::new(File::open(path).unwrap()).unwrap();
        Self {
            initial: file.by_name("initial").unwrap(),
            steps: file.by_name("steps").unwrap(),
            latents: file.by_name("latents").unwrap(),
            images: file.by_name("images").unwrap(),
        }
    }

    fn of(numbers: &Numbers) -> Self {
        let (batch, channels, rows, columns) = numbers.noise.dim();
        let steps = numbers.estimates.iter().flatten().copied().collect();
        let (width, height) = numbers.pixels.dimensions();
        let images = Array4::from_shape_vec((1, height as usize, width as usize, 3), numbers.pixels.to_vec());
        Self {
            initial: numbers.noise.clone(),
            steps: Array5::from_shape_vec((numbers.estimates.len(), batch, channels, rows, columns), steps).unwrap(),
            latents: numbers.latent.clone().insert_axis(ndarray::Axis(0)),
            images: images.unwrap(),
        }
    }

    fn write(&self, path: &Path) {
        let mut file = NpzWriter::new(File::create(path).unwrap());
        file.add_array("initial", &self.initial).unwrap();
        file.add_array("steps", &self.steps).unwrap();
        file.add_array("latents", &self.latents).unwrap();
        file.add_array("images", &self.images).unwrap();
        file.finish().unwrap();
    }
}

fn emoji() -> PathBuf {
    repository().join("models/emoji")
}

fn open(model: &Model, precision: Precision) -> Pipeline {
    let target = Target::open(&repository().join("targets/generic-cpu.yaml")).unwrap();
    Pipeline::open(&target.with_precision(vec![precision]).with_threads(1), model).unwrap()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A copy of the shipped model whose first golden is changed, with the manifest telling its new length and hash.
fn with_golden(place: &Place, change: impl FnOnce(&Path)) -> PathBuf {
    let copy = place.inputs().join("emoji");
    if !copy.exists() {
        copy_folder(&emoji(), &copy);
    }
    fs::copy(emoji().join(FIRST_GOLDEN), copy.join(FIRST_GOLDEN)).unwrap();
    change(&copy.join(FIRST_GOLDEN));
    let bytes = fs::read(copy.join(FIRST_GOLDEN)).unwrap();
    let manifest = fs::read_to_string(emoji().join("model.yaml")).unwrap();
    let (before, after) = manifest.split_once(&format!("{FIRST_GOLDEN}, bytes: ")).unwrap();
    let (_, after) = after.split_once(" }").unwrap();
    let entry = format!("{FIRST_GOLDEN}, bytes: {}, sha256: {} }}", bytes.len(), hash(&bytes));
    fs::write(copy.join("model.yaml"), format!("{before}{entry}{after}")).unwrap();
    copy
}

fn verified(place: &Place, model: &Path, arguments: &[&str]) -> Outcome {
    let mut command = place.command(["verify", "--threads", "1", "--model"]);
    command.arg(model).args(arguments);
    let outcome = Outcome::of(command);
    assert_eq!(place.left(), [""; 0]);
    outcome
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout).unwrap()
}

fn text(outcome: &Outcome) -> String {
    String::from_utf8(outcome.stdout.clone()).unwrap()
}

#[test]
fn the_shipped_model_is_within_its_bounds_in_every_precision() {
    let place = Place::new();
    for precision in ["int8", "fp16"] {
        let outcome = verified(&place, &emoji(), &["--precision", precision]);
        outcome.expect(precision, 0, "");
        let told = text(&outcome);
        assert_eq!(told.matches("  passed: within the bound of rel. L2").count(), 3, "{told}");
        assert!(told.contains(&format!("denoiser {precision} on cpu")), "{told}");
        assert!(told.contains("\"a red apple\", seed 3, 4 steps, against golden/a-red-apple-3.npz"), "{told}");
    }
}

/// Largest absolute difference, relative L2 distance and cosine, by arrays instead of sums.
fn difference(expected: ArrayD<f32>, found: ArrayD<f32>) -> [(&'static str, f64); 3] {
    let flat = |array: ArrayD<f32>| Array1::from_iter(array.iter().map(|&x| f64::from(x)));
    let (expected, found) = (flat(expected), flat(found));
    let norm = |array: &Array1<f64>| array.dot(array).sqrt();
    let off = &found - &expected;
    [
        ("max_abs", off.iter().fold(0.0, |most, x| x.abs().max(most))),
        ("relative_l2", norm(&off) / norm(&expected)),
        ("cosine", expected.dot(&found) / norm(&expected) / norm(&found)),
    ]
}

#[track_caller]
fn assert_difference(told: &Value, expected: ArrayD<f32>, found: ArrayD<f32>) {
    for (name, value) in difference(expected, found) {
        let told = told[name].as_f64().unwrap();
        assert!((told - value).abs() <= 1e-9 * value.abs() + 1e-15, "{name}: {told}, expected {value}");
    }
    assert_eq!(told.as_object().unwrap().len(), 3);
}

#[test]
fn every_number_of_the_report_is_what_an_own_computation_gives() {
    let model = Model::open(&emoji()).unwrap();
    let golden = Arrays::read(&emoji().join(FIRST_GOLDEN));
    let mut pipeline = open(&model, Precision::Int8);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    pipeline.on_event(move |event| match event {
        Event::Noise { latent, .. } => sink.lock().unwrap().push((*latent).clone().into_dyn()),
        Event::Step { denoised, .. } => sink.lock().unwrap().push((*denoised).clone().into_dyn()),
        _ => (),
    });
    let request =
        Request { prompt: "a red apple".into(), seed: 3, sampling: Sampling::in_steps(4), ..Request::default() };
    let picture = pipeline.generate(&request).unwrap().pictures.remove(0);
    let seen = seen.lock().unwrap();

    let outcome = verified(&Place::new(), &emoji(), &["--target", "generic-cpu", "--precision", "int8", "--json"]);
    outcome.expect("json", 0, "");
    let report = json(&outcome);
    assert_eq!(
        (&report["model"], &report["target"], &report["passed"]),
        (&"emoji".into(), &"generic-cpu".into(), &true.into())
    );
    assert_eq!(report["graphs"]["decoder"]["precision"], "int8");
    assert_eq!((report["comparisons"].as_array().unwrap().len(), &report["retries"]), (3, &Value::Null));
    let told = &report["comparisons"][0];
    assert_eq!(told["request"], serde_json::json!({ "prompt": "a red apple", "seed": 3, "steps": 4 }));
    assert_eq!((&told["against"]["precision"], &told["passed"]), (&"fp16".into(), &true.into()));
    let told = &told["outcome"];
    assert_difference(&told["noise"], golden.initial.into_dyn(), seen[0].clone());
    assert_eq!(told["steps"].as_array().unwrap().len(), 4);
    for step in 0..4 {
        let expected = golden.steps.slice(s![step, .., .., .., ..]).to_owned().into_dyn();
        assert_difference(&told["steps"][step], expected, seen[step + 1].clone());
    }
    assert_difference(
        &told["latent"],
        golden.latents.into_dyn(),
        picture.latent.insert_axis(ndarray::Axis(0)).into_dyn(),
    );
    let squares =
        golden.images.iter().zip(picture.pixels.as_raw()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    let psnr_db = 20.0 * 255.0_f64.log10() - 10.0 * (squares.sum::<f64>() / golden.images.len() as f64).log10();
    assert!((told["psnr_db"].as_f64().unwrap() - psnr_db).abs() < 1e-9, "{psnr_db}");
    assert_eq!(told["bound"], serde_json::json!({ "relative_l2": 0.2, "psnr_db": 25.0 }));
    assert_eq!((&told["first_divergence"], &told["warnings"]), (&Value::Null, &serde_json::json!([])));
}

/// Changes an array of a golden.
type Shift = fn(&mut Arrays);

/// What is done to a golden's file, and what is then told.
type Damage<'a> = (&'a dyn Fn(&Path), &'a str);

/// A change of arrays as one of their file.
fn shifted(change: Shift) -> impl FnOnce(&Path) {
    move |path| {
        let mut arrays = Arrays::read(path);
        change(&mut arrays);
        arrays.write(path);
    }
}

#[test]
fn shifted_numbers_are_beyond_the_bound_and_the_first_of_them_is_named() {
    #[rustfmt::skip]
    let cases: [(Shift, &str, Value); 4] = [
        (|arrays| arrays.initial += 1e-3, "the initial noise", serde_json::json!({ "at": "noise" })),
        (|arrays| arrays.steps.slice_mut(s![1.., .., .., .., ..]).mapv_inplace(|x| x + 0.5), "step 2", serde_json::json!({ "at": "step", "step": 2 })),
        (|arrays| arrays.latents *= 1.5, "the final latent", serde_json::json!({ "at": "latent" })),
        (|arrays| arrays.images.mapv_inplace(|x| x / 2), "the picture", serde_json::json!({ "at": "picture" })),
    ];
    let place = Place::new();
    for (change, at, divergence) in cases {
        let model = with_golden(&place, shifted(change));
        let outcome = verified(&place, &model, &["--precision", "fp16", "--json"]);
        outcome.expect(at, 6, &format!("1 of 3 comparisons failed: \"a red apple\", seed 3: first in {at}"));
        let report = json(&outcome);
        assert_eq!((&report["passed"], &report["comparisons"][1]["passed"]), (&false.into(), &true.into()));
        assert_eq!(report["comparisons"][0]["outcome"]["first_divergence"], divergence);
        assert_eq!(report["retries"], Value::Null);
        let told = text(&verified(&place, &model, &["--precision", "fp16"]));
        assert!(told.contains(&format!("FAILED: from {at} on beyond the bound of rel. L2 0.05 and 35 dB")), "{told}");
    }
}

#[test]
fn goldens_that_are_damaged_or_of_another_model_are_refused() {
    let place = Place::new();
    let header = |path: &Path, text: &str| {
        let mut bytes = fs::read(path).unwrap();
        let start = bytes.windows(6).position(|bytes| bytes == b"\x93NUMPY").unwrap() + 10;
        bytes[start..start + text.len()].copy_from_slice(text.as_bytes());
        fs::write(path, bytes).unwrap();
    };
    let cut = |path: &Path, keep: usize| fs::write(path, &fs::read(path).unwrap()[..keep]).unwrap();
    #[rustfmt::skip]
    let cases: [Damage; 7] = [
        (&|path| shifted(|arrays| arrays.latents = Array4::zeros((1, 24, 8, 9)))(path), "'shape':(1,24,8,9)}, but this model's golden has {'descr':'<f4'"),
        (&|path| shifted(|arrays| arrays.steps = arrays.steps.slice(s![..3, .., .., .., ..]).to_owned())(path), "'shape':(3,1,24,8,8)}"),
        (&|path| shifted(|arrays| arrays.initial.fill(f32::NAN))(path), "array \"initial\" holds NaN"),
        (&|path| header(path, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 999999999, 999999999, 3), }"), "'shape':(1,999999999,999999999,3)}"),
        (&|path| cut(path, 40_000), "a-red-apple-3.npz: is not an uncompressed NumPy archive"),
        (&|path| cut(path, 80_000), "invalid Zip archive"),
        (&|path| fs::write(path, "not an archive").unwrap(), "is not an uncompressed NumPy archive"),
    ];
    for (change, telling) in cases {
        verified(&place, &with_golden(&place, change), &[]).expect(telling, 3, telling);
    }
    let model = with_golden(&place, |_| ());
    let path = model.join(FIRST_GOLDEN);
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    verified(&place, &model, &[]).expect("hash", 3, "a-red-apple-3.npz: sha256 is");
    fs::remove_file(&path).unwrap();
    verified(&place, &model, &[]).expect("missing", 3, "a-red-apple-3.npz: is missing");
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{}: {from:?}", file.display());
    fs::write(file, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_golden_may_have_a_bound_of_its_own_which_must_be_one() {
    let place = Place::new();
    let bounded = |bound: &str| {
        let model = with_golden(&place, |_| ());
        edit(&model.join("model.yaml"), "seed: 3,", &format!("seed: 3, bounds: {{ int8: {bound} }},"));
        model
    };
    let tight = bounded("{ relative_l2: 0.001, psnr_db: 30 }");
    verified(&place, &tight, &["--precision", "int8"]).expect("tight", 6, "1 of 3 comparisons failed");
    verified(&place, &tight, &["--precision", "fp16"]).expect("another precision", 0, "");
    let beyond = bounded("{ relative_l2: .nan, psnr_db: 30 }");
    verified(&place, &beyond, &[]).expect(
        "nan",
        3,
        "goldens: bounds.int8: relative_l2 NaN and psnr_db 30, expected both",
    );
    verified(&place, &bounded("{ psnr: 30 }"), &[]).expect("unknown", 3, "unknown field `psnr`");
}

#[test]
fn a_model_without_goldens_is_compared_with_the_cpu() {
    let place = Place::new();
    let model = tiny("tiny-sd");
    verified(&place, &model, &[]).expect(
        "no goldens",
        2,
        "has no goldens; compare with the CPU instead: --against cpu",
    );
    verified(&place, &model, &["--prompt", "x"]).expect("prompt alone", 2, "--against");
    let arguments = ["--against", "cpu", "--prompt", "a blue cat", "--steps", "3", "--seed", "5", "--json"];
    let outcome = verified(&place, &model, &arguments);
    outcome.expect("cpu", 0, "");
    let report = json(&outcome);
    assert!(report["notes"][0].as_str().unwrap().contains("only shows that it repeats itself"), "{report}");
    let told = &report["comparisons"][0];
    assert_eq!(told["against"], "cpu");
    assert_eq!(told["request"], serde_json::json!({ "prompt": "a blue cat", "seed": 5, "steps": 3 }));
    assert_eq!((&told["outcome"]["psnr_db"], &told["outcome"]["latent"]["max_abs"]), (&Value::Null, &0.0.into()));
}

#[test]
fn staged_graphs_are_told_with_the_providers_that_ran_them() {
    let place = Place::new();
    let target = place.input(
        "board.yaml",
        "schema: safelight-target/1\nname: board\ntitle: T\nprecision: [int8]\nresidency: staged\n\
         providers: [{ name: cpu, need: required }]\n",
    );
    let outcome = verified(&place, &emoji(), &["--target", target.to_str().unwrap(), "--json"]);
    outcome.expect("staged", 0, "");
    for stage in ["text_encoder", "denoiser", "decoder"] {
        assert_eq!(json(&outcome)["graphs"][stage]["providers"][0], "cpu", "{stage}");
    }
}

#[test]
fn the_goldens_requests_can_be_compared_with_the_cpu_too() {
    let outcome = verified(&Place::new(), &emoji(), &["--against", "cpu", "--precision", "int8", "--json"]);
    outcome.expect("cpu", 0, "");
    let report = json(&outcome);
    let prompts: Vec<_> =
        report["comparisons"].as_array().unwrap().iter().map(|told| &told["request"]["prompt"]).collect();
    assert_eq!(prompts, ["a red apple", "a blue house", "penguin, glossy style"]);
    assert!(report["comparisons"].as_array().unwrap().iter().all(|told| told["against"] == "cpu"));
}

#[test]
fn nan_on_the_cpu_itself_is_told_as_such() {
    let place = Place::new();
    let model = place.copy_of("tiny-sd");
    fs::copy(tiny("faulty/denoiser_nan_later.onnx"), model.join("unet/model.onnx")).unwrap();
    let outcome = verified(&place, &model, &["--against", "cpu", "--steps", "4"]);
    outcome.expect("nan", 6, "on the CPU: denoiser: step ");
}

/// A model of tiny-sd's graphs in FP32 with a golden of them, whose INT8 graphs are the same, but for one.
fn coarse(place: &Place, stage: &str, faulty: &str) -> PathBuf {
    let folder = place.inputs().join("coarse");
    fs::create_dir(&folder).unwrap();
    let mut stages = String::new();
    for (name, source) in [("text_encoder", "text_encoder"), ("denoiser", "unet"), ("decoder", "vae_decoder")] {
        let good = tiny("tiny-sd").join(source).join("model.onnx");
        let int8 = if name == stage { tiny("faulty").join(faulty) } else { good.clone() };
        let entry = |precision: &str, from: &Path| {
            let bytes = fs::read(from).unwrap();
            fs::write(folder.join(format!("{name}.{precision}.onnx")), &bytes).unwrap();
            format!(
                "{precision}: {{ file: {name}.{precision}.onnx, bytes: {}, sha256: {} }}",
                bytes.len(),
                hash(&bytes)
            )
        };
        stages += &format!("  {name}: {{ graphs: {{ {}, {} }} }}\n", entry("int8", &int8), entry("fp32", &good));
    }
    fs::copy(emoji().join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    let manifest = format!(
        "schema: safelight-model/1\nname: coarse\ntitle: A model\nlicence: Apache-2.0\n\
         picture: {{ width: 64, height: 64, multiple: 8 }}\nlatent: {{ channels: 4, downscale: 8, scale: 0.18215 }}\n\
         training: {{ beta_start: 0.00085, beta_end: 0.012, betas: scaled_linear, prediction: epsilon }}\n\
         tokenizer: {{ file: tokenizer.json, length: 16, start: 0, end: 1, pad: 1 }}\n\
         defaults: {{ sampler: ddim, schedule: trailing, steps: 2, guidance: 1.0 }}\nstages:\n{stages}"
    );
    fs::write(folder.join("model.yaml"), &manifest).unwrap();
    let model = Model::open(&folder).unwrap();
    let request = Request { prompt: "a cat".into(), seed: 4, sampling: Sampling::in_steps(3), ..Request::default() };
    let (numbers, _) = Numbers::record(&mut open(&model, Precision::Fp32), &request).unwrap();
    Arrays::of(&numbers).write(&folder.join("golden.npz"));
    let bytes = fs::read(folder.join("golden.npz")).unwrap();
    let golden = format!(
        "goldens: [{{ prompt: a cat, seed: 4, steps: 3, precision: fp32, file: golden.npz, bytes: {}, sha256: {} }}]\n",
        bytes.len(),
        hash(&bytes)
    );
    fs::write(folder.join("model.yaml"), manifest + &golden).unwrap();
    folder
}

/// A target like the generic one, in which failed comparisons are retried.
fn retrying(place: &Place) -> String {
    let target = fs::read_to_string(repository().join("targets/generic-cpu.yaml")).unwrap();
    let target = target.replace("name: generic-cpu", "name: retrying") + "verify: { retry: true }\n";
    place.input("retrying.yaml", target).display().to_string()
}

#[test]
fn a_stage_that_is_too_coarse_is_found() {
    #[rustfmt::skip]
    let cases: [(&str, &str, &str, &[&str]); 4] = [
        ("decoder", "decoder_nan.onnx", "decoder: the picture has NaN", &["decoder"]),
        ("decoder", "decoder_black.onnx", "decoder: the picture is all black", &["decoder"]),
        ("denoiser", "denoiser_nan_later.onnx", "denoiser: step ", &["decoder", "denoiser"]),
        ("text_encoder", "text_encoder_nan.onnx", "text_encoder: gave NaN", &["decoder", "denoiser", "text_encoder"]),
    ];
    for (stage, faulty, error, tried) in cases {
        let place = Place::new();
        let model = coarse(&place, stage, faulty);
        let target = retrying(&place);
        // What is tried is what the target's file allows, whatever the command line had run first.
        let outcome = verified(&place, &model, &["--target", &target, "--precision", "int8", "--json"]);
        outcome.expect(faulty, 6, &format!("1 of 1 comparisons failed: \"a cat\", seed 4: {error}"));
        let report = json(&outcome);
        let told = &report["comparisons"][0];
        assert!(told["outcome"]["error"].as_str().unwrap().starts_with(error), "{told}");
        let retries = report["retries"].as_array().unwrap();
        let stages: Vec<_> = retries.iter().map(|retry| retry["tried"]["stage"].as_str().unwrap()).collect();
        assert_eq!(stages, tried);
        for retry in retries {
            let cured = retry["tried"]["stage"] == stage;
            assert_eq!(retry["passed"], cured, "{retry}");
            assert_eq!((&retry["tried"]["from"], &retry["tried"]["to"]), (&"int8".into(), &"fp32".into()));
            let outcome = &retry["tried"]["outcomes"][0];
            assert_eq!((outcome["error"].is_null(), outcome["steps"].is_null()), (cured, !cured), "{retry}");
        }
        let told = text(&verified(&place, &model, &["--target", &target]));
        let expected =
            format!("retry with {stage} in fp32 instead of int8: all 1 pass; give the target this precision for it");
        assert!(told.contains(&expected) && told.contains(&format!("FAILED: {error}")), "{told}");
        let plain = verified(&place, &model, &["--json"]);
        assert_eq!((plain.code, &json(&plain)["retries"]), (6, &Value::Null));
    }
}

#[test]
fn retries_that_help_nothing_are_told_too() {
    let place = Place::new();
    let target = retrying(&place);
    let model = with_golden(&place, shifted(|arrays| arrays.steps += 9.0));
    let told = text(&verified(&place, &model, &["--target", &target]));
    for stage in ["decoder", "denoiser", "text_encoder"] {
        assert!(told.contains(&format!("retry with {stage} in fp16 instead of int8: 2 of 3 pass")), "{told}");
    }
    let told = text(&verified(&place, &model, &["--target", &target, "--precision", "fp16"]));
    assert!(told.contains("no stage has a better precision that both model and target have"), "{told}");
}

#[test]
fn a_pipeline_keeps_its_observer() {
    let model = Model::open(&emoji()).unwrap();
    let mut pipeline = open(&model, Precision::Int8);
    let steps = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&steps);
    pipeline.on_event(move |event| *counter.lock().unwrap() += usize::from(matches!(event, Event::Step { .. })));
    let golden: &Golden = &model.goldens[0];
    assert!(verify(&mut pipeline, golden).unwrap().passed());
    assert!(verify(&mut pipeline, &model.goldens[1]).unwrap().passed());
    pipeline.generate(&golden.request()).unwrap();
    assert_eq!(*steps.lock().unwrap(), 4 + 2 + 4);
}

#[test]
fn comparisons_that_cannot_be_are_refused() {
    let model = Model::open(&emoji()).unwrap();
    let mut pipeline = open(&model, Precision::Int8);
    let golden = &model.goldens[0];
    let (expected, bound) = (Numbers::read(golden, &model).unwrap(), golden.bound(Precision::Int8));
    let two = Request { count: 2, ..golden.request() };
    let error = compare(&mut pipeline, &two, &expected, bound).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().contains("expected a request of one")),
        (safelight::ErrorKind::Usage, true)
    );
    let shorter = Request { sampling: Sampling::in_steps(2), ..golden.request() };
    let error = compare(&mut pipeline, &shorter, &expected, bound).unwrap_err();
    assert_eq!(error.to_string(), "2 steps were taken, but numbers of 4 are known");
}

/// Where the usual bound of INT8 comes from: 40 prompts with five seeds each.
#[test]
#[ignore = "takes minutes and only prints"]
fn int8_against_fp16() {
    let model = Model::open(&emoji()).unwrap();
    let (mut int8, mut fp16) = (open(&model, Precision::Int8), open(&model, Precision::Fp16));
    let prompts = fs::read_to_string(repository().join("exporter-specs/emoji/prompts.txt")).unwrap();
    let prompts: Vec<_> = prompts.lines().filter(|line| !line.is_empty()).collect();
    for steps in [1, 2, 4, 8] {
        let (mut worst_l2, mut psnr) = (Vec::new(), Vec::new());
        for (prompt, seed) in prompts.iter().flat_map(|prompt| (1..=5).map(move |seed| (prompt, seed))) {
            let request =
                Request { prompt: (*prompt).into(), seed, sampling: Sampling::in_steps(steps), ..Request::default() };
            let (expected, _) = Numbers::record(&mut fp16, &request).unwrap();
            let (found, _) = Numbers::record(&mut int8, &request).unwrap();
            let pairs = expected.estimates.iter().zip(&found.estimates);
            let l2 = pairs.map(|(expected, found)| safelight::verify::Difference::between(expected, found).relative_l2);
            worst_l2.push(l2.fold(0.0, f64::max));
            psnr.push(psnr_db(expected.pixels.as_raw(), found.pixels.as_raw()).unwrap_or(f64::INFINITY));
        }
        worst_l2.sort_by(f64::total_cmp);
        psnr.sort_by(f64::total_cmp);
        let at = |sorted: &[f64], share: f64| sorted[(share * (sorted.len() - 1) as f64).round() as usize];
        println!(
            "{steps} steps, {} pictures: relative L2 of the worst step: median {:.3}, 95 % {:.3}, most {:.3}; \
             PSNR: median {:.1}, 5 % {:.1}, least {:.1} dB",
            psnr.len(),
            at(&worst_l2, 0.5),
            at(&worst_l2, 0.95),
            at(&worst_l2, 1.0),
            at(&psnr, 0.5),
            at(&psnr, 0.05),
            at(&psnr, 0.0),
        );
    }
}
