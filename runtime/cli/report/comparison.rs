//! Two reports beside each other, for a terminal.

use std::fmt::Write as _;
use std::path::Path;

use safelight::bench::Report;
use safelight::bench::compare::{Compared, Comparison, Difference, InTurn, Outputs, Pair};
use safelight::bench::fleet::device;
use safelight::stats::{Ratio, Verdict};
use serde_json::Value;

use super::number::{NOTHING, megabytes, or_nothing, three};
use crate::chart::cut;

const HEAD: [&str; 6] = ["", "A", "B", "B/A", "95 % interval", "verdict"];

/// Steps that are told one by one; more would hide the rest.
const MOST_STEPS: usize = 8;

/// Characters of a value that differs.
const MOST_CHARACTERS: usize = 60;

type Row = [String; HEAD.len()];

/// What was compared, a table, what differs, and what to be careful about.
pub(crate) fn as_text(reports: [(&Path, &Report); 2], compared: &Comparison) -> String {
    let mut text = String::new();
    for (name, (path, report)) in ["A", "B"].iter().zip(reports) {
        let Report { model, target, library, created, machine, .. } = report;
        let _ = writeln!(
            text,
            "{name}: {}: {} on {} (target {}), ONNX Runtime {}, {created}",
            path.display(),
            shown(&model.title),
            shown(&device(machine)),
            shown(&target.name),
            shown(&library.version)
        );
    }
    let mut rows = vec![HEAD.map(String::from)];
    for pair in &compared.cases {
        rows.extend(pair_rows(pair));
    }
    let _ = write!(text, "\n{}", aligned(&rows));
    for pair in compared.cases.iter().filter(|pair| pair.best().1 == Verdict::Undecided) {
        let _ = writeln!(text, "\n{}: undecided: {}", pair.a, pair.why_undecided());
    }
    text + &beside(compared)
}

/// What was not compared, what differs, and what to be careful about.
fn beside(compared: &Comparison) -> String {
    let mut text = String::from("\n");
    for (name, only) in [("A", &compared.only_a), ("B", &compared.only_b)] {
        only.iter().for_each(|workload| text += &format!("only {name}: {workload}\n"));
    }
    let of_cases = compared.cases.iter().flat_map(|pair| &pair.differences);
    for Difference { field, a, b } in compared.differences.iter().chain(of_cases) {
        let _ = writeln!(text, "differs: {}: {} in A, {} in B", shown(field), value(a.as_ref()), value(b.as_ref()));
    }
    compared.warnings.iter().for_each(|warning| text += &format!("warning: {warning}\n"));
    if compared.cases.iter().any(|pair| pair.in_turn.is_none()) {
        text += "A and B were measured apart: what the device does more slowly than a run takes is in no interval; \
                 --vs measures both in turn\n";
    }
    text
}

fn pair_rows(pair: &Pair) -> Vec<Row> {
    let mut rows = vec![row(&pair.a.to_string(), &pair.image)];
    if pair.a != pair.b {
        rows.push(words(&format!("  B: {}", pair.b), ""));
    }
    rows.extend(pair.in_turn.as_ref().map(in_turn));
    rows.extend(pair.stages.iter().map(|(name, stage)| row(&format!("  {}", name.replace('_', " ")), stage)));
    if pair.steps.len() <= MOST_STEPS {
        rows.extend(pair.steps.iter().enumerate().map(|(index, step)| row(&format!("  step {}", index + 1), step)));
    }
    let [a, b] = pair.joules_per_image;
    rows.extend(two("  J/image", [a, b], [a, b].map(or_nothing)));
    let bytes = pair.peak_bytes;
    let shown_bytes =
        bytes.map(|bytes| bytes.map_or_else(|| NOTHING.into(), |bytes| format!("{} MB", megabytes(bytes))));
    rows.extend(two("  peak memory", bytes.map(|bytes| bytes.map(|bytes| bytes as f64)), shown_bytes));
    let [a, b] = pair.least_psnr_db;
    if a.is_some() || b.is_some() {
        let [told_a, told_b] = [a, b].map(|db| db.map_or_else(|| NOTHING.into(), |db| format!("{} dB", three(db))));
        rows.push(["  least PSNR".into(), told_a, told_b, String::new(), String::new(), change(a, b)]);
    }
    let outputs = match pair.outputs {
        Outputs::Identical => "identical in every pixel",
        Outputs::Different => "not the same",
        Outputs::Unknown => "no request in common",
    };
    rows.push(words("  pictures", outputs));
    rows
}

