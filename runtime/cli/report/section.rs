//! One case on a report's page: its statistics, charts, pictures and checks.

use std::collections::BTreeSet;

use safelight::bench::Report;
use safelight::bench::report::{Case, ColdStart, MemoryUsed, PictureHeld, Quality, Scenario, Summary};
use safelight::sensor::{Quantity, Source, Timeline};
use safelight::stats::Distribution;

use super::charts::{self, Axes, Bar, Line, Points};
use super::headline::{decibels, named};
use super::html::quantity;
use super::number::{counted, grouped, interval, megabytes, or_nothing, percent, signed_percent, three};
use super::page::Page;

/// Gives the data URI of a picture's file, where it is there.
type Pictures<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Bars of a chart, and pictures of a case: the rest is in the report's file.
const MOST_BARS: usize = 16;
const MOST_PICTURES: usize = 6;
/// Lines of a chart.
const MOST_LINES: usize = 12;

pub(super) fn case(page: &mut Page, (number, case): (usize, &Case), report: &Report, pictures: Pictures) {
    page.markup("<section>");
    page.element(&format!("h2 id=\"case-{number}\""), &format!("{number}. {}", named(&case.workload)));
    let word = if case.validity.valid { "✓ valid" } else { "✗ not valid" };
    page.mark("p", Some(case.validity.valid), word);
    page.list(&case.validity.reasons);
    if let Some(error) = &case.error {
        page.mark("p", Some(false), &format!("Not all was measured: {error}"));
    }
    if let Some(summary) = &case.summary {
        statistics(page, case, summary);
    }
    page.markup("<div class=\"charts\">");
    if let Some(summary) = &case.summary {
        latency(page, case, summary);
        stages(page, summary);
    }
    memory(page, case.memory.as_ref());
    cold(page, &case.cold);
    placement(page, case);
    timelines(page, &case.timeline, &report.sensors);
    page.markup("</div>");
    silent(page, &case.timeline, &report.sensors);
    graphs(page, case);
    surroundings(page, case);
    quality(page, case.quality.as_ref(), pictures);
    checks(page, case);
    page.markup("</section>");
}

/// What the samples add up to, in full.
fn statistics(page: &mut Page, case: &Case, summary: &Summary) {
    let image = &summary.image;
    let head = ["n", "p50 ms", "mean ms", "sd", "MAD", "least", "p90", "p90 or less", "p95", "p99", "most"];
    let row = vec![
        grouped(&image.n.to_string()),
        interval(image.p50, image.p50_interval),
        interval(image.mean, image.mean_interval),
        or_nothing(image.sd),
        three(image.mad),
        three(image.min),
        or_nothing(image.p90),
        or_nothing(image.p90_early_stop),
        or_nothing(image.p95),
        or_nothing(image.p99),
        three(image.max),
    ];
    page.table(0, &head, &[row]);
    page.element("p class=\"pale\"", &told(case, summary).join(" "));
}

/// What else is to be said about the samples, in sentences.
fn told(case: &Case, summary: &Summary) -> Vec<String> {
    let mut told = Vec::new();
    if let (Some(first), Some(last)) = (case.warm_up_ms.first(), case.warm_up_ms.last()) {
        let images = counted(case.warm_up_ms.len(), "image");
        told.push(format!("Warm-up: {images}, from {} to {} ms.", three(*first), three(*last)));
    }
    told.extend(summary.drift.map(|drift| format!("Drift: {} from first to last quarter.", signed_percent(drift))));
    told.push(format!("{} beyond five usual deviations.", counted(summary.outliers, "image")));
    if let Some(held) = summary.sustained {
        let [first, last] = [held.first_minute_ms, held.last_minute_ms].map(three);
        told.push(format!("First minute {first} ms, last minute {last} ms: {} kept.", percent(held.retention)));
    }
    let outputs = &case.images.outputs;
    let requests: BTreeSet<_> = outputs.iter().map(|output| output.request).collect();
    told.push(match outputs.len().saturating_sub(requests.len()) {
        _ if outputs.is_empty() => "No output was hashed.".into(),
        0 if outputs.iter().all(|output| output.count < 2) => "No request was made twice.".into(),
        0 => format!("Each of {} gave the same pixels every time.", counted(requests.len(), "request")),
        more => format!("Not repeatable: {} gave {} other outputs.", counted(requests.len(), "request"), more),
    });
    if case.images.non_finite > 0 {
        told.push(format!("{} were not finite.", counted(case.images.non_finite, "number")));
    }
    told
}

