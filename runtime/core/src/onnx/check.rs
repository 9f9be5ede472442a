//! What a stranger's graph must not hold, found before ONNX Runtime sees it: what crashes the library, never ends, reads
//! other files, or computes nonsense without a word.

use std::collections::{HashMap, HashSet};
use std::fmt;

use half::{bf16, f16};
use serde::Serialize;

use super::activations::follow;
use super::nodes::{MAX_VALUES, Node, Outside, Parsed, Stored};
use super::operators::{LOOPS, NEWEST_OPSET, RANDOM, domain_name, domains, of_domain};
use super::{BFLOAT16, FLOAT, FLOAT16, Size, element_bits};

/// Why a graph, or a file of a model, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// A file is missing, is no graph, or is not what its manifest says.
    File,
    /// The graph is not what its stage looks like.
    Signature,
    /// The operators' version is missing, or newer than is known here.
    Opset,
    /// Operators of a domain that is not known.
    Domain,
    /// An operator that is not known.
    Operator,
    /// A loop: it may run for ever.
    Loop,
    /// A choice between graphs that are not small.
    Branch,
    /// An operator that draws random numbers.
    Random,
    /// What a provider has compiled.
    Compiled,
    /// Operators that the graph defines itself.
    Functions,
    /// Sparse tensors, and tensors outside of the file that are not initializers.
    Storage,
    /// A name that two tensors have.
    Repeated,
    /// A tensor that nothing makes.
    Missing,
    /// Nodes that wait for each other.
    Cycle,
    /// A tensor of impossible size.
    Size,
    /// A tensor with fewer or more bytes than its sizes say.
    Length,
    /// A quantisation scale that is zero, negative, infinite or not a number.
    Scale,
    /// An input that is left out where the library needs it.
    EmptyInput,
    /// An order of axes that is none.
    Permutation,
    /// A block size that is impossible.
    BlockSize,
}

/// Something for which a graph is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What kind of thing it is.
    pub fault: Fault,
    /// The node or tensor, by its name; absent where it is the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// What was found.
    pub found: String,
    /// What to do about it, where `found` does not say so already.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub advice: &'static str,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::File,
        Self::Signature,
        Self::Opset,
        Self::Domain,
        Self::Operator,
        Self::Loop,
        Self::Branch,
        Self::Random,
        Self::Compiled,
        Self::Functions,
        Self::Storage,
        Self::Repeated,
        Self::Missing,
        Self::Cycle,
        Self::Size,
        Self::Length,
        Self::Scale,
        Self::EmptyInput,
        Self::Permutation,
        Self::BlockSize,
    ];

    /// What to do about it.
    fn advice(self) -> &'static str {
        match self {
            // Errors of files say it themselves.
            Self::File | Self::Signature => "",
            Self::Opset => "export it again, with an opset of at most 28",
            Self::Domain => "export it with ONNX's own operators, or those of ONNX Runtime",
            Self::Operator => "export it without, or tell us what needs it",
            Self::Loop => "unroll it when exporting: torch.jit.trace does, torch.jit.script does not",
            Self::Branch => "export it without conditions, or run onnxsim over it",
            Self::Random => "export it with its noise as an input: no seed would repeat its pictures",
            Self::Compiled => "give the graph that it was compiled from; safelight warm compiles it here",
            Self::Functions => "inline them: onnx.inliner.inline_local_functions(model)",
            Self::Storage => "save it again with dense initializers: onnx.save(model, path)",
            Self::Repeated => "export it again: names must be unique",
            Self::Missing => "export it again: it is cut or edited wrongly",
            Self::Cycle => "export it again: a node cannot wait for itself",
            Self::Size => "export it again: no tensor has such a size",
            Self::Length => "export or fetch it again: its weights are cut short or belong to another graph",
            Self::Scale => "quantise it again, with calibration data that reach this tensor",
            Self::EmptyInput => {
                "remove the empty name (del node.input[-1] where it is the last), or give a tensor of zeros: ONNX \
                 Runtime crashes on it"
            }
            Self::Permutation => "export it again: ONNX Runtime writes beyond its memory on it",
            Self::BlockSize => "export it again with a block size that divides the channels",
        }
    }

    /// A refusal of a node or tensor.
    pub(crate) fn at(self, at: &str, found: impl Into<String>) -> Refusal {
        let at = (!at.is_empty()).then(|| shorten(at));
        Refusal { fault: self, at, found: found.into(), advice: self.advice() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(f, "{at:?} ")?;
        }
        match self.advice {
            "" => f.write_str(&self.found),
            advice => write!(f, "{}; {advice}", self.found),
        }
    }
}

