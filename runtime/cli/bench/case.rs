//! One case of `safelight bench`: preparation, fresh processes, the passes, and how right the pictures are.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::ProgressBar;
use safelight::bench::protocol::{self, Around, Passes, Phase};
use safelight::bench::quality::{Goldens, Reference, hold};
use safelight::bench::report::{
    Case, ColdStart, GoldensHeld, LibraryUsed, MemoryUsed, Protocol, Quality, Scenario, Workload,
};
use safelight::bench::summary::summarise;
use safelight::bench::validity::{Judged, advise, judge};
use safelight::bench::worker::{Ended, Errand};
use safelight::bench::{Executor as _, Look, Worker};
use safelight::{Cancel, Error, ErrorKind, Model, Precision, Result, Target};

use super::device::{Device, Watched};

/// A case that is to be measured.
pub(crate) struct Planned {
    pub(crate) workload: Workload,
    pub(crate) target: Target,
    /// Whether its precision was asked for, instead of the target's.
    pub(crate) is_narrowed: bool,
    pub(crate) protocol: Protocol,
}

/// What is measured, and where it is written to.
pub(crate) struct Subject<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) model: &'a Model,
    /// Arguments that tell another process of this executable the target and the library.
    pub(crate) flags: Vec<OsString>,
    pub(crate) out: &'a Path,
}

