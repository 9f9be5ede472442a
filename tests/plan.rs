//! What a plan expects of memory, and what a run measures.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use common::{Outcome, Place};

mod common;

fn target(place: &Place, extra: &str) -> PathBuf {
    let text = "schema: safelight-target/1\nname: test\ntitle: test\nproviders: [{ name: cpu, need: required }]\n\
                precision: [int8, fp32, fp16]\nsession: { intra_threads: 1, spinning: false }\n";
    place.input("test.yaml", format!("{text}{extra}\n"))
}

/// `generate` with a model and a target that says `extra`.
fn arguments(place: &Place, model: &str, extra: &str, more: &[&str]) -> Vec<String> {
    let target = target(place, extra).display().to_string();
    let model = common::repository().join(model).display().to_string();
    let fixed = ["generate", "a red apple", "--seed", "7", "--model", &model, "--target", &target];
    fixed.iter().chain(more).map(ToString::to_string).collect()
}

fn json(outcome: &Outcome) -> Value {
    outcome.expect("a report", 0, "");
    serde_json::from_slice(&outcome.stdout).unwrap()
}

/// The plan of a request as JSON, from a process that cannot open ONNX Runtime.
fn dry_run(model: &str, extra: &str, more: &[&str]) -> Value {
    let place = Place::new();
    let mut arguments = arguments(&place, model, extra, more);
    arguments.extend(["--dry-run", "--json"].map(str::to_owned));
    let told = json(&Outcome::of(place.without_library(arguments)));
    assert!(place.left().is_empty(), "{:?}", place.left());
    told["plan"].clone()
}

fn bytes(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a number of bytes: {value}"))
}

#[test]
fn a_resident_plan_tells_what_a_staged_one_would() {
    let more = ["--size", "1024x1024", "--steps", "3", "--count", "2"];
    let plan = |residency: &str| dry_run("tests/models/tiny-sd", residency, &more);
    let (resident, staged) = (plan("residency: resident"), plan("residency: staged"));
    assert_eq!(resident["staged_peak_bytes"], staged["peak_bytes"]);
    assert!(bytes(&staged["peak_bytes"]) < bytes(&resident["peak_bytes"]));
    let insists = dry_run(
        "tests/models/tiny-sd",
        "residency: staged\nstages: { denoiser: { session: { memory_pattern: true } }, \
                           decoder: { session: { memory_pattern: true } } }",
        &more,
    );
    assert!(bytes(&insists["peak_bytes"]) > bytes(&staged["peak_bytes"]));
}

#[test]
fn a_dry_run_tells_the_plan_and_makes_nothing() {
    let place = Place::new();
    let more = ["--dry-run", "--prompt-cache", "cache", "--out", "pictures/"];
    let outcome = Outcome::of(place.without_library(arguments(&place, "models/emoji", "residency: staged", &more)));
    outcome.expect("a dry run", 0, "");
    let told = String::from_utf8(outcome.stdout).unwrap();
    for expected in ["graphs are staged", "text_encoder.int8.onnx", "unet.int8.onnx", "vae_decoder.int8.onnx", "█ peak"]
    {
        assert!(told.contains(expected), "{expected:?} in: {told}");
    }
    assert!(place.left().is_empty(), "{:?}", place.left());
    assert!(!place.work().join("cache").exists());
}

#[test]
fn a_dry_run_refuses_what_a_run_refuses() {
    let place = Place::new();
    let refused = |model: &str, extra: &str, more: &[&str], code: i32, telling: &str| {
        let arguments = arguments(&place, model, extra, &[more, &["--dry-run"]].concat());
        Outcome::of(place.without_library(arguments)).expect(telling, code, telling);
    };
    refused("models/emoji", "", &["--steps", "1001"], 5, "steps: 1001 asked for");
    refused("models/emoji", "", &["--sampler", "magic"], 2, "unknown sampler");
    refused("models/emoji", "", &["--quiet"], 2, "cannot be used with");
    refused("models/emoji", "limits: { max_graph_bytes: 1000000 }", &[], 5, "the target allows 1000000");
    refused("models/emoji", "", &["--precision", "fp32"], 3, "has no text_encoder in fp32");
    let damaged = place.copy_of("tiny-sd");
    fs::write(damaged.join("unet/model.onnx"), "not a graph").unwrap();
    refused(damaged.to_str().unwrap(), "", &[], 3, "is not an ONNX graph");
}

