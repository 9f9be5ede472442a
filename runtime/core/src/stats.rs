//! Samples → numbers that may be told about them, and no others.
//!
//! A percentile is told only where so many samples stand behind it that it means something; intervals are bootstrapped;
//! two sets of samples differ only where the interval of their ratio says so.

use serde::{Deserialize, Serialize};

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
    /// 90th percentile; of [`LEAST_FOR_P90`] samples or more.
    pub p90: Option<f64>,
    /// 95th percentile; of [`LEAST_FOR_P95`] samples or more.
    pub p95: Option<f64>,
    /// 99th percentile; of [`LEAST_FOR_P99`] samples or more.
    pub p99: Option<f64>,
    /// The most.
    pub max: f64,
    /// Median absolute deviation from the median, unscaled.
    pub mad: f64,
    /// 95 % interval of the mean, bootstrapped; of [`LEAST_FOR_INTERVAL`] samples or more.
    pub mean_interval: Option<[f64; 2]>,
    /// 95 % interval of the median, bootstrapped; of [`LEAST_FOR_INTERVAL`] samples or more.
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
