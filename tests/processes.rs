//! Models of other processes than diffusion, through the whole pipeline: what their graphs are told.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};

use common::{Place, manifest_model};
use safelight::{Event, Model, Pipeline, Request, Sampling, Target};

/// The tiny graphs, said to be trained by this process; another size opens them again, so that they must stay.
fn open(place: &Place, process: &str) -> Pipeline {
    let folder = manifest_model(place);
    let file = folder.join("model.yaml");
    let manifest = std::fs::read_to_string(&file).unwrap();
    let training = "training: { beta_start: 0.00085, beta_end: 0.012, betas: scaled_linear, prediction: epsilon }";
    std::fs::write(&file, manifest.replace(training, process)).unwrap();
    let target = "schema: safelight-target/1\nname: test\ntitle: test\nproviders: [{ name: cpu, need: required }]\n\
                  precision: [fp32]\n";
    Pipeline::open(&Target::parse(target).unwrap(), &Model::open(&folder).unwrap()).unwrap()
}

fn request(sampler: &str, schedule: Option<&str>, steps: usize) -> Request {
    let schedule = schedule.map(Into::into);
    let sampling = Sampling { sampler: Some(sampler.into()), schedule, ..Sampling::in_steps(steps) };
    Request { prompt: "a red apple".into(), seed: 7, sampling, ..Request::default() }
}

/// The timesteps of a request's steps.
fn told(pipeline: &mut Pipeline, request: &Request) -> Vec<f64> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    pipeline.on_event(move |event| {
        if let Event::Step { timestep, .. } = event {
            sink.lock().unwrap().push(*timestep);
        }
    });
    let picture = pipeline.generate(request).unwrap().pictures.remove(0);
    assert!(picture.latent.iter().all(|value| value.is_finite()));
    let told = told.lock().unwrap();
    told.clone()
}

#[test]
fn a_flow_is_told_a_thousand_times_its_sigma() {
    let place = Place::new();
    let mut flow = open(&place, "flow: { shift: 3.0 }");
    // As diffusers' FlowMatchEulerDiscreteScheduler with shift 3 and the sigmas 1, 3/4, 1/2, 1/4.
    let expected = [1000.0, 900.0, 750.0, 500.0];
    for sampler in ["euler", "heun", "dpmpp_2m", "unipc", "euler_ancestral", "ddim"] {
        let found = told(&mut flow, &request(sampler, Some("trailing"), 4));
        // The last of ddim's is counted, and so rounded.
        let fits = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1.0);
        assert!(fits && found.len() == 4, "{sampler}: {found:?}");
    }
    for steps in [1, 3] {
        assert_eq!(told(&mut flow, &request("lms", Some("karras"), steps)).len(), steps);
    }
}

#[test]
fn a_flow_that_depends_on_the_size_is_shifted_by_it() {
    let dynamic = "flow: { dynamic_shift: { base: 0.5, most: 1.15, base_tokens: 16, most_tokens: 256, patch: 2 } }";
    let place = Place::new();
    let mut flow = open(&place, dynamic);
    let middle = |pipeline: &mut Pipeline, side| {
        told(pipeline, &Request { size: Some((side, side)), ..request("euler", Some("trailing"), 2) })[1]
    };
    // 64 pixels are 16 tokens: a shift of e^0.5; 256 pixels are 256: e^1.15.
    let shifted = |mu: f64| 1000.0 * mu.exp() / (mu.exp() + 1.0);
    assert!((middle(&mut flow, 64) - shifted(0.5)).abs() < 1e-6);
    assert!((middle(&mut flow, 256) - shifted(1.15)).abs() < 1e-6);
}

#[test]
fn cfg_zero_spares_the_first_steps() {
    let place = Place::new();
    let mut flow = open(&place, "flow: { shift: 3.0 }");
    let mut guided = request("euler", Some("trailing"), 5);
    guided.guidance = Some(4.0.into());
    let plain = flow.generate(&guided).unwrap().pictures.remove(0);
    guided.guidance_method = Some("cfg_zero".into());
    guided.sampling.options.insert("zero_steps".into(), 2.0.into());
    let zero = flow.generate(&guided).unwrap().pictures.remove(0);
    assert_eq!((plain.provenance.evaluations, plain.provenance.evaluations_saved), (5, 0));
    assert_eq!((zero.provenance.evaluations, zero.provenance.evaluations_saved), (3, 2));
    assert_ne!(zero.latent, plain.latent);
}

#[test]
fn models_conditioned_on_sigma_are_told_its_logarithm() {
    let edm = "edm: { sigma_min: 0.002, sigma_max: 80, prediction: edm }";
    let found = told(&mut open(&Place::new(), edm), &request("euler", Some("karras"), 3));
    // The middle one of Karras's three sigmas is 2.515.
    let expected = [80f64, 2.515_218_976_147_16, 0.002].map(|sigma| 0.25 * sigma.ln());
    assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-4), "{found:?}");

    let consistency = "edm: { sigma_min: 0.002, sigma_max: 80, timestep_scale: 1000, prediction: consistency }";
    let found = told(&mut open(&Place::new(), consistency), &request("consistency", None, 1));
    assert!((found[0] - 250.0 * 80f64.ln()).abs() < 1e-6, "{found:?}");
}
