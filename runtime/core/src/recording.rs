//! What graphs are given along real trajectories, written down for whoever calibrates their quantisation: one NumPy
//! archive a run of a graph, by the graph's own names and types of its inputs.
//!
//! Of more runs than are wanted, a uniform sample is kept (algorithm R, Vitter 1985, doi:10.1145/3147.3165): all steps and
//! prompts have the same chance, however many there will be.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::f16;
use ndarray::{ArrayViewD, IxDyn};
use ndarray_npy::{NpzWriter, WritableElement, WriteDataError, WriteNpzError};
use serde_json::{Value, json};

use crate::graph::Opened;
use crate::stage::Stage;
use crate::{Error, ErrorKind, Result, bounded, picture};

/// A folder that graphs' inputs are written to. Clones write to the same.
#[derive(Clone)]
pub struct Recording(Arc<Mutex<State>>);

struct State {
    folder: PathBuf,
    limit: usize,
    stages: BTreeMap<Stage, Tally>,
    /// What earlier processes have recorded here.
    earlier: Vec<Value>,
    /// Model, target, library and graphs, once a pipeline records.
    about: Value,
    requests: Vec<Value>,
    random: u64,
}

/// What became of the runs of one stage.
#[derive(Default)]
struct Tally {
    /// Index of its first file.
    first: usize,
    files: usize,
    runs: u64,
}

/// The file that tells what the others are.
const ABOUT: &str = "calibration.json";
const SCHEMA: &str = "safelight-calibration/1";

/// Longest [`ABOUT`] that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// Files of a stage are numbered with six digits.
const MAX_FILES: usize = 1_000_000;

impl Recording {
    /// Files a stage where nobody says how many: what calibrations by histogram take of a denoiser.
    pub const USUAL_LIMIT: usize = 64;

    /// Begins to record in `folder`, which is made if need be: at most `limit` files a stage, numbered on from those
    /// that are there.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a limit of 0 or beyond six digits; [`ErrorKind::Io`] where the folder cannot be made, or
    /// holds a damaged `calibration.json`.
    pub fn open(folder: &Path, limit: usize) -> Result<Self> {
        if !(1..=MAX_FILES).contains(&limit) {
            return Err(Error::usage(format!("recording: {limit} files a stage, expected 1 to {MAX_FILES}")));
        }
        let told = |e: std::io::Error| Error::io(format!("{}: cannot be created: {e}", folder.display())).because(e);
        std::fs::create_dir_all(folder).map_err(told)?;
        picture::check_save(&folder.join(ABOUT))?;
        let earlier = read_about(&folder.join(ABOUT))?;
        let stages = Stage::ALL.map(|stage| (stage, Tally { first: next_index(folder, stage), ..Tally::default() }));
        let folder = folder.to_path_buf();
        let (stages, about, requests) = (stages.into(), Value::Null, Vec::new());
        Ok(Self(Arc::new(Mutex::new(State { folder, limit, stages, earlier, about, requests, random: 0 }))))
    }

