//! Where in a JSON text a fault is: its line and column as `serde_json` tells them → the field, such as
//! `cases[0].images.ms[7]`. A whole report is one line, in which a column says nothing to people.

/// What the text is inside of.
enum Within<'a> {
    /// An object, at the value of a key.
    Object(&'a str),
    /// An array, at the element of an index.
    Array(usize),
}

/// The field at a line and column, which both count from 1, columns in bytes; empty at the top.
pub(super) fn at(text: &str, (line, column): (usize, usize)) -> String {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    // What ends an object or array at this very place was found missing something inside of it.
    let end = (before + column.saturating_sub(1)).min(text.len());
    let (bytes, mut at, mut within) = (text.as_bytes(), 0, Vec::new());
    while at < end {
        match bytes[at] {
            b'{' => within.push(Within::Object("")),
            b'[' => within.push(Within::Array(0)),
            b'}' | b']' => drop(within.pop()),
            b',' => {
                if let Some(Within::Array(index)) = within.last_mut() {
                    *index += 1;
                }
            }
            b'"' => {
                let (start, past) = (at + 1, past_string(bytes, at));
                let is_key = text[past.min(text.len())..].trim_start().starts_with(':');
                if let (true, Some(Within::Object(key))) = (is_key, within.last_mut()) {
                    *key = &text[start..past - 1];
                }
                at = past - 1;
            }
            _ => (),
        }
        at += 1;
    }
    let told = within.iter().map(|within| match within {
        Within::Object(key) => format!(".{key}"),
        Within::Array(index) => format!("[{index}]"),
    });
    told.collect::<String>().trim_matches('.').into()
}

/// Past the closing quote of a string that begins at `at`.
fn past_string(bytes: &[u8], at: usize) -> usize {
    let mut past = at + 1;
    while past < bytes.len() && bytes[past] != b'"' {
        past += if bytes[past] == b'\\' { 2 } else { 1 };
    }
    (past + 1).min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only faults are looked at")]
    struct Outer {
        name: String,
        list: Vec<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only faults are looked at")]
    struct Inner {
        ms: Vec<f64>,
        kind: Option<bool>,
    }

    #[test]
    fn a_fault_is_told_by_its_field() {
        for (text, expected) in [
            (r#"{"name":"a","list":[{"ms":[1,2]},{"ms":[1,"fast"]}]}"#, "list[1].ms[1]"),
            (r#"{"name":"a","list":[{"ms":[1,2]},{"kind":true}]}"#, "list[1].kind"),
            (r#"{"name":"a \"quoted\\","list":[{"ms":[1,2],"other":3}]}"#, "list[0].other"),
            ("{\n \"name\": \"a\",\n \"list\": [\n  {\"ms\": [true]}\n ]\n}", "list[0].ms[0]"),
            (r#"{"list":[]}"#, "list"),
            ("7", ""),
            ("", ""),
        ] {
            let fault = serde_json::from_str::<Outer>(text).unwrap_err();
            assert_eq!(at(text, (fault.line(), fault.column())), expected, "{text}: {fault}");
        }
    }
}
