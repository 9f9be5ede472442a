//! `safelight sensors`, and the table of all kinds in docs/sensors.md.
#![allow(clippy::unwrap_used)]

use common::{Outcome, Place, repository};
use safelight::sensor::{SOURCES, SourceKind};
use serde_json::Value;

mod common;

#[test]
fn every_kind_is_told_with_a_value_or_why_it_is_absent() {
    let place = Place::new();
    let outcome = Outcome::of(place.without_library(["sensors", "--json"]));
    outcome.expect("json", 0, "");
    let told: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let sensors = told["sensors"].as_array().unwrap();
    for sensor in sensors {
        let name = sensor["name"].as_str().unwrap();
        assert!(sensor.get("absent").is_some() != sensor.get("value").is_some(), "{sensor}");
        assert!(SOURCES.iter().any(|kind| name == kind.name || name.starts_with(&format!("{}/", kind.name))), "{name}");
    }
    if cfg!(target_os = "linux") {
        let load = sensors.iter().find(|sensor| sensor["name"] == "load/processors").unwrap();
        assert!((0.0..=1.0).contains(&load["value"].as_f64().unwrap()), "{load}");
    }
    // Energy has a source or a reason.
    assert!(told["energy"]["sensors"].is_array() || told["energy"]["absent"].is_string(), "{told}");

    let outcome = Outcome::of(place.without_library(["sensors"]));
    let text = String::from_utf8(outcome.stdout).unwrap();
    for sensor in sensors {
        assert!(text.contains(sensor["name"].as_str().unwrap()), "{sensor}: {text}");
    }
    assert!(text.contains("\nenergy: ") && text.contains("\nslowed down: "), "{text}");
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn a_target_says_what_adds_up() {
    let place = Place::new();
    let head = "schema: safelight-target/1\nname: t\ntitle: T\nprecision: [int8]\nproviders: [{ name: cpu, need: required }]\n";
    let target = place.input("t.yaml", format!("{head}bench: {{ rails: [VDD_OUT] }}\n"));
    let outcome = Outcome::of(place.without_library(["sensors", "--target", target.to_str().unwrap()]));
    outcome.expect("a rail that is not there", 0, "");
    let text = String::from_utf8(outcome.stdout).unwrap();
    assert!(text.contains("energy: not measured: the target's bench.rails has VDD_OUT: no sensor"), "{text}");
    let outcome = Outcome::of(place.without_library(["sensors", "--target", "no-such"]));
    outcome.expect("a target that is not there", 2, "unknown target \"no-such\"");
}

#[test]
fn docs_are_current() {
    let row = |kind: &SourceKind| {
        let quantity = serde_json::to_value(kind.quantity).unwrap();
        let place = format!("`{}`", kind.place);
        format!("| `{}` | {} | {} | {place} | {} |\n", kind.name, quantity.as_str().unwrap(), kind.tells, kind.needs)
    };
    let head =
        "| names begin with | quantity of the first | tells | where | needs |\n| --- | --- | --- | --- | --- |\n";
    let table: String = head.to_owned() + &SOURCES.iter().map(row).collect::<String>();
    let path = repository().join("docs/sensors.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- sources -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    let current = format!("{before}<!-- sources -->\n{table}<!-- end -->{after}");
    if std::env::var_os("SAFELIGHT_WRITE_DOCS").is_some() {
        std::fs::write(&path, current).unwrap();
        return;
    }
    assert!(text == current, "docs/sensors.md is out of date: SAFELIGHT_WRITE_DOCS=1 cargo test --test sensors docs");
}
