//! How many multiplications with addition (MACs) each node takes, and in which arithmetic.

use std::collections::HashMap;

use serde::Serialize;

use super::activations::{Known, follow};
use super::check::label;
use super::nodes::{Node, Parsed};
use super::{BFLOAT16, FLOAT, FLOAT16};

/// What numbers are multiplied in, as the graph is written; a provider may do otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// 8-bit integers, written as real numbers between quantisations (QDQ): providers fuse them.
    Int8Qdq,
    /// 8-bit integers, by operators that take them (QOperator).
    Int8Qoperator,
    /// Real numbers, with weights that are stored as integers.
    WeightOnly,
    /// Half precision, `bfloat16` included.
    Fp16,
    /// Single precision.
    Fp32,
    /// Anything else, or what does not follow from the graph.
    Other,
}

/// A node that multiplies.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Product<'a> {
    pub(crate) name: &'a str,
    pub(crate) operator: &'a str,
    pub(crate) arithmetic: Arithmetic,
    /// Nothing where sizes do not follow.
    pub(crate) macs: Option<u64>,
    /// Sizes of what it makes, as far as known.
    pub(crate) sizes: Vec<u64>,
}

/// The products of a graph, for inputs of these sizes, and of how many tensors no size follows.
pub(crate) fn products<'a>(graph: &'a Parsed, inputs: &'a [(String, Vec<u64>)]) -> (Vec<Product<'a>>, usize) {
    let order = graph.order();
    let (known, unknown) = follow(graph, &order, inputs);
    let types = types(graph, &order);
    let makers: HashMap<&str, &Node> =
        order.iter().flat_map(|node| node.outputs.iter().map(move |name| (*name, *node))).collect();
    let product = |node: &&'a Node<'a>| {
        if !PRODUCTS.contains(&node.operator) {
            return None;
        }
        let sizes = node.outputs.first().and_then(|name| known.get(name)).map(|tensor| tensor.sizes.clone());
        Some(Product {
            name: label(node),
            operator: node.operator,
            arithmetic: arithmetic(node, &makers, &types),
            macs: macs(node, &known),
            sizes: sizes.unwrap_or_default(),
        })
    };
    (order.iter().filter_map(product).collect(), unknown)
}

/// Operators that are counted: all others of diffusion models together take a few hundredths of the time.
#[rustfmt::skip]
const PRODUCTS: &[&str] = &[
    "Attention", "Conv", "ConvInteger", "ConvTranspose", "DynamicQuantizeMatMul", "Einsum", "FusedConv", "FusedGemm",
    "FusedMatMul", "Gemm", "MatMul", "MatMulBnb4", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits",
    "MultiHeadAttention", "NhwcConv", "NhwcFusedConv", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
];

fn macs(node: &Node, known: &HashMap<&str, Known>) -> Option<u64> {
    let sizes = |name: Option<&&str>| Some(known.get(*name?)?.sizes.as_slice());
    let input = |index: usize| sizes(node.inputs.get(index));
    let output = || sizes(node.outputs.first());
    let second = if matches!(node.operator, "QLinearConv" | "QLinearMatMul" | "QGemm") { 3 } else { 1 };
    match node.operator {
        "Conv" | "ConvInteger" | "FusedConv" | "NhwcConv" | "NhwcFusedConv" | "QLinearConv" => {
            product([output()?, input(second)?.get(1..)?].concat())
        }
        "ConvTranspose" => product([input(0)?, input(1)?.get(1..)?].concat()),
        "Attention" | "QAttention" if node.domain == "com.microsoft" => {
            let (&[batch, tokens, width], &[_, projected]) = (input(0)?, input(1)?) else { return None };
            let projections = product(vec![batch, tokens, width, projected])?;
            projections.checked_add(product(vec![2, batch, tokens, tokens, projected / 3])?)
        }
        "MultiHeadAttention" => {
            let (&[batch, tokens, width], &[_, others, _]) = (input(0)?, input(1)?) else { return None };
            product(vec![2, batch, tokens, others, width])
        }
        "Attention" | "Einsum" => None,
        "MatMulNBits" | "MatMulBnb4" => product([output()?, &[u64::try_from(node.integer("K")?).ok()?]].concat()),
        _ => {
            let first = input(0)?;
            let is_turned = node.integer("transA") == Some(1);
            let inner = if is_turned { first.len().checked_sub(2)? } else { first.len().checked_sub(1)? };
            product([output()?, &[*first.get(inner)?]].concat())
        }
    }
}

fn product(sizes: Vec<u64>) -> Option<u64> {
    sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(size))
}

/// `TensorProto.DataType` of each tensor, as far as it is told or follows.
fn types<'a>(graph: &'a Parsed, order: &[&'a Node]) -> HashMap<&'a str, u64> {
    let initializers = graph.initializers.iter().map(|(name, stored)| (*name, stored.constant.element_type));
    let inputs = graph.inputs.iter().map(|input| (input.name.as_str(), input.element_type));
    let mut types: HashMap<&str, u64> = inputs.chain(initializers).collect();
    for node in order {
        let input = |index: usize| node.inputs.get(index).and_then(|name| types.get(name)).copied();
        let element_type = match node.operator {
            "Cast" => node.integer("to").and_then(|to| u64::try_from(to).ok()),
            "Constant" | "ConstantOfShape" => node.constant().map_or(Some(FLOAT), |tensor| Some(tensor.element_type)),
            "DequantizeLinear" => input(1),
            "QuantizeLinear" => input(2).or(Some(2)),
            "Shape" | "Size" => Some(7),
            "Where" => input(1),
            _ => input(0),
        };
        if let Some(element_type) = element_type {
            types.extend(node.outputs.iter().map(|name| (*name, element_type)));
        }
    }
    types
}

fn arithmetic(node: &Node, makers: &HashMap<&str, &Node>, types: &HashMap<&str, u64>) -> Arithmetic {
    match node.operator {
        "MatMulNBits" | "MatMulBnb4" => return Arithmetic::WeightOnly,
        "ConvInteger"
        | "DynamicQuantizeMatMul"
        | "MatMulInteger"
        | "MatMulIntegerToFloat"
        | "QAttention"
        | "QGemm"
        | "QLinearConv"
        | "QLinearMatMul" => return Arithmetic::Int8Qoperator,
        _ => (),
    }
    let is_dequantised = |index: usize| node.inputs.get(index).is_some_and(|name| comes_from_integers(name, makers));
    let of_type = |element_type: u64| match element_type {
        FLOAT => Arithmetic::Fp32,
        FLOAT16 | BFLOAT16 => Arithmetic::Fp16,
        _ => Arithmetic::Other,
    };
    match (is_dequantised(0), is_dequantised(1)) {
        (true, true) => Arithmetic::Int8Qdq,
        (false, true) => Arithmetic::WeightOnly,
        (_, false) => node.inputs.first().and_then(|name| types.get(name)).map_or(Arithmetic::Other, |&of| of_type(of)),
    }
}

/// Whether a tensor undoes a quantisation, perhaps looked at in another way.
fn comes_from_integers(name: &str, makers: &HashMap<&str, &Node>) -> bool {
    let mut name = name;
    for _ in 0..4 {
        let Some(node) = makers.get(name) else { return false };
        match (node.operator, node.inputs.first()) {
            ("DequantizeLinear", _) => return true,
            ("Transpose" | "Reshape" | "Cast" | "Unsqueeze" | "Squeeze" | "Identity", Some(input)) => name = input,
            _ => return false,
        }
    }
    false
}
