//! What a user can get wrong, through the binary: each mistake has its exit code, a message that says what is wrong,
//! and leaves nothing behind. On Linux, for its loader, devices and signals; the rest is the same everywhere.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Outcome, Place, copy_folder, describe, manifest_model, tiny};

mod common;

/// A model of this repository that has fixed sizes and no fp32 graphs.
const EMOJI: &str = "emoji";

/// Arguments that make a picture with a tiny pipeline, quickly.
fn picture_of(model: &Path) -> Vec<String> {
    let words = ["generate", "a red apple", "--seed", "7", "--steps", "2", "--model"];
    words.into_iter().map(Into::into).chain([model.display().to_string()]).collect()
}

/// Asserts that a command is refused and leaves no file.
#[track_caller]
fn refused(place: &Place, command: Command, case: &str, code: i32, telling: &str) {
    Outcome::of(command).expect(case, code, telling);
    assert_eq!(place.left(), [""; 0], "{case}");
}

// ── The library: exit code 4 ────────────────────────────────────────────────────────────────────────────────────────

/// Compiles a shared library from C.
fn compiled(place: &Place, name: &str, code: &str) -> PathBuf {
    let (source, library) = (place.input(&format!("{name}.c"), code), place.inputs().join(name));
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(status.unwrap().success(), "{name}");
    library
}

/// C code of a library that says it is ONNX Runtime of some version, and offers no API.
fn pretender(version: &str) -> String {
    format!(
        "static const void *api(unsigned version) {{ return 0; }}\n\
         static const char *version(void) {{ return {version}; }}\n\
         static struct {{ const void *(*api)(unsigned); const char *(*version)(void); }} base = {{ api, version }};\n\
         void *OrtGetApiBase(void) {{ return &base; }}\n"
    )
}

/// The library that the other tests run on.
fn real_library(place: &Place) -> PathBuf {
    let Outcome { stdout, .. } = Outcome::of(place.command(["version", "--json"]));
    let about: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
    about["onnxruntime"]["path"].as_str().unwrap().into()
}

#[test]
fn a_library_that_cannot_be_used_is_refused() {
    let place = Place::new();
    let cut_short = &fs::read(real_library(&place)).unwrap()[..5_000_000];
    let empty = place.inputs().join("empty");
    fs::create_dir(&empty).unwrap();
    #[rustfmt::skip]
    let cases = [
        ("missing", place.inputs().join("missing.so"), "missing.so (the path that was given): cannot be read: No such file"),
        ("text", place.input("text.so", "not a library"), "cannot be loaded"),
        ("empty file", place.input("empty.so", ""), "cannot be loaded"),
        ("cut short", place.input("short.so", cut_short), "is cut short"),
        ("empty folder", empty, "holds no libonnxruntime.so"),
        ("another", compiled(&place, "other.so", "int nothing;"), "is not ONNX Runtime: it has no OrtGetApiBase"),
        ("no base", compiled(&place, "null.so", "void *OrtGetApiBase(void) { return 0; }"), "returned no API"),
        ("no version", compiled(&place, "nameless.so", &pretender("0")), "told no version"),
        ("odd version", compiled(&place, "odd.so", &pretender("\"banana\"")), "is ONNX Runtime banana, expected 1.18 or newer"),
        ("too old", compiled(&place, "old.so", &pretender("\"1.16.3\"")), "is ONNX Runtime 1.16.3, expected 1.18 or newer"),
        ("too new", compiled(&place, "new.so", &pretender("\"1.99.0\"")), "1.99.0, which does not offer API 18 any more"),
    ];
    for (case, library, telling) in cases {
        let mut command = place.command(picture_of(&tiny("tiny-sd")));
        command.arg("--library").arg(library);
        refused(&place, command, case, 4, telling);
    }
}

#[test]
fn a_missing_library_says_what_was_tried_and_what_to_do() {
    let place = Place::new();
    for telling in
        ["tried:", "no-library-here (ORT_DYLIB_PATH): cannot be read", "./run fetches it", "point ORT_DYLIB_PATH to"]
    {
        refused(&place, place.without_library(["version"]), "version", 4, telling);
        refused(&place, place.without_library(picture_of(&tiny("tiny-sd"))), "generate", 4, telling);
    }
}

// ── The model: exit code 3 ──────────────────────────────────────────────────────────────────────────────────────────

/// Replaces a text in a file.
fn edit(file: PathBuf, from: &str, to: &str) {
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{}: {from:?}", file.display());
    fs::write(file, text.replacen(from, to, 1)).unwrap();
}

/// Replaces a text in the manifest.
fn manifest(model: &Path, from: &str, to: &str) {
    edit(model.join("model.yaml"), from, to);
}

/// An entry of goldens with these fields, before the manifest's stages.
fn golden(fields: &str) -> String {
    let hash = "0".repeat(64);
    format!("goldens: [{{ prompt: x, seed: 1, precision: fp32, bytes: 5, sha256: {hash}, {fields} }}]\nstages:")
}

/// A graph replaced by something else, of which the manifest tells the right length and hash.
fn replace(model: &Path, stage: &str, content: &[u8]) {
    fs::write(model.join(format!("{stage}.onnx")), content).unwrap();
    describe(model);
}

