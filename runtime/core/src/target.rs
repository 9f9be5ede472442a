//! A target file (`targets/*.yaml`) → what a device has and how its graphs are to be run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{Build, Caching};
use crate::error::unknown;
use crate::machine::Detect;
use crate::probe::{Probing, When};
use crate::provider::{Keeps, Kind, Need, Options, Provider, ProviderName, Scalar};
use crate::residency::Residency;
use crate::stage::{Precision, Stage};
use crate::tiling::Tiling;
use crate::{Error, Result, catalogue, provider, target_file};

/// What a device has, and how graphs are to be run on it: a checked target file, with all that it extends.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// The file format, [`Target::SCHEMA`].
    pub(crate) schema: String,
    /// The name that requests use: the file's name without `.yaml`.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// The targets that this one extends, nearest first.
    pub extends: Vec<String>,
    /// What is worth knowing about the device.
    pub notes: Vec<String>,
    /// What the device has.
    pub board: Board,
    /// Where the facts about the device are from.
    pub sources: Vec<String>,
    /// What was measured on the device with this target; empty where nothing was.
    pub measured: Vec<Measurement>,
    /// The command that measures what is not measured yet.
    pub measure: Option<String>,
    /// Which machines [`Machine::best_target`](crate::Machine::best_target) takes this target for; without it none.
    pub detect: Option<Detect>,
    /// Execution providers, best first.
    pub(crate) providers: Vec<Provider>,
    /// Options of providers on top of those in the list.
    pub(crate) options: BTreeMap<ProviderName, Options>,
    /// Largest share of a graph, 0 to 1, that may run elsewhere than on its first provider.
    pub(crate) allow_fallback: Option<f64>,
    /// Precisions, best first; the first that a model has for a stage is used.
    pub(crate) precision: Vec<Precision>,
    /// When graphs are in memory.
    pub residency: Residency,
    /// How sessions are set up.
    pub(crate) session: Session,
    /// What single stages do differently.
    pub(crate) stages: BTreeMap<Stage, StageOverrides>,
    /// What a request may ask of this device.
    pub limits: Limits,
    /// What happens where the numbers of a comparison are too far off.
    pub verify: Verification,
    /// Whether the autoencoder works in tiles.
    pub tile: Tiling,
    /// Where what providers make of graphs is kept; without it nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Caching>,
    /// Whether graphs are tried in a process of their own before they are opened.
    pub probe: Probing,
    /// How the device is measured.
    pub bench: Measuring,
}

/// What a device has, for people who choose one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Board {
    /// Memory in GiB, as the device is sold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_gib: Option<u32>,
    /// Processor cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<u32>,
    /// The processor's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor: Option<String>,
    /// What else computes, whether a provider reaches it or not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accelerators: Vec<String>,
}

/// Something that was measured on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// What, and with which result.
    pub what: String,
    /// The command that measures it again.
    pub command: String,
}

/// How a session is set up. Absent fields leave ONNX Runtime's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Session {
    /// Threads inside one node; 0 is one per physical core.
    pub intra_threads: Option<u16>,
    /// Threads across nodes.
    pub inter_threads: Option<u16>,
    /// Whether idle threads spin; on a busy or battery-powered board they should not.
    pub spinning: Option<bool>,
    /// How far ONNX Runtime rewrites the graph while it opens it.
    pub graph_optimization: Option<GraphOptimization>,
    /// Whether graphs are opened for the model's own size and one picture, which opens and runs faster; another size
    /// or batch opens them once more. On unless it says false, or a staged graph of 256 MiB or more runs on the CPU alone and
    /// it does not say true: such a one takes less memory without.
    pub fixed_shapes: Option<bool>,
    /// Whether memory is planned ahead for fixed shapes, which takes more of it. On unless it says false, or graphs are
    /// staged and it does not say true.
    pub memory_pattern: Option<bool>,
    /// Whether CPU memory comes from an arena, which is faster and keeps what it took.
    pub arena: Option<bool>,
    /// Whether the arena gives back after each run what it took for it: resident graphs then keep their weights only, and
    /// every run takes its memory anew. Off unless it says true.
    pub shrink_arena: Option<bool>,
    /// Other session keys, from an allow-list: ONNX Runtime ignores a mistyped key in silence.
    #[cfg_attr(test, schemars(schema_with = "tests::session_keys"))]
    pub keys: BTreeMap<String, Scalar>,
}

