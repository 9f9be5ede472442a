//! `safelight inspect`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use safelight::cache::default_folder;
use safelight::inspect::{
    Arithmetic, GraphFacts, Heaviest, Inspection, Layout, Memory, ModelFacts, TensorFacts, by_size, inspect,
};
use safelight::probe::remembered;
use safelight::{Error, ErrorKind};

use crate::print;

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A graph, or a folder: of a model, of an exported pipeline, or of graphs that nothing describes
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  safelight inspect models/emoji
  safelight inspect downloaded/unet/model.onnx
  safelight inspect downloaded --json | jq '.graphs[] | {file, macs_by_arithmetic, refusals}'";

/// Characters of the longest bar.
const BAR: f64 = 24.0;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let found = inspect(&arguments.path)?;
    if arguments.json {
        print(&serde_json::to_string_pretty(&found)?)?;
    } else {
        print(as_text(&found).trim_end())?;
    }
    match found.all_refusals().count() {
        0 => Ok(()),
        1 => Err(Error::new(ErrorKind::Model, "it would be refused, for the reason above").into()),
        count => {
            Err(Error::new(ErrorKind::Model, format!("it would be refused, for the {count} reasons above")).into())
        }
    }
}

fn as_text(found: &Inspection) -> String {
    let layout = match found.layout {
        Layout::Graph => "a graph",
        Layout::Manifest => "a model with a manifest",
        Layout::Optimum => "an exported diffusers pipeline",
        Layout::Graphs => "a folder of graphs that nothing describes",
    };
    let mut text = format!("{}: {layout}\n", found.path.display());
    found.model.iter().for_each(|model| of_model(model, &mut text));
    if let Some(forecast) = &found.forecast {
        let [resident, staged] = [forecast.peak_bytes, forecast.staged_peak_bytes].map(binary);
        line(&mut text, "memory", &format!("{resident}, or {staged} with residency: staged, for its default request"));
    }
    let cache = default_folder(&|name| std::env::var_os(name));
    for graph in &found.graphs {
        of_graph(graph, &mut text);
        if graph.nodes > 0 {
            let told = cache.as_deref().and_then(|cache| remembered(cache, &graph.file));
            line(&mut text, "probe", told.as_deref().unwrap_or("not passed yet"));
        }
    }
    refusals(found, &mut text);
    text
}

fn of_model(model: &ModelFacts, text: &mut String) {
    let ModelFacts { picture, latent, defaults, range, .. } = model;
    line(text, "name", &format!("{}: {}", model.name, model.title));
    line(text, "licence", model.licence.as_deref().unwrap_or("not said"));
    let multiple = picture.multiple.map_or("no other sizes".into(), |multiple| format!("multiples of {multiple}"));
    line(text, "picture", &format!("{}×{} pixels, {multiple}", picture.width, picture.height));
    let (channels, downscale, scale) = (latent.channels, latent.downscale, latent.scale);
    line(text, "latent", &format!("{channels} channels, a cell of {downscale}×{downscale} pixels, scale {scale}"));
    line(text, "training", &facts(&serde_json::to_value(&model.training).unwrap_or_default()));
    let prompt = if model.tokens == 0 { "reads none".into() } else { format!("{} tokens", model.tokens) };
    line(text, "prompt", &prompt);
    for (name, condition) in &model.conditions {
        let (low, high) = condition.range;
        let default = condition.default.map_or(", must be given".into(), |default| format!(", {default} unless given"));
        line(text, "condition", &format!("{name}, {low} to {high}: {}{default}", condition.about));
    }
    let (sampler, schedule) = (&defaults.sampler, &defaults.schedule);
    let (steps, guidance) = (defaults.steps, defaults.guidance);
    line(text, "defaults", &format!("{sampler}, schedule {schedule}, {steps} steps, guidance {guidance}"));
    let made_for = [
        range.steps.map(|(fewest, most)| format!("{fewest} to {most} steps")),
        range.guidance.map(|(least, most)| format!("guidance {least} to {most}")),
        range.why.clone(),
    ];
    let made_for: Vec<_> = made_for.into_iter().flatten().collect();
    if !made_for.is_empty() {
        line(text, "made for", &made_for.join(", "));
    }
    model.warnings.iter().for_each(|warning| line(text, "warning", warning));
}

