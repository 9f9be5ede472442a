//! A graph's nodes, tensors and attributes; of constants, only what shapes depend on.
//!
//! Field numbers: `onnx.proto` of the ONNX specification.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::operators::domain_name;
use super::{FLOAT, Outline, Size, Tensor, Value, Weight, element_bits, fields, take_varint, text};

/// A model's file as far as it is read.
#[derive(Default)]
pub(crate) struct Parsed<'a> {
    pub(crate) ir_version: u64,
    /// Name and version of what wrote it.
    pub(crate) producer: [&'a str; 2],
    /// Version of each domain of operators that it says to use.
    pub(crate) opsets: Vec<(&'a str, u64)>,
    /// How many operators it defines itself.
    pub(crate) functions: usize,
    /// How many initializers are stored sparsely.
    pub(crate) sparse: usize,
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) initializers: HashMap<&'a str, Stored<'a>>,
    /// Names of initializers that are there twice.
    pub(super) repeated: Vec<&'a str>,
    pub(super) inputs: Vec<Tensor>,
    pub(super) outputs: Vec<Tensor>,
}

#[derive(Default)]
pub(crate) struct Node<'a> {
    pub(super) name: &'a str,
    pub(super) operator: &'a str,
    pub(super) domain: &'a str,
    pub(super) inputs: Vec<&'a str>,
    pub(super) outputs: Vec<&'a str>,
    pub(super) attributes: Vec<Attribute<'a>>,
}

#[derive(Default)]
pub(super) struct Attribute<'a> {
    pub(super) name: &'a str,
    integers: Vec<i64>,
    text: &'a str,
    pub(super) tensor: Option<Box<Stored<'a>>>,
    /// The nodes of the graphs that it is.
    pub(super) branches: Vec<Vec<Node<'a>>>,
    /// Whether it holds what nothing here reads: sparse tensors, lists of tensors, tensors in the graphs that it is.
    pub(super) is_opaque: bool,
}

/// A tensor of the file, and where its bytes are.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored<'a> {
    pub(super) constant: Constant,
    /// `raw_data`, or packed numbers of single precision.
    pub(super) raw: &'a [u8],
    /// Whether `raw` is all of its bytes, as they are in memory.
    pub(super) is_raw: bool,
    pub(super) outside: Option<Outside<'a>>,
}

/// Where a tensor's bytes lie outside of the graph's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outside<'a> {
    /// The file, as the graph spells it.
    pub(super) location: &'a str,
    /// As it is spelled; empty where it is not said.
    pub(super) offset: &'a str,
    pub(super) length: &'a str,
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

/// Most nodes of a graph. ONNX Runtime 1.31 took 73 s to open a chain of 200,000; a quantised denoiser of Stable
/// Diffusion 1.5 has fewer than 10,000, one of Flux about 30,000.
pub(crate) const MAX_NODES: usize = 1 << 16;

/// Most memory that is taken by what is read of a file: a field of two bytes becomes a structure of hundreds. The
/// denoiser of Stable Diffusion 1.5 takes a twentieth of it.
const MAX_READ_BYTES: usize = 256 << 20;

/// Most whole numbers of an attribute; one that has more counts as absent.
const MAX_INTEGERS: usize = 1024;

/// Most graphs inside of each other.
const MAX_DEPTH: usize = 3;

/// Why a file was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    Damaged,
    TooManyNodes,
    TooLarge,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => f.write_str("is not an ONNX graph, or is damaged; export or fetch it again"),
            Self::TooManyNodes => {
                write!(f, "has more than {MAX_NODES} nodes, which would take minutes to open; export it in parts")
            }
            Self::TooLarge => {
                let most = MAX_READ_BYTES >> 20;
                write!(
                    f,
                    "its nodes, names and shapes take more than {most} MiB; a model has weights, not names: \
                           export it again"
                )
            }
        }
    }
}

/// How much may be read yet.
struct Room {
    nodes: usize,
    bytes: usize,
}

impl Room {
    /// Makes room for something of so many bytes; nothing, for good, where there is none.
    fn take(&mut self, bytes: usize) -> Option<()> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.unwrap_or(0);
        left.map(drop)
    }

    fn unread(&self) -> Unread {
        match (self.nodes, self.bytes) {
            (0, _) => Unread::TooManyNodes,
            (_, 0) => Unread::TooLarge,
            _ => Unread::Damaged,
        }
    }
}

/// What a name of an input or output is counted as: a tensor of that name is followed, with its sizes.
const NAME_BYTES: usize = 256;

