//! A report as one page of HTML that needs nothing else: no file, no network, no script.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use safelight::bench::Report;
pub(super) use safelight::bench::fleet::device;
use safelight::bench::report::{Case, Protocol, Workload};
use safelight::machine::Machine;
use safelight::sensor::{Quantity, State};

use super::charts::{Axes, Line, Points, Spot, line_keys, lines, scatter};
use super::headline::{HEAD, faults, named, notes, row, short_names};
use super::number::{counted, megabytes, percent, three};
use super::page::Page;
use super::picture::data_uri;
use super::section;
use crate::schedule::significant;

/// Cases that are shown in full; the table has all of them.
const MOST_CASES: usize = 100;

/// The page. `pictures` gives the bytes of a picture's file beside the report, where it is there.
pub(crate) fn html(report: &Report, pictures: &dyn Fn(&str) -> Option<Vec<u8>>) -> String {
    // Cases have their references in common: each picture is made small once.
    let kept = RefCell::new(HashMap::new());
    let pictures = |name: &str| -> Option<String> {
        let mut kept = kept.borrow_mut();
        kept.entry(name.to_owned()).or_insert_with(|| data_uri(&pictures(name)?)).clone()
    };
    let device = device(&report.machine);
    let mut page = Page::new(&format!("{}, on {device}", report.model.title));
    head(&mut page, report, &device);
    verdict(&mut page, report);
    headline(&mut page, report);
    across_cases(&mut page, report);
    for (index, case) in report.cases.iter().enumerate().take(MOST_CASES) {
        section::case(&mut page, (index + 1, case), report, &pictures);
    }
    protocol(&mut page, report);
    sensors(&mut page, report);
    reproduction(&mut page, report);
    page.end()
}

/// What was measured, and on what.
fn head(page: &mut Page, report: &Report, device: &str) {
    let Report { tool, library, machine, state, target, model, .. } = report;
    page.markup("<header>");
    page.element("p class=\"over\"", "safelight bench");
    page.element("h1", &model.title);
    page.element("p class=\"on\"", &format!("on {device}"));
    let features: Vec<_> = machine.features.iter().map(ToString::to_string).collect();
    let build = if tool.release { "release build" } else { "built without optimisation" };
    page.facts(&[
        ("model", Some(model.name.clone())),
        ("target", Some(format!("{}: {}", target.name, target.title))),
        ("begun", Some(report.created.clone())),
        ("ONNX Runtime", Some(format!("{}, {}", library.version, library.file))),
        ("library's SHA-256", Some(library.sha256.chars().take(16).chain(['…']).collect())),
        ("safelight", Some(format!("{}, {build}", tool.safelight))),
        ("processor", machine.processor.as_ref().map(|it| format!("{it}, {}", counted(machine.cores, "core")))),
        ("instructions", Some(features.join(", "))),
        ("memory", machine.memory_bytes.map(|bytes| format!("{} MB", megabytes(bytes)))),
        ("system", Some(system(machine, state))),
        ("Linux for Tegra", machine.l4t.map(|l4t| format!("{l4t}"))),
        ("hypervisor", state.hypervisor.clone()),
        ("graphics driver", driver(state)),
        ("power mode", state.power_mode.clone()),
        ("clock governor", state.governor.clone()),
        ("power supply", state.on_battery.map(|battery| if battery { "battery" } else { "mains" }.into())),
        ("at the start", Some(at_the_start(state))),
        ("notes", Some(report.notes.join("; "))),
    ]);
    page.markup("</header>");
}

fn system(machine: &Machine, state: &State) -> String {
    let kernel = state.kernel.as_ref().map(|kernel| format!(" {kernel}")).unwrap_or_default();
    format!("{}{kernel}, {}", machine.os, machine.arch)
}

fn driver(state: &State) -> Option<String> {
    let newest = state.cuda.as_ref().map(|cuda| format!(", for CUDA up to {cuda}")).unwrap_or_default();
    state.driver.as_ref().map(|driver| format!("NVIDIA {driver}{newest}"))
}

