//! Target files as they are written: one may extend another, and says only what is different.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::cache::{Build, Caching};
use crate::machine::Detect;
use crate::probe::{Probing, When};
use crate::provider::{Options, Provider, ProviderName};
use crate::residency::Residency;
use crate::stage::{Precision, Stage};
use crate::target::{
    Board, Limits, Measurement, Measuring, Session, StageOverrides, Target, Verification, find_by_name, keep_options,
    merge_options,
};
use crate::tiling::Tiling;
use crate::{Error, ErrorKind, Result, yaml};

/// A target: what a device has, and how graphs are to be run on it.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "safelight target", transform = schema::whole_unless_it_extends))]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetFile {
    /// The file format.
    #[cfg_attr(test, schemars(extend("const" = Target::SCHEMA)))]
    schema: String,
    /// The name that requests use: the file's name without `.yaml`.
    pub(crate) name: String,
    /// One line for people.
    title: String,
    /// Another target, by name, whose providers, precision, residency, session, stages, limits, cache, probe and bench hold where this
    /// file does not say otherwise: maps are merged key by key, lists are replaced.
    extends: Option<String>,
    /// What is worth knowing about the device.
    #[serde(default)]
    notes: Vec<String>,
    /// What the device has.
    #[serde(default)]
    board: Board,
    /// Where the facts in this file are from.
    #[serde(default)]
    sources: Vec<String>,
    /// What was measured on the device with this file; false where nothing was.
    measured: Option<FalseOr<Vec<Measurement>>>,
    /// The command that measures what is not measured yet.
    measure: Option<String>,
    /// Which machines `--target auto` takes this target for; without it none.
    detect: Option<Detect>,
    /// Execution providers, best first.
    providers: Option<Vec<Provider>>,
    /// Options of providers, by name, on top of those in the list: so that a file that extends another can change one
    /// option and leave the list as it is.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "crate::provider::options_by_provider"))]
    options: BTreeMap<ProviderName, Options>,
    /// Largest share of a graph that may run elsewhere than on its first provider, 0 to 1: of its nodes when it is opened
    /// (ONNX Runtime 1.24 or newer tells), of its time in `safelight place`. Where that provider is required, more is an
    /// error. Without it any share may, but never all.
    #[cfg_attr(test, schemars(range(min = 0, max = 1)))]
    allow_fallback: Option<f64>,
    /// Precisions, best first; the first that a model has for a stage is used.
    precision: Option<Vec<Precision>>,
    /// When graphs are in memory: `resident`, all of them all the time, which is usual, or `staged`, each while its stage
    /// works, which needs less memory and more time.
    residency: Option<Residency>,
    /// How sessions are set up.
    #[serde(default)]
    session: Session,
    /// What single stages do differently.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::every_stage"))]
    stages: BTreeMap<Stage, StageOverrides>,
    /// What a request may ask of this device.
    #[serde(default)]
    limits: LimitOverrides,
    /// Whether the autoencoder works in tiles, which takes less memory and changes the picture a little: `auto`, where its
    /// graph has one size or the whole would take more memory than there is, `off`, or the pixels of a tile, such as 512.
    tile: Option<Tiling>,
    /// What happens where the numbers of a comparison are too far off.
    verify: Option<Verification>,
    /// Where what providers make of graphs is kept, for the next process: engines, compiled models, optimised graphs.
    /// `{}` is enough; without it, and without --cache, nothing is kept. `false` ends that of the target that is extended.
    cache: Option<FalseOr<CacheOverrides>>,
    /// Whether graphs are tried in a process of their own before they are opened, where there is a program that does it:
    /// the command has itself, an application names one.
    #[serde(default)]
    probe: ProbeOverrides,
    /// How the device is measured: which sensors' power is the device's, and how cool it is before.
    #[serde(default)]
    bench: MeasuringOverrides,
}