fn latency(page: &mut Page, case: &Case, summary: &Summary) {
    let (images, image) = (&case.images, &summary.image);
    let ms: Vec<f64> = match case.workload.scenario {
        Scenario::Cold => case.cold.iter().map(|start| start.total_ms).collect(),
        _ => images.ms.clone(),
    };
    if !ms.is_empty() {
        let beyond = charts::beyond(&ms, image).unwrap_or_default();
        let caption = format!("How often images took how long. {beyond}");
        page.figure("Latency", &caption, &charts::histogram(&ms, image), &[]);
    }
    if !images.ms.is_empty() {
        let caption = "Every image. The line is the median; orange is above it by more than five usual deviations.";
        page.figure("Latency over time", caption, &charts::samples(&images.start_s, &images.ms, image), &[]);
    }
}

/// Stages in the order of the data, safelight's own time last.
const STAGE_ORDER: [&str; 7] = ["text_encoder", "text_encoder_2", "encoder", "denoiser", "decoder", "reopen", "own"];

fn stages(page: &mut Page, summary: &Summary) {
    let order = |name: &str| STAGE_ORDER.iter().position(|known| *known == name).unwrap_or(STAGE_ORDER.len() - 2);
    let mut stages: Vec<(&String, &Distribution)> = summary.stages.iter().collect();
    stages.sort_by_key(|(name, _)| order(name));
    let all: f64 = stages.iter().map(|(_, stage)| stage.mean).sum();
    if all > 0.0 {
        let share = |stage: &Distribution| percent(stage.mean / all);
        let keys = charts::bar_keys(&stages.iter().map(|(name, _)| words(name)).collect::<Vec<_>>());
        let parts = stages.iter().enumerate().map(|(index, (_, stage))| (index, stage.mean)).collect();
        let bars = charts::bars(&[Bar { name: "an image".into(), parts }], &keys, "ms, mean");
        let caption = "From the second pass. Means, because they add up; own is safelight's own time.";
        let row =
            |(name, it): &(&String, &Distribution)| vec![words(name), interval(it.p50, it.p50_interval), share(it)];
        page.markup("<div>");
        page.figure("Stages", caption, &bars, &keys);
        page.table(1, &["stage", "p50 ms", "share"], &stages.iter().map(row).collect::<Vec<_>>());
        page.markup("</div>");
    }
    if summary.steps.len() > 1 {
        let caption = "From the second pass. Thick: MAD around the median; thin: from least to most, cut at the top.";
        page.figure("Steps", caption, &charts::steps(&summary.steps), &[]);
    }
}

/// A name of a report's file as people read it.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn memory(page: &mut Page, memory: Option<&MemoryUsed>) {
    let Some(memory) = memory else { return };
    let legend = ["in use before".to_owned(), "added while it was opened and worked".to_owned()];
    let bar = |(stage, it): (&safelight::Stage, &safelight::memory::StageMemory)| {
        let most = [it.opening_peak, it.opened, it.peak, Some(it.after)].into_iter().flatten().max().unwrap_or(0);
        let parts = [it.before, most.saturating_sub(it.before)].map(|bytes| bytes as f64 / 1e6);
        Bar { name: words(stage.name()), parts: parts.into_iter().enumerate().collect() }
    };
    let bars: Vec<_> = memory.stages.iter().map(bar).collect();
    let device = memory.device_bytes.map(|bytes| format!(" The accelerator held {} MB.", megabytes(bytes)));
    let caption = format!(
        "Resident at the most around each stage. The whole process reached {} MB.{}",
        megabytes(memory.peak_bytes),
        device.unwrap_or_default()
    );
    let keys = if bars.is_empty() { Vec::new() } else { charts::bar_keys(&legend) };
    let chart = if bars.is_empty() { String::new() } else { charts::bars(&bars, &keys, "MB") };
    page.figure("Memory", &caption, &chart, &keys);
}

