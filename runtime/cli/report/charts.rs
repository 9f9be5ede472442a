//! The charts of a report's page, each a drawing of the same width.

use safelight::stats::{Distribution, outliers};

use super::number::{counted, percent, three};
use crate::chart::{Axis, DASHED, Drawing, Frame, Palette, SOLID, cut, span, ticks, whole_ticks};
use crate::schedule::significant;

const WIDTH: f64 = 480.0;
const FRAME: Frame = Frame { left: 74.0, right: 468.0, top: 10.0, bottom: 190.0 };
const HEIGHT: f64 = FRAME.bottom + 50.0;
/// Rows of a histogram's marks.
const MARK_ROW: f64 = 14.0;
/// Samples that are drawn: more would be one spot of ink.
const MOST_DOTS: usize = 5_000;
/// Points of a line.
const MOST_POINTS: usize = 240;
/// Fewer points than this are marked with dots.
const MARKED_POINTS: usize = 40;
/// MAD times this is the standard deviation of a normal distribution.
const MAD_TO_SD: f64 = 1.4826;

/// The most that is worth an axis: what is far beyond would squeeze all else into a corner.
fn fence(samples: &Distribution) -> f64 {
    let far = samples.p50 + (20.0 * MAD_TO_SD * samples.mad).max(0.5 * samples.p50.abs());
    if samples.max > far { far } else { samples.max }
}

/// Bounds that show a spread, but do not blow noise up: at least 4 % of the median to both sides.
fn bounds(samples: &Distribution) -> (f64, f64) {
    let margin = 0.04 * samples.p50.abs();
    (samples.min.min(samples.p50 - margin), fence(samples).max(samples.p50 + margin))
}

/// How often images took how long.
pub(super) fn histogram(ms: &[f64], image: &Distribution) -> String {
    let (low, high) = bounds(image);
    let marks = [("p50", Some(image.p50)), ("p90", image.p90), ("p95", image.p95), ("p99", image.p99)];
    let marks: Vec<_> = marks.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let frame = Frame { top: FRAME.top + MARK_ROW * marks.len() as f64, ..FRAME };
    let across = Axis::new((low, high), (frame.left + 6.0, frame.right - 6.0));
    let counts = binned(ms, image.mad, (across.low, across.high));
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let up = Axis::new((0.0, most as f64), (frame.bottom, frame.top + 4.0));
    let mut drawing = Drawing::in_page((WIDTH, HEIGHT), "histogram of the images' latencies");
    drawing.rules(&frame, &up, &whole_ticks((0.0, most as f64), 4));
    drawing.feet(&frame, &across, &ticks((across.low, across.high), 6));
    drawing.labels(&frame, "images", "ms an image");
    let width = (across.high - across.low) / counts.len() as f64;
    for (bin, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let [from, to] = [bin, bin + 1].map(|edge| across.low + width * edge as f64);
        let title = format!("{} to {} ms: {}", three(from), three(to), counted(*count, "image"));
        let place = Frame { left: across.at(from), right: across.at(to) - 1.0, top: up.at(*count as f64), ..FRAME };
        drawing.bar(place, drawing.palette.colour(0), &title);
    }
    let ink = drawing.palette.ink;
    for (row, (name, value)) in marks.iter().enumerate().filter(|(_, (_, value))| *value <= across.high) {
        let (x, y) = (across.at(*value), FRAME.top + 8.0 + MARK_ROW * row as f64);
        drawing.line((x, y - 6.0), (x, frame.bottom), ink, 1.0, if row == 0 { SOLID } else { DASHED });
        // To the left where there is no room to the right.
        let (x, anchor) = if x > 380.0 { (x - 5.0, "end") } else { (x + 5.0, "start") };
        drawing.write((x, y + 3.0), anchor, ink, &format!("{name} {}", three(*value)));
    }
    drawing.end()
}

