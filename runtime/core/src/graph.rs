//! One opened graph: checked against what its stage must look like, run by tensor role.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use ort::memory::Allocator;
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::{DynTensor, Outlet, TensorElementType as Type, TensorValueTypeMarker, Value};

use crate::cache::{Cached, Kept, Shelf, Store};
use crate::cancel::Cancel;
use crate::library::Library;
use crate::model::{GraphFile, Model, Stamp, Verified};
use crate::onnx::{self, Outline};
use crate::probe::{Prober, Subject};
use crate::provider::{Provider, ProviderName};
use crate::recording::Recording;
use crate::residency::Residency;
use crate::stage::{Precision, Stage};
use crate::target::{StageSettings, Target};
use crate::{Error, ErrorKind, Result};

mod assignment;
mod cached;
mod contract;
mod recorded;
pub(crate) mod replay;
pub(crate) mod session;
pub(crate) mod trial;

pub(crate) use contract::{Contract, Geometry, TIME_IDS};
use replay::Replay;
use session::{Providers, internal, open_session, run_failed};

/// A graph on disk whose hash was verified.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) outline: Outline,
    stage: Stage,
    precision: Precision,
    graph: Verified,
    settings: StageSettings,
    /// Where the library is to write down which node ran where and how long: the beginning of a file's name.
    profile: Option<PathBuf>,
    store: Option<Arc<Store>>,
    prober: Option<Arc<Prober>>,
    recording: Option<Recording>,
}

impl Source {
    /// Chooses a stage's graph by the target's precisions and verifies it.
    pub(crate) fn find(stage: Stage, model: &Model, target: &Target) -> Result<Self> {
        let (precision, file, settings) = chosen(stage, model, target)?;
        let (graph, outline) = Verified::inspect(file)?;
        let (profile, store, prober, recording) = (None, None, None, None);
        Ok(Self { outline, stage, precision, graph, settings, profile, store, prober, recording })
    }

    /// The same, but of a graph that is missing what its manifest promises; such a one cannot be opened.
    pub(crate) fn find_or_promised(stage: Stage, model: &Model, target: &Target) -> Result<Self> {
        let (precision, file, settings) = chosen(stage, model, target)?;
        match &file.sha256 {
            Some(sha256) if !file.path.exists() => {
                let graph = Verified::unread(file.clone(), sha256.clone());
                let outline = Outline::default();
                let (profile, store, prober, recording) = (None, None, None, None);
                Ok(Self { outline, stage, precision, graph, settings, profile, store, prober, recording })
            }
            _ => Self::find(stage, model, target),
        }
    }

