//! `safelight bench` as a user runs it, on the shipped model.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use safelight::bench::Report;
use safelight::{Precision, Stage};

mod common;

use common::{Outcome, Place};

/// A benchmark of a few seconds in the place's own folder `out`.
fn bench(place: &Place, arguments: &[&str]) -> Command {
    let all = ["bench", "--model", "emoji", "--target", "generic-cpu", "--threads", "1", "--wait", "0", "--out", "out"];
    place.command(all.iter().chain(arguments))
}

fn report(place: &Place) -> Report {
    Report::read(&place.work().join("out/report.json")).unwrap()
}

#[test]
fn a_benchmark_keeps_every_sample_and_tells_what_they_add_up_to() {
    let place = Place::new();
    let arguments = ["--quick", "--steps", "1,2", "--precision", "int8,fp16", "--note", "on a desk"];
    let outcome = Outcome::of(bench(&place, &arguments));
    outcome.expect("quick", 0, "single-stream fp16, 2 steps, 128×128: median");
    let report = report(&place);
    assert!(report.finished && report.notes == ["on a desk"]);
    assert_eq!((report.library.sha256.len(), report.library.file.is_empty()), (64, false));
    let workloads: Vec<_> = report.cases.iter().map(|case| (case.workload.precision, case.workload.steps)).collect();
    let (int8, fp16) = (Precision::Int8, Precision::Fp16);
    assert_eq!(workloads, [(int8, 1), (int8, 2), (fp16, 1), (fp16, 2)]);
    for case in &report.cases {
        let summary = case.summary.as_ref().unwrap();
        assert_eq!((case.images.ms.len(), summary.image.n, case.detailed.len(), case.cold.len()), (11, 11, 5, 1));
        assert!(case.images.ms.iter().all(|ms| *ms > 0.0) && summary.image.p90.is_none(), "{summary:?}");
        assert!(case.warm_up_ms.len() >= 3);
        assert!(case.images.outputs.len() == 11 && case.images.outputs.iter().all(|output| output.count == 1));
        assert_eq!(case.graphs[&Stage::Denoiser].precision, case.workload.precision);
        for detailed in &case.detailed {
            let parts = detailed.text_encoder_ms + detailed.denoiser_ms + detailed.decoder_ms;
            assert!(parts > 0.0 && parts <= detailed.total_ms, "{detailed:?}");
            assert_eq!(detailed.steps_ms.len(), case.workload.steps);
        }
        let cold = &case.cold[0];
        let told = cold.process_ms + cold.open_ms + cold.first_image_ms;
        assert!(cold.process_ms > 0.0 && told <= cold.total_ms, "{cold:?}");
        let quality = case.quality.as_ref().unwrap();
        assert_eq!((quality.passed, quality.goldens.as_ref().unwrap().failed), (Some(true), 0));
        assert_eq!(quality.reference.as_deref(), Some("fp16 on the CPU"));
        let pictures: Vec<_> = quality.pictures.iter().filter_map(|picture| picture.file.as_ref()).collect();
        assert!(!pictures.is_empty() && pictures.iter().all(|file| place.work().join("out").join(file).is_file()));
    }
    // The text encoder works for every image, or the headline would be that of one prompt.
    assert!(report.cases.iter().all(|case| case.detailed.iter().all(|detailed| detailed.text_encoder_ms > 0.05)));
    assert!(report.cases[0].quality.as_ref().unwrap().pictures[0].psnr_db.unwrap() > 30.0);
    assert_eq!(report.cases[2].quality.as_ref().unwrap().pictures[0].psnr_db, None, "fp16 is the reference");
    let page = std::fs::read_to_string(place.work().join("out/report.html")).unwrap();
    assert!(page.contains("data:image/") && page.contains("on a desk"));
}

#[cfg(target_os = "linux")]
#[test]
fn memory_is_that_of_the_process_that_is_measured() {
    let place = Place::new();
    Outcome::of(bench(&place, &["--quick", "--quality", "0", "--cold", "2"])).expect(
        "memory",
        0,
        "report: out/report.json",
    );
    let report = report(&place);
    let case = &report.cases[0];
    assert_eq!(case.cold.len(), 2);
    let memory = case.memory.as_ref().unwrap();
    assert!((20 << 20..400 << 20).contains(&memory.peak_bytes), "{memory:?}");
    assert!(memory.peak_bytes >= case.cold[0].peak_bytes.unwrap());
    assert_eq!(memory.stages.keys().collect::<Vec<_>>(), [&Stage::TextEncoder, &Stage::Denoiser, &Stage::Decoder]);
    assert!(case.quality.is_none() && !place.work().join("out/pictures").exists());
}

#[test]
fn a_cold_case_is_timed_from_the_start_of_each_process() {
    let place = Place::new();
    let arguments = ["--scenario", "cold", "--quick", "--quality", "0", "--steps", "1"];
    Outcome::of(bench(&place, &arguments)).expect("cold", 0, "cold int8, 1 step");
    let report = report(&place);
    let case = &report.cases[0];
    let totals: Vec<_> = case.cold.iter().map(|cold| cold.total_ms).collect();
    assert_eq!((totals.len(), case.summary.as_ref().unwrap().image.n), (11, 11));
    assert!(case.images.ms.is_empty() && case.validity.checks["enough_images"] == Some(true), "{:?}", case.validity);
}

