//! Samples → numbers that may be told about them, and no others.
//!
//! A percentile is told only where so many samples stand behind it that it means something; intervals are bootstrapped;
//! two sets of samples differ only where the interval of their ratio says so.

use serde::{Deserialize, Serialize};

use crate::bench::report::Sustained;

mod bootstrap;
mod ratio;
#[cfg(test)]
mod simulated;

use bootstrap::Statistic;
pub use ratio::{Ratio, Verdict, ratio_apart, ratio_in_turn};

/// What is known of a set of samples. Units are those of the samples; all that too few samples cannot tell is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// How many samples.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Standard deviation, with n − 1; of two samples or more.
    pub sd: Option<f64>,
    /// The least.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// 90th percentile; of 64 samples or more ([`LEAST_FOR_P90`]).
    pub p90: Option<f64>,
    /// 95th percentile; of 130 samples or more ([`LEAST_FOR_P95`]).
    pub p95: Option<f64>,
    /// 99th percentile; of 662 samples or more ([`LEAST_FOR_P99`]).
    pub p99: Option<f64>,
    /// The most.
    pub max: f64,
    /// Median absolute deviation from the median, unscaled.
    pub mad: f64,
    /// 95 % interval of the mean, bootstrapped; of 5 samples or more ([`LEAST_FOR_INTERVAL`]).
    pub mean_interval: Option<[f64; 2]>,
    /// 95 % interval of the median, bootstrapped; of 5 samples or more ([`LEAST_FOR_INTERVAL`]).
    pub p50_interval: Option<[f64; 2]>,
    /// MLPerf's early-stopping estimate of the 90th percentile: not less than it, with 99 % confidence.
    pub p90_early_stop: Option<f64>,
}

/// Least samples for a 90th percentile at 99 % confidence (MLPerf Inference rules, appendix on early stopping).
pub const LEAST_FOR_P90: usize = 64;

/// Least samples for a 95th percentile at 99 % confidence.
pub const LEAST_FOR_P95: usize = 130;

/// Least samples for a 99th percentile at 99 % confidence.
pub const LEAST_FOR_P99: usize = 662;

/// Least samples for an interval.
pub const LEAST_FOR_INTERVAL: usize = 5;

/// Least samples for a drift.
pub const LEAST_FOR_DRIFT: usize = 16;

/// What one sample may be above the median before it counts as an outlier, in usual deviations (1.4826·MAD).
pub const OUTLIER_DEVIATIONS: f64 = 5.0;

/// What makes a median absolute deviation comparable to a standard deviation: 1 ÷ Φ⁻¹(¾).
const NORMAL_MAD: f64 = 1.4826;

/// Confidence of MLPerf's early stopping.
const EARLY_STOP_CONFIDENCE: f64 = 0.99;

impl Distribution {
    /// What samples tell, in the order in which they were taken; nothing of none, or where one is not finite.
    ///
    /// The median of an even number is the middle of the two in the middle, as hyperfine has it. Other percentiles are
    /// nearest ranks, as MLPerf's LoadGen has them: the least sample that so many per cent do not exceed, so a time that
    /// was really taken.
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() || samples.iter().any(|sample| !sample.is_finite()) {
            return None;
        }
        let n = samples.len();
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let mean = mean(samples);
        let p50 = median_of_sorted(&sorted);
        let percentile = |share: f64, least: usize| (n >= least).then(|| nearest_rank(&sorted, share));
        Some(Self {
            n,
            mean,
            sd: (n > 1).then(|| standard_deviation(samples, mean)),
            min: sorted[0],
            p50,
            p90: percentile(0.90, LEAST_FOR_P90),
            p95: percentile(0.95, LEAST_FOR_P95),
            p99: percentile(0.99, LEAST_FOR_P99),
            max: sorted[n - 1],
            mad: mad(samples, p50),
            mean_interval: (n >= LEAST_FOR_INTERVAL).then(|| bootstrap::interval(samples, Statistic::Mean)),
            p50_interval: (n >= LEAST_FOR_INTERVAL).then(|| bootstrap::interval(samples, Statistic::Median)),
            p90_early_stop: early_stop(&sorted, 0.90),
        })
    }
}

/// By how much of the first quarter's median the last quarter's is more: 0.05 is 5 % slower at the end. Nothing of fewer
/// than [`LEAST_FOR_DRIFT`] samples.
pub fn drift(samples: &[f64]) -> Option<f64> {
    let quarter = samples.len() / 4;
    let (first, last) = (samples.get(..quarter)?, samples.get(samples.len() - quarter..)?);
    (samples.len() >= LEAST_FOR_DRIFT).then(|| median(last) / median(first) - 1.0)
}

