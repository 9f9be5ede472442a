//! What a graph computes in between: sizes of its tensors, and the most of them that is alive at once.
//!
//! Sizes follow from the operators' definitions in the ONNX specification, as far as diffusion models use them. A tensor
//! whose size does not follow counts nothing and is told, so that the sum is a lower bound.

use std::collections::{HashMap, HashSet};

use super::nodes::{Constant, MAX_VALUES, Node, Parsed};

/// Tensors that a graph computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Activations {
    /// The most bytes of them that are alive at once, the graph's outputs included and its inputs not.
    pub(crate) bytes: u64,
    /// How many have a size that is not known.
    pub(crate) unknown: usize,
}

/// A tensor as far as it is known.
pub(super) type Known = Constant;

/// Operators whose output is as large as their first input.
const SAME: &[&str] = &[
    "Abs",
    "BiasGelu",
    "Cast",
    "Clip",
    "Cos",
    "CumSum",
    "DequantizeLinear",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "FastGelu",
    "Floor",
    "Gelu",
    "GroupNorm",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "MultiHeadAttention",
    "Neg",
    "Not",
    "QuantizeLinear",
    "QuickGelu",
    "Reciprocal",
    "Relu",
    "Sigmoid",
    "Silu",
    "Sin",
    "SkipLayerNormalization",
    "Softmax",
    "Softplus",
    "Sqrt",
    "Tanh",
];

/// Operators whose output is as large as their inputs, each repeated where it is 1.
const BROADCAST: &[&str] = &[
    "Add",
    "And",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "Pow",
    "Sub",
    "Where",
];

/// Operators that only look at their input in another way.
const VIEWS: &[&str] = &["Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"];

/// Those that ONNX Runtime writes into the memory of an input that nobody needs any more.
const IN_PLACE: &[&str] = &["Add", "Clip", "Div", "Erf", "Exp", "Mul", "Relu", "Sigmoid", "Sqrt", "Sub", "Tanh"];

/// Follows a graph's tensors from the sizes of its inputs.
pub(crate) fn activations(graph: &Parsed, inputs: &[(String, Vec<u64>)]) -> Activations {
    let order = graph.order();
    let (known, unknown) = follow(graph, &order, inputs);
    Activations { bytes: most_alive(graph, &order, &known), unknown }
}

/// What is known of a graph's tensors, and of how many that it computes nothing is.
pub(super) fn follow<'a>(
    graph: &'a Parsed,
    order: &[&'a Node],
    inputs: &'a [(String, Vec<u64>)],
) -> (HashMap<&'a str, Known>, usize) {
    let initializers = graph.initializers.iter().map(|(name, stored)| (*name, stored.constant.clone()));
    let inputs = inputs.iter().map(|(name, sizes)| (name.as_str(), Known { sizes: sizes.clone(), ..Known::default() }));
    let mut known: HashMap<&str, Known> = initializers.chain(inputs).collect();
    let mut unknown = 0;
    for &node in order {
        let inputs: Vec<_> = node.inputs.iter().map(|name| known.get(name)).collect();
        let mut outputs = infer(node, &inputs).unwrap_or_default();
        // A damaged file may ask for tensors whose very sizes would fill the memory.
        if outputs.iter().any(|tensor| tensor.sizes.len() > MAX_VALUES) {
            outputs.clear();
        }
        unknown += node.outputs.iter().filter(|name| !name.is_empty()).count().saturating_sub(outputs.len());
        known.extend(node.outputs.iter().copied().zip(outputs));
    }
    (known, unknown)
}

/// The most bytes that are alive at once while the nodes run in their order.
fn most_alive(graph: &Parsed, order: &[&Node], known: &HashMap<&str, Known>) -> u64 {
    let dequantised = order.iter().filter(|node| node.operator == "DequantizeLinear");
    let quantised: HashSet<&str> = dequantised.flat_map(|node| node.outputs.iter().copied()).collect();
    let mut blocks = Blocks::new(graph);
    let mut most = 0;
    for node in order {
        let in_place = IN_PLACE.contains(&node.operator);
        let mut freed = blocks.read(node);
        if in_place {
            blocks.free(&mut freed);
        }
        for name in &node.outputs {
            let bytes = known.get(name).map_or(0, |tensor| tensor_bytes(node.operator, tensor));
            blocks.write(node, name, bytes, &mut freed);
        }
        most = most.max(blocks.alive.saturating_add(workspace(node, known, &quantised)));
        blocks.free(&mut freed);
    }
    most
}

