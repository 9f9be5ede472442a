//! `model.yaml`, safelight's own description of a model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::files::{DataFile, GraphFile, graph_bytes, inside, plain};
use super::{
    Bound, Condition, Defaults, EmptyPrompt, Golden, LatentGeometry, Model, PictureSize, Range, StageFiles,
    TokenizerFiles, Vocabulary,
};
use crate::error::unknown;
use crate::stage::{Precision, Stage};
use crate::tokenizer::Window;
use crate::training::{DiffusionSpec, EdmSpec, FlowSpec, TrainingSpec};
use crate::{Error, ErrorKind, Result, yaml};

pub(crate) const FILE: &str = "model.yaml";

/// A golden is a few latents and a picture; whoever reads it may hold it in memory.
const MAX_GOLDEN_BYTES: u64 = 64 << 20;
const MAX_GOLDEN_STEPS: usize = 1000;

const SCHEMA: &str = "safelight-model/1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    schema: String,
    name: String,
    title: String,
    licence: String,
    picture: PictureSize,
    latent: LatentGeometry,
    training: Option<DiffusionSpec>,
    flow: Option<FlowSpec>,
    edm: Option<EdmSpec>,
    tokenizer: Option<TokenizerEntry>,
    tokenizer_2: Option<TokenizerEntry>,
    #[serde(default)]
    empty_prompt: EmptyPrompt,
    #[serde(default)]
    conditions: BTreeMap<String, Condition>,
    defaults: Defaults,
    #[serde(default)]
    range: Range,
    stages: BTreeMap<Stage, StageEntry>,
    #[serde(default)]
    goldens: Vec<GoldenEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GoldenEntry {
    #[serde(default)]
    prompt: String,
    #[serde(default)]
    conditions: BTreeMap<String, f64>,
    seed: u64,
    steps: usize,
    precision: Precision,
    file: String,
    bytes: u64,
    sha256: String,
    #[serde(default)]
    bounds: BTreeMap<Precision, Bound>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenizerEntry {
    file: String,
    length: usize,
    start: u32,
    end: u32,
    pad: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StageEntry {
    graphs: BTreeMap<Precision, FileEntry>,
    #[serde(default)]
    tensors: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    file: String,
    bytes: u64,
    sha256: String,
    #[serde(default)]
    data: Vec<FileEntry>,
}

/// Reads the manifest; graphs of the stages in `dispensable` may be missing.
pub(super) fn open(root: &Path, dispensable: &[Stage]) -> Result<Model> {
    let path = inside(root, FILE)?;
    let manifest: Manifest = yaml::read(&path, ErrorKind::Model)?;
    let told = |e: Error| e.context(path.display());
    if manifest.schema != SCHEMA {
        return Err(told(Error::model(format!("schema is \"{}\", expected \"{SCHEMA}\"", manifest.schema))));
    }
    let training: TrainingSpec = match (manifest.training, manifest.flow, manifest.edm) {
        (Some(diffusion), None, None) => diffusion.into(),
        (None, Some(flow), None) => flow.into(),
        (None, None, Some(edm)) => edm.into(),
        _ => return Err(told(Error::model("expected exactly one of training, flow and edm"))),
    };
    let tokenizers = Stage::TEXT_ENCODERS.into_iter().zip([manifest.tokenizer, manifest.tokenizer_2]);
    let tokenizers = tokenizers.filter_map(|(stage, entry)| Some((stage, entry?)));
    let tokenizers = tokenizers.map(|(stage, entry)| Ok((stage, tokenizer(root, entry)?)));
    let stages = manifest.stages.into_iter().map(|(stage, entry)| {
        let list = if dispensable.contains(&stage) { listed_or_missing } else { listed };
        Ok((stage, stage_files(root, stage, entry, list)?))
    });
    let goldens = manifest.goldens.into_iter().map(|entry| golden(root, entry));
    Ok(Model {
        name: manifest.name,
        title: manifest.title,
        licence: Some(manifest.licence),
        root: root.to_path_buf(),
        stages: stages.collect::<Result<_>>().map_err(told)?,
        goldens: goldens.collect::<Result<_>>().map_err(told)?,
        latent: manifest.latent,
        picture: manifest.picture,
        training: super::training(training, &path)?,
        tokenizers: tokenizers.collect::<Result<_>>().map_err(told)?,
        empty_prompt: manifest.empty_prompt,
        conditions: manifest.conditions,
        defaults: manifest.defaults,
        range: manifest.range,
        warnings: Vec::new(),
    })
}

fn tokenizer(root: &Path, entry: TokenizerEntry) -> Result<TokenizerFiles> {
    let TokenizerEntry { file, length, start, end, pad } = entry;
    let vocabulary = Vocabulary::TokenizerJson(inside(root, &file)?);
    Ok(TokenizerFiles { vocabulary, window: Window { length, start, end, pad } })
}

fn stage_files(
    root: &Path,
    stage: Stage,
    entry: StageEntry,
    list: fn(&Path, &FileEntry) -> Result<DataFile>,
) -> Result<StageFiles> {
    if let Some(name) = entry.tensors.keys().find(|name| !stage.tensors().contains(&name.as_str())) {
        let told = unknown("tensor", name, stage.tensors());
        return Err(Error::model(format!("stages.{stage}.tensors: {told}")));
    }
    let graphs = entry.graphs.into_iter().map(|(precision, file)| {
        let data = file.data.iter().map(|data| {
            let DataFile { path, bytes, sha256 } = list(root, data)?;
            Ok(DataFile { path, bytes, sha256 })
        });
        let data = data.collect::<Result<_>>()?;
        let DataFile { path, bytes, sha256 } = list(root, &file)?;
        Ok((precision, GraphFile { path, bytes, sha256, data }))
    });
    Ok(StageFiles { graphs: graphs.collect::<Result<_>>()?, tensors: entry.tensors })
}

fn golden(root: &Path, entry: GoldenEntry) -> Result<Golden> {
    let GoldenEntry { prompt, conditions, seed, steps, precision, file, bytes, sha256, bounds } = entry;
    if !(1..=MAX_GOLDEN_STEPS).contains(&steps) {
        return Err(Error::model(format!("goldens: {steps} steps, expected 1 to {MAX_GOLDEN_STEPS}")));
    }
    let numbers = listed(root, &FileEntry { file, bytes, sha256, data: Vec::new() })?;
    if numbers.bytes > MAX_GOLDEN_BYTES {
        return Err(Error::model(format!(
            "{}: is {} bytes, more than the {MAX_GOLDEN_BYTES} of a golden",
            numbers.path.display(),
            numbers.bytes
        )));
    }
    for (precision, bound) in &bounds {
        bound.check().map_err(|e| e.context(format_args!("goldens: bounds.{precision}")))?;
    }
    Ok(Golden { prompt, conditions, seed, steps, precision, numbers, bounds })
}

/// A file that the manifest lists: there, of the promised length, and with a well-formed hash.
fn listed(root: &Path, entry: &FileEntry) -> Result<DataFile> {
    let path = inside(root, &entry.file)?;
    let bytes = graph_bytes(&path)?;
    if bytes != entry.bytes {
        return Err(Error::model(format!(
            "{}: is {bytes} bytes, but the manifest says {}",
            path.display(),
            entry.bytes
        )));
    }
    promised(entry, path)
}

/// The same of a file that may be missing.
fn listed_or_missing(root: &Path, entry: &FileEntry) -> Result<DataFile> {
    let path = plain(root, &entry.file)?;
    if path.exists() { listed(root, entry) } else { promised(entry, path) }
}

/// What the manifest promises of a file.
fn promised(entry: &FileEntry, path: PathBuf) -> Result<DataFile> {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if entry.sha256.len() != 64 || !entry.sha256.chars().all(hex) {
        return Err(Error::model(format!("{}: sha256 {:?} is not 64 lower-case hex digits", entry.file, entry.sha256)));
    }
    Ok(DataFile { path, bytes: entry.bytes, sha256: Some(entry.sha256.clone()) })
}