/// What is done to a model folder, and what is then told.
type Damage = (fn(&Path), &'static str);

/// Runs every damage on a fresh copy, with the library or where none could be opened.
fn refused_models(make: fn(&Place) -> PathBuf, cases: &[Damage], command: fn(&Place, Vec<String>) -> Command) {
    for (damage, telling) in cases {
        let place = Place::new();
        let model = make(&place);
        damage(&model);
        refused(&place, command(&place, picture_of(&model)), telling, 3, telling);
    }
}

#[test]
fn the_undamaged_model_makes_a_picture() {
    let place = Place::new();
    Outcome::of(place.command(picture_of(&manifest_model(&place)))).expect("manifest", 0, "seed 7");
    assert_eq!(place.left(), ["work/a-red-apple-7.png"]);
}

#[test]
fn a_model_that_cannot_be_is_refused_before_the_library_is_opened() {
    #[rustfmt::skip]
    let cases: &[Damage] = &[
        (|model| fs::remove_dir_all(model).unwrap(), "cannot be read: No such file"),
        (|model| fs::remove_file(model.join("model.yaml")).unwrap(), "holds neither model.yaml (safelight's manifest) nor"),
        (|model| manifest(model, "title:", "colour: red\ntitle:"), "unknown field `colour`"),
        (|model| manifest(model, "title:", "name: again\ntitle:"), "duplicate"),
        (|model| manifest(model, "{ fp32:", "{ fp32: { file: decoder.onnx, bytes: 1, sha256: x }, fp32:"), "duplicate"),
        (|model| manifest(model, "denoiser: {", "denoiser: { tensors: { smaple: x },"), "unknown tensor \"smaple\"; known: sample, "),
        (|model| manifest(model, "safelight-model/1", "safelight-model/2"), "schema is \"safelight-model/2\", expected"),
        (|model| manifest(model, "bytes: ", "bytes: 1"), "but the manifest says 1"),
        (|model| manifest(model, "sha256: ", "sha256: x"), "is not 64 lower-case hex digits"),
        (|model| manifest(model, "downscale: 8", "downscale: 0"), "downscale 0, expected 1"),
        (|model| manifest(model, "scale: 0.18215", "scale: .nan"), "scale NaN"),
        (|model| manifest(model, "steps: 2", "steps: 0"), "defaults: steps 0"),
        (|model| manifest(model, "sampler: ddim", "sampler: magic"), "defaults: unknown sampler \"magic\"; known: "),
        (|model| manifest(model, "beta_end: 0.012", "beta_end: 2"), "expected 0 < start ≤ end < 1"),
        (|model| manifest(model, "prediction:", "steps_offset: 1000, prediction:"), "steps_offset is 1000, expected less than"),
        (|model| manifest(model, "stages:", &golden("file: ../x, steps: 1")), "is not a plain path inside"),
        (|model| manifest(model, "stages:", &golden("file: tokenizer.json, steps: 1")), "but the manifest says 5"),
        (|model| manifest(model, "stages:", &golden("file: tokenizer.json, steps: 0")), "goldens: 0 steps, expected 1"),
        (|model| fs::remove_file(model.join("decoder.onnx")).unwrap(), "decoder.onnx: is missing"),
        (|model| replace(model, "denoiser", b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (|model| replace(model, "denoiser", b"<!DOCTYPE html><html>login</html>"), "is a web page"),
        (|model| replace(model, "denoiser", b""), "denoiser.onnx: is empty"),
        (|model| manifest(model, "file: decoder.onnx", "file: ../decoder.onnx"), "is not a plain path inside"),
        (|model| manifest(model, "file: decoder.onnx", "file: /etc/passwd"), "is not a plain path inside"),
        (|model| manifest(model, "file: decoder.onnx", "file: 'a\\b'"), "is not a plain path inside"),
        (|model| manifest(model, "file: decoder.onnx", "file: \"a\\0b\""), "is not a plain path inside"),
        (|model| manifest(model, "file: decoder.onnx", "file: \"a\\eb\""), "is not a plain path inside"),
        (|model| manifest(model, "file: tokenizer.json", "file: ../x"), "is not a plain path inside"),
        (|model| manifest(model, "file: tokenizer.json", "file: ."), "is not a plain path inside"),
        (|model| outside(model, "decoder.onnx", symlink), "is a link that leaves the model folder"),
        (|model| outside(model, "model.yaml", symlink), "is a link that leaves the model folder"),
        (|model| manifest(model, "title:", &format!("# {}\ntitle:", "x".repeat(70_000))), "is longer than 65536 bytes"),
        (|model| fs::write(model.join("model.yaml"), "\u{0}\u{1}").unwrap(), "control characters are not allowed"),
        (|model| fs::write(model.join("model.yaml"), b"\xff\xfe").unwrap(), "UTF-8"),
        (|model| fs::write(model.join("model.yaml"), "").unwrap(), "model.yaml: "),
    ];
    refused_models(manifest_model, cases, Place::without_library);
}

/// Package managers install by hard links. Where a hash says what the file is, it does not matter where else it is.
#[test]
fn a_hard_link_is_as_good_as_a_file_where_a_hash_vouches_for_it() {
    let place = Place::new();
    let model = manifest_model(&place);
    outside(&model, "decoder.onnx", fs::hard_link);
    Outcome::of(place.command(picture_of(&model))).expect("hard link", 0, "seed 7");
}

/// Moves a file out of the model folder and links it back.
fn outside(model: &Path, file: &str, link: fn(PathBuf, PathBuf) -> std::io::Result<()>) {
    let moved = model.with_file_name(file);
    fs::rename(model.join(file), &moved).unwrap();
    link(moved, model.join(file)).unwrap();
}

#[test]
fn a_model_that_its_files_belie_is_refused_when_it_is_opened() {
    #[rustfmt::skip]
    let cases: &[Damage] = &[
        (|model| overwrite_last_byte(&model.join("denoiser.onnx")), "the file is damaged or was replaced"),
        (|model| replace(model, "denoiser", &[0xa5; 1000]), "denoiser.onnx: is not an ONNX graph, or is damaged"),
        (|model| swap(model, "denoiser", "decoder"), "is not what a "),
        (|model| swap(model, "text_encoder", "denoiser"), "is not what a "),
        (|model| fs::write(model.join("tokenizer.json"), "{").unwrap(), "cannot open the tokenizer"),
        (|model| edit(model.join("tokenizer.json"), "\"BPE\"", "\"WordPiece\""), "WordPiece"),
        (|model| edit(model.join("tokenizer.json"), "\"version\"", "\"novelty\": 1, \"version\""), "novelty"),
        (|model| manifest(model, "start: 0, end", "start: 999999, end"), "start is token 999999, but the vocabulary has"),
    ];
    refused_models(manifest_model, cases, Place::command);
}

fn overwrite_last_byte(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(file, bytes).unwrap();
}

/// Exchanges the graphs of two roles, with right lengths and hashes.
fn swap(model: &Path, one: &str, other: &str) {
    let [one, other] = [one, other].map(|stage| model.join(format!("{stage}.onnx")));
    let kept = fs::read(&one).unwrap();
    fs::copy(&other, one).unwrap();
    fs::write(other, kept).unwrap();
    describe(model);
}

#[test]
fn a_fault_is_told_once() {
    let place = Place::new();
    let model = manifest_model(&place);
    manifest(&model, "title:", "colour: red\ntitle:");
    let told = Outcome::of(place.without_library(picture_of(&model))).stderr;
    assert_eq!(told.matches("unknown field `colour`").count(), 1, "{told}");
}

#[test]
fn a_wrong_graph_is_told_with_what_it_has_and_what_was_expected() {
    let place = Place::new();
    let model = manifest_model(&place);
    swap(&model, "denoiser", "decoder");
    let outcome = Outcome::of(place.command(picture_of(&model)));
    outcome.expect("swapped", 3, "is not what a denoiser looks like, or its manifest names its tensors wrongly");
    outcome.expect("swapped", 3, "it has no input \"sample\"; it has: latent_sample");
}

#[test]
fn a_pipeline_that_cannot_be_is_refused_before_the_library_is_opened() {
    #[rustfmt::skip]
    let cases: &[Damage] = &[
        (|model| edit(model.join("vae_decoder/config.json"), "\"scaling_factor\": 0.18215,", ""), "has no scaling_factor"),
        (|model| edit(model.join("model_index.json"), "StableDiffusionP", "StableCascadeP"), "_class_name is \"StableCascadeP"),
        (|model| scheduler(model, "\"trained_betas\": null", "\"trained_betas\": [0.1]"), "trained_betas is not supported"),
        (|model| scheduler(model, "\"steps_offset\": 1", "\"steps_offset\": 18446744073709551615"), "steps_offset is"),
        (|model| scheduler(model, "\"leading\"", "\"logarithmic\""), "unknown schedule \"logarithmic\"; known: "),
        (|model| scheduler(model, "\"epsilon\"", "\"flow\""), "prediction is \"flow_prediction\", expected \"epsilon\" or "),
        (|model| scheduler(model, "\"epsilon\"", "\"magic\""), "unknown variant `magic`"),
        (|model| scheduler(model, "PNDM", "FlowMatchEulerDiscrete"), "describe the model by a model.yaml with flow"),
        (|model| scheduler(model, "PNDM", "EDMEuler"), "describe the model by a model.yaml with edm"),
        (|model| scheduler(model, "{", "{{"), "scheduler_config.json: "),
        (|model| fs::remove_file(model.join("scheduler/scheduler_config.json")).unwrap(), "is missing"),
        (|model| fs::remove_dir_all(model.join("unet")).unwrap(), "unet: neither its config.json nor its graph tells how many channels a latent has"),
        (|model| fs::remove_file(model.join("unet/model.onnx")).unwrap(), "no denoiser graph"),
        (|model| edit(model.join("unet/config.json"), "\"sample_size\": 8", "\"sample_size\": 18446744073709551615"), "picture: "),
        (|model| fs::write(model.join("tokenizer/vocab.json"), "[").unwrap(), "vocab.json: "),
        (|model| fs::remove_file(model.join("tokenizer/merges.txt")).unwrap(), "merges.txt: is missing"),
    ];
    refused_models(|place| place.copy_of("tiny-sd"), cases, Place::without_library);
}

fn scheduler(model: &Path, from: &str, to: &str) {
    edit(model.join("scheduler/scheduler_config.json"), from, to);
}

#[test]
fn a_model_that_is_not_there_is_told_with_those_that_are() {
    let place = Place::new();
    #[rustfmt::skip]
    let cases = [
        (["--model", "nonesuch", "--seed", "1"], "unknown model \"nonesuch\"; known: "),
        (["--model", "nonesuch", "--seed", "1"], EMOJI),
        (["--model", "./nonesuch", "--seed", "1"], "model folder ./nonesuch: cannot be read"),
        (["--model", EMOJI, "--precision", "fp32"], "has no text_encoder in fp32; it has int8, fp16"),
    ];
    for (arguments, telling) in cases {
        let command = place.without_library(["generate", "x"].iter().chain(&arguments));
        refused(&place, command, telling, 3, telling);
    }
}

#[test]
fn a_list_with_a_broken_model_shows_the_others_and_fails() {
    let place = Place::new();
    copy_folder(&tiny("tiny-sd"), &place.inputs().join("models/whole"));
    copy_folder(&tiny("tiny-sd"), &place.inputs().join("models/broken"));
    fs::write(place.inputs().join("models/broken/model.yaml"), "schema: 1").unwrap();
    for flags in [vec!["models"], vec!["models", "--json"], vec!["models", "--verify"]] {
        let mut command = place.without_library(&flags);
        command.env("SAFELIGHT_HOME", place.inputs());
        let outcome = Outcome::of(command);
        outcome.expect("models", 3, "1 of 2 models cannot be used");
        assert!(String::from_utf8_lossy(&outcome.stdout).contains("whole"), "{flags:?}");
    }
}

// ── The target: exit code 2 ─────────────────────────────────────────────────────────────────────────────────────────

const TARGET: &str = "schema: safelight-target/1\nname: board\ntitle: A board\nprecision: [fp32]\n\
                      providers: [{ name: cpu, need: required }]\n";

fn with_target(place: &Place, text: impl AsRef<[u8]>) -> Vec<String> {
    let target = place.input("board.yaml", text);
    picture_of(&tiny("tiny-sd")).into_iter().chain(["--target".into(), target.display().to_string()]).collect()
}

#[test]
fn a_target_that_cannot_be_is_refused_before_the_library_is_opened() {
    let place = Place::new();
    let more = |text: &str| format!("{TARGET}{text}\n").into_bytes();
    #[rustfmt::skip]
    let cases = [
        (TARGET.replace("name: cpu", "name: warp").into_bytes(), "unknown provider \"warp\"; known: tensorrt"),
        (TARGET.replace("name: board", "name: bread").into_bytes(), "name is \"bread\", expected the file's own name \"board\""),
        (TARGET.replace("[fp32]", "[int4]").into_bytes(), "unknown variant `int4`"),
        (TARGET.replace("need: required", "need: perhaps").into_bytes(), "unknown variant `perhaps`"),
        (TARGET.replace("target/1", "target/9").into_bytes(), "expected \"safelight-target/1\""),
        (more("session: { keys: { session.disable_prepaking: 1 } }"), "unknown key \"session.disable_prepaking\"; known: "),
        (more("session: { keys: { session.disable_prepacking: 2 } }"), "is \"2\", expected true or false"),
        (more("session: { keys: { session.disable_prepacking: 1, session.disable_prepacking: 0 } }"), "duplicate"),
        (more("session: { intra_threads: many }"), "expected u16"),
        (more("session: { intra_threads: 60000 }"), "60000 threads, expected at most 1024"),
        (more("session: { threads: 2 }"), "unknown field `threads`"),
        (more("limits: { max_step: 2 }"), "did you mean \"max_steps\""),
        (more("extends: ../generic-cpu"), "\"../generic-cpu\" is not the name of a target"),
        (more("extends: board"), "board.yaml: extends: board: \"board\" extends itself"),
        (more("extends: generic-gpu"), "unknown target \"generic-gpu\"; known: "),
        (more("extends: generic-gpu"), "did you mean \"generic-cpu\""),
        (more("limits: { max_steps: 0 }"), "a limit is 0"),
        (b"schema: \"unclosed".to_vec(), "found unexpected end of stream"),
        (b"\x7fELF\xff\xfe".to_vec(), "UTF-8"),
        (Vec::new(), "board.yaml: "),
        (vec![b'#'; 70_000], "is longer than 65536 bytes"),
        (vec![b'['; 60_000], "brackets open at once"),
    ];
    for (text, telling) in cases {
        let arguments = with_target(&place, text);
        refused(&place, place.without_library(arguments), telling, 2, telling);
    }
    for (target, telling) in [
        ("nonesuch", "unknown target \"nonesuch\"; known: "),
        ("nonesuch", "generic-cpu"),
        ("./nonesuch.yaml", "cannot be read: No such file"),
        ("/dev/zero", "is longer than 65536 bytes"),
    ] {
        refused(&place, place.without_library(["generate", "x", "--target", target]), target, 2, telling);
    }
    let broken = place.input("broken.yaml", "schema: 1").display().to_string();
    refused(&place, place.without_library(["targets", &broken]), "targets", 2, "1 of 1 targets cannot be used");
}

#[test]
fn a_description_full_of_brackets_takes_no_time() {
    let place = Place::new();
    for nest in ["[", "{", "- ", "? ", "a: [", "&a [*a,", "[]"] {
        let text = nest.repeat(60_000 / nest.len());
        let start = Instant::now();
        let arguments = with_target(&place, &text);
        Outcome::of(place.without_library(arguments)).expect(nest, 2, "board.yaml: ");
        let model = place.inputs().join("model");
        fs::create_dir_all(&model).unwrap();
        fs::write(model.join("model.yaml"), &text).unwrap();
        Outcome::of(place.without_library(picture_of(&model))).expect(nest, 3, "model.yaml: ");
        assert!(start.elapsed() < Duration::from_secs(2), "{nest}: {:?}", start.elapsed());
    }
}

#[test]
fn a_provider_that_the_library_lacks_is_an_error_or_a_warning() {
    let place = Place::new();
    let providers = "providers: [{ name: cuda, need: NEED }, { name: cpu, need: required }]";
    let target = |need| TARGET.replace("providers: [{ name: cpu, need: required }]", &providers.replace("NEED", need));

    let required = with_target(&place, target("required"));
    refused(
        &place,
        place.command(required),
        "required",
        4,
        "built without it; install an ONNX Runtime that has it and point ORT_DYLIB_PATH to it",
    );

    let optional = with_target(&place, target("optional"));
    let outcome = Outcome::of(place.command(optional));
    outcome.expect("optional", 0, "warning: provider cuda is not used: ");
    assert_eq!(place.left(), ["work/a-red-apple-7.png"]);
}

// ── The request: exit codes 2 and 5 ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_request_that_cannot_be_is_refused_before_the_library_is_opened() {
    #[rustfmt::skip]
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--steps", "0"], 2, "steps is 0, expected 1 to 1000"),
        (&["--steps", "-1"], 2, "invalid value '-1' for '--steps <N>'"),
        (&["--size", "0x0"], 2, "size is 0×0"),
        (&["--size", "65x64"], 2, "size is 65×64, expected multiples of 8"),
        (&["--size", "64"], 2, "expected WIDTHxHEIGHT in pixels, such as 512x512"),
        (&["--size", "18446744073709551616x64"], 2, "expected WIDTHxHEIGHT"),
        (&["--model", EMOJI, "--size", "256x256"], 2, "makes only 128×128"),
        (&["--guidance", "NaN"], 2, "found NaN, expected finite numbers"),
        (&["--guidance", "inf"], 2, "found inf, expected finite numbers"),
        (&["--guidance", "seven"], 2, "found \"seven\", expected a number such as 7.5, or several such as 7.5,5,3"),
        (&["--guidance", "7,2000"], 2, "guidance is 2000, expected 0 to 1000"),
        (&["--guidance", "7,5", "--sampler", "rk_adaptive"], 2, "does not know how many there will be"),
        (&["--guidance-method", "magic"], 2, "unknown guidance method \"magic\"; known: cfg, cfg_pp, apg, cfg_zero"),
        (&["--guidance-method", "apg", "--guidance", "1"], 2, "guidance method apg would have no effect: guidance 1 is off"),
        (&["--guidance-method", "cfg_pp", "--guidance", "7", "--sampler", "ddim"], 2, "method cfg_pp takes 0 to 1; 0.6 is usual"),
        (&["--guidance-method", "cfg_pp", "--guidance", "0.6", "--sampler", "lms"], 2, "does not work with sampler lms; it does with ddim, "),
        (&["--guidance-method", "cfg_zero", "--guidance", "5"], 2, "cfg_zero is for flow-matching models"),
        (&["--option", "magic=1"], 2, "unknown option \"magic\"; known: eta, "),
        (&["--option", "order"], 2, "expected NAME=VALUE, such as order=3"),
        (&["--option", "order=x"], 2, "found \"x\", expected a number"),
        (&["--option", "order=3", "--sampler", "euler"], 2, "option \"order\" would have no effect: euler takes churn, churn_min, churn_max, noise_scale; "),
        (&["--option", "order=9", "--sampler", "lms"], 2, "option \"order\" is 9, expected 1 to 4"),
        (&["--option", "order=4", "--sampler", "deis"], 2, "option \"order\" is 4, but sampler deis has 1 to 3"),
        (&["--option", "order=1", "--sampler", "dpm_adaptive"], 2, "option \"order\" is 1, but sampler dpm_adaptive has 2 to 3"),
        (&["--option", "order=1.5", "--sampler", "lms"], 2, "option \"order\" is 1.5, expected a whole number"),
        (&["--option", "rtol=0.1,0.2", "--sampler", "rk_adaptive"], 2, "option \"rtol\" is 0.1,0.2, expected one number"),
        (&["--option", "rescale=0.7", "--guidance", "1"], 2, "option \"rescale\" would have no effect"),
        (&["--option", "rho=3", "--schedule", "trailing"], 2, "option \"rho\" would have no effect: "),
        (&["--option", "rho=3", "--sampler", "rk_adaptive"], 2, "option \"rho\" would have no effect: "),
        (&["--option", "churn_min=3", "--option", "churn_max=2", "--sampler", "heun"], 2, "\"churn_min\" is 3, expected at most churn_max, 2"),
        (&["--option", "clip=1", "--option", "threshold=0.9"], 2, "clip and threshold cannot both be given"),
        (&["--option", "threshold_max=2"], 2, "\"threshold_max\" would have no effect without threshold"),
        (&["--eta", "0.5", "--sampler", "euler"], 2, "option \"eta\" would have no effect: euler takes "),
        (&["--sampler", "euler until sigma 2"], 2, "expected a name, or several as in \"euler_ancestral until sigma 2, then dpmpp_2m\""),
        (&["--sampler", "one_step", "--steps", "4"], 2, "sampler one_step takes 1 step, you asked for 4"),
        (&["--sampler", "rk_adaptive", "--steps", "4"], 2, "use options rtol and atol instead of steps"),
        (&["--sampler", "rk_adaptive", "--sigmas", "4,2"], 2, "sampler rk_adaptive chooses its own levels"),
        (&["--sampler", "rk_adaptive", "--schedule", "karras"], 2, "leave schedule, timesteps and sigmas out"),
        (&["--timesteps", "500,600"], 2, "timesteps: 600 follows 500; they must fall at every step"),
        (&["--timesteps", "1000,600"], 2, "timesteps: 1000 is outside of this model's 0 to 999"),
        (&["--timesteps", "NaN"], 2, "timesteps: NaN is outside of this model's 0 to 999"),
        (&["--timesteps", "900,600", "--steps", "3"], 2, "2 timesteps are given, but 3 steps; leave the steps out"),
        (&["--timesteps", "900,600", "--schedule", "karras"], 2, "timesteps and schedule \"karras\" cannot both be given"),
        (&["--timesteps", "900", "--sigmas", "9"], 2, "timesteps and sigmas cannot both be given"),
        (&["--sigmas", "0"], 2, "sigmas: 0 values, expected 1 to 1000"),
        (&["--sigmas", "99,1"], 2, "sigmas: 99 is outside of this model's 0.000001 to 14."),
        (&["--restart", "2"], 2, "expected HIGH..LOW:STEPSxTIMES, such as 2..0.1:4x2"),
        (&["--restart", "0.1..2:4x2"], 2, "expected 0 < low < high"),
        (&["--restart", "2..0.1:900x2", "--steps", "4"], 2, "expected at most 1000 altogether"),
        (&["--restart", "5..1:400x2", "--steps", "400", "--schedule", "karras", "--sampler", "euler"], 5, "steps: 1200 asked for"),
        (&["--restart", "5..1:4x2", "--brownian"], 2, "Brownian noise would be the same each time; leave one of them out"),
        (&["--generator", "magic"], 2, "unknown generator \"magic\"; known: torch_cpu, torch_cuda, numpy"),
        (&["--noise-seed", "18446744073709551615", "--count", "2"], 2, "leaves no room for 2 pictures"),
        (&["--noise-seed", "7", "--seed", "7"], 2, "the sampler would draw the initial noise again"),
        (&["--guidance", "-1"], 2, "guidance is -1, expected 0 to 1000"),
        (&["--sampler", "magic"], 2, "unknown sampler \"magic\"; known: "),
        (&["--schedule", "magic"], 2, "unknown schedule \"magic\"; known: leading, linspace, trailing, simple, "),
        (&["--count", "0"], 2, "count is 0, expected at least 1"),
        (&["--batch", "0"], 2, "batch is 0, expected at least 1"),
        (&["--eta", "2", "--sampler", "ddim"], 2, "option \"eta\" is 2, expected 0 to 1"),
        (&["--eta", "-1", "--sampler", "ddim"], 2, "option \"eta\" is -1, expected 0 to 1"),
        (&["--seed", "-1"], 2, "invalid value '-1' for '--seed <SEED>'"),
        (&["--seed", "seven"], 2, "invalid value 'seven' for '--seed <SEED>'"),
        (&["--seed", "18446744073709551616"], 2, "number too large"),
        (&["--seed", "18446744073709551615", "--count", "2"], 2, "leaves no room for 2 pictures"),
        (&["--out", "-", "--json"], 2, "--out - and --json both want standard output"),
        (&["--out", "-", "--count", "2"], 2, "--out - takes one picture"),
        (&["--out", "x.bmp"], 2, "x.bmp: its name says no format; end it with .png, .jpg or .webp"),
        (&["--out", ""], 2, "its name says no format"),
        (&["--out", "x.jpg", "--format", "png"], 2, "x.jpg is named as jpeg, but --format is png"),
        (&["--format", "bmp"], 2, "expected png, jpeg or webp"),
        (&["--precision", "int4"], 2, "expected int8, fp16 or fp32"),
        (&["--threads", "5000"], 2, "5000 is not in 0..=1024"),
        (&["another prompt"], 2, "unexpected argument 'another prompt'"),
        (&["--prompts", "x"], 2, "the argument '[PROMPT]' cannot be used with '--prompts <FILE>'"),
        (&["--steps", "1001"], 5, "steps: 1001 asked for, but the target allows 1000"),
        (&["--batch", "17", "--count", "17"], 5, "batch: 17 asked for, but the target allows 16"),
        (&["--shared-noise", "--count", "17"], 5, "batch: 17 asked for, but the target allows 16"),
        (&["--count", "10001"], 5, "count: 10001 asked for, but the target allows 10000"),
        (&["--size", "18446744073709551608x8"], 5, "pixels: 18446744073709551615 asked for"),
        (&["--negative", LONG_PROMPT], 5, "prompt bytes: 17000 asked for, but the target allows 16384"),
    ];
    let place = Place::new();
    let model = tiny("tiny-sd").display().to_string();
    for (arguments, code, telling) in cases {
        let model: &[&str] = if arguments.contains(&"--model") { &[] } else { &["--model", &model] };
        let command = place.without_library(["generate", "x"].iter().chain(model).chain(*arguments));
        refused(&place, command, telling, *code, telling);
    }
    let long = place.without_library(["generate", LONG_PROMPT, "--model", &model]);
    refused(&place, long, "prompt", 5, "prompt bytes: 17000 asked for, but the target allows 16384");
}

#[test]
fn a_file_of_prompts_that_cannot_be_used_is_refused() {
    let place = Place::new();
    let long = vec![b'x'; (1 << 20) + 1];
    let many = "x\n".repeat(10_001);
    #[rustfmt::skip]
    let cases: [(&[u8], &[&str], i32, &str); 7] = [
        (b"", &[], 2, "holds no prompt; write one a line"),
        (b" \n\n\t\n", &[], 2, "holds no prompt"),
        (b"a\xff", &[], 7, "is not UTF-8 text"),
        (&long, &[], 5, "is longer than 1048576 bytes"),
        (many.as_bytes(), &[], 5, "holds 10001 prompts, expected at most 10000"),
        (b"a\nb", &["--out", "x.png"], 2, "--out x.png: --prompts needs a folder; end it with a /"),
        (b"a\nb", &["--out", "-"], 2, "--out -: --prompts needs a folder"),
    ];
    for (content, more, code, telling) in cases {
        let mut command = place.without_library(["generate", "--model"]);
        command.arg(tiny("tiny-sd")).arg("--prompts").arg(place.input("prompts", content)).args(more);
        refused(&place, command, telling, code, telling);
    }
    let missing = place.without_library(["generate", "--prompts", "nowhere.txt"]);
    refused(&place, missing, "missing", 7, "--prompts nowhere.txt: cannot be read: No such file");
}

#[test]
fn a_golden_that_was_changed_is_told() {
    let place = Place::new();
    fs::create_dir(place.inputs().join("models")).unwrap();
    let model = place.inputs().join("models/model");
    fs::rename(manifest_model(&place), &model).unwrap();
    fs::write(model.join("golden.npz"), "12345").unwrap();
    manifest(&model, "stages:", &golden("file: golden.npz, steps: 1"));
    let list = |flags: &[&str]| {
        let mut command = place.without_library(["models"].iter().chain(flags));
        command.env("SAFELIGHT_HOME", place.inputs());
        Outcome::of(command)
    };
    let outcome = list(&[]);
    outcome.expect("models", 0, "");
    assert!(String::from_utf8_lossy(&outcome.stdout).contains("goldens: 1"));
    let outcome = list(&["--verify"]);
    outcome.expect("models --verify", 3, "1 of 1 models cannot be used");
    let told = String::from_utf8_lossy(&outcome.stdout).into_owned();
    assert!(told.contains("golden.npz: sha256 is 5994471a"), "{told}");
}

/// Longer than a target allows unless it says otherwise.
const LONG_PROMPT: &str = match str::from_utf8(&[b'x'; 17_000]) {
    Ok(text) => text,
    Err(_) => unreachable!(),
};

#[test]
fn an_argument_that_is_not_utf8_is_a_usage_error() {
    let place = Place::new();
    let broken = std::ffi::OsStr::from_bytes(b"a \xff apple");
    for arguments in [&["generate"][..], &["generate", "x", "--model"], &["generate", "x", "--out"]] {
        let mut command = place.without_library(arguments);
        command.arg(broken);
        refused(&place, command, "not UTF-8", 2, "invalid UTF-8 was detected");
    }
}

// ── What is allowed, however odd ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn any_text_is_a_prompt() {
    let control: String = (1..32).map(char::from).collect();
    let rare = "\u{20000}".repeat(100);
    #[rustfmt::skip]
    let cases = [
        ("", "picture-7.png"),
        ("🍎🏳️‍🌈👨‍👩‍👧‍👦", "picture-7.png"),
        (&control, "picture-7.png"),
        ("一个红苹果", "一个红苹果-7.png"),
        ("../../etc/passwd", "etc-passwd-7.png"),
        ("red <|endoftext|> apple <|startoftext|>", "red-endoftext-apple-startoftext-7.png"),
        ("\u{202e}\u{feff}\u{200b}", "picture-7.png"),
        (&rare, &format!("{}-7.png", "\u{20000}".repeat(50))),
    ];
    let model = tiny("tiny-sd").display().to_string();
    for (prompt, file) in cases {
        let place = Place::new();
        let command = place.command(["generate", "--model", &model, "--steps", "1", "--seed", "7", "--", prompt]);
        Outcome::of(command).expect(prompt, 0, "");
        assert_eq!(place.left(), [format!("work/{file}")], "{prompt:?}");
    }
}

