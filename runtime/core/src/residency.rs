//! When graphs are in memory: all the time, or each while its stage works.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::graph::{Graph, Opened, Source};
use crate::library::Library;
use crate::memory::{StageMemory, Watch};
use crate::model::{DataFile, Model};
use crate::recording::Recording;
use crate::request::Plan;

/// When a pipeline's graphs are in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Residency {
    /// All of them, from opening the pipeline on: the next picture comes fastest.
    #[default]
    Resident,
    /// Each from the beginning of its stage to its end, once a request: memory holds one graph at a time.
    Staged,
}

/// A stage that runs a graph.
pub(crate) trait RunsGraph {
    fn graph(&mut self) -> &mut Graph;
}

/// How a stage is opened: from its verified graph, for requests like those of a plan.
type Open<S> = fn(&'static Library, Source, &Model, &Plan) -> Result<S>;

/// A stage that is open or can be opened, and what is known of its graph either way.
pub(crate) struct Slot<S> {
    library: &'static Library,
    source: Source,
    open: Open<S>,
    residency: Residency,
    stage: Option<S>,
    opened: Opened,
    run_time: Duration,
    reopen_time: Duration,
    watch: Watch,
}

/// What can be asked of a stage whatever it is.
pub(crate) trait AnySlot {
    /// The stage rests; the memory of its graph is given back, unless it is resident.
    fn end(&mut self);

    /// The graph, while it is open.
    fn graph(&mut self) -> Option<&mut Graph>;

    /// Measures the stage's memory from now on.
    fn measure_memory(&mut self);

    /// Writes down what its graph is given from now on.
    fn record_in(&mut self, recording: &Recording);

    /// The stage's memory since this was last asked, and the most that the process held meanwhile, in bytes.
    fn take_memory(&mut self) -> (Option<StageMemory>, u64);

    /// Time spent on opening the graph and giving it back since this was last asked.
    fn take_reopen_time(&mut self) -> Duration;
}

impl<S: RunsGraph> Slot<S> {
    /// A stage that is not open yet.
    pub(crate) fn new(library: &'static Library, source: Source, open: Open<S>, residency: Residency) -> Self {
        let opened = source.unopened();
        let (run_time, reopen_time) = (Duration::ZERO, Duration::ZERO);
        let watch = Watch::default();
        Self { library, source, open, residency, stage: None, opened, run_time, reopen_time, watch }
    }

    /// Opens the stage now, where it is to be resident.
    pub(crate) fn settle(&mut self, model: &Model, plan: &Plan) -> Result<()> {
        match self.residency {
            Residency::Resident => self.begin(model, plan).map(drop)?,
            Residency::Staged => (),
        }
        // What the first opening takes is the pipeline's opening, and no generation's.
        self.reopen_time = Duration::ZERO;
        Ok(())
    }

    /// The stage, opened for requests like that of `plan` unless it is open already.
    pub(crate) fn begin(&mut self, model: &Model, plan: &Plan) -> Result<&mut S> {
        self.watch.begin();
        self.stage.as_mut().map_or(Ok(()), |stage| stage.graph().check_files())?;
        let stage = match self.stage.take() {
            Some(stage) => stage,
            None => {
                let start = Instant::now();
                let mut stage = (self.open)(self.library, self.source.clone(), model, plan)?;
                self.opened = stage.graph().opened().clone();
                self.reopen_time += start.elapsed();
                self.watch.opened();
                stage
            }
        };
        Ok(self.stage.insert(stage))
    }

    /// What the stage runs; without providers while it has never been open.
    pub(crate) fn opened(&self) -> &Opened {
        &self.opened
    }

    /// SHA-256 of each file of weights beside the graph's own.
    pub(crate) fn weights(&self) -> Result<Vec<String>> {
        self.source.file().data.iter().map(DataFile::sha256).collect()
    }

    /// Time spent inside `Session::run` since this was last asked.
    pub(crate) fn take_run_time(&mut self) -> Duration {
        self.collect();
        std::mem::take(&mut self.run_time)
    }

    /// Takes over what the graph has counted, and what running it and a second opening have changed.
    fn collect(&mut self) {
        if let Some(graph) = self.stage.as_mut().map(S::graph) {
            self.run_time += graph.take_run_time();
            self.reopen_time += graph.take_reopen_time();
            self.opened = graph.opened().clone();
        }
    }
}

impl<S: RunsGraph> AnySlot for Slot<S> {
    fn end(&mut self) {
        if self.residency == Residency::Staged && self.stage.is_some() {
            self.collect();
            // Giving back gigabytes takes as long as some steps do.
            let start = Instant::now();
            self.stage = None;
            return_memory();
            self.reopen_time += start.elapsed();
        }
        self.watch.end();
    }

    fn graph(&mut self) -> Option<&mut Graph> {
        self.stage.as_mut().map(S::graph)
    }

    fn record_in(&mut self, recording: &Recording) {
        self.source.record_in(Some(recording.clone()));
        if let Some(graph) = self.graph() {
            graph.record_in(Some(recording.clone()));
        }
    }

    fn measure_memory(&mut self) {
        self.watch.turn_on();
    }

    fn take_memory(&mut self) -> (Option<StageMemory>, u64) {
        (self.watch.take(), self.watch.highest())
    }

    fn take_reopen_time(&mut self) -> Duration {
        self.collect();
        std::mem::take(&mut self.reopen_time)
    }
}

/// Returns free memory to the system. The allocator of glibc keeps it for itself otherwise.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn return_memory() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: glibc's `malloc_trim` takes a number, may be called from any thread, and frees nothing that is in use.
    unsafe { malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn return_memory() {}
