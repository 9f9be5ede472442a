//! When graphs are in memory changes no number, only how much memory there is to have.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::path::{Path, PathBuf};

use safelight::{Cancel, ErrorKind, Event, Model, Pipeline, PromptCache, Request, Residency, Sampling, Target};

use common::{Outcome, Place};

mod common;

fn pipeline(model: &str, extra: &str) -> Pipeline {
    pipeline_for(model, extra, &Request::default())
}

fn pipeline_for(model: &str, extra: &str, usual: &Request) -> Pipeline {
    let target = format!(
        "schema: safelight-target/1\nname: test\ntitle: test\nproviders: [{{ name: cpu, need: required }}]\n\
         precision: [int8, fp32, fp16]\n{extra}\n"
    );
    let model = Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(model)).unwrap();
    Pipeline::open_for(&Target::parse(&target).unwrap(), &model, usual).unwrap()
}

fn request(prompt: &str, count: usize) -> Request {
    let sampling = Sampling { sampler: Some("euler_ancestral".into()), ..Sampling::in_steps(2) };
    Request { prompt: prompt.into(), seed: 7, sampling, count, ..Request::default() }
}

/// Latents and pixels of every picture.
fn pictures(pipeline: &mut Pipeline, request: &Request) -> Vec<(Vec<f32>, Vec<u8>)> {
    let pictures = pipeline.generate(request).unwrap().pictures;
    pictures.into_iter().map(|picture| (picture.latent.into_iter().collect(), picture.pixels.into_raw())).collect()
}

/// Resident graphs that were opened for the request, since INT8 graphs compute a little otherwise where sizes are free.
#[test]
fn staged_pictures_are_those_of_resident_graphs() {
    for model in ["tests/models/tiny-sd", "tests/models/tiny-static", "tests/models/tiny-lcm", "models/emoji"] {
        let mut staged = pipeline(model, "residency: staged");
        let several = request("a red apple", 3);
        let guided = Request { guidance: Some(3.0.into()), negative: Some("blue".into()), ..request("a house", 1) };
        let in_batches = Request { batch: 2, ..request("a red apple", 3) };
        for request in [&several, &guided, &in_batches] {
            let mut resident = pipeline_for(model, "residency: resident", request);
            assert!(pictures(&mut staged, request) == pictures(&mut resident, request), "{model}");
        }
    }
}

/// Every graph is opened once a request, for the request's own size, and what each ran is known afterwards.
#[test]
fn staged_graphs_are_opened_with_the_request() {
    let mut staged = pipeline("tests/models/tiny-sd", "residency: staged");
    assert!(staged.graphs().values().all(|opened| opened.providers.is_empty() && opened.sha256.len() == 64));
    for size in [(64, 64), (128, 64), (64, 64)] {
        let output = staged.generate(&Request { size: Some(size), ..request("a red apple", 2) }).unwrap();
        assert!(output.timings.reopen_ms > 0.0 && output.timings.own_ms() > 0.0, "{:?}", output.timings);
        assert!(output.pictures[1].provenance.graphs.values().all(|opened| opened.providers.len() == 1));
    }
    // The prompt is known by now, so that not even the text encoder is opened for the next request.
    assert!(staged.generate(&request("a red apple", 1)).unwrap().timings.text_encoder_ms < 1.0);
}

/// Staged, all pictures are denoised before the first is decoded, and a fault leaves a pipeline that works.
#[test]
fn staged_pictures_are_denoised_before_any_is_decoded() {
    let mut staged = pipeline("tests/models/tiny-sd", "residency: staged");
    let (send, events) = std::sync::mpsc::channel();
    staged.on_event(move |event| {
        let letter = match event {
            Event::Noise { .. } => 'n',
            Event::Decoded { .. } => 'd',
            _ => return,
        };
        let _ = send.send(letter);
    });
    let request = request("a red apple", 3);
    let outcome = staged.generate_each(&request, |_| {
        request.cancel.cancel();
        Ok(())
    });
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(events.try_iter().collect::<String>(), "nnnd");
    assert_eq!(staged.generate(&Request { cancel: Cancel::new(), ..request }).unwrap().pictures.len(), 3);
}

#[test]
fn residency_is_checked_like_everything_in_a_target() {
    let parse = |residency: &str| {
        Target::parse(&format!(
            "schema: safelight-target/1\nname: test\ntitle: test\nproviders: [{{ name: cpu, need: required }}]\n\
             precision: [int8]\n{residency}\n"
        ))
    };
    assert_eq!(parse("").unwrap().residency, Residency::Resident);
    assert_eq!(parse("residency: staged").unwrap().residency, Residency::Staged);
    let error = parse("residency: stagd").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("`resident` or `staged`"), "{error}");
}

