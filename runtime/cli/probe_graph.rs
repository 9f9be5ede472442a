//! `safelight probe-graph`: the process in which a graph is tried before it is opened. Nobody types it.

use safelight::probe::{Limits, serve};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seconds that it may take
    #[arg(long, value_name = "N")]
    max_seconds: u64,
    /// Bytes that it may take
    #[arg(long, value_name = "N")]
    max_bytes: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { max_seconds, max_bytes } = *arguments;
    Ok(serve(Limits { max_seconds, max_bytes })?)
}
