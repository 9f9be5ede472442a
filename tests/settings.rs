//! What a target file says reaches ONNX Runtime. One test, alone in its process: it counts threads.

#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::path::Path;

use safelight::{Model, Pipeline, Request, Target};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Opens the emoji model with a session setting; returns the pipeline and how many threads that started.
fn open(session: &str) -> (Pipeline, usize) {
    let target = format!(
        "schema: safelight-target/1\nname: test\ntitle: test\nproviders: [{{ name: cpu, need: required }}]\n\
         precision: [int8]\nsession: {{ {session} }}\n"
    );
    let model = Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emoji")).unwrap();
    let before = threads();
    let pipeline = Pipeline::open(&Target::parse(&target).unwrap(), &model).unwrap();
    (pipeline, threads() - before)
}

fn picture(session: &str) -> Vec<u8> {
    let request = Request { prompt: "a red apple".into(), ..Request::default() };
    open(session).0.generate(&request).unwrap().pictures.remove(0).pixels.into_raw()
}

#[test]
fn session_settings_reach_the_library() {
    // The first pipeline also starts what the library keeps for itself.
    drop(open("intra_threads: 1"));
    assert_eq!(open("intra_threads: 1").1, 0);
    // Three graphs; the thread that calls counts as one of each graph's.
    assert_eq!(open("intra_threads: 3").1, 6);
    let across = open("intra_threads: 1, inter_threads: 3").1;
    assert!(across >= 6, "{across} threads across nodes");

    let usual = picture("intra_threads: 1");
    assert_eq!(picture("intra_threads: 1, arena: false, memory_pattern: false, spinning: true"), usual);
    // Without its fusions the library computes quantised graphs in floats, which moves some pixels.
    assert_ne!(picture("intra_threads: 1, keys: { session.disable_quant_qdq: true }"), usual);
}
