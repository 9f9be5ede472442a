//! `safelight bench-worker`: the process that `safelight bench` measures. Nobody types it.

use safelight::Model;
use safelight::bench::worker::serve;

use crate::device::DeviceArguments;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    device: DeviceArguments,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let open = |errand: &safelight::bench::worker::Errand| {
        let model = Model::open(&errand.model)?;
        let (target, _) = arguments.device.described_target()?;
        arguments.device.open_library()?;
        Ok((arguments.device.narrowed(target), model))
    };
    Ok(serve(open)?)
}