/// Most characters of a stranger's name that are shown.
const MAX_NAME: usize = 120;

fn shorten(name: &str) -> String {
    let mut short: String = name.chars().take(MAX_NAME).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    short
}

/// Most faults that are told of a graph.
const MAX_REFUSALS: usize = 20;

/// Most nodes of one branch of a condition. PyTorch writes one where it squeezes an axis of free size: a node or two.
const MAX_BRANCH: usize = 16;

/// Most values of a scale that are looked at; one a channel are a few thousand, one a block of weights may be millions.
const MAX_SCALES: usize = 1 << 16;

/// Bytes of a file that keeps weights outside of the graph, by the name that the graph gives it.
pub(crate) type Weights<'a> = dyn Fn(&str) -> Option<&'a [u8]> + 'a;

/// Everything for which a graph is refused, at most [`MAX_REFUSALS`].
///
/// `weights` gives the files outside; what they hold is compared only where it does.
pub(crate) fn check<'a>(graph: &Parsed<'a>, weights: &Weights<'a>) -> Vec<Refusal> {
    let mut found = Vec::new();
    whole(graph, &mut found);
    operators(graph, &mut found);
    names(graph, &mut found);
    stored(graph, weights, &mut found);
    scales(graph, weights, &mut found);
    let order = graph.order();
    if order.len() < graph.nodes.len() {
        let waiting = graph.nodes.len() - order.len();
        found.push(Fault::Cycle.at("", format!("{waiting} nodes wait for each other")));
    }
    nodes(graph, &order, &mut found);
    found.truncate(MAX_REFUSALS);
    found
}

fn whole(graph: &Parsed, found: &mut Vec<Refusal>) {
    if graph.functions > 0 {
        // Eight functions that call each other ten times each held the library for minutes.
        found.push(Fault::Functions.at("", format!("it defines {} operators of its own", graph.functions)));
    }
    if graph.sparse > 0 {
        found.push(Fault::Storage.at("", format!("it has {} sparse initializers", graph.sparse)));
    }
    for input in &graph.inputs {
        let fixed = |size: &Size| if let Size::Fixed(size) = size { *size } else { 1 };
        let sizes: Vec<_> = input.sizes.iter().map(fixed).collect();
        if is_impossible(&sizes) || sizes.contains(&0) {
            found.push(Fault::Size.at(&input.name, format!("is an input of size {}", described(&sizes))));
        }
    }
}

/// Operators and domains, each told once.
fn operators(graph: &Parsed, found: &mut Vec<Refusal>) {
    let versions: HashMap<&str, u64> =
        graph.opsets.iter().map(|(domain, version)| (domain_name(domain), *version)).collect();
    let mut seen = HashSet::new();
    for node in &graph.nodes {
        if seen.insert((node.domain, node.operator)) {
            found.extend(operator(node, &versions));
        }
        for attribute in &node.attributes {
            if attribute.is_opaque || attribute.tensor.as_ref().is_some_and(|tensor| tensor.outside.is_some()) {
                let what = format!("keeps a tensor in attribute {:?} sparsely or in another file", attribute.name);
                found.push(Fault::Storage.at(label(node), what));
            }
            for branch in &attribute.branches {
                found.extend(self::branch(node, branch, &versions));
            }
        }
        if found.len() >= MAX_REFUSALS {
            return;
        }
    }
}