/// What all cases share.
pub(crate) struct Bench<'a> {
    subject: Subject<'a>,
    program: PathBuf,
    device: Device,
    cancel: &'a Cancel,
    bar: &'a ProgressBar,
    began: Instant,
    /// Which case this is, of how many.
    pub(crate) at: (usize, usize),
    /// Known from the first process that ended.
    pub(crate) library: Option<LibraryUsed>,
    /// The first error that kept a case from its end.
    pub(crate) failure: Option<Error>,
    warnings: Vec<String>,
    references: BTreeMap<(usize, usize, usize), Reference>,
    goldens: BTreeMap<Precision, Option<GoldensHeld>>,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(subject: Subject<'a>, device: Device, cancel: &'a Cancel, bar: &'a ProgressBar) -> Result<Self> {
        let program = std::env::current_exe()
            .map_err(|e| Error::new(ErrorKind::Io, format!("this executable cannot be found: {e}")))?;
        let (references, goldens, warnings) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let (began, at, library, failure) = (Instant::now(), (0, 1), None, None);
        Ok(Self { subject, program, device, cancel, bar, began, at, library, failure, warnings, references, goldens })
    }

    /// Adds what was told of graphs, once each.
    pub(crate) fn take_warnings(&mut self, warnings: &mut Vec<String>) {
        for warning in self.warnings.drain(..) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }

    /// Measures a case; what keeps it from its end is in it.
    pub(crate) fn measure(&mut self, planned: &Planned) -> Case {
        let mut found = Found { case: Case::of(planned.workload.clone()), fallen_back: Vec::new(), is_warm: None };
        if let Err(e) = self.try_measure(planned, &mut found) {
            found.case.error = Some(e.to_string());
            self.failure.get_or_insert(e);
        }
        let Found { mut case, fallen_back, is_warm } = found;
        let Workload { scenario, batch, .. } = planned.workload;
        case.summary = summarise(scenario, &case.images, &case.detailed, &case.cold, batch);
        let (protocol, is_release) = (&planned.protocol, !cfg!(debug_assertions));
        let judged = Judged { case: &case, protocol, is_release, is_warm, fallen_back: &fallen_back };
        let (validity, advice) = (judge(judged), advise(judged));
        case.validity = validity;
        case.advice.extend(advice);
        case
    }

    fn try_measure(&mut self, planned: &Planned, found: &mut Found) -> Result<()> {
        let protocol = &planned.protocol;
        self.prepare(planned, found)?;
        if planned.workload.scenario == Scenario::Cold {
            let mut around = self.device.around(Vec::new(), protocol.readings_per_second);
            around.begin();
            let done = self.cold_processes(planned, protocol.cold_processes.max(protocol.least_images), found);
            around.end();
            self.note(&mut found.case, around);
            done?;
        } else {
            self.cold_processes(planned, protocol.cold_processes, found)?;
            self.run_passes(planned, found)?;
        }
        if protocol.compared_pictures > 0 {
            self.tell(&planned.workload, "comparing pictures");
            // What was measured stands without it.
            found.case.quality = Some(match self.quality(planned) {
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                quality => quality.unwrap_or_else(|e| Quality::unknown(format!("nothing could be compared: {e}"))),
            });
        }
        Ok(())
    }

    /// Waits until the device is ready, and has everything done once that only the first process does: graphs are tried
    /// in a process of their own, and what a cache keeps is built.
    fn prepare(&mut self, planned: &Planned, found: &mut Found) -> Result<()> {
        let (bar, prefix) = (self.bar, self.prefix(&planned.workload));
        let mut tell = |line: &str| bar.set_message(format!("{prefix}: {line}"));
        let left = self.device.wait(self.cancel, &mut tell)?;
        self.device.rest(&mut tell);
        found.case.advice.extend(left.into_iter().map(|left| format!("it began although {left}")));
        tell("preparing");
        let (first, _) = self.start_cold(planned, Watch::Nothing)?;
        if first.cache.values().any(|outcome| outcome == "built") {
            found.case.cold.push(first);
        }
        Ok(())
    }

    /// Fresh processes, one after the other; the last one looks at memory, too.
    fn cold_processes(&mut self, planned: &Planned, processes: usize, found: &mut Found) -> Result<()> {
        for index in 0..processes {
            self.tell(&planned.workload, &format!("fresh process {} of {processes}", index + 1));
            let watch = if index + 1 == processes { Watch::Memory } else { Watch::Nothing };
            let (cold, ended) = self.start_cold(planned, watch)?;
            let case = &mut found.case;
            let peak_bytes = case.memory.as_ref().map(|memory| memory.peak_bytes).max(cold.peak_bytes);
            let stages = ended.stages.clone();
            case.memory = peak_bytes.map(|peak_bytes| MemoryUsed { peak_bytes, stages, device_bytes: None });
            case.cold.push(cold);
            found.end(ended);
        }
        Ok(())
    }

    /// Warm-up, headline pass and second pass in one process.
    fn run_passes(&mut self, planned: &Planned, found: &mut Found) -> Result<()> {
        let protocol = &planned.protocol;
        self.tell(&planned.workload, "opening");
        let mut worker = self.start(planned, Watch::Nothing)?;
        let (bar, prefix, left) = (self.bar, self.prefix(&planned.workload), self.cases_left(protocol));
        let mut tell = |phase: Phase| bar.set_message(format!("{prefix}: {}", phase_told(phase, left)));
        let mut around = self.device.around(vec![worker.id()], protocol.readings_per_second);
        let passes = protocol::run(&mut worker, protocol, &mut around, (self.cancel, &mut tell));
        self.note(&mut found.case, around);
        let Passes { warm_up_ms, is_warm, images, detailed, error } = passes;
        let case = &mut found.case;
        (case.warm_up_ms, case.images, case.detailed, found.is_warm) = (warm_up_ms, images, detailed, Some(is_warm));
        error.map_or(Ok(()), Err)?;
        let ended = worker.end()?;
        if let (Some(memory), Some(peak)) = (&mut case.memory, ended.peak_bytes) {
            memory.peak_bytes = memory.peak_bytes.max(peak);
        }
        found.end(ended);
        Ok(())
    }

    /// Keeps what was read around a headline pass.
    fn note(&mut self, case: &mut Case, around: Watched) {
        let (recorded, contention) = self.device.take_back(around);
        if let Some(memory) = &mut case.memory {
            memory.device_bytes = recorded.device_bytes;
        }
        case.contention = contention;
        (case.timeline, case.energy, case.throttling) = (recorded.timeline, recorded.energy, recorded.throttling);
    }

    /// A fresh process, from its start to its first image.
    fn start_cold(&mut self, planned: &Planned, watch: Watch) -> Result<(ColdStart, Ended)> {
        let mut worker = self.start(planned, watch)?;
        let made = worker.make(0, Look::Image)?;
        let total_ms = worker.seconds() * 1000.0;
        let (process_ms, open_ms) = (worker.process_ms(), worker.open_ms());
        let end = worker.end()?;
        self.warnings.extend(end.warnings.iter().cloned());
        if self.library.is_none() {
            self.library = Some(LibraryUsed::of(&end.library, &end.version)?);
        }
        let cache = end.cache.clone();
        let cold =
            ColdStart { process_ms, open_ms, first_image_ms: made.ms, total_ms, peak_bytes: end.peak_bytes, cache };
        Ok((cold, end))
    }

    fn start(&self, planned: &Planned, watch: Watch) -> Result<Worker> {
        let mut arguments = vec![OsString::from("bench-worker")];
        arguments.extend(self.subject.flags.iter().cloned());
        if planned.is_narrowed {
            arguments.extend(["--precision".into(), precision_flag(planned.workload.precision)]);
        }
        let errand = Errand {
            model: self.subject.folder.to_path_buf(),
            workload: planned.workload.clone(),
            watches_memory: watch == Watch::Memory,
        };
        Worker::start(&self.program, &arguments, &errand, self.cancel)
    }

    fn quality(&mut self, planned: &Planned) -> Result<Quality> {
        let Workload { steps, width, height, precision, .. } = planned.workload;
        let key = (steps, width, height);
        let count = planned.protocol.compared_pictures;
        if !self.references.contains_key(&key) {
            let made = Reference::make(&planned.target, self.subject.model, &planned.workload, count, self.cancel)?;
            self.references.insert(key, made);
        }
        let reference = &self.references[&key];
        let goldens = self.goldens.get(&precision).map_or(Goldens::Made, |known| Goldens::Known(known.clone()));
        let held = hold(&planned.target, self.subject.model, reference, goldens)?;
        self.goldens.insert(precision, held.quality.goldens.clone());
        let mut quality = held.quality;
        let size = format!("{steps}-steps-{width}x{height}");
        for (index, (picture, pixels)) in quality.pictures.iter_mut().zip(&held.pictures).enumerate() {
            let reference = reference.picture(picture.seed).filter(|reference| *reference != pixels);
            picture.file = Some(self.save(&format!("{precision}-{size}-{index}"), pixels)?);
            let save = |reference| self.save(&format!("reference-{size}-{index}"), reference);
            // The same pixels are one file.
            picture.reference_file = reference.map(save).transpose()?.or_else(|| picture.file.clone());
        }
        Ok(quality)
    }

    /// Writes a picture beside the report; returns its path from there.
    fn save(&self, name: &str, pixels: &image::RgbImage) -> Result<String> {
        let path = format!("pictures/{name}.png");
        let mut bytes = std::io::Cursor::new(Vec::new());
        let told = |e| Error::new(ErrorKind::Internal, format!("{path} cannot be encoded: {e}"));
        pixels.write_to(&mut bytes, image::ImageFormat::Png).map_err(told)?;
        crate::destination::prepare_folder(&self.subject.out.join("pictures"))?;
        safelight::save(&self.subject.out.join(&path), bytes.get_ref())?;
        Ok(path)
    }

    fn tell(&self, workload: &Workload, what: &str) {
        self.bar.set_message(format!("{}: {what}", self.prefix(workload)));
    }

    fn prefix(&self, workload: &Workload) -> String {
        let (index, of) = self.at;
        format!("case {} of {of}, {}", index + 1, name(workload))
    }

    /// Seconds that the cases after this one are expected to take: as long as those before, or as the protocol asks for.
    fn cases_left(&self, protocol: &Protocol) -> f64 {
        let (index, of) = self.at;
        let each = match index {
            0 => protocol.least_seconds,
            done => self.began.elapsed().as_secs_f64() / done as f64,
        };
        each * (of - index - 1) as f64
    }
}