fn at_the_start(state: &State) -> String {
    let told = [
        state.hottest_celsius.map(|celsius| format!("{} °C", three(celsius))),
        state.load.map(|load| format!("load {}", three(load))),
        state.available_bytes.map(|bytes| format!("{} MB free", megabytes(bytes))),
        state.swapped_bytes.filter(|bytes| *bytes > 0).map(|bytes| format!("{} MB swapped out", megabytes(bytes))),
        state.cpu_pressure.map(|share| format!("processor pressure {}", percent(share))),
        state.memory_pressure.map(|share| format!("memory pressure {}", percent(share))),
    ];
    told.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Whether the numbers can be trusted, before any of them is told.
fn verdict(page: &mut Page, report: &Report) {
    let invalid = report.cases.iter().filter(|case| !case.validity.valid).count();
    let (class, word, mut text) = match (invalid, report.cases.len()) {
        (_, 0) => ("bad", "Nothing measured.", String::new()),
        (0, 1) => ("good", "Valid.", "No check failed.".into()),
        (0, cases) => ("good", "Valid.", format!("No check failed in any of {}.", counted(cases, "case"))),
        (1, 1) => ("bad", "Not valid.", "Its numbers are not to be relied on.".into()),
        (some, cases) => ("bad", "Not valid.", format!("Of {}, {some} failed a check.", counted(cases, "case"))),
    };
    let class = if report.finished { class } else { "bad" };
    if !report.finished {
        text += " It was interrupted: cases are missing.";
    }
    page.markup(&format!("<div class=\"verdict {class}\" role=\"status\"><b>{word}</b>"));
    page.element("span", &text);
    let fault = |(reason, cases): (&str, Vec<usize>)| {
        let numbers: Vec<_> = cases.iter().map(|index| (index + 1).to_string()).collect();
        match cases.len() {
            some if some == report.cases.len() => reason.to_owned(),
            1 => format!("case {} ({}): {reason}", numbers[0], named(&report.cases[cases[0]].workload)),
            _ => format!("cases {}: {reason}", numbers.join(", ")),
        }
    };
    page.list(&faults(report).into_iter().map(fault).collect::<Vec<_>>());
    page.markup("</div>");
}

/// A row a workload.
fn headline(page: &mut Page, report: &Report) {
    page.element("h2", "Results");
    let head: Vec<_> = [""].into_iter().chain(HEAD).chain(["valid"]).collect();
    let line = |(index, case): (usize, &Case)| {
        let valid = if case.validity.valid { "✓ yes" } else { "✗ no" };
        let number = std::iter::once((index + 1).to_string());
        number.chain(row(case)).chain([valid.into()]).collect::<Vec<_>>()
    };
    page.table(2, &head, &report.cases.iter().enumerate().map(line).collect::<Vec<_>>());
    page.element("p class=\"pale\"", &notes(report).join(" "));
    if report.cases.len() > 1 {
        let link = |index| format!("<a href=\"#case-{index}\">{index}</a>");
        let links: Vec<_> = (1..=report.cases.len().min(MOST_CASES)).map(link).collect();
        page.markup(&format!("<p>Each in full: {}</p>", links.join(" · ")));
    }
}

/// Kinds of use that are shown beside each other.
const MOST_KINDS: usize = 8;

/// What only shows when cases stand beside each other: those of one kind of use, since a cold start or a batch takes as
/// long as many single images.
fn across_cases(page: &mut Page, report: &Report) {
    let kind = |case: &Case| (case.workload.scenario, case.workload.batch);
    let kinds: BTreeSet<_> = report.cases.iter().map(kind).collect();
    page.markup("<div class=\"charts\">");
    for (scenario, batch) in kinds.into_iter().take(MOST_KINDS) {
        let cases = report.cases.iter().enumerate().filter(|(_, case)| kind(case) == (scenario, batch));
        let cases: Vec<_> = cases.map(|(index, case)| (index + 1, case)).collect();
        let whole = if batch > 1 { format!("a batch of {batch}") } else { "an image".into() };
        beside(page, &cases, (scenario.name(), &format!("p50 ms {whole}")));
    }
    page.markup("</div>");
}

/// Cases with their numbers, all of one kind of use.
fn beside(page: &mut Page, cases: &[(usize, &Case)], (scenario, p50): (&str, &str)) {
    let (by_steps, spots) = (by_steps(cases), spots(cases));
    if !by_steps.is_empty() {
        let axes = Axes { across: "steps", upward: p50, least: Some((0.0, 0.0)) };
        let chart = lines(&by_steps, &axes);
        let heading = format!("Latency by steps, {scenario}");
        page.figure(&heading, "Median of each case.", &chart, &line_keys(&by_steps));
    }
    if spots.len() > 1 {
        let axes = Axes { across: p50, upward: "PSNR dB", least: None };
        let caption = "Up is closer to the reference, left is faster. Numbers are those of the table.";
        page.figure(&format!("Speed against quality, {scenario}"), caption, &scatter(&spots, &axes), &[]);
    }
}

/// A line for all cases that differ in nothing but their steps.
fn by_steps(cases: &[(usize, &Case)]) -> Vec<Line> {
    let mut groups: Vec<(&Case, Points)> = Vec::new();
    let alike = |a: &Case, b: &Case| {
        let workload = Workload { steps: a.workload.steps, ..b.workload.clone() };
        a.workload == workload
    };
    for (_, case) in cases.iter().copied() {
        let Some(summary) = &case.summary else { continue };
        let point = (case.workload.steps as f64, Some(summary.image.p50));
        match groups.iter_mut().find(|(first, _)| alike(first, case)) {
            Some((_, points)) => points.push(point),
            None => groups.push((case, vec![point])),
        }
    }
    groups.retain(|(_, points)| points.len() > 1);
    let firsts: Vec<_> = groups.iter().map(|(first, _)| *first).collect();
    // What differs between lines names them; of one line, steps are the axis and no name.
    let names = match &firsts[..] {
        [only] => vec![only.workload.precision.to_string()],
        several => short_names(several),
    };
    let line = |((_, mut points), name): ((&Case, Points), String)| {
        points.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Line { name, points }
    };
    groups.into_iter().zip(names).map(line).collect()
}

fn spots(cases: &[(usize, &Case)]) -> Vec<Spot> {
    let names = short_names(&cases.iter().map(|(_, case)| *case).collect::<Vec<_>>());
    let spot = |((number, case), name): (&(usize, &Case), String)| {
        let (p50, psnr) = (case.summary.as_ref()?.image.p50, case.quality.as_ref()?.least_psnr_db()?);
        let title = format!("{name}: {} ms, {} dB", three(p50), three(psnr));
        Some(Spot { number: *number, title, at: (p50, psnr) })
    };
    cases.iter().zip(names).filter_map(spot).collect()
}

fn protocol(page: &mut Page, report: &Report) {
    let Protocol { warm_up_images: [least, most], start_celsius, .. } = &report.protocol;
    let it = &report.protocol;
    // What was set, and not measured, is told as it was set.
    let share = |share: f64| format!("{} %", significant(100.0 * share));
    page.element("h2", "How it was measured");
    let tolerance = share(it.warm_up_tolerance);
    page.facts(&[
        ("requests", Some(format!("{}, in turn; SHA-256 {}", it.requests, it.requests_sha256))),
        ("warm-up", Some(format!("{least} to {most} images, until two in a row differ by less than {tolerance}"))),
        (
            "headline pass",
            Some(format!(
                "{} and {} s or more; no longer than {} s; nothing but whole images is timed",
                counted(it.least_images, "image"),
                significant(it.least_seconds),
                significant(it.most_seconds)
            )),
        ),
        ("second pass", Some(format!("{}, with stages and steps timed", counted(it.detailed_images, "image")))),
        ("cold phases", Some(format!("{}, one after the other", counted(it.cold_processes, "fresh process")))),
        ("compared", Some(counted(it.compared_pictures, "picture"))),
        ("sensors", Some(format!("{} readings a second", significant(it.readings_per_second)))),
        ("others may use", Some(format!("{} of all processors' time", share(it.most_contention)))),
        ("drift may be", Some(format!("{} from first to last quarter", share(it.most_drift)))),
        ("begins at", start_celsius.map(|celsius| format!("{} °C or less", significant(celsius)))),
    ]);
    let text = "Percentiles are told only where enough samples stand behind them: p90 of 64, p95 of 130, p99 of 662 \
                (99 % confidence). Intervals are bootstrapped, 95 %. MB are 1,000,000 bytes.";
    page.element("p class=\"pale\"", text);
}

/// Every sensor that was looked for, and why it is absent where it is.
fn sensors(page: &mut Page, report: &Report) {
    page.element("h2 id=\"sensors\"", "Sensors");
    if report.sensors.is_empty() {
        page.element("p", "None was looked for.");
        return;
    }
    let row = |sensor: &safelight::sensor::Source| {
        let state = sensor.absent.as_ref().map_or("read".into(), |reason| format!("absent: {reason}"));
        vec![sensor.name.clone(), quantity(sensor.quantity).0.into(), sensor.covers.clone(), state]
    };
    let rows: Vec<_> = report.sensors.iter().map(row).collect();
    page.table(4, &["sensor", "measures", "covers", ""], &rows);
}

/// What a quantity is called, its unit on an axis, and what its values are multiplied with for that.
pub(super) fn quantity(quantity: Quantity) -> (&'static str, &'static str, f64) {
    match quantity {
        Quantity::Celsius => ("temperature", "°C", 1.0),
        Quantity::Megahertz => ("clock", "MHz", 1.0),
        Quantity::Watts => ("power", "W", 1.0),
        Quantity::Joules => ("power by a counter of energy", "W", 1.0),
        Quantity::Load => ("load", "% busy", 100.0),
        Quantity::Pressure => ("pressure", "% of the time waited", 100.0),
        Quantity::Throttled => ("throttling", "1 while slowed down", 1.0),
        Quantity::Bytes => ("accelerator's memory", "MB", 1e-6),
        Quantity::Charge => ("state of charge", "%", 100.0),
    }
}

fn reproduction(page: &mut Page, report: &Report) {
    page.element("h2", "Doing it again");
    let arguments: Vec<_> = report.tool.arguments.iter().map(|argument| quoted(argument)).collect();
    page.code(&format!("safelight {}", arguments.join(" ")));
    let text = "Every raw sample is in the JSON report that this page was made from; safelight report REPORT.json \
                --format csv writes them for pandas and R, safelight compare holds two reports against each other.";
    page.element("p", text);
    page.markup("<details><summary>The target's settings</summary>");
    page.code(&serde_json::to_string_pretty(&report.target.settings).unwrap_or_default());
    page.markup("</details>");
}

/// An argument as a POSIX shell reads it.
fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    match !argument.is_empty() && argument.chars().all(plain) {
        true => argument.into(),
        false => format!("'{}'", argument.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_where_a_shell_would_read_them() {
        for (argument, written) in
            [("--steps", "--steps"), ("1,2,4", "1,2,4"), ("", "''"), ("it's $HOME", "'it'\\''s $HOME'")]
        {
            assert_eq!(quoted(argument), written);
        }
    }
}