/// How far a graph is rewritten while it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum GraphOptimization {
    /// Not at all.
    Disabled,
    /// Rewrites that keep every operator standard.
    Basic,
    /// Also fusions.
    Extended,
    /// Also layouts that suit this machine only.
    All,
}

/// What one stage does differently; what is absent is as for the other stages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StageOverrides {
    /// Execution providers, best first.
    providers: Option<Vec<Provider>>,
    /// Options of providers, by name, on top of those in the list.
    #[cfg_attr(test, schemars(schema_with = "provider::options_by_provider"))]
    options: BTreeMap<ProviderName, Options>,
    /// Largest share of its graph, 0 to 1, that may run elsewhere than on its first provider.
    #[cfg_attr(test, schemars(range(min = 0, max = 1)))]
    allow_fallback: Option<f64>,
    /// Precisions, best first.
    precision: Option<Vec<Precision>>,
    /// How its session is set up.
    session: Session,
}

/// What a request may ask of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Width × height of one picture.
    pub max_pixels: u64,
    /// Steps of one picture.
    pub max_steps: usize,
    /// Pictures of one request.
    pub max_count: usize,
    /// Pictures that go through the graphs together.
    pub max_batch: usize,
    /// Bytes of a prompt.
    pub max_prompt_bytes: usize,
    /// Bytes of one graph with its weights.
    pub max_graph_bytes: u64,
    /// Width × height of a picture or mask to begin with, before it is resized.
    pub max_input_pixels: u64,
    /// Bytes of its file.
    pub max_input_bytes: u64,
}

/// What happens where this device's numbers are too far from those that are known; see [`verify`](crate::verify).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Verification {
    /// Whether one stage after the other is tried in its next better precision, to find the one that was too coarse.
    /// Off unless it says true: it opens graphs anew for each.
    pub retry: bool,
}

/// How a device is measured; see [`sensor`](crate::sensor).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measuring {
    /// Names of the sensors whose power adds up to the device's, such as `VDD_IN`; where there are none, those that are
    /// usual.
    pub rails: Vec<String>,
    /// What they cover, for people; without it their own words.
    pub covers: Option<String>,
    /// It is waited until the device is no hotter than this, in °C, before each case; without it heat is not waited for.
    pub start_celsius: Option<f64>,
    /// Longest wait in seconds for a device to be cool and quiet.
    pub cool_down_seconds: u64,
}

impl Default for Measuring {
    fn default() -> Self {
        // MLPerf Mobile lets devices rest for 5 minutes, too.
        Self { rails: Vec::new(), covers: None, start_celsius: None, cool_down_seconds: 300 }
    }
}

impl Measuring {
    /// What a device may be no hotter than, in °C: between a cold store and what chips bear.
    const START_CELSIUS: std::ops::RangeInclusive<f64> = -20.0..=120.0;

    /// Longest wait that may be asked for, in seconds.
    const MOST_SECONDS: u64 = 24 * 60 * 60;

    fn check(&self) -> Result<()> {
        if let Some(celsius) = self.start_celsius.filter(|celsius| !Self::START_CELSIUS.contains(celsius)) {
            let (least, most) = (Self::START_CELSIUS.start(), Self::START_CELSIUS.end());
            return Err(Error::usage(format!("bench: start_celsius is {celsius}, expected {least} to {most}, in °C")));
        }
        if self.cool_down_seconds > Self::MOST_SECONDS {
            let what = format!("bench: cool_down_seconds is {}", self.cool_down_seconds);
            return Err(Error::usage(format!("{what}, expected at most {}", Self::MOST_SECONDS)));
        }
        let twice = self.rails.iter().enumerate().find(|(index, rail)| self.rails[..*index].contains(rail));
        if let Some((_, rail)) = twice {
            return Err(Error::usage(format!("bench: rails has {rail} twice, whose power would be counted twice")));
        }
        if self.rails.iter().any(String::is_empty) {
            return Err(Error::usage("bench: a rail has no name; safelight sensors lists the names of all"));
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pixels: 2048 * 2048,
            max_steps: 1000,
            max_count: 10_000,
            max_batch: 16,
            max_prompt_bytes: 16 * 1024,
            max_graph_bytes: 16 << 30,
            // The photographs of most cameras; 512 MiB while they are decoded, at most.
            max_input_pixels: 64 << 20,
            max_input_bytes: 64 << 20,
        }
    }
}

