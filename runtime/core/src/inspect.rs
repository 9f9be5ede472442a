//! What a graph or a folder of graphs is, read from its files without running anything: no weight is read, and ONNX
//! Runtime is not needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::model::{Condition, Defaults, GraphFile, INDEX, LatentGeometry, MANIFEST, Model, PictureSize, Range};
use crate::request::{Plan, Request};
use crate::stage::{Precision, Stage};
use crate::target::Target;
use crate::training::TrainingSpec;
use crate::{Error, Forecast, Result};

mod graph;

pub use crate::onnx::check::{Fault, Refusal};
pub use crate::onnx::macs::Arithmetic;
pub use graph::{GraphFacts, Heaviest, Memory, OutsideFile, TensorFacts};
use graph::{Usual, examine};

/// What was found at a path.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// As it was given.
    pub path: PathBuf,
    /// How the files are laid out.
    pub layout: Layout,
    /// What the folder says of the model; absent where it says nothing, or something that is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelFacts>,
    /// Every graph, in the order of the data.
    pub graphs: Vec<GraphFacts>,
    /// Memory of the model's default request with its smallest graphs on the CPU provider, by the rule of
    /// [`Forecast`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
    /// For what the folder as a whole is refused; graphs have refusals of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// How files are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// One graph.
    Graph,
    /// A folder with a `model.yaml`.
    Manifest,
    /// A pipeline of diffusers as Optimum exports it.
    Optimum,
    /// A folder with graphs that nothing describes.
    Graphs,
}

/// What a folder says of its model.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ModelFacts {
    /// The name that requests use.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// SPDX expression, where it is known.
    pub licence: Option<String>,
    /// Sizes that it makes, in pixels.
    pub picture: PictureSize,
    /// How pictures become latents.
    pub latent: LatentGeometry,
    /// Noise levels, and what the graph predicts.
    pub training: TrainingSpec,
    /// Token ids of a prompt; 0 where no words steer it.
    pub tokens: usize,
    /// Numbers that steer it, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, Condition>,
    /// What a request that does not say gets.
    pub defaults: Defaults,
    /// What it was made for.
    pub range: Range,
    /// How many requests have known numbers.
    pub goldens: usize,
    /// What its files ask for and safelight does not do.
    pub warnings: Vec<String>,
}

impl Inspection {
    /// All refusals, each with the graph that it is of, if it is of one.
    pub fn all_refusals(&self) -> impl Iterator<Item = (Option<&GraphFacts>, &Refusal)> {
        let of_graphs = self.graphs.iter().flat_map(|graph| graph.refusals.iter().map(move |of| (Some(graph), of)));
        self.refusals.iter().map(|refusal| (None, refusal)).chain(of_graphs)
    }
}

/// Most graphs of a folder that nothing describes.
const MAX_LOOSE: usize = 64;

/// The target of the forecast.
const CPU: &str = "{schema: safelight-target/1, name: cpu, title: cpu, precision: [int8, fp16, fp32], \
                   providers: [{name: cpu, need: required}]}";

/// Reads a graph, or a folder with graphs, and tells what it is and what of it would be refused.
///
/// Hashes are not compared, which would read every weight: [`Model::verify`] does it.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) where there is nothing at `path`, or no graph in a folder. What is
/// wrong with graphs and manifests is no error but a [`Refusal`].
pub fn inspect(path: &Path) -> Result<Inspection> {
    let found = path.metadata();
    let found = found.map_err(|e| Error::model(format!("{}: cannot be read: {e}", path.display())).because(e))?;
    let layout = match () {
        () if !found.is_dir() => Layout::Graph,
        () if path.join(MANIFEST).is_file() => Layout::Manifest,
        () if path.join(INDEX).is_file() => Layout::Optimum,
        () => Layout::Graphs,
    };
    let empty = Inspection { path: path.into(), layout, model: None, graphs: vec![], forecast: None, refusals: vec![] };
    match layout {
        Layout::Graph => Ok(Inspection { graphs: vec![loose(path)], ..empty }),
        Layout::Graphs => Ok(Inspection { graphs: loose_graphs(path)?, ..empty }),
        Layout::Manifest | Layout::Optimum => Ok(match Model::open(path) {
            Ok(model) => of_model(&model, empty),
            // What is wrong with the description hides nothing of the graphs.
            Err(error) => Inspection {
                graphs: loose_graphs(path).unwrap_or_default(),
                refusals: vec![Fault::File.at("", error.to_string())],
                ..empty
            },
        }),
    }
}