#[test]
fn ten_thousand_words_are_used_up_to_the_window_with_a_warning() {
    let place = Place::new();
    let prompt: String = (0..10_000).map(|i| format!("word{i} ")).collect();
    let mut arguments = with_target(&place, format!("{TARGET}limits: {{ max_prompt_bytes: 1000000 }}\n"));
    arguments[1] = prompt;
    let outcome = Outcome::of(place.command(arguments));
    outcome.expect("words", 0, "warning: the prompt is longer than the model reads; cut off: \"");
    let warning = outcome.stderr.lines().find(|line| line.contains("cut off")).unwrap();
    assert!(warning.ends_with("…\"; --long-prompts chunks reads all of it"), "{warning}");
    assert!(warning.chars().count() < 200, "{warning}");
    assert!(warning.contains(" word"), "{warning}");
}

// ── Numbers that cannot become a picture: exit code 6 ───────────────────────────────────────────────────────────────

#[test]
fn a_graph_that_gives_no_picture_is_told_with_stage_and_step() {
    #[rustfmt::skip]
    let cases = [
        ("text_encoder_nan", "text_encoder", "text_encoder: gave NaN for this prompt"),
        ("denoiser_nan", "unet", "denoiser: step 1 of 2: timestep 501: gave NaN or infinite numbers"),
        ("denoiser_nan_later", "unet", "denoiser: step 2 of 2: timestep 1: gave NaN or infinite numbers"),
        ("denoiser_constant", "unet", "denoiser: step 1 of 2: timestep 501: gave one number everywhere"),
        ("decoder_nan", "vae_decoder", "decoder: the picture has NaN or infinite pixels"),
        ("decoder_black", "vae_decoder", "decoder: the picture is all black"),
    ];
    for (fault, folder, telling) in cases {
        let place = Place::new();
        let model = place.copy_of("tiny-sd");
        fs::copy(tiny("faulty").join(format!("{fault}.onnx")), model.join(folder).join("model.onnx")).unwrap();
        for extra in
            [&[][..], &["--out", "x.png"], &["--out", "-"], &["--guidance", "1", "--count", "3", "--batch", "2"]]
        {
            let mut command = place.command(picture_of(&model));
            command.args(["--sampler", "ddim"]).args(extra);
            refused(&place, command, fault, 6, telling);
        }
    }
}

