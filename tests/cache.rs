//! What providers make of graphs, kept on disk, through the command: hits and misses, what is stale, damaged, in use or
//! too much, two processes at once, and that pictures are the same.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Outcome, Place, tiny};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

mod common;

const STAGES: [&str; 3] = ["text_encoder", "denoiser", "decoder"];

/// Spoils the entry in a folder.
type Damage = fn(&Path);

/// A target of the CPU, with these fields.
fn target(place: &Place, fields: &str) -> PathBuf {
    let head = "schema: safelight-target/1\nname: board\ntitle: Board\nproviders: [{ name: cpu, need: required }]\n";
    place.input("board.yaml", format!("{head}precision: [int8, fp32]\n{fields}"))
}

fn cache(place: &Place) -> PathBuf {
    place.work().join("cache")
}

/// `safelight COMMAND` with the tiny pipeline and the target.
fn command(place: &Place, words: &[&str]) -> Command {
    let mut command = place.command(words);
    command.arg("--model").arg(tiny("tiny-sd")).arg("--target").arg(place.inputs().join("board.yaml"));
    command
}

fn warm(place: &Place) -> Command {
    let mut command = command(place, &["warm", "--json"]);
    command.arg("--cache").arg(cache(place));
    command
}

fn generate(place: &Place) -> Command {
    let mut command = command(place, &["generate", "a cat", "--steps", "2", "--seed", "7", "--json"]);
    command.arg("--cache").arg(cache(place));
    command
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout).unwrap()
}

/// What became of each stage, in the order of the data.
fn outcomes(report: &Value) -> [String; 3] {
    let stages = if report["stages"].is_null() { &report["cached"] } else { &report["stages"] };
    STAGES.map(|stage| stages[stage]["outcome"].as_str().unwrap_or("none").to_owned())
}

#[track_caller]
fn expect(command: Command, expected: &str) -> Outcome {
    let outcome = Outcome::of(command);
    outcome.expect(expected, 0, "");
    assert_eq!(outcomes(&json(&outcome)), [expected; 3], "{}", outcome.stderr);
    outcome
}

/// The entries' folders; what has passed the probe is beside them.
fn entries(folder: &Path) -> BTreeSet<PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    found.filter(|path| path.is_dir() && !path.ends_with("probed")).collect()
}

/// A file of the denoiser's entry.
fn denoiser(place: &Place, file: &str) -> PathBuf {
    let is_denoiser = |entry: &PathBuf| {
        fs::read_to_string(entry.join("cache.json")).is_ok_and(|text| text.contains("\"stage\": \"denoiser\""))
    };
    entries(&cache(place)).into_iter().find(is_denoiser).unwrap().join(file)
}

#[test]
fn what_one_process_built_the_next_uses() {
    let place = Place::new();
    target(&place, "");
    let built = expect(generate(&place), "built");
    assert!(built.stderr.contains("denoiser: building it for the cache (it was never built)"), "{}", built.stderr);
    let hit = expect(generate(&place), "hit");
    assert!(!hit.stderr.contains("building"), "{}", hit.stderr);
    let report = json(&hit);
    for stage in STAGES {
        let cached = &report["cached"][stage];
        assert!(cached["bytes"].as_u64().unwrap() > 1000 && cached["ms"].as_f64().unwrap() > 0.0, "{cached}");
        assert!(cached["why"].is_null());
    }
    // A picture's provenance does not depend on it.
    assert!(report["pictures"][0]["provenance"]["graphs"]["denoiser"]["cached"].is_null());
    expect(warm(&place), "hit");
    // Threads change nothing of what is kept.
    let mut threads = generate(&place);
    threads.args(["--threads", "2"]);
    expect(threads, "hit");
}

#[test]
fn pictures_are_the_same_with_and_without() {
    let place = Place::new();
    for precision in ["int8", "fp16"] {
        let draw = |more: &[&str], name: &str| {
            let mut command = place.command(["generate", "a red apple", "--seed", "3", "--model", "emoji", "--quiet"]);
            command.args(["--target", "generic-cpu", "--precision", precision, "--out", name]).args(more);
            Outcome::of(command).expect(name, 0, "");
            fs::read(place.work().join(name)).unwrap()
        };
        let plain = draw(&[], "plain.png");
        assert!(plain == draw(&["--cache", "cache"], "built.png"), "{precision}");
        assert!(plain == draw(&["--cache", "cache", "--cached-only"], "hit.png"), "{precision}");
    }
}

#[test]
fn a_target_can_ask_for_it_and_the_user_says_where() {
    let place = Place::new();
    let run = |variable: Option<(&str, &str)>| {
        let mut command = command(&place, &["generate", "a cat", "--steps", "1", "--seed", "7", "--json"]);
        command.envs(variable);
        expect(command, "built");
    };
    let folder = place.inputs().join("own");
    target(&place, "cache: {}\n");
    run(None);
    run(Some(("SAFELIGHT_CACHE", "elsewhere")));
    target(&place, &format!("cache: {{ folder: {} }}\n", folder.display()));
    run(None);
    assert_eq!((entries(&place.work().join("elsewhere")).len(), entries(&folder).len()), (3, 3));
    assert!(place.left().iter().any(|file| file.starts_with("home/") && file.ends_with("cache.json")));
}

