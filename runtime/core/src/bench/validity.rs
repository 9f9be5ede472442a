//! Whether a case's numbers can be trusted, and what would make them better.

use std::collections::BTreeSet;

use super::protocol::LEAST_FOR_MEDIAN;
use super::report::{Case, Protocol, Scenario, Validity, Workload};
use crate::stage::Precision;
use crate::stats::LEAST_FOR_P90;

/// What a case is judged by besides what it holds itself.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// The case.
    pub case: &'a Case,
    /// How it was measured.
    pub protocol: &'a Protocol,
    /// Whether safelight was built with optimisation.
    pub is_release: bool,
    /// Whether the last images of the warm-up took about as long; nothing where there was none.
    pub is_warm: Option<bool>,
    /// Where a graph's best provider was not used.
    pub fallen_back: &'a [String],
}

/// One row of the table of checks: nothing where it cannot be made, else why it failed.
struct Check {
    name: &'static str,
    what: &'static str,
    run: fn(&Judged) -> Option<Result<(), String>>,
}

/// Every check, in the order in which they are told.
#[rustfmt::skip]
const CHECKS: &[Check] = &[
    Check { name: "complete", what: "everything was measured to its end", run: complete },
    Check { name: "release", what: "safelight was built with optimisation", run: release },
    Check { name: "enough_images", what: "a median has 11 images or more", run: enough_images },
    Check { name: "warm", what: "the last two images of the warm-up took about as long", run: warm },
    Check { name: "steady", what: "the last quarter took as long as the first", run: steady },
    Check { name: "quiet", what: "neither other processes nor a hypervisor took the processors", run: quiet },
    Check { name: "unswapped", what: "nothing was swapped", run: unswapped },
    Check { name: "unthrottled", what: "the device was not slowed down for heat, voltage or power", run: unthrottled },
    Check { name: "providers", what: "every graph ran on the provider that the target wants first", run: providers },
    Check { name: "repeatable", what: "each request gave the same pixels every time", run: repeatable },
    Check { name: "finite", what: "no image held NaN, was constant or black", run: finite },
    Check { name: "quality", what: "goldens and compared pictures are within their bounds", run: quality },
];

/// Names of the checks, and what each holds.
pub fn checks() -> impl Iterator<Item = (&'static str, &'static str)> {
    CHECKS.iter().map(|check| (check.name, check.what))
}

/// Makes every check.
pub fn judge(judged: Judged) -> Validity {
    let mut validity = Validity { valid: true, ..Validity::default() };
    for check in CHECKS {
        let outcome = (check.run)(&judged);
        validity.checks.insert(check.name.into(), outcome.as_ref().map(Result::is_ok));
        if let Some(Err(reason)) = outcome {
            validity.valid = false;
            validity.reasons.push(reason);
        }
    }
    validity
}

