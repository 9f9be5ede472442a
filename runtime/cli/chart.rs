//! What all drawings in SVG share: places on axes, round numbers, lines, and text that cannot leave its element.

use std::fmt::Write as _;

use crate::schedule::significant;

/// Where infinite values lie, beyond the finite ones.
const BAND: f64 = 26.0;

/// Greater numbers are drawn as this one, so that differences between two are finite.
const BEYOND: f64 = 1e300;

pub(crate) const SOLID: &str = "none";
pub(crate) const DASHED: &str = "5 4";

/// Colours of a drawing, in CSS.
pub(crate) struct Palette {
    pub(crate) ink: &'static str,
    pub(crate) pale_ink: &'static str,
    pub(crate) grid: &'static str,
    /// Axes, and what only accompanies.
    pub(crate) grey: &'static str,
    /// Around dots, so that they part from each other.
    pub(crate) paper: &'static str,
    pub(crate) colours: [&'static str; 8],
}

/// For drawings of their own: colours that people with any colour vision tell apart (Okabe & Ito 2008), readable on
/// white.
pub(crate) const ON_WHITE: Palette = Palette {
    ink: "#1f2933",
    pale_ink: "#52606d",
    grid: "#e4e7eb",
    grey: "#9aa5b1",
    paper: "#ffffff",
    colours: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#b8a800"],
};

/// For drawings in a page, whose style gives these colours for light and dark.
pub(crate) const IN_PAGE: Palette = Palette {
    ink: "var(--ink)",
    pale_ink: "var(--pale)",
    grid: "var(--grid)",
    grey: "var(--grey)",
    paper: "var(--paper)",
    colours: ["var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)", "var(--c7)"],
};

impl Palette {
    /// The colour of the so-manieth thing; after the last comes the first again.
    pub(crate) fn colour(&self, index: usize) -> &'static str {
        self.colours[index % self.colours.len()]
    }
}

/// Least and most of the finite values.
pub(crate) fn span(values: &[f64]) -> Option<(f64, f64)> {
    let finite = values.iter().copied().filter(|value| value.is_finite());
    finite.fold(None, |span, value| Some(span.map_or((value, value), |(low, high)| (value.min(low), value.max(high)))))
}

/// About `count` multiples of 1, 2 or 5 times a power of ten, from `low` to `high`.
fn round_numbers(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(rough);
    // Half a step of a rounded bound must not make one number more.
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    // Where all values are the same to the last digits, no step is left to count with.
    let last = last.min(first.saturating_add(4 * count as i64));
    (first..=last).map(|i| i as f64 * step).filter(|number| number.is_finite()).collect()
}

/// About `count` round numbers from the first to the second value with their labels, which have a true minus.
pub(crate) fn ticks((low, high): (f64, f64), count: usize) -> Vec<(f64, String)> {
    let label = |value: f64| (value, significant(value).replace('-', "−"));
    round_numbers(low, high, count).into_iter().map(label).collect()
}

/// The same without those between whole numbers, for what is counted.
pub(crate) fn whole_ticks(bounds: (f64, f64), count: usize) -> Vec<(f64, String)> {
    ticks(bounds, count).into_iter().filter(|(value, _)| value.fract() == 0.0).collect()
}

/// The place of a panel.
pub(crate) struct Frame {
    pub(crate) left: f64,
    pub(crate) right: f64,
    pub(crate) top: f64,
    pub(crate) bottom: f64,
}

impl Frame {
    /// The vertical axis from the first to the second value, with room for the infinite ones among `values`.
    pub(crate) fn upward(&self, (low, high): (f64, f64), values: &[f64]) -> Axis {
        let room = |infinity: f64| if values.contains(&infinity) { BAND } else { 0.0 };
        let (above, below) = (room(f64::INFINITY), room(f64::NEG_INFINITY));
        let inner = (self.bottom - 16.0 - below, self.top + 12.0 + above);
        Axis { ends: (self.bottom - 14.0, self.top + 10.0), above, below, ..Axis::new((low, high), inner) }
    }
}

/// Values → places on the page.
pub(crate) struct Axis {
    pub(crate) low: f64,
    pub(crate) high: f64,
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
    pub(crate) fn new((low, high): (f64, f64), (from, to): (f64, f64)) -> Self {
        let (low, high) = (low.clamp(-BEYOND, BEYOND), high.clamp(-BEYOND, BEYOND));
        // A single value lies in the middle.
        let room = 1f64.max(low.abs() * 1e-6);
        let (low, high) = if low < high { (low, high) } else { (low - room, high + room) };
        Self { low, high, from, to, ends: (from, to), above: 0.0, below: 0.0 }
    }

    pub(crate) fn at(&self, value: f64) -> f64 {
        match value {
            f64::NEG_INFINITY => self.ends.0,
            f64::INFINITY => self.ends.1,
            // What is far beyond an end is off the page, at a number that SVG can hold.
            _ => self.from + (self.to - self.from) * ((value - self.low) / (self.high - self.low)).clamp(-1.0, 2.0),
        }
    }
}

/// An SVG document that is being written. Writing to a string cannot fail.
pub(crate) struct Drawing {
    pub(crate) text: String,
    pub(crate) palette: &'static Palette,
}

impl Drawing {
    /// A drawing of its own, on white.
    pub(crate) fn on_white((width, height): (f64, f64)) -> Self {
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"system-ui, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', \
             sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        Self { text, palette: &ON_WHITE }
    }