#[test]
fn without_being_asked_nothing_is_kept() {
    let place = Place::new();
    target(&place, "");
    let outcome = Outcome::of(command(&place, &["generate", "a cat", "--steps", "1", "--seed", "7", "--json"]));
    outcome.expect("no cache", 0, "");
    assert_eq!(json(&outcome)["cached"], serde_json::json!({}));
    assert_eq!(place.left(), ["work/a-cat-7.png"]);
    Outcome::of(command(&place, &["warm"])).expect("warm", 2, "target board has no cache to warm; add \"cache: {}\"");
    let only = command(&place, &["generate", "a cat", "--cached-only"]);
    Outcome::of(only).expect("cached only", 2, "has no cache that could hold everything");
}

#[test]
fn what_was_built_for_other_settings_is_told_and_replaced() {
    let place = Place::new();
    target(&place, "");
    expect(warm(&place), "built");
    let before = entries(&cache(&place));
    target(&place, "session: { graph_optimization: basic }\n");
    let mut only = generate(&place);
    only.arg("--cached-only");
    let refused = Outcome::of(only);
    refused.expect("stale", 4, "graph optimization: was usual, is basic");
    for part in ["nothing is built", "safelight warm --model ", " --target board --cache "] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    let rebuilt = expect(warm(&place), "built");
    let why = &json(&rebuilt)["stages"]["denoiser"]["cached"]["why"];
    assert!(why.as_str().unwrap().contains("graph optimization: was usual"), "{why}");
    let after = entries(&cache(&place));
    assert!(after.len() == 3 && after.is_disjoint(&before));
    expect(generate(&place), "hit");
}

#[test]
fn graphs_that_are_not_rewritten_are_not_kept() {
    let place = Place::new();
    target(&place, "session: { graph_optimization: disabled }\n");
    let outcome = Outcome::of(warm(&place));
    outcome.expect("nothing to cache", 0, "");
    assert_eq!(outcomes(&json(&outcome)), ["nothing to cache"; 3]);
}

#[test]
fn damaged_entries_are_built_again_and_told() {
    let damages: [(&str, Damage); 5] = [
        ("sha256 differs", |at| {
            let mut bytes = fs::read(at.join("graph.weights")).unwrap();
            bytes[100] ^= 1;
            fs::write(at.join("graph.weights"), bytes).unwrap();
        }),
        ("graph.onnx is missing", |at| fs::remove_file(at.join("graph.onnx")).unwrap()),
        ("cache.json is damaged", |at| {
            let text = fs::read(at.join("cache.json")).unwrap();
            fs::write(at.join("cache.json"), &text[..text.len() / 2]).unwrap();
        }),
        ("no plain path inside the entry", |at| {
            let text = fs::read_to_string(at.join("cache.json")).unwrap();
            fs::write(at.join("cache.json"), text.replace("\"graph.onnx\"", "\"/etc/passwd\"")).unwrap();
        }),
        // Its hash is right: only the library can tell.
        ("it is built again", |at| {
            let text = fs::read_to_string(at.join("cache.json")).unwrap();
            let (old, new) = (fs::read(at.join("graph.onnx")).unwrap(), b"no graph".to_vec());
            let hash =
                |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let text = text.replace(&hash(&old), &hash(&new));
            fs::write(at.join("cache.json"), text.replace(&format!(": {},", old.len()), ": 8,")).unwrap();
            fs::write(at.join("graph.onnx"), new).unwrap();
        }),
    ];
    let place = Place::new();
    target(&place, "");
    expect(warm(&place), "built");
    for (expected, damage) in damages {
        damage(&denoiser(&place, ""));
        let mut only = generate(&place);
        only.arg("--cached-only");
        Outcome::of(only).expect(expected, 4, "nothing is built");
        let outcome = Outcome::of(generate(&place));
        outcome.expect(expected, 0, expected);
        assert!(outcome.stderr.contains("warning: cache entry"), "{expected}: {}", outcome.stderr);
        assert_eq!(outcomes(&json(&outcome)), ["hit", "built", "hit"], "{expected}");
        expect(generate(&place), "hit");
    }
}

#[test]
fn an_interrupted_building_is_begun_again() {
    let place = Place::new();
    target(&place, "");
    expect(warm(&place), "built");
    fs::remove_file(denoiser(&place, "cache.json")).unwrap();
    let outcome = Outcome::of(warm(&place));
    outcome.expect("unfinished", 0, "2 of 3: denoiser, building (its building was interrupted)");
    assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    assert_eq!(outcomes(&json(&outcome)), ["hit", "built", "hit"]);
}