fn held(holds: bool, reason: impl FnOnce() -> String) -> Option<Result<(), String>> {
    Some(if holds { Ok(()) } else { Err(reason()) })
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn complete(judged: &Judged) -> Option<Result<(), String>> {
    Some(judged.case.error.clone().map_or(Ok(()), Err))
}

fn release(judged: &Judged) -> Option<Result<(), String>> {
    held(judged.is_release, || "safelight was built without optimisation; build it with --release".into())
}

fn enough_images(judged: &Judged) -> Option<Result<(), String>> {
    let n = judged.case.summary.as_ref().map_or(0, |summary| summary.image.n);
    held(n >= LEAST_FOR_MEDIAN, || format!("{n} images were made, and a median needs {LEAST_FOR_MEDIAN}"))
}

fn warm(judged: &Judged) -> Option<Result<(), String>> {
    let ms = &judged.case.warm_up_ms;
    held(judged.is_warm?, || {
        let [.., before, last] = ms[..] else { return "there was no warm-up".into() };
        format!("after {} images it was still not warm: the last two took {before:.1} and {last:.1} ms", ms.len())
    })
}

fn steady(judged: &Judged) -> Option<Result<(), String>> {
    let (drift, most) = (judged.case.summary.as_ref()?.drift?, judged.protocol.most_drift);
    held(drift.abs() <= most, || {
        let (share, how) = (percent(drift.abs()), if drift > 0.0 { "slower" } else { "faster" });
        format!(
            "it was not steady: the last quarter was {share} {how} than the first, and {} is allowed",
            percent(most)
        )
    })
}

fn quiet(judged: &Judged) -> Option<Result<(), String>> {
    let (contention, most) = (&judged.case.contention, judged.protocol.most_contention);
    let taken = [(contention.others, "other processes"), (contention.stolen, "a hypervisor")];
    if taken.iter().all(|(share, _)| share.is_none()) {
        return None;
    }
    let taken = taken.into_iter().filter_map(|(share, who)| Some((share?, who)));
    let too_much = taken.filter(|(share, _)| *share > most);
    let told: Vec<_> = too_much.map(|(share, who)| format!("{who} took {}", percent(share))).collect();
    held(told.is_empty(), || {
        format!("{} of all processors' time, and {} is allowed", told.join(" and "), percent(most))
    })
}

/// Less than this is the system's own housekeeping.
const MOST_SWAPPED: u64 = 1 << 20;

fn unswapped(judged: &Judged) -> Option<Result<(), String>> {
    let bytes = judged.case.contention.swapped_bytes?;
    held(bytes <= MOST_SWAPPED, || {
        format!("{:.0} MiB were swapped while images were made: the device has too little memory", mebibytes(bytes))
    })
}

fn unthrottled(judged: &Judged) -> Option<Result<(), String>> {
    let throttling = &judged.case.throttling;
    held(!throttling.seen?, || format!("the device was slowed down: {}", throttling.evidence.join("; ")))
}

fn providers(judged: &Judged) -> Option<Result<(), String>> {
    if judged.case.graphs.is_empty() {
        return None;
    }
    held(judged.fallen_back.is_empty(), || judged.fallen_back.join("; "))
}

fn repeatable(judged: &Judged) -> Option<Result<(), String>> {
    let outputs = &judged.case.images.outputs;
    let repeats = outputs.iter().map(|output| output.count).sum::<usize>();
    let requests: BTreeSet<_> = outputs.iter().map(|output| output.request).collect();
    if repeats == requests.len() && outputs.len() == requests.len() {
        // No request came twice.
        return None;
    }
    let (all, distinct) = (outputs.len(), requests.len());
    held(all == distinct, || format!("{distinct} requests gave {all} different pictures: results do not repeat"))
}

fn finite(judged: &Judged) -> Option<Result<(), String>> {
    let images = &judged.case.images;
    if images.ms.is_empty() && images.non_finite == 0 {
        return None;
    }
    held(images.non_finite == 0, || format!("{} images were NaN, constant or black", images.non_finite))
}

fn quality(judged: &Judged) -> Option<Result<(), String>> {
    let quality = judged.case.quality.as_ref()?;
    held(quality.passed?, || {
        let goldens = quality.goldens.as_ref().filter(|goldens| goldens.failed > 0);
        let told = goldens.map(|goldens| format!("{} of {} goldens failed", goldens.failed, goldens.made));
        let told = told.unwrap_or_else(|| "pictures are too far from the reference's".into());
        format!("{told}: safelight verify tells where it parts")
    })
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// More outliers than this share of images are worth a word.
const MANY_OUTLIERS: f64 = 0.02;

/// Where opening staged graphs takes more than this share of an image, it is worth a word.
const MUCH_REOPENING: f64 = 0.2;

/// What would make a case's numbers better, or the case itself faster.
pub fn advise(judged: Judged) -> Vec<String> {
    let case = judged.case;
    let Some(summary) = &case.summary else { return Vec::new() };
    let (n, mut advice) = (summary.image.n, Vec::new());
    if n < LEAST_FOR_P90 && case.workload.scenario != Scenario::Cold {
        advice.push(format!(
            "a 90th percentile needs {LEAST_FOR_P90} images, and {n} were made: give a longer --duration"
        ));
    }
    if summary.outliers as f64 > MANY_OUTLIERS * n as f64 {
        advice.push(format!(
            "{} of {n} images took much longer than the rest: something else ran now and then; close it, and measure again",
            summary.outliers
        ));
    }
    if case.contention.stolen.is_some_and(|share| share > judged.protocol.most_contention) {
        advice
            .push("this is a virtual machine whose host is busy: numbers of a machine of your own are steadier".into());
    }
    let mean = |name: &str| summary.stages.get(name).map(|stage| stage.mean);
    if mean("reopen").is_some_and(|reopening| reopening > MUCH_REOPENING * summary.image.mean) {
        advice.push(
            "opening staged graphs takes a large part of each image: with enough memory, residency: resident in the \
             target spares it"
                .into(),
        );
    }
    if case.cold.first().is_some_and(|cold| cold.cache.values().any(|outcome| outcome == "built")) {
        advice
            .push("the first process built what the cache lacked: run safelight warm before the device is used".into());
    }
    advice
}

/// Tells of INT8 that is slower than another precision of the same workload: why people measure at all. What was told
/// before is not told again.
pub fn advise_across(cases: &mut [Case]) {
    let mut told = Vec::new();
    for (index, case) in cases.iter().enumerate().filter(|(_, case)| case.workload.precision == Precision::Int8) {
        for (precision, ratio) in cases.iter().filter_map(|other| faster(case, other)) {
            told.push((index, precision, ratio));
        }
    }
    for (index, precision, ratio) in told {
        let begin = format!("int8 takes longer than {precision} here");
        if cases[index].advice.iter().all(|advice| !advice.starts_with(&begin)) {
            cases[index].advice.push(format!(
                "{begin}, {ratio:.2} times: safelight inspect tells which share of the multiplications is in integers, \
                 and safelight doctor what this processor lacks"
            ));
        }
    }
}

/// The precision of another case of the same workload that is faster beyond doubt, and the ratio of the medians.
fn faster(case: &Case, other: &Case) -> Option<(Precision, f64)> {
    let precision = other.workload.precision;
    let same = Workload { precision: Precision::Int8, ..other.workload.clone() };
    let (slow, fast) = (&case.summary.as_ref()?.image, &other.summary.as_ref()?.image);
    let beyond_doubt = slow.p50_interval?[0] > fast.p50_interval?[1];
    (precision != Precision::Int8 && same == case.workload && beyond_doubt).then_some((precision, slow.p50 / fast.p50))
}