/// Sizes of files are what the folder has, and the sums are what the lines say.
#[test]
fn numbers_of_a_plan_add_up() {
    let plan = dry_run("models/emoji", "residency: staged", &["--precision", "fp16"]);
    let resident = dry_run("models/emoji", "residency: resident", &["--precision", "fp16"]);
    let library = bytes(&plan["library_bytes"]);
    let mut opened = library;
    for (stage, file) in plan["stages"].as_array().unwrap().iter().zip(["text_encoder", "unet", "vae_decoder"]) {
        let path = common::repository().join(format!("models/emoji/{file}.fp16.onnx"));
        assert_eq!(bytes(&stage["file_bytes"]), fs::metadata(path).unwrap().len());
        let [opening, open] = ["opening_bytes", "opened_bytes"].map(|field| bytes(&stage[field]));
        assert_eq!(bytes(&stage["peak_bytes"]), library + opening.max(open + working(stage)));
        assert_eq!(stage["unknown_tensors"], 0);
        assert_eq!((&stage["opened"], &stage["precision"]), (&"for its stage".into(), &"fp16".into()));
        assert_eq!(stage["providers"], serde_json::json!(["cpu"]));
        opened += open;
    }
    for stage in resident["stages"].as_array().unwrap() {
        // What a graph has worked in, it keeps.
        opened += working(stage);
        assert_eq!(bytes(&stage["peak_bytes"]), opened);
        assert_eq!(stage["opened"], "with the pipeline");
    }
    assert!(bytes(&plan["peak_bytes"]) < bytes(&resident["peak_bytes"]));
}

fn working(stage: &Value) -> u64 {
    bytes(&stage["tensor_bytes"]) + bytes(&stage["activation_bytes"])
}

/// Without an arena, a resident graph gives back what it has worked in.
#[test]
fn session_settings_change_the_plan() {
    let peaks = |session: &str| {
        let extra = format!("stages: {{ denoiser: {{ session: {{ {session} }} }} }}");
        let plan = dry_run("models/emoji", &extra, &["--precision", "fp16"]);
        plan["stages"].as_array().unwrap().iter().map(|stage| bytes(&stage["peak_bytes"])).collect::<Vec<_>>()
    };
    let (usual, without) = (peaks("arena: true"), peaks("arena: false"));
    assert!(usual[..2] == without[..2] && without[2] < usual[2], "{usual:?} {without:?}");
    assert!(peaks("graph_optimization: extended")[2] < usual[2]);
    assert!(peaks("memory_pattern: false")[1] < usual[1]);
}

#[test]
fn tensors_grow_with_size_batch_and_guidance() {
    let tensors = |more: &[&str]| {
        let plan = dry_run("tests/models/tiny-sd", "", more);
        plan["stages"].as_array().unwrap().iter().map(|stage| bytes(&stage["tensor_bytes"])).collect::<Vec<_>>()
    };
    let usual = tensors(&["--guidance", "1"]);
    let guided = tensors(&["--guidance", "3"]);
    assert_eq!((guided[1], guided[2]), (2 * usual[1], usual[2]));
    assert_eq!(tensors(&["--guidance", "3", "--sequential-guidance"]), usual);
    let batch = tensors(&["--guidance", "1", "--count", "4", "--batch", "4"]);
    assert_eq!((batch[1], batch[2]), (4 * usual[1], usual[2]));
    assert!(tensors(&["--size", "128x128"])[2] == 4 * usual[2], "{usual:?}");
}