#[test]
fn a_constant_latent_is_told_with_its_step() {
    let place = Place::new();
    let model = place.copy_of("tiny-sd");
    scheduler(&model, "\"epsilon\"", "\"sample\"");
    fs::copy(tiny("faulty/denoiser_constant.onnx"), model.join("unet/model.onnx")).unwrap();
    refused(&place, place.command(picture_of(&model)), "constant", 6, "denoiser: ");
}

// ── Input and output: exit code 7 ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_place_that_cannot_be_written_is_told_before_anything_is_computed() {
    #[rustfmt::skip]
    let cases: &[(&[&str], &str)] = &[
        (&["--out", "missing/x.png"], "missing/x.png: cannot be written: its folder does not exist; create it first"),
        (&["--out", "FILE/x.png"], "x.png: cannot be written: Not a directory"),
        (&["--out", "FILE/"], "cannot be created: "),
        (&["--out", "FILE/below/"], "cannot be created: Not a directory"),
        (&["--out", "/proc/x.png"], "/proc/x.png: cannot be written: "),
        (&["--save-latents", "FILE/below"], "below: cannot be created: Not a directory"),
        (&["--save-latents", "FILE"], "cannot be created: File exists"),
        (&["--save-latents", "/proc"], "cannot be written: "),
    ];
    let place = Place::new();
    let file = place.input("file", "a regular file").display().to_string();
    for (arguments, telling) in cases {
        let mut command = place.without_library(picture_of(&tiny("tiny-sd")));
        command.args(arguments.iter().map(|argument| argument.replace("FILE", &file)));
        refused(&place, command, telling, 7, telling);
    }
}