/// Fresh processes, from their start to their first image.
fn cold(page: &mut Page, starts: &[ColdStart]) {
    if starts.is_empty() {
        return;
    }
    let legend = ["start of the process", "library, hashes, graphs", "first image", "between"].map(str::to_owned);
    let bar = |(index, it): (usize, &ColdStart)| {
        let between = it.total_ms - it.process_ms - it.open_ms - it.first_image_ms;
        let parts = [it.process_ms, it.open_ms, it.first_image_ms, between.max(0.0)];
        Bar { name: format!("process {}", index + 1), parts: parts.into_iter().enumerate().collect() }
    };
    let bars: Vec<_> = starts.iter().take(MOST_BARS).enumerate().map(bar).collect();
    let mut caption = "Fresh processes, from their start to their first image.".to_owned();
    if starts.len() > MOST_BARS {
        caption += &format!(" The first {MOST_BARS} of {}.", starts.len());
    }
    let cached = |start: &ColdStart| {
        let stages: Vec<_> =
            start.cache.iter().map(|(stage, state)| format!("{} {state}", words(stage.name()))).collect();
        stages.join(", ")
    };
    let caches: BTreeSet<_> = starts.iter().map(cached).filter(|cached| !cached.is_empty()).collect();
    if !caches.is_empty() {
        caption += &format!(" Cache: {}.", caches.into_iter().collect::<Vec<_>>().join("; "));
    }
    let keys = charts::bar_keys(&legend);
    page.figure("Cold start", &caption, &charts::bars(&bars, &keys, "ms"), &keys);
}

/// How many nodes of each graph each provider runs.
fn placement(page: &mut Page, case: &Case) {
    let providers: BTreeSet<_> = case.graphs.values().flat_map(|graph| graph.nodes.keys().cloned()).collect();
    let providers: Vec<_> = providers.into_iter().collect();
    if providers.is_empty() {
        return;
    }
    let index = |name: &String| providers.iter().position(|provider| provider == name).unwrap_or(0);
    let placed = case.graphs.iter().filter(|(_, graph)| !graph.nodes.is_empty());
    let bar = |(stage, graph): (&safelight::Stage, &safelight::bench::report::GraphUsed)| Bar {
        name: words(stage.name()),
        parts: graph.nodes.iter().map(|(provider, nodes)| (index(provider), *nodes as f64)).collect(),
    };
    let keys = charts::bar_keys(&providers);
    let chart = charts::bars(&placed.map(bar).collect::<Vec<_>>(), &keys, "nodes");
    page.figure("Placement", "Nodes of each graph that each provider was given.", &chart, &keys);
}

/// Whether a sensor told anything.
fn told_anything(timeline: &Timeline, sensor: &Source) -> bool {
    timeline.values.get(&sensor.name).is_some_and(|it| it.iter().any(Option::is_some))
}

/// What quantities sensors told of.
fn quantities(timeline: &Timeline, sensors: &[Source]) -> BTreeSet<Quantity> {
    sensors.iter().filter(|sensor| told_anything(timeline, sensor)).map(|sensor| sensor.quantity).collect()
}

/// What nothing here told of, so that nobody looks for it.
fn silent(page: &mut Page, timeline: &Timeline, sensors: &[Source]) {
    let told = quantities(timeline, sensors);
    let power = [Quantity::Watts, Quantity::Joules].iter().any(|kind| told.contains(kind));
    let told = |kind: Quantity| told.contains(&kind) || (kind == Quantity::Watts && power);
    let looked_for = [
        Quantity::Celsius,
        Quantity::Watts,
        Quantity::Megahertz,
        Quantity::Load,
        Quantity::Pressure,
        Quantity::Throttled,
    ];
    let silent: Vec<_> = looked_for.into_iter().filter(|kind| !told(*kind)).map(|kind| quantity(kind).0).collect();
    if !silent.is_empty() {
        let silent = silent.join(", ");
        page.markup(&format!("<p class=\"pale\">No sensor told of {silent}: <a href=\"#sensors\">why</a>.</p>"));
    }
}

