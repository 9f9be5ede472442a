//! Every dependency's licence is on the list of deny.toml, also where cargo-deny is not installed.
#![allow(clippy::unwrap_used)]

use std::{fs, process::Command};

use serde_json::Value;

#[test]
fn every_dependency_has_an_allowed_licence() {
    let allowed = allowed_licences();
    let offending: Vec<String> = packages()
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(|it| satisfies(it, &allowed)))
        .filter(|package| {
            !exceptions().iter().any(|(name, licence)| package["name"] == *name && package["license"] == *licence)
        })
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(offending.is_empty(), "not covered by the list in deny.toml:\n{}", offending.join("\n"));
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// The strings of `[licenses] allow = [...]`.
fn allowed_licences() -> Vec<String> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).unwrap();
    let (_, section) = text.split_once("[licenses]").unwrap();
    let (_, list) = section.split_once("allow = [").unwrap();
    let (list, _) = list.split_once(']').unwrap();
    // Between two quotes is every second piece.
    let allowed: Vec<String> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(allowed.iter().any(|licence| licence == "Apache-2.0"), "the list was not understood: {allowed:?}");
    allowed
}

/// Crate and licence of each line `exceptions = [{ crate = …, allow = [ONE] }]`.
fn exceptions() -> Vec<(String, String)> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).unwrap();
    let (_, list) = text.split_once("exceptions = [").unwrap();
    let entries = list.lines().next().unwrap().split("crate = ").skip(1);
    let entry = |entry: &str| {
        let mut quoted = entry.split('"').skip(1).step_by(2).map(str::to_owned);
        (quoted.next().unwrap(), quoted.next().unwrap())
    };
    entries.map(entry).collect()
}

/// Whether the SPDX `expression` can be met with `allowed` licences alone; what cannot be parsed cannot be met.
fn satisfies(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut tokens: Vec<&str> = spaced.split_whitespace().rev().collect();
    either(&mut tokens, allowed) == Some(true) && tokens.is_empty()
}

// The grammar, loosest first; `tokens` is a stack with the next token on top. None: not an SPDX expression.

fn either(tokens: &mut Vec<&str>, allowed: &[String]) -> Option<bool> {
    let mut met = both(tokens, allowed)?;
    while tokens.pop_if(|token| *token == "OR").is_some() {
        met |= both(tokens, allowed)?;
    }
    Some(met)
}

fn both(tokens: &mut Vec<&str>, allowed: &[String]) -> Option<bool> {
    let mut met = licence(tokens, allowed)?;
    while tokens.pop_if(|token| *token == "AND").is_some() {
        met &= licence(tokens, allowed)?;
    }
    Some(met)
}

fn licence(tokens: &mut Vec<&str>, allowed: &[String]) -> Option<bool> {
    match tokens.pop()? {
        "(" => {
            let met = either(tokens, allowed)?;
            (tokens.pop()? == ")").then_some(met)
        }
        ")" | "AND" | "OR" | "WITH" => None,
        name if tokens.pop_if(|token| *token == "WITH").is_some() => {
            let licence = format!("{name} WITH {}", tokens.pop()?);
            Some(allowed.contains(&licence))
        }
        name => Some(allowed.iter().any(|licence| licence == name)),
    }
}

#[test]
fn expressions_are_read_as_spdx_says() {
    let allowed = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("Zlib AND MIT", true),
        // AND binds tighter than OR.
        ("MIT OR Zlib AND GPL-3.0", true),
        ("(MIT OR Zlib) AND GPL-3.0", false),
        ("(GPL-3.0 OR Zlib) AND MIT", true),
        // An exception is part of the licence.
        ("Apache-2.0", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("MIT WITH LLVM-exception", false),
        ("GPL-3.0 OR Apache-2.0 WITH LLVM-exception OR BSD-2-Clause", true),
        ("", false),
        ("MIT OR", false),
        ("MIT Zlib", false),
        ("(MIT", false),
        ("MIT)", false),
        ("OR MIT", false),
    ] {
        assert_eq!(satisfies(expression, &allowed), expected, "{expression:?}");
    }
}
