//! Reports are read, compared and collected.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::ffi::OsStr;
use std::path::PathBuf;

use common::{Outcome, Place};
use report::{Made, hash, report};
use safelight::bench::Report;
use safelight::bench::compare::{Outputs, compare};
use safelight::bench::report::{Scenario, Workload};
use safelight::stats::Verdict;
use safelight::{Precision, Stage};
use serde_json::Value;

mod common;
#[path = "common/report.rs"]
mod report;

/// Writes a report among the inputs.
fn written(place: &Place, name: &str, report: &Report) -> PathBuf {
    let path = place.inputs().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    report.write(&path).unwrap();
    path
}

/// The binary, without a library.
fn run<S: AsRef<OsStr>>(place: &Place, arguments: impl IntoIterator<Item = S>) -> Outcome {
    Outcome::of(place.without_library(arguments))
}

fn text(outcome: &Outcome) -> String {
    String::from_utf8(outcome.stdout.clone()).unwrap()
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let place = Place::new();
    let original = report([Made::default()]);
    let path = written(&place, "report.json", &original);
    assert_eq!(Report::read(&path).unwrap(), original);
    assert_eq!(std::fs::read_dir(place.inputs()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn no_report_is_written_that_could_not_be_read() {
    let place = Place::new();
    let mut broken = report([Made::default()]);
    broken.cases[0].images.ms[3] = f64::NAN;
    let path = place.inputs().join("report.json");
    let told = broken.write(&path).unwrap_err().to_string();
    assert!(told.contains("could not be read back: cases[0].images.ms[3]"), "{told}");
    assert!(!path.exists());
}

/// What is wrong is told by file and field.
#[test]
fn foreign_and_broken_reports_are_clear_errors() {
    let place = Place::new();
    let good = serde_json::to_value(report([Made::default()])).unwrap();
    let changed = |pointer: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed.to_string()
    };
    let mut unknown = good.clone();
    unknown["cases"][0]["speed"] = 1.into();
    for (name, content, telling) in [
        (
            "newer",
            changed("/schema", "safelight-bench/2".into()),
            "its schema is safelight-bench/2: made by a newer safelight",
        ),
        ("foreign", r#"{"schema": "hyperfine"}"#.into(), r#"its schema is "hyperfine", not "safelight-bench/1""#),
        ("other", r#"{"results": []}"#.into(), "is no benchmark report: it has no field schema"),
        ("list", "[1, 2]".into(), "is no benchmark report"),
        ("empty", String::new(), "is no benchmark report: EOF"),
        ("cut", good.to_string()[..2000].to_owned(), "is no benchmark report: "),
        (
            "type",
            changed("/cases/0/images/ms/7", "fast".into()),
            "cases[0].images.ms[7]: invalid type: string \"fast\"",
        ),
        ("unknown", unknown.to_string(), "cases[0].speed: unknown field `speed`"),
        (
            "lengths",
            changed("/cases/0/images/start_s", Value::Array(Vec::new())),
            "cases[0]: images: start_s has 0 numbers, but ms has 150",
        ),
        ("negative", changed("/cases/0/images/ms/7", (-1.0).into()), "cases[0]: images.ms: -1 is no time"),
        (
            "huge",
            good.to_string().replacen("150.0", "1e999", 1).replacen("\"ms\":[", "\"ms\":[1e999,", 1),
            "number out of range",
        ),
    ] {
        let path = place.input(&format!("{name}.json"), content);
        for command in
            [vec!["collect".as_ref(), path.as_os_str()], vec!["compare".as_ref(), path.as_os_str(), path.as_os_str()]]
        {
            let outcome = run(&place, command);
            outcome.expect(name, 2, &format!("{name}.json: "));
            outcome.expect(name, 2, telling);
        }
    }
    run(&place, ["compare", "none.json", "none.json"]).expect("missing", 7, "none.json: cannot be read");
}

/// B is slower by so much.
fn two(place: &Place, slower: f64, images: usize) -> [PathBuf; 2] {
    let a = Made { images, ..Made::default() };
    let b = Made { ms: a.ms * slower, seed: 9, ..a.clone() };
    [written(place, "a/report.json", &report([a])), written(place, "b/report.json", &report([b]))]
}

#[test]
fn verdicts_need_a_difference_and_enough_images() {
    use Verdict::*;
    for (slower, images, verdict) in
        [(1.0, 600, NoDifference), (1.05, 600, Slower), (0.95, 600, Faster), (1.05, 4, Undecided), (1.0, 12, Undecided)]
    {
        let a = Made { images, ..Made::default() };
        let b = Made { ms: a.ms * slower, seed: 9, ..a.clone() };
        let compared = compare(&report([a]), &report([b]), 0.02);
        assert_eq!(compared.cases[0].image.verdict, verdict, "{slower} {images}: {:?}", compared.cases[0].image);
    }
}

#[test]
fn a_comparison_tells_all_that_differs() {
    let other = |precision, steps| Workload { precision, steps, ..Made::default().workload };
    let made = |workload: Workload| Made { workload, ..Made::default() };
    let a = report([made(other(Precision::Int8, 4)), made(other(Precision::Int8, 2))]);
    let mut b = report([made(other(Precision::Fp16, 1)), made(other(Precision::Int8, 4))]);
    b.library.version = "1.24.1".into();
    b.target.settings["limits"]["max_pixels"] = 1.into();
    b.finished = false;
    let case = &mut b.cases[1];
    case.graphs.get_mut(&Stage::Denoiser).unwrap().sha256 = hash(77);
    case.images.outputs[3].sha256 = hash(78);
    case.validity.valid = false;
    case.validity.reasons = vec!["others used 40 % of the processors".into()];
    let compared = compare(&a, &b, 0.02);
    assert_eq!(compared.cases.len(), 1);
    assert_eq!(compared.cases[0].outputs, Outputs::Different);
    assert_eq!(compared.cases[0].stages.keys().collect::<Vec<_>>(), ["decoder", "denoiser", "own", "text_encoder"]);
    assert_eq!(compared.cases[0].steps.len(), 4);
    assert_eq!((&compared.only_a[0], &compared.only_b[0]), (&a.cases[1].workload, &b.cases[0].workload));
    let fields: Vec<_> = compared.differences.iter().map(|difference| difference.field.as_str()).collect();
    assert_eq!(fields, ["library.version", "target.settings.limits.max_pixels"]);
    assert_eq!(compared.cases[0].differences[0].field, "graphs.denoiser.sha256");
    assert_eq!(compared.warnings.len(), 2, "{:?}", compared.warnings);

    let place = Place::new();
    let [a, b] = [written(&place, "a.json", &a), written(&place, "b.json", &b)];
    let outcome = run(&place, ["compare".as_ref(), a.as_os_str(), b.as_os_str()]);
    outcome.expect("told", 0, "");
    for telling in [
        "single-stream int8, 4 steps, 128×128, lcm",
        "no difference",
        "only A: single-stream int8, 2 steps",
        "only B: single-stream fp16, 1 step,",
        "differs: library.version: 1.22.0 in A, 1.24.1 in B",
        "differs: graphs.denoiser.sha256: ",
        "pictures",
        "not the same",
        "warning: B was interrupted",
        "invalid: others used 40 % of the processors",
        "--vs measures both in turn",
    ] {
        assert!(text(&outcome).contains(telling), "expected {telling:?} in:\n{}", text(&outcome));
    }
    let strict = ["compare".as_ref(), a.as_os_str(), b.as_os_str(), "--strict".as_ref()];
    run(&place, strict).expect("strict", 6, "B was interrupted");
}

#[test]
fn single_cases_are_compared_whatever_they_are() {
    let fp16 =
        Made { workload: Workload { precision: Precision::Fp16, ..Made::default().workload }, ..Made::default() };
    let place = Place::new();
    let a = written(&place, "a.json", &report([Made::default()]));
    let b = written(&place, "b.json", &report([fp16.clone()]));
    let outcome = run(&place, ["compare".as_ref(), a.as_os_str(), b.as_os_str()]);
    outcome.expect("single", 0, "");
    assert!(text(&outcome).contains("B: single-stream fp16, 4 steps, 128×128, lcm"), "{}", text(&outcome));
    let two = written(&place, "two.json", &report([fp16.clone(), Made { images: 20, ..fp16 }]));
    let outcome = run(&place, ["compare".as_ref(), a.as_os_str(), two.as_os_str()]);
    outcome.expect("nothing in common", 2, "no workload in common");
}

#[test]
fn the_gate_fails_passes_or_cannot_say() {
    for (slower, images, bound, code, telling) in [
        (1.08, 600, "5%", 6, "slower by more than 5 %"),
        (1.02, 600, "5%", 0, ""),
        (0.9, 600, "5%", 0, ""),
        (1.0, 6, "0.5%", 5, "too little was measured to say"),
        (1.0, 3, "5%", 5, "B/A is unknown"),
    ] {
        let place = Place::new();
        let [a, b] = two(&place, slower, images);
        let outcome =
            run(&place, ["compare".as_ref(), a.as_os_str(), b.as_os_str(), "--fail-above".as_ref(), bound.as_ref()]);
        outcome.expect(&format!("{slower} {images}"), code, telling);
        assert!(text(&outcome).contains("B/A"), "the table is told in any case");
    }
    let place = Place::new();
    run(&place, ["compare", "a", "b", "--threshold", "0.02"]).expect("no sign", 2, "a share with its sign");
}

#[test]
fn a_comparison_is_told_as_json() {
    let place = Place::new();
    two(&place, 1.05, 300);
    let [a, b] = ["a", "b"].map(|name| place.inputs().join(name));
    let outcome = run(&place, ["compare".as_ref(), a.as_os_str(), b.as_os_str(), "--json".as_ref()]);
    let told: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let image = &told["comparison"]["cases"][0]["image"];
    assert_eq!(image["verdict"], "slower");
    assert!((image["ratio"]["median"].as_f64().unwrap() - 1.05).abs() < 0.01, "{image}");
    assert_eq!(told["comparison"]["cases"][0]["outputs"], "identical");
}

/// Before anything is measured.
#[test]
fn reports_of_other_devices_are_not_measured_again() {
    let place = Place::new();
    let [a, b] = two(&place, 1.0, 20);
    let outcome = run(&place, ["compare".as_ref(), a.as_os_str(), b.as_os_str(), "--vs".as_ref()]);
    outcome.expect("other device", 2, "A: was measured on another device");
}

/// A fleet of two boards and a server in one folder: two reports of one board, one of them invalid and newer.
fn fleet(place: &Place) -> PathBuf {
    let fast = Made { ms: 50.0, ..Made::default() };
    let mut server =
        report([fast.clone(), Made { workload: Workload { steps: 1, ..fast.workload.clone() }, ms: 20.0, ..fast }]);
    (server.machine.board, server.machine.processor) = (None, Some("EPYC <9|654>".into()));
    server.cases[0].energy = None;
    written(place, "fleet/server/report.json", &server);
    written(place, "fleet/pi/first/report.json", &report([Made::default()]));
    let mut newer = report([Made { ms: 1.0, ..Made::default() }]);
    newer.created = "2026-02-02T03:04:05Z".into();
    newer.cases[0].validity.valid = false;
    written(place, "fleet/pi/second/report.json", &newer);
    let mut sustained = report([Made {
        workload: Workload { scenario: Scenario::Sustained, ..Made::default().workload },
        images: 700,
        ..Made::default()
    }]);
    sustained.machine.board = Some("Jetson Orin Nano".into());
    sustained.cases[0].validity.valid = false;
    sustained.cases[0].validity.reasons = vec!["it was throttled".into()];
    written(place, "fleet/orin/report.json", &sustained);
    place.input("fleet/other.json", "{}");
    place.inputs().join("fleet")
}

#[test]
fn a_fleet_is_one_table() {
    let place = Place::new();
    let fleet = fleet(&place);
    let outcome = run(&place, ["collect".as_ref(), fleet.as_os_str()]);
    outcome.expect("markdown", 0, "");
    let text = text(&outcome);
    let devices: Vec<_> = text.lines().skip(2).take(4).map(|line| line.split('|').nth(1).unwrap().trim()).collect();
    // Fewer steps first, of one workload the fastest first, other kinds of use last.
    assert_eq!(
        devices,
        ["EPYC &lt;9\\", "EPYC &lt;9\\", "Raspberry Pi 5 Model B Rev 1.0", "Jetson Orin Nano"],
        "{text}"
    );
    assert!(text.contains("left out, ") && text.contains("is valid"), "{text}");
    assert!(text.contains("Not valid: ") && text.contains("it was throttled"), "{text}");
    let outcome = run(&place, ["collect".as_ref(), fleet.as_os_str(), "--format".as_ref(), "json".as_ref()]);
    let told: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let p50: Vec<_> = told["rows"].as_array().unwrap().iter().map(|row| row["p50_ms"].as_f64().unwrap()).collect();
    assert!((p50[0] - 20.0).abs() < 1.0 && (p50[2] - 200.0).abs() < 10.0, "{p50:?}");
    assert_eq!(told["rows"][3]["valid"], false);
}

#[test]
fn a_fleets_page_needs_nothing_else() {
    let place = Place::new();
    let fleet = fleet(&place);
    let [collect, html, out, page] = ["collect", "--format=html", "--out", "fleet.html"].map(OsStr::new);
    run(&place, [collect, fleet.as_os_str(), html, out, page]).expect("html", 0, "note: ");
    let page = std::fs::read_to_string(place.work().join("fleet.html")).unwrap();
    assert!(page.contains("EPYC &lt;9|654&gt;") && !page.contains("<9|654>"));
    assert_eq!(page.matches("<svg").count(), 3, "a chart for each workload");
    for fetched in ["http://", "https://", "<script", "src=", "href=", "url("] {
        assert!(!page.contains(fetched), "{fetched}");
    }
    assert_eq!(place.left(), ["work/fleet.html"]);
}

#[test]
fn a_folder_without_reports_is_an_error() {
    let place = Place::new();
    run(&place, ["collect".as_ref(), place.inputs().as_os_str()]).expect("empty", 7, "no report.json is in it");
}

/// One step and four, on the shipped model.
#[test]
fn both_are_measured_again_in_turn_as_their_reports_say() {
    let place = Place::new();
    for (name, steps) in [("a", "1"), ("b", "4")] {
        let device = ["bench", "--model=emoji", "--target=generic-cpu", "--threads=1", "--precision=int8", "--wait=0"];
        let quick = ["--quick", "--quality=0", "--out", name, "--steps", steps];
        Outcome::of(place.command(device.iter().chain(&quick))).expect(name, 0, "median");
    }
    let arguments = ["compare", "a", "b", "--vs", "--threshold=50%", "--fail-above=5%", "--json"];
    let outcome = Outcome::of(place.command(arguments));
    outcome.expect("in turn", 6, "slower by more than 5 %");
    let told: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let in_turn = &told["comparison"]["cases"][0]["in_turn"];
    assert_eq!(in_turn["verdict"], "slower", "{in_turn}");
    assert!(in_turn["ratio"]["low"].as_f64().unwrap() > 1.5, "{in_turn}");
    assert!(in_turn["a_ms"].as_array().unwrap().len() >= 32);
    // Other steps, other pictures.
    assert_eq!(in_turn["identical"], 0);
    assert_eq!(told["comparison"]["cases"][0]["differences"], serde_json::json!([]));
    let warnings = told["comparison"]["warnings"].to_string();
    assert!(!warnings.contains("graphs"), "{warnings}");

    let mut changed = Report::read(&place.work().join("b/report.json")).unwrap();
    changed.target.settings["title"] = "another".into();
    changed.write(&place.work().join("b/report.json")).unwrap();
    let outcome = Outcome::of(place.command(["compare", "a", "b", "--vs"]));
    outcome.expect("another target", 2, "B: target generic-cpu has changed since it was measured");
}
