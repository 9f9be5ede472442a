//! A trajectory as a drawing in SVG: own sigma over the steps, and where that lies in the training process.

use std::fmt::Write as _;

use safelight::Plan;
use safelight::training::Level;

use crate::chart::{Axis, DASHED, Drawing, Frame, ON_WHITE, SOLID, cut, escaped, span, ticks, whole_ticks};
use crate::schedule::{Run, Visit, is_adaptive, significant, snr_db, summary};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
const PANEL_HEIGHT: f64 = 330.0;
/// Where panels begin without a legend.
const TOP: f64 = 92.0;
const LEGEND_ROW: f64 = 20.0;
/// Decades of sigma that are worth an axis of their own: a factor of two.
const LEAST_DECADES: f64 = 0.3;
/// Characters of a heading that fit in the width.
const HEADING: usize = 88;
const SUMMARY: usize = 130;
/// Points of the training process that are drawn; more would not be seen.
const CURVE_POINTS: usize = 200;

/// The drawing, whole: no fonts, scripts or styles from elsewhere.
pub(crate) fn svg(plan: &Plan, runs: &[Run], model: &str) -> String {
    let samplers = samplers(runs);
    let legend = legend(runs, &samplers);
    let top = TOP + legend.last().map_or(0.0, |last| (last.row + 1) as f64 * LEGEND_ROW);
    let bottom = top + PANEL_HEIGHT;
    let mut page = Drawing::on_white((WIDTH, bottom + 62.0));
    title(&mut page, plan, model);
    for entry in &legend {
        write_entry(&mut page, entry);
    }
    steps_panel(&mut page, plan, runs, &Frame { left: 84.0, right: 580.0, top, bottom });
    training_panel(&mut page, plan, runs, &Frame { left: 664.0, right: WIDTH - MARGIN, top, bottom });
    page.end()
}

/// The samplers in the order in which they first work.
fn samplers(runs: &[Run]) -> Vec<&'static str> {
    let mut samplers = Vec::new();
    for run in runs {
        if !samplers.contains(&run.sampler) {
            samplers.push(run.sampler);
        }
    }
    samplers
}

fn colour(run: &Run, runs: &[Run]) -> &'static str {
    let index = samplers(runs).iter().position(|sampler| *sampler == run.sampler);
    ON_WHITE.colour(index.unwrap_or(0))
}

/// What a colour or a line means, and where that is told.
struct Entry {
    name: &'static str,
    colour: &'static str,
    /// Of the line beside the name.
    dashes: &'static str,
    left: f64,
    row: usize,
}