#[test]
fn a_full_device_is_an_error_and_stays_a_device() {
    use std::os::unix::fs::FileTypeExt as _;
    // Links: were a device itself renamed over, the whole machine would miss it.
    let place = Place::new();
    let [full, null] = ["full", "null"].map(|device| {
        let link = place.inputs().join(device).with_extension("png");
        symlink(Path::new("/dev").join(device), &link).unwrap();
        link.display().to_string()
    });
    let mut command = place.command(picture_of(&tiny("tiny-sd")));
    command.args(["--out", &full]);
    refused(&place, command, "device", 7, "full.png: cannot be written: No space left");
    assert!(fs::metadata(&full).unwrap().file_type().is_char_device());

    for extra in [&["--out", "-"][..], &["--json", "--out", &null]] {
        let mut command = place.command(picture_of(&tiny("tiny-sd")));
        command.args(extra).stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        let outcome = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&outcome.stderr).into_owned();
        assert_eq!(outcome.status.code(), Some(7), "{told}");
        assert!(told.contains("standard output cannot be written: No space left"), "{told}");
    }
    assert!(fs::metadata(&null).unwrap().file_type().is_char_device());
    assert_eq!(place.left(), [""; 0]);
}

#[test]
fn a_latent_that_cannot_be_written_ends_the_generation() {
    for (blocked, kept) in [("0000-noise.npy", 0), ("0000-step-001.npy", 1), ("0000-step-002.npy", 2)] {
        let place = Place::new();
        // A folder of that name cannot be replaced by a file.
        fs::create_dir_all(place.work().join("latents").join(blocked)).unwrap();
        let mut command = place.command(picture_of(&tiny("tiny-sd")));
        command.args(["--save-latents", "latents"]);
        Outcome::of(command).expect(blocked, 7, &format!("latents/{blocked}: cannot be written: Is a directory"));
        let left = place.left();
        assert!(left.len() == kept && left.iter().all(|file| file.ends_with(".npy")), "{left:?}");
    }
}