/// Where and how much is kept; what is absent is as in the target that is extended, or as usual.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
struct CacheOverrides {
    /// What happens where an entry is missing: `when_missing`, which is usual, builds it, which may take minutes; `never`
    /// makes it an error, for devices that are warmed before they are deployed.
    build: Option<Build>,
    /// Bytes that all entries of the folder take together, 8 GiB unless it says otherwise; the least recently used make
    /// room.
    max_bytes: Option<u64>,
    /// The folder, absolute; `$SAFELIGHT_CACHE` or the user's folder for caches unless it says otherwise.
    folder: Option<PathBuf>,
}

/// When and with what limits graphs are tried; what is absent is as in the target that is extended, or as usual.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
struct ProbeOverrides {
    /// `once`, which is usual, tries a graph before it is first opened with a library and settings; `always` each time;
    /// `never` opens it right away.
    when: Option<When>,
    /// Seconds that one graph may take, 300 unless it says otherwise.
    max_seconds: Option<u64>,
    /// Bytes that one graph may take, where that is less than machine, container and board have.
    max_bytes: Option<u64>,
}

/// How a device is measured; what is absent is as in the target that is extended, or as usual.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
struct MeasuringOverrides {
    /// Names of the sensors whose power adds up to the device's, such as `VDD_IN`; none may contain another. Without them
    /// a Jetson's whole module, else processor packages and boards of graphics processors, else the battery.
    rails: Option<Vec<String>>,
    /// What they cover, for people.
    covers: Option<String>,
    /// It is waited until the device is no hotter than this, in °C, before each case.
    start_celsius: Option<f64>,
    /// Longest wait in seconds for a device to be cool and quiet, 300 unless it says otherwise; 0 does not wait.
    cool_down_seconds: Option<u64>,
}

/// What a request may ask of a device; what is absent is as in the target that is extended, or as usual.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
struct LimitOverrides {
    /// Width × height of one picture.
    max_pixels: Option<u64>,
    /// Steps of one picture.
    max_steps: Option<usize>,
    /// Pictures of one request.
    max_count: Option<usize>,
    /// Pictures that go through the graphs together.
    max_batch: Option<usize>,
    /// Bytes of a prompt.
    max_prompt_bytes: Option<usize>,
    /// Bytes of one graph with its weights.
    max_graph_bytes: Option<u64>,
    /// Width × height of a picture or mask to begin with, before it is resized.
    max_input_pixels: Option<u64>,
    /// Bytes of its file.
    max_input_bytes: Option<u64>,
}

/// Most files that extend one another.
const MAX_DEPTH: usize = 8;

/// Reads a target file and those that it extends, which lie beside it or in `folders`.
pub(crate) fn open(path: &Path, folders: &[PathBuf]) -> Result<Target> {
    open_link(path, folders, &mut Vec::new())
}

/// Parses the text of a target that extends no other.
pub(crate) fn parse(text: &str) -> Result<Target> {
    let file: TargetFile = yaml::parse(text).map_err(|e| Error::usage(yaml::message(&e)).because(e))?;
    if let Some(base) = &file.extends {
        let what = format!("extends \"{base}\", but text is in no folder where that could be");
        return Err(Error::usage(format!("{what}; open the target by its path, or write everything out")));
    }
    file.over(None)
}

/// Opens one file of a chain; `chain` are the paths of those that led here.
fn open_link(path: &Path, folders: &[PathBuf], chain: &mut Vec<PathBuf>) -> Result<Target> {
    let told = |e: Error, chain: &[PathBuf]| match chain {
        [] => e,
        [first, ..] => e.context(format!("{}: extends: {}", first.display(), names(chain))),
    };
    let in_file = |e: Error| e.context(path.display());
    let file: TargetFile = yaml::read(path, ErrorKind::Usage).map_err(|e| told(e, chain))?;
    let base = match &file.extends {
        None => None,
        Some(name) => {
            chain.push(path.to_path_buf());
            let base = find_base(name, path, folders, chain).map_err(|e| told(e, chain))?;
            let base = open_link(&base, folders, chain)?;
            chain.pop();
            Some(base)
        }
    };
    let target = file.over(base).map_err(|e| told(in_file(e), chain))?;
    let stem = path.file_stem().unwrap_or_default();
    if stem != target.name.as_str() {
        let what = format!("name is \"{}\", expected the file's own name \"{}\"", target.name, stem.display());
        return Err(told(in_file(Error::usage(what)), chain));
    }
    Ok(target)
}

