//! A provider's options: what each takes, and how it is written for ONNX Runtime, which reads texts.

use serde::{Deserialize, Serialize};

use crate::error::unknown;

/// A value in a table of options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
}

impl Scalar {
    /// As ONNX Runtime reads it where nothing else is known: 1 or 0 for `true` or `false`.
    pub fn to_option(&self) -> String {
        match self {
            Self::Bool(value) => u8::from(*value).to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Text(value) => value.clone(),
        }
    }
}

/// What an option takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// `true` or `false`, written 1 or 0.
    Flag,
    /// `true` or `false`, written so: OpenVINO reads nothing else.
    TrueOrFalse,
    /// A whole number from the first to the second.
    Whole(i64, i64),
    /// One of a few words.
    Word(&'static [&'static str]),
    /// Any text but an empty one, such as the name of a file.
    Text,
    /// Sizes of graph inputs, such as `sample:1x4x64x64,timestep:1`.
    Shapes,
    /// The text of a JSON object.
    Json,
}

/// Most bytes of an option's text.
const MAX_TEXT_BYTES: usize = 8192;

impl Kind {
    /// A number of bytes, of threads or of a device; ONNX Runtime reads most of them as 64 bits, and tells if not.
    pub(crate) const COUNT: Self = Self::Whole(0, i64::MAX);

    /// The option's text for ONNX Runtime, or what was expected.
    pub(crate) fn write(self, value: &Scalar) -> Result<String, String> {
        let wrong = |expected: &str| Err(format!("is {:?}, expected {expected}", value.to_option()));
        match (self, value) {
            (Self::Flag, Scalar::Bool(_) | Scalar::Integer(0 | 1)) => Ok(value.to_option()),
            (Self::TrueOrFalse, Scalar::Bool(value)) => Ok(value.to_string()),
            (Self::Flag | Self::TrueOrFalse, _) => wrong("true or false"),
            (Self::Whole(least, most), Scalar::Integer(number)) if (least..=most).contains(number) => {
                Ok(number.to_string())
            }
            (Self::Whole(least, i64::MAX), _) => wrong(&format!("a whole number from {least}")),
            (Self::Whole(least, most), _) => wrong(&format!("a whole number from {least} to {most}")),
            (Self::Word(words), _) => match words.contains(&value.to_option().as_str()) {
                true => Ok(value.to_option()),
                false => Err(unknown("value", &value.to_option(), words.iter())),
            },
            (Self::Text, Scalar::Bool(_)) => wrong("a text"),
            (Self::Text, _) => plain(value.to_option()),
            (Self::Shapes, Scalar::Text(text)) if are_shapes(text) => plain(text.clone()),
            (Self::Shapes, _) => wrong("sizes of inputs, such as sample:1x4x64x64,timestep:1"),
            (Self::Json, Scalar::Text(text)) if is_object(text) => plain(text.clone()),
            (Self::Json, _) => wrong("the text of a JSON object (a file's path is not read), such as '{\"CPU\": {}}'"),
        }
    }

    /// For editors.
    #[cfg(test)]
    pub(crate) fn schema(self) -> serde_json::Value {
        use serde_json::json;
        match self {
            Self::Flag => json!({ "enum": [true, false, 0, 1] }),
            Self::TrueOrFalse => json!({ "type": "boolean" }),
            Self::Whole(least, i64::MAX) => json!({ "type": "integer", "minimum": least }),
            Self::Whole(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
            Self::Word(words) => {
                // 0, 1 and 2 are numbers in YAML.
                let number = |word: &&str| word.parse::<i64>().map_or(json!(word), |number| json!(number));
                json!({ "enum": words.iter().map(number).collect::<Vec<_>>() })
            }
            Self::Text => json!({ "type": ["string", "integer"], "minLength": 1, "maxLength": MAX_TEXT_BYTES }),
            Self::Shapes | Self::Json => json!({ "type": "string", "maxLength": MAX_TEXT_BYTES }),
        }
    }
}

/// A text that ends where it seems to.
fn plain(text: String) -> Result<String, String> {
    if text.is_empty() {
        return Err("is empty; leave the option out instead".into());
    }
    if text.contains('\0') {
        return Err("holds a NUL byte".into());
    }
    if text.len() > MAX_TEXT_BYTES {
        return Err(format!("has {} bytes, at most {MAX_TEXT_BYTES} are read", text.len()));
    }
    Ok(text)
}

fn are_shapes(text: &str) -> bool {
    let is_shape = |shape: &str| match shape.rsplit_once(':') {
        Some((name, sizes)) => {
            !name.is_empty() && sizes.split('x').all(|size| size.parse::<u32>().is_ok_and(|size| size > 0))
        }
        None => false,
    };
    text.split(',').all(is_shape)
}

fn is_object(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok_and(|value| value.is_object())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Scalar {
        Scalar::Text(text.into())
    }

    #[test]
    fn each_kind_writes_what_its_provider_reads() {
        for (kind, value, expected) in [
            (Kind::Flag, Scalar::Bool(true), "1"),
            (Kind::Flag, Scalar::Integer(0), "0"),
            (Kind::TrueOrFalse, Scalar::Bool(false), "false"),
            (Kind::Whole(0, 5), Scalar::Integer(5), "5"),
            (Kind::Word(&["0", "16"]), Scalar::Integer(16), "16"),
            (Kind::Text, text("/cache"), "/cache"),
            (Kind::Text, Scalar::Integer(57), "57"),
            (Kind::Shapes, text("sample:1x4x64x64,/a:b:1"), "sample:1x4x64x64,/a:b:1"),
            (Kind::Json, text("{\"CPU\": {}}"), "{\"CPU\": {}}"),
        ] {
            assert_eq!(kind.write(&value).unwrap(), expected, "{kind:?}");
        }
    }

    #[test]
    fn what_a_kind_does_not_take_is_told() {
        for (kind, value, expected) in [
            (Kind::Flag, text("yes"), "is \"yes\", expected true or false"),
            (Kind::Flag, Scalar::Integer(2), "expected true or false"),
            (Kind::TrueOrFalse, Scalar::Integer(1), "expected true or false"),
            (Kind::Whole(0, 5), Scalar::Integer(6), "expected a whole number from 0 to 5"),
            (Kind::COUNT, Scalar::Integer(-1), "expected a whole number from 0"),
            (Kind::COUNT, text("8GB"), "is \"8GB\", expected a whole number"),
            (Kind::Word(&["low", "high"]), text("hihg"), "did you mean \"high\""),
            (Kind::Text, text(""), "is empty"),
            (Kind::Text, text("CPU\0"), "holds a NUL byte"),
            (Kind::Text, text(&"x".repeat(8193)), "at most 8192"),
            (Kind::Text, Scalar::Bool(true), "expected a text"),
            (Kind::Shapes, text("sample:1x4x-1"), "expected sizes of inputs"),
            (Kind::Shapes, text("1x4x64x64"), "expected sizes of inputs"),
            (Kind::Json, text("/etc/openvino.json"), "a file's path is not read"),
            (Kind::Json, text("[1]"), "expected the text of a JSON object"),
        ] {
            let told = kind.write(&value).unwrap_err();
            assert!(told.contains(expected), "{kind:?}: {told}");
        }
    }
}