fn row(name: &str, compared: &Compared) -> Row {
    let Compared { median_ms: [a, b], n, ratio, verdict } = compared;
    let ms = |ms: f64, n: usize| if n == 0 { NOTHING.into() } else { format!("{} ms", three(ms)) };
    let quotient = ratio.map_or(b / a, |ratio| ratio.median);
    [
        name.into(),
        ms(*a, n[0]),
        ms(*b, n[1]),
        if quotient.is_finite() { format!("{quotient:.3}") } else { NOTHING.into() },
        ratio.map_or_else(|| NOTHING.into(), interval),
        verdict.name().into(),
    ]
}

fn in_turn(told: &InTurn) -> Row {
    let InTurn { ratio, verdict, a_ms, median_ms: [a, b], .. } = told;
    let verdict = verdict.unwrap_or(Verdict::Undecided).name();
    [
        format!("  in turn, {} pairs", a_ms.len()),
        format!("{} ms", three(*a)),
        format!("{} ms", three(*b)),
        ratio.map_or_else(|| NOTHING.into(), |ratio| format!("{:.3}", ratio.median)),
        ratio.map_or_else(|| NOTHING.into(), interval),
        verdict.into(),
    ]
}

/// Two numbers without an interval; nothing where neither has one.
fn two(name: &str, [a, b]: [Option<f64>; 2], [told_a, told_b]: [String; 2]) -> Option<Row> {
    (a.is_some() || b.is_some()).then_some(())?;
    let ratio = a.zip(b).map(|(a, b)| b / a).filter(|ratio| ratio.is_finite());
    let ratio = ratio.map_or_else(|| NOTHING.into(), |ratio| format!("{ratio:.3}"));
    Some([name.into(), told_a, told_b, ratio, String::new(), String::new()])
}

fn change(a: Option<f64>, b: Option<f64>) -> String {
    a.zip(b).map(|(a, b)| format!("{:+.1} dB", b - a)).unwrap_or_default()
}

fn words(name: &str, told: &str) -> Row {
    let [a, b, c, d] = [const { String::new() }; 4];
    [name.into(), a, b, c, d, told.into()]
}

/// 1.05 (1.03 to 1.07); or that there is none.
pub(crate) fn ratio(ratio: Option<Ratio>) -> String {
    ratio.map_or_else(|| "unknown".into(), |ratio| format!("{:.3} ({})", ratio.median, interval(ratio)))
}

fn interval(Ratio { low, high, .. }: Ratio) -> String {
    format!("{low:.3} to {high:.3}")
}

/// As it was typed: 5 %, 0.5 %.
pub(crate) fn percent(share: f64) -> String {
    // A share that was a percentage before may be off by its last digit.
    format!("{} %", (share * 1e8).round() / 1e6)
}

/// Words to the left, numbers to the right.
fn aligned(rows: &[Row]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1).take(HEAD.len() - 2) {
            let _ = write!(line, "  {cell:>width$}");
        }
        let _ = writeln!(text, "{}", format!("{line}  {}", row[HEAD.len() - 1]).trim_end());
    }
    text
}

fn value(value: Option<&Value>) -> String {
    match value {
        None => "nothing".into(),
        Some(Value::String(text)) => shown(text),
        Some(other) => shown(&other.to_string()),
    }
}

/// A report may come from a stranger, and a terminal obeys control characters.
fn shown(text: &str) -> String {
    cut(text, MOST_CHARACTERS).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
