//! Samples of one case → what they add up to.

use std::collections::BTreeMap;

use super::report::{ColdStart, Detailed, Images, Scenario, Summary};
use crate::stats::{Distribution, drift, outliers, sustained};

/// What a case's samples add up to; nothing where no image was made.
///
/// `batch` images go through the graphs together: latency is that of the whole batch, for so long waits who asked for
/// any of them; images a second count each. A cold case is timed from the start of its processes.
pub fn summarise(
    scenario: Scenario,
    images: &Images,
    detailed: &[Detailed],
    cold: &[ColdStart],
    batch: usize,
) -> Option<Summary> {
    let totals_ms: Vec<f64> = built_nothing(cold).map(|start| start.total_ms).collect();
    let ms = if scenario == Scenario::Cold { &totals_ms } else { &images.ms };
    let image = Distribution::of(ms)?;
    Some(Summary {
        // What lies between two images is what measures, not what is measured.
        images_per_second: 1e3 * batch as f64 / image.mean,
        image,
        stages: stages(detailed),
        steps: steps(detailed),
        drift: drift(ms),
        outliers: outliers(ms).len(),
        sustained: if scenario == Scenario::Sustained { sustained(&images.start_s, ms) } else { None },
    })
}

/// Processes that found what a cache keeps, or keep nothing: building it belongs to the first one alone.
pub(super) fn built_nothing(cold: &[ColdStart]) -> impl Iterator<Item = &ColdStart> {
    cold.iter().filter(|start| start.cache.values().all(|outcome| outcome != "built"))
}

pub(super) type Part = (&'static str, fn(&Detailed) -> f64);

/// What of an image's time is told by name.
pub(super) const PARTS: &[Part] = &[
    ("reopen", |image| image.reopen_ms),
    ("text_encoder", |image| image.text_encoder_ms),
    ("denoiser", |image| image.denoiser_ms),
    ("decoder", |image| image.decoder_ms),
    ("own", |image| image.own_ms),
];

/// By name; what took no time in any image, such as the text encoder of a model without words, is left out.
fn stages(detailed: &[Detailed]) -> BTreeMap<String, Distribution> {
    let of = |(name, ms): &Part| {
        let samples: Vec<_> = detailed.iter().map(ms).collect();
        let took = samples.iter().any(|ms| *ms > 0.0);
        took.then(|| Some((String::from(*name), Distribution::of(&samples)?))).flatten()
    };
    PARTS.iter().filter_map(of).collect()
}

/// Each step over the images that had it: samplers with a tolerance do not always take the same number.
fn steps(detailed: &[Detailed]) -> Vec<Distribution> {
    let most = detailed.iter().map(|image| image.steps_ms.len()).max().unwrap_or(0);
    let step =
        |index: usize| detailed.iter().filter_map(|image| image.steps_ms.get(index).copied()).collect::<Vec<_>>();
    (0..most).filter_map(|index| Distribution::of(&step(index))).collect()
}