/// Whether an operator may be in a graph.
fn operator(node: &Node, versions: &HashMap<&str, u64>) -> Option<Refusal> {
    let (domain, operator) = (domain_name(node.domain), node.operator);
    let told = |fault: Fault, what: String| Some(fault.at(label(node), what));
    let Some(known) = of_domain(domain) else {
        return told(Fault::Domain, format!("is {operator} of domain {domain:?}; known are {}", domains()));
    };
    if LOOPS.contains(&operator) {
        return told(Fault::Loop, format!("is a {operator}, which may run for ever"));
    }
    if RANDOM.contains(&operator) {
        return told(Fault::Random, format!("is a {operator}"));
    }
    if operator == "EPContext" {
        return told(Fault::Compiled, "is what a provider has compiled somewhere else".into());
    }
    if !known.contains(&operator) {
        return told(Fault::Operator, format!("is {operator:?}, which is no known operator of {domain}"));
    }
    match versions.get(domain) {
        None => told(Fault::Opset, format!("is of {domain}, of which the graph tells no opset")),
        Some(version) if domain == "ai.onnx" && !(1..=NEWEST_OPSET).contains(version) => {
            told(Fault::Opset, format!("is of opset {version} of {domain}"))
        }
        Some(_) => None,
    }
}

/// Whether a graph inside of a node is small, and of known operators.
fn branch(node: &Node, branch: &[Node], versions: &HashMap<&str, u64>) -> Option<Refusal> {
    let is_nested = |node: &Node| node.attributes.iter().any(|attribute| !attribute.branches.is_empty());
    if branch.len() > MAX_BRANCH || branch.iter().any(is_nested) {
        let what = format!("chooses between graphs, one of {} nodes, of which {MAX_BRANCH} are allowed", branch.len());
        return Some(Fault::Branch.at(label(node), what));
    }
    branch.iter().find_map(|inner| operator(inner, versions).or_else(|| empty_input(inner)))
}

/// Tensors that two nodes make, or none.
fn names(graph: &Parsed, found: &mut Vec<Refusal>) {
    found.extend(graph.repeated.iter().take(MAX_REFUSALS).map(|name| Fault::Repeated.at(name, "is stored twice")));
    let mut made: HashSet<&str> = graph.initializers.keys().copied().collect();
    made.extend(graph.inputs.iter().map(|input| input.name.as_str()));
    for name in graph.nodes.iter().flat_map(|node| &node.outputs).filter(|name| !name.is_empty()) {
        if !made.insert(name) {
            found.push(Fault::Repeated.at(name, "is made twice"));
        }
    }
    for node in &graph.nodes {
        let missing = node.inputs.iter().find(|name| !name.is_empty() && !made.contains(*name));
        found
            .extend(missing.map(|name| Fault::Missing.at(label(node), format!("takes {name:?}, which nothing makes"))));
        if found.len() >= MAX_REFUSALS {
            return;
        }
    }
    let outputs = graph.outputs.iter().filter(|output| !made.contains(output.name.as_str()));
    found.extend(
        outputs.take(MAX_REFUSALS).map(|output| Fault::Missing.at(&output.name, "is an output that nothing makes")),
    );
}

/// Sizes of initializers, and whether their bytes are all there.
fn stored(graph: &Parsed, weights: &Weights, found: &mut Vec<Refusal>) {
    for (name, tensor) in &graph.initializers {
        let sizes = &tensor.constant.sizes;
        if is_impossible(sizes) {
            found.push(Fault::Size.at(name, format!("is an initializer of size {}", described(sizes))));
            continue;
        }
        let bytes = tensor.constant.bytes();
        let is_counted = element_bits(tensor.constant.element_type).is_some();
        let has = match &tensor.outside {
            Some(outside) => match range(outside, bytes) {
                Some((start, length)) if length == bytes => {
                    weights(outside.location).map(|all| (all.len() as u64).saturating_sub(start).min(length))
                }
                Some((_, length)) => {
                    let what = format!("takes {bytes} bytes, but is said to have {length} in its file");
                    found.push(Fault::Length.at(name, what));
                    continue;
                }
                None => {
                    let (offset, length) = (shorten(outside.offset), shorten(outside.length));
                    let what = format!("lies at offset {offset:?} with length {length:?}, which is nowhere in a file");
                    found.push(Fault::Length.at(name, what));
                    continue;
                }
            },
            None if tensor.is_raw => Some(tensor.raw.len() as u64),
            None => None,
        };
        if let Some(has) = has.filter(|has| is_counted && *has != bytes) {
            found.push(Fault::Length.at(name, format!("takes {bytes} bytes, of which {has} are there")));
        }
        if found.len() >= MAX_REFUSALS {
            return;
        }
    }
}

