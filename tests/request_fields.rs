//! The fields that embedding programs set by name are the options of `safelight generate`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::Command;

use safelight::request::FIELDS;

/// Options of the command that say nothing of a request: where it runs, where pictures go, what is told.
const OTHERS: [&str; 26] = [
    "prompts",
    "model",
    "target",
    "precision",
    "threads",
    "library",
    "cache",
    "cached-only",
    "no-probe",
    "image",
    "mask",
    "out",
    "format",
    "json",
    "prompt-cache",
    "save-latents",
    "record-calibration",
    "record-limit",
    "plan",
    "dry-run",
    "quiet",
    "help",
    "version",
    "checkpoint-every",
    "checkpoint",
    "resume",
];

#[test]
fn fields_are_options_and_options_are_fields() {
    let help = Command::new(env!("CARGO_BIN_EXE_safelight")).args(["generate", "-h"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let options = help.lines().filter(|line| line.trim_start().starts_with('-')).filter_map(|line| {
        let (_, after) = line.split_once("--")?;
        after.split([' ', '<', '\t']).next()
    });
    let options: BTreeSet<_> = options.filter(|name| !OTHERS.contains(name)).collect();
    // The prompt has no dashes, and a terminal shows no previews.
    let fields = FIELDS.iter().map(|field| field.name).filter(|name| !["prompt", "preview-every"].contains(name));
    assert_eq!(fields.collect::<BTreeSet<_>>(), options);
}