/// Memory of computed tensors. A view keeps the tensor alive that it looks at: both are one block.
struct Blocks<'a> {
    /// How often each tensor is read, by whatever; an output of the graph once more.
    readers: HashMap<&'a str, usize>,
    /// Which tensors are read by a quantisation, which then is part of the operator that computes them.
    quantised: HashSet<&'a str>,
    /// The tensor whose block a tensor lies in.
    block_of: HashMap<&'a str, &'a str>,
    /// Bytes of each block, and how often it will be read yet.
    blocks: HashMap<&'a str, (u64, usize)>,
    alive: u64,
}

impl<'a> Blocks<'a> {
    fn new(graph: &'a Parsed) -> Self {
        let outputs = graph.outputs.iter().map(|output| (output.name.as_str(), 1));
        let mut readers: HashMap<&str, usize> = outputs.collect();
        let mut quantised = HashSet::new();
        for node in &graph.nodes {
            node.inputs.iter().for_each(|name| *readers.entry(name).or_default() += 1);
            quantised.extend(node.inputs.first().filter(|_| node.operator == "QuantizeLinear"));
        }
        quantised.retain(|name| readers.get(name) == Some(&1));
        Self { readers, quantised, block_of: HashMap::new(), blocks: HashMap::new(), alive: 0 }
    }

    /// A node reads its inputs; returns the bytes that nobody needs any more.
    fn read(&mut self, node: &Node) -> u64 {
        let mut freed = 0u64;
        for name in &node.inputs {
            let Some((bytes, waiting)) = self.block_of.get(name).and_then(|block| self.blocks.get_mut(block)) else {
                continue;
            };
            *waiting = waiting.saturating_sub(1);
            freed = freed.saturating_add(if *waiting == 0 { *bytes } else { 0 });
        }
        freed
    }

    /// A node gives an output.
    fn write(&mut self, node: &Node<'a>, name: &'a str, bytes: u64, freed: &mut u64) {
        let readers = self.readers.get(name).copied().unwrap_or(0);
        let looked_at = node.inputs.first().and_then(|input| self.block_of.get(input)).copied();
        if let Some(block) = looked_at.filter(|_| VIEWS.contains(&node.operator)) {
            let (bytes, waiting) = self.blocks.entry(block).or_default();
            *freed = freed.saturating_sub(if *waiting == 0 && readers > 0 { *bytes } else { 0 });
            *waiting = waiting.saturating_add(readers);
            self.block_of.insert(name, block);
            return;
        }
        let bytes = if self.quantised.contains(name) { 0 } else { bytes };
        self.alive = self.alive.saturating_add(bytes);
        self.block_of.insert(name, name);
        self.blocks.insert(name, (bytes, readers));
        *freed = freed.saturating_add(if readers == 0 { bytes } else { 0 });
    }

    fn free(&mut self, freed: &mut u64) {
        self.alive = self.alive.saturating_sub(std::mem::take(freed));
    }
}

/// Bytes of what an operator computes on the CPU: real numbers in single precision, quantised ones in a byte. What
/// undoes a quantisation becomes part of the operator that follows.
fn tensor_bytes(operator: &str, tensor: &Known) -> u64 {
    let element_bytes = match operator {
        "DequantizeLinear" | "Constant" => 0,
        "QuantizeLinear" | "DynamicQuantizeLinear" => 1,
        _ => 4,
    };
    tensor.sizes.iter().fold(element_bytes, |bytes: u64, &size| bytes.saturating_mul(size))
}

/// Channels from which on ONNX Runtime's convolutions work on blocks of them.
const BLOCK: u64 = 16;

/// Bytes that a convolution unrolls its input into. Measured with single convolutions at 512×512: quantised ones do it
/// where they give fewer channels than a block, such as the last of a decoder, those of real numbers where they take
/// fewer, too.
fn workspace(node: &Node, known: &HashMap<&str, Known>, quantised: &HashSet<&str>) -> u64 {
    let sizes = |name: Option<&&str>| Some(known.get(*name?)?.sizes.as_slice());
    let unrolled = || {
        let (output, weights) = (sizes(node.outputs.first())?, sizes(node.inputs.get(1))?);
        let (&gives, &takes) = (weights.first()?, weights.get(1)?);
        let element_bytes = match quantised.contains(node.inputs.first()?) {
            true if gives < BLOCK => 1,
            false if gives < BLOCK && takes < BLOCK => 4,
            _ => return None,
        };
        count(weights.get(1..)?)?.checked_mul(count(output.get(2..)?)?)?.checked_mul(element_bytes)
    };
    if node.operator == "Conv" { unrolled().unwrap_or(0) } else { 0 }
}

