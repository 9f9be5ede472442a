//! What the crate `safelight` promises to those who embed it: its interface, its oldest Rust, what crosses threads.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{repository, skipped};
use safelight::{
    Cancel, Checkpoint, Error, Library, Model, Output, Picture, Pipeline, Plan, PromptCache, Request, Route, Target,
};

mod common;

const SNAPSHOT: &str = "runtime/core/public-api.txt";

/// What an application gives from one thread to another. It is compiled, or not.
const _: () = {
    const fn is_send<T: Send + 'static>() {}
    const fn is_shared<T: Send + Sync + 'static>() {}
    is_send::<Pipeline>();
    is_send::<Output>();
    is_shared::<Cancel>();
    is_shared::<Checkpoint>();
    is_shared::<Error>();
    is_shared::<Library>();
    is_shared::<Model>();
    is_shared::<Picture>();
    is_shared::<Plan>();
    is_shared::<PromptCache>();
    is_shared::<Request>();
    is_shared::<Route>();
    is_shared::<Target>();
};

/// Every public item, one a line, as of the compiler that the first line names: another one may write types otherwise.
#[test]
fn public_api_is_the_one_that_was_decided_on() {
    let path = repository().join(SNAPSHOT);
    let known = fs::read_to_string(&path).unwrap_or_default();
    let compiler = told(Command::new("rustc").arg("--version"));
    let is_writing = std::env::var_os("SAFELIGHT_WRITE_DOCS").is_some();
    if !is_writing && known.lines().next() != Some(&headline(&compiler)) {
        return skipped(&format!("{SNAPSHOT} is not of this compiler, {}", compiler.trim()));
    }
    let items = items();
    let is_instrument = |item: &&String| instruments().iter().any(|module| item.contains(module.as_str()));
    let (instruments, promised): (Vec<_>, Vec<_>) = items.iter().partition(is_instrument);
    let list = |items: Vec<&String>| items.iter().map(|item| format!("{item}\n")).collect::<String>();
    let found = format!(
        "{}\n\n# Promised\n\n{}\n# May change in any release\n\n{}",
        headline(&compiler),
        list(promised),
        list(instruments)
    );
    if is_writing {
        return fs::write(path, found).unwrap();
    }
    let [before, now] = [&known, &found].map(|text| text.lines().collect::<BTreeSet<_>>());
    let gone: Vec<_> = before.difference(&now).collect();
    let new: Vec<_> = now.difference(&before).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "the interface has changed; if that is meant, SAFELIGHT_WRITE_DOCS=1 cargo test --test public_api, and tell it in \
         CHANGELOG.md; gone: {gone:#?}; new: {new:#?}"
    );
}

fn headline(compiler: &str) -> String {
    format!("# The interface of the crate safelight, as rustdoc of {} tells it", compiler.trim())
}

fn told(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The paths of modules that no promise covers: those that the crate's documentation lists.
fn instruments() -> Vec<String> {
    let text = fs::read_to_string(repository().join("runtime/core/src/lib.rs")).unwrap();
    let (_, section) = text.split_once("# What may change in any release").unwrap();
    let (section, _) = section.split_once("\n//! # ").unwrap();
    let modules: Vec<_> = section.split("[`").skip(1).map(|rest| rest.split('`').next().unwrap()).collect();
    assert!(modules.contains(&"bench") && modules.len() > 5, "{modules:?}");
    modules
        .into_iter()
        .flat_map(|module| [format!("safelight::{module}::"), format!(" mod safelight::{module}")])
        .collect()
}

/// Public items without what is derived, each type where it is defined, and reexports as the one line that they are.
fn items() -> Vec<String> {
    let api = public_api::Builder::from_rustdoc_json(rustdoc_json())
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .unwrap();
    let lines: Vec<_> = api.items().map(ToString::to_string).collect();
    let is_reexport =
        |line: &&String| line.split("safelight::").nth(1).is_some_and(|name| name.starts_with(char::is_uppercase));
    let defined: BTreeSet<_> =
        lines.iter().filter(|line| !is_reexport(line)).map(|line| without_modules(line)).collect();
    let is_declaration =
        |line: &str| ["struct", "enum", "trait"].iter().any(|kind| line.contains(&format!("pub {kind} ")));
    let is_repeated =
        |line: &&String| is_reexport(line) && !is_declaration(line) && defined.contains(&without_modules(line));
    let mut seen = BTreeSet::new();
    lines.iter().filter(|line| !is_repeated(line) && seen.insert(*line)).cloned().collect()
}

/// The same line with `safelight::Name` for `safelight::module::Name`.
fn without_modules(line: &str) -> String {
    let is_module = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let mut pieces = line.split("safelight::");
    let mut short = pieces.next().unwrap_or_default().to_owned();
    for mut rest in pieces {
        while let Some((_, tail)) = rest.split_once("::").filter(|(name, _)| is_module(name)) {
            rest = tail;
        }
        short += "safelight::";
        short += rest;
    }
    short
}

/// What rustdoc tells of the library. The format is not stable, so that rustdoc must be told to give it; the compiler is
/// not, or everything would be built anew.
#[cfg(unix)]
fn rustdoc_json() -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (target, rustdoc) = (temporary.parent().unwrap(), temporary.join("rustdoc-json"));
    fs::write(&rustdoc, "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc \"$@\"\n").unwrap();
    fs::set_permissions(&rustdoc, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(env!("CARGO"));
    command.args(["rustdoc", "--locked", "-p", "safelight", "--lib", "--target-dir"]).arg(target);
    command.args(["--", "-Z", "unstable-options", "--output-format", "json"]).env("RUSTDOC", rustdoc);
    told(command.current_dir(repository()));
    target.join("doc/safelight.json")
}

#[cfg(not(unix))]
fn rustdoc_json() -> PathBuf {
    panic!("only a shell script tells rustdoc what the compiler is not told; run this on Linux or macOS")
}

/// What clippy's `incompatible_msrv` is to our own code, this is to dependencies.
#[test]
fn no_dependency_wants_a_newer_rust_than_we_do() {
    let metadata = told(
        Command::new(env!("CARGO")).args(["metadata", "--format-version", "1", "--locked"]).current_dir(repository()),
    );
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let version = |package: &serde_json::Value| {
        let text = package["rust_version"].as_str()?;
        Some(text.split('.').map(|part| part.parse::<u32>().unwrap()).chain([0]).take(3).collect::<Vec<_>>())
    };
    let packages = metadata["packages"].as_array().unwrap();
    let own = packages.iter().find(|package| package["name"] == "safelight").and_then(version).unwrap();
    let newer = packages.iter().filter(|package| version(package).is_some_and(|wanted| wanted > own));
    let newer: Vec<_> = newer
        .map(|package| format!("{} {} wants {}", package["name"], package["version"], package["rust_version"]))
        .collect();
    assert!(newer.is_empty(), "{newer:?}");
}