/// A target, resolved for one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageSettings {
    /// Execution providers, best first.
    pub providers: Vec<Provider>,
    /// Largest share of the graph, 0 to 1, that may run elsewhere than on the first of them; absent where any may.
    pub allow_fallback: Option<f64>,
    /// Precisions, best first.
    pub precision: Vec<Precision>,
    /// How its session is set up.
    pub session: Session,
}

impl Limits {
    fn bounds(&self) -> [u64; 8] {
        let Self { max_pixels, max_steps, max_count, max_batch, max_prompt_bytes, max_graph_bytes, .. } = *self;
        let counts = [max_steps, max_count, max_batch, max_prompt_bytes].map(|most| most as u64);
        let [steps, count, batch, prompt_bytes] = counts;
        let inputs = (self.max_input_pixels, self.max_input_bytes);
        [max_pixels, steps, count, batch, prompt_bytes, max_graph_bytes, inputs.0, inputs.1]
    }
}

impl Target {
    /// The only value of the field `schema`.
    pub const SCHEMA: &'static str = "safelight-target/1";

    /// No target's name: in requests it stands for the one that fits the machine best.
    pub const AUTO: &'static str = "auto";

    /// Reads and checks a target file, and those beside it that it extends.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) naming the file and the field: not YAML, an unknown field, provider, session
    /// key or value, a name that differs from the file's, a target to extend that is missing, extends itself or is the
    /// ninth of a chain, which is then named.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, &[])
    }

    /// The same, where targets that are extended may lie in `folders`, too.
    ///
    /// # Errors
    /// As [`Target::open`].
    pub fn open_with(path: &Path, folders: &[PathBuf]) -> Result<Self> {
        target_file::open(path, folders)
    }

    /// The same from text, for targets that do not live in a file; these cannot extend others.
    ///
    /// ```
    /// use safelight::Target;
    ///
    /// let target = Target::parse(
    ///     "schema: safelight-target/1
    /// name: toy
    /// title: A toy with two cores
    /// measured: false
    /// measure: generate an apple
    /// providers: [{ name: cpu, need: required }]
    /// precision: [int8, fp16]
    /// residency: staged
    /// session: { intra_threads: 2, spinning: false }
    /// limits: { max_steps: 8 }
    /// ",
    /// )?;
    /// assert_eq!(target.limits.max_steps, 8);
    /// # Ok::<(), safelight::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Target::open`], without the file.
    pub fn parse(text: &str) -> Result<Self> {
        target_file::parse(text)
    }

    /// What holds for one stage: the target's own settings with the stage's overrides on top.
    pub fn stage(&self, stage: Stage) -> StageSettings {
        let mut settings = StageSettings {
            providers: self.providers.clone(),
            allow_fallback: self.allow_fallback,
            precision: self.precision.clone(),
            session: self.session.clone(),
        };
        let overrides = self.stages.get(&stage);
        if let Some(StageOverrides { providers, allow_fallback, precision, session, .. }) = overrides {
            settings.session.override_with(session);
            settings.allow_fallback = allow_fallback.or(settings.allow_fallback);
            settings.providers = providers.clone().unwrap_or(settings.providers);
            settings.precision = precision.clone().unwrap_or(settings.precision);
        }
        set_options(&mut settings.providers, &self.options);
        if let Some(overrides) = overrides {
            set_options(&mut settings.providers, &overrides.options);
        }
        if self.residency == Residency::Staged {
            // The plan is made in the first run and takes one block more, beside what that run took.
            settings.session.memory_pattern.get_or_insert(false);
        }
        settings
    }

    /// The same target with other precisions, best first, for every stage.
    pub fn with_precision(mut self, precision: Vec<Precision>) -> Self {
        self.precision = precision;
        for overrides in self.stages.values_mut() {
            overrides.precision = None;
        }
        self
    }

    /// The same target with other precisions, best first, for one stage.
    pub fn with_stage_precision(mut self, stage: Stage, precision: Vec<Precision>) -> Self {
        self.stages.entry(stage).or_default().precision = Some(precision);
        self
    }

    /// The same target with the CPU as its only provider, for every stage: what any other is compared with.
    pub fn on_cpu(mut self) -> Self {
        self.providers = vec![Provider::plain(ProviderName::CPU, Need::Required)];
        // ONNX Runtime refuses this key where the CPU is asked for by name.
        self.session.keys.remove(NO_CPU_FALLBACK);
        self.options.clear();
        self.allow_fallback = None;
        for overrides in self.stages.values_mut() {
            overrides.providers = None;
            overrides.options.clear();
            overrides.allow_fallback = None;
            overrides.session.keys.remove(NO_CPU_FALLBACK);
        }
        self
    }

    /// The same target with graphs in memory at other times.
    pub fn with_residency(mut self, residency: Residency) -> Self {
        self.residency = residency;
        self
    }

    /// The same target, keeping what its providers make of graphs in `folder`, whether it had a cache or not.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) where the folder is not absolute, or a provider is told to keep its work
    /// elsewhere.
    pub fn with_cache(mut self, folder: &Path) -> Result<Self> {
        self.cache.get_or_insert_default().folder = Some(folder.to_path_buf());
        self.check_cache()?;
        Ok(self)
    }

    /// The same target, whose graphs are tried by `program`, a `safelight` executable, before they are opened, as often
    /// as the target says. What has passed is remembered below `folder`; without one it is tried each time.
    pub fn with_probe(mut self, program: &Path, folder: Option<&Path>) -> Self {
        self.probe.program = Some(program.to_path_buf());
        self.probe.folder = folder.map(Path::to_path_buf);
        self
    }

    /// The same target, whose graphs are opened without having been tried.
    pub fn without_probe(mut self) -> Self {
        self.probe.when = When::Never;
        self
    }

    /// The same target, whose cache must have every entry: nothing is built.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) where it has no cache.
    pub fn with_cached_only(mut self) -> Result<Self> {
        let Some(caching) = &mut self.cache else {
            let what = format!("target {} has no cache that could hold everything", self.name);
            return Err(Error::usage(format!("{what}; add \"cache: {{}}\" to it, or give a folder with --cache")));
        };
        caching.build = Build::Never;
        Ok(self)
    }

    /// The same target with another number of threads inside a node, for every stage.
    pub fn with_threads(mut self, threads: u16) -> Self {
        self.session.intra_threads = Some(threads);
        for overrides in self.stages.values_mut() {
            overrides.session.intra_threads = None;
        }
        self
    }

    /// The same target, where every provider but the CPU may be missing: what was chosen by detection is a guess, and a
    /// warning tells which guess was wrong.
    pub fn with_optional_providers(mut self) -> Self {
        let lists = self.stages.values_mut().filter_map(|overrides| overrides.providers.as_mut());
        for provider in lists.chain([&mut self.providers]).flatten() {
            if provider.name != ProviderName::CPU {
                provider.need = Need::Optional;
            }
        }
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.schema != Self::SCHEMA {
            return Err(Error::usage(format!("schema is \"{}\", expected \"{}\"", self.schema, Self::SCHEMA)));
        }
        if self.name == Self::AUTO {
            return Err(Error::usage(
                "name is \"auto\", which stands for the target that fits a machine; choose another",
            ));
        }
        check_lists(&self.providers, &self.precision, &self.session)?;
        let all = self.stages.values().filter_map(|overrides| overrides.providers.as_ref()).chain([&self.providers]);
        check_option_map(&self.options, all.flatten())?;
        let shares = self.stages.values().map(|overrides| overrides.allow_fallback).chain([self.allow_fallback]);
        if let Some(share) = shares.flatten().find(|share| !(0.0..=1.0).contains(share)) {
            return Err(Error::usage(format!("allow_fallback: {share} is no share, expected 0 to 1, such as 0.05")));
        }
        for (stage, overrides) in &self.stages {
            let providers = overrides.providers.as_ref().unwrap_or(&self.providers);
            let precision = overrides.precision.as_ref().unwrap_or(&self.precision);
            check_lists(providers, precision, &overrides.session)
                .and_then(|()| check_option_map(&overrides.options, providers.iter()))
                .map_err(|e| e.context(format!("stages.{stage}")))?;
        }
        self.check_cache()?;
        self.probe.check()?;
        self.bench.check()?;
        if self.limits.bounds().contains(&0) {
            return Err(Error::usage("limits: a limit is 0, so that nothing could ever run"));
        }
        Ok(())
    }
}

