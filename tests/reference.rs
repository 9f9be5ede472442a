//! The same numbers as diffusers on PyTorch's CPU. Goldens: tests/reference/make_goldens.py.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use common::{Place, copy_folder};
use ndarray::{Array4, Array5, ArrayView3, Axis, s};
use ndarray_npy::NpzReader;
use safelight::model::list_models;
use safelight::options::Options;
use safelight::prompt::{LongPrompts, Syntax};
use safelight::schedule::{Grid, Schedule, find_schedule};
use safelight::target::Limits;
use safelight::training::{Betas, DiffusionSpec, Prediction, Training, TrainingSpec};
use safelight::{Curve, InputMask, InputPicture, Model, NoiseLayout, Pipeline, Precision, Request, Sampling, Target};
use serde::Deserialize;

/// The bar for latents: relative L2 distance.
const LATENT_TOLERANCE: f32 = 1e-3;
/// The bar for pictures.
const LEAST_PSNR_DB: f64 = 45.0;

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    precision: Precision,
    prompts: Vec<String>,
    negative: String,
    guidance: f64,
    eta: f64,
    seed: u64,
    batch: usize,
    noise: NoiseLayout,
    height: usize,
    width: usize,
    sampler: String,
    schedule: String,
    steps: usize,
    #[serde(default)]
    syntax: Syntax,
    #[serde(default)]
    long_prompts: LongPrompts,
    #[serde(default)]
    layout: Layout,
    #[serde(default)]
    conditions: BTreeMap<String, f64>,
    image: Option<PathBuf>,
    mask: Option<PathBuf>,
    strength: Option<f64>,
}

/// How a case's folder is read.
#[derive(Deserialize, Default, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Layout {
    /// As it is.
    #[default]
    Manifest,
    /// Without its manifest.
    Optimum,
}

struct Golden {
    latents: Array4<f32>,
    images: Array4<u8>,
    /// Of pipelines that tell them.
    steps: Option<Array5<f32>>,
    initial: Array4<f32>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn golden(path: &Path) -> Golden {
    let mut file = NpzReader::new(File::open(path).unwrap()).unwrap();
    Golden {
        latents: file.by_name("latents").unwrap(),
        images: file.by_name("images").unwrap(),
        steps: file.by_name("steps").ok(),
        initial: file.by_name("initial").unwrap(),
    }
}

fn all_cases(file: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(root().join("tests/golden").join(file)).unwrap();
    let Cases { cases } = serde_json::from_str(&text).unwrap();
    cases
}

fn cases(model: &str) -> Vec<Case> {
    let chosen: Vec<_> = all_cases("pipelines.json").into_iter().filter(|case| case.model.ends_with(model)).collect();
    assert!(!chosen.is_empty(), "no golden case of {model}");
    chosen
}

impl Case {
    fn options(&self) -> BTreeMap<String, Curve> {
        (self.eta > 0.0).then(|| ("eta".to_owned(), self.eta.into())).into_iter().collect()
    }