/// Names and values of a map, in one line.
fn facts(value: &serde_json::Value) -> String {
    let Some(map) = value.as_object() else { return value.as_str().map_or_else(|| value.to_string(), str::to_owned) };
    let told = |(name, value): (&String, &serde_json::Value)| match value.is_object() {
        true => format!("{name}: {}", facts(value)),
        false => format!("{} {}", name.replace('_', " "), facts(value)),
    };
    map.iter().filter(|(_, value)| !value.is_null()).map(told).collect::<Vec<_>>().join(", ")
}

fn of_graph(graph: &GraphFacts, text: &mut String) {
    let name = graph.file.file_name().unwrap_or_default().display();
    let stage = graph.stage.map_or("no stage of safelight".into(), |stage| stage.to_string());
    let precision = graph.precision.map_or(String::new(), |precision| format!(", {precision}"));
    let _ = writeln!(text, "\n{name}: {stage}{precision}");
    if graph.nodes == 0 {
        return;
    }
    graph.differs.iter().for_each(|what| line(text, "differs", what));
    let versions: Vec<_> = opsets(graph).map(|(domain, version)| format!("{domain} {version}")).collect();
    let producer = if graph.producer.is_empty() { "an unnamed program" } else { &graph.producer };
    line(text, "written by", &format!("{producer}, IR {}, opset {}", graph.ir_version, versions.join(", ")));
    graph.inputs.iter().for_each(|tensor| line(text, "takes", &of_tensor(tensor)));
    graph.outputs.iter().for_each(|tensor| line(text, "gives", &of_tensor(tensor)));
    if let Some(batches) = graph.batches_guidance {
        let how =
            if batches { "both predictions in one run" } else { "its two predictions in turn: one latent at a time" };
        line(text, "guidance", how);
    }
    let weights = by_size(&graph.weight_bytes).into_iter().map(|(name, bytes)| format!("{name} {}", binary(bytes)));
    let weights = weights.collect::<Vec<_>>().join(", ");
    line(text, "weights", &format!("{} numbers: {weights}", count(graph.parameters)));
    for file in &graph.outside {
        let bytes = file.bytes.map_or("cannot be read".into(), binary);
        line(text, "outside", &format!("{}, {bytes}", file.name));
    }
    line(text, "nodes", &format!("{}: {}", graph.nodes, operators(graph)));
    let Memory { opening_bytes, opened_bytes, working_bytes } = graph.memory;
    let [opening, opened, working] = [opening_bytes, opened_bytes, working_bytes].map(binary);
    line(text, "memory", &format!("opening {opening}, open {opened}, working {working}"));
    products(graph, text);
}

/// Versions of the domains that its nodes are of.
fn opsets(graph: &GraphFacts) -> impl Iterator<Item = (&String, &u64)> {
    graph.opsets.iter().filter(|(domain, _)| graph.operators.contains_key(*domain))
}

fn of_tensor(tensor: &TensorFacts) -> String {
    format!("{} {} [{}]", tensor.name, tensor.element_type, tensor.sizes.join(", "))
}