impl Target {
    /// Refuses a cache that could not be, and providers and keys that write elsewhere what it is to hold.
    fn check_cache(&self) -> Result<()> {
        let Some(caching) = &self.cache else { return Ok(()) };
        caching.check()?;
        for stage in Stage::ALL {
            let StageSettings { providers, session, .. } = self.stage(stage);
            providers.iter().try_for_each(Provider::check_keeping)?;
            let keeps_contexts = providers.iter().any(|provider| provider.name.keeps() == Keeps::Context);
            let mut keys = session.keys.keys();
            if let Some(key) = keys.find(|key| keeps_contexts && key.starts_with("ep.context_")) {
                let what = format!("session.keys: \"{key}\" is what the target's cache sets itself");
                return Err(Error::usage(format!("{what}; take one of the two away")));
            }
        }
        Ok(())
    }
}

impl Session {
    /// Takes away what ONNX Runtime refuses, or understands otherwise, where the CPU is the only provider.
    pub(crate) fn forget_other_providers(&mut self) {
        self.keys.retain(|key, _| key != NO_CPU_FALLBACK && !key.starts_with("ep."));
    }

    /// Whether what a run takes stays with the session.
    pub(crate) fn keeps_working_memory(&self) -> bool {
        self.arena != Some(false) && self.shrink_arena != Some(true)
    }

