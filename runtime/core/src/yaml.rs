//! Reading the small YAML files that describe targets and models, which may come from strangers.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::did_you_mean;
use crate::{Error, ErrorKind, Result, bounded};

/// Largest description that is read.
const MAX_YAML_BYTES: u64 = 64 * 1024;

/// Most brackets that are open at once: the parser's time grows with their number times the file's length.
const MAX_YAML_DEPTH: usize = 64;

/// Parses a file into `T`, refusing unknown fields where `T` does; faults are of `kind`.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, kind: ErrorKind) -> Result<T> {
    let fault = |what: String| Error::new(kind, format!("{}: {what}", path.display()));
    let text = bounded::read(path, MAX_YAML_BYTES).map_err(|e| fault(e.to_string()).because(e))?;
    if deepest(&text) > MAX_YAML_DEPTH {
        return Err(fault(format!("has more than {MAX_YAML_DEPTH} brackets open at once")));
    }
    parse(&text).map_err(|e| fault(message(&e)).because(e))
}

/// Parses YAML text into `T`. A key that is given twice is an error in maps, too, which serde lets pass.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, serde_yaml::Error> {
    let parsed = serde_yaml::from_str(text)?;
    serde_yaml::from_str::<serde_yaml::Value>(text)?;
    Ok(parsed)
}

/// What to say of text that could not be parsed. Where serde met a field or value that it does not know, it lists those
/// that it does; this adds the nearest.
pub(crate) fn message(error: &serde_yaml::Error) -> String {
    let told = error.to_string();
    let mut quoted = told.split('`');
    let meant = match (quoted.next(), quoted.next()) {
        // serde's own words: "unknown field `x`, expected one of `y`, `z`".
        (Some(before), Some(name)) if before.ends_with("unknown field ") || before.ends_with("unknown variant ") => {
            did_you_mean(name, quoted.skip(1).step_by(2))
        }
        _ => String::new(),
    };
    told + &meant
}

/// How many brackets are open at once; those inside of texts count, too.
fn deepest(text: &str) -> usize {
    let open = |open: &mut usize, byte| {
        match byte {
            b'[' | b'{' => *open += 1,
            b']' | b'}' => *open = open.saturating_sub(1),
            _ => (),
        }
        Some(*open)
    };
    text.bytes().scan(0, open).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_key_given_twice_is_refused_in_maps_too() {
        let error = parse::<BTreeMap<String, u8>>("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert!(error.to_string().contains("duplicate"), "{error}");
    }

    #[test]
    fn the_nearest_field_or_value_is_told() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Lamp {
            _colour: Option<Colour>,
            _watts: Option<u8>,
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Colour {
            Red,
            Amber,
        }
        let fault = |text| message(&parse::<Lamp>(text).unwrap_err());
        assert!(fault("_clour: red").ends_with("; did you mean \"_colour\""), "{}", fault("_clour: red"));
        assert!(fault("_colour: ambr").ends_with("; did you mean \"amber\""), "{}", fault("_colour: ambr"));
        for text in ["magic: red", "_colour: blue", "_watts: bright", "- `_clour`, `_colour`"] {
            assert!(!fault(text).contains("did you mean"), "{text}: {}", fault(text));
        }
        let _ = (Colour::Red, Colour::Amber);
    }

    #[test]
    fn depth_counts_open_brackets_only() {
        assert_eq!(deepest("a: [b, {c: [d]}]\ne: [f]\n]]"), 3);
    }
}
