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

#[cfg(test)]
mod tests {
    use super::super::report::OutputHash;
    use super::*;
    use crate::stage::Stage;

    fn images(ms: &[f64]) -> Images {
        let start_s = (0..ms.len()).map(|index| index as f64).collect();
        let outputs = vec![OutputHash { request: 0, sha256: String::new(), count: ms.len() }];
        Images { start_s, ms: ms.to_vec(), outputs, non_finite: 0 }
    }

    fn detailed(steps_ms: &[f64], text_encoder_ms: f64) -> Detailed {
        let denoiser_ms = steps_ms.iter().sum();
        let (reopen_ms, decoder_ms, own_ms) = (0.0, 30.0, 1.0);
        let total_ms = text_encoder_ms + denoiser_ms + decoder_ms + own_ms;
        Detailed { total_ms, reopen_ms, text_encoder_ms, denoiser_ms, steps_ms: steps_ms.to_vec(), decoder_ms, own_ms }
    }

    fn cold(total_ms: f64, cache: &str) -> ColdStart {
        let cache = BTreeMap::from([(Stage::Denoiser, cache.to_owned())]);
        ColdStart { process_ms: 1.0, open_ms: 2.0, first_image_ms: 3.0, total_ms, peak_bytes: None, cache }
    }

    #[test]
    fn a_batch_is_as_late_as_its_last_image_and_counts_each() {
        let told = summarise(Scenario::Offline, &images(&[390.0, 400.0, 410.0]), &[], &[], 4).unwrap();
        assert_eq!((told.image.p50, told.images_per_second, told.sustained), (400.0, 10.0, None));
    }

    #[test]
    fn a_cold_case_is_timed_from_its_processes_begin_once_caches_are_built() {
        let cold = [cold(9000.0, "built"), cold(500.0, "hit"), cold(600.0, "hit")];
        let told = summarise(Scenario::Cold, &Images::default(), &[], &cold, 1).unwrap();
        assert_eq!((told.image.n, told.image.mean), (2, 550.0));
        assert_eq!(summarise(Scenario::SingleStream, &Images::default(), &[], &cold, 1), None);
    }

    #[test]
    fn parts_are_those_that_took_time_and_steps_those_that_were_taken() {
        let second_pass = [detailed(&[10.0, 12.0], 0.0), detailed(&[11.0, 13.0, 14.0], 0.0)];
        let told = summarise(Scenario::SingleStream, &images(&[60.0]), &second_pass, &[], 1).unwrap();
        assert_eq!(told.stages.keys().collect::<Vec<_>>(), ["decoder", "denoiser", "own"]);
        let steps: Vec<_> = told.steps.iter().map(|step| (step.n, step.mean)).collect();
        assert_eq!(steps, [(2, 10.5), (2, 12.5), (1, 14.0)]);
    }
}