    /// Most threads of one kind; each of a model's sessions starts its own.
    pub const MAX_THREADS: u16 = 1024;

    /// Takes from another what it says.
    pub(crate) fn override_with(&mut self, other: &Self) {
        let Self {
            intra_threads,
            inter_threads,
            spinning,
            graph_optimization,
            fixed_shapes,
            memory_pattern,
            arena,
            shrink_arena,
            keys,
        } = other;
        self.intra_threads = intra_threads.or(self.intra_threads);
        self.inter_threads = inter_threads.or(self.inter_threads);
        self.spinning = spinning.or(self.spinning);
        self.graph_optimization = graph_optimization.or(self.graph_optimization);
        self.fixed_shapes = fixed_shapes.or(self.fixed_shapes);
        self.memory_pattern = memory_pattern.or(self.memory_pattern);
        self.arena = arena.or(self.arena);
        self.shrink_arena = shrink_arena.or(self.shrink_arena);
        self.keys.extend(keys.clone());
    }
}

impl StageOverrides {
    /// Takes from another what it says.
    pub(crate) fn override_with(&mut self, other: Self) {
        self.session.override_with(&other.session);
        // Of options that another list's providers had, those stay whose providers this list has.
        if let Some(providers) = &other.providers {
            keep_options(&mut self.options, providers.iter());
        }
        merge_options(&mut self.options, other.options);
        self.allow_fallback = other.allow_fallback.or(self.allow_fallback);
        self.providers = other.providers.or(self.providers.take());
        self.precision = other.precision.or(self.precision.take());
    }
}

/// Puts options on top of those that a list's providers have.
fn set_options(providers: &mut [Provider], options: &BTreeMap<ProviderName, Options>) {
    for provider in providers {
        provider.options.extend(options.get(&provider.name).cloned().unwrap_or_default());
    }
}

/// Puts options on top of others.
pub(crate) fn merge_options(options: &mut BTreeMap<ProviderName, Options>, over: BTreeMap<ProviderName, Options>) {
    for (provider, more) in over {
        options.entry(provider).or_default().extend(more);
    }
}

/// Drops the options of providers that are in no list any more.
pub(crate) fn keep_options<'a>(
    options: &mut BTreeMap<ProviderName, Options>,
    providers: impl Iterator<Item = &'a Provider> + Clone,
) {
    options.retain(|name, _| providers.clone().any(|provider| provider.name == *name));
}

fn check_option_map<'a>(
    options: &BTreeMap<ProviderName, Options>,
    providers: impl Iterator<Item = &'a Provider> + Clone,
) -> Result<()> {
    for (name, options) in options {
        let Some(listed) = providers.clone().find(|provider| provider.name == *name) else {
            let listed: Vec<_> = providers.map(|provider| provider.name.as_str()).collect();
            let listed = listed.join(", ");
            return Err(Error::usage(format!("options: {name} is not among the providers, which are {listed}")));
        };
        let settings = Provider { options: options.clone(), ..listed.clone() };
        provider::check_options(&settings).map_err(|e| e.context("options"))?;
    }
    Ok(())
}

fn check_lists(providers: &[Provider], precision: &[Precision], session: &Session) -> Result<()> {
    if providers.is_empty() {
        return Err(Error::usage("providers: the list is empty, expected at least one, such as cpu"));
    }
    if precision.is_empty() {
        return Err(Error::usage("precision: the list is empty, expected some of int8, fp16, fp32"));
    }
    for provider in providers {
        provider::check(provider).map_err(|e| e.context("providers"))?;
    }
    for threads in [session.intra_threads, session.inter_threads].into_iter().flatten() {
        if threads > Session::MAX_THREADS {
            return Err(Error::usage(format!("session: {threads} threads, expected at most {}", Session::MAX_THREADS)));
        }
    }
    session.keys.iter().try_for_each(|(key, value)| check_session_key(key, value))
}

