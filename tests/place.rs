//! `safelight place`: what the library's own profile says of real runs.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Outcome, Place, tiny};
use serde_json::Value;

fn place(place: &Place, arguments: &[&str]) -> Outcome {
    Outcome::of(place.command(["place"].iter().chain(arguments)))
}

#[test]
fn every_node_of_a_cpu_target_is_on_the_cpu() {
    let outcome = place(&Place::new(), &["--model", &tiny("tiny-sd").display().to_string(), "--json", "--strict"]);
    outcome.expect("tiny-sd", 0, "");
    let placements: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let stages: Vec<_> = placements.as_array().unwrap().iter().map(|placement| &placement["stage"]).collect();
    assert_eq!(stages, ["text_encoder", "denoiser", "decoder"]);
    for placement in placements.as_array().unwrap() {
        assert_eq!(placement["wanted"], "cpu");
        let [only] = &placement["providers"].as_array().unwrap()[..] else { panic!("{placement}") };
        assert_eq!(only["provider"], "CPUExecutionProvider");
        assert!(only["nodes"].as_u64().unwrap() > 3 && (only["time"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{only}");
        assert!(only["assigned"].as_u64().unwrap() > 3, "{only}");
        assert_eq!(placement["allowed"], 0.0, "strict");
        assert_eq!(placement["fallen_back"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn people_get_a_line_a_provider() {
    let outcome = place(&Place::new(), &["--model", &tiny("tiny-sd").display().to_string()]);
    outcome.expect("tiny-sd", 0, "");
    let told = String::from_utf8(outcome.stdout).unwrap();
    assert!(told.contains("denoiser, wanted on cpu\n  100.0 % of the time "), "{told}");
}

#[test]
fn nothing_is_left_where_it_was_called() {
    let here = Place::new();
    place(&here, &["--model", &tiny("tiny-sd").display().to_string()]).expect("tiny-sd", 0, "");
    assert_eq!(here.left(), [""; 0]);
}