/// The outputs of a node; nothing where they do not follow from what is known.
fn infer(node: &Node, inputs: &[Option<&Known>]) -> Option<Vec<Known>> {
    let input = |index: usize| inputs.get(index).copied().flatten();
    let sizes = |index: usize| input(index).map(|tensor| tensor.sizes.as_slice());
    let values = |index: usize| input(index)?.values.as_deref();
    let of = |sizes: Vec<u64>| Known { sizes, ..Known::default() };
    let operator = node.operator;
    let one = match operator {
        // Its tensors have their channels last.
        _ if node.domain == "com.ms.internal.nhwc" => return None,
        "Constant" => node.constant()?,
        "Shape" => {
            let values: Vec<_> = sizes(0)?.iter().map(|&size| size as f64).collect();
            Known { sizes: vec![values.len() as u64], values: Some(values), ..Known::default() }
        }
        "Split" => return split(node, sizes(0)?, values(1)),
        "DynamicQuantizeLinear" => return Some(vec![of(sizes(0)?.to_vec()), of(vec![]), of(vec![])]),
        _ if SAME.contains(&operator) => input(0)?.clone(),
        _ if BROADCAST.contains(&operator) => broadcast(operator, inputs)?,
        "Conv" | "ConvInteger" | "FusedConv" => of(convolve(node, sizes(0)?, sizes(1)?)?),
        "QLinearConv" => of(convolve(node, sizes(0)?, sizes(3)?)?),
        "ConvTranspose" => of(convolve_back(node, sizes(0)?, sizes(1)?)?),
        "MatMul" | "MatMulInteger" | "MatMulIntegerToFloat" | "DynamicQuantizeMatMul" => {
            of(multiply(sizes(0)?, sizes(1)?)?)
        }
        "QLinearMatMul" => of(multiply(sizes(0)?, sizes(3)?)?),
        "MatMulNBits" => {
            let (_, rest) = sizes(0)?.split_last()?;
            of([rest, &[u64::try_from(node.integer("N")?).ok()?]].concat())
        }
        "FusedMatMul" => of(multiply(&turned(sizes(0)?, node, "transA")?, &turned(sizes(1)?, node, "transB")?)?),
        "Attention" | "QAttention" if node.domain == "com.microsoft" => {
            let (&[batch, tokens, _], &[_, projected]) = (sizes(0)?, sizes(1)?) else { return None };
            of(vec![batch, tokens, projected / 3])
        }
        "Gemm" | "FusedGemm" => {
            let row = |index, flag| pick(sizes(index)?, usize::from(node.integer(flag) == Some(1)));
            let column = |index, flag| pick(sizes(index)?, usize::from(node.integer(flag) != Some(1)));
            of(vec![row(0, "transA")?, column(1, "transB")?])
        }
        "Gather" => gather(node, input(0)?, input(1)?)?,
        "Concat" => concatenate(node, inputs)?,
        "Slice" => slice(inputs)?,
        "Reshape" => Known { sizes: reshape(sizes(0)?, values(1)?)?, ..input(0)?.clone() },
        "Flatten" => of(vec![1, count(sizes(0)?)?]),
        "Unsqueeze" => Known { sizes: unsqueeze(sizes(0)?, &axes(node, values(1))?)?, ..input(0)?.clone() },
        "Squeeze" => Known { sizes: squeeze(sizes(0)?, &axes(node, values(1))?), ..input(0)?.clone() },
        "Transpose" => {
            let order = node.integers("perm")?;
            let sizes_after = order.iter().map(|&axis| pick(sizes(0)?, axis as usize)).collect::<Option<_>>()?;
            Known { values: transposed(input(0)?, order), ..of(sizes_after) }
        }
        // Of a part of the axes where there is a fourth input.
        "Pad" if inputs.len() < 4 => of(pad(node, sizes(0)?, values(1))?),
        "Expand" => of(broadcast_sizes(sizes(0)?, &whole(values(1)?))?),
        "ConstantOfShape" => {
            let sizes = whole(values(0)?);
            let fill = node.constant().and_then(|fill| fill.values?.first().copied()).unwrap_or(0.0);
            let values = count(&sizes).filter(|&count| count <= MAX_VALUES as u64);
            Known { values: values.map(|count| vec![fill; count as usize]), sizes, ..Known::default() }
        }
        "ReduceMean" | "ReduceSum" | "ReduceMax" => of(reduce(node, sizes(0)?, values(1))?),
        "Resize" | "Upsample" => of(resize(sizes(0)?, values(inputs.len().min(3) - 1), values(3))?),
        "DepthToSpace" => {
            let (&[batch, channels, height, width], block) = (sizes(0)?, node.integer("blocksize")? as u64) else {
                return None;
            };
            let channels = channels.checked_div(block.checked_mul(block)?)?;
            of(vec![batch, channels, height.checked_mul(block)?, width.checked_mul(block)?])
        }
        "Range" => {
            let (&[start], &[limit], &[delta]) = (values(0)?, values(1)?, values(2)?) else { return None };
            of(vec![((limit - start) / delta).ceil().max(0.0) as u64])
        }
        _ => return None,
    };
    Some(vec![one])
}

