//! A setting that changes over the steps, such as guidance that starts strong and ends weak.

use std::fmt;
use std::str::FromStr;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Error, Result};

/// More values than steps that anyone takes are a mistake, not a wish.
const MAX_VALUES: usize = 1000;

/// Positions as close as this to a value are at it. Steps come as quotients, whose rounding is a thousand times
/// smaller even among [`MAX_VALUES`], and must not blend in a trace of the neighbour.
const ROUNDING: f64 = 1e-9;

/// One number for the whole trajectory, or several spread evenly over it with straight lines between.
///
/// Written as `7.5` or `7.5,5,3` in text, as a number or a list of numbers in YAML and JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// At least one and at most [`MAX_VALUES`].
    values: Vec<f64>,
}

impl Curve {
    /// The same `value` at every step. It is taken as it is: what may be asked for is checked where it is used.
    pub fn constant(value: f64) -> Self {
        Self { values: vec![value] }
    }

    /// A curve through `values`, the first at the start of the trajectory and the last at its end.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for no values, for more than 1000, and for NaN or infinities.
    pub fn new(values: Vec<f64>) -> Result<Self> {
        if values.is_empty() || values.len() > MAX_VALUES {
            return Err(Error::usage(format!("found {} numbers, expected 1 to {MAX_VALUES}", values.len())));
        }
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(Error::usage(format!("found {value}, expected finite numbers"))),
            None => Ok(Self { values }),
        }
    }

    /// The value at `share` of the trajectory, from 0 (pure noise) to 1 (the last step).
    ///
    /// Step `i` of `n` is at `i / (n − 1)`, and at 0 where `n` is 1; with as many values as steps it gets exactly
    /// its own. A share beyond the ends counts as the nearer end, NaN as 0.
    pub fn at(&self, share: f64) -> f64 {
        let last = self.values.len() - 1;
        let share = if share > 0.0 { share.min(1.0) } else { 0.0 };
        let position = share * last as f64;
        let nearest = position.round();
        if (position - nearest).abs() < ROUNDING {
            return self.values[nearest as usize];
        }
        let (low, high) = (self.values[position as usize], self.values[position as usize + 1]);
        low + (high - low) * position.fract()
    }

    /// The numbers that the curve goes through, from 1 to 1000 of them.
    pub fn values(&self) -> &[f64] {
        &self.values
    }
}

impl From<f64> for Curve {
    fn from(value: f64) -> Self {
        Self::constant(value)
    }
}

impl FromStr for Curve {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |entry: &str| {
            entry.trim().parse().map_err(|_| {
                Error::usage(format!("found \"{entry}\", expected a number such as 7.5, or several such as 7.5,5,3"))
            })
        };
        Self::new(text.split(',').map(number).collect::<Result<_>>()?)
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, value) in self.values.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{value}")?;
        }
        Ok(())
    }
}

impl Serialize for Curve {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.values[..] {
            [value] => serializer.serialize_f64(value),
            _ => self.values.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Curve {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Numbers)
    }
}

/// Reads one number or a list of them. An untagged enumeration would read the same, but could not say what is wrong.
struct Numbers;