    /// Writes `calibration.json`: model, graphs, settings, and every request so far.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn save(&self) -> Result<()> {
        let state = self.state();
        let mut sessions = state.earlier.clone();
        let mut session = state.about.clone();
        let used = state.stages.iter().filter(|(_, tally)| tally.runs > 0);
        let tally = |(stage, tally): (&Stage, &Tally)| {
            let Tally { first, files, runs } = tally;
            (stage.name().to_owned(), json!({ "first": first, "files": files, "runs": runs }))
        };
        session["recorded"] = used.map(tally).collect::<serde_json::Map<_, _>>().into();
        session["limit"] = state.limit.into();
        session["requests"] = state.requests.clone().into();
        sessions.push(session);
        let text = serde_json::to_vec_pretty(&json!({ "schema": SCHEMA, "sessions": sessions }));
        let text = text.map_err(|e| Error::new(ErrorKind::Internal, format!("{ABOUT}: {e}")))?;
        picture::save(&state.folder.join(ABOUT), &text)
    }

    /// Says what records, before it does.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where the folder has recordings of other graphs.
    pub(crate) fn begin(&self, mut about: Value, graphs: &BTreeMap<Stage, Opened>) -> Result<()> {
        let mut state = self.state();
        for (stage, opened) in graphs {
            let recorded = |session: &&Value| !session["recorded"][stage.name()].is_null();
            let others =
                state.earlier.iter().filter(recorded).map(|session| &session["graphs"][stage.name()]["sha256"]);
            if let Some(other) = others.into_iter().find(|sha256| **sha256 != opened.sha256.as_str()) {
                let folder = state.folder.display();
                let what =
                    format!("{folder}: holds recordings of another {stage} graph ({other}, not {})", opened.sha256);
                return Err(Error::usage(format!("{what}; choose another folder")));
            }
        }
        let graph = |(stage, opened): (&Stage, &Opened)| {
            (stage.name().to_owned(), json!({ "precision": opened.precision, "sha256": opened.sha256 }))
        };
        about["graphs"] = graphs.iter().map(graph).collect::<serde_json::Map<_, _>>().into();
        state.about = about;
        Ok(())
    }

    /// Remembers a request. What tells of all is written now and then, and in the end by [`save`](Self::save).
    pub(crate) fn note(&self, request: Value) -> Result<()> {
        let mut state = self.state();
        state.requests.push(request);
        let is_due = state.requests.len().is_power_of_two();
        drop(state);
        if is_due { self.save() } else { Ok(()) }
    }

    /// The file for the next run of a stage; nothing where it is not of the sample.
    ///
    /// # Errors
    /// [`ErrorKind::Limit`] where there is no number left.
    pub(crate) fn next(&self, stage: Stage) -> Result<Option<PathBuf>> {
        let mut state = self.state();
        let random = next_random(&mut state.random);
        let State { folder, limit, stages, .. } = &mut *state;
        let tally = stages.entry(stage).or_default();
        tally.runs += 1;
        let place = match tally.files < *limit {
            true => {
                tally.files += 1;
                tally.files - 1
            }
            // Any of the runs so far, with the same chance.
            false => (random % tally.runs) as usize,
        };
        let index = tally.first + place;
        if index >= MAX_FILES {
            let what = format!("{}: has {MAX_FILES} recordings of the {stage}", folder.display());
            return Err(Error::limit(format!("{what}; choose another folder")));
        }
        Ok((place < *limit).then(|| folder.join(format!("{stage}-{index:06}.npz"))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next of a fixed sequence of random numbers: SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// One more than the highest number that a stage's files have.
fn next_index(folder: &Path, stage: Stage) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let number =
        |name: String| name.strip_prefix(stage.name())?.strip_prefix('-')?.strip_suffix(".npz")?.parse::<usize>().ok();
    names.filter_map(number).max().map_or(0, |highest| highest.saturating_add(1))
}

fn read_about(path: &Path) -> Result<Vec<Value>> {
    let damaged = |what: &dyn std::fmt::Display| {
        Err(Error::io(format!("{}: {what}; choose another folder, or remove the file", path.display())))
    };
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = match bounded::read(path, MAX_BYTES) {
        Ok(text) => text,
        Err(e) => return damaged(&e),
    };
    match serde_json::from_str::<Value>(&text) {
        Ok(about) if about["schema"] == SCHEMA => Ok(about["sessions"].as_array().cloned().unwrap_or_default()),
        Ok(_) => damaged(&format_args!("its schema is not \"{SCHEMA}\"")),
        Err(e) => damaged(&e),
    }
}

/// A NumPy archive in memory, uncompressed.
pub(crate) struct Archive(NpzWriter<Cursor<Vec<u8>>>);

impl Archive {
    pub(crate) fn new() -> Self {
        Self(NpzWriter::new(Cursor::new(Vec::new())))
    }

    /// Adds a tensor of a shape that has as many elements as it has.
    pub(crate) fn add<T: WritableElement>(&mut self, name: &str, shape: &[usize], elements: &[T]) -> Result<()> {
        let array = ArrayViewD::from_shape(IxDyn(shape), elements).map_err(|e| internal(name, &e))?;
        self.0.add_array(name, &array).map_err(|e: WriteNpzError| internal(name, &e))
    }

    /// Adds a tensor of half precision, which NumPy calls `<f2`.
    pub(crate) fn add_half(&mut self, name: &str, shape: &[usize], elements: &[f16]) -> Result<()> {
        self.add(name, shape, &elements.iter().map(|&element| Half(element)).collect::<Vec<_>>())
    }

    /// Writes it, whole or not at all.
    pub(crate) fn write(self, path: &Path) -> Result<()> {
        let bytes = self.0.finish().map_err(|e| internal("archive", &e))?.into_inner();
        picture::save(path, &bytes)
    }
}

fn internal(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, format!("recording {what}: {error}"))
}

/// A number of half precision as NumPy has it, which `ndarray-npy` does not know.
struct Half(f16);

impl WritableElement for Half {
    fn type_descriptor() -> py_literal::Value {
        py_literal::Value::String("<f2".into())
    }

    fn write<W: std::io::Write>(&self, mut writer: W) -> Result<(), WriteDataError> {
        Ok(writer.write_all(&self.0.to_le_bytes())?)
    }

    fn write_slice<W: std::io::Write>(slice: &[Self], mut writer: W) -> Result<(), WriteDataError> {
        slice.iter().try_for_each(|element| element.write(&mut writer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_runs_a_sample_is_kept_that_is_spread_over_all() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("denoiser-000041.npz"), "").unwrap();
        std::fs::write(folder.path().join("denoiser-x.npz"), "").unwrap();
        let recording = Recording::open(folder.path(), 10).unwrap();
        let mut kept = BTreeMap::new();
        for run in 0..1000 {
            if let Some(path) = recording.next(Stage::Denoiser).unwrap() {
                kept.insert(path, run);
            }
        }
        let names: Vec<_> = kept.keys().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!((names.len(), names[0], names[9]), (10, "denoiser-000042.npz", "denoiser-000051.npz"));
        let mean = kept.values().sum::<i32>() / 10;
        assert!((300..700).contains(&mean), "{:?}", kept.values());
        assert!(recording.next(Stage::Decoder).unwrap().unwrap().ends_with("decoder-000000.npz"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for limit in [0, 1_000_001] {
            assert_eq!(Recording::open(folder.path(), limit).err().unwrap().kind(), ErrorKind::Usage);
        }
        for text in ["{", "{}", "[]", "{\"schema\": \"safelight-calibration/2\"}"] {
            std::fs::write(folder.path().join(ABOUT), text).unwrap();
            let error = Recording::open(folder.path(), 1).err().unwrap();
            assert!(error.kind() == ErrorKind::Io && error.to_string().contains("choose another folder"), "{error}");
        }
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert_eq!(Recording::open(&folder.path().join("file"), 1).err().unwrap().kind(), ErrorKind::Io);
    }
}