/// The values of a matrix whose rows become columns; others are not followed.
fn transposed(matrix: &Known, order: &[i64]) -> Option<Vec<f64>> {
    let (values, &[rows, columns]) = (matrix.values.as_ref()?, &matrix.sizes[..]) else { return None };
    let at = |column: u64, row: u64| values.get((row * columns + column) as usize).copied();
    let all = (0..columns).flat_map(|column| (0..rows).map(move |row| (column, row)));
    if order == [1, 0] { all.map(|(column, row)| at(column, row)).collect() } else { None }
}

fn pick(sizes: &[u64], axis: usize) -> Option<u64> {
    sizes.get(axis).copied()
}

fn count(sizes: &[u64]) -> Option<u64> {
    sizes.iter().try_fold(1u64, |count, &size| count.checked_mul(size))
}

fn whole(values: &[f64]) -> Vec<u64> {
    values.iter().map(|&value| value.max(0.0) as u64).collect()
}

/// The index of an axis, which counts from the end where it is negative.
fn axis(axis: i64, rank: usize) -> Option<usize> {
    usize::try_from(if axis < 0 { axis.checked_add(rank as i64)? } else { axis }).ok()
}

/// Axes as an attribute, or as an input from opset 13 on.
fn axes(node: &Node, values: Option<&[f64]>) -> Option<Vec<i64>> {
    let given = values.map(|values| values.iter().map(|&value| value as i64).collect());
    given.or_else(|| node.integers("axes").map(<[_]>::to_vec))
}

fn broadcast_sizes(a: &[u64], b: &[u64]) -> Option<Vec<u64>> {
    let rank = a.len().max(b.len());
    let size = |sizes: &[u64], axis: usize| (axis + sizes.len()).checked_sub(rank).map_or(1, |at| sizes[at]);
    let both = |axis| match (size(a, axis), size(b, axis)) {
        (1, size) | (size, 1) => Some(size),
        (a, b) => (a == b).then_some(a),
    };
    (0..rank).map(both).collect()
}

fn broadcast(operator: &str, inputs: &[Option<&Known>]) -> Option<Known> {
    let mut sizes = Vec::new();
    for input in inputs {
        sizes = broadcast_sizes(&sizes, &input.as_ref()?.sizes)?;
    }
    let values =
        inputs.iter().map(|input| input.and_then(|tensor| tensor.values.as_deref())).collect::<Option<Vec<_>>>();
    let values = values.and_then(|values| {
        let length = values.iter().map(|values| values.len()).max()?;
        let at = |input: usize, index: usize| {
            values.get(input)?.get(if values[input].len() == 1 { 0 } else { index }).copied()
        };
        (0..length).map(|index| compute(operator, at(0, index)?, at(1, index)?, || at(2, index))).collect()
    });
    Some(Known { sizes, values, ..Known::default() })
}

/// One element of what shapes are computed with.
fn compute(operator: &str, a: f64, b: f64, third: impl Fn() -> Option<f64>) -> Option<f64> {
    Some(match operator {
        "Add" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        // Sizes are whole: a quotient of them is cut, as ONNX cuts it.
        "Div" => (a / b).trunc(),
        "Equal" => f64::from(u8::from(a == b)),
        "Where" => return if a != 0.0 { Some(b) } else { third() },
        _ => return None,
    })
}

fn convolve(node: &Node, input: &[u64], weights: &[u64]) -> Option<Vec<u64>> {
    let axes = input.len().checked_sub(2).filter(|_| weights.len() == input.len())?;
    let attribute =
        |name, axis: usize, usual| node.integers(name).and_then(|all| all.get(axis).copied()).unwrap_or(usual);
    let mut sizes = vec![input[0], pick(weights, 0)?];
    for index in 0..axes {
        let (size, kernel) = (input[index + 2] as i64, pick(weights, index + 2)? as i64);
        let stride = attribute("strides", index, 1);
        let size = if node.text("auto_pad").starts_with("SAME") {
            size.checked_add(stride.checked_sub(1)?)?.checked_div(stride)?
        } else {
            let pads = attribute("pads", index, 0).checked_add(attribute("pads", index + axes, 0))?;
            let reach = attribute("dilations", index, 1).checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
            size.checked_add(pads)?.checked_sub(reach)?.checked_div(stride)?.checked_add(1)?
        };
        sizes.push(u64::try_from(size).ok()?);
    }
    Some(sizes)
}