impl<'a> Parsed<'a> {
    /// What the graph takes and gives, and what it keeps.
    pub(crate) fn outline(&self) -> Outline {
        let mut outline = Outline { outputs: self.outputs.clone(), ..Outline::default() };
        // Old files list their initializers among the inputs, too.
        let is_input = |input: &&Tensor| !self.initializers.contains_key(input.name.as_str());
        outline.inputs = self.inputs.iter().filter(is_input).cloned().collect();
        for Stored { constant, outside, .. } in self.initializers.values() {
            let kind = Weight { element_type: constant.element_type, of_convolution: constant.sizes.len() > 2 };
            let of_kind = outline.weights.entry(kind).or_default();
            *of_kind = of_kind.saturating_add(constant.bytes());
            let location = outside.as_ref().map(|outside| outside.location);
            outline.data_files.extend(location.map(str::to_owned));
        }
        outline.data_files.sort();
        outline.data_files.dedup();
        outline
    }

    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// How many nodes of each operator there are, by domain.
    pub(crate) fn operators(&self) -> BTreeMap<String, BTreeMap<String, usize>> {
        let mut operators: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for node in &self.nodes {
            let of_domain = operators.entry(domain_name(node.domain).to_owned()).or_default();
            *of_domain.entry(node.operator.to_owned()).or_default() += 1;
        }
        operators
    }

    /// How many numbers the initializers have together.
    pub(crate) fn parameters(&self) -> u64 {
        let count =
            |stored: &Stored| stored.constant.sizes.iter().fold(1u64, |count, &size| count.saturating_mul(size));
        self.initializers.values().map(count).fold(0, u64::saturating_add)
    }

    /// Nodes after those whose outputs they take, otherwise as they are in the file: converters append nodes that run
    /// first. Those that wait for each other, which no valid graph has, are left out.
    pub(super) fn order(&self) -> Vec<&Node<'a>> {
        in_order(&self.nodes)
    }
}

impl Constant {
    /// Bytes that it takes in memory. A damaged file may claim any size, which is only ever shown.
    pub(super) fn bytes(&self) -> u64 {
        let bits = element_bits(self.element_type).unwrap_or(8);
        self.sizes.iter().fold(bits, |bits, &size| bits.saturating_mul(size)).div_ceil(8)
    }
}

impl<'a> Node<'a> {
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

    /// The tensor that a node is, where it is a constant that says so by a tensor.
    pub(super) fn tensor(&self) -> Option<&Stored<'a>> {
        self.attributes.first().and_then(|attribute| attribute.tensor.as_deref())
    }

    /// The value of a node that is a constant.
    pub(super) fn constant(&self) -> Option<Constant> {
        let attribute = self.attributes.first()?;
        let integers = || Constant {
            element_type: 7,
            sizes: if attribute.name == "value_int" { vec![] } else { vec![attribute.integers.len() as u64] },
            values: Some(attribute.integers.iter().map(|&value| value as f64).collect()),
        };
        let tensor = self.tensor().map(|stored| stored.constant.clone());
        tensor.or_else(|| attribute.name.starts_with("value_int").then(integers))
    }
}

/// Reads a model's file.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Unread> {
    let mut room = Room { nodes: MAX_NODES + 1, bytes: MAX_READ_BYTES };
    let parsed = parse_model(bytes, &mut room).ok_or_else(|| room.unread())?;
    if parsed.inputs.is_empty() { Err(Unread::Damaged) } else { Ok(parsed) }
}

fn parse_model<'a>(bytes: &'a [u8], room: &mut Room) -> Option<Parsed<'a>> {
    let mut parsed = Parsed::default();
    for field in fields(bytes) {
        match field? {
            (1, Value::Number(version)) => parsed.ir_version = version,
            (2, Value::Bytes(name)) => parsed.producer[0] = text(name)?,
            (3, Value::Bytes(version)) => parsed.producer[1] = text(version)?,
            (7, Value::Bytes(graph)) => parse_graph(graph, &mut parsed, room)?,
            (8, Value::Bytes(opset)) => {
                room.take(size_of::<(&str, u64)>())?;
                parsed.opsets.push(parse_opset(opset)?);
            }
            (25, Value::Bytes(_)) => parsed.functions += 1,
            _ => (),
        }
    }
    Some(parsed)
}

fn parse_graph<'a>(bytes: &'a [u8], parsed: &mut Parsed<'a>, room: &mut Room) -> Option<()> {
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(node)) => parsed.nodes.push(parse_node(node, room, 0)?),
            (5, Value::Bytes(tensor)) => {
                let (name, stored) = parse_stored(tensor, room)?;
                if parsed.initializers.insert(name, stored).is_some() {
                    parsed.repeated.push(name);
                }
            }
            (11, Value::Bytes(input)) => parsed.inputs.push(parse_value(input, room)?),
            (12, Value::Bytes(output)) => parsed.outputs.push(parse_value(output, room)?),
            (15, Value::Bytes(_)) => parsed.sparse += 1,
            _ => (),
        }
    }
    Some(())
}