/// A chart for each quantity that sensors told of.
fn timelines(page: &mut Page, timeline: &Timeline, sensors: &[Source]) {
    let told = |sensor: &&Source| told_anything(timeline, sensor);
    for kind in quantities(timeline, sensors) {
        let of_kind = |sensor: &&Source| sensor.quantity == kind && told(sensor);
        let line = |sensor: &Source| Line { name: sensor.name.clone(), points: points(timeline, sensor) };
        let lines: Vec<_> = sensors.iter().filter(of_kind).take(MOST_LINES).map(line).collect();
        let (name, unit, _) = quantity(kind);
        let least = match kind {
            Quantity::Celsius => None,
            Quantity::Load | Quantity::Charge => Some((0.0, 100.0)),
            Quantity::Pressure => Some((0.0, 10.0)),
            Quantity::Throttled => Some((0.0, 1.0)),
            Quantity::Megahertz | Quantity::Watts | Quantity::Joules | Quantity::Bytes => Some((0.0, 0.0)),
        };
        let axes = Axes { across: "seconds since the pass began", upward: unit, least };
        let heading = format!("{}{}", name[..1].to_uppercase(), &name[1..]);
        if timeline.seconds.len() > FEW_ROWS {
            page.figure(&heading, "", &charts::lines(&lines, &axes), &charts::line_keys(&lines));
        } else {
            page.figure(
                &heading,
                &lines.iter().map(|line| in_words(line, unit)).collect::<Vec<_>>().join("; "),
                "",
                &[],
            );
        }
    }
}

/// Rows of a timeline that make no line.
const FEW_ROWS: usize = 2;

/// A line that has too few points to be drawn.
fn in_words(line: &Line, unit: &str) -> String {
    let values: Vec<_> = line.points.iter().filter_map(|(_, value)| *value).map(three).collect();
    format!("{}: {} {unit}", line.name, values.join(", "))
}

/// What a sensor told, in the unit of its axis.
fn points(timeline: &Timeline, sensor: &Source) -> Points {
    let values = timeline.values.get(&sensor.name).map(Vec::as_slice).unwrap_or_default();
    let scale = quantity(sensor.quantity).2;
    let rows = timeline.seconds.iter().zip(values);
    // A mean of numbers that are beyond all measure must not be none.
    let held = |value: f64| (scale * value).clamp(-1e200, 1e200);
    rows.map(|(seconds, value)| (*seconds, value.map(held))).collect()
}

/// What ran.
fn graphs(page: &mut Page, case: &Case) {
    if case.graphs.is_empty() {
        return;
    }
    page.element("h3", "Graphs");
    let row = |(stage, graph): (&safelight::Stage, &safelight::bench::report::GraphUsed)| {
        let nodes: Vec<_> = graph.nodes.iter().map(|(provider, nodes)| format!("{nodes} {provider}")).collect();
        let nodes = if nodes.is_empty() { "not told".into() } else { nodes.join(", ") };
        let hash = graph.sha256.chars().take(16).chain(['…']).collect();
        vec![words(stage.name()), graph.precision.to_string(), graph.providers.join(", "), nodes, hash]
    };
    let rows: Vec<_> = case.graphs.iter().map(row).collect();
    page.table(5, &["stage", "precision", "providers, best first", "nodes", "SHA-256"], &rows);
}

/// Energy, heat and neighbours: what was told, and what nothing here tells.
fn surroundings(page: &mut Page, case: &Case) {
    page.element("h3", "During the headline pass");
    let energy = case.energy.as_ref().map(|it| {
        let idle = it.idle_watts.map(|watts| format!(", {} W before it began", three(watts))).unwrap_or_default();
        let [joules, seconds, watts] = [it.joules, it.seconds, it.watts].map(three);
        let sources = it.sources.join(" + ");
        format!("{joules} J in {seconds} s, {watts} W on average{idle}; {sources}: {}", it.covers)
    });
    let unknown = || Some("nothing here tells".to_owned());
    let slowed = case.throttling.seen.map(|seen| {
        let evidence = case.throttling.evidence.join("; ");
        let seen = if seen { "yes" } else { "no" };
        if evidence.is_empty() { seen.to_owned() } else { format!("{seen}: {evidence}") }
    });
    let it = &case.contention;
    let share = |share: Option<f64>| share.map(percent);
    page.facts(&[
        ("energy", energy.or_else(|| Some("nothing here measures power".into()))),
        ("slowed down", slowed.or_else(unknown)),
        ("processor time of others", share(it.others).or_else(unknown)),
        ("processor time of other machines", share(it.stolen)),
        ("processor pressure", share(it.cpu_pressure)),
        ("memory pressure", share(it.memory_pressure)),
        ("swapped", it.swapped_bytes.map(|bytes| format!("{} MB", megabytes(bytes)))),
        ("involuntary switches", it.involuntary_switches.map(|count| grouped(&count.to_string()))),
    ]);
}

