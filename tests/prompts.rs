//! `generate --prompts`: many prompts, one process.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::process::Stdio;

use common::{Outcome, Place, tiny};

mod common;

const PROMPTS: &str = "a cat\n\n  a cat!\r\nthe moon\n";

fn generate(place: &Place) -> std::process::Command {
    let mut command = place.command(["generate", "--size", "64x64", "--steps", "1", "--seed", "7", "--model"]);
    command.arg(tiny("tiny-sd")).arg("--prompts");
    command
}

#[test]
fn every_line_is_a_picture_and_none_replaces_another() {
    let place = Place::new();
    let mut command = generate(&place);
    command.arg(place.input("prompts.txt", PROMPTS)).args(["--count", "2", "--json"]);
    let outcome = Outcome::of(command);
    outcome.expect("prompts", 0, "");
    let names = ["0001-a-cat-7", "0001-a-cat-8", "0002-a-cat-7", "0002-a-cat-8", "0003-the-moon-7", "0003-the-moon-8"];
    assert_eq!(place.left(), names.map(|name| format!("work/{name}.png")));

    let reports: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let prompts: Vec<_> =
        reports.as_array().unwrap().iter().map(|it| &it["pictures"][1]["provenance"]["prompt"]).collect();
    assert_eq!(prompts, ["a cat", "a cat!", "the moon"]);
    let picture = |name: &str| std::fs::read(place.work().join(name)).unwrap();
    assert_ne!(picture("0001-a-cat-7.png"), picture("0002-a-cat-7.png"));
}

#[test]
fn prompts_come_from_standard_input_and_are_drawn_as_alone() {
    let place = Place::new();
    let mut command = generate(&place);
    command.args(["-", "--out", "all/"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(PROMPTS.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());

    let mut alone =
        place.command(["generate", "the moon", "--size", "64x64", "--steps", "1", "--seed", "7", "--model"]);
    alone.arg(tiny("tiny-sd")).args(["--out", "alone.png"]);
    Outcome::of(alone).expect("alone", 0, "");
    let pixels = |name: &str| image::open(place.work().join(name)).unwrap().into_rgb8();
    assert_eq!(pixels("all/0003-the-moon-7.png"), pixels("alone.png"));
}