/// What is known of a case while it is measured.
struct Found {
    case: Case,
    fallen_back: Vec<String>,
    is_warm: Option<bool>,
}

impl Found {
    fn end(&mut self, ended: Ended) {
        (self.case.graphs, self.fallen_back) = (ended.graphs, ended.fallen_back);
    }
}

/// What of a process is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    Nothing,
    Memory,
}

/// What `--precision` is of a process that is to run this one.
pub(crate) fn precision_flag(wanted: Precision) -> OsString {
    preference(wanted).iter().map(|precision| precision.name()).collect::<Vec<_>>().join(",").into()
}

/// The precision that is wanted, then those that are nearest to it, better ones first.
pub(crate) fn preference(wanted: Precision) -> Vec<Precision> {
    let better = Precision::ALL.into_iter().filter(|precision| *precision > wanted);
    let worse = Precision::ALL.into_iter().filter(|precision| *precision < wanted).rev();
    [wanted].into_iter().chain(better).chain(worse).collect()
}

/// A workload in a few words.
pub(crate) fn name(workload: &Workload) -> String {
    let Workload { scenario, precision, steps, width, height, batch, .. } = workload;
    let batch = if *batch == 1 { String::new() } else { format!(", {batch} at once") };
    let steps = if *steps == 1 { "1 step".into() } else { format!("{steps} steps") };
    format!("{} {precision}, {steps}, {width}×{height}{batch}", scenario.name())
}

/// A case in a line.
pub(crate) fn line(case: &Case) -> String {
    let name = name(&case.workload);
    let Some(summary) = &case.summary else {
        return format!("{name}: not measured: {}", case.error.as_deref().unwrap_or("no image was made"));
    };
    let interval =
        summary.image.p50_interval.map(|[low, high]| format!(" ({low:.1} to {high:.1})")).unwrap_or_default();
    let validity = match case.validity.valid {
        true => "valid".to_owned(),
        false => format!("INVALID: {}", case.validity.reasons.join("; ")),
    };
    let (p50, n, rate) = (summary.image.p50, summary.image.n, summary.images_per_second);
    format!("{name}: median {p50:.1} ms{interval} of {n}, {rate:.3} images/s; {validity}")
}

fn phase_told(phase: Phase, cases_left: f64) -> String {
    match phase {
        Phase::WarmUp { done } => format!("warm-up, {done} images"),
        Phase::Headline { done, of, seconds_left } => {
            let left = std::time::Duration::from_secs((seconds_left + cases_left).ceil() as u64);
            format!("image {done} of {of}, about {} left", humantime::format_duration(left))
        }
        Phase::Detailed { done, of } => format!("stages and steps, image {done} of {of}"),
        _ => String::new(),
    }
}
