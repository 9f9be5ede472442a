//! The little of an ONNX file that must be known before ONNX Runtime sees it: its inputs, outputs and outside files.
//!
//! Field numbers: `onnx.proto` of the ONNX specification. Everything else in the file is skipped by its length.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{Error, Result};

mod activations;
mod nodes;

pub(crate) use activations::{Activations, activations};

/// What is read of a graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) outputs: Vec<Tensor>,
    /// Names of files in which initializers are kept, as the graph spells them.
    pub(crate) data_files: Vec<String>,
    /// Bytes of the initializers, wherever they are kept.
    pub(crate) weights: BTreeMap<Weight, u64>,
}

/// What decides how much memory an initializer takes once the graph is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Weight {
    /// `TensorProto.DataType`.
    pub(crate) element_type: u64,
    /// Whether it is a convolution's: those alone have more than two axes.
    pub(crate) of_convolution: bool,
}

/// A tensor that a graph takes or gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// `TensorProto.DataType`, such as [`FLOAT16`].
    pub(crate) element_type: u64,
    pub(crate) sizes: Vec<Size>,
}

/// The size of an axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Size {
    Fixed(u64),
    /// Any size; axes of the same name have the same size.
    Named(String),
    Unknown,
}

impl Size {
    /// The name of an axis that has one.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Named(name) if !name.is_empty() => Some(name),
            Self::Named(_) | Self::Fixed(_) | Self::Unknown => None,
        }
    }
}

/// `TensorProto.FLOAT`.
pub(crate) const FLOAT: u64 = 1;
/// `TensorProto.FLOAT16`.
pub(crate) const FLOAT16: u64 = 10;

/// Bytes of one element by `TensorProto.DataType`; one for types of a byte or less.
fn element_bytes(element_type: u64) -> u64 {
    match element_type {
        7 | 11 | 13 => 8,
        FLOAT | 6 | 12 => 4,
        4 | 5 | FLOAT16 | 16 => 2,
        _ => 1,
    }
}

/// Reads the outline of a file's bytes.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) where the bytes are not an ONNX graph.
pub(crate) fn outline(bytes: &[u8], path: &Path) -> Result<Outline> {
    parse_model(bytes).filter(|outline| !outline.inputs.is_empty()).ok_or_else(|| {
        Error::model(format!("{}: is not an ONNX graph, or is damaged; export or fetch it again", path.display()))
    })
}

fn parse_model(bytes: &[u8]) -> Option<Outline> {
    let mut outline = Outline::default();
    let mut initializers: Vec<String> = Vec::new();
    for field in fields(bytes) {
        let (7, Value::Bytes(graph)) = field? else { continue };
        for field in fields(graph) {
            match field? {
                (5, Value::Bytes(tensor)) => initializers.push(parse_tensor(tensor, &mut outline)?),
                (11, Value::Bytes(input)) => outline.inputs.push(parse_value(input)?),
                (12, Value::Bytes(output)) => outline.outputs.push(parse_value(output)?),
                _ => (),
            }
        }
    }
    // Old files list their initializers among the inputs, too.
    outline.inputs.retain(|input| !initializers.contains(&input.name));
    Some(outline)
}

/// Returns a tensor's name, and notes its bytes and the file that holds it, if it is not here.
fn parse_tensor(bytes: &[u8], outline: &mut Outline) -> Option<String> {
    let (mut name, mut element_type, mut sizes) = (String::new(), 0, Vec::new());
    let data_files = &mut outline.data_files;
    for field in fields(bytes) {
        match field? {
            (1, Value::Number(size)) => sizes.push(size),
            (1, Value::Bytes(mut packed)) => {
                while !packed.is_empty() {
                    sizes.push(take_varint(&mut packed)?);
                }
            }
            (2, Value::Number(number)) => element_type = number,
            (8, Value::Bytes(text)) => name = string(text)?,
            (13, Value::Bytes(entry)) => {
                let (mut key, mut value) = (String::new(), String::new());
                for field in fields(entry) {
                    match field? {
                        (1, Value::Bytes(text)) => key = string(text)?,
                        (2, Value::Bytes(text)) => value = string(text)?,
                        _ => (),
                    }
                }
                if key == "location" && !data_files.contains(&value) {
                    data_files.push(value);
                }
            }
            _ => (),
        }
    }
    // A damaged file may claim any size: what it claims is only ever shown.
    let bytes = sizes.iter().fold(element_bytes(element_type), |bytes, &size| bytes.saturating_mul(size));
    let of_kind = outline.weights.entry(Weight { element_type, of_convolution: sizes.len() > 2 }).or_default();
    *of_kind = of_kind.saturating_add(bytes);
    Some(name)
}

