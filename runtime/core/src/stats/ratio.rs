//! Two sets of samples → by how much the second is slower, and whether that can be said.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Statistic, interval, standard_error, student_t};
use super::{LEAST_FOR_INTERVAL, mean, median, standard_deviation};

/// Least samples of which quarters have a median.
const LEAST_FOR_QUARTERS: usize = 8;

/// What B takes over what A takes, of the median image: 1.05 is 5 % slower.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Ratio {
    /// The ratio.
    pub median: f64,
    /// Where its 95 % interval begins.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
}

/// What can be said of a ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval lies within the least difference that matters.
    NoDifference,
    /// B is faster, by more than that.
    Faster,
    /// B is slower, by more than that.
    Slower,
    /// Neither: the interval is too wide to say.
    Undecided,
}

impl Verdict {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoDifference => "no difference",
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Undecided => "undecided",
        }
    }
}

impl Ratio {
    /// What can be said, where a difference of less than `threshold` does not matter: 0.02 is 2 %.
    ///
    /// A difference is told only where the interval excludes 1 and the median is beyond the threshold; no difference
    /// only where the whole interval lies within it. That the interval holds 1 is not enough: it does so, too, where
    /// next to nothing was measured.
    pub fn verdict(self, threshold: f64) -> Verdict {
        let Self { median, low, high } = self;
        let (least, most) = (1.0 / (1.0 + threshold), 1.0 + threshold);
        if low > 1.0 && median > most {
            Verdict::Slower
        } else if high < 1.0 && median < least {
            Verdict::Faster
        } else if low > least && high < most {
            Verdict::NoDifference
        } else {
            Verdict::Undecided
        }
    }

    /// Whether measuring more would not be worth it: the verdict stands, and the interval reaches no further to either
    /// side than half of the least difference that matters.
    pub fn is_settled(self, threshold: f64) -> bool {
        let half_width = (self.high / self.low).ln() / 2.0;
        half_width < (1.0 + threshold).ln() / 2.0 && self.verdict(threshold) != Verdict::Undecided
    }
}

/// The ratio of two runs that were made one after the other; samples are more than 0, in the order in which they were
/// taken. Nothing where either has fewer than [`LEAST_FOR_INTERVAL`].
///
/// Noise within each run is bootstrapped in stretches, on logarithms. A machine also wanders from minute to minute, and
/// two runs fall on different minutes: by as much as the medians of a run's quarters differ by more than noise explains,
/// its median is taken to be off, too. What changes more slowly than a run takes is in neither: only measuring in turn
/// ([`ratio_in_turn`]) is safe from it.
///
/// Of 100 comparisons of two simulated runs on a shared server (600 images each; they vary by 6 %, the server wanders by
/// 1 % in 10 to 100 s), one at most was told a difference where there was none, and 93 to 99 found 5 %; where it wanders
/// by 2 % in a minute it was 12, and 73 found 5 %. In turn, all 100 were told right in each of these cases.
pub fn ratio_apart(a: &[f64], b: &[f64]) -> Option<Ratio> {
    let least = a.len().min(b.len());
    if least < LEAST_FOR_INTERVAL {
        return None;
    }
    let (a, b) = (logarithms(a)?, logarithms(b)?);
    let variance = median_variance(&a) + median_variance(&b);
    Some(around(median(&b) - median(&a), student_t(least as f64 - 1.0) * variance.sqrt()))
}

/// The ratio of samples that were taken in turn, A B B A: `a[i]` and `b[i]` are of the same request, of pairs with an
/// even index A came first, of the others B. Nothing of fewer than twice [`LEAST_FOR_INTERVAL`] pairs.
///
/// Two pairs make one number, log B − log A of both over 2, from which whatever changes slowly or steadily has vanished;
/// their median is told, and its bootstrapped interval.
pub fn ratio_in_turn(a: &[f64], b: &[f64]) -> Option<Ratio> {
    let (a, b) = (logarithms(a)?, logarithms(b)?);
    let of_pairs: Vec<_> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
    let of_turns: Vec<_> = of_pairs.chunks_exact(2).map(mean).collect();
    if of_turns.len() < LEAST_FOR_INTERVAL {
        return None;
    }
    let [low, high] = interval(&of_turns, Statistic::Median).map(f64::exp);
    Some(Ratio { median: median(&of_turns).exp(), low, high })
}

fn around(difference: f64, half_width: f64) -> Ratio {
    let [low, high] = [difference - half_width, difference + half_width].map(f64::exp);
    Ratio { median: difference.exp(), low, high }
}

/// The variance of a run's median: noise, and what the machine wanders beyond it.
fn median_variance(samples: &[f64]) -> f64 {
    let noise = standard_error(samples, Statistic::Median).powi(2);
    if samples.len() < LEAST_FOR_QUARTERS {
        return noise;
    }
    let quarters: Vec<_> = (0..4).map(|quarter| median(nth_quarter(samples, quarter))).collect();
    let between = standard_deviation(&quarters, mean(&quarters)).powi(2);
    noise + (between - 4.0 * noise).max(0.0)
}

