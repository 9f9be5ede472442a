//! The nodes of a graph, with as much of their attributes and constants as shapes depend on.
//!
//! Field numbers: `onnx.proto` of the ONNX specification.

use std::collections::{BTreeSet, HashMap};

use super::{FLOAT, Value, fields, take_varint};

/// A graph's nodes, in an order in which they can run.
#[derive(Default)]
pub(super) struct Nodes<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) initializers: HashMap<&'a str, Constant>,
    pub(super) outputs: Vec<&'a str>,
}

#[derive(Default)]
pub(super) struct Node<'a> {
    pub(super) operator: &'a str,
    pub(super) inputs: Vec<&'a str>,
    pub(super) outputs: Vec<&'a str>,
    attributes: Vec<Attribute<'a>>,
}

#[derive(Default)]
struct Attribute<'a> {
    name: &'a str,
    integers: Vec<i64>,
    text: &'a str,
    tensor: Option<Constant>,
}

/// A tensor of the file; its values where it is small, as those are that shapes are made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Constant {
    pub(super) element_type: u64,
    pub(super) sizes: Vec<u64>,
    pub(super) values: Option<Vec<f64>>,
}

/// Most elements of a tensor whose values are read: a shape has as many as a tensor has axes.
pub(super) const MAX_VALUES: usize = 64;

impl Node<'_> {
    /// A whole number among its attributes.
    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        self.integers(name)?.first().copied()
    }

    pub(super) fn integers(&self, name: &str) -> Option<&[i64]> {
        let found = self.attributes.iter().find(|attribute| attribute.name == name)?;
        (!found.integers.is_empty()).then_some(&found.integers)
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.attributes.iter().find(|attribute| attribute.name == name).map_or("", |attribute| attribute.text)
    }

    /// The value of a node that is a constant.
    pub(super) fn constant(&self) -> Option<Constant> {
        let attribute = self.attributes.first()?;
        let integers = || Constant {
            element_type: 7,
            sizes: if attribute.name == "value_int" { vec![] } else { vec![attribute.integers.len() as u64] },
            values: Some(attribute.integers.iter().map(|&value| value as f64).collect()),
        };
        attribute.tensor.clone().or_else(|| attribute.name.starts_with("value_int").then(integers))
    }
}

/// Reads the nodes of a model; nothing where its bytes are malformed.
pub(super) fn parse(bytes: &[u8]) -> Option<Nodes<'_>> {
    let mut read = Nodes::default();
    for field in fields(bytes) {
        let (7, Value::Bytes(graph)) = field? else { continue };
        for field in fields(graph) {
            match field? {
                (1, Value::Bytes(node)) => read.nodes.push(parse_node(node)?),
                (5, Value::Bytes(tensor)) => {
                    let (name, constant) = parse_constant(tensor)?;
                    read.initializers.insert(name, constant);
                }
                (12, Value::Bytes(output)) => read.outputs.push(parse_name(output)?),
                _ => (),
            }
        }
    }
    read.nodes = in_order(read.nodes);
    Some(read)
}

/// Nodes after those whose outputs they take, otherwise as they are in the file: converters append nodes that run first.
/// Those that wait for each other, which no valid graph has, are left out.
fn in_order(nodes: Vec<Node>) -> Vec<Node> {
    let outputs =
        nodes.iter().enumerate().flat_map(|(index, node)| node.outputs.iter().map(move |name| (*name, index)));
    let makers: HashMap<&str, usize> = outputs.collect();
    let mut waiting = vec![0; nodes.len()];
    let mut takers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for &maker in node.inputs.iter().filter(|name| !name.is_empty()).filter_map(|name| makers.get(name)) {
            waiting[index] += 1;
            takers[maker].push(index);
        }
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|&index| waiting[index] == 0).collect();
    let mut nodes: Vec<_> = nodes.into_iter().map(Some).collect();
    let mut ordered = Vec::with_capacity(nodes.len());
    while let Some(index) = ready.pop_first() {
        ordered.extend(nodes[index].take());
        for &taker in &takers[index] {
            waiting[taker] -= 1;
            if waiting[taker] == 0 {
                ready.insert(taker);
            }
        }
    }
    ordered
}

fn parse_name(bytes: &[u8]) -> Option<&str> {
    fields(bytes).find_map(|field| match field? {
        (1, Value::Bytes(name)) => std::str::from_utf8(name).ok(),
        _ => None,
    })
}

fn parse_node(bytes: &[u8]) -> Option<Node<'_>> {
    let mut node = Node::default();
    for field in fields(bytes) {
        let (number, Value::Bytes(value)) = field? else { continue };
        match number {
            1 => node.inputs.push(std::str::from_utf8(value).ok()?),
            2 => node.outputs.push(std::str::from_utf8(value).ok()?),
            4 => node.operator = std::str::from_utf8(value).ok()?,
            5 => node.attributes.push(parse_attribute(value)?),
            _ => (),
        }
    }
    Some(node)
}

