//! Numbers as people read them: three significant digits, a true minus, thousands apart.

/// What stands where nothing may be told.
pub(super) const NOTHING: &str = "–";

/// Three significant digits: 0.0412, 41.2, 4,120.
pub(super) fn three(value: f64) -> String {
    like(value, value)
}

/// A number as exact as three digits of another are, so that both can be compared: 40.8 beside 41.2.
pub(super) fn like(value: f64, other: f64) -> String {
    // Rounding may carry: 99.96 has the digits of 100.
    let power = |value: f64| format!("{value:.2e}").rsplit('e').next().and_then(|power| power.parse::<i32>().ok());
    match power(other).filter(|_| other != 0.0) {
        _ if !value.is_finite() => NOTHING.into(),
        _ if value == 0.0 => "0".into(),
        Some(power @ 3..=8) if value.abs() < 1e9 => {
            let step = 10f64.powi(power - 2);
            minus(&grouped(&format!("{:.0}", (value / step).round() * step)))
        }
        Some(power @ -4..=2) if value.abs() < 1e9 => minus(&grouped(&format!("{:.*}", (2 - power) as usize, value))),
        _ => minus(&format!("{value:.2e}")),
    }
}

/// A value and its interval: 41.2 (40.8–41.9).
pub(super) fn interval(value: f64, bounds: Option<[f64; 2]>) -> String {
    match bounds {
        Some([low, high]) => format!("{} ({}–{})", three(value), like(low, value), like(high, value)),
        None => three(value),
    }
}

/// A number, or the sign that there is none.
pub(super) fn or_nothing(value: Option<f64>) -> String {
    value.map_or_else(|| NOTHING.into(), three)
}

pub(super) fn megabytes(bytes: u64) -> String {
    three(bytes as f64 / 1e6)
}

pub(super) fn percent(share: f64) -> String {
    format!("{} %", three(100.0 * share))
}

/// A difference, with its sign.
pub(super) fn signed_percent(share: f64) -> String {
    let sign = if share > 0.0 { "+" } else { "" };
    format!("{sign}{}", percent(share))
}

/// A whole number with a word, in the plural where it is not one.
pub(super) fn counted(count: usize, what: &str) -> String {
    let ending = match count {
        1 => "",
        _ if what.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {what}{ending}", grouped(&count.to_string()))
}

fn minus(number: &str) -> String {
    number.replace('-', "−")
}

/// Commas between thousands of the whole part.
pub(super) fn grouped(number: &str) -> String {
    let end = number.find('.').unwrap_or(number.len());
    let mut grouped = String::with_capacity(number.len() + 4);
    for (index, c) in number.char_indices() {
        let left = end.saturating_sub(index);
        if left > 0 && left.is_multiple_of(3) && grouped.ends_with(|before: char| before.is_ascii_digit()) {
            grouped.push(',');
        }
        grouped.push(c);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits() {
        #[rustfmt::skip]
        let cases = [
            (0.0, "0"), (1.0, "1.00"), (41.234, "41.2"), (99.96, "100"), (0.041_234, "0.0412"), (412.3, "412"),
            (4_123.0, "4,120"), (1_234_567.0, "1,230,000"), (123_456_789.0, "123,000,000"), (-3.456, "−3.46"),
            (-4_123.0, "−4,120"), (1e12, "1.00e12"), (1.234e-7, "1.23e−7"), (f64::MAX, "1.80e308"), (999.6, "1,000"),
            (f64::NAN, "–"), (f64::INFINITY, "–"),
        ];
        for (value, written) in cases {
            assert_eq!(three(value), written, "{value}");
        }
    }

    #[test]
    fn intervals_are_as_exact_as_what_they_surround() {
        assert_eq!(interval(41.23, Some([40.84, 41.87])), "41.2 (40.8–41.9)");
        assert_eq!(interval(99.96, Some([98.0, 102.4])), "100 (98–102)");
        assert_eq!(interval(12_345.0, Some([12_301.0, 12_390.0])), "12,300 (12,300–12,400)");
        assert_eq!(interval(0.5, Some([0.0, 1e300])), "0.500 (0–1.00e300)");
        assert_eq!(interval(41.23, None), "41.2");
    }

    #[test]
    fn counts_and_shares_have_their_words_and_signs() {
        assert_eq!((counted(1, "case"), counted(1_234, "image")), ("1 case".into(), "1,234 images".into()));
        assert_eq!((counted(3, "process"), counted(0, "step")), ("3 processes".into(), "0 steps".into()));
        assert_eq!((signed_percent(0.0123), signed_percent(-0.5)), ("+1.23 %".into(), "−50.0 %".into()));
    }
}
