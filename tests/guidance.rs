//! Guidance, limits, noise and options in the whole pipeline: what they promise, seen in the latents of each step.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{Place, repository, tiny};
use safelight::sampler::Latent;
use safelight::training::{Level, Prediction};
use safelight::{
    Curve, ErrorKind, Event, GuidanceRuns, Model, Pipeline, Plan, Provenance, Request, Route, SamplerNoise, Sampling,
    Target,
};
use serde_json::Value;

/// Where the trajectories of most tests go, within the sigmas of the tiny models.
const SIGMAS: [f64; 4] = [10.0, 5.0, 2.0, 1.0];
/// A scale that is on, so that nothing rests, and gives the prediction of the prompt alone.
const HARDLY: f64 = 1.0 + 1e-9;
/// Relative distance of what differs by rounding only.
const ROUNDING: f64 = 1e-4;

fn target() -> Target {
    Target::parse(
        "schema: safelight-target/1\nname: test\ntitle: test\nproviders: [{ name: cpu, need: required }]\n\
         precision: [int8, fp32, fp16]\n",
    )
    .unwrap()
}

fn pipeline(model: &Path) -> Pipeline {
    Pipeline::open(&target(), &Model::open(model).unwrap()).unwrap()
}

/// A small picture along [`SIGMAS`], without guidance.
fn along(sampler: &str) -> Request {
    let sampling = Sampling { sampler: Some(sampler.into()), sigmas: SIGMAS.into(), ..Sampling::default() };
    in_small(sampling)
}

/// A small picture along the model's own schedule, without guidance.
fn in_steps(sampler: &str, steps: usize) -> Request {
    in_small(Sampling { sampler: Some(sampler.into()), ..Sampling::in_steps(steps) })
}

fn in_small(sampling: Sampling) -> Request {
    let prompt = "a red apple".into();
    Request { prompt, seed: 7, sampling, size: Some((64, 64)), guidance: Some(1.0.into()), ..Request::default() }
}

fn guided(request: &Request, scale: &[f64]) -> Request {
    Request { guidance: Some(Curve::new(scale.into()).unwrap()), ..request.clone() }
}

fn by(method: &str, request: Request) -> Request {
    Request { guidance_method: Some(method.into()), ..request }
}

fn with(mut request: Request, options: &[(&str, f64)]) -> Request {
    request.sampling.options.extend(options.iter().map(|&(name, value)| (name.to_owned(), value.into())));
    request
}

/// What an observer was told of a generation.
#[derive(Default)]
struct Seen {
    noise: Vec<f32>,
    steps: Vec<Step>,
}

struct Step {
    latent: Vec<f32>,
    denoised: Vec<f32>,
}

impl Seen {
    fn listen(&mut self, event: &Event) {
        let numbers = |latent: &Latent| latent.iter().copied().collect();
        match event {
            Event::Noise { latent, .. } => self.noise = numbers(latent),
            Event::Step { latent, denoised, .. } => {
                self.steps.push(Step { latent: numbers(latent), denoised: numbers(denoised) });
            }
            _ => (),
        }
    }
}

/// Generates, and returns what was seen of it beside the provenance of the first picture.
fn watch(pipeline: &mut Pipeline, request: &Request) -> (Seen, Provenance) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let listener = Arc::clone(&seen);
    pipeline.on_event(move |event| listener.lock().unwrap().listen(event));
    let mut pictures = pipeline.generate(request).unwrap().pictures;
    pipeline.on_event(|_| ());
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (seen, pictures.remove(0).provenance)
}

fn steps(pipeline: &mut Pipeline, request: &Request) -> Vec<Step> {
    watch(pipeline, request).0.steps
}

fn first(pipeline: &mut Pipeline, request: &Request) -> Step {
    steps(pipeline, request).remove(0)
}

/// The estimates of all steps, one after the other.
fn estimates(pipeline: &mut Pipeline, request: &Request) -> Vec<f32> {
    steps(pipeline, request).into_iter().flat_map(|step| step.denoised).collect()
}

/// The finished latents of all pictures.
fn latents(pipeline: &mut Pipeline, request: &Request) -> Vec<f32> {
    pipeline.generate(request).unwrap().pictures.iter().flat_map(|picture| picture.latent.clone()).collect()
}

