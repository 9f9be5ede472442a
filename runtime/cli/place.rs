//! `safelight place`.

use std::fmt::Write as _;

use safelight::placement::{Placement, place, require};
use safelight::{Request, Sampling};

use crate::device::DeviceArguments;
use crate::picture_arguments::with_stand_ins;
use crate::signals::cancel_on_signals;
use crate::{folders, print, tell};

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    device: DeviceArguments,
    /// Number of steps of the pictures that are made to measure
    #[arg(short = 'n', long, value_name = "N", default_value_t = 2)]
    steps: usize,
    /// Fail where any node runs elsewhere than on the target's first provider
    #[arg(long)]
    strict: bool,
    /// With --strict, the share of a graph's time that may run elsewhere, such as 0.05 [default: the target's
    /// allow_fallback, or 0]
    #[arg(long, value_name = "SHARE", requires = "strict")]
    allow: Option<f64>,
    /// Also the encoder, for requests that begin with a picture; models that are shown masks need it
    #[arg(long)]
    encoder: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  safelight place --model emoji
  safelight place --target cuda --strict --allow 0.05 && echo \"it runs where it should\"";

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let model = folders::model(arguments.device.model.as_deref())?;
    let (target, choice) = arguments.device.described_target()?;
    choice.iter().for_each(|line| tell(line));
    let target = arguments.device.narrowed(target);
    arguments.device.open_library()?;
    let sampling = Sampling::in_steps(arguments.steps);
    let request = Request { sampling, ..Request::usual(&model) };
    let request = if arguments.encoder { with_stand_ins(request, &model) } else { request };
    cancel_on_signals(&request.cancel);
    let mut placements = place(&target, &model, &request)?;
    if arguments.strict {
        placements.iter_mut().for_each(|found| found.allowed = arguments.allow.or(found.allowed).or(Some(0.0)));
    }
    if arguments.json {
        print(&serde_json::to_string_pretty(&placements)?)?;
    } else {
        print(placements.iter().map(as_text).collect::<Vec<_>>().join("\n").trim_end())?;
    }
    Ok(require(&placements)?)
}

fn as_text(placement: &Placement) -> String {
    let mut text = format!("{}, wanted on {}\n", placement.stage, placement.wanted);
    for share in &placement.providers {
        let of_graph = share.assigned.map_or(String::new(), |nodes| format!(", made of {nodes} of the graph's"));
        let (time, nodes, provider) = (100.0 * share.time, share.nodes, &share.provider);
        let _ = writeln!(text, "  {time:5.1} % of the time  {nodes:4} nodes  {provider}{of_graph}");
    }
    let slowest = placement.fallen_back.iter().take(10);
    for fallen in slowest {
        let (time, nodes, operator) = (100.0 * fallen.time, fallen.nodes, &fallen.operator);
        let _ = writeln!(text, "    elsewhere: {time:.1} %, {nodes} {operator}, such as \"{}\"", fallen.example);
    }
    if placement.fallen_back.len() > 10 {
        let _ = writeln!(text, "    and {} operators more (--json has all)", placement.fallen_back.len() - 10);
    }
    text
}
