//! Generations that are killed and go on: the same picture to the last bit, whatever makes it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Outcome, Place, repository, tiny};
use image::{GrayImage, Luma, Rgb, RgbImage};
use safelight::guidance::GUIDANCES;
use safelight::sampler::{Denoise, Latent, Method, Run, SAMPLERS, Steps, alike, blend};
use safelight::trajectory::Restart;
use safelight::{
    Cancel, Checkpoint, ErrorKind, Event, Format, GuidanceRuns, InputMask, InputPicture, KeptPixels, Model,
    NoiseLayout, Pipeline, Request, Residency, SamplerNoise, Sampling, Target,
};

/// A model opened on one thread, and where its checkpoint lies.
struct Bench {
    model: Model,
    target: Target,
    pipeline: Pipeline,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(model: &str, residency: Residency) -> Self {
        Self::of(&tiny(model), residency)
    }

    fn of(model: &Path, residency: Residency) -> Self {
        let target = Target::open(&repository().join("targets/generic-cpu.yaml")).unwrap();
        let target = target.with_threads(1).with_residency(residency);
        let model = Model::open(model).unwrap();
        let pipeline = Pipeline::open(&target, &model).unwrap();
        Self { model, target, pipeline, folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("a.checkpoint")
    }

    fn create(&self, request: &Request) -> safelight::Result<Checkpoint> {
        Checkpoint::create(&self.path(), 1, std::slice::from_ref(request), (&self.model, &self.target))
    }

    fn resume(&self, request: &Request) -> safelight::Result<Option<Checkpoint>> {
        Checkpoint::resume(&self.path(), 1, std::slice::from_ref(request), (&self.model, &self.target))
    }

    /// The bits of each picture's latent, and its file with all that it tells.
    fn pictures(&mut self, request: &Request) -> Vec<(Vec<u32>, Vec<u8>)> {
        let pictures = self.pipeline.generate(request).unwrap().pictures;
        let both = pictures.iter().map(|picture| {
            (picture.latent.iter().map(|x| x.to_bits()).collect(), picture.encode(Format::Png).unwrap())
        });
        both.collect()
    }

    /// Keeps all of a generation, and has it go on from what is left of that after each of `cuts`, in percent.
    fn check(&mut self, case: &str, request: &Request, cuts: &[usize]) {
        let expected = self.pictures(request);
        self.pipeline.set_checkpoint(Some(self.create(request).unwrap()));
        assert!(self.pictures(request) == expected, "{case}: with a checkpoint");
        self.pipeline.set_checkpoint(None);
        let whole = fs::read(self.path()).unwrap();
        for percent in cuts {
            fs::write(self.path(), &whole[..whole.len() * percent / 100]).unwrap();
            let checkpoint = self.resume(request).unwrap().unwrap();
            let held = checkpoint.held();
            self.pipeline.set_checkpoint(Some(checkpoint));
            assert!(self.pictures(request) == expected, "{case}: from {percent} %, {held:?}");
            self.pipeline.set_checkpoint(None);
            assert!(fs::read(self.path()).unwrap() == whole, "{case}: from {percent} %, another checkpoint");
        }
        fs::remove_file(self.path()).unwrap();
    }
}

fn request(steps: usize) -> Request {
    Request { prompt: "a red apple".into(), seed: 7, sampling: Sampling::in_steps(steps), ..Request::default() }
}

fn guided(scale: f64) -> Request {
    Request { guidance: Some(scale.into()), negative: Some("blue".into()), ..request(6) }
}

fn with(mut request: Request, sampler: &str, options: &[(&str, f64)]) -> Request {
    request.sampling.sampler = Some(sampler.into());
    request.sampling.options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    request
}

#[test]
fn every_sampler_goes_on() {
    let mut bench = Bench::new("tiny-sd", Residency::Resident);
    for method in SAMPLERS {
        let mut request = guided(3.0);
        request.sampling.sampler = Some(method.name.into());
        request.sampling.steps = (method.steps == Steps::Any).then_some(6);
        bench.check(method.name, &request, &[55, 80]);
    }
}

#[test]
fn every_guidance_goes_on() {
    let mut bench = Bench::new("tiny-sd", Residency::Resident);
    // CFG-Zero* is of flows.
    for rule in GUIDANCES.iter().filter(|rule| rule.name != "cfg_zero") {
        let scale = if rule.name == "cfg_pp" { 0.6 } else { 4.0 };
        let options: &[_] = if rule.name == "apg" { &[("momentum", -0.5)] } else { &[] };
        let request = Request { guidance_method: Some(rule.name.into()), ..with(guided(scale), "euler", options) };
        bench.check(rule.name, &request, &[50, 75]);
        let request = Request { guidance_runs: GuidanceRuns::InTurn, ..request };
        bench.check(&format!("{} in turn", rule.name), &request, &[60, 70, 80]);
    }
    let limited = with(guided(8.0), "dpmpp_2m", &[("threshold", 0.9), ("rescale", 0.5)]);
    bench.check("limits", &limited, &[50]);
    let resting = with(guided(4.0), "euler", &[("guidance_min", 1.0), ("guidance_max", 5.0)]);
    bench.check("guidance that rests", &resting, &[50, 70]);
    Bench::new("tiny-lcm", Residency::Resident).check("embedded", &guided(4.0), &[60, 90]);

    let place = Place::new();
    let folder = common::manifest_model(&place);
    let manifest = fs::read_to_string(folder.join("model.yaml")).unwrap();
    let training = "training: { beta_start: 0.00085, beta_end: 0.012, betas: scaled_linear, prediction: epsilon }";
    fs::write(folder.join("model.yaml"), manifest.replace(training, "flow: { shift: 3.0 }")).unwrap();
    let zero = with(guided(4.0), "euler", &[("zero_steps", 2.0)]);
    let zero = Request { guidance_method: Some("cfg_zero".into()), ..zero };
    Bench::of(&folder, Residency::Resident).check("cfg_zero", &zero, &[60, 90]);
}

/// An application's own, which remembers what it was given in the step before.
fn remembering(denoiser: &mut dyn Denoise, mut x: Latent, run: &mut Run) -> safelight::Result<Latent> {
    let (mut denoised, mut last, mut fresh) = (alike(&x), alike(&x), alike(&x));
    for step in 0..run.steps() {
        let (from, to) = run.interval(step);
        denoiser.denoise(&x, from, &mut denoised)?;
        let estimate = if step == 0 { denoised.clone() } else { &denoised * 1.25 - &last * 0.25 };
        let keep = to.sigma / from.sigma;
        blend(&mut x, keep, &[(to.alpha - keep * from.alpha, &estimate)]);
        run.add_noise(&mut x, &mut fresh, 0.1 * to.sigma, (from, to))?;
        last.assign(&denoised);
        run.done(step, &mut x, &denoised)?;
    }
    Ok(x)
}

const REMEMBERING: Method = Method { name: "remembering", sample: remembering, stochastic: true, ..Method::PLAIN };

#[test]
fn every_kind_of_request_goes_on() {
    let ancestral = with(request(6), "euler_ancestral", &[]);
    let restart = Restart { high: 2.0, low: 0.5, steps: 2, times: 2 };
    let mut restarted = with(request(8), "euler", &[]);
    restarted.sampling.restarts = vec![restart];
    let mut own = with(request(6), "remembering", &[]);
    own.sampling.own_samplers = vec![&REMEMBERING];
    let cases = [
        ("brownian", Request { sampler_noise: SamplerNoise::Brownian, ..with(request(6), "dpmpp_sde", &[]) }),
        ("restarts", restarted),
        ("own sampler", own),
        ("relay", with(request(6), "euler_ancestral until step 3, then dpmpp_2m", &[])),
        ("batches", Request { count: 5, batch: 2, ..ancestral.clone() }),
        ("shared noise", Request { count: 3, noise: NoiseLayout::Shared, ..ancestral.clone() }),
        ("walk", Request { count: 5, batch: 2, walk: vec![9, 12], ..ancestral.clone() }),
        ("noise seed", Request { noise_seed: Some(3), count: 2, ..ancestral }),
    ];
    for residency in [Residency::Resident, Residency::Staged] {
        let mut bench = Bench::new("tiny-sd", residency);
        for (case, request) in &cases {
            bench.check(case, request, &[40, 60, 85]);
        }
    }
}

fn picture() -> InputPicture {
    RgbImage::from_fn(64, 64, |x, y| Rgb([(x * 3) as u8, (y * 3) as u8, (x * y / 20) as u8])).into()
}

fn mask() -> InputMask {
    GrayImage::from_fn(64, 64, |x, _| Luma([if x < 32 { 0 } else { 255 }])).into()
}

#[test]
fn pictures_to_begin_with_go_on() {
    let mut whole = with(request(6), "euler_ancestral", &[]);
    whole.image = Some(Arc::new(picture()));
    let part = Request { mask: Some(Arc::new(mask())), count: 2, ..whole.clone() };
    let pasted = Request { kept: KeptPixels::Pasted, ..part.clone() };
    let mut bench = Bench::new("families/sd15", Residency::Resident);
    for (case, request) in [("whole", &whole), ("part", &part), ("pasted", &pasted)] {
        bench.check(case, request, &[60, 85]);
    }
    Bench::new("families/sd15-inpainting", Residency::Resident).check("shown", &part, &[60, 85]);
}

/// The observer stops it, as Ctrl-C does; saved pictures are not made again, and their numbers are given back.
#[test]
fn saved_pictures_are_not_made_again() {
    for residency in [Residency::Resident, Residency::Staged] {
        let mut bench = Bench::new("tiny-sd", residency);
        let request = Request { count: 5, batch: 2, ..with(request(4), "euler", &[]) };
        let expected = bench.pictures(&request);
        let checkpoint = bench.create(&request).unwrap();
        bench.pipeline.set_checkpoint(Some(checkpoint.clone()));
        let mut files = Vec::new();
        let error = bench.pipeline.generate_each(&request, |picture| {
            files.push(picture.encode(Format::Png)?);
            checkpoint.saved(files.last().unwrap());
            let stop = safelight::Error::new(ErrorKind::Io, "stop");
            if files.len() == 3 { Err(stop) } else { Ok(()) }
        });
        assert_eq!(error.unwrap_err().to_string(), "stop");
        let folder = bench.folder.path().to_path_buf();
        let file = |picture: usize| folder.join(format!("{picture}.png"));
        (0..3).for_each(|i| fs::write(file(i), &files[i]).unwrap());
        bench.pipeline.set_checkpoint(None);
        drop(checkpoint);

        let checkpoint = bench.resume(&request).unwrap().unwrap();
        assert_eq!(checkpoint.held().pictures, 3);
        assert!(checkpoint.check_saved(|_, picture| Some(file(picture))).is_empty());
        bench.pipeline.set_checkpoint(Some(checkpoint.clone()));
        let mut made = Vec::new();
        let report = bench.pipeline.generate_each(&request, |picture| {
            made.push(picture.encode(Format::Png)?);
            checkpoint.saved(made.last().unwrap());
            Ok(())
        });
        let resumed = report.unwrap().resumed.unwrap();
        let steps = if residency == Residency::Staged { 8 } else { 4 };
        assert_eq!((resumed.pictures, resumed.steps, resumed.evaluations), (3, steps, steps), "{residency:?}");
        assert!(made.len() == 2 && made[0] == expected[3].1 && made[1] == expected[4].1, "{residency:?}");
        assert_eq!(checkpoint.held().evaluations, 0);
        // The file holds what was asked for, and which pictures are saved.
        assert!(fs::metadata(bench.path()).unwrap().len() < 4096);
        bench.pipeline.set_checkpoint(None);
        drop(checkpoint);

        fs::remove_file(file(0)).unwrap();
        fs::write(file(1), "edited").unwrap();
        let checkpoint = bench.resume(&request).unwrap().unwrap();
        let gone = checkpoint.check_saved(|_, picture| (picture < 3).then(|| file(picture)));
        assert_eq!(gone, [file(0), file(1)]);
        bench.pipeline.set_checkpoint(Some(checkpoint));
        let again = bench.pictures(&request);
        assert!(again.len() == 4 && again[0] == expected[0] && again[1] == expected[1] && again[3] == expected[4]);
    }
}

/// A file that ends anywhere, and one of which any byte is another, leads to the picture or to an error. That every
/// single place does is tested beside the code that reads it.
#[test]
fn damaged_files_lead_to_the_picture_or_to_an_error() {
    let mut bench = Bench::new("tiny-sd", Residency::Resident);
    let request = with(request(2), "euler", &[]);
    let expected = bench.pictures(&request);
    bench.pipeline.set_checkpoint(Some(bench.create(&request).unwrap()));
    bench.pictures(&request);
    bench.pipeline.set_checkpoint(None);
    let whole = fs::read(bench.path()).unwrap();
    for end in (0..whole.len()).step_by(29) {
        fs::write(bench.path(), &whole[..end]).unwrap();
        let cut = bench.resume(&request).map(|checkpoint| checkpoint.unwrap().held());
        let mut changed = whole.clone();
        changed[end] ^= 1;
        fs::write(bench.path(), &changed).unwrap();
        let damaged = bench.resume(&request).map(|checkpoint| checkpoint.unwrap().held());
        for outcome in [&cut, &damaged] {
            match outcome {
                Ok(held) => assert!(held.evaluations < 2 && held.pictures == 0, "{end}: {held:?}"),
                Err(error) => assert!(
                    error.kind() == ErrorKind::Usage && error.to_string().contains("is damaged at its beginning"),
                    "{end}: {error}"
                ),
            }
        }
        if damaged.is_ok() {
            bench.pipeline.set_checkpoint(bench.resume(&request).unwrap());
            assert!(bench.pictures(&request) == expected, "{end}");
            bench.pipeline.set_checkpoint(None);
        }
    }
}

#[test]
fn other_requests_are_told_what_differs() {
    let mut bench = Bench::new("tiny-sd", Residency::Resident);
    let usual = with(guided(3.0), "euler", &[]);
    let cancelled = Request { cancel: Cancel::new(), ..usual.clone() };
    let cancel = cancelled.cancel.clone();
    bench.pipeline.on_event(move |event| {
        if matches!(event, Event::Step { step: 2, .. }) {
            cancel.cancel();
        }
    });
    bench.pipeline.set_checkpoint(Some(bench.create(&cancelled).unwrap()));
    assert_eq!(bench.pipeline.generate(&cancelled).unwrap_err().kind(), ErrorKind::Cancelled);
    bench.pipeline.set_checkpoint(None);
    assert_eq!(Checkpoint::seed(&bench.path()).unwrap(), Some(7));
    let image = Request { image: Some(Arc::new(picture())), ..usual.clone() };
    assert!(bench.resume(&image).is_err());
    for (other, telling) in [
        (Request { seed: 8, ..usual.clone() }, "seed: 7 → 8"),
        (Request { prompt: "a blue house".into(), ..usual.clone() }, "prompt: \"a red apple\" → \"a blue house\""),
        (Request { negative: None, ..usual.clone() }, "negative: \"blue\" → null"),
        (Request { guidance: Some(4.0.into()), ..usual.clone() }, "guidance: 3.0 → 4.0"),
        (Request { count: 2, ..usual.clone() }, "count: 1 → 2"),
        (Request { size: Some((128, 64)), ..usual.clone() }, "width: 64 → 128"),
        (with(usual.clone(), "dpmpp_2m", &[]), "sampler: \"euler\" → \"dpmpp_2m\""),
        (with(usual.clone(), "euler", &[("rescale", 0.5)]), "options.rescale: nothing → 0.5"),
        (Request { guidance_runs: GuidanceRuns::InTurn, ..usual.clone() }, "\"together\" → \"in-turn\""),
    ] {
        let error = bench.resume(&other).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{telling}");
        assert!(error.to_string().contains(telling), "expected {telling} in: {error}");
    }
    let several = [usual.clone(), Request { prompt: "a house".into(), ..usual.clone() }];
    let error = Checkpoint::resume(&bench.path(), 1, &several, (&bench.model, &bench.target)).map(drop).unwrap_err();
    assert!(error.to_string().contains("requests: 1 → 2"), "{error}");
    let two_threads = bench.target.clone().with_threads(2);
    let error =
        Checkpoint::resume(&bench.path(), 1, &several[..1], (&bench.model, &two_threads)).map(drop).unwrap_err();
    assert!(error.to_string().contains("target's stages.decoder.session.intra_threads: 1 → 2"), "{error}");

    let held = bench.resume(&usual).unwrap().unwrap();
    assert_eq!(held.held().evaluations, 3);
    // While it is open, nobody else has it.
    assert!(bench.resume(&usual).map(drop).unwrap_err().to_string().contains("another process works on it"));
    assert!(bench.create(&usual).map(drop).unwrap_err().to_string().contains("is there"));
    // A pipeline makes what the checkpoint is of, and nothing else.
    bench.pipeline.set_checkpoint(Some(held));
    let error = bench.pipeline.generate(&Request { seed: 9, ..usual.clone() }).unwrap_err();
    assert!(error.to_string().contains("request 1 is not the one that it was opened for"), "{error}");
    bench.pipeline.generate(&usual).unwrap();
    assert!(bench.pipeline.generate(&usual).unwrap_err().to_string().contains("request 2 is not the one"));
}

/// Weights that are others than those that gave the first numbers.
#[test]
fn another_graph_is_told() {
    let place = Place::new();
    let model = common::manifest_model(&place);
    let path = place.work().join("a.checkpoint");
    let target = Target::open(&repository().join("targets/generic-cpu.yaml")).unwrap();
    let requests = [request(3)];
    let opened = Model::open(&model).unwrap();
    let mut pipeline = Pipeline::open(&target, &opened).unwrap();
    pipeline.set_checkpoint(Some(Checkpoint::create(&path, 1, &requests, (&opened, &target)).unwrap()));
    pipeline.generate(&requests[0]).unwrap();
    drop(pipeline);
    let folder = tiny("families/sd15/unet");
    fs::copy(folder.join("model.onnx"), model.join("denoiser.onnx")).unwrap();
    common::describe(&model);
    let opened = Model::open(&model).unwrap();
    let mut pipeline = Pipeline::open(&target, &opened).unwrap();
    pipeline.set_checkpoint(Checkpoint::resume(&path, 1, &requests, (&opened, &target)).unwrap());
    let error = pipeline.generate(&requests[0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("denoiser sha256: "), "{error}");
}

/// A command that makes pictures of 64×64 in many steps.
fn command(place: &Place, model: &Path, more: &[&str]) -> std::process::Command {
    let mut command = place.command(["generate", "--target", "generic-cpu", "--model"]);
    command.arg(model).args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Kills a command after each of `moments` in turn, and lets it go on to the end at last; after each, every picture under
/// its final name is whole. Returns how often it was killed, and what the last said.
#[cfg(unix)]
fn killed(place: &Place, command: impl Fn() -> std::process::Command, moments: &[Duration]) -> (usize, Outcome) {
    let mut kills = 0;
    for moment in moments {
        let mut child = command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while start.elapsed() < *moment && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        // SIGKILL.
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        kills += 1;
        for path in place.left().iter().filter(|path| path.ends_with(".png")) {
            let path = place.work().join(path.strip_prefix("work/").unwrap());
            image::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
    (kills, Outcome::of(command()))
}

fn files(place: &Place, folder: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(place.work().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    // What a killed process was writing under a temporary name stays.
    let visible = entries.filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with(".safelight-"));
    let mut files: Vec<_> =
        visible.map(|path| (path.file_name().unwrap().display().to_string(), fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

#[cfg(unix)]
#[test]
fn processes_that_are_killed_go_on() {
    let place = Place::new();
    let prompts = place.input("words.txt", "a cat\na dog\n");
    let prompts = ["--prompts", prompts.to_str().unwrap()];
    let more = ["--count", "2", "--steps", "150", "--sampler", "dpmpp_2m_sde", "--guidance", "3", "--seed", "5"];
    let more = [&prompts[..], &more].concat();
    Outcome::of(command(&place, &tiny("tiny-sd"), &[&more[..], &["--out", "whole/"]].concat())).expect("whole", 0, "");
    let kept = ["--out", "kept/", "--checkpoint-every", "2", "--resume"];
    let begun = || command(&place, &tiny("tiny-sd"), &[&more[..], &kept].concat());
    let moments: Vec<_> = [300, 350, 700, 250, 500, 900].map(Duration::from_millis).into();
    let (kills, outcome) = killed(&place, begun, &moments);
    outcome.expect("kept", 0, "");
    assert!(kills > 0);
    assert!(files(&place, "kept") == files(&place, "whole"), "{kills} kills: {}", outcome.stderr);
}

/// The shipped model, killed fifty times at random while it makes few pictures of many steps, and fifty times while it
/// makes many of few: `cargo test --test checkpoint -- --ignored --nocapture`.
#[cfg(unix)]
#[test]
#[ignore = "takes minutes"]
fn fifty_kills_at_random_moments() {
    let mut random = 9_u64;
    let mut moment = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis(300 + (random >> 33) % 2000)
    };
    let few = ["--count", "4", "--steps", "400", "--sampler", "dpmpp_sde"];
    let many = ["--count", "60", "--steps", "8", "--batch", "3"];
    for more in [&few[..], &many] {
        let place = Place::new();
        let more = [&["a red apple", "--seed", "5"], more].concat();
        let model = repository().join("models/emoji");
        Outcome::of(command(&place, &model, &[&more[..], &["--out", "whole/"]].concat())).expect("whole", 0, "");
        let (mut kills, mut rounds) = (0, 0);
        while kills < 50 {
            let kept = ["--out", "kept/", "--checkpoint-every", "3", "--resume"];
            let begun = || command(&place, &model, &[&more[..], &kept].concat());
            let moments: Vec<_> = (kills..50).map(|_| moment()).collect();
            let (killed, outcome) = killed(&place, begun, &moments);
            outcome.expect("kept", 0, "");
            assert!(files(&place, "kept") == files(&place, "whole"), "{}", outcome.stderr);
            fs::remove_dir_all(place.work().join("kept")).unwrap();
            (kills, rounds) = (kills + killed, rounds + 1);
        }
        println!("{more:?}: {kills} kills in {rounds} rounds, all pictures bit-identical");
    }
}

/// Ctrl-C leaves what was done; the seed that was chosen is taken up.
#[cfg(unix)]
#[test]
fn interrupted_commands_say_how_to_go_on() {
    let place = Place::new();
    let more = ["a cat", "--steps", "900", "--sampler", "ddim", "--out", "cat.png", "--checkpoint-every", "5"];
    let child = command(&place, &tiny("tiny-sd"), &more).spawn().unwrap();
    let checkpoint = place.work().join("cat.png.checkpoint");
    let start = Instant::now();
    while fs::metadata(&checkpoint).map_or(0, |found| found.len()) < 100_000 {
        assert!(start.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let outcome = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert_eq!(outcome.status.code(), Some(8), "{told}");
    assert!(
        told.contains("what is done is kept in cat.png.checkpoint; the same command with --resume goes on"),
        "{told}"
    );
    assert!(!place.work().join("cat.png").exists());
    let seed = Checkpoint::seed(&checkpoint).unwrap().unwrap();
    Outcome::of(command(&place, &tiny("tiny-sd"), &more)).expect("without --resume", 2, "go on with it (--resume)");
    let outcome = Outcome::of(command(&place, &tiny("tiny-sd"), &[&more[..], &["--resume", "--json"]].concat()));
    outcome.expect("resumed", 0, "resumed at step");
    let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(report["pictures"][0]["provenance"]["seed"], seed);
    assert!(report["resumed"]["evaluations"].as_u64().unwrap() > 5);
    assert_eq!(place.left().iter().filter(|path| path.contains("checkpoint")).count(), 0);
}

/// NaN comes again from what led there.
#[test]
fn numbers_that_cannot_become_a_picture_come_again() {
    let place = Place::new();
    let model = common::manifest_model(&place);
    fs::copy(tiny("faulty/denoiser_nan_later.onnx"), model.join("denoiser.onnx")).unwrap();
    common::describe(&model);
    let more = ["a cat", "--steps", "4", "--sampler", "ddim", "--seed", "1", "--checkpoint-every", "1", "--resume"];
    let first = Outcome::of(command(&place, &model, &more));
    first.expect("first", 6, "a-cat.checkpoint, and leads to the same; remove it to begin anew");
    let again = Outcome::of(command(&place, &model, &more));
    again.expect("again", 6, "resuming from a-cat.checkpoint");
    let error = |outcome: &Outcome| outcome.stderr.lines().last().unwrap().to_owned();
    assert_eq!(error(&again), error(&first));
}

#[test]
fn flags_that_cannot_be_are_refused_before_anything_is_opened() {
    let place = Place::new();
    fs::write(place.work().join("stranger"), "text").unwrap();
    fs::create_dir(place.work().join("folder")).unwrap();
    let try_with = |more: &[&str]| {
        let mut command = place.without_library(["generate", "a cat", "--target", "generic-cpu", "--model"]);
        command.arg(tiny("tiny-sd")).args(more);
        Outcome::of(command)
    };
    for (more, telling) in [
        (&["--resume"] as &[&str], "--checkpoint-every"),
        (&["--checkpoint", "x"], "--checkpoint-every"),
        (&["--checkpoint-every", "0"], "a checkpoint every 0 steps, expected at least 1"),
        (&["--checkpoint-every", "1", "--record-calibration", "x"], "cannot be used with"),
        (&["--checkpoint-every", "1", "--checkpoint", "stranger"], "stranger: is there"),
        (&["--checkpoint-every", "1", "--checkpoint", "stranger", "--resume"], "stranger: is damaged at its beginning"),
        (&["--checkpoint-every", "1", "--checkpoint", "folder"], "folder: is a folder; name a file"),
        (&["--checkpoint-every", "1", "--checkpoint", "/dev/null", "--resume"], "is damaged at its beginning"),
    ] {
        try_with(more).expect(&format!("{more:?}"), 2, telling);
    }
    try_with(&["--checkpoint-every", "1", "--checkpoint", "absent/x"]).expect("absent", 7, "its folder does not exist");
    // Where nothing could be run, nothing is left that would have to be resumed.
    try_with(&["--checkpoint-every", "1"]).expect("no library", 4, "");
    assert_eq!(place.left(), ["work/stranger"]);
}

/// The picture comes in any case; what does not fit would be made again.
#[cfg(unix)]
#[test]
fn a_full_disk_stops_the_checkpoint_and_not_the_picture() {
    let place = Place::new();
    let more = ["a cat", "--seed", "3", "--steps", "100", "--sampler", "ddim"];
    Outcome::of(command(&place, &tiny("tiny-sd"), &[&more[..], &["--out", "whole/"]].concat())).expect("whole", 0, "");
    // A limit to the size of files stands for a disk that is full.
    let kept = command(&place, &tiny("tiny-sd"), &[&more[..], &["--out", "kept/", "--checkpoint-every", "1"]].concat());
    let mut limited = std::process::Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""])
        .arg(kept.get_program())
        .args(kept.get_args());
    limited.envs(kept.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(place.work());
    let outcome = Outcome::of(limited);
    outcome.expect("full", 0, "cannot be written: File too large");
    assert!(files(&place, "kept") == files(&place, "whole"));
}