fn nth_quarter(samples: &[f64], quarter: usize) -> &[f64] {
    &samples[quarter * samples.len() / 4..(quarter + 1) * samples.len() / 4]
}

/// Nothing where one is not a finite number above 0.
fn logarithms(samples: &[f64]) -> Option<Vec<f64>> {
    samples.iter().map(|sample| (*sample > 0.0 && sample.is_finite()).then(|| sample.ln())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::simulated::{Noise, Shared};
    use super::*;

    #[test]
    fn a_verdict_needs_an_interval_that_can_carry_it() {
        use Verdict::*;
        for (median, low, high, expected) in [
            (1.05, 1.03, 1.07, Slower),
            (0.95, 0.93, 0.97, Faster),
            (1.0, 0.99, 1.01, NoDifference),
            // Surely slower, surely by less than what matters.
            (1.01, 1.005, 1.015, NoDifference),
            // Surely slower, perhaps by more than what matters.
            (1.015, 1.001, 1.03, Undecided),
            // Too wide to say anything.
            (1.0, 0.9, 1.1, Undecided),
            (1.05, 0.99, 1.11, Undecided),
        ] {
            assert_eq!(Ratio { median, low, high }.verdict(0.02), expected, "{median} [{low}, {high}]");
        }
    }

    #[test]
    fn a_ratio_needs_samples() {
        let few = [200.0; 4];
        assert_eq!(ratio_apart(&few, &[200.0; 100]), None);
        assert_eq!(ratio_apart(&[200.0; 9], &[200.0, 200.0, 0.0, 200.0, 200.0]), None);
        assert_eq!(ratio_in_turn(&[200.0; 9], &[200.0; 9]), None);
        for ratio in [ratio_apart(&[200.0; 5], &[210.0; 5]), ratio_in_turn(&[200.0; 10], &[210.0; 10])] {
            let Ratio { median, low, high } = ratio.unwrap();
            assert!([median, low, high].iter().all(|told| (told - 1.05).abs() < 1e-9), "{ratio:?}");
        }
    }

    /// How many of 100 comparisons end in each verdict.
    fn verdicts(compare: impl Fn(u32) -> Ratio) -> [usize; 4] {
        let mut counts = [0; 4];
        for seed in 0..100 {
            counts[compare(seed).verdict(0.02) as usize] += 1;
        }
        counts
    }

    /// Two runs of so many images, five minutes apart.
    fn apart(images: usize, noise: Noise, slower: f64) -> [usize; 4] {
        verdicts(|seed| {
            let mut machine = Shared::new(seed, noise);
            let a = machine.images(images, 1.0);
            machine.pass(300.0);
            ratio_apart(&a, &machine.images(images, slower)).unwrap()
        })
    }

    /// The machine wanders by 1 %, and has forgotten where it was after half a minute.
    #[test]
    fn runs_apart_are_told_apart_where_they_differ_and_only_there() {
        let noise = Noise { wander: 0.01, memory_s: 30.0 };
        let [_, faster, slower, _] = apart(600, noise, 1.0);
        assert!(faster + slower <= 5, "identical: {faster} faster, {slower} slower");
        let [none, faster, slower, undecided] = apart(600, noise, 1.05);
        assert!(slower >= 90, "5 % slower: {none} {faster} {slower} {undecided}");
    }

    /// As `bench::compare::interleave` does it.
    fn in_turn(noise: Noise, slower: f64) -> [usize; 4] {
        verdicts(|seed| {
            let mut machine = Shared::new(seed, noise);
            let (mut a, mut b) = (Vec::new(), Vec::new());
            loop {
                a.push(machine.image(1.0));
                b.extend(machine.images(2, slower));
                a.push(machine.image(1.0));
                if a.len() >= 32 && a.len() % 16 == 0 {
                    let ratio = ratio_in_turn(&a, &b).unwrap();
                    if a.len() >= 400 || ratio.is_settled(0.02) {
                        return ratio;
                    }
                }
            }
        })
    }

    /// The machine wanders by more than the difference, and it does not matter.
    #[test]
    fn runs_in_turn_are_told_apart_where_they_differ_and_only_there() {
        for noise in [Noise { wander: 0.01, memory_s: 30.0 }, Noise { wander: 0.1, memory_s: 60.0 }] {
            let [none, faster, slower, undecided] = in_turn(noise, 1.0);
            assert!(none >= 95, "identical: {none} {faster} {slower} {undecided}");
            let [none, faster, slower, undecided] = in_turn(noise, 1.05);
            assert!(slower >= 90, "5 % slower: {none} {faster} {slower} {undecided}");
        }
    }
}
