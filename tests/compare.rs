//! Reports are read, compared and collected.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use common::Place;
use report::{Made, report};
use safelight::bench::Report;

mod common;
#[path = "common/report.rs"]
mod report;

#[test]
fn a_report_is_read_as_it_was_written() {
    let place = Place::new();
    let path = place.inputs().join("report.json");
    let written = report([Made::default()]);
    written.write(&path).unwrap();
    assert_eq!(Report::read(&path).unwrap(), written);
}
