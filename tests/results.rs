//! Reports are what docs/results/report.schema.json says, and those that are published are whole.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::{Value, json};

#[path = "common/report.rs"]
mod made;

const SCHEMA: &str = "docs/results/report.schema.json";

struct Schema(Schemas, SchemaIndex);

impl Schema {
    fn open() -> Self {
        let text = std::fs::read_to_string(root().join(SCHEMA)).unwrap();
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource(SCHEMA, serde_json::from_str(&text).unwrap()).unwrap();
        let index = compiler.compile(SCHEMA, &mut schemas).unwrap();
        Self(schemas, index)
    }

    fn faults(&self, report: &Value) -> Result<(), String> {
        self.0.validate(report, self.1).map_err(|e| format!("{e:#}"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every `docs/results/*/report.json`.
fn published() -> Vec<PathBuf> {
    let folders = std::fs::read_dir(root().join("docs/results")).unwrap();
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
        for private in ["/home/", "/root/", "/Users/"] {
            assert!(!text.contains(private), "{}: tells a path of who measured, {private}", file.display());
        }
    }
}