/// Where a tensor of so many bytes lies in a file outside: start and length, in bytes.
fn range(outside: &Outside, bytes: u64) -> Option<(u64, u64)> {
    let number = |text: &str, usual| if text.is_empty() { Some(usual) } else { text.parse::<u64>().ok() };
    let (start, length) = (number(outside.offset, 0)?, number(outside.length, bytes)?);
    start.checked_add(length).map(|_| (start, length))
}

/// Scales of quantisations; the library computes with any, zero and not-a-number included.
fn scales<'a>(graph: &Parsed<'a>, weights: &Weights<'a>, found: &mut Vec<Refusal>) {
    let constants = graph.nodes.iter().filter(|node| node.operator == "Constant");
    let constants: HashMap<&str, &Stored> =
        constants.filter_map(|node| Some((*node.outputs.first()?, node.tensor()?))).collect();
    let mut seen = HashSet::new();
    for node in &graph.nodes {
        for name in scale_inputs(node.operator).iter().filter_map(|&index| node.inputs.get(index)) {
            let tensor = graph.initializers.get(name).or_else(|| constants.get(name).copied());
            let Some(tensor) = tensor.filter(|_| seen.insert(*name)) else { continue };
            let Some(bytes) = bytes_of(tensor, weights) else { continue };
            let wrong = floats(bytes, tensor.constant.element_type).find(|scale| !(scale.is_finite() && *scale > 0.0));
            found.extend(wrong.map(|scale| Fault::Scale.at(name, format!("is a quantisation scale that is {scale}"))));
        }
        if found.len() >= MAX_REFUSALS {
            return;
        }
    }
}

/// Which inputs of an operator are scales.
fn scale_inputs(operator: &str) -> &'static [usize] {
    match operator {
        "QuantizeLinear" | "DequantizeLinear" => &[1],
        "QLinearConv" | "QLinearMatMul" | "QLinearAdd" | "QLinearMul" => &[1, 4, 6],
        "QGemm" => &[1, 4, 7],
        "QLinearSigmoid" | "QLinearLeakyRelu" | "QLinearSoftmax" | "QLinearAveragePool" => &[1, 3],
        "MatMulIntegerToFloat" => &[2, 3],
        _ => &[],
    }
}

/// The first bytes of a tensor, wherever they are.
fn bytes_of<'a>(tensor: &Stored<'a>, weights: &Weights<'a>) -> Option<&'a [u8]> {
    let Some(outside) = &tensor.outside else { return Some(tensor.raw) };
    let (start, length) = range(outside, tensor.constant.bytes())?;
    let rest = weights(outside.location)?.get(usize::try_from(start).ok()?..)?;
    rest.get(..usize::try_from(length).ok()?)
}

/// Real numbers as they are stored, at most [`MAX_SCALES`] of them; none of another type.
fn floats(bytes: &[u8], element_type: u64) -> Box<dyn Iterator<Item = f32> + '_> {
    let halves = || bytes.as_chunks::<2>().0.iter().take(MAX_SCALES);
    match element_type {
        FLOAT => Box::new(bytes.as_chunks().0.iter().take(MAX_SCALES).map(|&bytes| f32::from_le_bytes(bytes))),
        FLOAT16 => Box::new(halves().map(|&bytes| f16::from_le_bytes(bytes).to_f32())),
        BFLOAT16 => Box::new(halves().map(|&bytes| bf16::from_le_bytes(bytes).to_f32())),
        _ => Box::new(std::iter::empty()),
    }
}

