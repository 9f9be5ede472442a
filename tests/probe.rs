//! Graphs that crash ONNX Runtime, hang in it or take all memory: the probe process dies of them, and the command does
//! not. The library of most tests is the real one, with one function replaced by one that misbehaves.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Outcome, Place, board, compiled, manifest_model, tiny};
use protobuf::Graph;

mod common;
#[path = "common/protobuf.rs"]
mod protobuf;

/// A place where nothing has passed the probe yet.
fn place() -> Place {
    let place = Place::new();
    fs::remove_file(place.probed()).unwrap();
    place
}

/// Opens the real library, and puts functions of its own into its table: OpenSession and Run, which are the eighth and
/// the tenth function of `OrtApi` in every release.
const WRAPPER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct { const void *(*api)(uint32_t); const char *(*version)(void); } Base;
static int patched;

static void *misbehave(void) {
    const char *how = getenv("MISBEHAVE");
    if (!strcmp(how, "segfault")) *(volatile int *)NULL = 1;
    if (!strcmp(how, "abort")) { fputs("malloc(): invalid size (unsorted)\n", stderr); abort(); }
    if (!strcmp(how, "divide")) raise(SIGFPE);
    if (!strcmp(how, "exit")) _exit(3);
    if (!strcmp(how, "chatter")) {
        for (int line = 0; line < 100000; line++) fprintf(line % 2 ? stderr : stdout, "line %d, of which there are many\n", line);
        fflush(stdout);
        abort();
    }
    if (!strcmp(how, "killed")) raise(SIGKILL);
    if (!strcmp(how, "eat")) for (;;) { char *p = malloc(1 << 24); if (!p) { fputs("terminate called: std::bad_alloc\n", stderr); abort(); } memset(p, 1, 1 << 24); }
    for (;;) sleep(1);
}

__attribute__((constructor)) static void loaded(void) {
    FILE *log = getenv("LOADED") ? fopen(getenv("LOADED"), "a") : NULL;
    if (log) { fputs("x", log); fclose(log); }
}

const Base *OrtGetApiBase(void) {
    void *real = dlopen(REAL, RTLD_NOW);
    const Base *base = ((const Base *(*)(void))dlsym(real, "OrtGetApiBase"))();
    if (!patched++ && getenv("MISBEHAVE")) {
        void **table = (void **)base->api(18);
        int index = getenv("MISBEHAVE_IN") && !strcmp(getenv("MISBEHAVE_IN"), "run") ? 9 : 7;
        uintptr_t page = (uintptr_t)&table[index] & ~4095ul;
        mprotect((void *)page, 8192, PROT_READ | PROT_WRITE);
        table[index] = (void *)misbehave;
    }
    return base;
}
"#;

fn real_library(place: &Place) -> PathBuf {
    let Outcome { stdout, .. } = Outcome::of(place.command(["version", "--json"]));
    let about: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
    about["onnxruntime"]["path"].as_str().unwrap().into()
}

fn wrapper(place: &Place) -> PathBuf {
    let library = place.inputs().join("libonnxruntime.so");
    let real = format!("-DREAL=\"{}\"", real_library(place).display());
    compiled(&library, WRAPPER, &[&real, "-ldl"]);
    library
}

fn picture(place: &Place, more: &[&str]) -> Command {
    let mut command = place.command(["generate", "a red apple", "--seed", "7", "--steps", "2", "--model"]);
    command.arg(tiny("tiny-sd")).args(more);
    command
}

fn records(place: &Place) -> usize {
    fs::read_dir(place.probed()).map_or(0, |files| files.count())
}

#[test]
fn a_graph_that_crashes_the_library_is_told_and_never_opened() {
    let place = place();
    let library = wrapper(&place);
    #[rustfmt::skip]
    let cases = [
        ("segfault", "open", 3, "in a probe process while it was opened (SIGSEGV); it is not opened here; "),
        ("segfault", "run", 3, "in a probe process while it ran once, on zeros (SIGSEGV); it is not opened here; "),
        ("abort", "open", 3, "(SIGABRT); its last words: malloc(): invalid size (unsorted); it is not opened here"),
        ("divide", "open", 3, "(SIGFPE)"),
        ("exit", "open", 3, "(exit code 3)"),
        ("chatter", "run", 3, "(SIGABRT); its last words: line 99999, of which there are many; it is not opened here"),
        ("killed", "open", 5, "took all the memory"),
        ("killed", "run", 5, "raise probe: { max_bytes: … } in the target"),
    ];
    for (how, wherein, code, telling) in cases {
        let mut command = picture(&place, &[]);
        command.env("ORT_DYLIB_PATH", &library).env("MISBEHAVE", how).env("MISBEHAVE_IN", wherein);
        let outcome = Outcome::of(command);
        outcome.expect(how, code, telling);
        outcome.expect(how, code, "model.onnx: ");
        assert_eq!(place.left(), [""; 0], "{how}");
    }
}