/// How right the pictures are.
fn quality(page: &mut Page, quality: Option<&Quality>, pictures: Pictures) {
    page.element("h3", "Quality");
    let Some(quality) = quality else {
        page.element("p", "It was not asked for.");
        return;
    };
    let verdict = match quality.passed {
        Some(true) => "✓ nothing is beyond its bound",
        Some(false) => "✗ something is beyond its bound",
        None => "nothing could be compared",
    };
    page.mark("p", quality.passed, verdict);
    page.list(&quality.notes);
    if let Some(goldens) = &quality.goldens {
        let divergence = goldens.first_divergence.as_ref().map(|at| format!(", first apart at {at}"));
        page.element(
            "p",
            &format!(
                "Goldens: {} made, {} failed; least PSNR {}, final latent at most {} off (relative L2){}.",
                goldens.made,
                goldens.failed,
                decibels(goldens.least_psnr_db),
                or_nothing(goldens.most_latent_l2),
                divergence.unwrap_or_default()
            ),
        );
    }
    if !quality.pictures.is_empty() {
        compared(page, quality, pictures);
    }
}

/// Pictures beside the reference's, the furthest first.
fn compared(page: &mut Page, quality: &Quality, pictures: Pictures) {
    let mut held: Vec<&PictureHeld> = quality.pictures.iter().collect();
    let db = |it: &PictureHeld| it.psnr_db.unwrap_or(f64::INFINITY);
    held.sort_by(|a, b| db(a).total_cmp(&db(b)));
    let reference = quality.reference.as_deref().unwrap_or("a reference");
    let which = if held.len() > MOST_PICTURES {
        format!("The {MOST_PICTURES} furthest of {}", held.len())
    } else {
        "Each".into()
    };
    page.element("p class=\"pale\"", &format!("{which}, beside {reference} (right), at most 256 pixels wide."));
    page.markup("<div class=\"pairs\">");
    for it in held.iter().take(MOST_PICTURES) {
        let image = |file: &Option<String>| file.as_ref().and_then(|file| pictures(file));
        page.markup("<figure>");
        match (image(&it.file), image(&it.reference_file)) {
            (Some(own), Some(other)) => page.markup(&format!(
                "<div><img src=\"{own}\" alt=\"picture\"><img src=\"{other}\" alt=\"reference\"></div>"
            )),
            (Some(own), None) => page.markup(&format!("<div><img src=\"{own}\" alt=\"picture\"></div>")),
            _ => {}
        }
        let (psnr, latent) = (decibels(it.psnr_db), three(it.latent_l2));
        page.element("figcaption", &format!("{}, seed {}: {psnr}, latent off by {latent}", it.prompt, it.seed));
        page.markup("</figure>");
    }
    page.markup("</div>");
    drift(page, &held);
}

/// How far each step's estimate is from the reference's.
fn drift(page: &mut Page, held: &[&PictureHeld]) {
    let furthest = held.iter().filter(|it| it.steps_l2.len() > 1).take(MOST_PICTURES);
    let point = |(step, l2): (usize, &f64)| (step as f64 + 1.0, Some(*l2));
    let line = |it: &&PictureHeld| Line {
        name: format!("{}, seed {}", crate::chart::cut(&it.prompt, 40), it.seed),
        points: it.steps_l2.iter().enumerate().map(point).collect(),
    };
    let lines: Vec<_> = furthest.map(line).collect();
    if lines.is_empty() {
        return;
    }
    let axes = Axes { across: "step", upward: "relative L2 distance", least: Some((0.0, 0.0)) };
    page.markup("<div class=\"charts\">");
    let caption = "How far each step's estimate is from the reference's.";
    page.figure("Drift over the steps", caption, &charts::lines(&lines, &axes), &charts::line_keys(&lines));
    page.markup("</div>");
}

/// Each check, and what to do better.
fn checks(page: &mut Page, case: &Case) {
    if !case.validity.checks.is_empty() {
        page.element("h3", "Checks");
        page.markup("<dl>");
        for (name, held) in &case.validity.checks {
            let told = match held {
                Some(true) => "✓ held",
                Some(false) => "✗ failed",
                None => "– could not be made",
            };
            page.markup("<div>");
            page.element("dt", &words(name));
            page.mark("dd", *held, told);
            page.markup("</div>");
        }
        page.markup("</dl>");
    }
    if !case.advice.is_empty() {
        page.element("h3", "Advice");
        page.list(&case.advice);
    }
}
