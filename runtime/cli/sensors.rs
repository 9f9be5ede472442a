//! `safelight sensors`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use safelight::Target;
use safelight::sensor::{Quantity, Recorded, Recorder, Sensors, Source};
use safelight::target::Measuring;
use serde_json::{Value, json};

use crate::{folders, print, tell};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Target whose section bench says which sensors' power adds up to the device's: a name in targets/, a YAML file, or
    /// auto for the one that fits this machine best, if one does
    #[arg(short, long, value_name = "NAME|FILE", default_value = Target::AUTO)]
    target: String,
    /// Read again and again, a second each, until it is stopped
    #[arg(long)]
    watch: bool,
    /// Print JSON, a line for each reading with --watch
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut sensors = Sensors::find(Path::new("/"), &wanted(&arguments.target)?);
    loop {
        let recorder = Recorder::start(sensors, Recorder::USUAL_RATE)?;
        std::thread::sleep(Duration::from_secs(1));
        let recorded;
        (sensors, recorded) = recorder.stop();
        match (arguments.json, arguments.watch) {
            (true, true) => print(&as_json(&sensors, &recorded).to_string())?,
            (true, false) => print(&serde_json::to_string_pretty(&as_json(&sensors, &recorded))?)?,
            (false, _) => print(&as_text(&sensors, &recorded))?,
        }
        if !arguments.watch {
            return Ok(());
        }
    }
}

/// How the target wants its device measured; where none was asked for and none fits, as is usual.
fn wanted(name: &str) -> anyhow::Result<Measuring> {
    match folders::target(name) {
        Ok((target, lines)) => {
            lines.iter().for_each(|line| tell(line));
            Ok(target.bench)
        }
        Err(_) if name == Target::AUTO => Ok(Measuring::default()),
        Err(error) => Err(error.into()),
    }
}

/// What a sensor told last, in the unit of its quantity.
fn value(source: &Source, recorded: &Recorded) -> Option<f64> {
    recorded.timeline.values.get(&source.name)?.iter().rev().copied().flatten().next()
}

fn as_json(sensors: &Sensors, recorded: &Recorded) -> Value {
    let one = |source: Source| {
        let value = value(&source, recorded);
        let mut told = json!(source);
        if source.absent.is_none() {
            told["value"] = json!(value);
            told["unit"] = json!(source.quantity.unit());
        }
        told
    };
    let energy = match sensors.measured_energy() {
        Ok((names, covers)) => {
            json!({ "sensors": names, "covers": covers, "watts": recorded.energy.as_ref().map(|energy| energy.watts), "absent": recorded.energy_absent })
        }
        Err(reason) => json!({ "absent": reason }),
    };
    let all: Vec<_> = sensors.sources().into_iter().map(one).collect();
    json!({ "sensors": all, "energy": energy, "throttling": recorded.throttling })
}

fn as_text(sensors: &Sensors, recorded: &Recorded) -> String {
    let (present, absent): (Vec<_>, Vec<_>) = sensors.sources().into_iter().partition(|source| source.absent.is_none());
    let width = present.iter().map(|source| source.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for source in &present {
        let told = value(source, recorded).map_or("nothing told".into(), |value| in_words(source.quantity, value));
        let _ = writeln!(text, "{:width$}  {told:>12}  {}", source.name, source.covers);
    }
    if !absent.is_empty() {
        let _ = writeln!(text, "absent:");
    }
    for Source { name, absent, .. } in &absent {
        let _ = writeln!(text, "  {name}: {}", absent.as_deref().unwrap_or_default());
    }
    let energy = match (sensors.measured_energy(), &recorded.energy) {
        (Err(reason), _) => format!("not measured: {reason}"),
        (Ok((names, covers)), Some(energy)) => format!("{:.2} W by {}: {covers}", energy.watts, names.join(" + ")),
        (Ok(_), None) => format!("not measured: {}", recorded.energy_absent.as_deref().unwrap_or("nothing was read")),
    };
    let slowed = match recorded.throttling.seen {
        None => "nothing tells",
        Some(true) => "yes",
        Some(false) => "no",
    };
    let _ = write!(text, "energy: {energy}\nslowed down: {slowed}");
    text
}

/// A value for people; shares as per cent, bytes as MiB.
fn in_words(quantity: Quantity, value: f64) -> String {
    match quantity {
        Quantity::Load | Quantity::Pressure | Quantity::Charge => format!("{:.1} %", 100.0 * value),
        Quantity::Throttled if value > 0.0 => "slowed down".into(),
        Quantity::Throttled => "no".into(),
        Quantity::Bytes => format!("{:.0} MiB", value / f64::from(1 << 20)),
        Quantity::Megahertz => format!("{value:.0} {}", quantity.unit()),
        Quantity::Celsius | Quantity::Watts | Quantity::Joules => format!("{value:.1} {}", quantity.unit()),
    }
}