#[test]
fn a_graph_that_hangs_is_given_up() {
    let place = place();
    let library = wrapper(&place);
    for wherein in ["open", "run"] {
        let start = Instant::now();
        let mut command = picture(&place, &["--target", &board(&place, "probe: { max_seconds: 3 }")]);
        command.env("ORT_DYLIB_PATH", &library).env("MISBEHAVE", "hang").env("MISBEHAVE_IN", wherein);
        let outcome = Outcome::of(command);
        outcome.expect(wherein, 5, "kept a probe process busy for more than 3 s while it ");
        outcome.expect(wherein, 5, "denoiser: trying it in a process of its own first");
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
        assert_eq!(place.left(), [""; 0]);
    }
    assert!(!is_running(&library), "a probe process outlived the command");
}

/// Whether any process has a file mapped.
fn is_running(file: &Path) -> bool {
    let maps = fs::read_dir("/proc").unwrap().flatten().map(|process| process.path().join("maps"));
    let file = file.display().to_string();
    maps.filter_map(|maps| fs::read_to_string(maps).ok()).any(|maps| maps.contains(&file))
}

#[test]
fn a_graph_that_eats_memory_is_stopped_at_the_limit() {
    let place = place();
    let board = board(&place, "probe: { max_bytes: 268435456 }");
    let mut command = picture(&place, &["--target", &board]);
    command.env("ORT_DYLIB_PATH", wrapper(&place)).env("MISBEHAVE", "eat");
    Outcome::of(command).expect("eat", 5, "took all the memory of 256 MiB that a probe process may have");

    // The real library says that there is no memory, and it is believed.
    let model = manifest_model(&place);
    let bomb = Graph::default().input("latent_sample", 1, &[1, 4, 8, 8]).initializer(
        "s",
        7,
        &[1],
        &(1u64 << 28).to_le_bytes(),
    );
    let bomb = bomb.node("ConstantOfShape", &["s"], &["c"]).node("ReduceMax", &["c"], &["m"]);
    let bomb = bomb.node("Add", &["latent_sample", "m"], &["sample"]).gives("sample", 1, &[1, 3, 64, 64]);
    fs::write(model.join("decoder.onnx"), bomb.bytes()).unwrap();
    common::describe(&model);
    let mut command = place.command(["generate", "x", "--seed", "7", "--target", &board, "--model"]);
    command.arg(&model);
    Outcome::of(command).expect("bomb", 5, "took all the memory of 256 MiB that a probe process may have");
    assert_eq!(records(&place), 2, "the other graphs have passed");
}

#[test]
fn an_interrupt_ends_the_probe_too() {
    let place = place();
    let library = wrapper(&place);
    let mut command = picture(&place, &[]);
    command.env("ORT_DYLIB_PATH", &library).env("MISBEHAVE", "hang").stderr(Stdio::piped());
    let running = command.spawn().unwrap();
    let patience = Instant::now();
    let children = || fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.id())).unwrap_or_default();
    let has_children = || {
        fs::read_dir(format!("/proc/{}/task", running.id())).is_ok_and(|tasks| {
            tasks
                .flatten()
                .any(|task| fs::read_to_string(task.path().join("children")).is_ok_and(|told| !told.trim().is_empty()))
        })
    };
    while !has_children() {
        assert!(patience.elapsed() < Duration::from_secs(20), "no probe began: {:?}", children());
        std::thread::sleep(Duration::from_millis(5));
    }
    let start = Instant::now();
    assert!(Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap().success());
    let outcome = running.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert_eq!((outcome.status.code(), told.contains("error: ")), (Some(8), true), "{told}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!is_running(&library), "a probe process outlived the command");
}