    fn requests(&self) -> Vec<Request> {
        let limits = Limits::default();
        let request = |seed, count, prompt: &String| Request {
            prompt: prompt.clone(),
            syntax: self.syntax,
            long_prompts: self.long_prompts,
            negative: Some(self.negative.clone()).filter(|negative| !negative.is_empty()),
            conditions: self.conditions.clone(),
            sampling: Sampling {
                sampler: Some(self.sampler.clone()),
                schedule: Some(self.schedule.clone()),
                steps: Some(self.steps),
                options: self.options(),
                strength: self.strength,
                ..Sampling::default()
            },
            image: self.image.as_ref().map(|path| InputPicture::open(&root().join(path), &limits).unwrap().into()),
            mask: self.mask.as_ref().map(|path| InputMask::open(&root().join(path), &limits).unwrap().into()),
            guidance: Some(self.guidance.into()),
            seed,
            count,
            batch: count,
            noise: self.noise,
            size: Some((self.width, self.height)),
            ..Request::default()
        };
        match self.prompts.as_slice() {
            [prompt] => vec![request(self.seed, self.batch, prompt)],
            // No words steer this model.
            [] => vec![request(self.seed, self.batch, &String::new())],
            // A picture for each prompt, made alone: with a generator a picture, its neighbours do not matter.
            prompts => prompts.iter().zip(self.seed..).map(|(prompt, seed)| request(seed, 1, prompt)).collect(),
        }
    }
}

/// Runs every golden case of a model.
fn check_model(name: &str) {
    let cases = cases(name);
    let mut pipeline = open(&root().join(&cases[0].model), cases[0].precision);
    for case in &cases {
        let golden = golden(&root().join(format!("tests/golden/{}.npz", case.name)));
        check(&case.name, &mut pipeline, &case.requests(), &golden);
    }
}

fn open(model: &Path, precision: Precision) -> Pipeline {
    let target = Target::open(&root().join("targets/generic-cpu.yaml")).unwrap();
    Pipeline::open(&target.with_precision(vec![precision]).with_threads(1), &Model::open(model).unwrap()).unwrap()
}

/// Compares initial noise, each step's estimate, final latents and pictures.
fn check(name: &str, pipeline: &mut Pipeline, requests: &[Request], golden: &Golden) {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = std::sync::Arc::clone(&seen);
    pipeline.on_event(move |event| match event {
        safelight::Event::Noise { latent, .. } => sink.lock().unwrap().push((*latent).clone()),
        safelight::Event::Step { denoised, .. } => sink.lock().unwrap().push((*denoised).clone()),
        _ => (),
    });
    let mut index = 0;
    for request in requests {
        seen.lock().unwrap().clear();
        let output = pipeline.generate(request).unwrap();
        let rows = index..index + output.pictures.len();
        let seen = seen.lock().unwrap();
        let initial = golden.initial.slice(s![rows.clone(), .., .., ..]);
        assert!(distance(initial.iter(), seen[0].iter()) < 1e-6, "{name}: initial noise");
        if let Some(steps) = &golden.steps {
            assert_eq!(seen.len(), steps.len_of(Axis(0)) + 1, "{name}: steps");
        }
        for (step, denoised) in seen[1..].iter().enumerate() {
            let Some(steps) = &golden.steps else { break };
            let expected = steps.slice(s![step, rows.clone(), .., .., ..]);
            let distance = distance(expected.iter(), denoised.iter());
            assert!(distance < LATENT_TOLERANCE, "{name}: step {step} is off by {distance:.2e}");
        }
        for picture in &output.pictures {
            let expected = golden.latents.index_axis(Axis(0), index);
            let distance = distance(expected.iter(), picture.latent.iter());
            assert!(distance < LATENT_TOLERANCE, "{name}: picture {index}: latents are off by {distance:.2e}");
            let psnr = psnr_db(golden.images.index_axis(Axis(0), index), &picture.pixels);
            assert!(psnr >= LEAST_PSNR_DB, "{name}: picture {index}: {psnr:.1} dB");
            println!("{name} {index}: latents {distance:.1e}, picture {psnr:.1} dB");
            index += 1;
        }
    }
    assert_eq!(index, golden.images.len_of(Axis(0)), "{name}: pictures");
}

/// Relative L2 distance.
fn distance<'a>(expected: impl Iterator<Item = &'a f32>, got: impl Iterator<Item = &'a f32>) -> f32 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (expected, got) in expected.zip(got) {
        difference += f64::from(expected - got).powi(2);
        norm += f64::from(*expected).powi(2);
    }
    (difference / norm).sqrt() as f32
}