    /// Whether the graph is only promised.
    pub(crate) fn is_missing(&self) -> bool {
        // A graph that was read has inputs: one without is refused as damaged.
        self.outline.inputs.is_empty()
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    pub(crate) fn file(&self) -> &GraphFile {
        &self.graph.file
    }

    /// SHA-256 of the graph's own file, in lower-case hex.
    pub(crate) fn sha256(&self) -> &str {
        &self.graph.sha256
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    pub(crate) fn settings(&self) -> &StageSettings {
        &self.settings
    }

    /// The same, with every run written down in `folder`.
    pub(crate) fn profiled(self, folder: Option<&Path>) -> Self {
        let profile = folder.map(|folder| folder.join(self.stage.name()));
        Self { profile, ..self }
    }

    /// The same, opened with a cache of what is made of it.
    pub(crate) fn kept_in(self, store: Option<Arc<Store>>) -> Self {
        Self { store, ..self }
    }

    /// Has every run from now on written down, once it is opened.
    pub(crate) fn record_in(&mut self, recording: Option<Recording>) {
        self.recording = recording;
    }

    /// The same, tried in a process of its own before it is opened.
    pub(crate) fn probed_by(self, prober: Option<Arc<Prober>>) -> Self {
        Self { prober, ..self }
    }

    /// What is known before it is opened.
    pub(crate) fn unopened(&self) -> Opened {
        Opened::not_yet(self.precision, self.graph.sha256.clone())
    }
}

/// An opened graph with its input tensors, which stay allocated from run to run.
pub(crate) struct Graph {
    stage: Stage,
    session: Session,
    /// Axes, by name, that the session was opened for one size of.
    fixed: Vec<(String, usize)>,
    library: &'static Library,
    verified: Verified,
    settings: StageSettings,
    profile: Option<PathBuf>,
    store: Option<Arc<Store>>,
    kept: Option<Kept>,
    /// Whether a shape has changed since the last run, so that a provider may build for it.
    is_reshaped: bool,
    /// In the order of the session's inputs, which `Session::run` matches by position.
    values: Vec<SessionInputValue<'static>>,
    inputs: Vec<Port>,
    /// In the order of the contract's; those that it says are optional may be missing.
    outputs: Vec<Option<Output>>,
    recording: Option<Recording>,
    /// Of the files that the session has mapped.
    stamps: Vec<Stamp>,
    options: Arc<RunOptions>,
    replay: Option<Replay>,
    run_time: Duration,
    reopen_time: Duration,
    opened: Opened,
}

/// What a graph has given in its last run.
struct Output {
    /// Of the session's outputs.
    index: usize,
    values: Vec<f32>,
    shape: Vec<usize>,
}

/// A tensor of the graph as it declares itself.
struct Port {
    name: String,
    data_type: Type,
    /// −1 where any size will do.
    declared: Vec<i64>,
    /// Names of its axes, where they have one.
    axes: Vec<Option<String>>,
    /// Of the tensor that is bound now, if any.
    shape: Option<Vec<usize>>,
}

/// What was opened, for reports.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Opened {
    /// Number format of its weights.
    pub precision: Precision,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Execution providers that the session was given, in order; none while it has not been opened.
    pub providers: Vec<ProviderName>,
    /// How many of the graph's nodes each provider was given; empty where the library does not tell (before 1.24).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, usize>,
    /// Optional providers that could not be used or took too little, and why; what is wrong with the cache.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What became of it in the cache; nothing where nothing of it is kept. It has no part in what the graph computes,
    /// and so none in a picture's provenance.
    #[serde(skip)]
    pub cached: Option<Cached>,
}

impl Opened {
    /// What is known of a graph before it is opened.
    fn not_yet(precision: Precision, sha256: String) -> Self {
        let (providers, nodes, warnings) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { precision, sha256, providers, nodes, warnings, cached: None }
    }
}

/// A staged graph from so many bytes on is opened for any size where the CPU alone runs it and the target does not say.
/// ONNX Runtime holds the buffer of a tensor whose size it knows for a later one of that size: without sizes, Stable
/// Diffusion 1.5's denoiser takes 0.86 of the peak and no more time, while a small model takes 1.1 times as long.
const LARGE_GRAPH_BYTES: u64 = 256 << 20;

/// A stage's graph by the target's precisions, and how it is opened.
fn chosen<'a>(stage: Stage, model: &'a Model, target: &Target) -> Result<(Precision, &'a GraphFile, StageSettings)> {
    let mut settings = target.stage(stage);
    let (precision, file) = model.graph(stage, &settings.precision)?;
    let on_cpu = settings.providers.iter().all(|provider| provider.name == ProviderName::CPU);
    if target.residency == Residency::Staged && on_cpu && file.total_bytes() >= LARGE_GRAPH_BYTES {
        settings.session.fixed_shapes.get_or_insert(false);
    }
    Ok((precision, file, settings))
}

/// The key after whose run an arena gives memory back, and whose: the CPU's.
const SHRINK_ARENA: (&str, &str) = ("memory.enable_memory_arena_shrinkage", "cpu:0");

fn run_options(settings: &StageSettings) -> ort::Result<RunOptions> {
    let mut options = RunOptions::new()?;
    let session = &settings.session;
    // ONNX Runtime fails every run where there is no arena to shrink.
    if session.shrink_arena == Some(true) && session.arena != Some(false) {
        options.set(SHRINK_ARENA.0, SHRINK_ARENA.1)?;
    }
    if replayed_at(settings).is_some() {
        replay::not_recorded(&mut options)?;
    }
    Ok(options)
}

/// Where tensors of a stage are whose runs its first provider is to replay.
fn replayed_at(settings: &StageSettings) -> Option<replay::Place> {
    settings.providers.first().and_then(Provider::replayed_at)
}

