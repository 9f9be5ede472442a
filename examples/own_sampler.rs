//! A sampler that the application brings, used by name beside the built-in ones.
//!
//! ```sh
//! cargo run --example own_sampler            # writes apple-*.png into pictures/
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::{Path, PathBuf};

use safelight::options::Opt;
use safelight::sampler::{Denoise, Latent, Method, Run, alike, blend, into_noise};
use safelight::schedule::Grid;
use safelight::{Curve, Format, Model, Pipeline, Request, Result, Sampling, Target, save};

/// Jumps to the denoiser's estimate and back up to the next level, with noise of which `eta` is fresh and the rest is
/// what the latent had before: 1 is a consistency model's sampler, 0 is DDIM.
fn steady(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> Result<Latent> {
    // Everything that the steps need is allocated once.
    let (mut denoised, mut noise, mut fresh) = (alike(&x), alike(&x), alike(&x));
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        // The one call that costs anything: the denoiser's graph, with guidance and whatever the request says.
        denoiser.denoise(&x, from, &mut denoised)?;
        noise.assign(&denoised);
        into_noise(&mut noise, &x, from);

        let eta = run.at(Opt::Eta, step);
        let kept = (1.0 - eta * eta).sqrt();
        x.assign(&denoised);
        blend(&mut x, to.alpha, &[(to.sigma * kept, &noise)]);
        // Fresh noise comes from the run, never from elsewhere: so a seed gives this picture on every machine.
        run.add_noise(&mut x, &mut fresh, to.sigma * eta, (from, to))?;
        // Progress, cancellation and the pictures' provenance hear of a step here.
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

const STEADY: Method = Method {
    name: "steady",
    about: "jumps to the estimate and back, eta of the noise fresh",
    source: "examples/own_sampler.rs",
    sample: steady,
    grid: Grid::Timesteps,
    options: &[(Opt::Eta, 0.5)],
    stochastic: true,
    order: None,
    ..Method::PLAIN
};

fn main() -> Result<()> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or("pictures".into()));
    let cannot = |e: std::io::Error| safelight::Error::new(safelight::ErrorKind::Io, e.to_string());
    std::fs::create_dir_all(&out).map_err(cannot)?;

    let target = Target::open(Path::new("targets/generic-cpu.yaml"))?;
    let mut pipeline = Pipeline::open(&target, &Model::open(Path::new("models/emoji"))?)?;
    for (name, sampler, eta) in [
        ("alone", "steady", 0.5),
        ("fresh", "steady", 1.0),
        ("relay", "steady until step 2, then ddim", 0.5),
        ("known", "ddim", 0.5),
    ] {
        let sampling = Sampling {
            sampler: Some(sampler.into()),
            own_samplers: vec![&STEADY],
            options: [("eta".to_owned(), Curve::constant(eta))].into(),
            ..Sampling::in_steps(4)
        };
        let request = Request { prompt: "a red apple".into(), seed: 7, sampling, ..Request::default() };
        for picture in pipeline.generate(&request)?.pictures {
            save(&out.join(format!("apple-{name}.png")), &picture.encode(Format::Png)?)?;
            println!("{name}: {}, own {:?}", picture.provenance.sampler, picture.provenance.own_samplers);
        }
    }
    Ok(())
}