fn convolve_back(node: &Node, input: &[u64], weights: &[u64]) -> Option<Vec<u64>> {
    let axes = input.len().checked_sub(2).filter(|_| weights.len() == input.len())?;
    let attribute =
        |name, axis: usize, usual| node.integers(name).and_then(|all| all.get(axis).copied()).unwrap_or(usual);
    let groups = node.integer("group").unwrap_or(1) as u64;
    let mut sizes = vec![input[0], pick(weights, 1)?.checked_mul(groups)?];
    for index in 0..axes {
        let (size, kernel) = (input[index + 2] as i64, pick(weights, index + 2)? as i64);
        let pads = attribute("pads", index, 0).checked_add(attribute("pads", index + axes, 0))?;
        let reach = attribute("dilations", index, 1).checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
        let size = attribute("strides", index, 1).checked_mul(size.checked_sub(1)?)?.checked_add(reach)?;
        let size = size.checked_add(attribute("output_padding", index, 0))?.checked_sub(pads)?;
        sizes.push(u64::try_from(size).ok()?);
    }
    Some(sizes)
}

fn multiply(a: &[u64], b: &[u64]) -> Option<Vec<u64>> {
    let ([batch_a @ .., rows, _], [batch_b @ .., _, columns]) = (a, b) else { return None };
    let mut sizes = broadcast_sizes(batch_a, batch_b)?;
    sizes.extend([rows, columns]);
    Some(sizes)
}

/// Sizes of a matrix, its rows and columns swapped where an attribute says so.
fn turned(sizes: &[u64], node: &Node, flag: &str) -> Option<Vec<u64>> {
    let mut sizes = sizes.to_vec();
    if node.integer(flag) == Some(1) {
        let rows = sizes.len().checked_sub(2)?;
        sizes.swap(rows, rows + 1);
    }
    Some(sizes)
}

fn gather(node: &Node, data: &Known, indices: &Known) -> Option<Known> {
    let axis = axis(node.integer("axis").unwrap_or(0), data.sizes.len())?;
    let sizes = [data.sizes.get(..axis)?, &indices.sizes, data.sizes.get(axis + 1..)?].concat();
    let taken = |(data, indices): (&Vec<f64>, &Vec<f64>)| {
        let at = |&index: &f64| data.get(self::axis(index as i64, data.len())?).copied();
        indices.iter().map(at).collect::<Option<Vec<_>>>()
    };
    let values = data.values.as_ref().zip(indices.values.as_ref()).filter(|_| data.sizes.len() == 1).and_then(taken);
    Some(Known { sizes, values, ..Known::default() })
}

fn concatenate(node: &Node, inputs: &[Option<&Known>]) -> Option<Known> {
    let tensors = inputs.iter().copied().collect::<Option<Vec<_>>>()?;
    let mut sizes = tensors.first()?.sizes.clone();
    let axis = axis(node.integer("axis")?, sizes.len())?;
    let along = tensors.iter().map(|tensor| pick(&tensor.sizes, axis)).collect::<Option<Vec<_>>>()?;
    *sizes.get_mut(axis)? = along.iter().try_fold(0u64, |sum, &size| sum.checked_add(size))?;
    let values = tensors.iter().map(|tensor| tensor.values.clone()).collect::<Option<Vec<_>>>();
    let values = values.map(|values| values.concat()).filter(|values| sizes.len() == 1 && values.len() <= MAX_VALUES);
    Some(Known { sizes, values, ..Known::default() })
}

fn split(node: &Node, sizes: &[u64], parts: Option<&[f64]>) -> Option<Vec<Known>> {
    let axis = axis(node.integer("axis").unwrap_or(0), sizes.len())?;
    let whole = pick(sizes, axis)?;
    let given = parts.map(self::whole);
    let given = given.or_else(|| node.integers("split").map(|parts| parts.iter().map(|&part| part as u64).collect()));
    let count = node.outputs.len() as u64;
    let parts = given.unwrap_or_else(|| (0..count).map(|_| whole.div_ceil(count.max(1))).collect());
    let part = |size: u64| {
        let mut sizes = sizes.to_vec();
        sizes[axis] = size;
        Known { sizes, ..Known::default() }
    };
    Some(parts.into_iter().map(part).collect())
}