/// Kills the command in the middle of a probe: nobody is left to end the process but itself.
#[test]
fn a_probe_does_not_outlive_a_command_that_was_killed() {
    let place = place();
    let library = wrapper(&place);
    let mut command = picture(&place, &[]);
    command.env("ORT_DYLIB_PATH", &library).env("MISBEHAVE", "hang").stderr(Stdio::null());
    let mut running = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    running.kill().unwrap();
    running.wait().unwrap();
    let start = Instant::now();
    while is_running(&library) {
        assert!(start.elapsed() < Duration::from_secs(5), "a probe process outlived the command");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_has_passed_is_asked_once() {
    let place = place();
    Outcome::of(picture(&place, &[])).expect("first", 0, "seed 7");
    let left = place.left();
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(
        left[..3].iter().all(|file| file.starts_with("home/safelight/probed/") && file.ends_with(".json")),
        "{left:?}"
    );

    for record in fs::read_dir(place.probed()).unwrap() {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(record.unwrap().path()).unwrap()).unwrap();
        assert!(record["refused"].is_null() && record["peak_bytes"].as_u64() > Some(1 << 20), "{record}");
    }
    // Each process loads the library once.
    let (library, log) = (wrapper(&place), place.inputs().join("loaded"));
    let processes = |probe: &str, more: &[&str]| {
        let _ = fs::remove_file(&log);
        let mut command = picture(&place, &["--target", &board(&place, probe)]);
        command.env("ORT_DYLIB_PATH", &library).env("LOADED", &log).args(more);
        Outcome::of(command).expect(probe, 0, "seed 7");
        fs::read(&log).unwrap().len()
    };
    assert_eq!(processes("", &[]), 4, "another library");
    assert_eq!((processes("", &[]), records(&place)), (1, 6));
    assert_eq!(processes("probe: { when: once, max_seconds: 7 }", &[]), 1, "limits change nothing");
    assert_eq!(processes("session: { graph_optimization: basic }", &["--no-probe"]), 1);
    assert_eq!(processes("session: { graph_optimization: basic }\nprobe: { when: never }", &[]), 1);
    assert_eq!(processes("session: { graph_optimization: basic }", &[]), 4, "settings change what is done to graphs");
    assert_eq!((processes("probe: { when: always }", &[]), records(&place)), (4, 9));
    assert_eq!(processes("probe: { when: always }", &["--size", "128x128"]), 4);
    assert_eq!(processes("", &["--size", "128x128"]), 1);
}

#[test]
fn what_has_passed_is_told() {
    let place = place();
    let inspected = |expected: &str| {
        let mut command = place.without_library(["inspect"]);
        let outcome = Outcome::of({
            command.arg(tiny("tiny-sd"));
            command
        });
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
        assert_eq!(text.matches(expected).count(), 3, "{text}");
    };
    let doctor = |more: &[&str], expected: &str| {
        let mut command = place.command(["doctor", "--json", "--deep", "--model"]);
        command.arg(tiny("tiny-sd")).args(more);
        let findings: serde_json::Value = serde_json::from_slice(&Outcome::of(command).stdout).unwrap();
        let found = findings["findings"].as_array().unwrap().iter().find(|found| found["check"] == "probe").unwrap();
        assert!(found["evidence"].as_str().unwrap().contains(expected), "{found}");
    };
    inspected("probe      not passed yet");
    doctor(&[], "denoiser is tried when it is first opened");
    Outcome::of(picture(&place, &[])).expect("first", 0, "seed 7");
    inspected("probe      passed with ONNX Runtime 1.");
    doctor(&[], "denoiser passed with ONNX Runtime 1.");
    doctor(&["--target", &board(&place, "probe: { when: never }")], "the target says probe: { when: never }");
}

#[test]
fn where_nothing_can_be_remembered_it_is_told_once() {
    let place = place();
    let mut command = picture(&place, &[]);
    command.env_remove("HOME").env_remove("XDG_CACHE_HOME");
    let outcome = Outcome::of(command);
    outcome.expect("nowhere", 0, "neither SAFELIGHT_CACHE nor HOME says where to remember");
    assert_eq!(outcome.stderr.matches("nor HOME says where").count(), 1, "{}", outcome.stderr);

    let mut command = picture(&place, &[]);
    command.env("SAFELIGHT_CACHE", place.input("file", ""));
    let outcome = Outcome::of(command);
    outcome.expect("no folder", 0, "probed: cannot be written: ");
    assert_eq!(outcome.stderr.matches("cannot be written").count(), 1, "{}", outcome.stderr);
    assert_eq!(place.left(), ["work/a-red-apple-7.png"]);
}

/// Whoever embeds the library has no such process unless it names a program.
#[test]
fn an_application_is_not_started_unasked() {
    use safelight::{Model, Pipeline, Target};
    let text = "schema: safelight-target/1\nname: t\ntitle: T\nprecision: [fp32]\n\
                providers: [{ name: cpu, need: required }]\nprobe: { when: always }\n";
    let (target, model) = (Target::parse(text).unwrap(), Model::open(&tiny("tiny-sd")).unwrap());
    Pipeline::open(&target, &model).unwrap();
    let missing = Pipeline::open(&target.clone().with_probe(Path::new("/no/such/safelight"), None), &model);
    let told = missing.err().unwrap();
    assert_eq!(told.kind(), safelight::ErrorKind::Io);
    assert!(told.to_string().contains("/no/such/safelight cannot be started"), "{told}");
    let other = Pipeline::open(&target.clone().with_probe(Path::new("/bin/true"), None), &model).err().unwrap();
    assert_eq!(other.kind(), safelight::ErrorKind::Library);
    assert!(other.to_string().contains("it ended before it saw the graph (exit code 0)"), "{other}");
    let program = Path::new(env!("CARGO_BIN_EXE_safelight"));
    Pipeline::open(&target.with_probe(program, None), &model).unwrap();
}

#[test]
fn the_probe_process_says_what_it_is_for() {
    let place = Place::new();
    let mut command = place.without_library(["probe-graph", "--max-seconds", "1"]);
    command.stdin(Stdio::null());
    Outcome::of(command).expect("by hand", 2, "safelight starts this command itself");
}
