//! What steers a model besides one text encoder: a second one, numbers, nothing. Numbers are in `reference.rs`.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Outcome, Place, copy_folder, tiny};
use sha2::{Digest as _, Sha256};

fn family(name: &str) -> PathBuf {
    tiny("families").join(name)
}

fn generate(place: &Place, model: &Path, prompt: Option<&str>, arguments: &[&str]) -> Outcome {
    let model = ["--model", model.to_str().unwrap(), "--seed", "3", "--target", "generic-cpu"];
    let words = prompt.into_iter().chain(model).chain(arguments.iter().copied());
    Outcome::of(place.command(["generate"].into_iter().chain(words)))
}

/// The pixels of a picture that was made, without what is written beside them.
fn pixels(place: &Place, name: &str) -> Vec<u8> {
    image::open(place.work().join(name)).unwrap().to_rgb8().into_raw()
}

#[test]
fn what_a_model_does_not_take_is_told() {
    let place = Place::new();
    for (model, prompt, arguments, telling) in [
        (
            "dit",
            None,
            &["--condition", "class=1000"][..],
            "condition \"class\" is 1000, expected a whole number from 0 to 999",
        ),
        ("dit", None, &["--condition", "class=1.5"], "condition \"class\" is 1.5, expected a whole number"),
        ("dit", None, &["--condition", "class=nan"], "condition \"class\" is NaN"),
        ("dit", None, &["--condition", "clas=1"], "unknown condition \"clas\"; known: class; did you mean \"class\""),
        ("dit", None, &["--condition", "class"], "expected NAME=NUMBER"),
        ("dit", Some("a cat"), &[], "model \"dit\" reads no prompt; leave it out; it has conditions: class"),
        ("dit", None, &["--negative", "dogs"], "reads no prompt"),
        ("ldm", Some("a cat"), &[], "model \"ldm\" reads no prompt; leave it out"),
        ("ldm", None, &["--guidance", "3"], "guidance has nothing to lead away from"),
        ("ldm", None, &["--condition", "class=1"], "model \"ldm\" has no conditions, you gave \"class\""),
        ("sdxl", None, &[], "what should the picture show?"),
        ("sd15", Some("a cat"), &["--condition", "class=1"], "model \"sd15\" has no conditions"),
    ] {
        generate(&place, &family(model), prompt, arguments).expect(model, 2, telling);
    }
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn a_condition_changes_the_picture_and_is_written_down() {
    let place = Place::new();
    for (class, out) in [("class=1", "one.png"), ("class=2", "two.png"), ("class=207", "default.png")] {
        generate(&place, &family("dit"), None, &["--steps", "2", "--condition", class, "--out", out])
            .expect(out, 0, "");
    }
    generate(&place, &family("dit"), None, &["--steps", "2", "--out", "none.png"]).expect("none", 0, "");
    assert_ne!(pixels(&place, "one.png"), pixels(&place, "two.png"));
    assert_eq!(pixels(&place, "none.png"), pixels(&place, "default.png"));
    let told = generate(&place, &family("dit"), None, &["--steps", "2", "--condition", "class=2", "--json"]).stdout;
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(told["pictures"][0]["provenance"]["conditions"]["class"], 2.0);
    assert_eq!(told["pictures"][0]["provenance"]["evaluations"], 2);
}

#[test]
fn guidance_in_turn_makes_the_same_picture_of_a_class() {
    let place = Place::new();
    let usual = ["--steps", "3", "--guidance", "4", "--condition", "class=7"];
    generate(&place, &family("dit"), None, &[&usual[..], &["--out", "both.png"]].concat()).expect("both", 0, "");
    let in_turn = [&usual[..], &["--out", "turn.png", "--sequential-guidance"]].concat();
    generate(&place, &family("dit"), None, &in_turn).expect("in turn", 0, "");
    let apart = pixels(&place, "both.png").iter().zip(pixels(&place, "turn.png")).map(|(a, b)| a.abs_diff(b)).max();
    assert!(apart <= Some(1), "{apart:?}");
}

/// Each edit of a manifest, and what is told of it.
#[test]
fn manifests_that_cannot_be_are_refused() {
    for (model, from, to, telling) in [
        ("dit", "range: [0, 999]", "range: [9, 0]", "conditions.class: range 9 to 0"),
        (
            "dit",
            "default: 207",
            "default: 2000",
            "conditions.class: default is 2000, expected a whole number from 0 to 999",
        ),
        (
            "dit",
            "unguided: 1000",
            "unguided: 0.5",
            "conditions.class: unguided is not a number that the condition can be",
        ),
        ("dit", "tensor: class_labels", "tensor: sample", "tensor \"sample\" is given by something else already"),
        (
            "dit",
            "  class:",
            "  again: {tensor: class_labels, range: [0, 1], default: 0, about: the same}\n  class:",
            "conditions.class: tensor \"class_labels\" is given by something else already",
        ),
        ("dit", "  class:", "  \"cl ass\":", "its name has other characters"),
        ("dit", "whole: true", "whole: 1", "expected a boolean"),
        ("sdxl", "tokenizer_2:", "# ", "text_encoder_2 has no tokenizer"),
        ("ddpm", "downscale: 1", "downscale: 2", "no decoder graph; only a model that makes pixels does without one"),
    ] {
        let place = Place::new();
        let copy = place.inputs().join(model);
        copy_folder(&family(model), &copy);
        let manifest = fs::read_to_string(copy.join("model.yaml")).unwrap();
        assert!(manifest.contains(from), "{model}: {from}");
        fs::write(copy.join("model.yaml"), manifest.replacen(from, to, 1)).unwrap();
        generate(&place, &copy, None, &[]).expect(from, 3, telling);
    }
}

#[test]
fn an_input_that_no_condition_names_is_told() {
    let place = Place::new();
    let copy = place.inputs().join("dit");
    copy_folder(&family("dit"), &copy);
    let manifest = fs::read_to_string(copy.join("model.yaml")).unwrap();
    let start = manifest.find("conditions:").unwrap();
    let end = manifest.find("defaults:").unwrap();
    fs::write(copy.join("model.yaml"), format!("{}{}", &manifest[..start], &manifest[end..])).unwrap();
    let told = generate(&place, &copy, None, &["--guidance", "1"]);
    told.expect("no condition", 3, "it wants an input \"class_labels\", but safelight gives it only: sample, timestep");
}

/// Names of the same length, so that the graph stays one.
#[test]
fn a_graph_may_call_its_inputs_what_it_likes() {
    let place = Place::new();
    let copy = place.inputs().join("consistency");
    copy_folder(&family("consistency"), &copy);
    let path = copy.join("unet/model.onnx");
    let graph = fs::read(&path).unwrap();
    let before = sha256(&graph);
    let graph = renamed(&renamed(&graph, b"timestep", b"my_sigma"), b"class_labels", b"which_of_100");
    fs::write(&path, &graph).unwrap();
    let manifest = fs::read_to_string(copy.join("model.yaml")).unwrap();
    let manifest = manifest.replace("tensor: class_labels", "tensor: which_of_100");
    let manifest = manifest
        .replace(&before, &sha256(&graph))
        .replace("    graphs:", "    tensors: {timestep: my_sigma}\n    graphs:");
    fs::write(copy.join("model.yaml"), manifest).unwrap();
    let usual = ["--condition", "class=7", "--out"];
    generate(&place, &copy, None, &[&usual[..], &["renamed.png"]].concat()).expect("renamed", 0, "");
    generate(&place, &family("consistency"), None, &[&usual[..], &["usual.png"]].concat()).expect("usual", 0, "");
    assert_eq!(pixels(&place, "renamed.png"), pixels(&place, "usual.png"));
}

/// One class for all rows cannot be two at once: both predictions of guidance then take their turns.
#[test]
fn a_condition_that_all_rows_share_is_guided_in_turn() {
    let place = Place::new();
    let copy = place.inputs().join("dit");
    copy_folder(&family("dit"), &copy);
    let path = copy.join("transformer/model.onnx");
    let graph = fs::read(&path).unwrap();
    let before = sha256(&graph);
    // The last mention is that among the inputs; its axis follows.
    let find =
        |name: &[u8], from: usize| graph[from..].windows(name.len()).position(|at| at == name).map(|at| from + at);
    let name = (0..).scan(0, |from, _| find(b"class_labels", *from).inspect(|at| *from = at + 1)).last().unwrap();
    let axis = find(b"batch_size", name).unwrap();
    let mut graph = graph.clone();
    graph[axis..axis + 10].copy_from_slice(b"one_number");
    fs::write(&path, &graph).unwrap();
    let manifest = fs::read_to_string(copy.join("model.yaml")).unwrap();
    fs::write(copy.join("model.yaml"), manifest.replace(&before, &sha256(&graph))).unwrap();
    let usual = ["--steps", "2", "--guidance", "4", "--condition", "class=7", "--out"];
    generate(&place, &copy, None, &[&usual[..], &["shared.png"]].concat()).expect("shared", 0, "");
    generate(&place, &family("dit"), None, &[&usual[..], &["usual.png"]].concat()).expect("usual", 0, "");
    let apart = pixels(&place, "shared.png").iter().zip(pixels(&place, "usual.png")).map(|(a, b)| a.abs_diff(b)).max();
    assert!(apart <= Some(1), "{apart:?}");
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes with every `from` replaced by `to`, which is as long.
fn renamed(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let places: Vec<_> =
        bytes.windows(from.len()).enumerate().filter(|(_, at)| *at == from).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at..at + from.len()].copy_from_slice(to));
    bytes
}

