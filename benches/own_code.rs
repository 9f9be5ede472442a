//! What safelight itself costs, graphs apart: `cargo bench`. Read ratios; a shared machine's times are its own.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use image::RgbImage;
use safelight::noise::TorchCpu;
use safelight::sampler::{Latent, Run, SAMPLERS};
use safelight::schedule::{Level, SCHEDULES, Schedule, Training};
use safelight::{Format, Model, Picture, Pipeline, Request, Result, Target};

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
    let large = Request { steps: Some(4), size: Some((512, 512)), ..small.clone() };
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

/// Each sampler's own arithmetic, on SD's latent of a 512×512 picture, with a denoiser that costs almost nothing.
fn samplers(criterion: &mut Criterion) {
    let levels: Vec<_> = (0..=4).map(|i| Level::from_ratio(250.0 * (4 - i) as f64, 2.5 * (4 - i) as f64)).collect();
    let mut group = criterion.benchmark_group("sampler, 4 steps");
    for method in SAMPLERS {
        group.bench_function(method.name, |bencher| {
            let mut source = TorchCpu::new(1);
            let mut free = |_: &Latent, _: Level, _: &mut Latent| -> Result<()> { Ok(()) };
            bencher.iter(|| {
                let mut run = Run {
                    levels: &levels,
                    noise: &mut |latent| {
                        source.fill(latent.as_slice_mut().expect("standard layout"));
                        Ok(())
                    },
                    on_step: &mut |_, _, _| Ok(()),
                    eta: 0.0,
                    timestep_scaling: 10.0,
                };
                (method.sample)(&mut free, Latent::ones((1, 4, 64, 64)), &mut run).expect("nothing can fail")
            });
        });
    }
}

fn schedules(criterion: &mut Criterion) {
    let model = model();
    criterion.bench_function("training table", |bencher| {
        bencher.iter(|| Training::new(model.training.spec().clone()));
    });
    for timetable in SCHEDULES {
        criterion.bench_function(&format!("schedule/{}, 50 steps", timetable.name), |bencher| {
            bencher.iter(|| Schedule::new(black_box(&model.training), timetable, SAMPLERS[0].grid, 50));
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
