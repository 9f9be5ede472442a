//! Many devices' reports → one table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::report::{Case, Report, Workload};
use crate::machine::Machine;
use crate::stage::Stage;

/// Every workload that any of the devices measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Fleet {
    /// Those of one model and kind of use stand together, smaller pictures and fewer steps first; of one workload the
    /// fastest first.
    pub rows: Vec<Row>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// One workload on one device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The model's title.
    pub model: String,
    /// What was asked for.
    pub workload: Workload,
    /// The board, else the processor, and its graphics processors.
    pub device: String,
    /// The target's name.
    pub target: String,
    /// Execution providers that the denoiser was given, best first.
    pub providers: Vec<String>,
    /// ONNX Runtime's version.
    pub library: String,
    /// Images, or processes of a cold case, that were measured.
    pub n: usize,
    /// Median of an image in ms; of a batch, of the whole batch.
    pub p50_ms: f64,
    /// Its 95 % interval.
    pub p50_interval_ms: Option<[f64; 2]>,
    /// 90th percentile in ms.
    pub p90_ms: Option<f64>,
    /// Images a second.
    pub images_per_second: f64,
    /// Energy of an image in J.
    pub joules_per_image: Option<f64>,
    /// What that energy covers.
    pub energy_covers: Option<String>,
    /// The most that was resident, in bytes.
    pub peak_bytes: Option<u64>,
    /// Least PSNR in dB of pictures beside their reference; absent, too, where all pixels are the same.
    pub least_psnr_db: Option<f64>,
    /// Whether the numbers can be trusted.
    pub valid: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// When the benchmark was begun.
    pub created: String,
    /// The report's file.
    pub file: PathBuf,
}

/// Collects reports. Of the same workload of the same model on the same device, with the same target, providers and
/// library, the newest valid one stands; where none is valid, the newest.
pub fn collect(reports: &[(PathBuf, Report)]) -> Fleet {
    let mut fleet = Fleet::default();
    let mut known: BTreeMap<_, Row> = BTreeMap::new();
    for (file, report) in reports {
        for case in &report.cases {
            let Some(row) = row(file, report, case) else {
                let why = case.error.as_deref().unwrap_or("no image was made");
                fleet.notes.push(format!("{}: {}: not measured: {why}", file.display(), case.workload));
                continue;
            };
            let key = row.key();
            let (kept, dropped) = match known.remove(&key) {
                None => (row, None),
                Some(other) if newer(&row) > newer(&other) => (row, Some(other)),
                Some(other) => (other, Some(row)),
            };
            if let Some(dropped) = dropped {
                let (out, stays) = (dropped.file.display(), kept.file.display());
                let why = if kept.valid && !dropped.valid { "is valid" } else { "is newer" };
                let note = format!("{out}: {} on {}: left out, {stays} {why}", dropped.workload, dropped.device);
                fleet.notes.push(note);
            }
            known.insert(key, kept);
        }
    }
    fleet.rows = known.into_values().collect();
    fleet.rows.sort_by(|a, b| {
        a.group().cmp(&b.group()).then(b.images_per_second.total_cmp(&a.images_per_second)).then(a.key().cmp(&b.key()))
    });
    fleet
}

/// What of two rows of one key stays: the greater. RFC 3339 in UTC sorts as text.
fn newer(row: &Row) -> (bool, &str) {
    (row.valid, &row.created)
}

fn row(file: &std::path::Path, report: &Report, case: &Case) -> Option<Row> {
    let summary = case.summary.as_ref()?;
    let providers = case.graphs.get(&Stage::Denoiser).map(|graph| graph.providers.clone()).unwrap_or_default();
    Some(Row {
        model: report.model.title.clone(),
        workload: case.workload.clone(),
        device: device(&report.machine),
        target: report.target.name.clone(),
        providers,
        library: report.library.version.clone(),
        n: summary.image.n,
        p50_ms: summary.image.p50,
        p50_interval_ms: summary.image.p50_interval,
        p90_ms: summary.image.p90,
        images_per_second: summary.images_per_second,
        joules_per_image: case.joules_per_image(),
        energy_covers: case.energy.as_ref().map(|energy| energy.covers.clone()),
        peak_bytes: case.memory.as_ref().map(|memory| memory.peak_bytes),
        least_psnr_db: case.quality.as_ref().and_then(|quality| quality.least_psnr_db()).filter(|db| db.is_finite()),
        valid: case.validity.valid,
        reasons: case.validity.reasons.iter().chain(&case.error).cloned().collect(),
        created: report.created.clone(),
        file: file.to_path_buf(),
    })
}

impl Row {
    /// What makes two rows one.
    fn key(&self) -> impl Ord + use<> {
        let device = (self.device.clone(), self.target.clone(), self.providers.clone(), self.library.clone());
        (self.model.clone(), self.workload.clone(), device)
    }

    /// What stands together: the same work, whatever it is done in and on.
    pub fn group(&self) -> impl Ord + use<'_> {
        let Workload { scenario, steps, width, height, batch, sampler, .. } = &self.workload;
        (&self.model, *scenario, width * height, *width, *steps, *batch, sampler)
    }
}

/// A device in a few words: its board, else its processor, and its graphics processors, each once.
pub fn device(machine: &Machine) -> String {
    let named = machine.board.as_ref().or(machine.processor.as_ref());
    let named = named.cloned().unwrap_or_else(|| format!("{} on {}", machine.os, machine.arch));
    let gpus: BTreeSet<_> = machine.gpus.iter().collect();
    gpus.into_iter().fold(named, |named, gpu| format!("{named}, {gpu}"))
}