/// Where the target that a file extends is: beside it, or in `folders`.
fn find_base(name: &str, path: &Path, folders: &[PathBuf], chain: &[PathBuf]) -> Result<PathBuf> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || name.ends_with(".yaml") || !name.chars().all(is_plain) {
        let what = format!("\"{name}\" is not the name of a target; expected one such as generic-cpu");
        return Err(Error::usage(format!("{what}, without folder and .yaml, of a file beside this one")));
    }
    let beside = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let folders: Vec<_> = [beside].into_iter().chain(folders.iter().cloned()).collect();
    let found = find_by_name(name, &folders)?;
    let same = |other: &PathBuf| other.canonicalize().ok() == found.canonicalize().ok();
    if chain.iter().any(same) {
        return Err(Error::usage(format!("\"{name}\" extends itself; take one extends of the circle away")));
    }
    if chain.len() >= MAX_DEPTH {
        let what = format!("more than {MAX_DEPTH} files extend one another with \"{name}\"");
        return Err(Error::usage(format!("{what}; extend one that is nearer to it")));
    }
    Ok(found)
}

/// `a → b → c` of the files of a chain.
fn names(chain: &[PathBuf]) -> String {
    let names = chain.iter().map(|path| path.file_stem().unwrap_or_default().display().to_string());
    names.collect::<Vec<_>>().join(" → ")
}

impl TargetFile {
    /// The target that this file makes of another: how graphs are run is taken over where the file does not say
    /// otherwise. What is told of the device is the file's own: another device's sources and measurements say nothing
    /// of this one.
    fn over(self, base: Option<Target>) -> Result<Target> {
        let extends = match (self.extends, &base) {
            (Some(name), Some(base)) => [name].into_iter().chain(base.extends.iter().cloned()).collect(),
            _ => Vec::new(),
        };
        let (mut session, mut stages) = (Session::default(), BTreeMap::new());
        let (mut providers, mut precision, mut limits) = (None, None, Limits::default());
        let (mut options, mut allow_fallback) = (BTreeMap::new(), None);
        let (mut verify, mut residency) = (Verification::default(), Residency::default());
        let (mut cache, mut tile, mut probe) = (None, Tiling::default(), Probing::default());
        let mut bench = Measuring::default();
        if let Some(base) = base {
            (cache, tile, probe, bench) = (base.cache, base.tile, base.probe, base.bench);
            (session, stages, limits, verify) = (base.session, base.stages, base.limits, base.verify);
            (providers, precision, residency) = (Some(base.providers), Some(base.precision), base.residency);
            (options, allow_fallback) = (base.options, base.allow_fallback);
        }
        if let Some(providers) = &self.providers {
            keep_options(&mut options, providers.iter());
        }
        merge_options(&mut options, self.options);
        session.override_with(&self.session);
        for (stage, overrides) in self.stages {
            let entry: &mut StageOverrides = stages.entry(stage).or_default();
            entry.override_with(overrides);
        }
        let target = Target {
            schema: self.schema,
            name: self.name,
            title: self.title,
            extends,
            notes: self.notes,
            board: self.board,
            sources: self.sources,
            measured: self.measured.and_then(|FalseOr(measured)| measured).unwrap_or_default(),
            measure: self.measure,
            detect: self.detect,
            providers: self.providers.or(providers).ok_or_else(|| missing("providers"))?,
            options,
            allow_fallback: self.allow_fallback.or(allow_fallback),
            precision: self.precision.or(precision).ok_or_else(|| missing("precision"))?,
            residency: self.residency.unwrap_or(residency),
            session,
            stages,
            limits: self.limits.over(limits),
            tile: self.tile.unwrap_or(tile),
            verify: self.verify.unwrap_or(verify),
            cache: match self.cache {
                Some(FalseOr(own)) => own.map(|own| own.over(cache.unwrap_or_default())),
                None => cache,
            },
            probe: self.probe.over(probe),
            bench: self.bench.over(bench),
        };
        target.check()?;
        Ok(target)
    }
}

