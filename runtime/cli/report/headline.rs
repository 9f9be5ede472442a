//! The numbers that stand for a case: one row a workload, in HTML and in Markdown alike.

use std::collections::BTreeSet;

use safelight::bench::Report;
use safelight::bench::report::{Case, Quality, Scenario, Workload};
use safelight::stats::{Distribution, LEAST_FOR_P90};

use super::number::{NOTHING, counted, grouped, interval, megabytes, or_nothing, three};

/// Heads of the columns, units included. The first is words.
pub(super) const HEAD: [&str; 8] = [
    "workload",
    "p50 ms (95 % interval)",
    "p90 ms",
    "images/s",
    "J/image",
    "peak memory MB",
    "PSNR dB",
    "images measured",
];

/// A case's row. What may not be told of it is a dash.
pub(super) fn row(case: &Case) -> [String; HEAD.len()] {
    let summary = case.summary.as_ref();
    let told = |tell: &dyn Fn(&Distribution) -> String| summary.map_or_else(|| NOTHING.into(), |it| tell(&it.image));
    [
        named(&case.workload),
        told(&|image| interval(image.p50, image.p50_interval)),
        told(&p90),
        or_nothing(summary.map(|summary| summary.images_per_second)),
        or_nothing(case.joules_per_image()),
        case.memory.as_ref().map_or_else(|| NOTHING.into(), |memory| megabytes(memory.peak_bytes)),
        case.quality.as_ref().map_or_else(|| NOTHING.into(), psnr),
        told(&|image| grouped(&image.n.to_string())),
    ]
}

/// The percentile, or what is not less than it, or nothing of too few samples.
fn p90(image: &Distribution) -> String {
    match (image.p90, image.p90_early_stop) {
        (Some(p90), _) => three(p90),
        (None, Some(bound)) => format!("≤ {}", three(bound)),
        (None, None) => NOTHING.into(),
    }
}

/// Why a column is empty, or needs to be read with care: one sentence a column.
pub(super) fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    let images = || report.cases.iter().filter_map(|case| Some(&case.summary.as_ref()?.image));
    if images().any(|image| image.p90.is_none() && image.p90_early_stop.is_none()) {
        notes.push(format!("p90: n too small where there is none; it takes {LEAST_FOR_P90} images."));
    }
    if report.cases.iter().any(|case| case.workload.batch > 1) {
        notes.push("Of a batch, latency is the whole batch's.".into());
    }
    if report.cases.iter().any(|case| case.workload.scenario == Scenario::Cold) {
        notes.push("Cold is from a process's start to its first image.".into());
    }
    notes.push(energy_note(report));
    let references: BTreeSet<_> = report.cases.iter().filter_map(|case| reference(case.quality.as_ref()?)).collect();
    if !references.is_empty() {
        let references: Vec<_> = references.into_iter().collect();
        notes.push(format!("PSNR: the least of the pictures compared with {}.", references.join("; or ")));
    }
    notes
}

/// Why cases are not to be relied on: each reason once, with the indices of its cases.
pub(super) fn faults(report: &Report) -> Vec<(&str, Vec<usize>)> {
    let mut faults: Vec<(&str, Vec<usize>)> = Vec::new();
    for (index, case) in report.cases.iter().enumerate().filter(|(_, case)| !case.validity.valid) {
        let mut reasons: Vec<&str> = case.validity.reasons.iter().chain(&case.error).map(String::as_str).collect();
        if reasons.is_empty() {
            reasons.push("no reason is given");
        }
        for reason in reasons {
            match faults.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, cases)) => cases.push(index),
                None => faults.push((reason, vec![index])),
            }
        }
    }
    faults
}

/// What energies cover, or that there are none; the table of sensors says why.
fn energy_note(report: &Report) -> String {
    let energies = report.cases.iter().filter_map(|case| case.energy.as_ref());
    let covered: BTreeSet<_> = energies.map(|it| format!("{} ({})", it.sources.join(" + "), it.covers)).collect();
    if !covered.is_empty() {
        let covered: Vec<_> = covered.into_iter().collect();
        return format!("J/image: all that {} told, idle included.", covered.join("; or "));
    }
    "J/image: nothing that can be read here measures power.".into()
}

/// What pictures were compared with: a better run of the same, or else what came with the model.
fn reference(quality: &Quality) -> Option<&str> {
    match (&quality.reference, &quality.goldens) {
        (Some(reference), _) if !quality.pictures.is_empty() => Some(reference),
        (_, goldens) => goldens.as_ref().map(|_| "the model's goldens"),
    }
}

fn psnr(quality: &Quality) -> String {
    match quality.least_psnr_db() {
        Some(f64::INFINITY) => "identical".into(),
        least => or_nothing(least),
    }
}

/// A ratio, or that every pixel is the same.
pub(super) fn decibels(psnr_db: Option<f64>) -> String {
    psnr_db.map_or_else(|| "identical".into(), |psnr_db| format!("{} dB", three(psnr_db)))
}

/// A workload in words: `int8, 4 steps, 512×512, lcm`; what most are not is told at its end.
pub(super) fn named(workload: &Workload) -> String {
    let steps = counted(workload.steps, "step");
    let Workload { precision, width, height, sampler, .. } = workload;
    let mut name = format!("{precision}, {steps}, {width}×{height}, {sampler}");
    if workload.batch > 1 {
        name += &format!(", batch {}", workload.batch);
    }
    if workload.scenario != Scenario::SingleStream {
        name += &format!(", {}", workload.scenario.name());
    }
    name
}

/// Short names for cases: of each workload only what is not the same in all of them.
pub(super) fn short_names(cases: &[&Case]) -> Vec<String> {
    let parts: Vec<_> = cases.iter().map(|case| parts(&case.workload)).collect();
    let varies = |index: usize| parts.iter().any(|part| part[index] != parts[0][index]);
    let varying: Vec<_> = (0..parts.first().map_or(0, Vec::len)).filter(|index| varies(*index)).collect();
    let name = |part: &Vec<String>| varying.iter().map(|index| part[*index].as_str()).collect::<Vec<_>>().join(", ");
    let names = parts.iter().zip(cases);
    names.map(|(part, case)| if varying.is_empty() { named(&case.workload) } else { name(part) }).collect()
}

fn parts(workload: &Workload) -> Vec<String> {
    let Workload { precision, steps, width, height, batch, sampler, .. } = workload;
    vec![
        precision.to_string(),
        counted(*steps, "step"),
        format!("{width}×{height}"),
        sampler.clone(),
        format!("batch {batch}"),
        workload.scenario.name().into(),
    ]
}
