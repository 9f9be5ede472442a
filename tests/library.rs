//! The library as an application embeds it.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use safelight::{Cancel, ErrorKind, Event, Model, Pipeline, Request, Sampling, Target};

const SMALL: (usize, usize) = (64, 64);
/// Large enough for one run of a tiny graph to take most of a second.
const LARGE: (usize, usize) = (2048, 2048);

fn tiny_pipeline() -> Pipeline {
    pipeline("tests/models/tiny-sd", "")
}

/// A model on the CPU, with more lines in its target file.
fn pipeline(model: &str, extra: &str) -> Pipeline {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = format!(
        "schema: safelight-target/1\nname: test\ntitle: test\nproviders: [{{ name: cpu, need: required }}]\n\
         precision: [int8, fp32, fp16]\n{extra}\n"
    );
    let model = Model::open(&root.join(model)).unwrap();
    Pipeline::open(&Target::parse(&target).unwrap(), &model).unwrap()
}

fn latents(pipeline: &mut Pipeline, request: &Request) -> Vec<f32> {
    pipeline.generate(request).unwrap().pictures.iter().flat_map(|picture| picture.latent.clone()).collect()
}

fn warnings(pipeline: &mut Pipeline, request: &Request) -> String {
    pipeline.generate(request).unwrap().warnings.join("; ")
}

fn one_step(size: (usize, usize)) -> Request {
    Request {
        prompt: "a red apple".into(),
        seed: 7,
        sampling: Sampling::in_steps(1),
        size: Some(size),
        ..Request::default()
    }
}

#[test]
fn cancelling_stops_a_running_graph_and_the_pipeline_goes_on() {
    let mut pipeline = tiny_pipeline();
    let expected = pipeline.generate(&one_step(SMALL)).unwrap().pictures.remove(0).pixels;
    let start = Instant::now();
    pipeline.generate(&one_step(LARGE)).unwrap();
    let whole = start.elapsed();

    let request = one_step(LARGE);
    let (begun, wait) = mpsc::channel();
    pipeline.on_event(move |event| {
        if matches!(event, Event::Noise { .. }) {
            let _ = begun.send(Instant::now());
        }
    });
    let cancel = request.cancel.clone();
    let canceller = std::thread::spawn(move || {
        wait.recv().unwrap();
        // Into the run of the denoiser, which is the greater part of it all.
        std::thread::sleep(whole / 10);
        cancel.cancel();
        Instant::now()
    });
    let error = pipeline.generate(&request).unwrap_err();
    let late = canceller.join().unwrap().elapsed();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(late < whole / 2, "stopped {late:?} after the cancellation; the whole takes {whole:?}");

    let again = pipeline.generate(&one_step(SMALL)).unwrap().pictures.remove(0).pixels;
    assert!(again == expected, "a cancelled generation has changed the next one");
}

