//! `report`: a benchmark's report as a page, as CSV and as a table; the page in a browser, where there is one.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use common::{Outcome, Place, repository, skipped};
use made::{Made, report};
use safelight::Precision;
use safelight::bench::Report;
use safelight::bench::report::{Case, Detailed, PictureHeld, Scenario, Sustained, Workload};
use safelight::bench::summary::summarise;
use safelight::sensor::{Quantity, Source};
use serde_json::Value;

mod common;
#[path = "common/report.rs"]
mod made;

/// Eight cases with all that a report can have, good and bad news. Their intervals take a while, and are the same in all
/// tests.
fn everything() -> Report {
    static EVERYTHING: LazyLock<Report> = LazyLock::new(make_everything);
    EVERYTHING.clone()
}

fn make_everything() -> Report {
    let workload = |precision, steps, scenario| Workload { precision, steps, scenario, ..Made::default().workload };
    let made = |index: usize, precision, steps: usize| Made {
        workload: workload(precision, steps, Scenario::SingleStream),
        images: 200 + 37 * index,
        ms: 30.0 + 45.0 * steps as f64 * if precision == Precision::Int8 { 1.0 } else { 1.6 },
        spread: 0.05,
        seed: 1 + index as u32,
    };
    let [int8, fp16] = [Precision::Int8, Precision::Fp16];
    let cases = [(int8, 1), (int8, 2), (int8, 4), (int8, 8), (fp16, 1), (fp16, 2), (fp16, 4)];
    let mut cases: Vec<_> = cases.into_iter().enumerate().map(|(i, (kind, steps))| made(i, kind, steps)).collect();
    cases.push(Made { workload: workload(int8, 4, Scenario::Sustained), images: 1700, ..made(8, int8, 4) });
    let mut report = report(cases);
    busy(&mut report);
    report
}

/// What goes wrong, in a report in which nothing does.
fn busy(report: &mut Report) {
    let absent = Some("/sys/class/powercap/intel-rapl:0/energy_uj: permission denied; run as root".to_owned());
    for (name, quantity, absent) in [
        ("psi/cpu", Quantity::Pressure, None),
        ("cpu/busy", Quantity::Load, None),
        ("rapl/package-1", Quantity::Joules, absent),
    ] {
        report.sensors.push(Source { name: name.into(), quantity, covers: "all cores".into(), absent });
    }
    for (index, case) in report.cases.iter_mut().enumerate() {
        let ms = &mut case.images.ms;
        let count = ms.len();
        // A burst, and one image far beyond all others.
        ms[count / 3..count / 3 + 4].iter_mut().for_each(|ms| *ms *= 1.45);
        ms[count / 2] *= 9.0;
        case.summary = summarise(case.workload.scenario, &case.images, &case.detailed, &case.cold, 1);
        let rows = case.timeline.seconds.len();
        let wave =
            |scale: f64| (0..rows).map(move |row| (row % 17 != 3).then(|| scale * (row as f64 / 9.0).sin().abs()));
        case.timeline.values.insert("psi/cpu".into(), wave(0.08).collect());
        case.timeline.values.insert("cpu/busy".into(), wave(0.9).collect());
        let quality = case.quality.as_mut().unwrap();
        for (seed, held) in quality.pictures.iter_mut().enumerate() {
            held.psnr_db = (index != 6).then_some(38.0 - 2.0 * index as f64 + seed as f64);
            held.steps_l2 = (1..=case.workload.steps).map(|step| 0.01 * (step * (seed + 1)) as f64).collect();
            held.file = Some(format!("pictures/{seed}.png"));
            held.reference_file = Some(format!("pictures/reference-{seed}.png"));
        }
        let first = quality.pictures[0].clone();
        quality.pictures.extend((0..6).map(|seed| PictureHeld { seed: 10 + seed, ..first.clone() }));
    }
    let first = &mut report.cases[0];
    first.energy = None;
    first.validity.valid = false;
    first.validity.reasons.push("others took 31 % of all processors' time, more than the 10 % that may be".into());
    first.validity.checks.extend([("no_contention".into(), Some(false)), ("clocks_recorded".into(), None)]);
    first
        .advice
        .push("stop other programs, or raise bench.most_contention in the target file if they belong there".into());
    let last = report.cases.last_mut().unwrap().summary.as_mut().unwrap();
    last.sustained = Some(Sustained { first_minute_ms: 210.0, last_minute_ms: 241.0, retention: 0.871 });
}