fn parse_value(bytes: &[u8]) -> Option<Tensor> {
    let mut tensor = Tensor::default();
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(text)) => tensor.name = string(text)?,
            (2, Value::Bytes(kind)) => parse_type(kind, &mut tensor)?,
            _ => (),
        }
    }
    Some(tensor)
}

fn parse_type(bytes: &[u8], value: &mut Tensor) -> Option<()> {
    for field in fields(bytes) {
        let (1, Value::Bytes(tensor)) = field? else { continue };
        for field in fields(tensor) {
            match field? {
                (1, Value::Number(element_type)) => value.element_type = element_type,
                (2, Value::Bytes(shape)) => value.sizes = parse_shape(shape)?,
                _ => (),
            }
        }
    }
    Some(())
}

fn parse_shape(bytes: &[u8]) -> Option<Vec<Size>> {
    let mut sizes = Vec::new();
    for field in fields(bytes) {
        let (1, Value::Bytes(axis)) = field? else { continue };
        let mut size = Size::Unknown;
        for field in fields(axis) {
            match field? {
                (1, Value::Number(fixed)) => size = Size::Fixed(fixed),
                (2, Value::Bytes(name)) => size = Size::Named(string(name)?),
                _ => (),
            }
        }
        sizes.push(size);
    }
    Some(sizes)
}

/// One field of a protocol buffer message.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Fixed-width numbers, which nothing here needs.
    Skipped,
}

/// The fields of a message; `None` ends it where the bytes are malformed.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Option<(u64, Value<'_>)>> {
    let mut broken = false;
    std::iter::from_fn(move || {
        if bytes.is_empty() || broken {
            return None;
        }
        let field = take_field(&mut bytes);
        broken = field.is_none();
        Some(field)
    })
}

fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = take_varint(bytes)?;
    let value = match key & 7 {
        0 => Value::Number(take_varint(bytes)?),
        1 => take(bytes, 8).map(|_| Value::Skipped)?,
        2 => {
            let length = take_varint(bytes)?;
            Value::Bytes(take(bytes, usize::try_from(length).ok()?)?)
        }
        5 => take(bytes, 4).map(|_| Value::Skipped)?,
        _ => return None,
    };
    Some((key >> 3, value))
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn string(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(name: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models");
        std::fs::read(folder.join(name)).unwrap()
    }

    #[test]
    fn inputs_are_read_with_types_and_sizes() {
        let outline = outline(&shipped("tiny-static/unet/model.onnx"), Path::new("test")).unwrap();
        let sample = &outline.inputs[0];
        assert_eq!((sample.name.as_str(), sample.element_type), ("sample", FLOAT16));
        assert_eq!(sample.sizes, [1, 4, 8, 8].map(Size::Fixed));
        assert!(outline.data_files.is_empty());
    }

    #[test]
    fn named_axes_are_read() {
        let outline = outline(&shipped("tiny-sd/unet/model.onnx"), Path::new("test")).unwrap();
        assert!(matches!(&outline.inputs[0].sizes[0], Size::Named(_)), "{:?}", outline.inputs);
    }

    /// The bytes that the `onnx` package counts, too.
    #[test]
    fn weights_are_counted_by_kind() {
        let of = |element_type, of_convolution| Weight { element_type, of_convolution };
        let outline = outline(&shipped("tiny-sd/unet/model.onnx"), Path::new("test")).unwrap();
        assert_eq!(outline.weights.values().sum::<u64>(), 7460 + 72);
        assert_eq!(outline.weights[&of(7, false)], 72);
        assert!(outline.weights[&of(FLOAT, true)] > 0);
    }

    #[test]
    fn files_outside_are_named() {
        // graph: { initializer: { name: "w", external_data: { location: "../secret" } }, input: { name: "x" } }
        let entry = [&[10, 8][..], b"location", &[18, 9], b"../secret"].concat();
        let tensor = [&[66, 1][..], b"w", &[106, entry.len() as u8], &entry].concat();
        let graph = [&[42, tensor.len() as u8][..], &tensor, &[90, 3, 10, 1], b"x"].concat();
        let model = [&[58, graph.len() as u8][..], &graph].concat();
        let outline = outline(&model, Path::new("test")).unwrap();
        assert_eq!(outline.data_files, ["../secret"]);
        assert_eq!(outline.inputs[0].name, "x");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = shipped("tiny-sd/unet/model.onnx");
        for length in 0..whole.len() {
            let _ = outline(&whole[..length], Path::new("test"));
        }
        let mut bytes = whole;
        for index in 0..bytes.len() {
            bytes[index] ^= 0xff;
            let _ = outline(&bytes, Path::new("test"));
            bytes[index] ^= 0xff;
        }
        assert!(outline(b"<html>", Path::new("test")).is_err());
        assert!(outline(&[0xff; 64], Path::new("test")).is_err());
    }
}