impl Graph {
    /// Opens a graph with a target's settings and checks it against its contract.
    pub(crate) fn open(library: &'static Library, source: Source, contract: &Contract) -> Result<Self> {
        let Source { outline, stage, precision, graph: verified, settings, profile, store, prober, recording } = source;
        let Verified { file, sha256, .. } = &verified;
        let told = |e: Error| e.context(format_args!("{stage} {}", file.path.display()));
        let usual = contract.fixed_axes(&outline);
        let inputs = outline.sizes(&usual);
        let fixed = if settings.session.fixed_shapes == Some(false) { vec![] } else { usual };
        let graph = (stage, file, sha256.as_str());
        let noted = prober.map(|prober| {
            let (sha256, settings, fixed) = (sha256.as_str(), &settings, fixed.as_slice());
            prober.pass(library, &Subject { stage, file, sha256, settings, fixed, inputs })
        });
        let noted = noted.transpose().map_err(told)?.flatten();
        let shelf = shelf(store.as_ref(), graph, &settings, &fixed, library).map_err(told)?;
        // Before it is opened: what is written from now on is noticed.
        let stamps = file.stamps();
        let with = (profile.as_deref(), shelf.as_ref());
        let (session, providers) = open_session(library, &verified, &settings, &fixed, with).map_err(told)?;
        let ports = |outlets: &[Outlet]| outlets.iter().map(Port::new).collect::<Result<Vec<_>>>();
        let mut inputs = ports(session.inputs()).map_err(told)?;
        inputs.iter_mut().for_each(|port| port.declare(&outline));
        let declared = ports(session.outputs()).map_err(told)?;
        let found = contract.check(&inputs, &declared).map_err(|e| {
            told(e.context(format_args!("is not what a {stage} looks like, or its manifest names its tensors wrongly")))
        })?;
        let values = inputs.iter().map(|port| empty_tensor(port.data_type, &[0])).collect::<Result<_>>()?;
        let options = Arc::new(run_options(&settings).map_err(|e| internal("run options", &e))?);
        let replay = replayed_at(&settings).map(|place| Replay::new(place, inputs.len()));
        let opened = Opened::not_yet(precision, sha256.clone());
        let mut graph = Self {
            stage,
            session,
            fixed,
            library,
            verified,
            settings,
            profile,
            store,
            kept: None,
            is_reshaped: true,
            values,
            inputs,
            outputs: found.into_iter().map(|index| index.map(Output::of)).collect(),
            recording,
            stamps,
            options,
            replay,
            run_time: Duration::ZERO,
            reopen_time: Duration::ZERO,
            opened,
        };
        graph.take(providers);
        graph.opened.warnings.extend(noted);
        Ok(graph)
    }

    /// Takes over what opening its session has come to.
    fn take(&mut self, Providers { used, nodes, warnings, kept }: Providers) {
        (self.opened.providers, self.opened.nodes, self.opened.warnings) = (used, nodes, warnings);
        self.opened.cached = kept.as_ref().map(|kept| kept.cached.clone());
        self.stamps.extend(kept.as_ref().and_then(cached::mapped_stamp));
        self.kept = kept;
    }

    /// What was opened, for reports.
    pub(crate) fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Refuses to go on where files that the session has mapped were written to. What happens between this and the end
    /// of a run is not noticed.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] naming the file.
    pub(crate) fn check_files(&self) -> Result<()> {
        self.stamps.iter().try_for_each(|stamp| stamp.check().map_err(|e| e.context(self.stage)))
    }

    /// Time spent inside `Session::run` since this was last asked.
    pub(crate) fn take_run_time(&mut self) -> Duration {
        std::mem::take(&mut self.run_time)
    }

    /// Time spent on opening it again for another size since this was last asked.
    pub(crate) fn take_reopen_time(&mut self) -> Duration {
        std::mem::take(&mut self.reopen_time)
    }

    /// Ends writing down where nodes ran, and says in which file that is.
    pub(crate) fn end_profile(&mut self) -> Result<PathBuf> {
        self.session.end_profiling().map(PathBuf::from).map_err(|e| internal("the end of profiling", &e))
    }

    /// The index of an input that the contract says is optional or may be asked about.
    pub(crate) fn find_input(&self, name: &str) -> Option<usize> {
        self.inputs.iter().position(|port| port.name == name)
    }