/// What strangers write into names.
const HOSTILE: &str =
    "\"><script>alert(1)</script><img src=x onerror=alert(1)>'<!--]]>\u{0}\u{1b}\u{202e}&amp;|`*[a](b)\r\n=1+1,\"";

/// A report whose every word is hostile, and whose numbers are as great, small and contradictory as JSON lets them be.
fn hostile() -> Report {
    let mut report = everything();
    report.cases.truncate(2);
    let mut value = serde_json::to_value(&report).unwrap();
    spoil(&mut value, "", &mut 0);
    let mut report: Report = serde_json::from_value(value).unwrap();
    report.schema = Report::SCHEMA.into();
    report.cases.iter_mut().flat_map(|case| &mut case.images.ms).for_each(|ms| *ms = ms.abs().max(1e-300));
    report
}

/// Replaces words and numbers, but not names that only some words may stand for, and not the files of pictures.
fn spoil(value: &mut Value, key: &str, count: &mut usize) {
    const KEPT: [&str; 8] = ["scenario", "precision", "quantity", "os", "features", "schema", "file", "reference_file"];
    *count += 1;
    match value {
        _ if KEPT.contains(&key) => {}
        Value::String(text) => {
            *text = if count.is_multiple_of(7) { format!("{HOSTILE}{}", "x".repeat(10_000)) } else { HOSTILE.into() }
        }
        Value::Number(number) if number.is_f64() => {
            let numbers = [0.0, -0.0, 1e308, -1e308, 5e-324, -1.0, 0.1, 1e17];
            *value = numbers[*count % numbers.len()].into();
        }
        // Numbers of 32 bits, and seeds, are as great as they can be; bytes and counts may be greater.
        Value::Number(number) if key != "l4t" && number.is_u64() => {
            *value = [0, 1, 7, usize::MAX as u64][*count % 4].into();
        }
        Value::Array(values) => values.iter_mut().for_each(|value| spoil(value, key, count)),
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| spoil(value, key, count)),
        _ => {}
    }
}

/// Writes a report with pictures beside it, and the page.
fn page(place: &Place, report: &Report) -> (PathBuf, String) {
    let folder = place.work().join("results");
    fs::create_dir_all(folder.join("pictures")).unwrap();
    for (name, red) in [("0", 200), ("1", 100), ("reference-0", 190), ("reference-1", 90)] {
        let picture = image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([red, 4 * x as u8, 5 * y as u8]));
        picture.save(folder.join(format!("pictures/{name}.png"))).unwrap();
    }
    fs::write(folder.join("report.json"), serde_json::to_string(report).unwrap()).unwrap();
    let outcome = Outcome::of(place.without_library(["report", "results"]));
    outcome.expect("report", 0, "");
    assert_eq!(String::from_utf8(outcome.stdout).unwrap(), "results/report.html\n");
    let path = folder.join("report.html");
    let text = fs::read_to_string(&path).unwrap();
    (path, text)
}

/// Reports of every kind: what is there, what is not, and what is wrong.
fn reports() -> Vec<(&'static str, Report)> {
    let mut bare = report([Made { images: 1, ..Made::default() }]);
    bare.finished = false;
    bare.sensors.clear();
    let case = &mut bare.cases[0];
    case.error = Some("the denoiser's graph cannot be opened".into());
    (case.summary, case.memory, case.energy, case.quality) = (None, None, None, None);
    (case.images, case.timeline) = Default::default();
    (case.throttling, case.contention, case.validity) = Default::default();
    case.graphs.clear();
    case.cold.clear();
    case.detailed.clear();
    let few = report([Made { images: 5, ..Made::default() }]);
    let mut cold = report([Made { images: 5, ..Made::default() }]);
    cold.cases[0].workload.scenario = Scenario::Cold;
    cold.cases[0].cold = (0..30).map(|_| cold.cases[0].cold[0].clone()).collect();
    cold.cases[0].images = Default::default();
    vec![
        ("everything", everything()),
        ("bare", bare),
        ("none", report([])),
        ("few", few),
        ("cold", cold),
        ("hostile", hostile()),
    ]
}

/// The drawings of a page.
fn drawings(page: &str) -> Vec<&str> {
    let parts = page.split("<svg").skip(1).map(|part| part.split_once("</svg>").unwrap().0);
    parts.map(|part| &page[part.as_ptr() as usize - page.as_ptr() as usize - 4..][..part.len() + 10]).collect()
}

