//! The arguments that say which model runs where and how, which several subcommands take.

use std::path::PathBuf;

use safelight::target::Session;
use safelight::{Library, Precision, Result, Target};

use crate::folders;

#[derive(clap::Args)]
pub(crate) struct DeviceArguments {
    /// Model: a name in models/, or a folder with a model.yaml or an exported diffusers pipeline
    /// [default: the only one]
    #[arg(short, long, value_name = "NAME|FOLDER")]
    pub(crate) model: Option<String>,
    /// Target: a name in targets/, a YAML file, or auto for the one that fits this machine best
    #[arg(short, long, value_name = "NAME|FILE", default_value = Target::AUTO)]
    target: String,
    /// Precisions, best first [default: the target's]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', value_parser = precision)]
    precision: Vec<Precision>,
    /// Threads inside a graph's nodes [default: the target's]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = threads())]
    threads: Option<u16>,
    /// ONNX Runtime library to open, or a folder that holds it
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
}

impl DeviceArguments {
    /// The target with its own precisions, and lines that tell which was chosen and why.
    pub(crate) fn described_target(&self) -> Result<(Target, Vec<String>)> {
        let (target, choice) = folders::target(&self.target)?;
        Ok((self.threads.map_or_else(|| target.clone(), |threads| target.clone().with_threads(threads)), choice))
    }

    /// The same target with the precisions that were asked for, if any were.
    pub(crate) fn narrowed(&self, target: Target) -> Target {
        if self.precision.is_empty() { target } else { target.with_precision(self.precision.clone()) }
    }

    /// Opens the library that was asked for; without it the first use finds one.
    pub(crate) fn open_library(&self) -> Result<()> {
        self.library.as_deref().map_or(Ok(()), |path| Library::open(Some(path)).map(drop))
    }
}

fn precision(name: &str) -> Result<Precision, String> {
    let found = Precision::ALL.into_iter().find(|precision| precision.name() == name);
    found.ok_or_else(|| "expected int8, fp16 or fp32, or several joined by commas, best first".into())
}

fn threads() -> impl clap::builder::TypedValueParser {
    clap::value_parser!(u16).range(0..=i64::from(Session::MAX_THREADS))
}