impl<'de> Visitor<'de> for Numbers {
    type Value = Curve;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a list of numbers")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Curve, E> {
        Curve::new(vec![value]).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Curve, E> {
        self.visit_f64(value as f64)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Curve, E> {
        self.visit_f64(value as f64)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Curve, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            // The rest of a list that is too long need not be held in memory to refuse it.
            if values.len() == MAX_VALUES {
                let more = format!("found more than {MAX_VALUES} numbers, expected 1 to {MAX_VALUES}");
                return Err(de::Error::custom(more));
            }
            values.push(value);
        }
        Curve::new(values).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_step_gets_its_own_value_whatever_the_number_of_steps() {
        for steps in 1..=MAX_VALUES {
            // Neighbours far apart, so that a trace of one shows in the other.
            let value = |i: usize| if i.is_multiple_of(2) { 0.1 + i as f64 } else { -1e6 - i as f64 };
            let curve = Curve::new((0..steps).map(value).collect()).unwrap();
            for i in 0..steps {
                let share = if steps == 1 { 0.0 } else { i as f64 / (steps - 1) as f64 };
                assert_eq!(curve.at(share), value(i), "step {i} of {steps}");
            }
        }
    }

    #[test]
    fn lines_between_values_are_straight() {
        let curve = Curve::new(vec![8.0, 4.0, 5.0]).unwrap();
        for (share, expected) in [(0.0, 8.0), (0.125, 7.0), (0.25, 6.0), (0.5, 4.0), (0.75, 4.5), (1.0, 5.0)] {
            assert_eq!(curve.at(share), expected, "at {share}");
        }
    }

    #[test]
    fn a_constant_is_the_same_everywhere_and_beyond() {
        let shares = [0.0, 0.3, 1.0, -1.0, 7.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        for share in shares {
            assert_eq!(Curve::constant(7.5).at(share), 7.5);
        }
        let curve = Curve::new(vec![1.0, 2.0]).unwrap();
        assert_eq!(shares.map(|share| curve.at(share)), [1.0, 1.3, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]);
    }

    #[test]
    fn text_goes_both_ways() {
        for (text, expected, written) in [
            ("7.5", vec![7.5], "7.5"),
            ("7.5,5,3", vec![7.5, 5.0, 3.0], "7.5,5,3"),
            (" 1e1 , -0.25", vec![10.0, -0.25], "10,-0.25"),
        ] {
            let curve: Curve = text.parse().unwrap();
            assert_eq!(curve.values(), expected);
            assert_eq!(curve.to_string(), written);
            assert_eq!(written.parse::<Curve>().unwrap(), curve);
        }
    }

    #[test]
    fn text_that_is_no_curve_is_refused() {
        let many = |count| vec!["1"; count].join(",");
        assert_eq!(many(1000).parse::<Curve>().unwrap().values().len(), 1000);
        for text in ["", ",", "7.5,", "a", "7.5;5", "1,,2", "nan", "1,inf", "-inf", "1e999", &many(1001)] {
            let error = text.parse::<Curve>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
        }
        let error = "7.5,x".parse::<Curve>().unwrap_err().to_string();
        assert_eq!(error, "found \"x\", expected a number such as 7.5, or several such as 7.5,5,3");
    }

    #[test]
    fn numbers_and_lists_go_both_ways() {
        let constant = Curve::constant(4.0);
        for text in ["4", "4.0", "[4]"] {
            assert_eq!(serde_json::from_str::<Curve>(text).unwrap(), constant);
            assert_eq!(serde_yaml::from_str::<Curve>(text).unwrap(), constant);
        }
        assert_eq!(serde_json::to_string(&constant).unwrap(), "4.0");
        let curve = Curve::new(vec![7.5, -5.0, 3.25]).unwrap();
        assert_eq!(serde_json::to_string(&curve).unwrap(), "[7.5,-5.0,3.25]");
        assert_eq!(serde_json::from_str::<Curve>("[7.5, -5, 3.25]").unwrap(), curve);
        assert_eq!(serde_yaml::from_str::<Curve>("- 7.5\n- -5\n- 3.25\n").unwrap(), curve);
    }

    #[test]
    fn data_that_is_no_curve_is_refused_with_what_was_found() {
        for (text, telling) in [
            ("[]", "found 0 numbers, expected 1 to 1000"),
            ("\"7.5\"", "a number or a list of numbers"),
            ("[1, .inf]", "found inf, expected finite numbers"),
            (".nan", "found NaN, expected finite numbers"),
            ("[1, [2]]", "sequence"),
            ("{}", "a number or a list of numbers"),
        ] {
            let error = serde_yaml::from_str::<Curve>(text).unwrap_err().to_string();
            assert!(error.contains(telling), "{text}: {error}");
        }
        let error = serde_json::from_str::<Curve>(&format!("[0{}]", ",1".repeat(1000))).unwrap_err().to_string();
        assert!(error.contains("found more than 1000 numbers"), "{error}");
    }
}