/// ONNX Runtime reads these numbers as a C `int`.
const COUNT: Kind = Kind::Whole(0, i32::MAX as i64);

/// With this key a session fails where a node would run on the CPU instead.
const NO_CPU_FALLBACK: &str = "session.disable_cpu_ep_fallback";

/// Session keys that a target may set, beside the fields of [`Session`]. Names and meanings: ONNX Runtime's
/// `onnxruntime_session_options_config_keys.h`.
const SESSION_KEYS: &[(&str, Kind)] = &[
    ("ep.context_embed_mode", Kind::Flag),
    ("ep.context_enable", Kind::Flag),
    ("mlas.disable_kleidiai", Kind::Flag),
    ("mlas.enable_gemm_fastmath_arm64_bfloat16", Kind::Flag),
    ("optimization.constant_folding_max_output_size_in_bytes", COUNT),
    ("optimization.disable_specified_optimizers", Kind::Text),
    ("optimization.enable_cast_chain_elimination", Kind::Flag),
    ("optimization.enable_gelu_approximation", Kind::Flag),
    (NO_CPU_FALLBACK, Kind::Flag),
    ("session.disable_double_qdq_remover", Kind::Flag),
    ("session.disable_model_compile", Kind::Flag),
    ("session.disable_prepacking", Kind::Flag),
    ("session.disable_qdq_constant_folding", Kind::Flag),
    ("session.disable_quant_qdq", Kind::Flag),
    ("session.dynamic_block_base", COUNT),
    ("session.enable_quant_qdq_cleanup", Kind::Flag),
    ("session.force_spinning_stop", Kind::Flag),
    ("session.inter_op.allow_spinning", Kind::Flag),
    ("session.intra_op.spin_backoff_max", COUNT),
    ("session.intra_op.spin_duration_us", COUNT),
    ("session.intra_op_thread_affinities", Kind::Text),
    ("session.qdqisint8allowed", Kind::Flag),
    ("session.set_denormal_as_zero", Kind::Flag),
    ("session.use_deterministic_compute", Kind::Flag),
    ("session.use_device_allocator_for_initializers", Kind::Flag),
    ("session.use_env_allocators", Kind::Flag),
    ("session.x64quantprecision", Kind::Flag),
];

fn check_session_key(key: &str, value: &Scalar) -> Result<()> {
    let Some((_, kind)) = SESSION_KEYS.iter().find(|(name, _)| *name == key) else {
        let told = unknown("key", key, SESSION_KEYS.iter().map(|(name, _)| name));
        return Err(Error::usage(format!("session.keys: {told}")));
    };
    kind.write(value).map(drop).map_err(|told| Error::usage(format!("session.keys: \"{key}\" {told}")))
}

/// Finds `NAME.yaml` in the first of `folders` that has it, or takes a path as it is.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage) listing the targets that are there.
pub fn find_target(name: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    if name.ends_with(".yaml") || name.contains(std::path::MAIN_SEPARATOR) {
        return Ok(PathBuf::from(name));
    }
    find_by_name(name, folders).map_err(|e| Error::usage(format!("{e}; a path to a .yaml file works too")))
}

/// The first `NAME.yaml` of the folders.
pub(crate) fn find_by_name(name: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    let file = format!("{name}.yaml");
    if let Some(path) = folders.iter().map(|folder| folder.join(&file)).find(|path| path.is_file()) {
        return Ok(path);
    }
    let targets = list_targets(folders);
    let known = targets.iter().filter_map(|path| Some(path.file_stem()?.display().to_string()));
    Err(Error::usage(catalogue::missing("target", name, known, folders)))
}

