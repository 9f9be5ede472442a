//! The library as an application embeds it.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use safelight::{Cancel, ErrorKind, Event, Model, Pipeline, Request, Target};

const SMALL: (usize, usize) = (64, 64);
/// Large enough for one run of a tiny graph to take most of a second.
const LARGE: (usize, usize) = (2048, 2048);

fn tiny_pipeline() -> Pipeline {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Target::open(&root.join("targets/generic-cpu.yaml")).unwrap();
    let model = Model::open(&root.join("tests/models/tiny-sd")).unwrap();
    Pipeline::open(&target, &model).unwrap()
}

fn one_step(size: (usize, usize)) -> Request {
    Request { prompt: "a red apple".into(), seed: 7, steps: Some(1), size: Some(size), ..Request::default() }
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