/// A place with a copy of a model, and the graphs of its text encoder.
fn with_model(model: &str) -> (Place, PathBuf, Vec<PathBuf>) {
    let place = Place::new();
    let copy = place.inputs().join("model");
    common::copy_folder(&common::repository().join(model), &copy);
    let encoders = ["text_encoder.int8.onnx", "text_encoder.fp16.onnx", "text_encoder/model.onnx"];
    let encoders = encoders.map(|name| copy.join(name)).into_iter().filter(|path| path.exists()).collect();
    (place, copy, encoders)
}

fn cached(model: &Path, cache: &Path, extra: &str) -> Pipeline {
    let cache = PromptCache::open(cache).unwrap();
    let target = format!(
        "schema: safelight-target/1\nname: test\ntitle: test\nproviders: [{{ name: cpu, need: required }}]\n{extra}\n"
    );
    let model = Model::open_with_prompts(model, &cache).unwrap();
    Pipeline::open_with_prompts(&Target::parse(&target).unwrap(), &model, &Request::default(), cache).unwrap()
}

/// With a manifest, which promises the encoder's hash, and without one, where the cache has noted it.
#[test]
fn cached_prompts_need_no_text_encoder() {
    for (model, residency) in [("models/emoji", "resident"), ("tests/models/tiny-sd", "staged")] {
        let (place, model, encoders) = with_model(model);
        let (cache, extra) = (place.work().join("cache"), format!("precision: [int8, fp32]\nresidency: {residency}"));
        let request = Request { guidance: Some(3.0.into()), ..request("a red apple", 2) };
        let mut without = pipeline(model.to_str().unwrap(), &format!("residency: {residency}"));
        let expected = pictures(&mut without, &request);

        let mut first = cached(&model, &cache, &extra);
        let output = first.generate(&request).unwrap();
        // The prompt and the empty negative one.
        assert_eq!((output.timings.text_hits, output.timings.text_misses), (0, 2));
        drop(first);
        assert!(!encoders.is_empty());
        encoders.iter().for_each(|path| fs::remove_file(path).unwrap());

        assert_eq!(Model::open(&model).unwrap_err().kind(), ErrorKind::Model);
        let mut second = cached(&model, &cache, &extra);
        let output = second.generate(&request).unwrap();
        assert_eq!((output.timings.text_hits, output.timings.text_misses), (2, 0));
        assert_eq!(output.warnings.iter().filter(|warning| warning.contains("cache")).count(), 0);
        assert!(output.pictures[0].provenance.graphs[&safelight::Stage::TextEncoder].providers.is_empty());
        assert!(pictures(&mut second, &request) == expected);

        let error = second.generate(&Request { prompt: "a blue house".into(), ..request }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Model);
        assert!(error.to_string().contains("\"a blue house\" is not in the prompt cache"), "{error}");
        assert!(error.to_string().ends_with("is missing"), "{error}");
    }
}

#[test]
fn a_damaged_entry_is_told_and_written_again() {
    let (place, model, _) = with_model("tests/models/tiny-sd");
    let cache = place.work().join("cache");
    let request = Request { guidance: Some(1.0.into()), ..request("a red apple", 1) };
    let expected = pictures(&mut cached(&model, &cache, "precision: [fp32]"), &request);
    let files = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
    let entry = files.into_iter().find(|path| path.extension().unwrap() == "prompt").unwrap();
    let whole = fs::read(&entry).unwrap();
    let mut flipped = whole.clone();
    flipped[100] ^= 4;
    for damaged in [&whole[..50], b"", b"<html>", &flipped] {
        fs::write(&entry, damaged).unwrap();
        let output = cached(&model, &cache, "precision: [fp32]").generate(&request).unwrap();
        assert!(output.warnings.iter().any(|warning| warning.contains("it is not used")), "{:?}", output.warnings);
        assert_eq!((output.timings.text_hits, output.timings.text_misses), (0, 1));
        assert_eq!(fs::read(&entry).unwrap(), whole);
    }
    assert!(pictures(&mut cached(&model, &cache, "precision: [fp32]"), &request) == expected);
}

#[test]
fn a_cache_that_cannot_be_written_to_is_a_warning() {
    let (place, model, _) = with_model("tests/models/tiny-sd");
    let cache = place.work().join("cache");
    let mut pipeline = cached(&model, &cache, "precision: [fp32]");
    fs::remove_dir_all(&cache).unwrap();
    let output = pipeline.generate(&request("a red apple", 1)).unwrap();
    assert!(output.warnings.iter().any(|warning| warning.contains("this prompt is not kept")), "{:?}", output.warnings);
}