fn missing(field: &str) -> Error {
    Error::usage(format!("missing field `{field}`; a target that extends no other needs it"))
}

impl CacheOverrides {
    fn over(self, base: Caching) -> Caching {
        Caching {
            build: self.build.unwrap_or(base.build),
            max_bytes: self.max_bytes.unwrap_or(base.max_bytes),
            folder: self.folder.or(base.folder),
        }
    }
}

impl ProbeOverrides {
    fn over(&self, base: Probing) -> Probing {
        Probing {
            when: self.when.unwrap_or(base.when),
            max_seconds: self.max_seconds.unwrap_or(base.max_seconds),
            max_bytes: self.max_bytes.or(base.max_bytes),
            ..base
        }
    }
}

impl MeasuringOverrides {
    /// Other rails cover something else: what the extended target says of its own does not hold for them.
    fn over(self, base: Measuring) -> Measuring {
        let covers = if self.rails.is_some() { None } else { base.covers };
        Measuring {
            rails: self.rails.unwrap_or(base.rails),
            covers: self.covers.or(covers),
            start_celsius: self.start_celsius.or(base.start_celsius),
            cool_down_seconds: self.cool_down_seconds.unwrap_or(base.cool_down_seconds),
        }
    }
}

impl LimitOverrides {
    fn over(&self, base: Limits) -> Limits {
        Limits {
            max_pixels: self.max_pixels.unwrap_or(base.max_pixels),
            max_steps: self.max_steps.unwrap_or(base.max_steps),
            max_count: self.max_count.unwrap_or(base.max_count),
            max_batch: self.max_batch.unwrap_or(base.max_batch),
            max_prompt_bytes: self.max_prompt_bytes.unwrap_or(base.max_prompt_bytes),
            max_graph_bytes: self.max_graph_bytes.unwrap_or(base.max_graph_bytes),
            max_input_pixels: self.max_input_pixels.unwrap_or(base.max_input_pixels),
            max_input_bytes: self.max_input_bytes.unwrap_or(base.max_input_bytes),
        }
    }
}

/// `false`, or what it says instead.
#[derive(Debug)]
struct FalseOr<T>(Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for FalseOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FalseOrThat<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for FalseOrThat<T> {
            type Value = FalseOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("false, or what it is instead")
            }

            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
                match value {
                    false => Ok(FalseOr(None)),
                    true => Err(E::invalid_value(serde::de::Unexpected::Bool(true), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                T::deserialize(SeqAccessDeserializer::new(list)).map(Some).map(FalseOr)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Some).map(FalseOr)
            }
        }
        deserializer.deserialize_any(FalseOrThat(PhantomData))
    }
}

#[cfg(test)]
impl<T: schemars::JsonSchema> schemars::JsonSchema for FalseOr<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("false_or_{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let that = generator.subschema_for::<T>();
        schemars::json_schema!({ "anyOf": [{ "const": false }, that] })
    }
}

/// What the derived schema cannot tell, and the file that is made of it for editors.
#[cfg(test)]
pub(crate) mod schema {
    use schemars::transform::{RecursiveTransform, Transform as _};
    use schemars::{Schema, SchemaGenerator, json_schema};