/// `Σ weight·numbers`.
fn mix(terms: &[(f64, &[f32])]) -> Vec<f32> {
    let sum = |i| terms.iter().map(|(weight, numbers)| weight * f64::from(numbers[i])).sum::<f64>() as f32;
    (0..terms[0].1.len()).map(sum).collect()
}

/// The noise in `x`, given an estimate of what is clean in it.
fn noise_in(x: &[f32], estimate: &[f32], at: Level) -> Vec<f32> {
    mix(&[(1.0 / at.sigma, x), (-at.alpha / at.sigma, estimate)])
}

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let length = |numbers: &[f32]| numbers.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    length(&mix(&[(1.0, found), (-1.0, expected)])) / length(expected)
}

#[track_caller]
fn assert_close(case: &str, found: &[f32], expected: &[f32]) {
    let distance = relative(found, expected);
    assert!(distance < ROUNDING, "{case}: relative distance {distance}");
}

fn deviation(numbers: &[f32]) -> f64 {
    let count = numbers.len() as f64;
    let mean = numbers.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    (numbers.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt()
}

/// The latent that a request starts from, and the levels of its first step.
fn start(pipeline: &mut Pipeline, model: &Model, request: &Request) -> (Vec<f32>, Level, Level) {
    let trajectory = Route::new(&request.sampling, model, (8, 8), None).unwrap().trajectory;
    let levels: Vec<_> = trajectory.levels().collect();
    let noise = watch(pipeline, request).0.noise;
    (mix(&[(trajectory.initial_scale, &noise)]), levels[0], levels[1])
}

#[test]
fn guidance_in_turn_is_that_of_both_together() {
    // The tiny static graph takes one latent at once, so that both together are in turn there.
    for (model, batch, together) in [("tiny-sd", 1, 4), ("tiny-sd", 2, 4), ("tiny-static", 1, 8)] {
        let mut tiny = pipeline(&tiny(model));
        let request = Request { count: batch, batch, ..guided(&along("ddim"), &[7.5]) };
        let in_turn = Request { guidance_runs: GuidanceRuns::InTurn, ..request.clone() };
        for (request, evaluations) in [(&request, together), (&in_turn, 8)] {
            let provenance = watch(&mut tiny, request).1;
            assert_eq!((provenance.evaluations, provenance.evaluations_saved), (evaluations, 0), "{model}");
        }
        assert_close(model, &latents(&mut tiny, &in_turn), &latents(&mut tiny, &request));
    }
}

#[test]
fn guidance_rests_outside_of_its_interval() {
    let mut tiny = pipeline(&tiny("tiny-sd"));
    let request = along("euler");
    for (interval, scales) in [
        (&[("guidance_min", 3.0)][..], [7.5, 7.5, HARDLY, HARDLY]),
        (&[("guidance_max", 7.0)], [HARDLY, 7.5, 7.5, 7.5]),
        (&[("guidance_min", 1.5), ("guidance_max", 7.0)], [HARDLY, 7.5, 7.5, HARDLY]),
        (&[("guidance_min", 11.0)], [HARDLY; 4]),
    ] {
        let found = estimates(&mut tiny, &with(guided(&request, &[7.5]), interval));
        assert_close(&format!("{interval:?}"), &found, &estimates(&mut tiny, &guided(&request, &scales)));
    }
    let rests = estimates(&mut tiny, &guided(&request, &[7.5, 7.5, 1.0, 1.0]));
    assert_close("curve", &rests, &estimates(&mut tiny, &guided(&request, &[7.5, 7.5, HARDLY, HARDLY])));
}

#[test]
fn what_guidance_saves_is_told() {
    let mut tiny = pipeline(&tiny("tiny-sd"));
    let constant: &[f64] = &[7.5];
    for (sampler, scale, interval, evaluations, saved) in [
        ("euler", constant, &[("guidance_min", 3.0)][..], 6, 2),
        ("euler", constant, &[("guidance_max", 7.0)], 7, 1),
        ("euler", constant, &[("guidance_min", 1.5), ("guidance_max", 7.0)], 6, 2),
        ("euler", constant, &[("guidance_min", 0.0), ("guidance_max", 1e6)], 4, 0),
        ("euler", &[7.5, 7.5, 1.0, 1.0], &[], 6, 2),
        ("euler", &[7.5, 7.5, HARDLY, HARDLY], &[], 4, 0),
        ("euler", &[1.0], &[], 4, 0),
        // It looks at 10, 5; 5, 2; 2, 1; 1.
        ("heun", constant, &[("guidance_min", 3.0)], 10, 4),
    ] {
        let provenance = watch(&mut tiny, &with(guided(&along(sampler), scale), interval)).1;
        let found = (provenance.evaluations, provenance.evaluations_saved);
        assert_eq!(found, (evaluations, saved), "{sampler}, {scale:?}, {interval:?}");
    }
}

#[test]
fn each_step_has_its_own_scale() {
    let mut tiny = pipeline(&tiny("tiny-sd"));
    let request = in_steps("ddim", 3);
    let scales = [7.5, 5.0, 3.0];
    let found = steps(&mut tiny, &guided(&request, &scales));
    for (index, scale) in scales.into_iter().enumerate() {
        // Along the same way until here, the estimate is a straight line in the scale.
        let mut at = |scale| {
            let mut scales = scales;
            scales[index] = scale;
            steps(&mut tiny, &guided(&request, &scales)).remove(index).denoised
        };
        let expected = mix(&[(2.0 - scale, &at(HARDLY)), (scale - 1.0, &at(2.0))]);
        assert_close(&format!("step {index}"), &found[index].denoised, &expected);
    }
    assert_eq!(found[0].denoised, first(&mut tiny, &guided(&request, &[7.5])).denoised);
    let ends = estimates(&mut tiny, &guided(&request, &[8.0, 2.0]));
    assert_eq!(ends, estimates(&mut tiny, &guided(&request, &[8.0, 5.0, 2.0])), "5 is halfway");
}

#[test]
fn rescaling_takes_the_contrast_of_the_output_back() {
    for name in ["tiny-sd", "tiny-static"] {
        let (mut pipeline, model) = (pipeline(&tiny(name)), Model::open(&tiny(name)).unwrap());
        let request = along("ddim");
        let (x, from, _) = start(&mut pipeline, &model, &request);
        let mut output = |request: &Request| {
            let noise = |denoised| noise_in(&x, denoised, from);
            let denoised = first(&mut pipeline, request).denoised;
            match model.training.prediction() {
                Prediction::V => mix(&[(from.alpha, &noise(&denoised)), (-from.sigma, &denoised)]),
                _ => noise(&denoised),
            }
        };
        let guided = guided(&request, &[7.5]);
        let (prompt, raised) = (output(&request), output(&guided));
        let (least, most) = (deviation(&prompt), deviation(&raised));
        assert!(most > 1.01 * least, "{name}: guidance raises {least} to no more than {most}");
        for share in [0.5, 1.0] {
            let expected = (1.0 - share) * most + share * least;
            let found = output(&with(guided.clone(), &[("rescale", share)]));
            assert_close(&format!("{name}, {share}"), &found, &mix(&[(expected / most, &raised)]));
        }
    }
}

#[test]
fn cfg_pp_goes_to_the_guided_estimate_with_the_noise_of_the_unguided() {
    let (mut pipeline, model) = (pipeline(&tiny("tiny-sd")), Model::open(&tiny("tiny-sd")).unwrap());
    for sampler in ["ddim", "euler"] {
        let request = along(sampler);
        let (x, from, to) = start(&mut pipeline, &model, &request);
        let negative = first(&mut pipeline, &Request { prompt: String::new(), ..request.clone() }).denoised;
        let positive = first(&mut pipeline, &request).denoised;
        let noise = noise_in(&x, &negative, from);
        for scale in [1e-6, 0.6, 1.0] {
            let case = format!("{sampler}, {scale}");
            let step = first(&mut pipeline, &by("cfg_pp", guided(&request, &[scale])));
            let estimate = mix(&[(1.0 - scale, &negative), (scale, &positive)]);
            assert_close(&case, &step.denoised, &estimate);
            assert_close(&case, &step.latent, &mix(&[(to.alpha, &estimate), (to.sigma, &noise)]));
        }
    }
}

#[test]
fn cfg_pp_keeps_its_noise_whatever_the_scale() {
    let (mut tiny, model) = (pipeline(&tiny("tiny-sd")), Model::open(&tiny("tiny-sd")).unwrap());
    let request = along("ddim");
    let trajectory = Route::new(&request.sampling, &model, (8, 8), None).unwrap().trajectory;
    for (index, to) in trajectory.levels().skip(1).enumerate() {
        let mut noise = |scale| {
            let mut scales = [0.6; 4];
            scales[index] = scale;
            let step = steps(&mut tiny, &by("cfg_pp", guided(&request, &scales))).remove(index);
            mix(&[(1.0, &step.latent), (-to.alpha, &step.denoised)])
        };
        assert_close(&format!("step {index}"), &noise(0.2), &noise(1.0));
    }
}

#[test]
fn cfg_pp_that_cannot_be_is_refused() {
    let mut tiny = pipeline(&tiny("tiny-sd"));
    for (sampler, scale, telling) in [("ddim", 1.5, "takes 0 to 1"), ("heun", 0.6, "does not work with")] {
        let error = tiny.generate(&by("cfg_pp", guided(&along(sampler), &[scale]))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains(telling), "{error}");
    }
}

#[test]
fn projected_guidance_that_leaves_nothing_out_is_plain_guidance() {
    let mut tiny = pipeline(&tiny("tiny-sd"));
    let plain = guided(&along("ddim"), &[7.5]);
    let whole = with(by("apg", plain.clone()), &[("parallel", 1.0), ("norm", 0.0), ("momentum", 0.0)]);
    assert_close("apg", &estimates(&mut tiny, &whole), &estimates(&mut tiny, &plain));
}

#[test]
fn projected_guidance_remembers_the_steps_before() {
    let mut tiny = pipeline(&tiny("tiny-sd"));
    let plain = guided(&along("ddim"), &[7.5]);
    let projected = by("apg", plain.clone());
    let forgetful = steps(&mut tiny, &with(projected.clone(), &[("momentum", 0.0)]));
    let projected = steps(&mut tiny, &projected);
    assert_eq!(projected[0].denoised, forgetful[0].denoised, "nothing to remember yet");
    assert!(relative(&projected[1].denoised, &forgetful[1].denoised) > 1e-3);
    assert!(relative(&projected[0].denoised, &first(&mut tiny, &plain).denoised) > 1e-3, "leaves nothing out");
}

#[test]
fn projected_guidance_of_a_batch_is_that_of_each_picture() {
    let mut tiny = pipeline(&tiny("tiny-sd"));
    let request = by("apg", guided(&along("ddim"), &[7.5]));
    let alone: Vec<_> = (7..9).flat_map(|seed| latents(&mut tiny, &Request { seed, ..request.clone() })).collect();
    assert_close("apg", &latents(&mut tiny, &Request { count: 2, batch: 2, ..request }), &alone);
}

/// Limits with the largest number that an estimate may have.
const LIMITS: [(&[(&str, f64)], f32); 3] =
    [(&[("clip", 0.7)], 0.7), (&[("threshold", 0.9)], 1.0), (&[("threshold", 0.8), ("threshold_max", 1.5)], 1.0)];

#[test]
fn estimates_stay_within_their_limits() {
    let mut tiny = pipeline(&tiny("tiny-sd"));
    for sampler in ["ddim", "dpmpp_2m", "unipc", "heun"] {
        for (limit, most) in LIMITS {
            let found = estimates(&mut tiny, &with(guided(&along(sampler), &[7.5]), limit));
            let largest = found.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            assert_eq!(largest, most, "{sampler}, {limit:?}");
        }
    }
}

/// A quantile of absolute values, on a straight line between its neighbours.
fn quantile(values: &[f32], share: f64) -> f64 {
    let mut sorted: Vec<_> = values.iter().map(|value| f64::from(value.abs())).collect();
    sorted.sort_by(f64::total_cmp);
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[test]
fn limits_cut_where_they_say() {
    let mut tiny = pipeline(&tiny("tiny-sd"));
    let request = guided(&along("ddim"), &[7.5]);
    let unlimited = first(&mut tiny, &request).denoised;
    let half = quantile(&unlimited, 0.5);
    assert!(half > 1.5, "{half}: a quantile below 1 would not show");
    for (limit, cut, divisor) in [
        (&[("clip", 0.7)][..], 0.7, 1.0),
        (&[("threshold", 0.5)], 1.0, 1.0),
        (&[("threshold", 0.5), ("threshold_max", 1.5)], 1.5, 1.5),
        (&[("threshold", 0.5), ("threshold_max", 1e6)], half, half),
    ] {
        let found = first(&mut tiny, &with(request.clone(), limit)).denoised;
        let expected = unlimited.iter().map(|value| (f64::from(*value).clamp(-cut, cut) / divisor) as f32);
        assert_close(&format!("{limit:?}"), &found, &expected.collect::<Vec<_>>());
    }
}

#[test]
fn limits_leave_the_noise_as_it_was() {
    let (mut pipeline, model) = (pipeline(&tiny("tiny-sd")), Model::open(&tiny("tiny-sd")).unwrap());
    let plain = along("ddim");
    let (x, from, to) = start(&mut pipeline, &model, &plain);
    for request in [plain.clone(), guided(&plain, &[7.5])] {
        let noise = noise_in(&x, &first(&mut pipeline, &request).denoised, from);
        for (limit, _) in LIMITS {
            let step = first(&mut pipeline, &with(request.clone(), limit));
            let expected = mix(&[(to.alpha, &step.denoised), (to.sigma, &noise)]);
            assert_close(&format!("{limit:?}"), &step.latent, &expected);
        }
    }
}

#[test]
fn embedded_guidance_costs_nothing_and_follows_a_curve() {
    let mut tiny = pipeline(&tiny("tiny-lcm"));
    let request = in_steps("lcm", 2);
    let mut at = |scale: &[f64]| {
        let (seen, provenance) = watch(&mut tiny, &guided(&request, scale));
        assert_eq!((provenance.evaluations, provenance.evaluations_saved), (2, 0), "{scale:?}");
        seen.steps
    };
    let (strong, weak, falling) = (at(&[8.0]), at(&[3.0]), at(&[8.0, 3.0]));
    assert!(relative(&strong[0].denoised, &weak[0].denoised) > 1e-3, "the scale has no effect");
    assert_eq!(falling[0].denoised, strong[0].denoised);
    assert!(relative(&falling[1].denoised, &strong[1].denoised) > 1e-4, "the second scale has no effect");
    // Everything of guidance that needs a second prediction is told to have no effect.
    let asked = with(by("apg", guided(&request, &[8.0])), &[("norm", 3.0)]);
    let warnings = tiny.generate(&asked).unwrap().warnings.join("; ");
    for what in ["guidance method apg", "option \"norm\""] {
        assert!(warnings.contains(&format!("{what} has no effect: this model takes the guidance scale")), "{warnings}");
    }
}

#[test]
fn each_generator_has_its_own_noise_again_and_again() {
    let mut tiny = pipeline(&tiny("tiny-sd"));
    let by = |generator: &str| Request { generator: Some(generator.into()), ..along("euler_ancestral") };
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for generator in ["torch_cpu", "torch_cuda", "numpy"] {
        let found = latents(&mut tiny, &by(generator));
        assert_eq!(found, latents(&mut tiny, &by(generator)), "{generator}");
        assert!(seen.iter().all(|other| relative(&found, other) > 0.1), "{generator}");
        seen.push(found);
    }
    assert_eq!(seen[0], latents(&mut tiny, &along("euler_ancestral")), "torch_cpu is the default");
}

#[test]
fn the_seed_of_later_noise_leaves_the_initial_noise() {
    let mut tiny = pipeline(&tiny("tiny-sd"));
    let seeded = |noise_seed| Request { noise_seed: Some(noise_seed), ..along("euler_ancestral") };
    for sampler_noise in [SamplerNoise::Independent, SamplerNoise::Brownian] {
        let request = |noise_seed| Request { sampler_noise, ..seeded(noise_seed) };
        let (one, _) = watch(&mut tiny, &request(1));
        let (two, _) = watch(&mut tiny, &request(2));
        assert_eq!(one.noise, two.noise);
        assert_eq!(one.steps[0].denoised, two.steps[0].denoised);
        assert!(relative(&one.steps[0].latent, &two.steps[0].latent) > 0.1, "{sampler_noise:?}");
        assert_eq!(latents(&mut tiny, &request(1)), one.steps[3].latent);
    }
    let quiet = Request { noise_seed: Some(1), ..along("ddim") };
    assert_eq!(latents(&mut tiny, &quiet), latents(&mut tiny, &along("ddim")), "ddim draws none");
}

#[test]
fn noise_that_nothing_draws_is_told() {
    let model = Model::open(&tiny("tiny-sd")).unwrap();
    let warnings = |sampler: &str, options: &[(&str, f64)]| {
        let brownian = Request { noise_seed: Some(1), sampler_noise: SamplerNoise::Brownian, ..along(sampler) };
        Plan::new(&with(brownian, options), &model, &target()).unwrap().warnings
    };
    for (sampler, options) in
        [("ddim", vec![]), ("heun", vec![]), ("ddpm", vec![("eta", 0.0)]), ("sa", vec![("tau", 0.0)])]
    {
        let expected = ["the noise seed", "Brownian noise"]
            .map(|what| format!("{what} has no effect: sampler {sampler} draws no noise of its own"));
        assert_eq!(warnings(sampler, &options), expected, "{sampler}");
    }
    let drawing =
        [("ddpm", vec![]), ("ddim", vec![("eta", 0.1)]), ("heun", vec![("churn", 1.0)]), ("dpm_1_sde", vec![])];
    for (sampler, options) in drawing.into_iter().chain([("ddim until step 2, then sa", vec![])]) {
        assert_eq!(warnings(sampler, &options), [""; 0], "{sampler}");
    }
}

#[test]
fn brownian_noise_is_a_pictures_own() {
    let mut tiny = pipeline(&tiny("tiny-sd"));
    for sampler in ["euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde"] {
        let independent = along(sampler);
        let request = Request { sampler_noise: SamplerNoise::Brownian, ..independent.clone() };
        let alone: Vec<_> = (7..10).flat_map(|seed| latents(&mut tiny, &Request { seed, ..request.clone() })).collect();
        assert_close(sampler, &latents(&mut tiny, &Request { count: 3, batch: 2, ..request.clone() }), &alone);
        let found = latents(&mut tiny, &request);
        assert_eq!(found, latents(&mut tiny, &request), "{sampler}");
        assert!(relative(&found, &latents(&mut tiny, &independent)) > 0.1, "{sampler}");
    }
}

#[test]
fn more_steps_of_brownian_noise_refine_the_same_picture() {
    for (model, schedule) in [("tests/models/tiny-sd", "karras"), ("models/emoji", "trailing")] {
        let mut pipeline = pipeline(&repository().join(model));
        let mut apart = |seed, sampler_noise| {
            let [few, many] = [10, 20].map(|steps| {
                let mut request = Request { seed, sampler_noise, size: None, ..in_steps("dpmpp_2m_sde", steps) };
                request.sampling.schedule = Some(schedule.into());
                latents(&mut pipeline, &request)
            });
            relative(&few, &many)
        };
        let mut mean = |noise| (0..4).map(|seed| apart(seed, noise)).sum::<f64>() / 4.0;
        let (brownian, independent) = (mean(SamplerNoise::Brownian), mean(SamplerNoise::Independent));
        // A third is usual.
        assert!(brownian < 0.6 * independent, "{model}: {brownian} apart, with independent noise {independent}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let model = Model::open(&tiny("tiny-sd")).unwrap();
    let [mut one, mut two] = [1, 2].map(|threads| Pipeline::open(&target().with_threads(threads), &model).unwrap());
    for sampler in ["dpmpp_2m", "euler_ancestral", "unipc"] {
        // Large enough to be worth sharing.
        let request = Request { size: Some((256, 256)), ..guided(&along(sampler), &[7.5]) };
        assert_eq!(latents(&mut one, &request), latents(&mut two, &request), "{sampler}");
    }
}

/// Schedulers of diffusers with their settings, and what they mean here.
const SCHEDULERS: &[(&str, &str, &str, &str)] = &[
    ("DDIM", "{}", "ddim leading", "{}"),
    ("DDIM", r#"{"timestep_spacing": "trailing"}"#, "ddim trailing", "{}"),
    // diffusers' pipeline of Stable Diffusion never clips.
    ("DDIM", r#"{"clip_sample": true, "clip_sample_range": 1.5}"#, "ddim leading", "{}"),
    (
        "DDIM",
        r#"{"clip_sample": true, "thresholding": true, "dynamic_thresholding_ratio": 0.99, "sample_max_value": 2.0}"#,
        "ddim leading",
        r#"{"threshold": 0.99, "threshold_max": 2.0}"#,
    ),
    ("DDPM", "{}", "ddpm leading", "{}"),
    ("PNDM", "{}", "pndm leading", "{}"),
    ("PNDM", r#"{"skip_prk_steps": false}"#, "pndm leading", "{}"),
    ("PNDM", r#"{"skip_prk_steps": true}"#, "plms leading", "{}"),
    ("EulerDiscrete", "{}", "euler linspace", "{}"),
    ("EulerDiscrete", r#"{"use_exponential_sigmas": true}"#, "euler exponential", "{}"),
    ("EulerDiscrete", r#"{"use_beta_sigmas": true}"#, "euler beta", "{}"),
    ("EulerAncestralDiscrete", "{}", "euler_ancestral linspace", "{}"),
    ("EulerAncestralDiscrete", r#"{"timestep_spacing": "trailing"}"#, "euler_ancestral trailing", "{}"),
    ("HeunDiscrete", "{}", "heun linspace", "{}"),
    ("KDPM2Discrete", "{}", "dpm2 linspace", "{}"),
    ("KDPM2AncestralDiscrete", "{}", "dpm2_ancestral linspace", "{}"),
    ("LMSDiscrete", r#"{"use_karras_sigmas": true}"#, "lms karras", "{}"),
    ("DPMSolverSDE", "{}", "dpmpp_sde linspace", "{}"),
    ("DPMSolverMultistep", "{}", "dpmpp_2m linspace", "{}"),
    ("DPMSolverMultistep", r#"{"use_karras_sigmas": true}"#, "dpmpp_2m karras", "{}"),
    ("DPMSolverMultistep", r#"{"use_lu_lambdas": true}"#, "dpmpp_2m lu", "{}"),
    ("DPMSolverMultistep", r#"{"use_karras_sigmas": false}"#, "dpmpp_2m linspace", "{}"),
    ("DPMSolverMultistep", r#"{"solver_order": 1}"#, "dpmpp_1 linspace", "{}"),
    ("DPMSolverMultistep", r#"{"solver_order": 3}"#, "dpmpp_3m linspace", "{}"),
    ("DPMSolverMultistep", r#"{"solver_type": "heun"}"#, "dpmpp_2m_heun linspace", "{}"),
    ("DPMSolverMultistep", r#"{"algorithm_type": "dpmsolver"}"#, "dpm_2m linspace", "{}"),
    ("DPMSolverMultistep", r#"{"algorithm_type": "sde-dpmsolver"}"#, "dpm_2m_sde linspace", "{}"),
    ("DPMSolverMultistep", r#"{"algorithm_type": "sde-dpmsolver++"}"#, "dpmpp_2m_sde linspace", "{}"),
    (
        "DPMSolverMultistep",
        r#"{"algorithm_type": "sde-dpmsolver++", "solver_type": "heun", "use_karras_sigmas": true}"#,
        "dpmpp_2m_sde_heun karras",
        "{}",
    ),
    ("DPMSolverSinglestep", "{}", "dpmpp_2s linspace", "{}"),
    ("DPMSolverSinglestep", r#"{"solver_order": 3, "algorithm_type": "dpmsolver"}"#, "dpm_3s linspace", "{}"),
    ("DPMSolverSinglestep", r#"{"algorithm_type": "sde-dpmsolver++"}"#, "dpmpp_2s_sde linspace", "{}"),
    ("DEISMultistep", r#"{"solver_order": 3}"#, "deis linspace", r#"{"order": 3.0}"#),
    ("UniPCMultistep", r#"{"solver_order": 2}"#, "unipc linspace", r#"{"order": 2.0}"#),
    ("UniPCMultistep", r#"{"solver_type": "bh1", "solver_order": 3}"#, "unipc_bh1 linspace", r#"{"order": 3.0}"#),
    ("SASolver", "{}", "sa linspace", "{}"),
    (
        "SASolver",
        r#"{"predictor_order": 3, "corrector_order": 4}"#,
        "sa linspace",
        r#"{"predictor": 3.0, "corrector": 4.0}"#,
    ),
    ("LCM", "{}", "lcm lcm", "{}"),
    ("LCM", r#"{"timestep_spacing": "trailing"}"#, "lcm lcm", "{}"),
    ("TCD", "{}", "tcd lcm", "{}"),
];

/// The tiny pipeline with another scheduler.
fn scheduled(folder: &Path, class: &str, settings: &str) -> Model {
    let mut config: BTreeMap<String, Value> = serde_json::from_str(settings).unwrap();
    config.insert("_class_name".into(), format!("{class}Scheduler").into());
    let file = folder.join("scheduler/scheduler_config.json");
    fs::write(file, serde_json::to_string(&config).unwrap()).unwrap();
    Model::open(folder).unwrap()
}

#[test]
fn a_published_scheduler_is_the_default() {
    let place = Place::new();
    let folder = place.copy_of("tiny-sd");
    for (class, settings, expected, options) in SCHEDULERS {
        let model = scheduled(&folder, class, settings);
        let found = format!("{} {}", model.defaults.sampler, model.defaults.schedule);
        assert_eq!(&found, expected, "{class} {settings}");
        let expected: BTreeMap<String, Curve> = serde_json::from_str(options).unwrap();
        assert_eq!(model.defaults.options, expected, "{class} {settings}");
        assert_eq!(model.defaults.steps, if ["LCM", "TCD"].contains(class) { 4 } else { 25 }, "{class} {settings}");
        assert!(model.warnings.is_empty(), "{class} {settings}: {:?}", model.warnings);
        Plan::new(&Request::default(), &model, &target()).unwrap();
    }
}

#[test]
fn a_scheduler_without_a_sampler_of_ours_is_told() {
    let place = Place::new();
    let folder = place.copy_of("tiny-sd");
    for (class, settings) in
        [("Unheard", "{}"), ("DPMSolverMultistep", r#"{"algorithm_type": "sde-dpmsolver", "solver_order": 3}"#)]
    {
        let model = scheduled(&folder, class, settings);
        assert_eq!(model.defaults.sampler, "ddim", "{class}");
        let told = model.warnings.join("; ");
        assert!(told.contains(&format!("{class}Scheduler is not known")), "{class}: {told}");
        let plan = Plan::new(&Request::default(), &model, &target()).unwrap();
        assert_eq!(plan.warnings, model.warnings, "a request is told, too");
    }
}

#[test]
fn settings_that_are_not_followed_are_told() {
    let place = Place::new();
    let folder = place.copy_of("tiny-sd");
    for (class, settings, telling) in [
        ("DPMSolverMultistep", r#"{"algorithm_type": "dpmsolver", "solver_type": "heun"}"#, "solver_type heun, which"),
        (
            "DPMSolverSinglestep",
            r#"{"solver_type": "heun"}"#,
            "solver_type heun, which sampler dpmpp_2s does not follow",
        ),
        (
            "DPMSolverSinglestep",
            r#"{"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}"#,
            "solver_type heun, which sampler dpmpp_2s_sde does not follow",
        ),
        ("DEISMultistep", r#"{"final_sigmas_type": "sigma_min"}"#, "final_sigmas_type sigma_min"),
        ("DPMSolverMultistep", r#"{"lower_order_final": false}"#, "lower_order_final false"),
        ("DPMSolverMultistep", r#"{"euler_at_final": true}"#, "euler_at_final"),
        ("UniPCMultistep", r#"{"predict_x0": false}"#, "predict_x0 false"),
        ("UniPCMultistep", r#"{"disable_corrector": [0]}"#, "disable_corrector"),
    ] {
        let told = scheduled(&folder, class, settings).warnings.join("; ");
        assert!(told.contains(telling), "{class} {settings}: {told}");
    }
}

#[test]
fn a_fused_consistency_model_is_not_guided_unless_asked() {
    let place = Place::new();
    let folder = place.copy_of("tiny-sd");
    for class in ["LCM", "TCD"] {
        assert_eq!(scheduled(&folder, class, "{}").defaults.guidance, 1.0, "{class}");
    }
}