#[test]
fn two_text_encoders_are_spared_where_prompts_are_kept() {
    let place = Place::new();
    let copy = place.inputs().join("sdxl");
    copy_folder(&family("sdxl"), &copy);
    let usual = ["--steps", "2", "--negative", "blurry", "--prompt-cache", "kept"];
    let first = generate(&place, &copy, Some("a red apple"), &[&usual[..], &["--out", "first.png"]].concat());
    first.expect("first", 0, "");
    fs::remove_dir_all(copy.join("text_encoder")).unwrap();
    fs::remove_file(copy.join("text_encoder_2/model.onnx")).unwrap();
    let second = generate(&place, &copy, Some("a red apple"), &[&usual[..], &["--out", "second.png"]].concat());
    second.expect("second", 0, "");
    assert_eq!(pixels(&place, "first.png"), pixels(&place, "second.png"));
    let third = generate(&place, &copy, Some("another"), &[&usual[..], &["--out", "third.png"]].concat());
    third.expect("third", 3, "\"another\" is not in the prompt cache");
}

#[test]
fn staged_graphs_of_two_text_encoders_make_the_same_picture() {
    let place = Place::new();
    let target = place.input(
        "staged.yaml",
        "{schema: safelight-target/1, name: staged, title: staged, residency: staged, precision: [fp32], \
         providers: [{name: cpu, need: required}]}",
    );
    generate(&place, &family("sdxl"), Some("a cat"), &["--steps", "2", "--out", "resident.png"])
        .expect("resident", 0, "");
    let model = family("sdxl");
    let arguments =
        ["generate", "a cat", "--model", model.to_str().unwrap(), "--seed", "3", "--steps", "2", "--out", "staged.png"];
    let staged = place.command(arguments.into_iter().chain(["--target", target.to_str().unwrap()]));
    Outcome::of(staged).expect("staged", 0, "text_encoder_2 fp32 on cpu");
    assert_eq!(pixels(&place, "resident.png"), pixels(&place, "staged.png"));
}