fn parse_attribute(bytes: &[u8]) -> Option<Attribute<'_>> {
    let mut attribute = Attribute::default();
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(name)) => attribute.name = std::str::from_utf8(name).ok()?,
            (3 | 8, Value::Number(integer)) => attribute.integers.push(integer as i64),
            (4, Value::Bytes(text)) => attribute.text = std::str::from_utf8(text).unwrap_or(""),
            (5, Value::Bytes(tensor)) => attribute.tensor = Some(parse_constant(tensor)?.1),
            (8, Value::Bytes(packed)) => attribute.integers = varints(packed)?,
            _ => (),
        }
    }
    Some(attribute)
}

fn parse_constant(bytes: &[u8]) -> Option<(&str, Constant)> {
    let (mut name, mut constant, mut raw, mut integers) = ("", Constant::default(), &[][..], Vec::new());
    for field in fields(bytes) {
        match field? {
            (1, Value::Number(size)) => constant.sizes.push(size),
            (1, Value::Bytes(packed)) => constant.sizes.extend(varints(packed)?.into_iter().map(|size| size as u64)),
            (2, Value::Number(element_type)) => constant.element_type = element_type,
            (5 | 7, Value::Bytes(packed)) if packed.len() <= 10 * MAX_VALUES => integers = varints(packed)?,
            (5 | 7, Value::Number(integer)) => integers.push(integer as i64),
            (4 | 9, Value::Bytes(bytes)) => raw = bytes,
            (8, Value::Bytes(text)) => name = std::str::from_utf8(text).ok()?,
            _ => (),
        }
    }
    let count = constant.sizes.iter().try_fold(1u64, |count, &size| count.checked_mul(size))?;
    let integers: Vec<_> = integers.into_iter().map(|value| value as f64).collect();
    let values = if raw.is_empty() { Some(integers) } else { numbers(raw, constant.element_type) };
    constant.values = values.filter(|values| values.len() as u64 == count);
    Some((name, constant))
}

/// Little-endian numbers, where they are few and of a type that shapes are computed in.
fn numbers(raw: &[u8], element_type: u64) -> Option<Vec<f64>> {
    let values: Vec<f64> = match element_type {
        _ if raw.len() > 8 * MAX_VALUES => return None,
        FLOAT => raw.as_chunks().0.iter().map(|&bytes| f64::from(f32::from_le_bytes(bytes))).collect(),
        6 => raw.as_chunks().0.iter().map(|&bytes| f64::from(i32::from_le_bytes(bytes))).collect(),
        7 => raw.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes) as f64).collect(),
        9 => raw.iter().map(|&byte| f64::from(byte)).collect(),
        _ => return None,
    };
    Some(values)
}

fn varints(mut packed: &[u8]) -> Option<Vec<i64>> {
    let mut numbers = Vec::new();
    while !packed.is_empty() {
        numbers.push(take_varint(&mut packed)? as i64);
    }
    Some(numbers)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A node with whole numbers for attributes.
    pub(in crate::onnx) fn node<'a>(
        operator: &'a str,
        inputs: &[&'a str],
        outputs: &[&'a str],
        attributes: &[(&'a str, &[i64])],
    ) -> Node<'a> {
        let attribute = |(name, integers): &(&'a str, &[i64])| Attribute {
            name,
            integers: integers.to_vec(),
            ..Attribute::default()
        };
        let attributes = attributes.iter().map(attribute).collect();
        Node { operator, inputs: inputs.to_vec(), outputs: outputs.to_vec(), attributes }
    }

    #[test]
    fn nodes_come_after_those_that_they_need() {
        let names = |nodes: Vec<Node>| nodes.iter().map(|node| node.outputs[0].to_owned()).collect::<Vec<_>>();
        let step = |input, output| node("Cos", &[input], &[output], &[]);
        assert_eq!(names(in_order(vec![step("b", "c"), step("in", "a"), step("a", "b")])), ["a", "b", "c"]);
        assert_eq!(names(in_order(vec![step("in", "a"), step("c", "b"), step("b", "c")])), ["a"]);
    }

    #[test]
    fn small_constants_are_read() {
        let long = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let raw = long(&[2, -1]);
        // dims: [2], data_type: INT64, name: "w", raw_data
        let tensor = [&[8, 2, 16, 7, 66, 1, b'w', 74, 16][..], &raw].concat();
        let (name, constant) = parse_constant(&tensor).unwrap();
        assert_eq!((name, constant.values), ("w", Some(vec![2.0, -1.0])));
        // int64_data in the place of raw_data.
        let (_, constant) = parse_constant(&[8, 2, 16, 7, 58, 2, 5, 6]).unwrap();
        assert_eq!(constant.values, Some(vec![5.0, 6.0]));
        // What the sizes claim is not there.
        assert_eq!(parse_constant(&[8, 3, 16, 7, 58, 2, 5, 6]).unwrap().1.values, None);
    }
}
