//! What the README shows is what the program reads; its Rust is compiled by the library's doc tests.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use safelight::{Stage, Target};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The README's code blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    blocks_of("README.md", language)
}

fn blocks_of(file: &str, language: &str) -> Vec<String> {
    let text = read(file);
    let blocks = text.split("```").skip(1).step_by(2);
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

/// The examples' fields are all known: only their files are missing.
#[test]
fn manifests_are_understood() {
    let manual = blocks_of("docs/model-yaml.md", "yaml");
    assert_eq!(manual.len(), 2);
    for manifest in [&blocks("yaml")[2], &manual[0], &manual[1]] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.yaml"), manifest).unwrap();
        for vocabulary in ["tokenizer.json", "tokenizer_2.json"] {
            std::fs::write(folder.path().join(vocabulary), "{}").unwrap();
        }
        let error = safelight::Model::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(".onnx: is missing"), "{error}");
    }
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
