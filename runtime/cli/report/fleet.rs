//! Many devices in one table: as Markdown, and as a page with a chart for each workload.

use std::path::Path;

use safelight::bench::fleet::{Fleet, Row};

use super::charts::ranking;
use super::headline::named;
use super::markdown::{line, literal};
use super::number::{NOTHING, counted, interval, megabytes, or_nothing, three};
use super::page::Page;

/// Heads of the columns, units included; those before the first number are words.
const HEAD: [&str; 12] = [
    "device",
    "target (providers)",
    "ONNX Runtime",
    "model",
    "workload",
    "p50 ms (95 % interval)",
    "p90 ms",
    "images/s",
    "J/image",
    "peak memory MB",
    "PSNR dB",
    "valid",
];
const WORDS: usize = 5;

fn cells(row: &Row) -> [String; HEAD.len()] {
    [
        row.device.clone(),
        format!("{} ({})", row.target, row.providers.join(", ")),
        row.library.clone(),
        row.model.clone(),
        named(&row.workload),
        interval(row.p50_ms, row.p50_interval_ms),
        or_nothing(row.p90_ms),
        three(row.images_per_second),
        or_nothing(row.joules_per_image),
        row.peak_bytes.map_or_else(|| NOTHING.into(), megabytes),
        or_nothing(row.least_psnr_db),
        if row.valid { "yes" } else { "no" }.into(),
    ]
}

/// Why a row's numbers cannot be relied on; what its energy covers.
fn notes(fleet: &Fleet) -> Vec<String> {
    let invalid = fleet.rows.iter().filter(|row| !row.valid).map(|row| {
        let reasons = if row.reasons.is_empty() { "no reason is given".into() } else { row.reasons.join("; ") };
        format!("Not valid: {} on {}: {reasons}", named(&row.workload), row.device)
    });
    let covers = |row: &Row| Some(format!("J/image on {} covers {}", row.device, row.energy_covers.as_ref()?));
    let mut covered: Vec<_> = fleet.rows.iter().filter_map(covers).collect();
    covered.sort();
    covered.dedup();
    invalid.chain(covered).chain(fleet.notes.iter().cloned()).collect()
}

/// A table, and notes below it.
pub(crate) fn fleet_as_markdown(fleet: &Fleet) -> String {
    let mut lines = vec![line(HEAD.iter().map(|head| (*head).to_owned()))];
    let numbers = HEAD.len() - WORDS - 1;
    lines.push(format!("|{}{}---|", "---|".repeat(WORDS), "---:|".repeat(numbers)));
    lines.extend(fleet.rows.iter().map(|row| line(cells(row).iter().map(|cell| literal(cell)))));
    lines.extend(notes(fleet).iter().map(|note| format!("\n{}.", literal(note))));
    lines.join("\n") + "\n"
}

/// A page that needs nothing else. Each group of rows, one model and workload in whatever precision, has a chart.
pub(crate) fn fleet_as_html(fleet: &Fleet, files: &[impl AsRef<Path>]) -> String {
    let mut page = Page::new("safelight on many devices");
    page.markup("<header>");
    page.element("p class=\"over\"", "safelight collect");
    let devices: std::collections::BTreeSet<_> = fleet.rows.iter().map(|row| &row.device).collect();
    let title = format!("{} on {}", counted(fleet.rows.len(), "workload"), counted(devices.len(), "device"));
    page.element("h1", &title);
    page.element("p", &format!("From {}.", counted(files.len(), "report")));
    page.markup("</header>\n<section>");
    page.element("h2", "Images a second");
    page.markup("<div class=\"charts\">");
    for group in fleet.rows.chunk_by(|a, b| a.group() == b.group()) {
        figure(&mut page, group);
    }
    page.markup("</div>\n</section>\n<section>");
    page.element("h2", "All numbers");
    page.table(WORDS, &HEAD, &fleet.rows.iter().map(|row| cells(row).to_vec()).collect::<Vec<_>>());
    page.list(&notes(fleet));
    page.markup("</section>");
    page.end()
}

fn figure(page: &mut Page, group: &[Row]) {
    let Some(first) = group.first() else { return };
    let bars: Vec<_> = group
        .iter()
        .map(|row| {
            let providers = row.providers.first().map(|first| format!(", {first}")).unwrap_or_default();
            let invalid = if row.valid { "" } else { " (not valid)" };
            let name = format!("{}: {}{providers}{invalid}", row.device, row.workload.precision);
            (name, row.images_per_second, row.valid)
        })
        .collect();
    // What all bars have in common: the precision is told with each.
    let named = named(&first.workload);
    let shared = named.split_once(", ").map_or(named.as_str(), |(_, rest)| rest);
    page.figure(&format!("{}, {shared}", first.model), "", &ranking(&bars, "images/s"), &[]);
}