fn psnr_db(expected: ArrayView3<u8>, got: &image::RgbImage) -> f64 {
    assert_eq!(expected.dim(), (got.height() as usize, got.width() as usize, 3));
    let squares = expected.iter().zip(got.as_raw()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    let mean = squares.sum::<f64>() / expected.len() as f64;
    if mean == 0.0 { f64::INFINITY } else { 10.0 * (255.0 * 255.0 / mean).log10() }
}

#[test]
fn stable_diffusion_layout_equals_diffusers() {
    check_model("tiny-sd");
}

#[test]
fn guidance_embedding_equals_diffusers() {
    check_model("tiny-lcm");
}

#[test]
fn half_precision_and_static_batch_equal_diffusers() {
    check_model("tiny-static");
}

#[test]
fn shipped_model_equals_diffusers() {
    check_model("emoji");
}

/// A tiny model of each family's architecture, exported by `exporter-specs`, against diffusers' own pipeline of it.
#[test]
fn every_family_equals_diffusers() {
    let mut folders: BTreeMap<(String, Layout), Vec<Case>> = BTreeMap::new();
    for case in all_cases("families.json") {
        folders.entry((case.model.clone(), case.layout)).or_default().push(case);
    }
    for ((model, layout), cases) in folders {
        let place = Place::new();
        let folder = match layout {
            Layout::Manifest => root().join(&model),
            Layout::Optimum => {
                let copy = place.inputs().join("model");
                copy_folder(&root().join(&model), &copy);
                // Packs of the older layout never had one.
                let _ = std::fs::remove_file(copy.join("model.yaml"));
                copy
            }
        };
        let mut pipeline = open(&folder, cases[0].precision);
        for case in &cases {
            let golden = golden(&root().join(format!("tests/golden/families/{}.npz", case.name)));
            check(&case.name, &mut pipeline, &case.requests(), &golden);
        }
    }
}

/// The numbers that travel with the shipped models are this machine's, too.
#[test]
fn shipped_goldens_are_met() {
    for path in list_models(&[root().join("models")]) {
        let model = Model::open(&path).unwrap();
        assert!(!model.goldens.is_empty(), "{} ships no goldens", model.name);
        for known in &model.goldens {
            let request = Request {
                prompt: known.prompt.clone(),
                seed: known.seed,
                sampling: Sampling::in_steps(known.steps),
                ..Request::default()
            };
            let name = format!("{} \"{}\"", model.name, known.prompt);
            check(&name, &mut open(&path, known.precision), &[request], &golden(&known.numbers.path));
        }
    }
}

#[derive(Deserialize)]
struct Schedules {
    alphas_cumprod: Vec<AlphasCumprod>,
    ddim: Vec<Timesteps>,
    euler: Vec<Sigmas>,
    lcm: Vec<Timesteps>,
}

#[derive(Deserialize)]
struct AlphasCumprod {
    beta_schedule: Betas,
    beta_start: f64,
    beta_end: f64,
    rescale_betas_zero_snr: bool,
    indexes: Vec<usize>,
    values: Vec<f64>,
}

#[derive(Deserialize)]
struct Timesteps {
    #[serde(default = "lcm")]
    spacing: String,
    #[serde(default)]
    steps_offset: usize,
    steps: usize,
    timesteps: Vec<f64>,
}

#[derive(Deserialize)]
struct Sigmas {
    spacing: String,
    steps_offset: usize,
    steps: usize,
    rescale_betas_zero_snr: bool,
    timesteps: Vec<f64>,
    sigmas: Vec<f64>,
    init_noise_sigma: f64,
}

fn lcm() -> String {
    "lcm".into()
}

fn schedules() -> Schedules {
    serde_json::from_str(&std::fs::read_to_string(root().join("tests/golden/schedules.json")).unwrap()).unwrap()
}

fn training(zero_terminal_snr: bool, steps_offset: usize) -> Training {
    let spec = DiffusionSpec {
        timesteps: 1000,
        beta_start: 0.00085,
        beta_end: 0.012,
        betas: Betas::ScaledLinear,
        zero_terminal_snr,
        prediction: Prediction::V,
        steps_offset,
        set_alpha_to_one: true,
        original_steps: 50,
        timestep_scaling: 10.0,
    };
    Training::new(spec).unwrap()
}

#[test]
fn betas_equal_diffusers() {
    for case in schedules().alphas_cumprod {
        let TrainingSpec::Diffusion(usual) = training(false, 0).spec().clone() else { unreachable!() };
        let spec = DiffusionSpec {
            beta_start: case.beta_start,
            beta_end: case.beta_end,
            betas: case.beta_schedule,
            zero_terminal_snr: case.rescale_betas_zero_snr,
            ..usual
        };
        let table = Training::new(spec).unwrap();
        for (&index, &expected) in case.indexes.iter().zip(&case.values) {
            let got = table.alphas_cumprod()[index];
            assert!(
                (got - expected).abs() <= 1e-5 * expected + 1e-7,
                "{:?} {index}: {got} {expected}",
                case.beta_schedule
            );
        }
    }
}

#[test]
fn timesteps_equal_diffusers() {
    let Schedules { ddim, lcm, .. } = schedules();
    for case in ddim.into_iter().chain(lcm) {
        if starts_at_the_clean_end(&case.spacing, case.steps) {
            continue;
        }
        let timetable = find_schedule(&case.spacing).unwrap();
        let schedule = Schedule::new(
            &training(false, case.steps_offset),
            timetable,
            Grid::Timesteps,
            case.steps,
            &Options::default(),
        )
        .unwrap();
        let got: Vec<_> = schedule.levels.iter().take(case.steps).map(|level| level.timestep).collect();
        let rounded: Vec<_> = got.iter().map(|t| t.round_ties_even()).collect();
        assert_eq!(rounded, case.timesteps, "{} {}", case.spacing, case.steps);
    }
}

#[test]
fn sigmas_equal_diffusers() {
    for case in schedules().euler {
        if starts_at_the_clean_end(&case.spacing, case.steps) {
            continue;
        }
        let told = format!("{} offset {} n {}", case.spacing, case.steps_offset, case.steps);
        let training = training(case.rescale_betas_zero_snr, case.steps_offset);
        let timetable = find_schedule(&case.spacing).unwrap();
        let schedule = Schedule::new(&training, timetable, Grid::Sigmas, case.steps, &Options::default()).unwrap();
        assert_eq!(schedule.levels.len(), case.sigmas.len(), "{told}");
        for (level, &sigma) in schedule.levels.iter().zip(&case.sigmas) {
            let ratio = level.sigma / level.alpha;
            // Near its noisy end a zero-terminal-SNR ratio magnifies the reference's single precision.
            assert!((ratio - sigma).abs() <= 2e-3 * sigma, "{told}: {ratio} {sigma}");
        }
        for (level, &timestep) in schedule.levels.iter().zip(&case.timesteps) {
            assert!((level.timestep - timestep).abs() < 1e-3, "{told}: {} {timestep}", level.timestep);
        }
        let initial = schedule.initial_scale / schedule.levels[0].alpha;
        assert!(
            (initial - case.init_noise_sigma).abs() <= 2e-3 * initial,
            "{told}: {initial} {}",
            case.init_noise_sigma
        );
    }
}

/// NumPy's linspace of one point is its start: diffusers then asks the model about a clean latent and gives it
/// noise. safelight starts at the noisy end instead, on purpose.
fn starts_at_the_clean_end(spacing: &str, steps: usize) -> bool {
    spacing == "linspace" && steps == 1
}