fn slice(inputs: &[Option<&Known>]) -> Option<Known> {
    let data = inputs.first().copied().flatten()?;
    let values = |index: usize| inputs.get(index).copied().flatten()?.values.as_deref();
    let (starts, ends) = (values(1)?, values(2)?);
    let (mut sizes, mut kept) = (data.sizes.clone(), data.values.clone());
    for (index, (&start, &end)) in starts.iter().zip(ends).enumerate() {
        let along = values(3).map_or(index as i64, |axes| axes.get(index).map_or(0, |&axis| axis as i64));
        let along = axis(along, data.sizes.len())?;
        let step = values(4).and_then(|steps| steps.get(index).copied()).unwrap_or(1.0);
        let size = sizes.get_mut(along)?;
        let (first, count) = picked((start, end, step), *size as f64)?;
        *size = count;
        // Values are followed where whole rows are picked.
        let rows = data.sizes.first().map_or(0, |&rows| rows as usize);
        let row = kept.as_ref().and_then(|all| all.len().checked_div(rows)).unwrap_or(0);
        let rows = (0..count).map(|i| (first + i as f64 * step) as usize * row);
        kept = kept.filter(|_| along == 0 && count <= MAX_VALUES as u64).and_then(|all| {
            let rows = rows.map(|start| all.get(start..start.checked_add(row)?));
            Some(rows.collect::<Option<Vec<_>>>()?.concat())
        });
    }
    Some(Known { sizes, values: kept, ..Known::default() })
}

/// The first index that a slice picks of so many, and how many it picks (ONNX's Slice).
fn picked((start, end, step): (f64, f64, f64), size: f64) -> Option<(f64, u64)> {
    let from_end = |at: f64| if at < 0.0 { at + size } else { at };
    let (first, end) = if step >= 1.0 {
        (from_end(start).clamp(0.0, size), from_end(end).clamp(0.0, size))
    } else if step <= -1.0 && size >= 1.0 {
        (from_end(start).clamp(0.0, size - 1.0), from_end(end).clamp(-1.0, size - 1.0))
    } else {
        return None;
    };
    Some((first, ((end - first) / step).ceil().max(0.0) as u64))
}

/// Sizes with what is put before and behind each axis; less than nothing cuts.
fn pad(node: &Node, sizes: &[u64], values: Option<&[f64]>) -> Option<Vec<u64>> {
    let attribute = || Some(node.integers("pads")?.iter().map(|&pad| pad as f64).collect());
    let pads: Vec<f64> = values.map(<[f64]>::to_vec).or_else(attribute)?;
    let (before, behind) = pads.split_at_checked(sizes.len()).filter(|(_, behind)| behind.len() == sizes.len())?;
    let size = |((&size, before), behind): ((&u64, &f64), &f64)| {
        let padded = size as f64 + before + behind;
        (padded >= 0.0).then_some(padded as u64)
    };
    sizes.iter().zip(before).zip(behind).map(size).collect()
}

fn reshape(sizes: &[u64], wanted: &[f64]) -> Option<Vec<u64>> {
    let size = |(axis, &size): (usize, &f64)| match size {
        0.0 => pick(sizes, axis),
        size if size < 0.0 => Some(1),
        size => Some(size as u64),
    };
    let mut reshaped = wanted.iter().enumerate().map(size).collect::<Option<Vec<_>>>()?;
    if let Some(rest) = wanted.iter().position(|&size| size < 0.0) {
        reshaped[rest] = count(sizes)?.checked_div(count(&reshaped)?)?;
    }
    (count(&reshaped) == count(sizes)).then_some(reshaped)
}

fn unsqueeze(sizes: &[u64], axes: &[i64]) -> Option<Vec<u64>> {
    let rank = sizes.len() + axes.len();
    let axes = axes.iter().map(|&at| axis(at, rank)).collect::<Option<Vec<_>>>()?;
    let mut rest = sizes.iter().copied();
    (0..rank).map(|axis| if axes.contains(&axis) { Some(1) } else { rest.next() }).collect()
}

fn squeeze(sizes: &[u64], axes: &[i64]) -> Vec<u64> {
    let axes: Vec<_> = axes.iter().filter_map(|&at| axis(at, sizes.len())).collect();
    sizes.iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, &size)| size).collect()
}

fn reduce(node: &Node, sizes: &[u64], values: Option<&[f64]>) -> Option<Vec<u64>> {
    let Some(axes) = axes(node, values) else { return Some(vec![1; sizes.len()]) };
    match node.integer("keepdims") {
        Some(0) => Some(squeeze(sizes, &axes)),
        _ => {
            let axes = axes.iter().map(|&at| axis(at, sizes.len())).collect::<Option<Vec<_>>>()?;
            Some(sizes.iter().enumerate().map(|(axis, &size)| if axes.contains(&axis) { 1 } else { size }).collect())
        }
    }
}

