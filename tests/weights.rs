//! `generate --weighted` and `--long-prompts`: what prompts say besides their words, and prompts of any length.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use common::{Outcome, Place, tiny};
use serde_json::Value;

mod common;

const LINE: &str = "the cat in the hat on the moon with a red apple and a purple umbrella, ";

fn generate(place: &Place, model: &str, prompt: &str, more: &[&str]) -> Command {
    let mut command = place.command(["generate", prompt, "--steps", "2", "--seed", "7", "--out", "out.png", "--json"]);
    command.arg("--model").arg(tiny(model)).args(more);
    command
}

fn pixels(place: &Place, model: &str, prompt: &str, more: &[&str]) -> image::RgbImage {
    Outcome::of(generate(place, model, prompt, more)).expect(prompt, 0, "");
    image::open(place.work().join("out.png")).unwrap().into_rgb8()
}

fn report(command: Command) -> Value {
    let outcome = Outcome::of(command);
    outcome.expect("a report", 0, "");
    serde_json::from_slice(&outcome.stdout).unwrap()
}

#[test]
fn weights_of_one_change_no_bit_and_others_do() {
    let place = Place::new();
    let picture = |prompt: &str, more: &[&str]| pixels(&place, "tiny-sd", prompt, more);
    let plain = picture("a red apple (ripe), 16:9", &[]);
    assert_eq!(picture("a (red:1) apple \\(ripe\\), [(16:1.1)]:9", &["--weighted"]), plain);
    assert_eq!(picture("a red apple (ripe), 16:9", &["--long-prompts", "chunks"]), plain);
    assert_ne!(picture("a red apple (ripe), 16:9", &["--weighted"]), plain);
    assert_ne!(picture("a (red:1.5) apple \\(ripe\\), 16:9", &["--weighted"]), plain);
}

#[test]
fn a_plain_prompt_with_a_weight_is_warned_about() {
    let place = Place::new();
    let told = Outcome::of(generate(&place, "tiny-sd", "a (red:1.3) apple", &[]));
    told.expect("plain", 0, "warning: \"(red:1.3)\" in the prompt is read as text; --weighted reads weights");
    let told = Outcome::of(generate(&place, "tiny-sd", "a (red:1.3) apple", &["--weighted"]));
    told.expect("weighted", 0, "");
    assert!(!told.stderr.contains("warning"), "{}", told.stderr);
    let report: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(report["pictures"][0]["provenance"]["syntax"], "weighted");
}

#[test]
fn long_prompts_are_cut_with_a_warning_or_read_in_chunks() {
    let place = Place::new();
    let long = LINE.repeat(6) + "gold";
    let told = Outcome::of(generate(&place, "tiny-sd", &long, &[]));
    told.expect("cut", 0, "; --long-prompts chunks reads all of it");
    for guidance in [&["--guidance", "3"] as &[&str], &["--guidance", "3", "--sequential-guidance"], &[]] {
        let chunks = ["--long-prompts", "chunks"];
        let told = Outcome::of(generate(&place, "tiny-sd", &long, &[&chunks, guidance].concat()));
        told.expect("chunks", 0, "");
        assert!(!told.stderr.contains("warning"), "{}", told.stderr);
        let swapped = [&chunks, guidance, &["--negative", &long]].concat();
        Outcome::of(generate(&place, "tiny-sd", "gold", &swapped)).expect("the negative prompt is longer", 0, "");
    }
    let cut = pixels(&place, "tiny-sd", &long, &[]);
    let whole = pixels(&place, "tiny-sd", &long, &["--long-prompts", "chunks"]);
    let other = pixels(&place, "tiny-sd", &(LINE.repeat(6) + "red"), &["--long-prompts", "chunks"]);
    assert!(cut != whole && whole != other);
}

#[test]
fn chunks_have_a_limit() {
    let place = Place::new();
    let told = Outcome::of(generate(&place, "tiny-sd", &"a ".repeat(75 * 32 + 1), &["--long-prompts", "chunks"]));
    told.expect("2,401 words", 5, "the prompt fills 33 chunks of 75 tokens, expected at most 32; shorten it");
}