    /// The size that an input's axis is fixed to, if it is.
    pub(crate) fn fixed_size(&self, input: usize, axis: usize) -> Option<usize> {
        usize::try_from(*self.inputs[input].declared.get(axis)?).ok()
    }

    /// Whether the first axes of two inputs have the same size, as far as their names tell.
    pub(crate) fn share_first_axis(&self, input: usize, other: usize) -> bool {
        let name = |input: usize| self.inputs[input].axes.first().cloned().flatten();
        match (name(input), name(other)) {
            (Some(name), Some(other)) => name == other,
            _ => true,
        }
    }

    /// Elements of the tensor that is bound to an input.
    pub(crate) fn size(&self, input: usize) -> usize {
        self.inputs[input].shape.iter().flatten().product()
    }

    /// How many axes an input has.
    pub(crate) fn rank(&self, input: usize) -> usize {
        self.inputs[input].declared.len()
    }

    /// Gives an input its shape; allocates only where it changes.
    ///
    /// # Errors
    /// [`ErrorKind::Model`] where the graph was exported for another size.
    pub(crate) fn reshape(&mut self, input: usize, shape: &[usize]) -> Result<()> {
        let port = &self.inputs[input];
        if port.shape.as_deref() == Some(shape) {
            return Ok(());
        }
        let differs = |(&declared, &size): (&i64, &usize)| declared >= 0 && declared != size as i64;
        if port.declared.len() != shape.len() || port.declared.iter().zip(shape).any(differs) {
            return Err(Error::model(format!(
                "{}: its graph was exported for {} {:?}, asked for {shape:?}; use that size, or export \
                 it with dynamic axes",
                self.stage, port.name, port.declared
            )));
        }
        let fixed_otherwise =
            port.axes.iter().zip(shape).any(|(axis, &size)| {
                self.fixed.iter().any(|(name, fixed)| axis.as_ref() == Some(name) && *fixed != size)
            });
        if fixed_otherwise {
            self.reopen_for_any_size()?;
        }
        let port = &mut self.inputs[input];
        self.values[input] = empty_tensor(port.data_type, shape)?;
        port.shape = Some(shape.to_vec());
        self.is_reshaped = true;
        if let Some(replay) = &mut self.replay {
            replay.forget();
        }
        Ok(())
    }

    fn reopen_for_any_size(&mut self) -> Result<()> {
        let start = Instant::now();
        let Verified { file, sha256, .. } = &self.verified;
        let told = |e: Error| e.context(format_args!("{} {}", self.stage, file.path.display()));
        let graph = (self.stage, file, sha256.as_str());
        let shelf = shelf(self.store.as_ref(), graph, &self.settings, &[], self.library).map_err(told)?;
        let with = (self.profile.as_deref(), shelf.as_ref());
        let stamps = file.stamps();
        let (session, providers) =
            open_session(self.library, &self.verified, &self.settings, &[], with).map_err(told)?;
        self.stamps = stamps;
        self.fixed.clear();
        self.session = session;
        self.take(providers);
        self.reopen_time += start.elapsed();
        Ok(())
    }

    /// Writes real numbers into an input, from `offset` elements on.
    pub(crate) fn write(&mut self, input: usize, offset: usize, source: &[f32]) -> Result<()> {
        let range = offset..offset + source.len();
        match self.inputs[input].data_type {
            Type::Float32 => self.elements::<f32>(input)?[range].copy_from_slice(source),
            Type::Float16 => self.elements::<f16>(input)?[range].convert_from_f32_slice(source),
            other => return Err(self.cannot_hold(input, other)),
        }
        Ok(())
    }

    /// Writes token ids into an input.
    pub(crate) fn write_ids(&mut self, input: usize, ids: &[u32]) -> Result<()> {
        match self.inputs[input].data_type {
            Type::Int64 => copy(self.elements::<i64>(input)?, ids, i64::from),
            // The tokenizer has checked that ids lie in a vocabulary far below 2³¹.
            Type::Int32 => copy(self.elements::<i32>(input)?, ids, |id| id as i32),
            other => return Err(self.cannot_hold(input, other)),
        }
        Ok(())
    }