fn of_model(model: &Model, empty: Inspection) -> Inspection {
    let PictureSize { width, height, .. } = model.picture;
    let LatentGeometry { channels, downscale, .. } = model.latent;
    let usual = Usual {
        latent: [channels, height / downscale, width / downscale].map(|size| size as u64),
        picture: [height, width].map(|size| size as u64),
        tokens: model.window_tokens() as u64,
    };
    let mut graphs = Vec::new();
    for (&stage, files) in &model.stages {
        for (&precision, file) in &files.graphs {
            graphs.push(told(file, examine(file, Some((stage, model)), &usual), Some((stage, precision))));
        }
    }
    Inspection { model: Some(ModelFacts::of(model)), graphs, forecast: forecast(model).ok(), ..empty }
}

impl ModelFacts {
    fn of(model: &Model) -> Self {
        Self {
            name: model.name.clone(),
            title: model.title.clone(),
            licence: model.licence.clone(),
            picture: model.picture,
            latent: model.latent,
            training: model.training.spec().clone(),
            tokens: model.window_tokens(),
            conditions: model.conditions.clone(),
            defaults: model.defaults.clone(),
            range: model.range.clone(),
            goldens: model.goldens.len(),
            warnings: model.warnings.clone(),
        }
    }
}

fn forecast(model: &Model) -> Result<Forecast> {
    let (request, target) = (Request::usual(model), Target::parse(CPU)?);
    Forecast::new(&request, &Plan::new(&request, model, &target)?, model, &target)
}

/// Graphs of a folder and of the folders in it, by name.
fn loose_graphs(folder: &Path) -> Result<Vec<GraphFacts>> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = folder.read_dir().into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let mut paths: Vec<_> = entries.take(16 * MAX_LOOSE).collect();
        paths.sort();
        paths
    };
    let here = list(folder);
    let below = here.iter().filter(|path| path.is_dir()).flat_map(|path| list(path));
    let is_graph = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "onnx");
    let mut graphs: Vec<_> = here.iter().cloned().chain(below).filter(is_graph).collect();
    graphs.truncate(MAX_LOOSE);
    if graphs.is_empty() {
        let what = format!("{}: holds neither model.yaml, nor model_index.json, nor graphs", folder.display());
        return Err(Error::model(format!("{what}; give a folder of a model, or a file that ends in .onnx")));
    }
    Ok(graphs.iter().map(|path| loose(path)).collect())
}

/// A graph that nothing describes.
fn loose(path: &Path) -> GraphFacts {
    match GraphFile::loose(path) {
        Ok(file) => told(&file, examine(&file, None, &Usual::default()), None),
        Err(error) => GraphFacts::unread(path, &error),
    }
}

/// What was found in a file, or why nothing was, with the place that its model gives it.
fn told(file: &GraphFile, found: Result<GraphFacts>, place: Option<(Stage, Precision)>) -> GraphFacts {
    let facts = found.unwrap_or_else(|error| GraphFacts::unread(&file.path, &error));
    let (stage, precision) = place.unzip();
    GraphFacts { stage: stage.or(facts.stage), precision, ..facts }
}

/// Numbers by name, the largest first.
pub fn by_size<K: Ord + Copy>(numbers: &BTreeMap<K, u64>) -> Vec<(K, u64)> {
    let mut sorted: Vec<_> = numbers.iter().map(|(&key, &number)| (key, number)).collect();
    sorted.sort_by_key(|&(_, number)| std::cmp::Reverse(number));
    sorted
}