/// Latents of all pictures wait for a staged decoder: four thousand of 1024×1024 pixels are a GiB.
#[test]
fn a_board_that_is_too_small_is_a_warning() {
    let place = Place::new();
    let told = |residency: &str, gib: u32| {
        let extra = format!("residency: {residency}\nboard: {{ memory_gib: {gib} }}");
        let more = ["--size", "1024x1024", "--count", "4000", "--dry-run"];
        let outcome = Outcome::of(place.without_library(arguments(&place, "tests/models/tiny-sd", &extra, &more)));
        outcome.expect("a plan", 0, "");
        outcome.stderr
    };
    let warning = told("staged", 1);
    assert!(warning.contains("warning: the board of target test has 1024 MiB, and "), "{warning}");
    assert!(warning.contains("try a smaller picture"), "{warning}");
    assert!(!told("staged", 2).contains("the board"));
    assert!(!told("resident", 1).contains("the board"));
}

#[test]
fn a_plan_goes_with_pictures() {
    let place = Place::new();
    let more = ["--plan", "--out", "apple.png"];
    let outcome = Outcome::of(place.command(arguments(&place, "tests/models/tiny-sd", "", &more)));
    outcome.expect("a picture", 0, "expected memory in MiB; graphs are resident");
    assert_eq!(outcome.stdout, b"apple.png\n");
    let measured = if cfg!(target_os = "linux") { "measured resident set" } else { "memory was not measured" };
    outcome.expect("a picture", 0, measured);
    let more = ["--out", "pear.png"];
    let without = Outcome::of(place.command(arguments(&place, "tests/models/tiny-sd", "", &more)));
    assert!(!without.stderr.contains("MiB"), "{}", without.stderr);
}

#[cfg(target_os = "linux")]
mod measured {
    use super::*;

    const STAGES: [&str; 3] = ["text_encoder", "denoiser", "decoder"];

    fn report(extra: &str, more: &[&str]) -> Value {
        let place = Place::new();
        let more = [&["--json", "--plan", "--out", "apple.png"], more].concat();
        json(&Outcome::of(place.command(arguments(&place, "models/emoji", extra, &more))))
    }

    #[test]
    fn staged_graphs_come_and_go() {
        let memory = &report("residency: staged", &["--precision", "fp16"])["memory"];
        let peak = bytes(&memory["process"]["peak"]);
        for stage in STAGES {
            let field = |field: &str| bytes(&memory[stage][field]);
            let [before, opening, opened, working, after] =
                ["before", "opening_peak", "opened", "peak", "after"].map(field);
            assert!(before < opened && opened <= opening && after < opening.max(working), "{memory:#}");
            assert!(opening.max(working) <= peak, "{memory:#}");
        }
        // The denoiser's graph takes 40 MiB; what stays is the library.
        let denoiser = &memory["denoiser"];
        assert!(bytes(&denoiser["after"]) < bytes(&denoiser["opened"]) - (20 << 20), "{memory:#}");
    }

    #[test]
    fn resident_graphs_are_opened_together() {
        let memory = &report("residency: resident", &["--count", "2"])["memory"];
        let opening = &memory["pipeline"];
        assert!(bytes(&opening["before"]) < bytes(&opening["opened"]), "{memory:#}");
        assert!(bytes(&opening["opened"]) <= bytes(&opening["peak"]), "{memory:#}");
        for stage in STAGES {
            assert!(memory[stage]["opened"].is_null() && memory[stage]["opening_peak"].is_null(), "{memory:#}");
            assert!(bytes(&memory[stage]["peak"]) >= bytes(&opening["opened"]) - (8 << 20), "{memory:#}");
        }
    }

    /// The rule is for the CPU provider and graphs whose weights outweigh what they compute.
    #[test]
    fn what_is_expected_is_near_what_is_measured() {
        for residency in ["staged", "resident"] {
            for precision in ["int8", "fp16"] {
                let report = report(&format!("residency: {residency}"), &["--precision", precision]);
                let [expected, measured] =
                    [&report["plan"]["peak_bytes"], &report["memory"]["process"]["peak"]].map(|at| bytes(at) as f64);
                let ratio = expected / measured;
                assert!((0.7..1.5).contains(&ratio), "{residency} {precision}: {ratio:.2} of {measured}");
            }
        }
    }
}