    /// A drawing within a page of HTML, which gives it fonts and colours; `about` says to screen readers what it is.
    pub(crate) fn in_page((width, height): (f64, f64), about: &str) -> Self {
        let about = escaped(about);
        let text = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{about}\">\n");
        Self { text, palette: &IN_PAGE }
    }

    pub(crate) fn end(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    /// Horizontal lines of a panel, and their values.
    pub(crate) fn rules(&mut self, frame: &Frame, axis: &Axis, ticks: &[(f64, String)]) {
        let Palette { grid, grey, pale_ink, .. } = self.palette;
        for (value, label) in ticks {
            let y = axis.at(*value);
            self.line((frame.left, y), (frame.right, y), grid, 1.0, SOLID);
            self.write((frame.left - 8.0, y + 4.0), "end", pale_ink, label);
        }
        self.line((frame.left, frame.top), (frame.left, frame.bottom), grey, 1.0, SOLID);
        self.line((frame.left, frame.bottom), (frame.right, frame.bottom), grey, 1.0, SOLID);
    }

    /// Where infinite values lie, cut off from the finite ones.
    pub(crate) fn bands(&mut self, frame: &Frame, axis: &Axis, (above, below): (&str, &str)) {
        let Palette { grid, grey, pale_ink, .. } = self.palette;
        let bands = [(axis.above, axis.ends.1, BAND / 2.0, above), (axis.below, axis.ends.0, -BAND / 2.0, below)];
        for (_, y, cut, label) in bands.into_iter().filter(|(room, ..)| *room > 0.0) {
            self.line((frame.left, y), (frame.right, y), grid, 1.0, SOLID);
            self.line((frame.left, y + cut), (frame.right, y + cut), grey, 1.0, "1 4");
            self.write((frame.left - 8.0, y + 4.0), "end", pale_ink, label);
        }
    }

    /// Marks below a panel, and their values.
    pub(crate) fn feet(&mut self, frame: &Frame, axis: &Axis, ticks: &[(f64, String)]) {
        let Palette { grey, pale_ink, .. } = self.palette;
        for (value, label) in ticks {
            let x = axis.at(*value);
            self.line((x, frame.bottom), (x, frame.bottom + 5.0), grey, 1.0, SOLID);
            self.write((x, frame.bottom + 20.0), "middle", pale_ink, label);
        }
    }

    pub(crate) fn labels(&mut self, frame: &Frame, upward: &str, across: &str) {
        let ink = self.palette.ink;
        self.write(((frame.left + frame.right) / 2.0, frame.bottom + 42.0), "middle", ink, across);
        let (x, y) = (frame.left - 58.0, (frame.top + frame.bottom) / 2.0);
        let _ = writeln!(
            self.text,
            "<text x=\"{x}\" y=\"{y}\" transform=\"rotate(-90 {x} {y})\" text-anchor=\"middle\" fill=\"{ink}\">{}</text>",
            escaped(upward)
        );
    }

    pub(crate) fn write(&mut self, (x, y): (f64, f64), anchor: &str, fill: &str, text: &str) {
        let text = escaped(text);
        let _ = writeln!(
            self.text,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{text}</text>"
        );
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64, dashes: &str) {
        self.path(&[from, to], colour, width, dashes);
    }

    pub(crate) fn path(&mut self, points: &[(f64, f64)], colour: &str, width: f64, dashes: &str) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-dasharray=\"{dashes}\" stroke-linejoin=\"round\"/>",
            points.join(" ")
        );
    }

    /// A bar, whose `title` a browser shows under the pointer.
    pub(crate) fn bar(&mut self, Frame { left, right, top, bottom }: Frame, colour: &str, title: &str) {
        let (width, height, title) = ((right - left).max(0.0), (bottom - top).max(0.0), escaped(title));
        let _ = writeln!(
            self.text,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             fill=\"{colour}\"><title>{title}</title></rect>"
        );
    }

    /// Many small dots without titles, in one element.
    pub(crate) fn dots(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let points: String = points.iter().map(|(x, y)| format!("M{x:.1} {y:.1}h0")).collect();
        let _ = writeln!(
            self.text,
            "<path d=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
             stroke-linecap=\"round\"/>"
        );
    }

    /// A dot, whose `title` a browser shows under the pointer.
    pub(crate) fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64, colour: &str, title: &str) {
        let (paper, title) = (self.palette.paper, escaped(title));
        let _ = writeln!(
            self.text,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{colour}\" \
             stroke=\"{paper}\" stroke-width=\"0.8\"><title>{title}</title></circle>"
        );
    }
}

/// Text that is at most so many characters long.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Text as XML's character data: without characters that end it, that XML does not know, or that would turn around what
/// stands behind them.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                escaped.push(char::REPLACEMENT_CHARACTER)
            }
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
        assert_eq!(escaped("a<b>&\"c\"\u{1b}\u{202e}é"), "a&lt;b&gt;&amp;&quot;c&quot;\u{fffd}\u{fffd}é");
    }

    #[test]
    fn round_numbers_lie_within_their_bounds() {
        assert_eq!(round_numbers(0.0, 20.0, 10), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0]);
        assert_eq!(round_numbers(-23.3, 30.7, 7), [-20.0, -10.0, 0.0, 10.0, 20.0, 30.0]);
        assert_eq!(round_numbers(0.0, 1.0, 1), [0.0, 1.0]);
    }

    #[test]
    fn round_numbers_are_few_whatever_the_bounds() {
        for (low, high) in [(1e16, 1e16 + 2.0), (-1e300, 1e300), (0.0, 5e-324), (f64::MIN, f64::MAX), (1.0, 1.0)] {
            assert!(round_numbers(low, high, 5).len() <= 21, "{low} to {high}");
        }
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