    /// Sets every element of an input; whole-number tensors take the nearest number.
    pub(crate) fn fill(&mut self, input: usize, value: f64) -> Result<()> {
        self.fill_part(input, 0..self.size(input), value)
    }

    /// Sets some elements of an input, as [`fill`](Self::fill) does.
    pub(crate) fn fill_part(&mut self, input: usize, part: Range<usize>, value: f64) -> Result<()> {
        match self.inputs[input].data_type {
            Type::Float32 => self.elements::<f32>(input)?[part].fill(value as f32),
            Type::Float64 => self.elements::<f64>(input)?[part].fill(value),
            Type::Float16 => self.elements::<f16>(input)?[part].fill(f16::from_f64(value)),
            Type::Int64 => self.elements::<i64>(input)?[part].fill(value.round_ties_even() as i64),
            Type::Int32 => self.elements::<i32>(input)?[part].fill(value.round_ties_even() as i32),
            other => return Err(self.cannot_hold(input, other)),
        }
        Ok(())
    }

    /// Runs the graph and returns its first output as f32, with its shape.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] soon after a cancellation, [`ErrorKind::Limit`] where memory ran out,
    /// [`ErrorKind::Model`] for any other failure of the graph.
    pub(crate) fn run(&mut self, cancel: &Cancel) -> Result<(&[f32], &[usize])> {
        self.record()?;
        match &self.replay {
            Some(replay) if replay.options().is_some() => self.replay(cancel)?,
            _ => self.run_once(cancel)?,
        }
        if std::mem::take(&mut self.is_reshaped) {
            self.settle();
        }
        self.output(0).ok_or_else(|| Error::new(ErrorKind::Internal, "a graph without an output"))
    }

    fn run_once(&mut self, cancel: &Cancel) -> Result<()> {
        let Self { session, values, options, outputs, run_time, stage, replay, .. } = self;
        let run = || -> Result<()> {
            let start = Instant::now();
            let result = session.run_with_options(values.as_slice(), &**options);
            *run_time += start.elapsed();
            let given = result.map_err(|e| run_failed(*stage, &e))?;
            let mut wanted = outputs.iter_mut().flatten();
            wanted.try_for_each(|output| output.read(&given[output.index])).map_err(|e| run_failed(*stage, &e))
        };
        cancel.during(options, run)??;
        let Some(replay) = replay else { return Ok(()) };
        let given: Vec<_> = outputs.iter().flatten().map(|output| (output.index, output.shape.as_slice())).collect();
        replay.bind(session, values, &given)
    }

    fn replay(&mut self, cancel: &Cancel) -> Result<()> {
        let Self { session, values, outputs, run_time, stage, replay, .. } = self;
        let Some(replay) = replay else { return Ok(()) };
        let Some(options) = replay.options().cloned() else { return Ok(()) };
        let run = || -> ort::Result<()> {
            let start = Instant::now();
            let result = replay.run(session, values);
            *run_time += start.elapsed();
            let given = result?;
            for output in outputs.iter_mut().flatten() {
                let (_, _, value) = given
                    .iter()
                    .find(|(index, ..)| *index == output.index)
                    .ok_or_else(|| ort::Error::new("an output is not bound"))?;
                output.read(value)?;
            }
            Ok(())
        };
        cancel.during(&options, run)?.map_err(|e| run_failed(*stage, &e))
    }

    /// What the last run gave as one of the contract's outputs, with its shape; nothing where the graph has it not.
    pub(crate) fn output(&self, place: usize) -> Option<(&[f32], &[usize])> {
        let output = self.outputs.get(place)?.as_ref()?;
        Some((&output.values, &output.shape))
    }

    /// Has the cache write down what providers have built for a new shape.
    fn settle(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        self.opened.warnings.extend(kept.settle());
        self.opened.cached = Some(kept.cached.clone());
    }

    fn elements<T: ort::value::PrimitiveTensorElementType>(&mut self, input: usize) -> Result<&mut [T]> {
        if let Some(replay) = &mut self.replay {
            replay.touch(input);
        }
        let SessionInputValue::Owned(value) = &mut self.values[input] else {
            return Err(Error::new(ErrorKind::Internal, "an input tensor is not owned"));
        };
        match value.try_extract_tensor_mut::<T>() {
            Ok((_, elements)) => Ok(elements),
            Err(e) => Err(internal("input tensor", &e)),
        }
    }

