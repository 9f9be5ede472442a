//! `safelight collect`: the reports of many devices, in one table.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use safelight::bench::{Report, fleet};
use safelight::{Error, ErrorKind};

use crate::report::{FILE, fleet_as_html, fleet_as_markdown};
use crate::{print, print_bytes, tell};

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Reports that safelight bench wrote, or folders in which every report.json is taken
    #[arg(value_name = "REPORT.json|FOLDER", required = true)]
    reports: Vec<PathBuf>,
    /// What to make of them
    #[arg(short, long, value_enum, default_value = "markdown")]
    format: Format,
    /// Where to write it [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for a README
    Markdown,
    /// One page with charts, which needs nothing else
    Html,
    /// All numbers, for other programs
    Json,
}

const EXAMPLES: &str = "\
Examples:
  safelight collect pi5/report.json orin/report.json
  safelight collect results/ --format html --out fleet.html";

/// Folders within folders that are looked into.
const MOST_DEPTH: usize = 8;

/// Reports that are read: each may be of many megabytes.
const MOST_REPORTS: usize = 1_000;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut files = Vec::new();
    for given in &arguments.reports {
        let found = if given.is_dir() { within(given)? } else { vec![given.clone()] };
        if found.is_empty() {
            let told = format!("{}: no {FILE} is in it or in a folder below it", given.display());
            return Err(Error::new(ErrorKind::Io, told).into());
        }
        files.extend(found.into_iter().filter(|file| !given.is_dir() || !files.contains(file)).collect::<Vec<_>>());
    }
    if files.len() > MOST_REPORTS {
        let told = format!("{} reports are more than {MOST_REPORTS}; give fewer at a time", files.len());
        return Err(Error::new(ErrorKind::Limit, told).into());
    }
    let read = |file: &PathBuf| Ok((file.clone(), Report::read(file)?));
    let fleet = fleet::collect(&files.iter().map(read).collect::<safelight::Result<Vec<_>>>()?);
    let text = match arguments.format {
        Format::Markdown => fleet_as_markdown(&fleet),
        Format::Html => fleet_as_html(&fleet, &files),
        Format::Json => serde_json::to_string_pretty(&fleet)? + "\n",
    };
    match arguments.out.as_deref().filter(|out| *out != Path::new("-")) {
        Some(out) => {
            safelight::save(out, text.as_bytes())?;
            fleet.notes.iter().for_each(|note| tell(&format!("note: {note}")));
            print(&out.display().to_string())?;
        }
        None => print_bytes(text.as_bytes())?,
    }
    Ok(())
}

/// Every report below a folder, in the order of their names. Links are not followed: they may lead in a circle.
fn within(folder: &Path) -> safelight::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![(folder.to_path_buf(), 0)]);
    while let Some((folder, depth)) = folders.pop() {
        let unreadable = |e| Error::new(ErrorKind::Io, format!("{}: cannot be read: {e}", folder.display()));
        for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let kind = entry.file_type().map_err(unreadable)?;
            if kind.is_dir() && depth < MOST_DEPTH {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() && entry.file_name() == FILE {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}