fn parse_opset(bytes: &[u8]) -> Option<(&str, u64)> {
    let mut opset = ("", 0);
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(domain)) => opset.0 = text(domain)?,
            (2, Value::Number(version)) => opset.1 = version,
            _ => (),
        }
    }
    Some(opset)
}

fn in_order<'b, 'a>(nodes: &'b [Node<'a>]) -> Vec<&'b Node<'a>> {
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
    let mut ordered = Vec::with_capacity(nodes.len());
    while let Some(index) = ready.pop_first() {
        ordered.push(&nodes[index]);
        for &taker in &takers[index] {
            waiting[taker] -= 1;
            if waiting[taker] == 0 {
                ready.insert(taker);
            }
        }
    }
    ordered
}

fn parse_node<'a>(bytes: &'a [u8], room: &mut Room, depth: usize) -> Option<Node<'a>> {
    room.take(size_of::<Node>())?;
    room.nodes -= 1;
    if room.nodes == 0 {
        return None;
    }
    let mut node = Node::default();
    for field in fields(bytes) {
        let (number, Value::Bytes(value)) = field? else { continue };
        match number {
            1 | 2 => {
                room.take(NAME_BYTES)?;
                let names = if number == 1 { &mut node.inputs } else { &mut node.outputs };
                names.push(text(value)?);
            }
            3 => node.name = text(value)?,
            4 => node.operator = text(value)?,
            5 => node.attributes.push(parse_attribute(value, room, depth)?),
            7 => node.domain = text(value)?,
            _ => (),
        }
    }
    Some(node)
}

fn parse_attribute<'a>(bytes: &'a [u8], room: &mut Room, depth: usize) -> Option<Attribute<'a>> {
    room.take(size_of::<Attribute>())?;
    let mut attribute = Attribute::default();
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(name)) => attribute.name = text(name)?,
            (3 | 8, Value::Number(integer)) => attribute.integers.push(integer as i64),
            (4, Value::Bytes(bytes)) => attribute.text = text(bytes).unwrap_or(""),
            (5, Value::Bytes(tensor)) => attribute.tensor = Some(Box::new(parse_stored(tensor, room)?.1)),
            (6 | 11, Value::Bytes(graph)) => {
                let (nodes, is_opaque) = parse_branch(graph, room, depth + 1)?;
                attribute.branches.push(nodes);
                attribute.is_opaque |= is_opaque;
            }
            (8, Value::Bytes(packed)) if packed.len() <= 10 * MAX_INTEGERS => attribute.integers = varints(packed)?,
            (10 | 22 | 23, Value::Bytes(_)) => attribute.is_opaque = true,
            _ => (),
        }
        if attribute.integers.len() > MAX_INTEGERS {
            attribute.integers.truncate(MAX_INTEGERS);
        }
    }
    if attribute.integers.len() >= MAX_INTEGERS {
        attribute.integers.clear();
    }
    room.take(size_of::<i64>() * attribute.integers.len())?;
    Some(attribute)
}

/// The nodes of a graph inside of a node, and whether it has tensors outside of the file or sparse ones.
fn parse_branch<'a>(bytes: &'a [u8], room: &mut Room, depth: usize) -> Option<(Vec<Node<'a>>, bool)> {
    if depth > MAX_DEPTH {
        return None;
    }
    let (mut nodes, mut is_opaque) = (Vec::new(), false);
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(node)) => nodes.push(parse_node(node, room, depth)?),
            (5, Value::Bytes(tensor)) => is_opaque |= parse_stored(tensor, room)?.1.outside.is_some(),
            (15, Value::Bytes(_)) => is_opaque = true,
            _ => (),
        }
    }
    Some((nodes, is_opaque))
}

fn parse_stored<'a>(bytes: &'a [u8], room: &mut Room) -> Option<(&'a str, Stored<'a>)> {
    room.take(size_of::<(&str, Stored)>() + NAME_BYTES)?;
    let (mut name, mut stored, mut integers) = ("", Stored::default(), Vec::new());
    let mut is_outside = false;
    let constant = &mut stored.constant;
    for field in fields(bytes) {
        match field? {
            (1, Value::Number(size)) => constant.sizes.push(size),
            (1, Value::Bytes(packed)) if packed.len() <= 10 * MAX_VALUES => {
                constant.sizes.extend(varints(packed)?.into_iter().map(|size| size as u64));
            }
            (1, Value::Bytes(_)) => return None,
            (2, Value::Number(element_type)) => constant.element_type = element_type,
            (5 | 7, Value::Bytes(packed)) if packed.len() <= 10 * MAX_VALUES => integers = varints(packed)?,
            (5 | 7, Value::Number(integer)) if integers.len() <= MAX_VALUES => integers.push(integer as i64),
            (number @ (4 | 9), Value::Bytes(bytes)) => (stored.raw, stored.is_raw) = (bytes, number == 9),
            (8, Value::Bytes(bytes)) => name = text(bytes)?,
            (13, Value::Bytes(entry)) => parse_outside(entry, stored.outside.get_or_insert_default())?,
            (14, Value::Number(location)) => is_outside = location == 1,
            _ => (),
        }
        room.take(size_of::<u64>())?;
        // No tensor has so many axes: what has more is refused by its size.
        constant.sizes.truncate(MAX_VALUES + 1);
    }
    if is_outside {
        stored.outside.get_or_insert_default();
    }
    let count = constant.sizes.iter().try_fold(1u64, |count, &size| count.checked_mul(size));
    let integers: Vec<_> = integers.into_iter().map(|value| value as f64).collect();
    let values = if stored.raw.is_empty() { Some(integers) } else { numbers(stored.raw, constant.element_type) };
    constant.values = values.filter(|values| Some(values.len() as u64) == count);
    Some((name, stored))
}