#[test]
fn an_exported_pipeline_says_what_it_lacks() {
    type Edit = fn(&Path);
    let edits: [(Edit, &str); 4] = [
        (|model| fs::remove_dir_all(model.join("text_encoder_2")).unwrap(), "no text_encoder_2 graph"),
        (|model| fs::remove_dir_all(model.join("tokenizer_2")).unwrap(), "tokenizer_2/vocab.json: is missing"),
        (
            |model| fs::remove_file(model.join("text_encoder/config.json")).unwrap(),
            "text_encoder/config.json: is missing",
        ),
        (
            |model| {
                let index = fs::read_to_string(model.join("model_index.json")).unwrap();
                let set = index.replacen('{', "{\"requires_aesthetics_score\": true,", 1);
                fs::write(model.join("model_index.json"), set).unwrap();
            },
            "requires_aesthetics_score is set: a refiner, which is not supported",
        ),
    ];
    for (edit, telling) in edits {
        let place = Place::new();
        let copy = place.inputs().join("sdxl");
        copy_folder(&family("sdxl"), &copy);
        fs::remove_file(copy.join("model.yaml")).unwrap();
        edit(&copy);
        generate(&place, &copy, Some("a cat"), &[]).expect(telling, 3, telling);
    }
}

/// What diffusers' own older script wrote has no configuration to say by what a latent is scaled.
#[test]
fn the_older_layout_says_what_must_be_written() {
    let place = Place::new();
    let copy = place.inputs().join("legacy");
    copy_folder(&family("legacy-sd"), &copy);
    let prompt = Some("a red apple");
    generate(&place, &copy, prompt, &["--steps", "2", "--out", "picture.png"]).expect("legacy", 0, "");
    fs::create_dir(copy.join("safety_checker")).unwrap();
    let told = "warning: the pipeline has a safety checker, which safelight does not run: pictures are not screened";
    generate(&place, &copy, prompt, &["--steps", "2"]).expect("checker", 0, told);
    fs::remove_file(copy.join("vae_decoder/config.json")).unwrap();
    let told = "vae_decoder/config.json: is missing (old exports have none); write one with";
    generate(&place, &copy, prompt, &[]).expect("no config", 3, told);
}
