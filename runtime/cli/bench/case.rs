//! One case of `safelight bench`: preparation, fresh processes, the passes, and how right the pictures are.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::ProgressBar;
use safelight::bench::protocol::{self, Around, Passes, Phase};
use safelight::bench::quality::{Goldens, Reference, hold};
use safelight::bench::report::{
    Case, ColdStart, GoldensHeld, Images, LibraryUsed, MemoryUsed, Protocol, Quality, Scenario, Validity, Workload,
};
use safelight::bench::summary::summarise;
use safelight::bench::validity::{Judged, advise, judge};
use safelight::bench::worker::{Ended, Errand};
use safelight::bench::{Executor as _, Look, Worker};
use safelight::{Cancel, Error, ErrorKind, Model, Precision, Result, Target};

/// A case that is to be measured.
pub(crate) struct Planned {
    pub(crate) workload: Workload,
    pub(crate) target: Target,
    /// Whether its precision was asked for, instead of the target's.
    pub(crate) is_narrowed: bool,
}

/// What all cases share.
pub(crate) struct Bench<'a> {
    folder: &'a Path,
    model: &'a Model,
    program: PathBuf,
    flags: Vec<OsString>,
    out: &'a Path,
    wait: f64,
    cancel: &'a Cancel,
    bar: &'a ProgressBar,
    began: Instant,
    /// Which case this is, of how many.
    pub(crate) at: (usize, usize),
    /// Known from the first process that ended.
    pub(crate) library: Option<LibraryUsed>,
    /// The first error that kept a case from its end.
    pub(crate) failure: Option<Error>,
    references: BTreeMap<(usize, usize, usize), Reference>,
    goldens: BTreeMap<Precision, Option<GoldensHeld>>,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(
        (folder, model): (&'a Path, &'a Model),
        flags: Vec<OsString>,
        (out, wait): (&'a Path, f64),
        cancel: &'a Cancel,
        bar: &'a ProgressBar,
    ) -> Result<Self> {
        let program = std::env::current_exe()
            .map_err(|e| Error::new(ErrorKind::Io, format!("this executable cannot be found: {e}")))?;
        let (references, goldens) = (BTreeMap::new(), BTreeMap::new());
        let (began, at, library, failure) = (Instant::now(), (0, 1), None, None);
        Ok(Self {
            folder,
            model,
            program,
            flags,
            out,
            wait,
            cancel,
            bar,
            began,
            at,
            library,
            failure,
            references,
            goldens,
        })
    }

    /// Measures a case; what keeps it from its end is in it.
    pub(crate) fn measure(&mut self, planned: &Planned, protocol: &Protocol) -> Case {
        let mut case = empty(&planned.workload);
        let mut ended = None;
        let mut is_warm = None;
        if let Err(e) = self.try_measure(planned, protocol, (&mut case, &mut ended, &mut is_warm)) {
            case.error = Some(e.to_string());
            self.failure.get_or_insert(e);
        }
        let Workload { scenario, batch, .. } = planned.workload;
        case.summary = summarise(scenario, &case.images, &case.detailed, &case.cold, batch);
        let fallen_back = ended.map(|ended: Ended| ended.fallen_back).unwrap_or_default();
        let is_release = !cfg!(debug_assertions);
        let judged = Judged { case: &case, protocol, is_release, is_warm, fallen_back: &fallen_back };
        (case.validity, case.advice) = (judge(judged), advise(judged));
        case
    }

    fn try_measure(
        &mut self,
        planned: &Planned,
        protocol: &Protocol,
        (case, ended, is_warm): (&mut Case, &mut Option<Ended>, &mut Option<bool>),
    ) -> Result<()> {
        // The first process ever may try graphs in a process of its own, and build what a cache keeps.
        self.tell(&planned.workload, "preparing");
        let first = self.start_cold(planned, Watch::Nothing)?;
        if first.0.cache.values().any(|outcome| outcome == "built") {
            case.cold.push(first.0);
        }
        let is_cold = planned.workload.scenario == Scenario::Cold;
        let processes =
            if is_cold { protocol.cold_processes.max(protocol.least_images) } else { protocol.cold_processes };
        for index in 0..processes {
            self.tell(&planned.workload, &format!("fresh process {} of {processes}", index + 1));
            let watch = if index + 1 == processes { Watch::Memory } else { Watch::Nothing };
            let (cold, end) = self.start_cold(planned, watch)?;
            let stages = end.stages.clone();
            let peak_bytes = case.memory.as_ref().map(|memory| memory.peak_bytes).max(cold.peak_bytes);
            case.memory = peak_bytes.map(|peak_bytes| MemoryUsed { peak_bytes, stages, device_bytes: None });
            case.cold.push(cold);
            case.graphs = end.graphs.clone();
            *ended = Some(end);
        }
        if !is_cold {
            *ended = Some(self.run_passes(planned, protocol, (case, is_warm))?);
        }
        if protocol.compared_pictures > 0 {
            self.tell(&planned.workload, "comparing pictures");
            case.quality = Some(self.quality(planned, protocol)?);
        }
        Ok(())
    }

    /// Warm-up, headline pass and second pass in one process.
    fn run_passes(
        &mut self,
        planned: &Planned,
        protocol: &Protocol,
        (case, is_warm): (&mut Case, &mut Option<bool>),
    ) -> Result<Ended> {
        self.tell(&planned.workload, "opening");
        let mut worker = self.start(planned, Watch::Nothing)?;
        let (bar, prefix, left) = (self.bar, self.prefix(&planned.workload), self.cases_left(protocol));
        let mut tell = |phase: Phase| bar.set_message(format!("{prefix}: {}", phase_told(phase, left)));
        let passes = protocol::run(&mut worker, protocol, &mut Unwatched, (self.cancel, &mut tell));
        let Passes { warm_up_ms, is_warm: warm, images, detailed, error } = passes;
        (case.warm_up_ms, case.images, case.detailed, *is_warm) = (warm_up_ms, images, detailed, Some(warm));
        error.map_or(Ok(()), Err)?;
        let end = worker.end()?;
        if let (Some(memory), Some(peak)) = (&mut case.memory, end.peak_bytes) {
            memory.peak_bytes = memory.peak_bytes.max(peak);
        }
        case.graphs = end.graphs.clone();
        Ok(end)
    }

    /// A fresh process, from its start to its first image.
    fn start_cold(&mut self, planned: &Planned, watch: Watch) -> Result<(ColdStart, Ended)> {
        let mut worker = self.start(planned, watch)?;
        let made = worker.make(0, Look::Image)?;
        let total_ms = worker.seconds() * 1000.0;
        let (process_ms, open_ms) = (worker.process_ms(), worker.open_ms());
        let end = worker.end()?;
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
        arguments.extend(self.flags.iter().cloned());
        if planned.is_narrowed {
            arguments.extend(["--precision".into(), precision_flag(planned.workload.precision)]);
        }
        let errand = Errand {
            model: self.folder.to_path_buf(),
            workload: planned.workload.clone(),
            watches_memory: watch == Watch::Memory,
        };
        Worker::start(&self.program, &arguments, &errand, self.cancel)
    }

    fn quality(&mut self, planned: &Planned, protocol: &Protocol) -> Result<Quality> {
        let Workload { steps, width, height, precision, .. } = planned.workload;
        let key = (steps, width, height);
        let count = protocol.compared_pictures;
        if !self.references.contains_key(&key) {
            let made = Reference::make(&planned.target, self.model, &planned.workload, count, self.cancel)?;
            self.references.insert(key, made);
        }
        let reference = &self.references[&key];
        let goldens = self.goldens.get(&precision).map_or(Goldens::Made, |known| Goldens::Known(known.clone()));
        let held = hold(&planned.target, self.model, reference, goldens)?;
        self.goldens.insert(precision, held.quality.goldens.clone());
        let mut quality = held.quality;
        let size = format!("{steps}-steps-{width}x{height}");
        for (index, (picture, pixels)) in quality.pictures.iter_mut().zip(&held.pictures).enumerate() {
            picture.file = Some(self.save(&format!("{precision}-{size}-{index}"), pixels)?);
        }
        for (index, (picture, pixels)) in quality.pictures.iter_mut().zip(reference.pictures()).enumerate() {
            picture.reference_file = Some(self.save(&format!("reference-{size}-{index}"), pixels)?);
        }
        Ok(quality)
    }

    /// Writes a picture beside the report; returns its path from there.
    fn save(&self, name: &str, pixels: &image::RgbImage) -> Result<String> {
        let path = format!("pictures/{name}.png");
        let mut bytes = std::io::Cursor::new(Vec::new());
        let told = |e| Error::new(ErrorKind::Internal, format!("{path} cannot be encoded: {e}"));
        pixels.write_to(&mut bytes, image::ImageFormat::Png).map_err(told)?;
        crate::destination::prepare_folder(&self.out.join("pictures"))?;
        safelight::save(&self.out.join(&path), bytes.get_ref())?;
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

/// What of a process is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    Nothing,
    Memory,
}

struct Unwatched;

impl Around for Unwatched {
    fn begin(&mut self) {}
    fn end(&mut self) {}
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

fn empty(workload: &Workload) -> Case {
    Case {
        workload: workload.clone(),
        error: None,
        graphs: BTreeMap::new(),
        cold: Vec::new(),
        warm_up_ms: Vec::new(),
        images: Images::default(),
        detailed: Vec::new(),
        summary: None,
        memory: None,
        timeline: Default::default(),
        energy: None,
        throttling: Default::default(),
        contention: Default::default(),
        quality: None,
        validity: Validity::default(),
        advice: Vec::new(),
    }
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