/// What crashes the library, node by node.
fn nodes(graph: &Parsed, order: &[&Node], found: &mut Vec<Refusal>) {
    // Any size will do: only how many axes a tensor has is asked.
    let size = |size: &Size| if let Size::Fixed(size) = size { *size } else { 1 };
    let sized = |input: &super::Tensor| (input.name.clone(), input.sizes.iter().map(size).collect());
    let inputs: Vec<_> = graph.inputs.iter().map(sized).collect();
    let has_transposed = order.iter().any(|node| node.operator == "Transpose");
    let known = if has_transposed { follow(graph, order, &inputs).0 } else { HashMap::new() };
    for node in order {
        if found.len() >= MAX_REFUSALS {
            return;
        }
        found.extend(empty_input(node));
        let axes = node.inputs.first().and_then(|name| known.get(name)).map(|tensor| tensor.sizes.len());
        found.extend(permutation(node, axes));
        found.extend(block_size(node));
    }
}

/// An order of axes that is none, or of another number of axes than the tensor has, as far as that is known.
fn permutation(node: &Node, axes: Option<usize>) -> Option<Refusal> {
    let order = node.integers("perm").filter(|_| node.operator == "Transpose")?;
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    let is_order = sorted.iter().enumerate().all(|(index, &axis)| axis == index as i64);
    if is_order && axes.is_none_or(|axes| axes == order.len()) {
        return None;
    }
    let what = format!("orders a tensor of {} axes by {}", axes.unwrap_or(order.len()), described(order));
    Some(Fault::Permutation.at(label(node), what))
}

fn block_size(node: &Node) -> Option<Refusal> {
    if !matches!(node.operator, "DepthToSpace" | "SpaceToDepth") {
        return None;
    }
    let block = node.integer("blocksize").unwrap_or(0);
    let what = || format!("has block size {block}, expected 1 to {MAX_BLOCK}");
    (!(1..=MAX_BLOCK).contains(&block)).then(|| Fault::BlockSize.at(label(node), what()))
}

/// Largest block of pixels that becomes channels; decoders have 2 to 32. ONNX Runtime 1.31 divides by zero at 2³².
const MAX_BLOCK: i64 = 1024;

/// Inputs that the library takes for granted where they are listed: an empty bias of a normalisation crashes the fusion of
/// 1.31 and 1.32 while the graph is opened, an empty operand of Einsum the run.
fn needed(node: &Node) -> std::ops::Range<usize> {
    match node.operator {
        "LayerNormalization" | "SkipLayerNormalization" | "InstanceNormalization" | "GroupNormalization" => {
            0..node.inputs.len().min(3)
        }
        "Einsum" | "Concat" | "Sum" | "Max" | "Min" | "Mean" => 0..node.inputs.len(),
        _ => 0..0,
    }
}

/// An input that is empty and must not be.
fn empty_input(node: &Node) -> Option<Refusal> {
    let index = needed(node).find(|&index| node.inputs[index].is_empty())?;
    Some(Fault::EmptyInput.at(label(node), format!("is {} whose input {index} is empty", article(node))))
}

fn article(node: &Node) -> String {
    let vowel = node.operator.starts_with(['A', 'E', 'I', 'O', 'U']);
    format!("{} {}", if vowel { "an" } else { "a" }, node.operator)
}

/// What a node is called: its name, or that of what it makes.
pub(super) fn label<'a>(node: &Node<'a>) -> &'a str {
    if node.name.is_empty() { node.outputs.first().copied().unwrap_or(node.operator) } else { node.name }
}

/// Whether no tensor can have these sizes: some are negative, or their product is beyond what can be addressed.
fn is_impossible(sizes: &[u64]) -> bool {
    let count = sizes.iter().try_fold(16u64, |count, &size| count.checked_mul(size.max(1)));
    sizes.len() > MAX_VALUES || count.is_none_or(|count| i64::try_from(count).is_err())
}

