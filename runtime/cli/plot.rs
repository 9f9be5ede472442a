//! A trajectory as a drawing in SVG: own sigma over the steps, and where that lies in the training process.

use std::fmt::Write as _;

use safelight::Plan;
use safelight::training::Level;

use crate::schedule::{Run, Visit, is_adaptive, significant, snr_db, summary};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
const PANEL_HEIGHT: f64 = 330.0;
/// Where panels begin without a legend.
const TOP: f64 = 92.0;
const LEGEND_ROW: f64 = 20.0;
/// Where infinite values lie, beyond the finite ones.
const BAND: f64 = 26.0;
/// Decades of sigma that are worth an axis of their own: a factor of two.
const LEAST_DECADES: f64 = 0.3;
/// Characters of a heading that fit in the width.
const HEADING: usize = 88;
const SUMMARY: usize = 130;
/// Points of the training process that are drawn; more would not be seen.
const CURVE_POINTS: usize = 200;

/// Colours that people with any colour vision tell apart (Okabe & Ito 2008), readable on white.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#b8a800"];
const INK: &str = "#1f2933";
const PALE_INK: &str = "#52606d";
const GRID: &str = "#e4e7eb";
const CURVE: &str = "#9aa5b1";

/// The drawing, whole: no fonts, scripts or styles from elsewhere.
pub(crate) fn svg(plan: &Plan, runs: &[Run], model: &str) -> String {
    let samplers = samplers(runs);
    let legend = legend(runs, &samplers);
    let top = TOP + legend.last().map_or(0.0, |last| (last.row + 1) as f64 * LEGEND_ROW);
    let bottom = top + PANEL_HEIGHT;
    let mut page = Page::new(bottom + 62.0);
    page.title(plan, model);
    for entry in &legend {
        page.legend(entry);
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
    COLOURS[index.unwrap_or(0) % COLOURS.len()]
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

const SOLID: &str = "none";
const DASHED: &str = "5 4";

/// Nothing for one sampler that walks straight on: the heading names it.
fn legend(runs: &[Run], samplers: &[&'static str]) -> Vec<Entry> {
    let rises = runs.iter().any(|run| run.rises);
    if samplers.len() == 1 && !rises {
        return Vec::new();
    }
    let named = samplers.iter().zip(COLOURS.iter().cycle()).map(|(&name, &colour)| (name, colour, SOLID));
    let (mut left, mut row) = (MARGIN, 0);
    let mut place = |(name, colour, dashes): (&'static str, &'static str, &'static str)| {
        let width = 50.0 + 6.6 * name.len() as f64;
        if left + width > WIDTH {
            (left, row) = (MARGIN, row + 1);
        }
        left += width;
        Entry { name, colour, dashes, left: left - width, row }
    };
    let lift = rises.then_some(("noise lifts the latent", PALE_INK, DASHED));
    named.chain(lift).map(&mut place).collect()
}

/// Own sigma over the steps.
fn steps_panel(page: &mut Page, plan: &Plan, runs: &[Run], frame: &Frame) {
    let last = runs.iter().flat_map(|run| &run.visits).map(|visit| visit.step).max().unwrap_or(1);
    let across = Axis::new((0.0, last as f64), (frame.left + 12.0, frame.right - 12.0));
    let up = sigma_axis(plan, runs, frame);
    let (label, steps) = match is_adaptive(plan) {
        true => ("steps: chosen by the tolerance", vec![(0.0, "start".into()), (1.0, "end".into())]),
        false => ("steps done", ticks((0.0, last as f64), 10).into_iter().filter(|(s, _)| s.fract() == 0.0).collect()),
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
            page.path(&lifted, PALE_INK, 1.3, DASHED);
        }
        page.path(&run.visits.iter().map(point).collect::<Vec<_>>(), colour, 1.8, dashes);
    }
    for (run, visit) in shown(runs) {
        page.dot("level", point(visit), radius, colour(run, runs), visit);
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

/// Least and most of the finite values.
fn span(values: &[f64]) -> Option<(f64, f64)> {
    let finite = values.iter().copied().filter(|value| value.is_finite());
    finite.fold(None, |span, value| Some(span.map_or((value, value), |(low, high)| (value.min(low), value.max(high)))))
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
fn training_panel(page: &mut Page, plan: &Plan, runs: &[Run], frame: &Frame) {
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
    page.path(&curve.iter().copied().map(point).collect::<Vec<_>>(), CURVE, 1.8, SOLID);
    let radius = if visited.len() > 60 { 2.0 } else { 3.2 };
    for (run, visit) in visited {
        let (x, y) = point(visit.level);
        page.line((x, frame.bottom), (x, frame.bottom - 9.0), colour(run, runs), 1.0, SOLID);
        page.dot("visited", (x, y), radius, colour(run, runs), visit);
    }
}

/// About `count` multiples of 1, 2 or 5 times a power of ten, from `low` to `high`.
fn round_numbers(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(rough);
    // Half a step of a rounded bound must not make one number more.
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// About `count` round numbers from the first to the second value with their labels, which have a true minus.
fn ticks((low, high): (f64, f64), count: usize) -> Vec<(f64, String)> {
    let label = |value: f64| (value, significant(value).replace('-', "−"));
    round_numbers(low, high, count).into_iter().map(label).collect()
}

/// The place of a panel.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    /// The vertical axis from the first to the second value, with room for the infinite ones among `values`.
    fn upward(&self, (low, high): (f64, f64), values: &[f64]) -> Axis {
        let room = |infinity: f64| if values.contains(&infinity) { BAND } else { 0.0 };
        let (above, below) = (room(f64::INFINITY), room(f64::NEG_INFINITY));
        let inner = (self.bottom - 16.0 - below, self.top + 12.0 + above);
        Axis { ends: (self.bottom - 14.0, self.top + 10.0), above, below, ..Axis::new((low, high), inner) }
    }
}

/// Values → places on the page.
struct Axis {
    low: f64,
    high: f64,
    /// Where these two are.
    from: f64,
    to: f64,
    /// Where −∞ and ∞ are.
    ends: (f64, f64),
    /// Room for ∞, and for −∞.
    above: f64,
    below: f64,
}

impl Axis {
    fn new((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        // A single value lies in the middle.
        let (low, high) = if low < high { (low, high) } else { (low - 1.0, high + 1.0) };
        Self { low, high, from, to, ends: (from, to), above: 0.0, below: 0.0 }
    }

    fn at(&self, value: f64) -> f64 {
        match value {
            f64::NEG_INFINITY => self.ends.0,
            f64::INFINITY => self.ends.1,
            _ => self.from + (self.to - self.from) * (value - self.low) / (self.high - self.low),
        }
    }
}

/// An SVG document that is being written. Writing to a string cannot fail.
struct Page {
    text: String,
}

impl Page {
    fn new(height: f64) -> Self {
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"system-ui, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', \
             sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        Self { text }
    }

    fn end(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    /// What is drawn, for eyes and for screen readers.
    fn title(&mut self, plan: &Plan, model: &str) {
        let (relay, summary) = (plan.relay.to_string(), summary(plan));
        let summary = summary.strip_prefix(&format!("{relay}, ")).unwrap_or(&summary);
        let scale = significant(plan.trajectory.initial_scale);
        let about = format!("model {model}: {summary}, initial scale {scale}");
        let _ = writeln!(self.text, "<title>{}</title>", escaped(&format!("{relay}; {about}")));
        let (heading, about) = (escaped(&cut(&relay, HEADING)), escaped(&cut(&about, SUMMARY)));
        let _ = writeln!(
            self.text,
            "<text x=\"{MARGIN}\" y=\"38\" font-size=\"19\" font-weight=\"600\" fill=\"{INK}\">{heading}</text>\n\
             <text x=\"{MARGIN}\" y=\"61\" font-size=\"13\" fill=\"{PALE_INK}\">{about}</text>"
        );
    }

    fn legend(&mut self, entry: &Entry) {
        let y = TOP - 8.0 + entry.row as f64 * LEGEND_ROW;
        self.line((entry.left, y), (entry.left + 22.0, y), entry.colour, 2.0, entry.dashes);
        self.write((entry.left + 28.0, y + 4.0), "start", INK, entry.name);
    }

    /// Horizontal lines of a panel, and their values.
    fn rules(&mut self, frame: &Frame, axis: &Axis, ticks: &[(f64, String)]) {
        for (value, label) in ticks {
            let y = axis.at(*value);
            self.line((frame.left, y), (frame.right, y), GRID, 1.0, SOLID);
            self.write((frame.left - 8.0, y + 4.0), "end", PALE_INK, label);
        }
        self.line((frame.left, frame.top), (frame.left, frame.bottom), CURVE, 1.0, SOLID);
        self.line((frame.left, frame.bottom), (frame.right, frame.bottom), CURVE, 1.0, SOLID);
    }

    /// Where infinite values lie, cut off from the finite ones.
    fn bands(&mut self, frame: &Frame, axis: &Axis, (above, below): (&str, &str)) {
        let bands = [(axis.above, axis.ends.1, BAND / 2.0, above), (axis.below, axis.ends.0, -BAND / 2.0, below)];
        for (_, y, cut, label) in bands.into_iter().filter(|(room, ..)| *room > 0.0) {
            self.line((frame.left, y), (frame.right, y), GRID, 1.0, SOLID);
            self.line((frame.left, y + cut), (frame.right, y + cut), CURVE, 1.0, "1 4");
            self.write((frame.left - 8.0, y + 4.0), "end", PALE_INK, label);
        }
    }

    /// Marks below a panel, and their values.
    fn feet(&mut self, frame: &Frame, axis: &Axis, ticks: &[(f64, String)]) {
        for (value, label) in ticks {
            let x = axis.at(*value);
            self.line((x, frame.bottom), (x, frame.bottom + 5.0), CURVE, 1.0, SOLID);
            self.write((x, frame.bottom + 20.0), "middle", PALE_INK, label);
        }
    }

    fn labels(&mut self, frame: &Frame, upward: &str, across: &str) {
        self.write(((frame.left + frame.right) / 2.0, frame.bottom + 42.0), "middle", INK, across);
        let (x, y) = (frame.left - 58.0, (frame.top + frame.bottom) / 2.0);
        let _ = writeln!(
            self.text,
            "<text x=\"{x}\" y=\"{y}\" transform=\"rotate(-90 {x} {y})\" text-anchor=\"middle\" fill=\"{INK}\">{}</text>",
            escaped(upward)
        );
    }

    fn write(&mut self, (x, y): (f64, f64), anchor: &str, fill: &str, text: &str) {
        let text = escaped(text);
        let _ = writeln!(
            self.text,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{text}</text>"
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64, dashes: &str) {
        self.path(&[from, to], colour, width, dashes);
    }

    fn path(&mut self, points: &[(f64, f64)], colour: &str, width: f64, dashes: &str) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-dasharray=\"{dashes}\" stroke-linejoin=\"round\"/>",
            points.join(" ")
        );
    }

    /// A level, whose numbers a browser shows under the pointer.
    fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64, colour: &str, visit: &Visit) {
        let Visit { step, level, own_sigma } = visit;
        let [timestep, sigma, ratio] = [level.timestep, *own_sigma, snr_db(*level)].map(significant);
        let _ = writeln!(
            self.text,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{colour}\" \
             stroke=\"#ffffff\" stroke-width=\"0.8\"><title>step {step}: timestep {timestep}, own sigma {sigma}, SNR \
             {ratio} dB</title></circle>"
        );
    }
}

/// Text that is at most so many characters long.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Text as XML's character data: without characters that end it, or that XML does not know.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push(char::REPLACEMENT_CHARACTER),
            c if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_element() {
        assert_eq!(escaped("a<b>&\"c\"\u{1b}\u{0}é"), "a&lt;b&gt;&amp;&quot;c&quot;\u{fffd}\u{fffd}é");
    }

    #[test]
    fn round_numbers_lie_within_their_bounds() {
        assert_eq!(round_numbers(0.0, 20.0, 10), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0]);
        assert_eq!(round_numbers(-23.3, 30.7, 7), [-20.0, -10.0, 0.0, 10.0, 20.0, 30.0]);
        assert_eq!(round_numbers(0.0, 1.0, 1), [0.0, 1.0]);
    }

    #[test]
    fn an_axis_has_places_for_every_number() {
        let frame = Frame { left: 0.0, right: 100.0, top: 0.0, bottom: 200.0 };
        let axis = frame.upward((-1.0, 1.0), &[f64::INFINITY, f64::NEG_INFINITY, 0.0]);
        let places = [f64::NEG_INFINITY, -1.0, 0.0, 1.0, f64::INFINITY].map(|value| axis.at(value));
        assert!(places.windows(2).all(|pair| pair[0] > pair[1]), "{places:?}");
        assert!(places[0] < frame.bottom && places[4] > frame.top, "{places:?}");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(cut("abcd", 4), "abcd");
        assert_eq!(cut("äöüß!", 4), "äöü…");
    }
}
