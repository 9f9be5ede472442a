//! Samplers that an application brings: written as anyone would outside of the library, beside the built-in ones.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use common::tiny;
use safelight::options::Opt;
use safelight::sampler::{Denoise, Latent, Method, Run, alike, blend, churned, split};
use safelight::trajectory::Relay;
use safelight::{Curve, ErrorKind, Model, Picture, Pipeline, Request, Result, Sampling, Target};

mod common;

/// euler_ancestral once more.
fn ancestral(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    let (mut denoised, mut fresh) = (alike(&x), alike(&x));
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        let from = churned(&mut x, &mut fresh, from, to, run)?;
        denoiser.denoise(&x, from, &mut denoised)?;
        let (kept, added) = split(from, to, run.at(Opt::Eta, step));
        let keep = kept.sigma / from.sigma;
        blend(&mut x, keep, &[(to.alpha - keep * from.alpha, &denoised)]);
        run.add_noise(&mut x, &mut fresh, added, (from, to))?;
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

const MINE: Method = Method {
    name: "mine",
    source: "the workshop's notebook, page 7",
    sample: ancestral,
    options: &[(Opt::Eta, 1.0), (Opt::NoiseScale, 1.0)],
    stochastic: true,
    ..Method::PLAIN
};

fn pipeline() -> Pipeline {
    let target = Target::open(&common::repository().join("targets/generic-cpu.yaml")).unwrap();
    Pipeline::open(&target, &Model::open(&tiny("tiny-sd")).unwrap()).unwrap()
}

fn request(sampler: &str, own: &[&'static Method], options: &[(&str, f64)]) -> Request {
    let options = options.iter().map(|&(name, value)| (name.to_owned(), Curve::constant(value)));
    let sampling = Sampling {
        sampler: Some(sampler.into()),
        own_samplers: own.to_vec(),
        options: options.collect(),
        ..Sampling::in_steps(6)
    };
    Request { prompt: "a cat".into(), seed: 5, size: Some((64, 64)), sampling, ..Request::default() }
}

fn picture(pipeline: &mut Pipeline, request: &Request) -> Result<Picture> {
    Ok(pipeline.generate(request)?.pictures.remove(0))
}

#[test]
fn one_that_is_written_outside_makes_the_built_in_ones_picture() {
    let mut pipeline = pipeline();
    for (own, built_in, options) in [
        ("mine", "euler_ancestral", &[] as &[_]),
        ("mine", "euler_ancestral", &[("eta", 0.3), ("noise_scale", 0.9)]),
        ("mine until sigma 2, then euler", "euler_ancestral until sigma 2, then euler", &[]),
        ("ddim until step 2, then mine", "ddim until step 2, then euler_ancestral", &[]),
    ] {
        let found = picture(&mut pipeline, &request(own, &[&MINE], options)).unwrap();
        let expected = picture(&mut pipeline, &request(built_in, &[], options)).unwrap();
        assert_eq!(found.latent, expected.latent, "{own}");
        let told = serde_json::to_value(&found.provenance).unwrap();
        assert_eq!(told["sampler"], own);
        assert_eq!(told["own_samplers"], serde_json::json!({ "mine": MINE.source }));
        assert!(serde_json::to_value(&expected.provenance).unwrap().get("own_samplers").is_none());
    }
}

/// Its own defaults hold where the request says nothing, and options that it does not take are refused.
#[test]
fn options_are_its_own() {
    const CALM: Method = Method { name: "calm", options: &[(Opt::Eta, 0.3)], ..MINE };
    let mut pipeline = pipeline();
    let found = picture(&mut pipeline, &request("calm", &[&CALM], &[])).unwrap();
    let expected = picture(&mut pipeline, &request("mine", &[&MINE], &[("eta", 0.3)])).unwrap();
    assert_eq!(found.latent, expected.latent);
    assert_eq!(found.provenance.options, BTreeMap::from([("eta", Curve::constant(0.3))]));
    let error = picture(&mut pipeline, &request("calm", &[&CALM], &[("order", 2.0)])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("option \"order\" would have no effect: calm takes eta"), "{error}");
}

const HIDING: Method = Method { name: "euler", ..MINE };
const NAMELESS: Method = Method { name: "", ..MINE };
const WORDS: Method = Method { name: "two words", ..MINE };
const EXCESSIVE: Method = Method { name: "excessive", options: &[(Opt::Eta, 2.0)], ..MINE };

#[test]
fn names_that_could_mislead_are_refused() {
    let table: [(&str, &[&'static Method], &str); 7] = [
        ("mime", &[&MINE], "unknown sampler \"mime\"; known: mine, ddim, "),
        ("mine", &[], "unknown sampler \"mine\""),
        ("euler", &[&HIDING], "\"euler\" would hide the built-in one; give it another name"),
        ("euler", &[&MINE, &MINE], "\"mine\" is given twice"),
        ("euler", &[&NAMELESS], "\"\" has other characters in its name than"),
        ("euler", &[&WORDS], "\"two words\" has other characters in its name than"),
        ("excessive", &[&EXCESSIVE], "sampler excessive: option \"eta\" is 2, expected 0 to 1"),
    ];
    for (name, own, expected) in table {
        let error = Relay::parse_among(name, own).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{name}");
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
}

/// What a sampler may get wrong is told with its name, and never becomes a picture.
#[test]
fn one_that_breaks_its_promise_is_named() {
    const SILENT: Method = Method { name: "silent", sample: |_, x, _| Ok(x), ..Method::PLAIN };
    const SMALL: Method = Method { name: "small", sample: |_, _, _| Ok(Latent::zeros((1, 1, 2, 2))), ..Method::PLAIN };
    const NAN: Method = Method {
        name: "nan",
        sample: |denoiser, mut x, run| {
            let mut denoised = alike(&x);
            for step in 0..run.steps() {
                denoiser.denoise(&x, run.interval(step).0, &mut denoised)?;
                run.done(step, &mut x, &denoised)?;
            }
            Ok(x * f32::NAN)
        },
        ..Method::PLAIN
    };
    let mut pipeline = pipeline();
    for (own, kind, expected) in [
        (
            &SILENT,
            ErrorKind::Usage,
            "sampler silent has told of 0 steps and had 6 to do; it is to call done after each",
        ),
        (&SMALL, ErrorKind::Usage, "sampler small made a latent of (1, 1, 2, 2) from (1, 4, 8, 8)"),
        (&NAN, ErrorKind::Numeric, "NaN"),
    ] {
        let error = picture(&mut pipeline, &request(own.name, &[own], &[])).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}
