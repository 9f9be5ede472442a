//! Graphs written field by field, so that they can be wrong in any way.
#![allow(dead_code, reason = "no test file needs everything")]

/// A graph, field by field, as `onnx.proto` numbers them.
#[derive(Default, Clone)]
pub(crate) struct Graph {
    pub(crate) graph: Vec<u8>,
    pub(crate) model: Vec<u8>,
    pub(crate) opset: Option<u64>,
    pub(crate) ir: Option<u64>,
}

pub(crate) fn varint(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

pub(crate) fn number(field: u64, number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(field << 3, &mut bytes);
    varint(number, &mut bytes);
    bytes
}

pub(crate) fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(field << 3 | 2, &mut bytes);
    varint(content.as_ref().len() as u64, &mut bytes);
    bytes.extend(content.as_ref());
    bytes
}

pub(crate) fn node(domain: &str, operator: &str, inputs: &[&str], outputs: &[&str], attributes: &[Vec<u8>]) -> Vec<u8> {
    let names = |field, names: &[&str]| names.iter().flat_map(|name| bytes(field, name)).collect::<Vec<u8>>();
    let attributes: Vec<u8> = attributes.iter().flat_map(|attribute| bytes(5, attribute)).collect();
    [names(1, inputs), names(2, outputs), bytes(4, operator), attributes, bytes(7, domain)].concat()
}

pub(crate) fn integers(name: &str, values: &[i64]) -> Vec<u8> {
    let values: Vec<u8> = values.iter().flat_map(|&value| number(8, value as u64)).collect();
    [bytes(1, name), values, number(20, 7)].concat()
}

pub(crate) fn integer(name: &str, value: i64) -> Vec<u8> {
    [bytes(1, name), number(3, value as u64), number(20, 2)].concat()
}

pub(crate) fn tensor(name: &str, element_type: u64, sizes: &[u64], raw: &[u8]) -> Vec<u8> {
    let sizes: Vec<u8> = sizes.iter().flat_map(|&size| number(1, size)).collect();
    [sizes, number(2, element_type), bytes(8, name), bytes(9, raw)].concat()
}

pub(crate) fn outside(name: &str, sizes: &[u64], entries: &[(&str, &str)]) -> Vec<u8> {
    let sizes: Vec<u8> = sizes.iter().flat_map(|&size| number(1, size)).collect();
    let entries = entries.iter().flat_map(|(key, value)| bytes(13, [bytes(1, key), bytes(2, value)].concat()));
    [sizes, number(2, 1), bytes(8, name), entries.collect(), number(14, 1)].concat()
}

pub(crate) fn value(name: &str, element_type: u64, sizes: &[u64]) -> Vec<u8> {
    let axes: Vec<u8> = sizes.iter().flat_map(|&size| bytes(1, number(1, size))).collect();
    let kind = bytes(2, bytes(1, [number(1, element_type), bytes(2, axes)].concat()));
    [bytes(1, name), kind].concat()
}

impl Graph {
    pub(crate) fn field(mut self, field: u64, content: impl AsRef<[u8]>) -> Self {
        self.graph.extend(bytes(field, content));
        self
    }

    pub(crate) fn input(self, name: &str, element_type: u64, sizes: &[u64]) -> Self {
        self.field(11, value(name, element_type, sizes))
    }

    pub(crate) fn output(self, name: &str) -> Self {
        self.field(12, value(name, 1, &[]))
    }

    pub(crate) fn gives(self, name: &str, element_type: u64, sizes: &[u64]) -> Self {
        self.field(12, value(name, element_type, sizes))
    }

    pub(crate) fn initializer(self, name: &str, element_type: u64, sizes: &[u64], raw: &[u8]) -> Self {
        self.field(5, tensor(name, element_type, sizes, raw))
    }

    pub(crate) fn node(self, operator: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        self.field(1, node("", operator, inputs, outputs, &[]))
    }

    pub(crate) fn with(self, operator: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<u8>) -> Self {
        self.field(1, node("", operator, inputs, outputs, &[attribute]))
    }

    pub(crate) fn floats(self, name: &str, values: &[f32]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.field(5, tensor(name, 1, &[values.len() as u64], &raw))
    }

    /// The version of the file format.
    pub(crate) fn ir(self, version: u64) -> Self {
        Self { ir: Some(version), ..self }
    }

    pub(crate) fn model(mut self, field: u64, content: impl AsRef<[u8]>) -> Self {
        self.model.extend(bytes(field, content));
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        let opset = bytes(8, number(2, self.opset.unwrap_or(17)));
        [number(1, self.ir.unwrap_or(8)), opset, self.model, bytes(7, self.graph)].concat()
    }
}