fn described<T: fmt::Display>(sizes: &[T]) -> String {
    let shown: Vec<_> = sizes.iter().take(8).map(T::to_string).collect();
    format!("[{}{}]", shown.join(", "), if sizes.len() > 8 { ", …" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::macs::products;
    use crate::onnx::nodes::Unread;
    use crate::onnx::{activations, parse};

    fn shipped(name: &str) -> Vec<u8> {
        std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)).unwrap()
    }

    /// Everything that is asked of a stranger's graph.
    fn ask(bytes: &[u8]) {
        let Ok(graph) = parse(bytes) else { return };
        let outside = [0x7f; 64];
        let refusals = check(&graph, &|_| Some(&outside));
        assert!(refusals.len() <= MAX_REFUSALS, "{}", refusals.len());
        assert!(refusals.iter().all(|refusal| refusal.to_string().len() < 2000), "{refusals:?}");
        let inputs: Vec<_> =
            graph.inputs.iter().map(|input| (input.name.clone(), vec![2; input.sizes.len()])).collect();
        let _ = (products(&graph, &inputs), activations(&graph, &inputs));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for name in ["tests/models/tiny-sd/unet/model.onnx", "tests/models/external/model.onnx"] {
            let whole = shipped(name);
            for length in (0..whole.len()).step_by(5) {
                ask(&whole[..length]);
            }
            let mut bytes = whole;
            // Two bytes at a time, wherever a cheap generator of random numbers says.
            let mut random = 1u64;
            for _ in 0..5000 {
                let mut flip = || {
                    random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    ((random >> 33) as usize % bytes.len(), (random >> 24) as u8)
                };
                let flips = [flip(), flip()];
                flips.iter().for_each(|&(at, by)| bytes[at] ^= by);
                ask(&bytes);
                flips.iter().for_each(|&(at, by)| bytes[at] ^= by);
            }
        }
    }

    #[test]
    fn the_shipped_graphs_are_not_refused() {
        for stage in ["text_encoder", "unet", "vae_decoder"] {
            for precision in ["int8", "fp16"] {
                let bytes = shipped(&format!("models/emoji/{stage}.{precision}.onnx"));
                assert_eq!(check(&parse(&bytes).unwrap(), &|_| None), [], "{stage} {precision}");
            }
        }
    }

    /// A field of two bytes costs hundreds; a file of nothing else ends before it fills the memory.
    #[test]
    fn absurd_files_end_early() {
        let field = |number: u8, content: &[u8]| {
            let mut length = content.len();
            let mut bytes = vec![number << 3 | 2];
            while length >= 0x80 {
                bytes.push(length as u8 | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            [&bytes, content].concat()
        };
        let model = |graph: Vec<u8>| field(7, &graph);
        let many = |number: u8| field(number, b"").repeat(4 << 20);
        for (graph, expected) in [
            (many(1), Unread::TooManyNodes),
            (field(1, &many(1)), Unread::TooLarge),
            (field(1, &many(5)), Unread::TooLarge),
            (many(5), Unread::TooLarge),
            (many(11), Unread::TooLarge),
            (field(5, &field(1, &[1; 1 << 20])), Unread::Damaged),
        ] {
            assert_eq!(parse(&model(graph)).err(), Some(expected));
        }
        // Graphs in attributes of nodes of graphs, and so on.
        let mut nested = field(1, b"");
        for _ in 0..10 {
            nested = field(1, &field(5, &field(6, &nested)));
        }
        assert_eq!(parse(&model(nested)).err(), Some(Unread::Damaged));
    }

    #[test]
    fn every_fault_is_in_the_docs() {
        let docs = String::from_utf8(shipped("docs/inspect.md")).unwrap();
        let rows: Vec<_> = docs.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let known: Vec<_> = Fault::ALL.iter().map(|fault| serde_json::to_value(fault).unwrap()).collect();
        assert_eq!(rows, known);
    }

    #[test]
    fn the_newest_opset_is_told() {
        assert!(Fault::Opset.advice().ends_with(&NEWEST_OPSET.to_string()));
    }
}
