//! What the README shows is what the program reads; its Rust is compiled by the library's doc tests.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use safelight::{Stage, Target};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The README's code blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = read("README.md");
    let blocks = readme.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| Some(block.strip_prefix(language)?.trim_start().to_owned())).collect()
}

#[test]
fn the_target_is_the_one_that_is_shipped() {
    assert_eq!(blocks("yaml")[0], read("targets/x86-64.yaml"));
}

#[test]
fn a_stage_can_differ_as_shown() {
    let target = Target::parse(&format!("{}{}", blocks("yaml")[0], blocks("yaml")[1])).unwrap();
    assert_eq!(target.stage(Stage::Decoder).session.intra_threads, Some(1));
    assert_ne!(target.stage(Stage::Decoder).precision, target.stage(Stage::Denoiser).precision);
}

/// The example's fields are all known: only its files are missing.
#[test]
fn the_manifest_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.yaml"), &blocks("yaml")[2]).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let error = safelight::Model::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("text_encoder.int8.onnx: is missing"), "{error}");
}

#[test]
fn samplers_and_vectors_are_as_many_as_shown() {
    let readme = read("README.md");
    let golden: serde_json::Value = serde_json::from_str(&read("tests/golden/samplers.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let runs: usize = cases.iter().map(|case| case["predictions"].as_array().unwrap().len()).sum();
    let thousands = |count: usize| format!("{},{:03}", count / 1000, count % 1000);
    for told in [
        format!("{} of them", safelight::sampler::SAMPLERS.len()),
        format!("{} vectors", thousands(cases.len())),
        format!("{} runs", thousands(runs)),
    ] {
        assert!(readme.contains(&told), "{told}");
    }
}