#[test]
fn pages_are_whole_and_need_nothing_else() {
    for (name, report) in reports() {
        let (_, text) = page(&Place::new(), &report);
        for drawing in drawings(&text) {
            let read = roxmltree::Document::parse(drawing).unwrap_or_else(|error| panic!("{name}: {error}: {drawing}"));
            let attributes = || read.descendants().flat_map(|node| node.attributes()).map(|it| it.value());
            assert!(attributes().all(|it| !it.contains("NaN") && !it.contains("inf")), "{name}: {drawing}");
        }
        assert!(!text.contains("NaN"), "{name}");
        let addresses = ["src=\"", "href=\"", "url(", "@import", "action=\"", "srcset="];
        let fetched = addresses.iter().flat_map(|it| text.match_indices(it).map(|(at, it)| &text[at + it.len()..]));
        for address in fetched {
            assert!(address.starts_with('#') || address.starts_with("data:image/"), "{name}: {}", &address[..40]);
        }
        assert!(text.contains("default-src 'none'; style-src 'unsafe-inline'; img-src data:;"), "{name}");
        assert!(!text.contains(['\u{202e}', '\u{1b}', '\u{0}']), "{name}");
        assert!(!text.contains("<script") && !text.contains("<img src=x") && !text.contains("<!--"), "{name}");
        assert!(text.len() < 8_000_000, "{name}: {} bytes", text.len());
    }
}

#[test]
fn a_page_tells_everything_in_order() {
    let (_, text) = page(&Place::new(), &everything());
    #[rustfmt::skip]
    let told = [
        "Emoji</h1>", "on Raspberry Pi 5 Model B Rev 1.0</p>", "22 °C, active cooler", "Not valid.", "others took 31 %",
        "Results</h2>", "int8, 1 step, 128×128, lcm", "identical", "Latency by steps, single-stream", "Speed against quality",
        "<h2 id=\"case-1\">1. ", "✗ not valid", "Warm-up: 3 images", "Drift: ", "Latency</b>", "1 image is beyond",
        "Latency over time</b>", "Stages</b>", "safelight's own time", "Memory</b>", "199 MB", "Cold start</b>",
        "denoiser hit", "Placement</b>", "Temperature</b>", "°C", "Clock</b>", "Power</b>", "Pressure</b>",
        "No sensor told of throttling", "Graphs</h3>", "nothing here measures power", "Quality</h3>", "Goldens: 2 made",
        "The 6 furthest of 8", "data:image/", "a red apple, seed ", "Checks</h3>", "– could not be made",
        "✗ failed", "Advice</h3>", "stop other programs", "<h2 id=\"case-2\">2. ", "✓ valid", "Steps</b>",
        "Drift over the steps</b>", "<h2 id=\"case-8\">8. ", "87.1 % kept", "How it was measured</h2>", "5 %",
        "Sensors</h2>", "run as root", "Doing it again</h2>", "safelight bench --steps 4", "intra_op_threads",
    ];
    let mut rest = text.as_str();
    for told in told {
        rest = rest.split_once(told).unwrap_or_else(|| panic!("{told:?} is not told where it should be")).1;
    }
}

#[test]
fn what_is_missing_is_said() {
    let reports = reports();
    for (name, told) in [
        ("none", vec!["Nothing measured."]),
        ("few", vec!["n too small", "Valid. ", "No check failed."]),
        (
            "bare",
            vec![
                "It was interrupted",
                "cannot be opened",
                "None was looked for",
                "It was not asked for",
                "nothing here",
            ],
        ),
        ("cold", vec!["cold</h2>", "The first 16 of 30."]),
    ] {
        let report = &reports.iter().find(|(found, _)| *found == name).unwrap().1;
        let (_, text) = page(&Place::new(), report);
        let text = text.replace("</b>\n<span>", " ");
        told.iter().for_each(|told| assert!(text.contains(told), "{name}: {told}"));
    }
}