fn parse_outside<'a>(entry: &'a [u8], outside: &mut Outside<'a>) -> Option<()> {
    let (mut key, mut value) = ("", "");
    for field in fields(entry) {
        match field? {
            (1, Value::Bytes(bytes)) => key = text(bytes)?,
            (2, Value::Bytes(bytes)) => value = text(bytes)?,
            _ => (),
        }
    }
    match key {
        "location" => outside.location = value,
        "offset" => outside.offset = value,
        "length" => outside.length = value,
        _ => (),
    }
    Some(())
}

fn parse_value(bytes: &[u8], room: &mut Room) -> Option<Tensor> {
    room.take(size_of::<Tensor>() + NAME_BYTES)?;
    let mut tensor = Tensor::default();
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(name)) => {
                room.take(name.len())?;
                tensor.name = text(name)?.to_owned();
            }
            (2, Value::Bytes(kind)) => parse_type(kind, &mut tensor, room)?,
            _ => (),
        }
    }
    Some(tensor)
}

fn parse_type(bytes: &[u8], value: &mut Tensor, room: &mut Room) -> Option<()> {
    for field in fields(bytes) {
        let (1, Value::Bytes(tensor)) = field? else { continue };
        for field in fields(tensor) {
            match field? {
                (1, Value::Number(element_type)) => value.element_type = element_type,
                (2, Value::Bytes(shape)) => value.sizes = parse_shape(shape, room)?,
                _ => (),
            }
        }
    }
    Some(())
}

fn parse_shape(bytes: &[u8], room: &mut Room) -> Option<Vec<Size>> {
    let mut sizes = Vec::new();
    for field in fields(bytes) {
        let (1, Value::Bytes(axis)) = field? else { continue };
        let mut size = Size::Unknown;
        for field in fields(axis) {
            match field? {
                (1, Value::Number(fixed)) => size = Size::Fixed(fixed),
                (2, Value::Bytes(name)) => {
                    room.take(name.len())?;
                    size = Size::Named(text(name)?.to_owned());
                }
                _ => (),
            }
        }
        room.take(size_of::<Size>())?;
        sizes.push(size);
    }
    Some(sizes)
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
        Node { operator, inputs: inputs.to_vec(), outputs: outputs.to_vec(), attributes, ..Node::default() }
    }

    #[test]
    fn nodes_come_after_those_that_they_need() {
        let names =
            |nodes: Vec<Node>| in_order(&nodes).iter().map(|node| node.outputs[0].to_owned()).collect::<Vec<_>>();
        let step = |input, output| node("Cos", &[input], &[output], &[]);
        assert_eq!(names(vec![step("b", "c"), step("in", "a"), step("a", "b")]), ["a", "b", "c"]);
        assert_eq!(names(vec![step("in", "a"), step("c", "b"), step("b", "c")]), ["a"]);
    }

    #[test]
    fn small_constants_are_read() {
        let long = |values: &[i64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let raw = long(&[2, -1]);
        // dims: [2], data_type: INT64, name: "w", raw_data
        let tensor = [&[8, 2, 16, 7, 66, 1, b'w', 74, 16][..], &raw].concat();
        let parse = |bytes: &[u8]| {
            let (name, stored) = parse_stored(bytes, &mut Room { nodes: 1, bytes: 1000 }).unwrap();
            (name.to_owned(), stored.constant.values)
        };
        assert_eq!(parse(&tensor), ("w".into(), Some(vec![2.0, -1.0])));
        // int64_data in the place of raw_data.
        assert_eq!(parse(&[8, 2, 16, 7, 58, 2, 5, 6]).1, Some(vec![5.0, 6.0]));
        // What the sizes claim is not there.
        assert_eq!(parse(&[8, 3, 16, 7, 58, 2, 5, 6]).1, None);
    }
}