/// Indices of samples that lie above the median by more than [`OUTLIER_DEVIATIONS`] usual deviations. Fast ones are
/// none: what disturbs a measurement slows it down. Where most samples are the same the deviation is nothing, and one
/// per cent of the median stands for it.
pub fn outliers(samples: &[f64]) -> Vec<usize> {
    if samples.is_empty() {
        return Vec::new();
    }
    let middle = median(samples);
    let usual = (NORMAL_MAD * mad(samples, middle)).max(0.01 * middle.abs() / OUTLIER_DEVIATIONS);
    let far = |sample: f64| sample - middle > OUTLIER_DEVIATIONS * usual;
    (0..samples.len()).filter(|index| far(samples[*index])).collect()
}

/// How speed holds over time: images begun in the first minute beside those begun in the last. Nothing of less than two
/// minutes. `start_s` are seconds, in order; `ms` what each image took.
pub fn sustained(start_s: &[f64], ms: &[f64]) -> Option<Sustained> {
    let (begin, last, took) = (*start_s.first()?, *start_s.last()?, *ms.last()?);
    let end = last + took / 1e3;
    if end - begin < 120.0 {
        return None;
    }
    let of = |within: &dyn Fn(f64) -> bool| {
        let within: Vec<_> = start_s.iter().zip(ms).filter(|(start, _)| within(**start)).map(|(_, ms)| *ms).collect();
        (!within.is_empty()).then(|| median(&within))
    };
    let first_minute_ms = of(&|start| start < begin + 60.0)?;
    let last_minute_ms = of(&|start| start >= end - 60.0)?;
    Some(Sustained { first_minute_ms, last_minute_ms, retention: first_minute_ms / last_minute_ms })
}

/// MLPerf's early-stopping estimate of a percentile: with t samples allowed above it, the t − 1 largest are dropped and
/// the largest that is left is told. `sorted` ascends. Nothing where not even one is allowed.
///
/// MLPerf Inference rules, appendix "Early Stopping Criterion"; `overlatency_allowed` is its condition.
pub fn early_stop(sorted: &[f64], percentile: f64) -> Option<f64> {
    let allowed = overlatency_allowed(sorted.len(), percentile);
    (allowed > 0).then(|| sorted[sorted.len() - allowed])
}

/// The most samples t of `n` that may lie above a percentile's estimate: so that, were more than 1 − `percentile` of all
/// images slower than it, t or fewer of n were so with a probability of 1 % at most, P(X ≤ t) of the binomial
/// distribution. Its terms are added up as logarithms: the first ones of many samples are too small for a number.
fn overlatency_allowed(n: usize, percentile: f64) -> usize {
    let odds = ((1.0 - percentile) / percentile).ln();
    let mut term = n as f64 * percentile.ln();
    let mut unlikely = term.exp();
    for t in 1..=n {
        term += ((n - t + 1) as f64 / t as f64).ln() + odds;
        unlikely += term.exp();
        if unlikely > 1.0 - EARLY_STOP_CONFIDENCE {
            return t - 1;
        }
    }
    n
}

fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}

fn standard_deviation(samples: &[f64], mean: f64) -> f64 {
    let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
    (squares / (samples.len() - 1) as f64).sqrt()
}

/// The median, of one sample or more.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    median_of_sorted(&sorted)
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2])
}

