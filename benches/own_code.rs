//! What safelight itself costs, graphs apart: `cargo bench`. Read ratios; a shared machine's times are its own.
//! `docs/benchmarking.md` has how to compare two states of the code.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, Throughput};
use half::f16;
use half::slice::HalfFloatSliceExt as _;
use image::RgbImage;
use ndarray::Array4;
use safelight::noise::{Brownian, Seeds, TorchCpu};
use safelight::options::{Opt, Options};
use safelight::sampler::{Latent, Part, Run, SAMPLERS, Steps, Tally};
use safelight::schedule::{Grid, SCHEDULES, Schedule, find_schedule};
use safelight::stats::Distribution;
use safelight::tokenizer::Tokenizer;
use safelight::training::{Level, Training};
use safelight::{
    Format, InputPicture, Model, Picture, Pipeline, Precision, Request, Result, Sampling, Stage, Target, own_code,
};

#[path = "own_code/names.rs"]
mod names;

thread_local! {
    /// Names that were given so far.
    static GIVEN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// One bench, `group/function/parameter`, under a name that `names.rs` has.
fn bench(criterion: &mut Criterion, (group, function, parameter): (&str, &str, &str), run: impl FnMut(&mut Bencher)) {
    bench_many(criterion, (group, function, parameter), None, run);
}

/// The same, which also tells how much is done a second.
fn bench_many(
    criterion: &mut Criterion,
    (group, function, parameter): (&str, &str, &str),
    throughput: Option<Throughput>,
    mut run: impl FnMut(&mut Bencher),
) {
    let name = format!("{group}/{function}/{parameter}");
    let known = every_name().any(|known| known == name);
    assert!(known, "{name}: add a row to benches/own_code/names.rs and to docs/benchmarking.md");
    GIVEN.with_borrow_mut(|given| given.insert(name));
    let mut group = criterion.benchmark_group(group);
    if let Some(throughput) = throughput {
        group.throughput(throughput);
    }
    group.bench_function(format!("{function}/{parameter}"), |bencher| run(bencher));
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for measure in [outside_graphs, samplers, schedules, noise, prompts, conversions, pictures, opening, statistics] {
        measure(&mut criterion);
    }
    criterion.final_summary();
    let missing: Vec<_> = GIVEN.with_borrow(|given| every_name().filter(|name| !given.contains(name)).collect());
    assert!(missing.is_empty(), "in benches/own_code/names.rs and not measured: {missing:?}");
}

/// Every name of the table, spelled out.
fn every_name() -> impl Iterator<Item = String> {
    names::NAMES.iter().flat_map(|(name, _)| match name.split('/').nth(1) {
        Some("SAMPLER") => {
            let any = SAMPLERS.iter().filter(|method| method.steps == Steps::Any);
            any.map(|method| name.replace("SAMPLER", method.name)).collect()
        }
        Some("SCHEDULE") => SCHEDULES.iter().map(|timetable| name.replace("SCHEDULE", timetable.name)).collect(),
        _ => vec![(*name).to_owned()],
    })
}

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
fn outside_graphs(criterion: &mut Criterion) {
    let small = Request { prompt: "a red apple".into(), ..Request::default() };
    let large = Request { sampling: Sampling::in_steps(4), size: Some((512, 512)), ..small.clone() };
    let tiny = Model::open(&root().join("tests/models/tiny-sd")).expect("the tiny model opens");
    for (name, model, request) in [("128x128", model(), small), ("512x512", tiny, large)] {
        let mut pipeline = pipeline(&model, &request);
        bench(criterion, ("outside_graphs", "generate", name), |bencher| {
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
    for (shape, name) in [((1, 4, 64, 64), "1x4x64x64"), ((1, 16, 128, 128), "1x16x128x128")] {
        for method in SAMPLERS.iter().filter(|method| method.steps == Steps::Any) {
            let timetable = find_schedule(method.schedule.unwrap_or("trailing")).expect("it is in the table");
            let options = resolve(method.options);
            let schedule = Schedule::new(&training, timetable, method.grid, STEPS, &resolve(timetable.options));
            let schedule = schedule.expect("the steps are not too many");
            let mut free = |x: &Latent, _: Level, denoised: &mut Latent| -> Result<()> {
                denoised.assign(x);
                Ok(())
            };
            bench(criterion, ("step", method.name, name), |bencher| {
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
    bench(criterion, ("schedule", "training_table", "1000"), |bencher| {
        bencher.iter(|| Training::new(model.training.spec().clone()));
    });
    for timetable in SCHEDULES {
        let options = resolve(timetable.options);
        bench(criterion, ("schedule", timetable.name, "40"), |bencher| {
            bencher.iter(|| Schedule::new(black_box(&model.training), timetable, Grid::Sigmas, 40, &options));
        });
    }
}

fn noise(criterion: &mut Criterion) {
    let mut latent = vec![0.0; 4 * 64 * 64];
    let elements = Some(Throughput::Elements(latent.len() as u64));
    bench_many(criterion, ("noise", "torch_cpu", "4x64x64"), elements.clone(), |bencher| {
        let mut source = TorchCpu::new(1);
        bencher.iter(|| source.fill(black_box(&mut latent)));
    });
    bench_many(criterion, ("noise", "brownian", "4x64x64"), elements, |bencher| {
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

/// Words to token ids: a plain prompt, and one that is cut off at the window's 77.
fn prompts(criterion: &mut Criterion) {
    let model = model();
    let files = model.tokenizers.get(&Stage::TextEncoder).expect("the shipped model reads prompts");
    let tokenizer = Tokenizer::from_tokenizer_json(root().join("models/emoji/tokenizer.json"), files.window);
    let tokenizer = tokenizer.expect("the shipped tokenizer opens");
    let long = "a very small red apple on a wooden table, ".repeat(20);
    for (parameter, prompt) in [("4_words", "a small red apple"), ("200_words", long.trim())] {
        bench(criterion, ("prompt", "tokens", parameter), |bencher| {
            bencher.iter(|| tokenizer.encode(black_box(prompt)));
        });
    }
}

/// Between what graphs take and give and what samplers and pictures are made of.
fn conversions(criterion: &mut Criterion) {
    let mut singles: Vec<f32> = (0..4 * 64 * 64).map(|index| (index as f32).sin()).collect();
    let mut halves = vec![f16::ZERO; singles.len()];
    bench(criterion, ("convert", "f32_to_f16", "4x64x64"), |bencher| {
        bencher.iter(|| halves.convert_from_f32_slice(black_box(&singles)));
    });
    bench(criterion, ("convert", "f16_to_f32", "4x64x64"), |bencher| {
        bencher.iter(|| halves.convert_to_f32_slice(black_box(&mut singles)));
    });
    let planes: Vec<f32> = (0..3 * 512 * 512).map(|index| (index as f32).sin()).collect();
    bench(criterion, ("convert", "planes_to_rgb8", "512x512"), |bencher| {
        bencher.iter(|| own_code::rgb8(black_box(&planes), 512, 512).expect("it is a picture"));
    });
    let photo = InputPicture::from(grainy(1024, 768));
    bench(criterion, ("convert", "input_resampled", "1024x768_to_512x512"), |bencher| {
        bencher.iter(|| own_code::input_planes(black_box(&photo), 512, 512));
    });
    bench(criterion, ("convert", "tiles_joined", "1024x1024_of_512x512"), |bencher| {
        bencher.iter(|| own_code::join_tiles(black_box(1024), 512));
    });
}

/// A picture that compresses as badly as pictures do: smooth colours with a little noise.
fn grainy(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let grain = (x.wrapping_mul(2_654_435_761).wrapping_add(y.wrapping_mul(40_503)) >> 13) as u8 & 7;
        image::Rgb([(x / 2) as u8 ^ grain, (y / 2) as u8 ^ grain, ((x + y) / 4) as u8 ^ grain])
    })
}

fn pictures(criterion: &mut Criterion) {
    let request = Request::default();
    let provenance =
        pipeline(&model(), &request).generate(&request).expect("the picture is made").pictures.remove(0).provenance;
    for (side, parameter) in [(256, "256x256"), (512, "512x512")] {
        let latent = ndarray::Array3::zeros((1, 1, 1));
        let picture = Picture { pixels: grainy(side, side), latent, provenance: provenance.clone() };
        for format in Format::ALL {
            bench(criterion, ("encode", format.name(), parameter), |bencher| {
                bencher.iter(|| picture.encode(format).expect("the picture is encoded"));
            });
        }
    }
}

/// What comes before a graph is opened: the manifest and the tokenizer, and the hash of the denoiser's INT8 graph.
fn opening(criterion: &mut Criterion) {
    bench(criterion, ("open", "manifest", "emoji"), |bencher| bencher.iter(model));
    let model = model();
    let (_, graph) = model.graph(Stage::Denoiser, &[Precision::Int8]).expect("the shipped model has it");
    let bytes = Some(Throughput::Bytes(graph.total_bytes()));
    bench_many(criterion, ("open", "verify_sha256", "emoji_unet_int8"), bytes, |bencher| {
        bencher.iter(|| graph.verify().expect("the shipped graph is whole"));
    });
}

fn statistics(criterion: &mut Criterion) {
    let samples: Vec<f64> = (0..10_000_u32).map(|index| 100.0 + f64::from(index.wrapping_mul(40_503) % 977)).collect();
    bench(criterion, ("statistics", "distribution", "10000"), |bencher| {
        bencher.iter(|| Distribution::of(black_box(&samples)));
    });
}