/// Nothing for one sampler that walks straight on: the heading names it.
fn legend(runs: &[Run], samplers: &[&'static str]) -> Vec<Entry> {
    let rises = runs.iter().any(|run| run.rises);
    if samplers.len() == 1 && !rises {
        return Vec::new();
    }
    let named = samplers.iter().zip(ON_WHITE.colours.iter().cycle()).map(|(&name, &colour)| (name, colour, SOLID));
    let (mut left, mut row) = (MARGIN, 0);
    let mut place = |(name, colour, dashes): (&'static str, &'static str, &'static str)| {
        let width = 50.0 + 6.6 * name.len() as f64;
        if left + width > WIDTH {
            (left, row) = (MARGIN, row + 1);
        }
        left += width;
        Entry { name, colour, dashes, left: left - width, row }
    };
    let lift = rises.then_some(("noise lifts the latent", ON_WHITE.pale_ink, DASHED));
    named.chain(lift).map(&mut place).collect()
}

/// Own sigma over the steps.
fn steps_panel(page: &mut Drawing, plan: &Plan, runs: &[Run], frame: &Frame) {
    let last = runs.iter().flat_map(|run| &run.visits).map(|visit| visit.step).max().unwrap_or(1);
    let across = Axis::new((0.0, last as f64), (frame.left + 12.0, frame.right - 12.0));
    let up = sigma_axis(plan, runs, frame);
    let (label, steps) = match is_adaptive(plan) {
        true => ("steps: chosen by the tolerance", vec![(0.0, "start".into()), (1.0, "end".into())]),
        false => ("steps done", whole_ticks((0.0, last as f64), 10)),
    };
    page.rules(frame, &up, &sigma_ticks(&up));
    page.bands(frame, &up, ("∞", "0"));
    page.feet(frame, &across, &steps);
    page.labels(frame, "own sigma (log scale)", label);
    let point = |visit: &Visit| (across.at(visit.step as f64), up.at(visit.own_sigma.log10()));
    let count: usize = runs.iter().map(|run| run.visits.len()).sum();
    let radius = if count > 150 { 1.6 } else { 4.0 - (count as f64 / 60.0).min(1.8) };
    for (index, run) in runs.iter().enumerate() {
        let (colour, dashes) = (colour(run, runs), if is_adaptive(plan) { DASHED } else { SOLID });
        if let (true, Some(before), Some(first)) = (run.rises, runs[..index].last(), run.visits.first()) {
            let lifted = [before.visits.last().unwrap_or(first), first].map(point);
            page.path(&lifted, ON_WHITE.pale_ink, 1.3, DASHED);
        }
        page.path(&run.visits.iter().map(point).collect::<Vec<_>>(), colour, 1.8, dashes);
    }
    for (run, visit) in shown(runs) {
        page.dot("level", point(visit), radius, colour(run, runs), &numbers(visit));
    }
}

fn shown(runs: &[Run]) -> impl Iterator<Item = (&Run, &Visit)> {
    runs.iter().flat_map(|run| run.shown().iter().map(move |visit| (run, visit)))
}

/// log₁₀ of own sigma, bottom up. Too few decades would say little: then it spans all that was trained.
fn sigma_axis(plan: &Plan, runs: &[Run], frame: &Frame) -> Axis {
    let logs: Vec<_> = shown(runs).map(|(_, visit)| visit.own_sigma.log10()).collect();
    let (least, most) = plan.training.sigma_range();
    let (least, most) = (least.log10(), most.log10());
    let bounds = match span(&logs) {
        Some((low, high)) if high - low >= LEAST_DECADES => (low, high),
        Some((low, high)) => (low.min(least), high.max(most)),
        None => (least, most),
    };
    frame.upward(bounds, &logs)
}

/// Powers of ten, with 2 and 5 between them where those are few.
fn sigma_ticks(axis: &Axis) -> Vec<(f64, String)> {
    let (low, high) = (axis.low.floor() as i32, axis.high.ceil() as i32);
    let digits: &[f64] = if axis.high - axis.low < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let sigmas = (low..=high).flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
    let within = sigmas.filter(|sigma| (axis.low..=axis.high).contains(&sigma.log10()));
    within.map(|sigma| (sigma.log10(), significant(sigma))).collect()
}

/// Signal-to-noise ratio over timestep: the training process, and what is visited of it.
fn training_panel(page: &mut Drawing, plan: &Plan, runs: &[Run], frame: &Frame) {
    let training = &plan.training;
    let indexes = (0..CURVE_POINTS).map(|i| (training.timesteps() - 1) as f64 * i as f64 / (CURVE_POINTS - 1) as f64);
    let curve: Vec<_> = indexes.map(|index| training.at_index(index)).collect();
    // No step begins at the end of a run, so that nothing need be asked of the denoiser there.
    let begun = |run: &Run| run.visits.len() - 1;
    let visited = runs.iter().flat_map(|run| run.visits[..begun(run)].iter().map(move |visit| (run, visit)));
    let visited: Vec<_> = visited.collect();
    let levels = || curve.iter().copied().chain(visited.iter().map(|(_, visit)| visit.level));
    let ratios: Vec<_> = levels().map(snr_db).collect();
    let timesteps: Vec<_> = levels().map(|level| level.timestep).collect();
    let across = Axis::new(span(&timesteps).unwrap_or((0.0, 1.0)), (frame.left + 10.0, frame.right - 10.0));
    let up = frame.upward(span(&ratios).unwrap_or((-1.0, 1.0)), &ratios);
    page.rules(frame, &up, &ticks((up.low, up.high), 7));
    page.bands(frame, &up, ("∞", "−∞"));
    page.feet(frame, &across, &ticks((across.low, across.high), 5));
    page.labels(frame, "SNR (dB)", "timestep: training in grey, visited in colour");
    let point = |level: Level| (across.at(level.timestep), up.at(snr_db(level)));
    page.path(&curve.iter().copied().map(point).collect::<Vec<_>>(), ON_WHITE.grey, 1.8, SOLID);
    let radius = if visited.len() > 60 { 2.0 } else { 3.2 };
    for (run, visit) in visited {
        let (x, y) = point(visit.level);
        page.line((x, frame.bottom), (x, frame.bottom - 9.0), colour(run, runs), 1.0, SOLID);
        page.dot("visited", (x, y), radius, colour(run, runs), &numbers(visit));
    }
}

/// A level in numbers.
fn numbers(Visit { step, level, own_sigma }: &Visit) -> String {
    let [timestep, sigma, ratio] = [level.timestep, *own_sigma, snr_db(*level)].map(significant);
    format!("step {step}: timestep {timestep}, own sigma {sigma}, SNR {ratio} dB")
}

/// What is drawn, for eyes and for screen readers.
fn title(page: &mut Drawing, plan: &Plan, model: &str) {
    let (relay, summary) = (plan.relay.to_string(), summary(plan));
    let summary = summary.strip_prefix(&format!("{relay}, ")).unwrap_or(&summary);
    let scale = significant(plan.trajectory.initial_scale);
    let about = format!("model {model}: {summary}, initial scale {scale}");
    let _ = writeln!(page.text, "<title>{}</title>", escaped(&format!("{relay}; {about}")));
    let (heading, about) = (escaped(&cut(&relay, HEADING)), escaped(&cut(&about, SUMMARY)));
    let (ink, pale) = (ON_WHITE.ink, ON_WHITE.pale_ink);
    let _ = writeln!(
        page.text,
        "<text x=\"{MARGIN}\" y=\"38\" font-size=\"19\" font-weight=\"600\" fill=\"{ink}\">{heading}</text>\n\
         <text x=\"{MARGIN}\" y=\"61\" font-size=\"13\" fill=\"{pale}\">{about}</text>"
    );
}

fn write_entry(page: &mut Drawing, entry: &Entry) {
    let y = TOP - 8.0 + entry.row as f64 * LEGEND_ROW;
    page.line((entry.left, y), (entry.left + 22.0, y), entry.colour, 2.0, entry.dashes);
    page.write((entry.left + 28.0, y + 4.0), "start", ON_WHITE.ink, entry.name);
}
