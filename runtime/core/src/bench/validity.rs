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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::mock::Mock;
    use crate::bench::protocol::{Around, run};
    use crate::bench::report::{ColdStart, GoldensHeld, GraphUsed, OutputHash, Quality};
    use crate::bench::summary::summarise;
    use crate::cancel::Cancel;
    use crate::stage::Stage;

    struct Nothing;

    impl Around for Nothing {
        fn begin(&mut self) {}
        fn end(&mut self) {}
    }

    fn workload(precision: Precision) -> Workload {
        let scenario = Scenario::SingleStream;
        Workload { scenario, precision, steps: 4, width: 64, height: 64, batch: 1, sampler: "lcm".into() }
    }

    /// A case whose image `n` takes so many ms, and whether it was warm.
    fn measured(ms: impl Fn(usize) -> f64) -> (Case, bool) {
        let (mut case, protocol) = (Case::of(workload(Precision::Int8)), protocol());
        let passes = run(&mut Mock::new(ms), &protocol, &mut Nothing, (&Cancel::new(), &mut |_| ()));
        (case.warm_up_ms, case.images, case.detailed) = (passes.warm_up_ms, passes.images, passes.detailed);
        case.summary = summarise(Scenario::SingleStream, &case.images, &case.detailed, &[], 1);
        let (precision, sha256) = (Precision::Int8, String::new());
        let graph = GraphUsed { precision, sha256, providers: vec!["cpu".into()], nodes: Default::default() };
        case.graphs.insert(Stage::Denoiser, graph);
        (case, passes.is_warm)
    }

    /// A headline pass of a hundred images.
    fn protocol() -> Protocol {
        Protocol { least_images: 100, least_seconds: 0.0, ..Protocol::usual(Scenario::SingleStream) }
    }

    /// All is well in it.
    fn good() -> Case {
        let mut case = measured(|_| 1_000.0).0;
        case.contention.others = Some(0.01);
        case.contention.stolen = Some(0.0);
        case.contention.swapped_bytes = Some(0);
        case.throttling.seen = Some(false);
        let goldens =
            GoldensHeld { made: 3, failed: 0, least_psnr_db: None, most_latent_l2: None, first_divergence: None };
        let (reference, pictures, notes) = (Some("fp16 on the CPU".into()), Vec::new(), Vec::new());
        case.quality = Some(Quality { goldens: Some(goldens), reference, pictures, passed: Some(true), notes });
        case
    }

    fn judged(case: &Case) -> Validity {
        let protocol = &protocol();
        judge(Judged { case, protocol, is_release: true, is_warm: Some(true), fallen_back: &[] })
    }

    #[test]
    fn what_nothing_disturbed_is_valid() {
        let validity = judged(&good());
        assert!(validity.valid && validity.reasons.is_empty(), "{validity:?}");
        assert!(validity.checks.values().all(|held| *held == Some(true)), "{validity:?}");
        assert_eq!(validity.checks.len(), checks().count());
    }

    #[test]
    fn what_cannot_be_checked_fails_nothing() {
        let (case, _) = measured(|_| 1_000.0);
        let validity = judged(&case);
        let unknown = validity.checks.iter().filter(|(_, held)| held.is_none()).map(|(name, _)| name.as_str());
        assert_eq!(unknown.collect::<Vec<_>>(), ["quality", "quiet", "unswapped", "unthrottled"]);
        assert!(validity.valid, "{validity:?}");
    }

    type Spoil = fn(&mut Case);

    #[test]
    fn each_disturbance_fails_its_own_check_and_says_why() {
        let cases: [(&str, Spoil, &str); 11] = [
            ("complete", |case| case.error = Some("it died of SIGSEGV".into()), "it died of SIGSEGV"),
            (
                "enough_images",
                |case| case.summary.as_mut().unwrap().image.n = 10,
                "10 images were made, and a median needs 11",
            ),
            (
                "steady",
                |case| case.summary.as_mut().unwrap().drift = Some(0.08),
                "the last quarter was 8.0 % slower than the first, and 5.0 %",
            ),
            ("steady", |case| case.summary.as_mut().unwrap().drift = Some(-0.2), "20.0 % faster"),
            ("quiet", |case| case.contention.others = Some(0.3), "other processes took 30.0 % of all processors' time"),
            ("quiet", |case| case.contention.stolen = Some(0.5), "a hypervisor took 50.0 %"),
            ("unswapped", |case| case.contention.swapped_bytes = Some(64 << 20), "64 MiB were swapped"),
            (
                "unthrottled",
                |case| (case.throttling.seen, case.throttling.evidence) = (Some(true), vec!["under-voltage".into()]),
                "slowed down: under-voltage",
            ),
            (
                "repeatable",
                |case| case.images.outputs.push(OutputHash { request: 0, sha256: "f".repeat(64), count: 1 }),
                "20 requests gave 21 different pictures",
            ),
            ("finite", |case| case.images.non_finite = 1, "1 images were NaN, constant or black"),
            (
                "quality",
                |case| {
                    let quality = case.quality.as_mut().unwrap();
                    quality.passed = Some(false);
                    quality.goldens.as_mut().unwrap().failed = 2;
                },
                "2 of 3 goldens failed",
            ),
        ];
        for (name, spoil, telling) in cases {
            let mut case = good();
            spoil(&mut case);
            let validity = judged(&case);
            assert!(!validity.valid, "{name}");
            let failed =
                validity.checks.iter().filter(|(_, held)| **held == Some(false)).map(|(name, _)| name.as_str());
            assert_eq!(failed.collect::<Vec<_>>(), [name], "{validity:?}");
            assert!(validity.reasons.len() == 1 && validity.reasons[0].contains(telling), "{validity:?}");
        }
    }

    #[test]
    fn what_the_case_does_not_hold_is_judged_too() {
        let (case, protocol, fallen_back) =
            (good(), protocol(), ["denoiser is to run on cuda and ran on cpu".to_owned()]);
        let judged =
            Judged { case: &case, protocol: &protocol, is_release: true, is_warm: Some(true), fallen_back: &[] };
        for (name, other, telling) in [
            ("release", Judged { is_release: false, ..judged }, "build it with --release"),
            ("warm", Judged { is_warm: Some(false), ..judged }, "the last two took 1000.0 and 1000.0 ms"),
            ("providers", Judged { fallen_back: &fallen_back, ..judged }, "ran on cpu"),
        ] {
            let validity = judge(other);
            assert_eq!(validity.checks[name], Some(false));
            assert!(validity.reasons.len() == 1 && validity.reasons[0].contains(telling), "{validity:?}");
        }
    }

    /// From images without a clock to what is told of them.
    #[test]
    fn drift_and_outliers_are_found_in_what_was_measured() {
        // Each image takes a thousandth longer than the one before: 7.7 % from the first quarter to the last.
        let (case, is_warm) = measured(|i| 1_000.0 * 1.001_f64.powi(i as i32));
        assert!(is_warm);
        let validity = judged(&case);
        assert_eq!(validity.checks["steady"], Some(false), "{validity:?}");
        assert!(validity.reasons[0].starts_with("it was not steady: the last quarter was 7."), "{validity:?}");
        // Every twentieth takes twice as long: it is no drift, but worth a word.
        let (case, _) = measured(|i| if i % 20 == 10 { 2_000.0 } else { 1_000.0 + i as f64 % 3.0 });
        assert_eq!((judged(&case).valid, case.summary.as_ref().unwrap().outliers), (true, 5));
        let protocol = protocol();
        let advice =
            advise(Judged { case: &case, protocol: &protocol, is_release: true, is_warm: None, fallen_back: &[] });
        assert!(advice[0].starts_with("5 of 100 images took much longer than the rest"), "{advice:?}");
    }

    #[test]
    fn int8_that_is_slower_is_told_once() {
        let (int8, _) = measured(|i| 1_100.0 + i as f64 % 5.0);
        let (mut fp16, _) = measured(|i| 1_000.0 + i as f64 % 5.0);
        fp16.workload.precision = Precision::Fp16;
        let mut cases = [int8, fp16];
        advise_across(&mut cases);
        advise_across(&mut cases);
        assert_eq!((cases[0].advice.len(), cases[1].advice.len()), (1, 0));
        assert!(
            cases[0].advice[0].starts_with("int8 takes longer than fp16 here, 1.10 times"),
            "{:?}",
            cases[0].advice
        );
        let mut other_steps = cases.clone();
        other_steps[0].advice.clear();
        other_steps[1].workload.steps = 8;
        advise_across(&mut other_steps);
        assert!(other_steps[0].advice.is_empty());
    }

    #[test]
    fn what_the_first_process_builds_is_advised_to_be_built_ahead() {
        let mut case = good();
        let cache = [(Stage::Denoiser, "built".to_owned())].into();
        let (process_ms, open_ms, first_image_ms, total_ms) = (5.0, 60_000.0, 10.0, 60_015.0);
        case.cold.push(ColdStart { process_ms, open_ms, first_image_ms, total_ms, peak_bytes: None, cache });
        let protocol = protocol();
        let advice =
            advise(Judged { case: &case, protocol: &protocol, is_release: true, is_warm: None, fallen_back: &[] });
        assert!(advice.iter().any(|advice| advice.contains("safelight warm")), "{advice:?}");
    }
}