/// How many images are beyond the charts' ends, and how far; nothing where none is.
pub(super) fn beyond(ms: &[f64], image: &Distribution) -> Option<String> {
    let (_, high) = bounds(image);
    let beyond = ms.iter().filter(|ms| **ms > high).count();
    let more = if beyond == 1 { "is" } else { "are" };
    (beyond > 0).then(|| {
        format!("{} {more} beyond {} ms, at most {}.", counted(beyond, "image"), three(high), three(image.max))
    })
}

/// Samples that fall between the bounds, in bins of equal width: 3.49·σ·n^(−1/3) (Scott 1979), with what MAD tells of σ,
/// so that a few far samples do not make it coarse.
fn binned(samples: &[f64], mad: f64, (low, high): (f64, f64)) -> Vec<usize> {
    let width = 3.49 * MAD_TO_SD * mad * (samples.len() as f64).powf(-1.0 / 3.0);
    let bins = (((high - low) / width) as usize).clamp(12, 60);
    let mut counts = vec![0; bins];
    for sample in samples.iter().filter(|sample| (low..=high).contains(*sample)) {
        let bin = (bins as f64 * (sample - low) / (high - low)) as usize;
        counts[bin.min(bins - 1)] += 1;
    }
    counts
}

/// Every image over the time of the pass, so that drift and bursts are seen.
pub(super) fn samples(start_s: &[f64], ms: &[f64], image: &Distribution) -> String {
    let (low, high) = bounds(image);
    let points: Vec<_> = start_s.iter().copied().zip(ms.iter().copied()).collect();
    let shown = |ms: f64| if ms > high { f64::INFINITY } else { ms };
    let values: Vec<_> = points.iter().map(|(_, ms)| shown(*ms)).collect();
    let up = FRAME.upward((low, high), &values);
    let seconds = span(start_s).map_or((0.0, 1.0), |(_, last)| (0.0, last));
    let across = Axis::new(seconds, (FRAME.left + 6.0, FRAME.right - 6.0));
    let mut drawing = Drawing::in_page((WIDTH, HEIGHT), "latency of each image over time");
    drawing.rules(&FRAME, &up, &ticks((up.low, up.high), 5));
    drawing.bands(&FRAME, &up, (&format!("> {}", three(high)), ""));
    drawing.feet(&FRAME, &across, &ticks(seconds, 6));
    drawing.labels(&FRAME, "ms an image", "seconds since the pass began");
    let (ink, usual, unusual) = (drawing.palette.ink, drawing.palette.colour(0), drawing.palette.colour(1));
    drawing.line((FRAME.left, up.at(image.p50)), (FRAME.right, up.at(image.p50)), ink, 1.0, DASHED);
    let mut far: Vec<_> = points.iter().map(|_| false).collect();
    outliers(ms).into_iter().for_each(|index| far[index] = true);
    let of = |kind: bool| points.iter().zip(&far).filter(move |(_, far)| **far == kind).map(|(point, _)| *point);
    let every = points.len().div_ceil(MOST_DOTS).max(1);
    let at = |(s, ms): (f64, f64)| (across.at(s), up.at(shown(ms)));
    let dots: Vec<_> = of(false).step_by(every).map(at).collect();
    let width = match dots.len() {
        0..60 => 6.0,
        60..400 => 4.0,
        _ => 2.4,
    };
    drawing.dots(&dots, usual, width);
    for point in of(true).take(MOST_DOTS / 10) {
        drawing.dot("outlier", at(point), 3.6, unusual, &format!("{} ms at {} s", three(point.1), three(point.0)));
    }
    drawing.end()
}

/// Steps that are drawn.
const MOST_STEPS: usize = 1_000;