    use super::*;

    pub(super) fn whole_unless_it_extends(schema: &mut Schema) {
        schema.insert(
            "anyOf".into(),
            serde_json::json!([{ "required": ["extends"] }, { "required": ["providers", "precision"] }]),
        );
    }

    pub(super) fn every_stage(generator: &mut SchemaGenerator) -> Schema {
        let overrides = generator.subschema_for::<StageOverrides>();
        let stages: BTreeMap<_, _> = Stage::ALL.map(|stage| (stage.name(), overrides.clone())).into();
        json_schema!({ "type": "object", "properties": stages, "additionalProperties": false })
    }

    #[test]
    fn the_schema_in_targets_is_that_of_the_types() {
        let mut schema = schemars::schema_for!(TargetFile);
        // What is absent is taken from the target that is extended, so that no default is always true.
        RecursiveTransform(|schema: &mut Schema| drop(schema.remove("default"))).transform(&mut schema);
        keep("targets/target.schema.json", &schema);
    }

    /// Rewrites a schema's file where SAFELIGHT_UPDATE is set; fails where it is not what the types say.
    pub(crate) fn keep(file: &str, schema: &Schema) {
        let made = serde_json::to_string_pretty(schema).unwrap() + "\n";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
        if std::env::var_os("SAFELIGHT_UPDATE").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "{file} is old: SAFELIGHT_UPDATE=1 cargo test -p safelight --lib schema");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const HEAD: &str = "schema: safelight-target/1\ntitle: T\n";
    const RUNS: &str = "precision: [int8, fp32]\nproviders: [{ name: cpu, need: required }]\n";

