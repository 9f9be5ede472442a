//! Previews are what the picture would be if their step were the last, and change nothing.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex};

use image::RgbImage;
use safelight::{Event, Model, Output, Pipeline, Request, Sampling, Target};

type Heard = Vec<(usize, usize, RgbImage)>;

fn pipeline() -> Pipeline {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Target::open(&root.join("targets/generic-cpu.yaml")).unwrap();
    Pipeline::open(&target, &Model::open(&root.join("models/emoji")).unwrap()).unwrap()
}

/// What is made, and the previews on the way: index of the picture, step from 0.
fn generate(timesteps: &[f64], count: usize, preview_every: usize) -> (Output, Heard) {
    let mut pipeline = pipeline();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&heard);
    pipeline.on_event(move |event| {
        if let Event::Preview { index, step, pixels } = event {
            sink.lock().unwrap().push((*index, *step, (*pixels).clone()));
        }
    });
    let sampling = Sampling { sampler: Some("ddim".into()), timesteps: timesteps.to_vec(), ..Sampling::default() };
    let request = Request {
        prompt: "a red apple".into(),
        seed: 7,
        sampling,
        count,
        batch: count,
        preview_every,
        ..Request::default()
    };
    let output = pipeline.generate(&request).unwrap();
    let heard = std::mem::take(&mut *heard.lock().unwrap());
    (output, heard)
}

#[test]
fn a_preview_is_the_picture_of_a_shorter_trajectory() {
    let (output, heard) = generate(&[999.0, 749.0, 499.0, 249.0], 1, 1);
    assert_eq!(heard.iter().map(|(index, step, _)| (*index, *step)).collect::<Vec<_>>(), [(0, 0), (0, 1), (0, 2)]);
    let (first_step_alone, none) = generate(&[999.0], 1, 1);
    // After the last step comes the picture itself.
    assert!(none.is_empty());
    let pairs = heard[0].2.as_raw().iter().zip(first_step_alone.pictures[0].pixels.as_raw());
    assert!(pairs.map(|(a, b)| a.abs_diff(*b)).max() <= Some(1));
    assert!(output.timings.preview_ms > 0.0 && output.timings.denoiser_ms > 0.0);
}

#[test]
fn previews_change_no_picture_and_come_for_each_of_a_batch() {
    let timesteps = [999.0, 749.0, 499.0, 249.0];
    let (with, heard) = generate(&timesteps, 2, 2);
    let (without, none) = generate(&timesteps, 2, 0);
    assert!(none.is_empty() && without.timings.preview_ms == 0.0);
    assert_eq!(heard.iter().map(|(index, step, _)| (*index, *step)).collect::<Vec<_>>(), [(0, 1), (1, 1)]);
    for (with, without) in with.pictures.iter().zip(&without.pictures) {
        assert!(with.pixels == without.pixels);
    }
}