/// Each step's median, with its usual deviation thick, and least and most thin.
pub(super) fn steps(steps: &[Distribution]) -> String {
    let steps = &steps[..steps.len().min(MOST_STEPS)];
    let high = steps.iter().map(fence).fold(0.0, f64::max);
    let up = Axis::new((0.0, high), (FRAME.bottom, FRAME.top + 6.0));
    let across = Axis::new((1.0, steps.len() as f64), (FRAME.left + 22.0, FRAME.right - 22.0));
    let mut drawing = Drawing::in_page((WIDTH, HEIGHT), "milliseconds of each step");
    drawing.rules(&FRAME, &up, &ticks((0.0, up.high), 5));
    drawing.feet(&FRAME, &across, &whole_ticks((1.0, steps.len() as f64), 10));
    drawing.labels(&FRAME, "ms a step", "step");
    let (colour, grey) = (drawing.palette.colour(0), drawing.palette.grey);
    let at = |step: usize, ms: f64| (across.at(step as f64 + 1.0), up.at(ms.min(up.high)));
    for (i, step) in steps.iter().enumerate() {
        drawing.line(at(i, step.min), at(i, step.max), grey, 1.4, SOLID);
        drawing.line(at(i, step.p50 - step.mad), at(i, step.p50 + step.mad), colour, 5.0, SOLID);
    }
    let medians: Vec<_> = steps.iter().enumerate().map(|(i, step)| at(i, step.p50)).collect();
    drawing.path(&medians, colour, 1.4, SOLID);
    for (i, step) in steps.iter().enumerate() {
        let title = format!("step {}: p50 {} ms, {} to {}", i + 1, three(step.p50), three(step.min), three(step.max));
        drawing.dot("step", at(i, step.p50), 3.4, colour, &title);
    }
    drawing.end()
}

/// What a colour means.
pub(super) struct Key {
    pub(super) colour: usize,
    pub(super) name: String,
}

/// Colours of lines, in their order.
pub(super) fn line_keys(lines: &[Line]) -> Vec<Key> {
    lines.iter().enumerate().map(|(colour, line)| Key { colour, name: line.name.clone() }).collect()
}

/// Colours of a bar's parts: calm ones first, since the second is that of what is unusual.
pub(super) fn bar_keys(names: &[String]) -> Vec<Key> {
    const ORDER: [usize; 8] = [4, 0, 2, 3, 5, 7, 1, 6];
    let key = |(index, name): (usize, &String)| Key { colour: ORDER[index % ORDER.len()], name: name.clone() };
    names.iter().enumerate().map(key).collect()
}

/// A bar that is made of parts. A part's colour is that of its name in the legend.
pub(super) struct Bar {
    pub(super) name: String,
    /// Indices into the keys, and values.
    pub(super) parts: Vec<(usize, f64)>,
}

/// Bars from zero to the right, their sums beside them.
pub(super) fn bars(bars: &[Bar], keys: &[Key], unit: &str) -> String {
    const ROW: f64 = 30.0;
    let frame = Frame { left: 118.0, right: 424.0, top: 4.0, bottom: 10.0 + ROW * bars.len() as f64 };
    let sum = |bar: &Bar| bar.parts.iter().map(|(_, value)| value.max(0.0)).sum::<f64>();
    let most = bars.iter().map(sum).fold(0.0, f64::max);
    let across = Axis::new((0.0, if most > 0.0 { most } else { 1.0 }), (frame.left, frame.right));
    let mut drawing = Drawing::in_page((WIDTH, frame.bottom + 50.0), &format!("{} by part", unit));
    let (ink, pale) = (drawing.palette.ink, drawing.palette.pale_ink);
    drawing.rules(&frame, &across, &[]);
    drawing.feet(&frame, &across, &ticks((0.0, across.high), 5));
    drawing.write(((frame.left + frame.right) / 2.0, frame.bottom + 42.0), "middle", ink, unit);
    for (row, bar) in bars.iter().enumerate() {
        let (top, all) = (frame.top + 6.0 + ROW * row as f64, sum(bar));
        let mut before = 0.0;
        for (index, value) in bar.parts.iter().copied().filter(|(_, value)| *value > 0.0) {
            let (left, right) = (across.at(before), across.at(before + value));
            let share = percent(value / all);
            let Key { colour, name } = &keys[index];
            let title = format!("{name}: {} {unit}, {share}", three(value));
            drawing.bar(Frame { left, right, top, bottom: top + 18.0 }, drawing.palette.colour(*colour), &title);
            before += value;
        }
        drawing.write((frame.left - 8.0, top + 13.0), "end", ink, &cut(&bar.name, 17));
        drawing.write((across.at(all) + 6.0, top + 13.0), "start", pale, &three(all));
    }
    drawing.end()
}