#[test]
fn a_request_that_is_cancelled_already_never_starts() {
    let mut pipeline = tiny_pipeline();
    let cancel = Cancel::new();
    cancel.cancel();
    let start = Instant::now();
    let error = pipeline.generate(&Request { cancel, ..one_step(LARGE) }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[test]
fn a_batch_larger_than_the_graph_takes_is_made_in_parts() {
    let mut pipeline = pipeline("tests/models/tiny-static", "");
    let one = |seed| Request { seed, ..one_step(SMALL) };
    let alone: Vec<f32> = (7..10).flat_map(|seed| latents(&mut pipeline, &one(seed))).collect();
    let together = latents(&mut pipeline, &Request { count: 3, batch: 3, ..one(7) });
    assert_eq!(together, alone);
}

#[test]
fn pictures_of_a_batch_are_those_made_alone() {
    let mut pipeline = pipeline("tests/models/tiny-sd", "");
    let request = Request { guidance: Some(7.5.into()), sampling: Sampling::in_steps(3), ..one_step(SMALL) };
    let alone: Vec<f32> =
        (7..10).flat_map(|seed| latents(&mut pipeline, &Request { seed, ..request.clone() })).collect();
    let together = latents(&mut pipeline, &Request { count: 3, batch: 2, ..request });
    let worst = together.iter().zip(&alone).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn opening_for_one_size_changes_no_number() {
    let mut fixed = pipeline("tests/models/tiny-sd", "session: { fixed_shapes: true }");
    let mut free = pipeline("tests/models/tiny-sd", "session: { fixed_shapes: false }");
    for size in [SMALL, (128, 64), SMALL] {
        let request = Request { guidance: Some(3.0.into()), ..one_step(size) };
        assert_eq!(latents(&mut fixed, &request), latents(&mut free, &request), "{size:?}");
    }
}

/// Quantised graphs compute in integers once they are optimised, and in floats before: the setting shows in the
/// numbers, for one stage alone, too.
#[test]
fn graph_optimization_reaches_the_session_of_each_stage() {
    // Rounding hides most of the difference: several pictures of many steps, so that some of it shows.
    let request =
        Request { prompt: "a red apple".into(), sampling: Sampling::in_steps(8), count: 4, ..Request::default() };
    let run = |extra| latents(&mut pipeline("models/emoji", extra), &request);
    let all = run("session: { graph_optimization: all }");
    assert_eq!(all, run("session: { graph_optimization: all, arena: false, memory_pattern: false }"));
    let none = run("session: { graph_optimization: disabled }");
    assert_ne!(all, none);
    assert_eq!(all, run("stages: { decoder: { session: { graph_optimization: disabled } } }"));
    assert_eq!(
        none,
        run(
            "stages: { denoiser: { session: { graph_optimization: disabled } }, text_encoder: { session: { graph_optimization: disabled } } }"
        )
    );
}

#[test]
fn what_has_no_effect_is_told() {
    let mut tiny = tiny_pipeline();
    let request = |negative: &str, guidance: f64| Request {
        negative: Some(negative.into()),
        guidance: Some(guidance.into()),
        ..one_step(SMALL)
    };
    assert!(warnings(&mut tiny, &request("blurry", 1.0)).contains("guidance 1 is off"));
    assert_eq!(warnings(&mut tiny, &request("blurry", 2.0)).matches("negative").count(), 0);
    let mut embedding = pipeline("tests/models/tiny-lcm", "");
    assert!(warnings(&mut embedding, &request("blurry", 2.0)).contains("as an input"));
}

#[test]
fn asking_for_more_than_a_model_was_made_for_is_told_with_the_reason() {
    let mut emoji = pipeline("models/emoji", "");
    let request = Request { sampling: Sampling::in_steps(9), guidance: Some(7.5.into()), ..Request::default() };
    let told = warnings(&mut emoji, &request);
    for expected in
        ["made for 1 to 8 steps", "made for guidance 1 to 1", "distilled for 1 to 8 steps", "you asked for 7.5"]
    {
        assert!(told.contains(expected), "{expected}: {told}");
    }
}

#[test]
fn a_pipeline_opened_for_a_request_need_not_open_again() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Target::open(&root.join("targets/generic-cpu.yaml")).unwrap();
    let model = Model::open(&root.join("tests/models/tiny-sd")).unwrap();
    let wide = Request { guidance: Some(7.5.into()), count: 4, batch: 2, ..one_step((128, 64)) };
    let mut usual = Pipeline::open(&target, &model).unwrap();
    let mut meant = Pipeline::open_for(&target, &model, &wide).unwrap();
    assert!(usual.generate(&wide).unwrap().timings.reopen_ms > 0.0);
    assert_eq!(usual.generate(&wide).unwrap().timings.reopen_ms, 0.0, "open for any size by now");
    assert_eq!(meant.generate(&wide).unwrap().timings.reopen_ms, 0.0);
}

#[test]
fn pictures_are_handed_over_as_they_are_made() {
    let mut pipeline = tiny_pipeline();
    let request = Request { count: 5, ..one_step(SMALL) };
    let mut seeds = Vec::new();
    let outcome = pipeline.generate_each(&request, |picture| {
        seeds.push(picture.provenance.seed);
        if seeds.len() == 2 {
            request.cancel.cancel();
        }
        Ok(())
    });
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(seeds, [7, 8], "what was made before the cancellation is the caller's already");

    let full = |_| Err(safelight::Error::new(ErrorKind::Io, "the disk is full"));
    let outcome = pipeline.generate_each(&Request { cancel: Cancel::new(), ..request }, full);
    assert_eq!(outcome.unwrap_err().to_string(), "the disk is full");
}

#[test]
fn a_target_bounds_what_is_asked_of_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = Model::open(&root.join("tests/models/tiny-sd")).unwrap();
    let target = std::fs::read_to_string(root.join("targets/generic-cpu.yaml")).unwrap();
    let opened = |limit: &str, request: &Request| {
        let target = Target::parse(&format!("{target}limits: {{ {limit} }}\n")).unwrap();
        Pipeline::open_for(&target, &model, request).map(drop)
    };
    let request = Request { count: 3, batch: 2, ..one_step(SMALL) };
    opened("max_pixels: 4096, max_steps: 1, max_count: 3, max_batch: 2, max_prompt_bytes: 11", &request).unwrap();
    for limit in ["max_pixels: 4095", "max_count: 2", "max_batch: 1", "max_prompt_bytes: 10", "max_graph_bytes: 8000"] {
        let error = opened(limit, &request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{limit}: {error}");
    }
    let two_steps = Request { sampling: Sampling::in_steps(2), ..request };
    assert_eq!(opened("max_steps: 1", &two_steps).unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn a_pipeline_can_be_given_to_a_worker() {
    let mut pipeline = tiny_pipeline();
    let worker = std::thread::spawn(move || pipeline.generate(&one_step(SMALL)).map(|output| output.pictures.len()));
    assert_eq!(worker.join().unwrap().unwrap(), 1);
}

#[test]
fn a_sampler_that_cannot_leave_pure_noise_in_few_steps_is_told() {
    let mut emoji = pipeline("models/emoji", "");
    let mut told = |sampler: &str, steps| {
        let sampling = Sampling { sampler: Some(sampler.into()), ..Sampling::in_steps(steps) };
        warnings(&mut emoji, &Request { prompt: "a red apple".into(), sampling, ..Request::default() })
    };
    assert!(told("heun", 4).contains("sampler heun needs 20 to 50 steps"));
    for (sampler, steps) in [("heun", 1), ("heun", 50), ("dpmpp_2m", 4)] {
        assert!(!told(sampler, steps).contains("pure noise"), "{sampler} {steps}");
    }
}