#[test]
fn processes_at_once_build_it_once() {
    let place = Place::new();
    target(&place, "");
    let children: Vec<_> = (0..3)
        .map(|_| {
            let mut command = warm(&place);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let mut built = [0; 3];
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let outcomes = outcomes(&serde_json::from_slice(&output.stdout).unwrap());
        for (built, outcome) in built.iter_mut().zip(outcomes) {
            *built += usize::from(outcome == "built");
            assert_ne!(outcome, "nothing to cache");
        }
    }
    assert_eq!((built, entries(&cache(&place)).len()), ([1; 3], 3));
}

#[test]
fn a_process_waits_for_the_one_that_builds() {
    let place = Place::new();
    target(&place, "");
    expect(warm(&place), "built");
    let lock = denoiser(&place, "").with_extension("lock");
    let builder = fs::File::options().write(true).open(lock).unwrap();
    builder.lock().unwrap();
    let mut command = generate(&place);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    builder.unlock().unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("denoiser: waiting for another process that builds it for the cache"), "{told}");
    assert_eq!(outcomes(&serde_json::from_slice(&output.stdout).unwrap()), ["hit"; 3], "{told}");
}

#[test]
fn another_size_is_another_entry_and_the_least_recently_used_make_room() {
    let place = Place::new();
    target(&place, "cache: { max_bytes: 1000000 }\n");
    let sized = |size: &str| {
        let mut command = warm(&place);
        command.args(["--size", size]);
        command
    };
    expect(sized("64x64"), "built");
    let small = entries(&cache(&place));
    let large = Outcome::of(sized("128x128"));
    assert_eq!(outcomes(&json(&large)), ["hit", "built", "built"]);
    expect(sized("64x64"), "hit");
    assert_eq!(entries(&cache(&place)).len(), 5);
    // Room for one size of it: what the other left behind goes.
    let bytes =
        |entry: &PathBuf| fs::read_dir(entry).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>();
    let most = small.iter().map(bytes).sum::<u64>() + 100;
    target(&place, &format!("cache: {{ max_bytes: {most} }}\n"));
    let guided = {
        let mut command = sized("64x64");
        command.args(["--guidance", "1"]);
        command
    };
    let outcome = Outcome::of(guided);
    outcome.expect("guidance", 0, "");
    let left: u64 = entries(&cache(&place)).iter().map(bytes).sum();
    assert!(left <= most + 4096, "{left} of {most}");
    target(&place, "cache: { max_bytes: 1 }\n");
    let outcome = Outcome::of(sized("192x192"));
    outcome.expect("too little", 0, "max_bytes is 1; raise it");
}

#[test]
fn a_request_of_another_size_is_an_entry_of_any_size() {
    let place = Place::new();
    target(&place, "");
    expect(warm(&place), "built");
    let mut larger = generate(&place);
    larger.args(["--size", "128x128", "--cached-only"]);
    Outcome::of(larger).expect("another size", 4, "fixed axes: was ");
}

#[test]
fn nothing_is_built_where_the_target_says_never() {
    let place = Place::new();
    target(&place, "cache: { build: never }\n");
    let refused = Outcome::of(generate(&place));
    refused.expect("empty", 4, "it was never built; nothing is built");
    assert!(entries(&cache(&place)).is_empty());
    // Which is for devices; whoever warms them builds.
    expect(warm(&place), "built");
    expect(generate(&place), "hit");
    let mut check = warm(&place);
    check.arg("--cached-only");
    expect(check, "hit");
}

#[test]
fn a_folder_that_cannot_be_made_is_told_and_the_picture_is_made() {
    let place = Place::new();
    target(&place, "");
    fs::write(cache(&place), "a file").unwrap();
    let outcome = Outcome::of(generate(&place));
    outcome.expect("no folder", 0, "cannot be made");
    assert!(outcome.stderr.contains("nothing is kept: give a folder that can be written"), "{}", outcome.stderr);
    assert_eq!(json(&outcome)["cached"], serde_json::json!({}));
}

/// Where the superuser runs the tests, permissions mean nothing.
#[cfg(unix)]
#[test]
fn a_folder_that_is_only_read_serves_what_it_has() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    target(&place, "");
    expect(warm(&place), "built");
    let paths = || entries(&cache(&place)).into_iter().chain([cache(&place)]);
    let permit = |mode| paths().for_each(|path| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap());
    permit(0o555);
    expect(generate(&place), "hit");
    if fs::File::create(cache(&place).join("probe")).is_err() {
        target(&place, "session: { graph_optimization: basic }\n");
        Outcome::of(generate(&place)).expect("read-only", 0, "nothing is kept");
    }
    permit(0o755);
}

#[test]
fn providers_that_keep_their_work_elsewhere_are_refused() {
    let place = Place::new();
    let head = "schema: safelight-target/1\nname: board\ntitle: Board\nprecision: [int8, fp32]\n";
    let providers = "providers: [{ name: tensorrt, need: optional, options: { trt_engine_cache_path: x } }]\n";
    place.input("board.yaml", format!("{head}{providers}"));
    let expected = "tensorrt option \"trt_engine_cache_path\" is what the target's cache sets itself";
    Outcome::of(generate(&place)).expect("both", 2, expected);
}

#[test]
fn staged_graphs_are_kept_too() {
    let place = Place::new();
    target(&place, "residency: staged\n");
    expect(generate(&place), "built");
    expect(generate(&place), "hit");
}