/// Bars below their names, from zero to the right, their values beside them; what is not valid is grey.
pub(super) fn ranking(bars: &[(String, f64, bool)], unit: &str) -> String {
    const ROW: f64 = 38.0;
    let frame = Frame { left: 8.0, right: 410.0, top: 4.0, bottom: 10.0 + ROW * bars.len() as f64 };
    let most = bars.iter().map(|(_, value, _)| *value).fold(0.0, f64::max);
    let across = Axis::new((0.0, if most > 0.0 { most } else { 1.0 }), (frame.left, frame.right));
    let mut drawing = Drawing::in_page((WIDTH, frame.bottom + 50.0), &format!("{unit} by device"));
    drawing.rules(&frame, &across, &[]);
    drawing.feet(&frame, &across, &ticks((0.0, across.high), 5));
    let Palette { ink, pale_ink, grey, .. } = *drawing.palette;
    drawing.write(((frame.left + frame.right) / 2.0, frame.bottom + 42.0), "middle", ink, unit);
    for (row, (name, value, valid)) in bars.iter().enumerate() {
        let top = frame.top + 4.0 + ROW * row as f64;
        let colour = if *valid { drawing.palette.colour(0) } else { grey };
        drawing.write((frame.left + 4.0, top + 11.0), "start", ink, &cut(name, 62));
        let place = Frame { left: frame.left, right: across.at(*value), top: top + 16.0, bottom: top + 32.0 };
        drawing.bar(place, colour, &format!("{name}: {} {unit}", three(*value)));
        drawing.write((across.at(*value) + 6.0, top + 28.0), "start", pale_ink, &three(*value));
    }
    drawing.end()
}

/// Points from left to right; nothing where their height is not known.
pub(super) type Points = Vec<(f64, Option<f64>)>;

/// A line with gaps where nothing is known.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Points,
}

/// What axes say.
pub(super) struct Axes<'a> {
    pub(super) across: &'a str,
    pub(super) upward: &'a str,
    /// The vertical axis spans at least these.
    pub(super) least: Option<(f64, f64)>,
}

/// Lines in the order of the legend's colours.
pub(super) fn lines(lines: &[Line], axes: &Axes) -> String {
    let lines: Vec<_> = lines.iter().map(|line| (line, thinned(&line.points))).collect();
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let xs: Vec<_> = points().map(|(x, _)| x).collect();
    let ys: Vec<_> = points().filter_map(|(_, y)| y).chain(axes.least.iter().flat_map(|(a, b)| [*a, *b])).collect();
    let up = FRAME.upward(span(&ys).unwrap_or((0.0, 1.0)), &ys);
    let across = Axis::new(span(&xs).unwrap_or((0.0, 1.0)), (FRAME.left + 14.0, FRAME.right - 14.0));
    let mut drawing = Drawing::in_page((WIDTH, HEIGHT), axes.upward);
    drawing.rules(&FRAME, &up, &ticks((up.low, up.high), 5));
    drawing.bands(&FRAME, &up, ("∞", "−∞"));
    drawing.feet(&FRAME, &across, &own_ticks(&xs, &across));
    drawing.labels(&FRAME, axes.upward, axes.across);
    for (index, (line, points)) in lines.iter().enumerate() {
        let colour = drawing.palette.colour(index);
        // Colours come again after the last, then with dashes.
        let dashes = if index < drawing.palette.colours.len() { SOLID } else { DASHED };
        for known in points.split(|(_, y)| y.is_none()) {
            let at = |(x, y): &(f64, Option<f64>)| Some((across.at(*x), up.at((*y)?)));
            drawing.path(&known.iter().filter_map(at).collect::<Vec<_>>(), colour, 1.8, dashes);
        }
        for (x, y) in points.iter().filter(|_| points.len() <= MARKED_POINTS) {
            let Some(y) = *y else { continue };
            let title = format!("{}: {} at {}", line.name, three(y), three(*x));
            drawing.dot("point", (across.at(*x), up.at(y)), 3.2, colour, &title);
        }
    }
    drawing.end()
}