/// The least sample that `share` of all do not exceed.
fn nearest_rank(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Median absolute deviation from the median, unscaled.
fn mad(samples: &[f64], median: f64) -> f64 {
    let distances: Vec<_> = samples.iter().map(|sample| (sample - median).abs()).collect();
    self::median(&distances)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least n of which t = 1 may lie above a percentile.
    #[test]
    fn percentiles_are_told_from_as_many_samples_as_mlperf_asks_for() {
        let least = |percentile| (1..).find(|n| overlatency_allowed(*n, percentile) >= 1).unwrap();
        assert_eq!(least(0.90), LEAST_FOR_P90);
        assert_eq!(least(0.95), LEAST_FOR_P95);
        assert_eq!(least(0.99), LEAST_FOR_P99);
        for (n, told) in
            [(63, [false, false, false]), (64, [true, false, false]), (661, [true, true, false]), (662, [true; 3])]
        {
            let samples: Vec<_> = (1..=n).map(f64::from).collect();
            let Distribution { p90, p95, p99, p90_early_stop, .. } = Distribution::of(&samples).unwrap();
            assert_eq!([p90.is_some(), p95.is_some(), p99.is_some()], told, "{n}");
            assert_eq!(p90_early_stop.is_some(), told[0], "{n}");
        }
    }

    /// What MLPerf's LoadGen wrote into the logs of public submissions: "Would discard 172 highest latency queries".
    #[test]
    fn early_stopping_drops_as_many_as_loadgen() {
        let logs =
            [(0.90, 2048, 172), (0.90, 2116, 178), (0.90, 2145, 181), (0.90, 7469, 685), (0.99, 1_179_125, 11_539)];
        for (percentile, n, discarded) in logs {
            assert_eq!(overlatency_allowed(n, percentile), discarded + 1, "{n}");
        }
        let sorted: Vec<_> = (1..=2048).map(f64::from).collect();
        assert_eq!(early_stop(&sorted, 0.90), Some(2048.0 - 172.0));
        assert_eq!(early_stop(&sorted[..64], 0.90), Some(64.0));
        assert_eq!(early_stop(&sorted[..63], 0.90), None);
    }

    /// By the recursion of Pascal's triangle, which has neither logarithms nor factorials.
    #[test]
    fn early_stopping_is_what_the_binomial_distribution_says() {
        let mut chances = vec![1.0];
        for n in 1..400 {
            chances.push(0.0);
            for slow in (0..=n).rev() {
                chances[slow] = 0.9 * chances[slow] + if slow > 0 { 0.1 * chances[slow - 1] } else { 0.0 };
            }
            let below = |t: usize| chances[..=t].iter().sum::<f64>();
            let allowed = overlatency_allowed(n, 0.90);
            assert!(allowed == 0 || below(allowed) <= 0.01, "{n}: {allowed}");
            assert!(below(allowed + 1) > 0.01, "{n}: {allowed}");
        }
    }

    #[test]
    fn a_distribution_is_what_its_samples_are() {
        let told = Distribution::of(&[4.0, 1.0, 2.0, 10.0]).unwrap();
        let Distribution { n, mean, sd, min, p50, max, mad, .. } = told;
        assert_eq!((n, mean, min, p50, max, mad), (4, 4.25, 1.0, 3.0, 10.0, 1.5));
        assert!((sd.unwrap() - 4.031_128_874_149_275).abs() < 1e-12);
        assert_eq!((told.p90, told.mean_interval, told.p50_interval), (None, None, None));
        let hundred: Vec<_> = (1..=100).map(f64::from).rev().collect();
        let told = Distribution::of(&hundred).unwrap();
        assert_eq!((told.p50, told.p90, told.p95, told.max), (50.5, Some(90.0), None, 100.0));
        assert_eq!(Distribution::of(&[3.0]).unwrap().sd, None);
        for broken in [&[] as &[f64], &[1.0, f64::NAN], &[1.0, f64::INFINITY]] {
            assert_eq!(Distribution::of(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn intervals_hold_what_they_are_of_and_are_the_same_every_time() {
        let samples: Vec<_> = (0..40).map(|index| 100.0 + f64::from(index * 17 % 40)).collect();
        let told = Distribution::of(&samples).unwrap();
        let [low, high] = told.p50_interval.unwrap();
        assert!(low < told.p50 && told.p50 < high, "{told:?}");
        let [low, high] = told.mean_interval.unwrap();
        assert!(low < told.mean && told.mean < high, "{told:?}");
        assert_eq!(Distribution::of(&samples).unwrap(), told);
        let still = Distribution::of(&[5.0; 20]).unwrap();
        assert_eq!((still.mean_interval, still.p50_interval), (Some([5.0; 2]), Some([5.0; 2])));
    }

    #[test]
    fn drift_is_the_last_quarter_over_the_first() {
        let mut samples = vec![100.0; 16];
        assert_eq!(drift(&samples), Some(0.0));
        samples[12..].fill(107.0);
        assert!((drift(&samples).unwrap() - 0.07).abs() < 1e-12);
        assert_eq!(drift(&samples[1..]), None);
    }

    #[test]
    fn outliers_are_slow_ones_only() {
        let cases: [(&[f64], &[usize]); 5] = [
            (&[10.0, 11.0, 12.0, 11.0, 10.0, 60.0, 0.1], &[5]),
            (&[10.0; 8], &[]),
            // Most are the same: what is a per cent more is none yet.
            (&[10.0, 10.0, 10.0, 10.0, 10.0, 10.09], &[]),
            (&[10.0, 10.0, 10.0, 10.0, 10.0, 10.2], &[5]),
            (&[], &[]),
        ];
        for (samples, expected) in cases {
            assert_eq!(outliers(samples), expected, "{samples:?}");
        }
    }

    #[test]
    fn speed_over_time_needs_two_minutes() {
        let start_s: Vec<_> = (0..120).map(f64::from).collect();
        let ms: Vec<_> = (0..120).map(|second| if second < 60 { 800.0 } else { 1000.0 }).collect();
        let told = sustained(&start_s, &ms).unwrap();
        assert_eq!((told.first_minute_ms, told.last_minute_ms, told.retention), (800.0, 1000.0, 0.8));
        assert_eq!(sustained(&start_s[..119], &ms[..119]), None);
        assert_eq!(sustained(&[], &[]), None);
    }
}
