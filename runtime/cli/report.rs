//! `safelight report`: a benchmark's report for people, spreadsheets and READMEs.

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use clap::ValueEnum;
use safelight::{Error, ErrorKind, bench};

use crate::{print, print_bytes};

mod charts;
pub(crate) mod comparison;
mod csv;
mod fleet;
mod headline;
mod html;
mod markdown;
mod number;
mod page;
mod picture;
mod section;

pub(crate) use csv::{csv, csv_detailed};
pub(crate) use fleet::{fleet_as_html, fleet_as_markdown};
pub(crate) use html::html;
pub(crate) use markdown::markdown;

/// The report's own name in the folder that `safelight bench` writes.
pub(crate) const FILE: &str = "report.json";

/// Longest file of a picture that is read, in bytes.
const MAX_PICTURE_BYTES: u64 = 64 << 20;

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Report that `safelight bench` wrote, or its folder
    #[arg(value_name = "REPORT.json|FOLDER")]
    report: PathBuf,
    /// What to make of it
    #[arg(short, long, value_enum, default_value = "html")]
    format: Format,
    /// Where to write it; - is standard output [default: of html, beside the report; of all others, standard output]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One page with charts and pictures, which needs nothing else
    Html,
    /// Each image of the headline pass, a row an image; of a cold case each process
    Csv,
    /// The second pass: stages and steps, a row a part of an image
    CsvDetailed,
    /// A table for a README
    Markdown,
}

const EXAMPLES: &str = "\
Examples:
  safelight report results/                                # writes results/report.html
  safelight report results/report.json --format markdown   # prints a table
  safelight report results/ --format csv --out images.csv";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = file(&arguments.report);
    let report = bench::Report::read(&path)?;
    let out = arguments.out.clone().or_else(|| (arguments.format == Format::Html).then(|| path.with_extension("html")));
    let out = out.filter(|out| out != Path::new("-"));
    refuse_itself(out.as_deref(), &path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let text = match arguments.format {
        Format::Html => html(&report, &|name| picture_beside(folder, name)),
        Format::Csv => csv(&report),
        Format::CsvDetailed => csv_detailed(&report),
        Format::Markdown => markdown(&report),
    };
    match out {
        Some(out) => {
            safelight::save(&out, text.as_bytes())?;
            print(&out.display().to_string())?;
        }
        None => print_bytes(text.as_bytes())?,
    }
    Ok(())
}

/// Raw samples are worth more than what is made of them.
fn refuse_itself(out: Option<&Path>, report: &Path) -> safelight::Result<()> {
    let same = |out: &Path| out.canonicalize().is_ok_and(|out| report.canonicalize().is_ok_and(|report| out == report));
    match out.filter(|out| same(out)) {
        Some(out) => {
            let told = format!("{}: is the report itself; give --out another file", out.display());
            Err(Error::new(ErrorKind::Usage, told))
        }
        None => Ok(()),
    }
}

/// The report's file, where its folder was given.
pub(crate) fn file(given: &Path) -> PathBuf {
    if given.is_dir() { given.join(FILE) } else { given.to_owned() }
}

/// Reads a picture that a report names. A stranger's report must not make us read elsewhere than beside it.
pub(crate) fn picture_beside(folder: &Path, name: &str) -> Option<Vec<u8>> {
    let name = Path::new(name);
    let within = name.components().all(|part| matches!(part, Component::Normal(_)));
    let path = folder.join(name);
    if !within || !path.metadata().is_ok_and(|found| found.is_file()) {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_PICTURE_BYTES + 1).read_to_end(&mut bytes)).ok()?;
    Some(bytes).filter(|bytes| bytes.len() as u64 <= MAX_PICTURE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_read_beside_the_report_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let (outside, beside) = (folder.path().join("secret"), folder.path().join("report"));
        std::fs::create_dir_all(beside.join("pictures")).unwrap();
        std::fs::write(&outside, "secret").unwrap();
        std::fs::write(beside.join("pictures/1.png"), "png").unwrap();
        assert_eq!(picture_beside(&beside, "pictures/1.png").unwrap(), b"png");
        for name in ["../secret", "pictures/../../secret", outside.to_str().unwrap(), "pictures", "none.png", ""] {
            assert_eq!(picture_beside(&beside, name), None, "{name}");
        }
    }
}