/// The values themselves where they are so few that their labels have room, such as numbers of steps; else round ones.
fn own_ticks(values: &[f64], across: &Axis) -> Vec<(f64, String)> {
    let mut own = values.to_vec();
    own.sort_by(f64::total_cmp);
    own.dedup();
    let apart = own.windows(2).all(|pair| across.at(pair[1]) - across.at(pair[0]) > 22.0);
    match apart && own.len() <= 12 {
        true => own.into_iter().map(|value| (value, significant(value))).collect(),
        false => ticks((across.low, across.high), 6),
    }
}

/// Means of so many neighbours that the line has few enough points.
fn thinned(points: &[(f64, Option<f64>)]) -> Points {
    let mean = |points: &[(f64, Option<f64>)]| {
        let known: Vec<_> = points.iter().filter_map(|(_, y)| *y).collect();
        let y = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
        (points.iter().map(|(x, _)| x).sum::<f64>() / points.len() as f64, y)
    };
    points.chunks(points.len().div_ceil(MOST_POINTS).max(1)).map(mean).collect()
}

/// A case in a scatter: its number is written beside its dot.
pub(super) struct Spot {
    pub(super) number: usize,
    pub(super) title: String,
    pub(super) at: (f64, f64),
}

pub(super) fn scatter(spots: &[Spot], axes: &Axes) -> String {
    let (xs, ys): (Vec<_>, Vec<_>) = spots.iter().map(|spot| spot.at).unzip();
    let up = FRAME.upward(span(&ys).unwrap_or((0.0, 1.0)), &ys);
    let most = span(&xs).map_or(1.0, |(_, most)| most);
    let across = Axis::new((0.0, most), (FRAME.left, FRAME.right - 24.0));
    let mut drawing = Drawing::in_page((WIDTH, HEIGHT), &format!("{} over {}", axes.upward, axes.across));
    drawing.rules(&FRAME, &up, &ticks((up.low, up.high), 5));
    drawing.bands(&FRAME, &up, ("same", ""));
    drawing.feet(&FRAME, &across, &ticks((0.0, across.high), 6));
    drawing.labels(&FRAME, axes.upward, axes.across);
    let (colour, ink) = (drawing.palette.colour(0), drawing.palette.ink);
    for spot in spots {
        let (x, y) = (across.at(spot.at.0), up.at(spot.at.1));
        drawing.dot("case", (x, y), 5.0, colour, &spot.title);
        drawing.write((x + 8.0, y + 4.0), "start", ink, &spot.number.to_string());
    }
    drawing.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_within_the_bounds_is_in_one_bin() {
        let samples: Vec<_> = (0..100).map(f64::from).collect();
        for mad in [0.0, 1e-300, 25.0, 1e300] {
            let counts = binned(&samples, mad, (0.0, 99.0));
            assert!((12..=60).contains(&counts.len()) && counts.iter().sum::<usize>() == 100, "{mad}: {counts:?}");
        }
        assert_eq!(binned(&samples, 25.0, (50.0, 99.0)).iter().sum::<usize>(), 50);
    }

    #[test]
    fn thinned_lines_keep_their_gaps_and_means() {
        let points: Vec<_> = (0..480).map(|i| (f64::from(i), (i >= 240).then_some(f64::from(i % 2)))).collect();
        let thin = thinned(&points);
        assert_eq!((thin.len(), thin[0], thin[239]), (240, (0.5, None), (478.5, Some(0.5))));
    }
}