#[test]
fn images_go_through_the_graphs_together_offline() {
    let place = Place::new();
    let arguments =
        ["--scenario", "offline", "--batch", "3", "--quick", "--quality", "0", "--cold", "0", "--steps", "1"];
    Outcome::of(bench(&place, &arguments)).expect("offline", 0, "offline int8, 1 step, 128×128, 3 at once");
    let report = report(&place);
    let (case, summary) = (&report.cases[0], report.cases[0].summary.as_ref().unwrap());
    assert!(case.cold.is_empty() && case.memory.is_none());
    let rate = 3000.0 / summary.image.mean;
    assert!((summary.images_per_second / rate - 1.0).abs() < 1e-6, "{} and {rate}", summary.images_per_second);
}

/// Presses Ctrl-C once the first of two cases is written.
#[cfg(unix)]
#[test]
fn what_an_interruption_leaves_is_whole() {
    let place = Place::new();
    let mut command = bench(&place, &["--duration", "6", "--steps", "1,2", "--quality", "0", "--cold", "0"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (written, start) = (place.work().join("out/report.json"), Instant::now());
    while !written.exists() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    // The second case is in its passes by then, also on a busy machine.
    std::thread::sleep(Duration::from_millis(3500));
    let pid = child.id();
    let id = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{stderr}");
    let report = report(&place);
    assert!(!report.finished);
    assert_eq!(report.cases.len(), 2);
    let (first, second) = (&report.cases[0], &report.cases[1]);
    assert!(first.error.is_none() && first.images.ms.len() > 11, "{first:?}");
    assert!(second.error.as_deref() == Some("cancelled") && !second.images.ms.is_empty(), "{second:?}");
    assert_eq!(second.validity.checks["complete"], Some(false));
    #[cfg(target_os = "linux")]
    assert!(!workers_of(pid), "a worker has outlived its benchmark");
}

/// Whether a process that `parent` started is still there.
#[cfg(target_os = "linux")]
fn workers_of(parent: u32) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let parents = processes.filter_map(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    });
    parents.into_iter().any(|found| found == parent)
}

/// Other processes that keep every processor busy make a run invalid, and the reason says so.
#[cfg(target_os = "linux")]
#[test]
fn a_run_beside_other_work_is_invalid() {
    let place = Place::new();
    let cores = std::thread::available_parallelism().unwrap().get();
    let busy: Vec<_> = (0..cores).map(|_| Busy::start()).collect();
    let arguments = ["--duration", "3", "--quality", "0", "--cold", "0", "--strict"];
    let outcome = Outcome::of(bench(&place, &arguments));
    drop(busy);
    outcome.expect("under load", 6, "invalid: ");
    let report = report(&place);
    let case = &report.cases[0];
    assert!(case.contention.others.unwrap() > 0.2, "{:?}", case.contention);
    assert_eq!(case.validity.checks["quiet"], Some(false));
    let reason = case.validity.reasons.iter().find(|reason| reason.contains("of all processors' time"));
    assert!(reason.is_some_and(|reason| reason.starts_with("other processes took ")), "{:?}", case.validity.reasons);
    assert!(case.summary.is_some() && !case.images.ms.is_empty(), "it is written down nevertheless");
}

/// A process that keeps a processor busy until this is dropped.
#[cfg(target_os = "linux")]
struct Busy(std::process::Child);

#[cfg(target_os = "linux")]
impl Busy {
    fn start() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }
}

#[cfg(target_os = "linux")]
impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_cannot_be_measured_is_told_before_anything_is() {
    let cases: [(&[&str], i32, &str); 8] = [
        (&["--steps", "0"], 2, "steps"),
        (&["--steps", "1,2000"], 5, "steps"),
        (&["--precision", "int8,fp32"], 3, "fp32"),
        (&["--sizes", "127x128"], 2, "127"),
        (&["--sampler", "eular"], 2, "did you mean \"euler\""),
        (&["--scenario", "server"], 2, "expected single-stream, offline, cold or sustained"),
        (&["--duration", "-1"], 2, "expected seconds"),
        (&["--batch", "100"], 5, "batch"),
    ];
    for (arguments, code, telling) in cases {
        let place = Place::new();
        Outcome::of(bench(&place, arguments)).expect(&format!("{arguments:?}"), code, telling);
        assert!(!place.left().iter().any(|path| path.contains("report")), "{arguments:?}: {:?}", place.left());
    }
}

#[test]
fn a_report_is_never_written_over() {
    let place = Place::new();
    std::fs::create_dir(place.work().join("out")).unwrap();
    std::fs::write(place.work().join("out/report.json"), "precious").unwrap();
    Outcome::of(bench(&place, &["--quick"])).expect("there already", 2, "report.json: is there already; give another");
    assert_eq!(std::fs::read_to_string(place.work().join("out/report.json")).unwrap(), "precious");
}

#[test]
fn without_a_library_there_is_an_error_and_no_report() {
    let place = Place::new();
    let all = ["bench", "--target", "generic-cpu", "--quick", "--out", "out"];
    let outcome = Outcome::of(place.without_library(all));
    outcome.expect("no library", 4, "1 of 1 cases not measured to their end: ");
    assert!(!Path::new(&place.work().join("out/report.json")).exists());
}
