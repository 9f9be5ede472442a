//! `generate --walk`: pictures on the way from one seed to another.

#![allow(clippy::unwrap_used)]

use common::{Outcome, Place, tiny};
use image::RgbImage;
use serde_json::Value;

mod common;

const WITH: [&str; 6] = ["--size", "64x64", "--steps", "3", "--out", "out/"];

fn generate(place: &Place, arguments: &[&str]) -> Outcome {
    let mut command = place.command(["generate", "a cat", "--json", "--model"]);
    command.arg(tiny("tiny-sd")).args(WITH).args(arguments);
    Outcome::of(command)
}

fn pixels(place: &Place, name: &str) -> RgbImage {
    image::open(place.work().join("out").join(name)).unwrap().into_rgb8()
}

/// Frames of a walk along the seeds 7, 9 and 12, beside the pictures of those seeds, with noise of every kind.
#[test]
fn frames_on_seeds_are_the_pictures_of_those_seeds() {
    for (noise, batch) in [
        (&["--sampler", "ddim"] as &[&str], "1"),
        (&["--sampler", "euler_ancestral"], "2"),
        (&["--sampler", "euler_ancestral", "--noise-seed", "3"], "5"),
        (&["--sampler", "dpmpp_sde", "--brownian"], "3"),
        (&["--sampler", "euler_ancestral", "--generator", "numpy"], "4"),
    ] {
        let place = Place::new();
        let walk = ["--seed", "7", "--walk", "9,12", "--count", "5", "--batch", batch];
        generate(&place, &[&walk, noise].concat()).expect("walk", 0, "");
        for (frame, seed) in [(1, "7"), (3, "9"), (5, "12")] {
            generate(&place, &[&["--seed", seed], noise].concat()).expect("alone", 0, "");
            let (found, expected) = (format!("a-cat-walk-{frame:04}.png"), format!("a-cat-{seed}.png"));
            assert_eq!(pixels(&place, &found), pixels(&place, &expected), "{noise:?}, frame {frame}");
        }
        let frames: Vec<_> = (1..=5).map(|frame| pixels(&place, &format!("a-cat-walk-{frame:04}.png"))).collect();
        assert!(frames.windows(2).all(|pair| pair[0] != pair[1]), "{noise:?}");
    }
}

#[test]
fn provenance_tells_both_seeds_and_the_share() {
    let place = Place::new();
    let outcome = generate(&place, &["--seed", "7", "--walk", "9", "--count", "3"]);
    outcome.expect("walk", 0, "");
    let report: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let told: Vec<_> = report["pictures"].as_array().unwrap().iter().map(|it| &it["provenance"]).collect();
    assert_eq!([0, 1, 2].map(|i| told[i]["seed"].as_u64()), [Some(7), Some(7), Some(9)]);
    assert_eq!(told[1]["walk"], serde_json::json!({ "from": 7, "to": 9, "share": 0.5 }));
    assert!(told[0].get("walk").is_none() && told[2].get("walk").is_none());
    let file = std::fs::read(place.work().join("out/a-cat-walk-0002.png")).unwrap();
    let text = String::from_utf8_lossy(&file);
    assert!(text.contains("Seed: 7, Variation seed: 9, Variation seed strength: 0.5"));
}

#[test]
fn walks_that_cannot_be_are_refused() {
    let place = Place::new();
    for (arguments, telling) in [
        (&["--walk", "7", "--count", "4"] as &[&str], "the walk goes from seed 7 to itself"),
        (&["--walk", "9,9", "--count", "4"], "the walk goes from seed 9 to itself"),
        (&["--walk", "9,12", "--count", "2"], "count is 2, but a walk along 3 seeds has at least as many frames"),
        (&["--walk", "9", "--count", "4", "--shared-noise"], "noise of its own for each picture"),
        (&["--walk", "9", "--count", "4", "--noise-seed", "9"], "noise seed 9 is the seed, too"),
        (&["--walk", "9"], "--count"),
    ] {
        generate(&place, &[&["--seed", "7"], arguments].concat()).expect(&format!("{arguments:?}"), 2, telling);
    }
    generate(&place, &["--walk", "9", "--count", "4"]).expect("no seed", 2, "--seed");
    assert_eq!(place.left(), [""; 0]);
}
