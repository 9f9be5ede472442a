//! `report`: a benchmark's report as a page, as CSV and as a table; the page in a browser, where there is one.

#![allow(clippy::unwrap_used)]

use made::{Made, report};
use safelight::Precision;
use safelight::bench::Report;
use safelight::bench::report::{PictureHeld, Scenario, Sustained, Workload};
use safelight::sensor::{Quantity, Source};

mod common;
#[path = "common/report.rs"]
mod made;

/// Eight cases with all that a report can have, good and bad news.
fn everything() -> Report {
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
    cases.push(Made { workload: workload(int8, 4, Scenario::Sustained), images: 700, ..made(8, int8, 4) });
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

#[test]
fn look() {
    let folder = std::path::Path::new("/tmp/w/report-look");
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("report.json"), serde_json::to_string(&everything()).unwrap()).unwrap();
}