    /// A folder of targets, each given as its name and what follows its head.
    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(format!("{name}.yaml")), format!("{HEAD}name: {name}\n{text}")).unwrap();
        }
        folder
    }

    fn open_first(files: &[(&str, &str)]) -> Result<Target> {
        let folder = folder(files);
        open(&folder.path().join(format!("{}.yaml", files[0].0)), &[])
    }

    #[test]
    fn one_option_of_one_provider_is_changed_in_a_line() {
        let base = "precision: [fp16]\nproviders:\n- { name: tensorrt, need: optional, options: { trt_fp16_enable: true, \
                    trt_max_workspace_size: 1 } }\n- { name: cuda, need: required, options: { device_id: 1 } }\n";
        let board = "extends: base\noptions: { tensorrt: { trt_max_workspace_size: 2 } }\n\
                     stages: { decoder: { options: { tensorrt: { trt_fp16_enable: false } } } }\n";
        let target = open_first(&[("board", board), ("base", base)]).unwrap();
        let options = |stage, index: usize| {
            let options = &target.stage(stage).providers[index].options;
            options.iter().map(|(key, value)| format!("{key}={}", value.to_option())).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(options(Stage::Denoiser, 0), "trt_fp16_enable=1 trt_max_workspace_size=2");
        assert_eq!(options(Stage::Decoder, 0), "trt_fp16_enable=0 trt_max_workspace_size=2");
        assert_eq!(options(Stage::Decoder, 1), "device_id=1");

        let other = "extends: board\nproviders: [{ name: tensorrt, need: required }]\nstages: { decoder: { providers: \
                     [{ name: cuda, need: required }] } }\n";
        let target = open_first(&[("other", other), ("board", board), ("base", base)]).unwrap();
        let providers = &target.stage(Stage::Decoder).providers;
        assert!(providers.len() == 1 && providers[0].options.is_empty(), "another list has options of its own");
        assert_eq!(target.stage(Stage::Denoiser).providers[0].options.len(), 1);
    }

    #[test]
    fn an_option_of_a_provider_that_is_not_there_is_refused() {
        for (options, expected) in [
            ("options: { cuda: { device_id: 1 } }\n", "options: cuda is not among the providers, which are cpu"),
            ("options: { openvno: {} }\n", "did you mean \"openvino\""),
            ("options: { cpu: { device_id: 1 } }\n", "options: cpu has no option \"device_id\""),
            ("stages: { decoder: { options: { cuda: {} } } }\n", "stages.decoder: options: cuda is not among"),
        ] {
            let told = open_first(&[("t", &format!("{RUNS}{options}"))]).unwrap_err().to_string();
            assert!(told.contains(expected), "{options}: {told}");
        }
    }

    #[test]
    fn a_target_overrides_key_by_key() {
        let target = open_first(&[
            (
                "board",
                "extends: base\nprecision: [fp16]\nsession: { intra_threads: 4, keys: { session.dynamic_block_base: 8 } }\n\
                 stages: { decoder: { session: { arena: false } } }\nlimits: { max_steps: 8 }\n",
            ),
            (
                "base",
                "extends: root\nresidency: staged\nproviders: [{ name: xnnpack, need: optional }, { name: cpu, need: required }]\n\
                 stages: { decoder: { precision: [fp32], session: { intra_threads: 1 } }, encoder: { precision: [int8] } }\n",
            ),
            (
                "root",
                &format!(
                    "{RUNS}session: {{ spinning: false, intra_threads: 2, keys: {{ session.disable_prepacking: true, \
                     session.dynamic_block_base: 4 }} }}\nlimits: {{ max_steps: 20, max_batch: 2 }}\nnotes: [slow]\n\
                     sources: [a book]\nmeasured: [{{ what: speed, command: x }}]\ndetect: {{}}\n"
                ),
            ),
        ])
        .unwrap();
        assert_eq!((target.name.as_str(), target.extends.as_slice()), ("board", &["base".into(), "root".into()][..]));
        let (denoiser, decoder) = (target.stage(Stage::Denoiser), target.stage(Stage::Decoder));
        assert_eq!(denoiser.precision, [Precision::Fp16]);
        assert_eq!(target.residency, Residency::Staged);
        assert_eq!(denoiser.providers.len(), 2);
        assert_eq!(denoiser.providers[1].name, ProviderName::CPU);
        assert_eq!((denoiser.session.intra_threads, denoiser.session.spinning), (Some(4), Some(false)));
        let key = |name| denoiser.session.keys.get(name).unwrap().to_option();
        assert_eq!((key("session.dynamic_block_base"), key("session.disable_prepacking")), ("8".into(), "1".into()));
        assert_eq!((decoder.session.intra_threads, decoder.session.arena), (Some(1), Some(false)));
        assert_eq!(decoder.precision, [Precision::Fp32]);
        assert_eq!(target.stage(Stage::Encoder).precision, [Precision::Int8]);
        let usual = Limits::default();
        assert_eq!((target.limits.max_steps, target.limits.max_batch), (8, 2));
        assert_eq!(target.limits.max_pixels, usual.max_pixels);
        // What is known of one device is not known of another.
        assert!(target.notes.is_empty() && target.sources.is_empty() && target.measured.is_empty());
        assert_eq!(target.detect, None);
    }

    #[test]
    fn a_cache_is_taken_over_and_overridden_field_by_field() {
        let cache = |own: &str, base: &str| {
            let (own, base) = (format!("extends: base\n{own}"), format!("{RUNS}{base}"));
            open_first(&[("board", &own), ("base", &base)]).unwrap().cache
        };
        let usual = Caching::default();
        assert_eq!((usual.build, usual.max_bytes, &usual.folder), (Build::WhenMissing, 8 << 30, &None));
        assert_eq!(cache("", ""), None);
        assert_eq!(cache("cache: {}\n", ""), Some(usual.clone()));
        assert_eq!(cache("", "cache: { max_bytes: 5 }\n"), Some(Caching { max_bytes: 5, ..usual.clone() }));
        let both = cache("cache: { build: never }\n", "cache: { max_bytes: 5 }\n");
        assert_eq!(both, Some(Caching { build: Build::Never, max_bytes: 5, ..usual }));
        assert_eq!(cache("cache: false\n", "cache: {}\n"), None);
    }

    #[test]
    fn a_probe_is_taken_over_and_overridden_field_by_field() {
        let probe = |own: &str, base: &str| {
            let (own, base) = (format!("extends: base\n{own}"), format!("{RUNS}{base}"));
            open_first(&[("board", &own), ("base", &base)]).unwrap().probe
        };
        let usual = Probing::default();
        assert_eq!((usual.when, usual.max_seconds, usual.max_bytes), (When::Once, 300, None));
        assert_eq!(probe("", ""), usual);
        let base = "probe: { when: never, max_bytes: 1073741824 }\n";
        assert_eq!(probe("", base), Probing { when: When::Never, max_bytes: Some(1 << 30), ..usual.clone() });
        let both = probe("probe: { when: always, max_seconds: 9 }\n", base);
        assert_eq!(both, Probing { when: When::Always, max_seconds: 9, max_bytes: Some(1 << 30), ..usual });
    }

    #[test]
    fn how_a_device_is_measured_is_taken_over_and_overridden_field_by_field() {
        let bench = |own: &str, base: &str| {
            let (own, base) = (format!("extends: base\n{own}"), format!("{RUNS}{base}"));
            open_first(&[("board", &own), ("base", &base)]).unwrap().bench
        };
        let usual = Measuring::default();
        assert_eq!((usual.rails.len(), usual.covers.as_deref(), usual.start_celsius), (0, None, None));
        assert_eq!(usual.cool_down_seconds, 300);
        assert_eq!(bench("", ""), usual);
        let base = "bench: { rails: [A, B], covers: both, start_celsius: 50 }\n";
        let taken = Measuring {
            rails: vec!["A".into(), "B".into()],
            covers: Some("both".into()),
            start_celsius: Some(50.0),
            ..usual
        };
        assert_eq!(bench("", base), taken);
        assert_eq!(
            bench("bench: { start_celsius: 40.5, cool_down_seconds: 9 }\n", base),
            Measuring { start_celsius: Some(40.5), cool_down_seconds: 9, ..taken.clone() }
        );
        assert_eq!(
            bench("bench: { rails: [C] }\n", base),
            Measuring { rails: vec!["C".into()], covers: None, ..taken },
            "what other rails cover says nothing of these"
        );
    }

    #[test]
    fn a_device_that_could_not_be_measured_is_refused() {
        for (bench, expected) in [
            ("{ start_celsius: 500 }", "bench: start_celsius is 500, expected -20 to 120, in °C"),
            ("{ start_celsius: .nan }", "bench: start_celsius is NaN"),
            ("{ cool_down_seconds: 86401 }", "bench: cool_down_seconds is 86401, expected at most 86400"),
            ("{ rails: [VDD_IN, VDD_IN] }", "bench: rails has VDD_IN twice, whose power would be counted twice"),
            ("{ rails: [''] }", "bench: a rail has no name; safelight sensors lists"),
            ("{ rail: [VDD_IN] }", "bench: unknown field `rail`"),
        ] {
            let told = open_first(&[("t", &format!("{RUNS}bench: {bench}\n"))]).unwrap_err().to_string();
            assert!(told.contains(expected), "{bench}: {told}");
        }
    }

    #[test]
    fn faults_of_a_chain_name_it() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("a", "extends: a\n")], "a.yaml: extends: a: \"a\" extends itself"),
            (
                &[("a", "extends: b\n"), ("b", "extends: c\n"), ("c", "extends: b\n")],
                "extends: a → b → c: \"b\" extends itself",
            ),
            (&[("a", "extends: bass\n"), ("base", RUNS)], "extends: a: unknown target \"bass\"; known: a, base"),
            (&[("a", "extends: bass\n"), ("base", RUNS)], "did you mean \"base\""),
            (&[("a", "extends: b\n"), ("b", "extends: c\n")], "extends: a → b: unknown target \"c\""),
            (&[("a", "extends: b\n"), ("b", "colour: red\n")], "b.yaml: unknown field `colour`"),
            (&[("a", "extends: b\n"), ("b", "title: U\n")], "duplicate"),
            (&[("a", "extends: b\n"), ("b", "precision: [fp32]\n")], "a.yaml: extends: a: "),
            (&[("a", "extends: b\n"), ("b", "precision: [fp32]\n")], "b.yaml: missing field `providers`"),
            (
                &[("a", "extends: b\nsession: { spining: true }\n"), ("b", RUNS)],
                "a.yaml: session: unknown field `spining`",
            ),
            (&[("a", "extends: b\nprecision: []\n"), ("b", RUNS)], "a.yaml: precision: the list is empty"),
            (&[("a", "extends: b\nlimits: { max_steps: 0 }\n"), ("b", RUNS)], "a limit is 0"),
            (&[("a", "extends: ../b\n")], "extends: a: \"../b\" is not the name of a target"),
            (&[("a", "extends: /etc/passwd\n")], "\"/etc/passwd\" is not the name of a target"),
            (&[("a", "extends: 'b\\c'\n")], "is not the name of a target"),
            (&[("a", "extends: ..\n")], "\"..\" is not the name of a target"),
            (&[("a", "extends: b.yaml\n"), ("b", RUNS)], "without folder and .yaml"),
            (&[("a", "extends: ''\n")], "\"\" is not the name of a target"),
        ];
        for (files, expected) in cases {
            let error = open_first(files).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(expected), "{expected:?}: {error}");
        }
    }

    #[test]
    fn a_chain_ends_after_eight_files() {
        let names: Vec<_> = (0..=MAX_DEPTH).map(|link| format!("t{link}")).collect();
        let texts: Vec<_> =
            (1..=MAX_DEPTH).map(|link| format!("extends: t{link}\n")).chain([RUNS.to_owned()]).collect();
        let files: Vec<_> = names.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
        let error = open_first(&files).unwrap_err().to_string();
        assert!(error.contains("extends: t0 → t1 → t2 → t3 → t4 → t5 → t6 → t7: more than 8 files"), "{error}");
        assert_eq!(open_first(&files[1..]).unwrap().extends.len(), MAX_DEPTH - 1);
    }

    #[test]
    fn a_base_is_looked_for_beside_the_file_first() {
        let shared = folder(&[("base", &format!("{RUNS}limits: {{ max_steps: 7 }}\n")), ("other", RUNS)]);
        let own = folder(&[("a", "extends: base\n"), ("b", "extends: other\n"), ("base", RUNS)]);
        let open = |name: &str| open(&own.path().join(name), &[shared.path().to_path_buf()]);
        assert_eq!(open("a.yaml").unwrap().limits.max_steps, Limits::default().max_steps);
        open("b.yaml").unwrap();
    }

    #[test]
    fn text_in_no_folder_extends_nothing() {
        let error = parse(&format!("{HEAD}name: t\nextends: generic-cpu\n")).unwrap_err();
        assert!(error.to_string().contains("extends \"generic-cpu\", but text is in no folder"), "{error}");
    }

    #[test]
    fn what_was_measured_is_false_or_a_list() {
        let measured = |value: &str| parse(&format!("{HEAD}name: t\n{RUNS}measured: {value}\n"));
        assert!(measured("false").unwrap().measured.is_empty());
        assert_eq!(measured("[{ what: a step, command: ./run }]").unwrap().measured[0].what, "a step");
        for value in ["true", "yes", "1", "[{ what: a step }]"] {
            assert_eq!(measured(value).unwrap_err().kind(), ErrorKind::Usage, "{value}");
        }
    }
}
