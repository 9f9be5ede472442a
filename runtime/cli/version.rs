//! `safelight version`.

use std::path::PathBuf;

use safelight::Library;
use serde_json::json;

use crate::print;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// ONNX Runtime library to open, or a folder that holds it
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    if !arguments.json {
        print(&format!("safelight {own}"))?;
    }
    let library = Library::open(arguments.library.as_deref())?;
    let providers: Vec<_> = library.providers().collect();
    if arguments.json {
        let onnxruntime = json!({ "version": library.version(), "path": library.path(), "providers": providers });
        let versions = json!({ "safelight": own, "onnxruntime": onnxruntime });
        print(&serde_json::to_string_pretty(&versions)?)?;
    } else {
        print(&format!("ONNX Runtime {} ({})", library.version(), library.path().display()))?;
        print(&format!("providers: {}", providers.join(", ")))?;
    }
    Ok(())
}