/// What another encoder, precision or session setting made is never taken.
#[test]
fn entries_belong_to_one_way_of_running_the_encoder() {
    let (place, model, _) = with_model("models/emoji");
    let cache = place.work().join("cache");
    let misses =
        |extra: &str| cached(&model, &cache, extra).generate(&request("a red apple", 1)).unwrap().timings.text_misses;
    let ways =
        ["precision: [int8]", "precision: [fp16]", "precision: [int8]\nsession: { graph_optimization: disabled }"];
    assert_eq!(ways.map(misses), [1, 1, 1]);
    assert_eq!(ways.map(misses), [0, 0, 0]);
    // How many threads there are changes no number that anybody could see.
    assert_eq!(misses("precision: [int8]\nsession: { intra_threads: 1 }"), 0);
}

#[test]
fn a_kiosk_is_warmed_by_its_prompts() {
    let (place, model, encoders) = with_model("models/emoji");
    let prompts = place.input("kiosk.txt", "a red apple\na blue house\n");
    let model = model.to_str().unwrap();
    let generate = |out: &str| {
        let fixed = ["generate", "--model", model, "--target", "generic-cpu", "--seed", "7", "--steps", "1", "--json"];
        let prompts = ["--prompts", prompts.to_str().unwrap(), "--prompt-cache", "cache", "--out", out];
        Outcome::of(place.command(fixed.into_iter().chain(prompts)))
    };
    generate("warm/").expect("warming", 0, "");
    encoders.iter().for_each(|path| fs::remove_file(path).unwrap());
    let kiosk = generate("kiosk/");
    kiosk.expect("the kiosk", 0, "");
    let reports: serde_json::Value = serde_json::from_slice(&kiosk.stdout).unwrap();
    for report in reports.as_array().unwrap() {
        assert_eq!(report["timings"]["text_hits"], 1, "{report}");
    }
    let pictures = |folder: &str| {
        let mut paths: Vec<_> = fs::read_dir(place.work().join(folder)).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().map(|path| image::open(path).unwrap().into_rgb8().into_raw()).collect::<Vec<_>>()
    };
    assert_eq!(pictures("kiosk").len(), 2);
    assert!(pictures("kiosk") == pictures("warm"));
    let refused = Outcome::of(place.command(["generate", "a green tree", "--model", model, "--prompt-cache", "cache"]));
    refused.expect("a prompt that was not warmed", 3, "is not in the prompt cache");
    let file = place.input("file", "");
    let file = file.to_str().unwrap();
    let refused = Outcome::of(place.command(["generate", "a red apple", "--model", model, "--prompt-cache", file]));
    refused.expect("a file for a cache", 7, "prompt cache");
}

#[cfg(target_os = "linux")]
mod memory {
    use super::*;

    /// Where the child is told what to run.
    const VARIABLE: &str = "SAFELIGHT_TEST_RESIDENCY";

    /// A field of `/proc/self/status`, in KiB.
    fn status(field: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Not a test of its own: the process whose memory the next one measures.
    #[test]
    fn child() {
        let Some(extra) = std::env::var_os(VARIABLE) else { return };
        let mut pipeline = pipeline("tests/models/tiny-sd", extra.to_str().unwrap());
        let size = Some((2048, 2048));
        let sampling = Sampling::in_steps(1);
        drop(pipeline.generate(&Request { size, sampling, ..request("a red apple", 1) }).unwrap());
        println!("measured {} {}", status("VmHWM"), status("VmRSS"));
    }

    /// Peak while a picture of 2048×2048 is made, and what is kept after it, in MiB.
    fn measure(extra: &str) -> (f64, f64) {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "memory::child", "--nocapture", "--test-threads", "1"]).env(VARIABLE, extra);
        let output = child.output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let numbers = told.lines().find_map(|line| line.split_once("measured ")).unwrap_or_else(|| panic!("{told}")).1;
        let mut numbers = numbers.split_whitespace().map(|number| number.parse::<f64>().unwrap() / 1024.0);
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    #[test]
    fn staged_graphs_give_their_memory_back() {
        let (resident, kept) = measure("residency: resident");
        let (staged, left) = measure("residency: staged");
        println!("resident: peak {resident:.0} MiB, kept {kept:.0}; staged: peak {staged:.0}, kept {left:.0}");
        assert!(staged < 0.95 * resident, "peak {staged:.0} MiB staged, {resident:.0} MiB resident");
        assert!(left < 0.5 * kept, "kept {left:.0} MiB staged, {kept:.0} MiB resident");
    }

    #[test]
    fn an_arena_that_shrinks_keeps_little() {
        let (_, kept) = measure("session: { memory_pattern: false }");
        let (_, left) = measure("session: { memory_pattern: false, shrink_arena: true }");
        println!("kept {kept:.0} MiB by the arena, {left:.0} by one that shrinks");
        assert!(left < 0.6 * kept, "kept {left:.0} MiB, and {kept:.0} without shrinking");
        // Without an arena there is nothing to shrink, and nothing fails.
        measure("session: { arena: false, shrink_arena: true }");
    }
}