// ── Cancelling: exit code 8 ─────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_interrupt_stops_a_long_generation_soon_and_leaves_nothing() {
    let place = Place::new();
    let mut command =
        place.command(["generate", "a cat", "--steps", "900", "--count", "1000", "--out", "cats/", "--model"]);
    command.arg(tiny("tiny-sd")).args(["--save-latents", "latents"]).stderr(Stdio::piped());
    let running = command.spawn().unwrap();
    let begun = place.work().join("latents/0000-step-001.npy");
    let patience = Instant::now();
    while !begun.exists() {
        assert!(patience.elapsed() < Duration::from_secs(20), "it never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    let start = Instant::now();
    let killed = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let outcome = running.wait_with_output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let told = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert_eq!((outcome.status.code(), told.contains("error: cancelled")), (Some(8), true), "{told}");
    let left = place.left();
    assert!(left.iter().all(|file| file.starts_with("work/latents/0000-") && file.ends_with(".npy")), "{left:?}");
}

// ── What never touches the library, and what never leaves the machine ───────────────────────────────────────────────

#[test]
fn help_lists_and_validation_are_quick_and_open_no_library() {
    // 20 ms is the promise for a release build; a debug build on a busy machine gets ten times that.
    let most = Duration::from_millis(200);
    let place = Place::new();
    let commands: [(&[&str], i32); 6] = [
        (&["--help"], 0),
        (&["generate", "--help"], 0),
        (&["models"], 0),
        (&["targets"], 0),
        (&["generate", "x", "--model", EMOJI, "--sampler", "magic"], 2),
        (&["generate", "x", "--model", "nonesuch"], 3),
    ];
    for (arguments, code) in commands {
        let mut times: Vec<_> = (0..5)
            .map(|_| {
                let start = Instant::now();
                Outcome::of(place.without_library(arguments)).expect(&arguments.join(" "), code, "");
                start.elapsed()
            })
            .collect();
        times.sort();
        assert!(times[2] < most, "{arguments:?}: median {:?} of {times:?}", times[2]);
    }
    assert_eq!(place.left(), [""; 0]);
}

#[test]
fn a_generation_writes_its_picture_and_nothing_else() {
    let place = Place::new();
    Outcome::of(place.command(picture_of(&tiny("tiny-sd")))).expect("generate", 0, "seed 7");
    Outcome::of(place.command(["version"])).expect("version", 0, "");
    assert_eq!(place.left(), ["work/a-red-apple-7.png"]);
}