/// By a factor an axis, or to sizes.
fn resize(sizes: &[u64], scales: Option<&[f64]>, wanted: Option<&[f64]>) -> Option<Vec<u64>> {
    match (wanted, scales) {
        (Some(wanted), _) => Some(whole(wanted)),
        (None, Some(scales)) if scales.len() == sizes.len() => {
            Some(sizes.iter().zip(scales).map(|(&size, &scale)| (size as f64 * scale) as u64).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::nodes::tests::node;
    use crate::onnx::{Tensor, parse};

    fn sized(sizes: &[u64]) -> Known {
        Known { sizes: sizes.to_vec(), ..Known::default() }
    }

    fn valued(values: &[f64]) -> Known {
        Known { sizes: vec![values.len() as u64], values: Some(values.to_vec()), ..Known::default() }
    }

    /// Sizes of a node's outputs, by the definitions of the ONNX specification.
    #[test]
    fn sizes_follow_from_operators() {
        let image = || sized(&[1, 8, 6, 4]);
        type Case<'a> = (&'a str, &'a [(&'a str, &'a [i64])], Vec<Known>, &'a [&'a [u64]]);
        let cases: Vec<Case> = vec![
            ("Conv", &[("pads", &[1; 4])], vec![image(), sized(&[16, 8, 3, 3])], &[&[1, 16, 6, 4]]),
            (
                "Conv",
                &[("strides", &[2, 2]), ("pads", &[1; 4])],
                vec![image(), sized(&[16, 8, 3, 3])],
                &[&[1, 16, 3, 2]],
            ),
            ("Conv", &[("dilations", &[2, 1])], vec![image(), sized(&[16, 8, 3, 3])], &[&[1, 16, 2, 2]]),
            ("ConvTranspose", &[("strides", &[8, 8])], vec![image(), sized(&[8, 3, 8, 8])], &[&[1, 3, 48, 32]]),
            ("MatMul", &[], vec![sized(&[2, 1, 5, 7]), sized(&[3, 7, 4])], &[&[2, 3, 5, 4]]),
            ("Gemm", &[("transB", &[1])], vec![sized(&[5, 7]), sized(&[9, 7])], &[&[5, 9]]),
            ("Add", &[], vec![sized(&[2, 1, 4]), sized(&[3, 1])], &[&[2, 3, 4]]),
            ("Reshape", &[], vec![image(), valued(&[0.0, -1.0, 12.0])], &[&[1, 16, 12]]),
            ("Unsqueeze", &[], vec![sized(&[3, 4]), valued(&[0.0, -1.0])], &[&[1, 3, 4, 1]]),
            ("Squeeze", &[("axes", &[0])], vec![image()], &[&[8, 6, 4]]),
            ("Transpose", &[("perm", &[0, 2, 3, 1])], vec![image()], &[&[1, 6, 4, 8]]),
            ("Concat", &[("axis", &[1])], vec![image(), image()], &[&[1, 16, 6, 4]]),
            ("Split", &[("axis", &[-1])], vec![image()], &[&[1, 8, 6, 2], &[1, 8, 6, 2]]),
            ("Slice", &[], vec![image(), valued(&[-3.0]), valued(&[1e18]), valued(&[1.0])], &[&[1, 3, 6, 4]]),
            (
                "Slice",
                &[],
                vec![image(), valued(&[-1.0]), valued(&[-1e18]), valued(&[2.0]), valued(&[-2.0])],
                &[&[1, 8, 3, 4]],
            ),
            ("Pad", &[("pads", &[0, 0, 1, 1, 0, 0, 2, -3])], vec![image()], &[&[1, 8, 9, 2]]),
            ("Gather", &[("axis", &[0])], vec![sized(&[99, 16]), sized(&[1, 7])], &[&[1, 7, 16]]),
            ("Resize", &[], vec![image(), sized(&[0]), valued(&[1.0, 1.0, 2.0, 2.0])], &[&[1, 8, 12, 8]]),
            ("DepthToSpace", &[("blocksize", &[2])], vec![image()], &[&[1, 2, 12, 8]]),
            ("ReduceMean", &[("axes", &[-1]), ("keepdims", &[0])], vec![image()], &[&[1, 8, 6]]),
            ("Expand", &[], vec![sized(&[3, 1]), valued(&[2.0, 1.0, 4.0])], &[&[2, 3, 4]]),
            ("Shape", &[], vec![image()], &[&[4]]),
        ];
        for (operator, attributes, inputs, expected) in cases {
            let node =
                node(operator, &["a", "b", "c", "d", "e"][..inputs.len()], &["y", "z"][..expected.len()], attributes);
            let inputs: Vec<_> = inputs.iter().map(Some).collect();
            let outputs = infer(&node, &inputs).unwrap_or_default();
            assert_eq!(outputs.iter().map(|known| &known.sizes[..]).collect::<Vec<_>>(), expected, "{operator}");
        }
    }

    #[test]
    fn what_does_not_follow_is_not_guessed() {
        let (a, b) = (sized(&[2, 3]), sized(&[5]));
        for operator in ["Add", "Reshape", "MatMul", "NonZero", "Conv", "Concat", "Slice"] {
            assert_eq!(infer(&node(operator, &["a", "b"], &["y"], &[]), &[Some(&a), Some(&b)]), None, "{operator}");
        }
    }

    fn alive(nodes: Vec<Node>) -> u64 {
        let outputs = vec![Tensor { name: "out".into(), ..Tensor::default() }];
        let graph = Parsed { nodes, outputs, ..Parsed::default() };
        let (order, inputs) = (graph.order(), [("in".to_owned(), vec![10])]);
        most_alive(&graph, &order, &follow(&graph, &order, &inputs).0)
    }

    #[test]
    fn tensors_live_until_they_are_read_last() {
        let step = |operator, input, output| node(operator, &[input], &[output], &[]);
        // Two at a time, of ten numbers each.
        assert_eq!(alive(vec![step("Cos", "in", "a"), step("Cos", "a", "b"), step("Cos", "b", "out")]), 80);
        // Written over what they read.
        assert_eq!(alive(vec![step("Cos", "in", "a"), step("Relu", "a", "b"), step("Tanh", "b", "out")]), 40);
        // "a" is read again at the end.
        let skip = vec![
            step("Cos", "in", "a"),
            step("Cos", "a", "b"),
            node("Concat", &["a", "b"], &["out"], &[("axis", &[0])]),
        ];
        assert_eq!(alive(skip), 160);
        // A view is no copy, and keeps what it looks at.
        let view = node("Unsqueeze", &["a"], &["b"], &[("axes", &[0])]);
        assert_eq!(alive(vec![step("Cos", "in", "a"), view, step("Cos", "b", "out")]), 80);
        // A quantisation is part of what comes before it, and its undoing of what comes after.
        let quantised =
            vec![step("Cos", "in", "a"), step("QuantizeLinear", "a", "b"), step("DequantizeLinear", "b", "c")];
        assert_eq!(alive(quantised), 10);
    }

    fn shipped(name: &str) -> Vec<u8> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        std::fs::read(folder.join(name)).unwrap()
    }

    #[test]
    fn every_tensor_of_the_shipped_graphs_is_followed() {
        let input = |name: &str, sizes: &[u64]| (name.to_owned(), sizes.to_vec());
        let text = [input("input_ids", &[1, 16])];
        let latent = [input("latent_sample", &[1, 24, 8, 8])];
        let step =
            [input("sample", &[2, 24, 8, 8]), input("timestep", &[1]), input("encoder_hidden_states", &[2, 16, 192])];
        for precision in ["int8", "fp16"] {
            for (file, inputs, output) in [
                ("text_encoder", &text[..], &[1, 16, 192][..]),
                ("unet", &step, &[2, 24, 8, 8]),
                ("vae_decoder", &latent, &[1, 3, 128, 128]),
            ] {
                let bytes = shipped(&format!("models/emoji/{file}.{precision}.onnx"));
                let graph = parse(&bytes).unwrap();
                let (known, unknown) = follow(&graph, &graph.order(), inputs);
                assert_eq!(
                    (unknown, &known[graph.outputs[0].name.as_str()].sizes[..]),
                    (0, output),
                    "{file} {precision}"
                );
            }
        }
    }

    /// PyTorch writes pads as values that are turned and cut: what it pads with is computed in the graph.
    #[test]
    fn every_tensor_of_an_encoder_from_pytorch_is_followed() {
        let bytes = shipped("tests/models/families/sd15/vae_encoder/model.onnx");
        let graph = parse(&bytes).unwrap();
        let inputs = [("sample".to_owned(), vec![1, 3, 64, 64])];
        let (known, unknown) = follow(&graph, &graph.order(), &inputs);
        assert_eq!((unknown, &known["latent_parameters"].sizes[..]), (0, &[1, 8, 8, 8][..]));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = shipped("tests/models/tiny-sd/unet/model.onnx");
        let sizes = |size| vec![("sample".to_owned(), vec![1, 4, size, size]), ("timestep".to_owned(), vec![])];
        for length in (0..whole.len()).step_by(3) {
            let _ = parse(&whole[..length]).map(|graph| activations(&graph, &sizes(8)));
        }
        let mut bytes = whole;
        for index in 0..bytes.len() {
            let flip = [0xff, 0x01, 0x80][index % 3];
            bytes[index] ^= flip;
            let _ = parse(&bytes).map(|graph| activations(&graph, &sizes(8)));
            bytes[index] ^= flip;
        }
        let _ = parse(&bytes).map(|graph| activations(&graph, &sizes(u64::MAX)));
    }
}