/// Compares with a golden file, or rewrites it where `SAFELIGHT_UPDATE` is set.
fn assert_golden(name: &str, found: &str) {
    let path = repository().join("tests/golden").join(name);
    if std::env::var_os("SAFELIGHT_UPDATE").is_some() {
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{name}: SAFELIGHT_UPDATE=1 cargo test --test report");
}

/// Four cases with few and round numbers, one of them wrong.
fn small() -> Report {
    let workload = |precision, steps, sampler: &str| Workload {
        precision,
        steps,
        sampler: sampler.into(),
        ..Made::default().workload
    };
    let made = |workload, images| Made { workload, images, ..Made::default() };
    let mut report = report([
        made(workload(Precision::Int8, 1, "lcm"), 4),
        made(workload(Precision::Fp16, 2, "euler until step 1, then dpmpp_2m"), 70),
        made(workload(Precision::Fp32, 2, "lcm"), 3),
    ]);
    for (index, case) in report.cases.iter_mut().enumerate() {
        let count = case.images.ms.len();
        case.images.ms =
            (0..count).map(|image| 100.0 * (index + 1) as f64 + 0.25 * (image * 7 % count) as f64).collect();
        case.images.start_s = (0..count).map(|image| 0.5 * image as f64).collect();
        case.cold.iter_mut().for_each(|start| start.total_ms = start.total_ms.round());
        case.detailed.truncate(2);
        for (image, detailed) in case.detailed.iter_mut().enumerate() {
            let ms = 10.0 + 0.5 * image as f64;
            *detailed = Detailed {
                total_ms: 5.0 * ms,
                reopen_ms: 0.0,
                text_encoder_ms: ms,
                denoiser_ms: 2.0 * ms,
                steps_ms: vec![ms; case.workload.steps],
                decoder_ms: 1.5 * ms,
                own_ms: 0.5 * ms,
            };
        }
        case.summary = summarise(case.workload.scenario, &case.images, &case.detailed, &case.cold, 1);
        // How intervals are made is not what is tested here.
        let interval = &mut case.summary.as_mut().unwrap().image.p50_interval;
        *interval = interval.map(|_| [206.0, 209.5]);
    }
    let cold = Case { images: Default::default(), ..report.cases[0].clone() };
    let workload = Workload { scenario: Scenario::Cold, ..cold.workload.clone() };
    let summary = summarise(Scenario::Cold, &cold.images, &cold.detailed, &cold.cold, 1);
    report.cases.insert(0, Case { workload, summary, detailed: Vec::new(), ..cold });
    let [_, first, _, last] = &mut report.cases[..] else { unreachable!("there are four") };
    first.quality = None;
    (last.energy, last.summary, last.memory, last.images) = (None, None, None, Default::default());
    last.error = Some("ONNX Runtime: out of memory | <b>".into());
    last.validity.valid = false;
    report
}

#[test]
fn csv_and_markdown_are_as_they_were() {
    let place = Place::new();
    let path = place.inputs().join("report.json");
    small().write(&path).unwrap();
    for (format, golden) in [("csv", "report.csv"), ("csv-detailed", "report-detailed.csv"), ("markdown", "report.md")]
    {
        let mut command = place.without_library(["report", "--format", format]);
        command.arg(&path);
        let outcome = Outcome::of(command);
        outcome.expect(format, 0, "");
        assert_golden(golden, std::str::from_utf8(&outcome.stdout).unwrap());
    }
    assert_eq!(place.left(), [""; 0]);
}

#[test]
fn hostile_reports_stay_in_their_cells() {
    let place = Place::new();
    let path = place.input("report.json", serde_json::to_string(&hostile()).unwrap());
    for (format, columns) in [("csv", 12), ("csv-detailed", 13)] {
        let mut command = place.without_library(["report", "--format", format]);
        let outcome = Outcome::of({
            command.arg(&path);
            command
        });
        let text = String::from_utf8(outcome.stdout).unwrap();
        for record in records(&text) {
            assert_eq!(record.len(), columns, "{record:?}");
            assert!(record.iter().all(|field| !field.starts_with(['=', '@', '+'])), "{record:?}");
        }
    }
    let mut command = place.without_library(["report", "--format", "markdown"]);
    command.arg(&path);
    let table = String::from_utf8(Outcome::of(command).stdout).unwrap();
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 4, "{table}");
    let bars = |row: &&str| row.replace("\\|", "").matches('|').count();
    assert!(rows.iter().all(|row| bars(row) == 10), "{table}");
    assert!(!table.contains("<script") && !table.contains("NaN"), "{table}");
}

/// Records of RFC 4180.
fn records(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => field.extend(rest.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\r' if !quoted && rest.next_if_eq(&'\n').is_some() => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            c => field.push(c),
        }
    }
    assert!(!quoted && field.is_empty() && record.is_empty(), "the last record has no end");
    records
}

