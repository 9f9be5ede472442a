//! What safelight itself costs, graphs apart: `cargo bench`. Read ratios; a shared machine's times are its own.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use image::RgbImage;
use ndarray::Array4;
use safelight::noise::{Brownian, Seeds, TorchCpu};
use safelight::options::{Opt, Options};
use safelight::sampler::{Latent, Part, Run, SAMPLERS, Steps, Tally};
use safelight::schedule::{Grid, SCHEDULES, Schedule, find_schedule};
use safelight::training::{Level, Training};
use safelight::{Format, Model, Picture, Pipeline, Request, Result, Sampling, Target};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn model() -> Model {
    Model::open(&root().join("models/emoji")).expect("the shipped model opens")
}

fn pipeline(model: &Model, request: &Request) -> Pipeline {
    let target = Target::open(&root().join("targets/generic-cpu.yaml")).expect("the shipped target opens");
    Pipeline::open_for(&target.with_threads(1), model, request).expect("it opens; ./run once fetches the library")
}

/// Warm pictures of four steps, minus the time inside `Session::run`.
fn outside_the_graphs(criterion: &mut Criterion) {
    let small = Request { prompt: "a red apple".into(), ..Request::default() };
    let large = Request { sampling: Sampling::in_steps(4), size: Some((512, 512)), ..small.clone() };
    let tiny = Model::open(&root().join("tests/models/tiny-sd")).expect("the tiny model opens");
    for (name, model, request) in [("128×128", model(), small), ("512×512", tiny, large)] {
        let mut pipeline = pipeline(&model, &request);
        criterion.bench_function(&format!("outside the graphs/{name}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let own = |_| {
                    let timings = pipeline.generate(&request).expect("the picture is made").timings;
                    Duration::from_secs_f64(timings.own_ms().max(0.0) / 1000.0)
                };
                (0..iterations).map(own).sum()
            });
        });
    }
}

/// One step of each sampler's own arithmetic, with a denoiser that costs almost nothing: half of a run of two steps more
/// would be less than the clock sees, so that a run of many steps is divided by their number.
fn samplers(criterion: &mut Criterion) {
    const STEPS: usize = 20;
    let training = model().training;
    for (shape, name) in [((1, 4, 64, 64), "1×4×64×64"), ((1, 16, 128, 128), "1×16×128×128")] {
        let mut group = criterion.benchmark_group(format!("a step/{name}"));
        for method in SAMPLERS.iter().filter(|method| method.steps == Steps::Any) {
            let timetable = find_schedule(method.schedule.unwrap_or("trailing")).expect("it is in the table");
            let options = resolve(method.options);
            let schedule = Schedule::new(&training, timetable, method.grid, STEPS, &resolve(timetable.options));
            let schedule = schedule.expect("the steps are not too many");
            let mut free = |x: &Latent, _: Level, denoised: &mut Latent| -> Result<()> {
                denoised.assign(x);
                Ok(())
            };
            group.bench_function(method.name, |bencher| {
                bencher.iter_custom(|iterations| {
                    let mut run = || {
                        let mut run = Run {
                            levels: &schedule.levels,
                            training: &training,
                            options: &options,
                            // Noise has its own bench.
                            noise: &mut |_, _, _| Ok(()),
                            on_step: &mut |_| Ok(()),
                            part: Part { before: 0, of: STEPS },
                            tally: Tally::default(),
                        };
                        let start = Instant::now();
                        let latent = (method.sample)(&mut free, Latent::ones(shape), &mut run);
                        black_box(latent).expect("nothing can fail");
                        start.elapsed()
                    };
                    (0..iterations).map(|_| run()).sum::<Duration>() / STEPS as u32
                });
            });
        }
    }
}

fn resolve(defaults: &'static [(Opt, f64)]) -> Options {
    Options::resolve(&[("it", defaults)], &BTreeMap::new()).expect("defaults are valid")
}

fn schedules(criterion: &mut Criterion) {
    let model = model();
    criterion.bench_function("training table", |bencher| {
        bencher.iter(|| Training::new(model.training.spec().clone()));
    });
    for timetable in SCHEDULES {
        let options = resolve(timetable.options);
        criterion.bench_function(&format!("schedule/{}, 40 steps", timetable.name), |bencher| {
            bencher.iter(|| Schedule::new(black_box(&model.training), timetable, Grid::Sigmas, 40, &options));
        });
    }
}

fn noise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("noise");
    let mut latent = vec![0.0; 4 * 64 * 64];
    group.throughput(Throughput::Elements(latent.len() as u64));
    group.bench_function("4×64×64", |bencher| {
        let mut source = TorchCpu::new(1);
        bencher.iter(|| source.fill(black_box(&mut latent)));
    });
    group.bench_function("4×64×64, Brownian", |bencher| {
        let mut motion = Brownian::new(Seeds::Shared(1), 0.03, 15.0).expect("the range is valid");
        let mut latent = Array4::zeros((1, 4, 64, 64));
        let mut sigma = 15.0;
        bencher.iter(|| {
            let to = if sigma > 0.1 { sigma * 0.9 } else { 15.0 };
            motion.fill(black_box(&mut latent), sigma, to).expect("it is within the range");
            sigma = to;
        });
    });
}

/// Encoding a picture that compresses as badly as pictures do: smooth colours with a little noise.
fn pictures(criterion: &mut Criterion) {
    let request = Request::default();
    let provenance =
        pipeline(&model(), &request).generate(&request).expect("the picture is made").pictures.remove(0).provenance;
    let mut group = criterion.benchmark_group("encode");
    for side in [256, 512] {
        let pixels = RgbImage::from_fn(side, side, |x, y| {
            let grain = (x.wrapping_mul(2_654_435_761).wrapping_add(y.wrapping_mul(40_503)) >> 13) as u8 & 7;
            image::Rgb([(x / 2) as u8 ^ grain, (y / 2) as u8 ^ grain, ((x + y) / 4) as u8 ^ grain])
        });
        let latent = ndarray::Array3::zeros((1, 1, 1));
        let picture = Picture { pixels, latent, provenance: provenance.clone() };
        for format in Format::ALL {
            group.bench_with_input(BenchmarkId::new(format.name(), side), &picture, |bencher, picture| {
                bencher.iter(|| picture.encode(format).expect("the picture is encoded"));
            });
        }
    }
}

criterion_group!(benches, outside_the_graphs, samplers, schedules, noise, pictures);
criterion_main!(benches);