/// Operators by how many there are; those that are few, together.
fn operators(graph: &GraphFacts) -> String {
    const TOLD: usize = 8;
    let of_domain = |(domain, operators): (&String, &BTreeMap<String, usize>)| {
        let prefix = if domain == "ai.onnx" { String::new() } else { format!("{domain}.") };
        operators.iter().map(|(name, &number)| (number, format!("{prefix}{name}"))).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = graph.operators.iter().flat_map(of_domain).collect();
    all.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let mut told: Vec<_> = all.iter().take(TOLD).map(|(number, name)| format!("{number} {name}")).collect();
    let kinds = all.len().saturating_sub(TOLD);
    if kinds > 0 {
        let rest: usize = all.iter().skip(TOLD).map(|(number, _)| number).sum();
        told.push(format!("{rest} of {kinds} other kinds"));
    }
    told.join(", ")
}

/// What a run multiplies, in what arithmetic, and where.
fn products(graph: &GraphFacts, text: &mut String) {
    let size = |(name, sizes): (&String, &Vec<u64>)| format!("{name} {sizes:?}");
    let assumed: Vec<_> = graph.assumed.iter().map(size).collect();
    line(text, "a run", &format!("{} multiplications with {}", count(graph.macs), assumed.join(", ")));
    for (arithmetic, macs) in by_size(&graph.macs_by_arithmetic) {
        let _ = writeln!(text, "    {:<28} {}", arithmetic_name(arithmetic), share(macs, graph.macs));
    }
    let (products, tensors) = (graph.uncounted_products, graph.unknown_tensors);
    if products + tensors > 0 {
        line(text, "unknown", &format!("sizes of {products} products and {tensors} tensors do not follow"));
    }
    let widest = graph.heaviest.iter().map(|of| short(&of.name).chars().count()).max().unwrap_or(0);
    for Heaviest { name, operator, macs, sizes, .. } in &graph.heaviest {
        let bar = share(*macs, graph.macs);
        let _ = writeln!(text, "    {:<widest$}  {operator:<18} {bar:<32} {sizes:?}", short(name));
    }
}

fn arithmetic_name(arithmetic: Arithmetic) -> &'static str {
    match arithmetic {
        Arithmetic::Int8Qdq => "int8, between quantisations",
        Arithmetic::Int8Qoperator => "int8, quantised operators",
        Arithmetic::WeightOnly => "real, weights as integers",
        Arithmetic::Fp16 => "fp16",
        Arithmetic::Fp32 => "fp32",
        _ => "other",
    }
}

/// The end of a long name, which is what tells nodes apart.
fn short(name: &str) -> String {
    const LONGEST: usize = 48;
    match name.chars().count() {
        length if length > LONGEST => format!("…{}", name.chars().skip(length + 1 - LONGEST).collect::<String>()),
        _ => name.to_owned(),
    }
}

/// A share in percent, and as a bar.
fn share(part: u64, whole: u64) -> String {
    let share = part as f64 / whole.max(1) as f64;
    format!("{:5.1} % {}", 100.0 * share, "█".repeat((BAR * share).round() as usize))
}

fn refusals(found: &Inspection, text: &mut String) {
    let mut all = found.all_refusals().peekable();
    if all.peek().is_some() {
        let _ = writeln!(text, "\nwould be refused");
    }
    for (graph, refusal) in all {
        let file = graph.and_then(|graph| graph.file.file_name()).map(|name| format!("{}: ", name.display()));
        let file = file.filter(|_| graph.is_some_and(|graph| graph.nodes > 0)).unwrap_or_default();
        let _ = writeln!(text, "  {file}{refusal}");
    }
}

fn line(text: &mut String, name: &str, what: &str) {
    let _ = writeln!(text, "  {name:<10} {what}");
}

fn binary(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

/// A large number in thousands, millions or thousand millions.
fn count(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{:.1} k", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", number as f64 / 1e6),
        _ => format!("{:.1} G", number as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_bars() {
        assert_eq!(share(1, 4), format!(" 25.0 % {}", "█".repeat(6)));
        assert_eq!(share(0, 0), "  0.0 % ");
        assert_eq!([7, 1536, 3 << 20].map(binary), ["7 B", "1.5 KiB", "3.0 MiB"]);
        assert_eq!([count(9_999), count(12_345), count(3_000_000_000)], ["9999", "12.3 k", "3.0 G"]);
    }
}
