//! What must be known of an ONNX file before ONNX Runtime sees it: inputs, outputs, nodes and outside files, but no
//! weights.
//!
//! Field numbers: `onnx.proto` of the ONNX specification. Everything else in the file is skipped by its length.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{Error, Result};

mod activations;
pub(crate) mod check;
pub(crate) mod macs;
mod nodes;
mod operators;

pub(crate) use activations::{Activations, activations};
pub(crate) use nodes::{Parsed, parse};
pub(crate) use operators::domain_name;

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

impl Outline {
    /// Names and sizes of the inputs, with axes of these names so large; an axis of which nothing is known is 1.
    pub(crate) fn sizes(&self, axes: &[(String, usize)]) -> Vec<(String, Vec<usize>)> {
        let size = |size: &Size| match size {
            Size::Fixed(size) => usize::try_from(*size).unwrap_or(usize::MAX),
            Size::Named(name) => axes.iter().find(|(axis, _)| axis == name).map_or(1, |(_, size)| *size),
            Size::Unknown => 1,
        };
        self.inputs.iter().map(|input| (input.name.clone(), input.sizes.iter().map(size).collect())).collect()
    }
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
    /// As ONNX Runtime tells it: −1 where any size will do.
    pub(crate) fn declared(&self) -> i64 {
        match self {
            Self::Fixed(size) => i64::try_from(*size).unwrap_or(-1),
            Self::Named(_) | Self::Unknown => -1,
        }
    }

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
/// `TensorProto.BFLOAT16`.
pub(crate) const BFLOAT16: u64 = 16;

/// Bits of one element by `TensorProto.DataType`; nothing for text and for types that are not known.
pub(crate) fn element_bits(element_type: u64) -> Option<u64> {
    Some(match element_type {
        15 => 128,
        7 | 11 | 13 | 14 => 64,
        FLOAT | 6 | 12 => 32,
        4 | 5 | FLOAT16 | BFLOAT16 => 16,
        2 | 3 | 9 | 17..=20 | 24 => 8,
        21..=23 => 4,
        25 | 26 => 2,
        _ => return None,
    })
}

/// Its name in reports, as ONNX spells it in lower case.
pub(crate) fn element_name(element_type: u64) -> &'static str {
    #[rustfmt::skip]
    const NAMES: &[&str] = &[
        "undefined", "float", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16",
        "double", "uint32", "uint64", "complex64", "complex128", "bfloat16", "float8e4m3fn", "float8e4m3fnuz",
        "float8e5m2", "float8e5m2fnuz", "uint4", "int4", "float4e2m1", "float8e8m0", "uint2", "int2",
    ];
    usize::try_from(element_type).ok().and_then(|index| NAMES.get(index)).copied().unwrap_or("unknown")
}

/// Reads the outline of a file's bytes.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) where the bytes are not an ONNX graph.
pub(crate) fn outline(bytes: &[u8], path: &Path) -> Result<Outline> {
    Ok(read(bytes, path)?.outline())
}

/// Reads everything of a graph but its weights.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) where the bytes are not an ONNX graph, or one of absurd size.
pub(crate) fn read<'a>(bytes: &'a [u8], path: &Path) -> Result<Parsed<'a>> {
    parse(bytes).map_err(|unread| Error::model(format!("{}: {unread}", path.display())))
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

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
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