    fn cannot_hold(&self, input: usize, data_type: Type) -> Error {
        Error::new(
            ErrorKind::Internal,
            format!("{} input {} has type {data_type}", self.stage, self.inputs[input].name),
        )
    }
}

impl Port {
    fn new(outlet: &Outlet) -> Result<Self> {
        let (Some(data_type), Some(shape)) = (outlet.dtype().tensor_type(), outlet.dtype().tensor_shape()) else {
            return Err(Error::model(format!("{} is not a tensor", outlet.name())));
        };
        Ok(Self { name: outlet.name().to_owned(), data_type, declared: shape.to_vec(), axes: Vec::new(), shape: None })
    }

    /// Takes sizes and names from the file: the session knows only what it was opened for.
    fn declare(&mut self, outline: &Outline) {
        let Some(input) = outline.inputs.iter().find(|input| input.name == self.name) else { return };
        if input.sizes.len() != self.declared.len() {
            return;
        }
        self.declared = input.sizes.iter().map(onnx::Size::declared).collect();
        self.axes = input.sizes.iter().map(|size| size.name().map(str::to_owned)).collect();
    }
}

/// The entries of a graph in a cache, if there is one.
fn shelf(
    store: Option<&Arc<Store>>,
    graph: (Stage, &GraphFile, &str),
    settings: &StageSettings,
    fixed: &[(String, usize)],
    library: &Library,
) -> Result<Option<Shelf>> {
    store.map(|store| store.shelf(graph, settings, fixed, library)).transpose()
}

fn empty_tensor(data_type: Type, shape: &[usize]) -> Result<SessionInputValue<'static>> {
    let shape: Vec<_> = shape.iter().map(|&size| size as i64).collect();
    let tensor = DynTensor::new(&Allocator::default(), data_type, shape).map_err(|e| internal("input tensor", &e))?;
    Ok(tensor.into())
}

impl Output {
    fn of(index: usize) -> Self {
        Self { index, values: Vec::new(), shape: Vec::new() }
    }

    fn read<T: TensorValueTypeMarker + ?Sized>(&mut self, value: &Value<T>) -> ort::Result<()> {
        let shape = if value.dtype().tensor_type() == Some(Type::Float16) {
            let (shape, elements) = value.try_extract_tensor::<f16>()?;
            self.values.resize(elements.len(), 0.0);
            elements.convert_to_f32_slice(&mut self.values);
            shape
        } else {
            let (shape, elements) = value.try_extract_tensor::<f32>()?;
            self.values.clear();
            self.values.extend_from_slice(elements);
            shape
        };
        self.shape.clear();
        self.shape.extend(shape.iter().map(|&size| size as usize));
        Ok(())
    }
}

fn copy<T>(target: &mut [T], ids: &[u32], convert: impl Fn(u32) -> T) {
    debug_assert_eq!(target.len(), ids.len());
    for (target, &id) in target.iter_mut().zip(ids) {
        *target = convert(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_staged_graphs_are_opened_for_any_size() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut model = Model::open(&root.join("models/emoji")).unwrap();
        let mut opened = |residency: &str, session: &str, providers: &str, bytes: u64| {
            let target = Target::parse(&format!(
                "{{schema: safelight-target/1, name: t, title: T, precision: [int8], residency: {residency}, \
                 session: {{{session}}}, providers: [{providers}{{name: cpu, need: required}}]}}"
            ));
            let graph = model.stages.get_mut(&Stage::Denoiser).unwrap().graphs.get_mut(&Precision::Int8).unwrap();
            graph.bytes = bytes;
            chosen(Stage::Denoiser, &model, &target.unwrap()).unwrap().2.session.fixed_shapes
        };
        let (large, small) = (LARGE_GRAPH_BYTES, LARGE_GRAPH_BYTES - 1);
        assert_eq!(opened("staged", "", "", large), Some(false));
        assert_eq!(opened("staged", "", "", small), None);
        assert_eq!(opened("resident", "", "", large), None);
        assert_eq!(opened("staged", "fixed_shapes: true", "", large), Some(true));
        assert_eq!(opened("staged", "", "{name: xnnpack, need: optional}, ", large), None);
    }
}
