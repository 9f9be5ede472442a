//! A step allocates nothing that could be allocated before it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use safelight::noise::TorchCpu;
use safelight::options::Options;
use safelight::sampler::{Latent, Method, Part, Run, SAMPLERS, Steps, Tally};
use safelight::schedule::{Schedule, find_schedule};
use safelight::training::{Betas, DiffusionSpec, Level, Prediction, Training};
use safelight::{Checkpoint, Model, Pipeline, Request, Result, Sampling, Target};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What a piece of work allocates: how often, and how many bytes.
fn allocated<T>(work: impl FnOnce() -> T) -> (usize, usize) {
    let before = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
    work();
    (ALLOCATIONS.load(Ordering::Relaxed) - before.0, BYTES.load(Ordering::Relaxed) - before.1)
}

fn during(pipeline: &mut Pipeline, steps: usize, sampler: &str) -> (usize, usize) {
    let request = Request {
        prompt: "a red apple".into(),
        sampling: Sampling {
            steps: Some(steps),
            sampler: Some(sampler.into()),
            schedule: Some("trailing".into()),
            ..Sampling::default()
        },
        ..Request::default()
    };
    pipeline.generate(&request).unwrap();
    allocated(|| pipeline.generate(&request).unwrap())
}

/// One test for both, since what another one allocates meanwhile would be counted, too.
#[test]
fn steps_allocate_no_tensors() {
    assert_pipeline_allocates_no_tensors();
    assert_putting_back_allocates_no_tensors();
    assert_checkpoints_allocate_no_tensors();
    assert_samplers_allocate_nothing();
}

fn assert_pipeline_allocates_no_tensors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Target::open(&root.join("targets/generic-cpu.yaml")).unwrap().with_threads(1);
    let model = Model::open(&root.join("models/emoji")).unwrap();
    let mut pipeline = Pipeline::open(&target, &model).unwrap();
    let latent_bytes = 24 * 8 * 8 * 4;
    for sampler in ["lcm", "ddim", "euler"] {
        let (few, few_bytes) = during(&mut pipeline, 2, sampler);
        let (many, many_bytes) = during(&mut pipeline, 8, sampler);
        let (a_step, bytes_a_step) = ((many - few) as f64 / 6.0, (many_bytes - few_bytes) as f64 / 6.0);
        println!("{sampler}: {a_step} allocations of {bytes_a_step} bytes a step");
        // What is left are a few small ones of the binding, which names inputs and wraps the output anew.
        assert!(bytes_a_step < latent_bytes as f64 / 4.0, "{sampler}: {bytes_a_step} bytes a step");
        assert!(a_step < 12.0, "{sampler}: {a_step} allocations a step");
    }
}

/// What the graph gave is written down after each run.
fn assert_checkpoints_allocate_no_tensors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Target::open(&root.join("targets/generic-cpu.yaml")).unwrap().with_threads(1);
    let model = Model::open(&root.join("models/emoji")).unwrap();
    let mut pipeline = Pipeline::open(&target, &model).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [few, many] = [2, 8].map(|steps| {
        let request =
            Request { prompt: "a red apple".into(), sampling: Sampling::in_steps(steps), ..Request::default() };
        pipeline.generate(&request).unwrap();
        let path = folder.path().join(steps.to_string());
        let requests = std::slice::from_ref(&request);
        pipeline.set_checkpoint(Some(Checkpoint::create(&path, 1, requests, (&model, &target)).unwrap()));
        let (times, bytes) = allocated(|| pipeline.generate(&request).unwrap());
        pipeline.set_checkpoint(None);
        (times as f64, bytes as f64)
    });
    let (a_step, bytes_a_step) = ((many.0 - few.0) / 6.0, (many.1 - few.1) / 6.0);
    println!("checkpoint: {a_step} allocations of {bytes_a_step} bytes a step");
    assert!(bytes_a_step < f64::from(24 * 8 * 8 * 4) / 4.0, "{bytes_a_step} bytes a step");
    assert!(a_step < 12.0, "{a_step} allocations a step");
}

/// A part of a picture is put back after each step.
fn assert_putting_back_allocates_no_tensors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Target::open(&root.join("targets/generic-cpu.yaml")).unwrap().with_threads(1);
    let model = Model::open(&root.join("models/emoji")).unwrap();
    let mut pipeline = Pipeline::open(&target, &model).unwrap();
    let image = image::RgbImage::from_fn(128, 128, |x, y| image::Rgb([x as u8, y as u8, 9]));
    let mask = image::GrayImage::from_fn(128, 128, |x, _| image::Luma([if x < 64 { 0 } else { 255 }]));
    let (image, mask) = (Arc::new(image.into()), Arc::new(mask.into()));
    let [few, many] = [2, 8].map(|steps| {
        let sampling = Sampling { sampler: Some("euler".into()), ..Sampling::in_steps(steps) };
        let request =
            Request { image: Some(Arc::clone(&image)), mask: Some(Arc::clone(&mask)), sampling, ..Request::default() };
        pipeline.generate(&request).unwrap();
        allocated(|| pipeline.generate(&request).unwrap()).1
    });
    let bytes_a_step = (many - few) as f64 / 6.0;
    println!("putting back: {bytes_a_step} bytes a step");
    assert!(bytes_a_step < f64::from(24 * 8 * 8 * 4) / 4.0, "{bytes_a_step} bytes a step");
}

fn assert_samplers_allocate_nothing() {
    let training = training();
    for method in SAMPLERS.iter().filter(|method| method.steps == Steps::Any) {
        let [few, many] = [10, 20].map(|steps| walk(method, &training, steps));
        assert_eq!(many, few, "{}: allocations and bytes of 20 steps, and of 10", method.name);
    }
}

/// What a sampler allocates in so many steps of a latent of SD's size, with a denoiser that allocates nothing.
fn walk(method: &Method, training: &Training, steps: usize) -> (usize, usize) {
    let none = BTreeMap::new();
    let timetable = find_schedule(method.schedule.unwrap_or("trailing")).unwrap();
    let tuned = Options::resolve(&[(timetable.name, timetable.options)], &none).unwrap();
    let schedule = Schedule::new(training, timetable, method.grid, steps, &tuned).unwrap();
    let options = Options::resolve(&[(method.name, method.options)], &none).unwrap();
    let mut source = TorchCpu::new(7);
    let mut noise = |latent: &mut Latent, _: Level, _: Level| {
        source.fill(latent.as_slice_mut().unwrap());
        Ok(())
    };
    let mut denoiser = |x: &Latent, at: Level, denoised: &mut Latent| -> Result<()> {
        denoised.zip_mut_with(x, |denoised, x| *denoised = x / (at.alpha.hypot(at.sigma) as f32));
        Ok(())
    };
    let mut run = Run {
        levels: &schedule.levels,
        training,
        options: &options,
        noise: &mut noise,
        on_step: &mut |_| Ok(()),
        part: Part { before: 0, of: steps },
        tally: Tally::default(),
    };
    let x = Latent::from_elem((1, 4, 64, 64), schedule.initial_scale as f32);
    allocated(|| (method.sample)(&mut denoiser, x, &mut run).unwrap())
}

fn training() -> Training {
    Training::new(DiffusionSpec {
        timesteps: 1000,
        beta_start: 0.00085,
        beta_end: 0.012,
        betas: Betas::ScaledLinear,
        zero_terminal_snr: false,
        prediction: Prediction::Epsilon,
        steps_offset: 1,
        set_alpha_to_one: false,
        original_steps: 50,
        timestep_scaling: 10.0,
    })
    .unwrap()
}
