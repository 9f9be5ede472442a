//! What one graph is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Arithmetic, Fault, Refusal};
use crate::forecast::grown;
use crate::graph::{Contract, Geometry};
use crate::model::{GraphFile, Model};
use crate::onnx::check::check;
use crate::onnx::macs::{Product, products};
use crate::onnx::{self, Outline, Parsed, Size, Tensor};
use crate::stage::{Precision, Stage};
use crate::{Error, Result};

/// What a graph is.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct GraphFacts {
    /// Its file.
    pub file: PathBuf,
    /// Bytes of the file, without those outside.
    pub bytes: u64,
    /// What it is in its model, or what its tensors look like.
    pub stage: Option<Stage>,
    /// What its model says of its numbers.
    pub precision: Option<Precision>,
    /// How it differs from what its stage looks like, or from the stage that is nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differs: Option<String>,
    /// Whether both predictions of guidance fit into one run of it: the first axis of its latents is free, or at least 2.
    /// Only of a denoiser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batches_guidance: Option<bool>,
    /// Whether the scale of guidance is an input of it, as LCM has it.
    pub embeds_guidance: bool,
    /// Version of the file format.
    pub ir_version: u64,
    /// Name and version of what wrote it, where it says so.
    pub producer: String,
    /// Version of each domain of operators that it says to use.
    pub opsets: BTreeMap<String, u64>,
    /// How many nodes it has.
    pub nodes: usize,
    /// How many of each operator, by domain.
    pub operators: BTreeMap<String, BTreeMap<String, usize>>,
    /// What goes in, initializers left out.
    pub inputs: Vec<TensorFacts>,
    /// What comes out.
    pub outputs: Vec<TensorFacts>,
    /// Names of axes of inputs that have any size.
    pub free_axes: BTreeSet<String>,
    /// How many numbers its initializers have: weights, and scales and zero points of quantisations.
    pub parameters: u64,
    /// Bytes of initializers by their type, as ONNX calls it.
    pub weight_bytes: BTreeMap<&'static str, u64>,
    /// Files that keep weights outside of the graph.
    pub outside: Vec<OutsideFile>,
    /// Sizes of inputs for which the numbers below are: its own where it says them; otherwise one latent of the model's
    /// size, or of 64×64 and 77 tokens where nothing is known.
    pub assumed: BTreeMap<String, Vec<u64>>,
    /// Multiplications with addition of one run.
    pub macs: u64,
    /// The same by the arithmetic that the graph is written in.
    pub macs_by_arithmetic: BTreeMap<Arithmetic, u64>,
    /// How many products have sizes that do not follow from the graph, and count nothing.
    pub uncounted_products: usize,
    /// How many tensors have sizes that do not follow from the graph.
    pub unknown_tensors: usize,
    /// Products with the most multiplications.
    pub heaviest: Vec<Heaviest>,
    /// Memory that it is expected to take on the CPU provider.
    pub memory: Memory,
    /// For what it would be refused.
    pub refusals: Vec<Refusal>,
}

/// A tensor that a graph takes or gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorFacts {
    /// Its name.
    pub name: String,
    /// Its type, as ONNX calls it.
    #[serde(rename = "type")]
    pub element_type: &'static str,
    /// Sizes of its axes: a number, the name of a free axis, or `?`.
    pub sizes: Vec<String>,
}

/// A file that keeps weights outside of a graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutsideFile {
    /// As the graph spells it.
    pub name: String,
    /// Its length; absent where it cannot be read.
    pub bytes: Option<u64>,
}

/// A node that multiplies much.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Heaviest {
    /// The node's name, or that of what it makes.
    pub name: String,
    /// Its operator.
    pub operator: String,
    /// What it is computed in.
    pub arithmetic: Arithmetic,
    /// Multiplications with addition of one run.
    pub macs: u64,
    /// Sizes of what it makes.
    pub sizes: Vec<u64>,
}

/// Memory that a graph is expected to take on the CPU provider, in bytes, by the rule of
/// [`Forecast`](crate::Forecast): of itself, without process and library.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// While it is opened.
    pub opening_bytes: u64,
    /// Once it is open.
    pub opened_bytes: u64,
    /// The most of what it computes that is alive at once.
    pub working_bytes: u64,
}