#[test]
fn wrong_places_are_told() {
    let place = Place::new();
    let path = place.input("report.json", serde_json::to_string(&small()).unwrap());
    let broken = place.input("broken.json", "{");
    let (own, folder) = (path.display().to_string(), place.work().display().to_string());
    for (arguments, code, telling) in [
        (vec!["nowhere.json"], 7, "nowhere.json: "),
        (vec![&folder], 7, "report.json: cannot be read"),
        (vec![broken.to_str().unwrap()], 2, "broken.json: is no benchmark report"),
        (
            vec![&own, "--out", "nowhere/page.html"],
            7,
            "nowhere/page.html: cannot be written: its folder does not exist",
        ),
        (vec![&own, "--out", &own], 2, "is the report itself"),
        (vec![&own, "--format", "pdf"], 2, "possible values: html, csv, csv-detailed, markdown"),
    ] {
        Outcome::of(place.without_library([vec!["report"], arguments.clone()].concat())).expect(
            &arguments.join(" "),
            code,
            telling,
        );
    }
    assert_eq!(serde_json::from_slice::<Report>(&fs::read(&path).unwrap()).unwrap(), small());
    assert_eq!(place.left(), [""; 0]);
}

/// A browser that needs no screen, where there is one.
fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok());
    if found.is_none() {
        skipped(&format!("none of {} is here to open the page in", names.join(", ")));
    }
    found
}

/// Opens a page where no request could go anywhere; returns what the browser prints.
fn opened(place: &Place, browser: &str, page: &Path, width: usize, action: &str) -> String {
    let mut command = Command::new(browser);
    // As root, as in containers, browsers refuse to work with their sandbox; the page is our own.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"]);
    command.args(["--proxy-server=127.0.0.1:9", "--disable-dev-shm-usage", action]);
    command.arg(format!("--user-data-dir={}", place.inputs().join("browser").display()));
    command.arg(format!("--window-size={width},1600")).arg(format!("file://{}", page.display()));
    let output = command.output().unwrap();
    let [told, faults] = [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    assert!(output.status.success() && !faults.contains("CONSOLE"), "{}: {faults}", page.display());
    told
}

#[test]
fn browsers_show_pages_without_faults() {
    let Some(browser) = browser() else { return };
    for (name, report) in [("everything", everything()), ("hostile", hostile())] {
        let place = Place::new();
        let (path, text) = page(&place, &report);
        let parsed = opened(&place, browser, &path, 1200, "--dump-dom");
        for element in ["<section", "<svg", "<table", "<figure", "<img", "<h2", "<circle", "<title"] {
            let counts = [&parsed, &text].map(|text| text.matches(element).count());
            assert_eq!(counts[0], counts[1], "{name}: {element}");
        }
        assert!(!parsed.contains("<script") && !parsed.contains("onerror=\""), "{name}");
        assert_shown(&place, browser, &path, 1200);
    }
}

#[test]
fn pages_fit_a_telephone() {
    let Some(browser) = browser() else { return };
    let place = Place::new();
    // A browser's window is at least 500 pixels wide; a frame within it is as wide as it is told to be.
    let mut frames = String::from("<!DOCTYPE html><meta charset=\"utf-8\"><body style=\"margin:0\">");
    let reports = reports();
    for (name, report) in &reports {
        let (_, text) = page(&place, report);
        let text = text.replace('&', "&amp;").replace('"', "&quot;");
        let script = "this.title += ' ' + this.contentDocument.documentElement.scrollWidth";
        frames += &format!(
            "<iframe title=\"{name}\" style=\"border:0\" width=400 height=1500 onload=\"{script}\" srcdoc=\"{text}\">\
             </iframe>\n"
        );
    }
    let path = place.inputs().join("frames.html");
    fs::write(&path, frames).unwrap();
    let parsed = opened(&place, browser, &path, 500, "--dump-dom");
    let titles = parsed.split("<iframe title=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let expected = reports.iter().map(|(name, _)| format!("{name} 400"));
    assert_eq!(titles.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    assert_shown(&place, browser, &path, 500);
}

/// What the browser shows is no empty page.
fn assert_shown(place: &Place, browser: &str, page: &Path, width: usize) {
    let shot = place.inputs().join("page.png");
    opened(place, browser, page, width, &format!("--screenshot={}", shot.display()));
    let picture = image::open(shot).unwrap().to_rgb8();
    let mut counts = HashMap::new();
    picture.pixels().for_each(|pixel| *counts.entry(pixel.0).or_insert(0) += 1);
    let commonest = f64::from(*counts.values().max().unwrap()) / f64::from(picture.width() * picture.height());
    assert!(counts.len() > 100 && (0.3..0.99).contains(&commonest), "{} colours, {commonest}", counts.len());
}
