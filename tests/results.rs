//! Reports are what docs/results/report.schema.json says; those that are published are whole, and the README shows them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::{Value, json};

mod common;
#[path = "common/report.rs"]
mod made;

use common::{Outcome, Place, repository};

const SCHEMA: &str = "docs/results/report.schema.json";

struct Schema(Schemas, SchemaIndex);

impl Schema {
    fn open() -> Self {
        let text = std::fs::read_to_string(repository().join(SCHEMA)).unwrap();
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource(SCHEMA, serde_json::from_str(&text).unwrap()).unwrap();
        let index = compiler.compile(SCHEMA, &mut schemas).unwrap();
        Self(schemas, index)
    }

    fn faults(&self, report: &Value) -> Result<(), String> {
        self.0.validate(report, self.1).map_err(|e| format!("{e:#}"))
    }
}

/// Every `docs/results/*/report.json`, by name.
fn published() -> BTreeSet<PathBuf> {
    let folders = std::fs::read_dir(repository().join("docs/results")).unwrap();
    folders.map(|entry| entry.unwrap().path().join("report.json")).filter(|file| file.is_file()).collect()
}

fn example() -> Value {
    serde_json::to_value(made::report([made::Made::default()])).unwrap()
}

#[test]
fn a_report_of_the_library_is_valid() {
    assert_eq!(Schema::open().faults(&example()), Ok(()));
}

#[test]
fn broken_reports_are_not() {
    let schema = Schema::open();
    type Break = fn(&mut Value);
    let table: &[(Break, &str)] = &[
        (|it| drop(it.as_object_mut().unwrap().remove("cases")), "cases"),
        (|it| drop(it["cases"][0].as_object_mut().unwrap().remove("validity")), "validity"),
        (|it| it["schema"] = json!("safelight-bench/0"), "safelight-bench/1"),
        (|it| it["finished"] = json!("yes"), "/finished"),
        (|it| it["cases"][0]["images"]["ms"][0] = json!("12 ms"), "/cases/0/images/ms/0"),
        (|it| it["cases"][0]["workload"]["steps"] = json!(-1), "/cases/0/workload/steps"),
        (|it| it["cases"][0]["workload"]["scenario"] = json!("server"), "/cases/0/workload/scenario"),
        (|it| it["cases"][0]["summary"]["p100"] = json!(1.0), "p100"),
        (|it| it["score"] = json!(1.0), "score"),
    ];
    for (break_it, told) in table {
        let mut report = example();
        break_it(&mut report);
        let faults = schema.faults(&report).expect_err(told);
        assert!(faults.contains(told), "{told}: {faults}");
    }
}

/// What is published is valid by the schema, is read, was finished, and tells nothing of who measured.
#[test]
fn what_is_published_can_be_read() {
    let schema = Schema::open();
    for file in published() {
        let text = std::fs::read_to_string(&file).unwrap();
        let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_eq!(schema.faults(&value), Ok(()), "{}", file.display());
        let report: safelight::bench::Report = serde_json::from_value(value).unwrap();
        assert!(report.finished && report.tool.release, "{}: only whole reports of a release build", file.display());
        let pictures = report.cases.iter().flat_map(|case| &case.quality).flat_map(|quality| &quality.pictures);
        for picture in pictures.flat_map(|picture| picture.file.iter().chain(&picture.reference_file)) {
            assert!(file.with_file_name(picture).is_file(), "{}: {picture} is not beside it", file.display());
        }
        for folder in ["home", "root", "Users"] {
            let private = format!("/{folder}/");
            assert!(!text.contains(&private), "{}: tells a path of who measured, {private}", file.display());
        }
    }
}

/// Rewrites that part of the README where SAFELIGHT_UPDATE is set.
#[test]
fn the_readme_shows_what_is_published() {
    const BEGIN: &str = "<!-- bench:begin -->\n";
    const END: &str = "<!-- bench:end -->\n";
    let path = repository().join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the README has a place for results");
    let (shown, after) = rest.split_once(END).expect("that place ends");
    let made: String = published().iter().map(|file| shown_in_readme(file)).collect();
    if std::env::var_os("SAFELIGHT_UPDATE").is_some() {
        std::fs::write(&path, [before, BEGIN, &made, END, after].concat()).unwrap();
        return;
    }
    assert!(shown == made, "README.md is old: SAFELIGHT_UPDATE=1 cargo test --test results");
}

/// The table of a report, and where all of it is.
fn shown_in_readme(file: &Path) -> String {
    let report = file.to_str().unwrap();
    let outcome = Outcome::of(Place::new().without_library(["report", report, "--format", "markdown"]));
    outcome.expect(report, 0, "");
    let folder = file.parent().unwrap().strip_prefix(repository()).unwrap().display();
    format!("\n{}\n[The whole report]({folder}), every sample in it.\n\n", String::from_utf8(outcome.stdout).unwrap())
}

#[path = "../benches/own_code/names.rs"]
mod names;

/// The manual lists every check and every bench, in the order of their tables.
#[test]
fn the_manual_is_that_of_the_tables() {
    let manual = std::fs::read_to_string(repository().join("docs/benchmarking.md")).unwrap();
    let row = |(name, what): (&str, &str)| format!("| `{name}` | {what} |\n");
    let checks: String = safelight::bench::validity::checks().map(row).collect();
    let benches: String = names::NAMES.iter().copied().map(row).collect();
    for (table, rows) in [("checks", checks), ("benches", benches)] {
        assert!(
            manual.contains(&format!("|---|---|\n{rows}\n")),
            "{table} of docs/benchmarking.md, which are:\n{rows}"
        );
    }
}

/// Every command that the manual shows is one, with all its arguments.
#[test]
fn commands_of_the_manual_exist() {
    let mut commands = 0;
    for file in ["docs/benchmarking.md", "docs/results/README.md"] {
        let text = std::fs::read_to_string(repository().join(file)).unwrap().replace("\\\n", "");
        for line in text.lines().filter_map(|line| line.strip_prefix("safelight ")) {
            let words: Vec<_> = line.split('#').next().unwrap().split_whitespace().collect();
            let outcome = Outcome::of(Place::new().without_library([words[0], "--help"]));
            outcome.expect(line, 0, "");
            let help = String::from_utf8(outcome.stdout).unwrap();
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")), "{line}: {flag}");
            }
            commands += 1;
        }
    }
    assert!(commands > 10, "only {commands} were found");
}