/// Sizes that free axes are taken for.
pub(super) struct Usual {
    /// `[channels, height, width]`.
    pub(super) latent: [u64; 3],
    /// `[height, width]` in pixels.
    pub(super) picture: [u64; 2],
    /// Token ids of a prompt.
    pub(super) tokens: u64,
}

impl Default for Usual {
    /// Stable Diffusion's.
    fn default() -> Self {
        Self { latent: [4, 64, 64], picture: [512, 512], tokens: 77 }
    }
}

/// How many products are told.
const HEAVIEST: usize = 10;

/// What a graph calls a tensor of Optimum's name.
type Name<'a> = &'a dyn Fn(&'static str) -> &'a str;

impl GraphFacts {
    /// A file of which nothing could be read.
    pub(super) fn unread(path: &Path, error: &Error) -> Self {
        let refusals = vec![Fault::File.at("", error.to_string())];
        Self { file: path.into(), refusals, ..Self::default() }
    }
}

/// Reads a graph's file: of a model's stage, with the names of its tensors there, or of nobody knows what.
pub(super) fn examine(file: &GraphFile, of: Option<(Stage, &Model)>, usual: &Usual) -> Result<GraphFacts> {
    let bytes = file.map()?;
    let graph = onnx::read(&bytes, &file.path)?;
    let outline = graph.outline();
    let name: Name = &|name| of.map_or(name, |(stage, model)| model.tensor(stage, name));
    let (stage, differs) = match of {
        Some((stage, model)) => (Some(stage), differs(&Contract::of_model(stage, model), &outline)),
        None => guess(&outline),
    };
    let assumed = assumed(&outline, stage, name, usual);
    let mut refusals = refusals(file, &graph, &outline);
    refusals.extend(differs.iter().filter(|_| of.is_some()).map(|what| Fault::Signature.at("", what.clone())));
    let (products, unknown_tensors) = products(&graph, &assumed);
    let mut facts = GraphFacts {
        file: file.path.clone(),
        bytes: file.bytes,
        stage,
        precision: None,
        differs,
        batches_guidance: batches_guidance(&outline, stage, name),
        embeds_guidance: outline.inputs.iter().any(|input| input.name == name("timestep_cond")),
        unknown_tensors,
        memory: memory(file, &graph, &outline, &assumed),
        assumed: assumed.iter().cloned().collect(),
        refusals,
        ..structure(file, &graph, &outline)
    };
    count(&mut facts, products);
    Ok(facts)
}

/// What the file says of itself.
fn structure(file: &GraphFile, graph: &Parsed, outline: &Outline) -> GraphFacts {
    let mut weight_bytes: BTreeMap<&'static str, u64> = BTreeMap::new();
    for (weight, bytes) in &outline.weights {
        let of_type = weight_bytes.entry(onnx::element_name(weight.element_type)).or_default();
        *of_type = of_type.saturating_add(*bytes);
    }
    let folder = file.path.parent().unwrap_or(Path::new("."));
    let outside = |name: &String| OutsideFile {
        name: name.clone(),
        bytes: folder.join(name).metadata().ok().filter(std::fs::Metadata::is_file).map(|found| found.len()),
    };
    let axes = outline.inputs.iter().flat_map(|input| &input.sizes);
    let opset = |(domain, version): &(&str, u64)| (onnx::domain_name(domain).to_owned(), *version);
    GraphFacts {
        ir_version: graph.ir_version,
        producer: graph.producer.join(" ").trim().to_owned(),
        opsets: graph.opsets.iter().map(opset).collect(),
        nodes: graph.node_count(),
        operators: graph.operators(),
        inputs: outline.inputs.iter().map(TensorFacts::of).collect(),
        outputs: outline.outputs.iter().map(TensorFacts::of).collect(),
        free_axes: axes.filter_map(|axis| axis.name().map(str::to_owned)).collect(),
        parameters: graph.parameters(),
        weight_bytes,
        outside: outline.data_files.iter().map(outside).collect(),
        ..GraphFacts::default()
    }
}

impl TensorFacts {
    fn of(tensor: &Tensor) -> Self {
        let size = |size: &Size| match size {
            Size::Fixed(size) => (*size as i64).to_string(),
            Size::Named(name) if !name.is_empty() => name.clone(),
            Size::Named(_) | Size::Unknown => "?".into(),
        };
        let sizes = tensor.sizes.iter().map(size).collect();
        Self { name: tensor.name.clone(), element_type: onnx::element_name(tensor.element_type), sizes }
    }
}

fn refusals(file: &GraphFile, graph: &Parsed, outline: &Outline) -> Vec<Refusal> {
    let (weights, error) = match file.weights(outline) {
        Ok(weights) => (weights, None),
        Err(error) => (BTreeMap::new(), Some(Fault::File.at("", error.to_string()))),
    };
    let mut refusals = check(graph, &|name| weights.get(name).map(|map| &map[..]));
    refusals.extend(error);
    refusals
}

fn differs(contract: &Contract, outline: &Outline) -> Option<String> {
    contract.check_file(outline).err().map(|error| error.to_string())
}

/// The stage that a graph looks like: the first that it fits, or the one with most of its tensors' names, and how it
/// differs from that.
fn guess(outline: &Outline) -> (Option<Stage>, Option<String>) {
    let differs = |stage| differs(&Contract::of(stage, &|name| name, Geometry::default()), outline);
    if let Some(stage) = Stage::ALL.into_iter().find(|&stage| differs(stage).is_none()) {
        return (Some(stage), None);
    }
    let names: BTreeSet<_> = outline.inputs.iter().chain(&outline.outputs).map(|tensor| tensor.name.as_str()).collect();
    let shared = |stage: &Stage| stage.tensors().iter().filter(|name| names.contains(*name)).count();
    match Stage::ALL.into_iter().max_by_key(shared).filter(|stage| shared(stage) > 0) {
        Some(nearest) => {
            let differs = differs(nearest).unwrap_or_default();
            (None, Some(format!("as a {nearest}, {differs}")))
        }
        None => (None, Some("none of its tensors has the name of one of a stage".into())),
    }
}

fn batches_guidance(outline: &Outline, stage: Option<Stage>, name: Name) -> Option<bool> {
    stage.filter(|&stage| stage == Stage::Denoiser)?;
    let sample = outline.inputs.iter().find(|input| input.name == name("sample"))?;
    Some(!matches!(sample.sizes.first(), Some(Size::Fixed(rows)) if *rows < 2))
}

/// Sizes of a graph's inputs, where free axes are as usual.
fn assumed(outline: &Outline, stage: Option<Stage>, name: Name, usual: &Usual) -> Vec<(String, Vec<u64>)> {
    let Usual { latent: [channels, height, width], picture, tokens, .. } = *usual;
    let of = |input: &str| match stage {
        Some(Stage::TextEncoder | Stage::TextEncoder2) => vec![1, tokens],
        Some(Stage::Denoiser) if input == name("encoder_hidden_states") => vec![1, tokens],
        Some(Stage::Denoiser | Stage::Decoder) => vec![1, channels, height, width],
        Some(Stage::Encoder) => vec![1, 3, picture[0], picture[1]],
        None => vec![],
    };
    let size = |(declared, usual): (&Size, u64)| if let Size::Fixed(size) = declared { *size } else { usual };
    let sizes = |input: &Tensor| {
        let usual = of(&input.name).into_iter().chain(std::iter::repeat(1));
        input.sizes.iter().zip(usual).map(size).collect()
    };
    outline.inputs.iter().map(|input| (input.name.clone(), sizes(input))).collect()
}

fn memory(file: &GraphFile, graph: &Parsed, outline: &Outline, assumed: &[(String, Vec<u64>)]) -> Memory {
    let (opening_bytes, opened_bytes) = grown(outline, file.bytes, None);
    Memory { opening_bytes, opened_bytes, working_bytes: onnx::activations(graph, assumed).bytes }
}

fn count(facts: &mut GraphFacts, mut products: Vec<Product>) {
    products.sort_by_key(|product| std::cmp::Reverse(product.macs));
    for Product { macs, arithmetic, .. } in &products {
        let Some(macs) = macs else {
            facts.uncounted_products += 1;
            continue;
        };
        let of_kind = facts.macs_by_arithmetic.entry(*arithmetic).or_default();
        *of_kind = of_kind.saturating_add(*macs);
        facts.macs = facts.macs.saturating_add(*macs);
    }
    let told = |product: Product| {
        let Product { name, operator, arithmetic, macs, sizes } = product;
        Some(Heaviest { name: name.into(), operator: operator.into(), arithmetic, macs: macs?, sizes })
    };
    facts.heaviest = products.into_iter().take(HEAVIEST).filter_map(told).collect();
}
