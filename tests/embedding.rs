//! What an application finds of its process after it has made pictures: nothing else than before.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::thread;

use common::repository;
use safelight::{Cancel, ErrorKind, Event, Model, Picture, Pipeline, Request, Sampling, Target};

mod common;

/// What all threads of a process share.
#[derive(Debug, PartialEq)]
struct Shared {
    folder: PathBuf,
    variables: BTreeMap<OsString, OsString>,
    /// The signals that are caught, ignored and blocked, as Linux tells them.
    signals: Vec<String>,
    children: Vec<String>,
}

impl Shared {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let is_signals = |line: &&str| ["SigCgt", "SigIgn", "SigBlk"].iter().any(|name| line.starts_with(name));
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        Self {
            folder: std::env::current_dir().unwrap(),
            variables: std::env::vars_os().collect(),
            signals: status.lines().filter(is_signals).map(str::to_owned).collect(),
            children: children.filter(|children| !children.is_empty()).collect(),
        }
    }
}

fn pipeline() -> Pipeline {
    let target = Target::open(&repository().join("targets/generic-cpu.yaml")).unwrap();
    Pipeline::open(&target, &Model::open(&repository().join("models/emoji")).unwrap()).unwrap()
}

fn request(seed: u64, steps: usize) -> Request {
    Request { prompt: "a red apple".into(), seed, sampling: Sampling::in_steps(steps), ..Request::default() }
}

fn picture(pipeline: &mut Pipeline, request: &Request) -> safelight::Result<Picture> {
    Ok(pipeline.generate(request)?.pictures.remove(0))
}

/// Alone in this file: other tests would change what it looks at.
#[test]
fn pipelines_run_side_by_side_and_leave_the_process_as_it_was() {
    let mut before = Shared::now();
    before.variables.insert("ORT_DISABLE_TELEMETRY".into(), "1".into());

    let mut first = pipeline();
    let alone = picture(&mut first, &request(7, 2)).unwrap();
    // Made here, used there, and given back.
    let moved = thread::spawn(move || (picture(&mut first, &request(7, 2)).unwrap().pixels, first));
    let others = [7, 8].map(|seed| thread::spawn(move || picture(&mut pipeline(), &request(seed, 2)).unwrap().pixels));
    let cancelled = thread::spawn(|| {
        let mut pipeline = pipeline();
        let long = request(7, 50);
        let cancel = long.cancel.clone();
        pipeline.on_event(move |event| {
            if matches!(event, Event::Step { step: 1, .. }) {
                cancel.cancel();
            }
        });
        assert_eq!(pipeline.generate(&long).unwrap_err().kind(), ErrorKind::Cancelled);
        // What was cancelled is over, and a handle of its own lets the next one run.
        pipeline.on_event(|_| ());
        picture(&mut pipeline, &Request { cancel: Cancel::new(), ..request(7, 2) }).unwrap().pixels
    });

    let (pixels, mut first) = moved.join().unwrap();
    let [same, other] = others.map(|thread| thread.join().unwrap());
    assert!(pixels == alone.pixels && same == alone.pixels && cancelled.join().unwrap() == alone.pixels);
    assert_ne!(other, alone.pixels);
    assert_eq!(picture(&mut first, &request(7, 2)).unwrap().latent, alone.latent);
    drop(first);
    assert_eq!(Shared::now(), before);
}