#[test]
fn a_graph_for_one_window_takes_no_chunks() {
    let place = Place::new();
    let chunks = |prompt: &str| Outcome::of(generate(&place, "tiny-static", prompt, &["--long-prompts", "chunks"]));
    chunks("gold").expect("short", 0, "");
    let telling = "but the denoiser's graph was exported for 77; take --long-prompts cut";
    chunks(&LINE.repeat(6)).expect("long", 2, telling);
    let dry = generate(&place, "tiny-static", &LINE.repeat(6), &["--long-prompts", "chunks", "--dry-run"]);
    Outcome::of(dry).expect("a plan of it", 2, telling);
    let unguided = ["--guidance", "1", "--long-prompts", "chunks", "--negative", &LINE.repeat(6)];
    Outcome::of(generate(&place, "tiny-static", "gold", &unguided)).expect("a negative prompt that is not read", 0, "");
    let dry = generate(&place, "tiny-static", "gold", &[&unguided as &[&str], &["--dry-run"]].concat());
    Outcome::of(dry).expect("a plan of it", 0, "");
    let told = Outcome::of(generate(&place, "tiny-static", &LINE.repeat(6), &[]));
    told.expect("cut", 0, "cut off");
    assert!(!told.stderr.contains("--long-prompts"), "{}", told.stderr);
}

#[test]
fn faults_in_a_prompt_are_told_before_anything_is_opened() {
    let place = Place::new();
    for (prompt, more, telling) in [
        ("a (red", &["--weighted"] as &[&str], "weighted prompt, character 3 (\"(red\"): the bracket is never closed"),
        ("a (red:12)", &["--weighted"], "weight 12, expected 0 to 10"),
        ("a BREAK b", &["--weighted"], "BREAK starts another chunk"),
        ("a", &["--weighted", "--guidance", "3", "--negative", "b)"], "negative: weighted prompt, character 2"),
        ("a", &["--long-prompts", "all"], "expected cut or chunks"),
    ] {
        let mut command = generate(&place, "tiny-sd", prompt, more);
        command.env("ORT_DYLIB_PATH", place.inputs().join("no-library-here"));
        Outcome::of(command).expect(prompt, 2, telling);
    }
    assert_eq!(place.left(), [""; 0]);
}

#[test]
fn the_prompt_cache_keeps_chunks() {
    let place = Place::new();
    let model = place.copy_of("tiny-sd");
    let prompt = format!("{}BREAK (gold:1.4)", "a ".repeat(76));
    let made = |prompt: &str| {
        let more = ["--guidance", "1", "--weighted", "--long-prompts", "chunks", "--prompt-cache", "cache"];
        generate(&place, model.to_str().unwrap(), prompt, &more)
    };
    let counts = |report: &Value| ["text_hits", "text_misses"].map(|count| report["timings"][count].as_u64().unwrap());
    // Two chunks before the break, one of gold, and one without words for its weight.
    assert_eq!(counts(&report(made(&prompt))), [0, 4]);
    let first = image::open(place.work().join("out.png")).unwrap().into_rgb8();
    std::fs::remove_dir_all(model.join("text_encoder")).unwrap();
    assert_eq!(counts(&report(made(&prompt))), [4, 0]);
    assert_eq!(image::open(place.work().join("out.png")).unwrap().into_rgb8(), first);
    assert_eq!(counts(&report(made("(gold:0.5)"))), [2, 0]);
    Outcome::of(made("BREAK silver")).expect("unknown", 3, "\"silver\" is not in the prompt cache");
}

#[test]
fn a_plan_counts_chunks() {
    let place = Place::new();
    let peak = |how: &str| {
        let more = ["--long-prompts", how, "--dry-run"];
        report(generate(&place, "tiny-sd", &LINE.repeat(60), &more))["plan"]["peak_bytes"].as_u64().unwrap()
    };
    assert!(peak("chunks") > peak("cut"));
}