/// Every `*.yaml` in the given folders, sorted; folders that are not there count as empty.
pub fn list_targets(folders: &[PathBuf]) -> Vec<PathBuf> {
    catalogue::list(folders, |path| path.extension().is_some_and(|extension| extension == "yaml"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ErrorKind;

    const MINIMAL: &str = "schema: safelight-target/1\nname: t\ntitle: T\nprecision: [int8, fp32]\n\
                           providers: [{name: cpu, need: required}]\n";

    fn fault(extra: &str) -> String {
        Target::parse(&format!("{MINIMAL}{extra}")).unwrap_err().to_string()
    }

    #[test]
    fn a_minimal_target_is_enough() {
        let target = Target::parse(MINIMAL).unwrap();
        let stage = target.stage(Stage::Denoiser);
        assert_eq!(stage.precision, [Precision::Int8, Precision::Fp32]);
        assert_eq!(stage.session, Session::default());
    }

    #[test]
    fn a_stage_overrides_only_what_it_names() {
        let target = Target::parse(&format!(
            "{MINIMAL}session: {{intra_threads: 4, arena: false, keys: {{session.dynamic_block_base: 4}}}}\n\
             stages:\n  decoder:\n    precision: [fp16]\n    session: {{intra_threads: 1, keys: {{session.disable_prepacking: true}}}}\n"
        ))
        .unwrap();
        let decoder = target.stage(Stage::Decoder);
        assert_eq!(decoder.precision, [Precision::Fp16]);
        assert_eq!(decoder.session.intra_threads, Some(1));
        assert_eq!(decoder.session.arena, Some(false));
        assert_eq!(decoder.session.keys.len(), 2);
        assert_eq!(target.stage(Stage::Denoiser).session.intra_threads, Some(4));
        assert_eq!(target.clone().with_threads(2).stage(Stage::Decoder).session.intra_threads, Some(2));
        assert_eq!(target.with_precision(vec![Precision::Fp32]).stage(Stage::Decoder).precision, [Precision::Fp32]);
    }

    /// Where memory is scarce none is taken for plans, unless the target insists.
    #[test]
    fn staged_graphs_plan_no_memory_ahead() {
        let planned = |extra: &str| {
            let target = Target::parse(&format!("{MINIMAL}{extra}")).unwrap();
            [Stage::Denoiser, Stage::Decoder].map(|stage| target.stage(stage).session.memory_pattern)
        };
        assert_eq!(planned("residency: resident\n"), [None, None]);
        assert_eq!(planned("residency: staged\n"), [Some(false), Some(false)]);
        assert_eq!(planned("residency: staged\nsession: {memory_pattern: true}\n"), [Some(true), Some(true)]);
        let decoder = "residency: staged\nstages: {decoder: {session: {memory_pattern: true}}}\n";
        assert_eq!(planned(decoder), [Some(false), Some(true)]);
    }

    #[test]
    fn one_stage_can_be_given_another_precision_and_all_the_cpu() {
        let target = Target::parse(&format!(
            "{}session: {{keys: {{session.disable_cpu_ep_fallback: true}}}}\nstages: {{decoder: {{session: {{arena: false}},\
             providers: [{{name: openvino, need: required}}]}}}}\n",
            MINIMAL.replace("name: cpu", "name: cuda")
        ))
        .unwrap();
        let target = target.with_stage_precision(Stage::Decoder, vec![Precision::Fp32]).on_cpu();
        for stage in Stage::TEXT_TO_IMAGE {
            let settings = target.stage(stage);
            let names: Vec<_> = settings.providers.iter().map(|provider| provider.name).collect();
            assert_eq!(names, [ProviderName::CPU], "{stage}");
            assert!(settings.session.keys.is_empty(), "{stage}");
        }
        assert_eq!(target.stage(Stage::Decoder).precision, [Precision::Fp32]);
        assert_eq!(target.stage(Stage::Decoder).session.arena, Some(false));
        assert_eq!(target.stage(Stage::Denoiser).precision, [Precision::Int8, Precision::Fp32]);
        assert!(!target.verify.retry);
    }

    #[test]
    fn faults_name_the_field_and_what_was_expected() {
        let cases = [
            ("colour: red\n", "unknown field `colour`"),
            ("session: {spining: true}\n", "unknown field `spining`"),
            (
                "session: {keys: {session.intra_op.allow_spining: 1}}\n",
                "unknown key \"session.intra_op.allow_spining\"",
            ),
            ("session: {keys: {session.disable_prepacking: banana}}\n", "expected true or false"),
            ("session: {keys: {session.dynamic_block_base: -1}}\n", "expected a whole number from 0"),
            ("session: {keys: {session.dynamic_block_base: 2147483648}}\n", "expected a whole number from 0"),
            ("session: {intra_threads: -1}\n", "intra_threads"),
            ("session: {graph_optimization: max}\n", "unknown variant `max`"),
            ("stages: {unet: {}}\n", "unknown variant `unet`"),
            ("stages: {decoder: {precision: []}}\n", "stages.decoder: precision: the list is empty"),
            ("stages: {decoder: {providers: [{name: warp, need: required}]}}\n", "unknown provider \"warp\""),
            ("session: {intra_threads: 1025}\n", "expected at most 1024"),
            ("limits: {max_steps: 0}\n", "a limit is 0"),
            ("verify: {retries: 1}\n", "unknown field `retries`"),
            ("allow_fallback: 1.5\n", "1.5 is no share, expected 0 to 1"),
            ("stages: {decoder: {allow_fallback: -0.1}}\n", "allow_fallback: -0.1 is no share"),
            ("limits: {max_step: 1}\n", "did you mean \"max_steps\""),
            ("cache: {max_byte: 1}\n", "did you mean \"max_bytes\""),
            ("cache: {build: newer}\n", "did you mean \"never\""),
            ("cache: true\n", "expected false, or what it is instead"),
            ("detect: {cpu: [avx512_vnni]}\n", "did you mean \"avx512vnni\""),
            ("session: {graph_optimization: al}\n", "did you mean \"all\""),
            ("session: {keys: {session.disable_prepaking: 1}}\n", "did you mean \"session.disable_prepacking\""),
            ("cache: {max_bytes: 0}\n", "cache: max_bytes is 0"),
            ("cache: {folder: here}\n", "cache: folder here is not absolute; expected one such as"),
            ("cache: {build: sometimes}\n", "unknown variant `sometimes`"),
            ("cache: {bytes: 1}\n", "unknown field `bytes`"),
            ("probe: {when: twice}\n", "unknown variant `twice`"),
            ("probe: {seconds: 1}\n", "unknown field `seconds`"),
            ("probe: {max_seconds: 0}\n", "probe: max_seconds is 0, so that no graph could pass; say when: never"),
            ("probe: {max_bytes: 1000}\n", "probe: max_bytes is 1000, expected at least 67108864"),
            (
                "cache: {}\nstages: {decoder: {providers: [{name: openvino, need: required, options: {cache_dir: x}}]}}\n",
                "openvino option \"cache_dir\" is what the target's cache sets itself",
            ),
            (
                "cache: {}\nstages: {decoder: {providers: [{name: qnn, need: required}],\
                 session: {keys: {ep.context_enable: true}}}}\n",
                "\"ep.context_enable\" is what the target's cache sets itself",
            ),
            ("name: again\n", "duplicate"),
        ];
        for (extra, expected) in cases {
            let fault = fault(extra);
            assert!(fault.contains(expected), "{extra:?}: {fault}");
        }
    }

    #[test]
    fn a_cache_can_be_switched_on_and_forbidden_to_build() {
        let folder = std::env::temp_dir();
        let plain = Target::parse(MINIMAL).unwrap();
        assert!(plain.cache.is_none());
        let fault = plain.clone().with_cached_only().unwrap_err().to_string();
        assert!(fault.contains("add \"cache: {}\" to it"), "{fault}");
        let target = plain.clone().with_cache(&folder).unwrap().with_cached_only().unwrap();
        let expected = Caching { build: Build::Never, folder: Some(folder), ..Caching::default() };
        assert_eq!(target.cache, Some(expected));
        assert!(plain.with_cache(Path::new("here")).is_err());
    }

    #[test]
    fn a_guessed_target_can_do_without_all_but_the_cpu() {
        let text = MINIMAL.replace("[{name: cpu", "[{name: cuda, need: required}, {name: cpu");
        let more = "stages: {decoder: {providers: [{name: coreml, need: required}]}}\n";
        let target = Target::parse(&format!("{text}{more}")).unwrap().with_optional_providers();
        let needs = |stage| target.stage(stage).providers.iter().map(|provider| provider.need).collect::<Vec<_>>();
        assert_eq!(needs(Stage::Denoiser), [Need::Optional, Need::Required]);
        assert_eq!(needs(Stage::Decoder), [Need::Optional]);
    }

    /// The allow-list as a schema, for editors to complete from.
    pub(crate) fn session_keys(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let keys: BTreeMap<_, _> = SESSION_KEYS.iter().map(|(key, kind)| (key, kind.schema())).collect();
        schemars::json_schema!({ "type": "object", "properties": keys, "additionalProperties": false })
    }

    #[test]
    fn another_schema_is_refused() {
        let error = Target::parse(&MINIMAL.replace("target/1", "target/2")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("safelight-target/1"), "{error}");
    }
}
