//! Memory over the stages of a request: what is expected, what was measured, and both as bars.

use safelight::forecast::StageForecast;
use safelight::memory::{Memory, StageMemory};
use safelight::{Forecast, Residency};

/// Characters of the longest bar.
const BAR: f64 = 32.0;

/// What is expected, one line a stage.
pub(crate) fn expected(forecast: &Forecast) -> String {
    let (first, when) = match forecast.residency {
        Residency::Resident => {
            ("opening", "graphs are resident: opened side by side with the pipeline, closed with it")
        }
        Residency::Staged => ("library", "graphs are staged: each is opened for its stage, and closed after it"),
    };
    let head = ["stage", "graph", "precision", "providers", "on disk", "opening", "open", "working", "process"];
    let peak = forecast.opening_bytes.unwrap_or(forecast.library_bytes);
    let mut lines = vec![(cells(head), None), (begin(first, 7).chain([mib(peak)]).collect(), Some(peak))];
    lines.extend(forecast.stages.iter().map(|stage| (of_stage(stage), Some(stage.peak_bytes))));
    let mut text = format!("expected memory in MiB; {when}\n{}", table(&lines, 4));
    text +=
        "working: tensors of the request, and those of the graph that are alive at once; process: everything together";
    for stage in forecast.stages.iter().filter(|stage| stage.unknown_tensors > 0) {
        let (stage, count) = (stage.stage, stage.unknown_tensors);
        text += &format!("\n{stage}: sizes of {count} tensors do not follow from its graph, so that it will take more");
    }
    text
}

fn of_stage(stage: &StageForecast) -> Vec<String> {
    let graph = stage.graph.file_name().unwrap_or_default().display().to_string();
    let told = [stage.stage.to_string(), graph, stage.precision.to_string(), stage.providers.join(", ")];
    let working = stage.tensor_bytes.saturating_add(stage.activation_bytes);
    let bytes = [stage.file_bytes, stage.opening_bytes, stage.opened_bytes, working, stage.peak_bytes];
    told.into_iter().chain(bytes.map(mib)).collect()
}

/// What was measured beside what was expected, one line a stage.
pub(crate) fn measured(forecast: &Forecast, memory: &Memory) -> String {
    let head = ["stage", "expected", "before", "opening", "open", "working", "after"];
    let opening = memory.pipeline;
    let pipeline = [Some(opening.before), opening.peak, Some(opening.opened), None, None].map(optional);
    let expected = forecast.opening_bytes.unwrap_or(forecast.library_bytes);
    let first = ["opening".to_owned(), mib(expected)].into_iter().chain(pipeline).collect();
    let mut lines = vec![(cells(head), None), (first, opening.peak)];
    for stage in &forecast.stages {
        let told = [stage.stage.to_string(), mib(stage.peak_bytes)];
        let (numbers, peak) = match memory.stages.get(&stage.stage) {
            Some(seen) => (of_memory(seen), seen.highest()),
            None => ([None; 5], None),
        };
        lines.push((told.into_iter().chain(numbers.map(optional)).collect(), peak));
    }
    let process = memory.process;
    let mut text = format!("measured resident set of the process in MiB\n{}", table(&lines, 1));
    text += &format!("peak {}, now {}", mib(process.peak), mib(process.resident));
    if let (Some(own), Some(file)) = (process.anonymous, process.file) {
        text += &format!(": {} of its own, {} of files such as the library", mib(own), mib(file));
    }
    text
}

fn of_memory(seen: &StageMemory) -> [Option<u64>; 5] {
    [Some(seen.before), seen.opening_peak, seen.opened, seen.peak, Some(seen.after)]
}

/// Lines of cells, the first `left` columns aligned to the left, each with a bar where it has a number of bytes.
fn table(lines: &[(Vec<String>, Option<u64>)], left: usize) -> String {
    let width = |column: usize| lines.iter().map(|(cells, _)| cells[column].chars().count()).max().unwrap_or(0);
    let highest = lines.iter().filter_map(|(_, bytes)| *bytes).max().unwrap_or(1).max(1);
    let mut text = String::new();
    for (cells, bytes) in lines {
        let aligned = cells.iter().enumerate().map(|(column, cell)| match width(column) {
            width if column < left => format!("{cell:<width$}"),
            width => format!("{cell:>width$}"),
        });
        let bar = bytes.map_or(String::new(), |bytes| bar(bytes, highest));
        let line = format!("  {}  {bar}", aligned.collect::<Vec<_>>().join("  "));
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn bar(bytes: u64, highest: u64) -> String {
    let filled = "█".repeat((BAR * bytes as f64 / highest as f64).round() as usize);
    if bytes == highest { format!("{filled} peak") } else { filled }
}

fn begin(first: &str, empty: usize) -> impl Iterator<Item = String> {
    std::iter::once(first.to_owned()).chain(std::iter::repeat_n(String::new(), empty))
}

fn cells<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).into()
}

fn optional(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".into(), mib)
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_and_the_peak_is_marked() {
        let lines = [
            (cells(["stage", "MiB"]), None),
            (cells(["a", "1.0"]), Some(1 << 20)),
            (cells(["bb", "16.0"]), Some(16 << 20)),
        ];
        let expected = format!("  stage   MiB\n  a       1.0  ██\n  bb     16.0  {} peak\n", "█".repeat(32));
        assert_eq!(table(&lines, 1), expected);
    }
}
