//! Samples → numbers that may be told about them, and no others.
//!
//! A percentile is told only where so many samples stand behind it that it means something; intervals are bootstrapped;
//! two sets of samples differ only where the interval of their ratio says so.

use rand_mt::Mt;
use serde::{Deserialize, Serialize};

use crate::bench::report::Sustained;

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
            mean_interval: (n >= LEAST_FOR_INTERVAL).then(|| bootstrap(samples, self::mean)),
            p50_interval: (n >= LEAST_FOR_INTERVAL).then(|| bootstrap(samples, median)),
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
/// MLPerf Inference rules, appendix "Early Stopping Criterion"; [`overlatency_allowed`] is its condition.
pub fn early_stop(sorted: &[f64], percentile: f64) -> Option<f64> {
    let allowed = overlatency_allowed(sorted.len(), percentile);
    (allowed > 0).then(|| sorted[sorted.len() - allowed])
}

/// The most samples t of `n` that may lie above a percentile's estimate: so that, were more than 1 − `percentile` of all
/// images slower than it, t or fewer of n were so with a probability of 1 % at most. P(X ≤ t) of the binomial
/// distribution is the regularised incomplete beta function I(percentile; n − t, t + 1).
fn overlatency_allowed(n: usize, percentile: f64) -> usize {
    let unlikely =
        |t: &usize| puruspe::betai((n - t) as f64, (t + 1) as f64, percentile) <= 1.0 - EARLY_STOP_CONFIDENCE;
    // P grows with t, so those that are unlikely come first.
    let (mut few, mut many) = (0, n);
    while many - few > 1 {
        let middle = few.midpoint(many);
        if unlikely(&middle) { few = middle } else { many = middle }
    }
    few
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

fn bootstrap(samples: &[f64], statistic: fn(&[f64]) -> f64) -> [f64; 2] {
    let mut random = Mt::new(SEED);
    let mut resample = vec![0.0; samples.len()];
    let mut told: Vec<_> = (0..1000)
        .map(|_| {
            for place in &mut resample {
                *place = samples[((u64::from(random.next_u32()) * samples.len() as u64) >> 32) as usize];
            }
            statistic(&resample)
        })
        .collect();
    told.sort_by(f64::total_cmp);
    [nearest_rank(&told, 0.025), nearest_rank(&told, 0.975)]
}

/// Intervals are the same every time.
const SEED: u32 = 0x5afe_1167;
