//! The aarch64 command with the aarch64 library, emulated, beside the native one: `./check --cross` runs it once
//! `scripts/cross aarch64` has built the command.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Outcome, Place, repository};
use safelight::verify::psnr_db;

mod common;

/// Least likeness of ten pictures of two machines, together. Where the library's floating point rounds differently, a value
/// may fall to the next step of a quantiser: most pictures are the same bytes, a few are not (docs/cross-compiling.md).
const MIN_PSNR_DB: f64 = 45.0;

#[test]
#[ignore = "needs an aarch64 build, its library and qemu: ./check --cross"]
fn tells_of_machine_and_library() {
    let place = Place::new();
    let cases: [(&[&str], &[&str]); 3] = [
        (&["version"], &["safelight 0.", "ONNX Runtime 1.", ".onnxruntime/linux-aarch64/", "providers: "]),
        (&["targets", "--detect"], &["linux on aarch64", "dotprod", "target: "]),
        (&["doctor"], &["linux on aarch64", "library: ONNX Runtime 1.", "model emoji: lengths are right"]),
    ];
    for (arguments, told) in cases {
        let stdout = text_of(emulated(&place, arguments));
        for told in told {
            assert!(stdout.contains(told), "{arguments:?}: {told:?} is not in {stdout}");
        }
    }
}

#[test]
#[ignore = "needs an aarch64 build, its library and qemu: ./check --cross"]
fn targets_and_graphs_are_what_x86_64_tells() {
    let place = Place::new();
    let emoji = repository().join("models/emoji").display().to_string();
    for arguments in [&["targets"][..], &["inspect", &emoji]] {
        let told = |command| {
            let text = text_of(command);
            // Other tests probe the same graphs meanwhile.
            let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("  probe ")).map(str::to_owned).collect();
            assert!(lines.len() > 10, "{arguments:?}: {text}");
            lines
        };
        assert_eq!(told(emulated(&place, arguments)), told(place.command(arguments)));
    }
}

#[test]
#[ignore = "needs an aarch64 build, its library and qemu: ./check --cross"]
fn int8_gives_the_pictures_of_x86_64() {
    let place = Place::new();
    let every = fs::read_to_string(repository().join("exporter-specs/emoji/prompts.txt")).unwrap();
    let prompts: Vec<_> = every.lines().step_by(4).collect();
    assert_eq!(prompts.len(), 10);
    let prompts = place.input("prompts.txt", prompts.join("\n")).display().to_string();
    let request =
        ["generate", "--prompts", &prompts, "--seed", "1", "--steps", "1", "--precision", "int8", "--no-probe"];
    let out = |folder| request.into_iter().chain(["--out", folder]);
    Outcome::of(place.command(out("native/"))).expect("native", 0, "denoiser int8 on cpu");
    Outcome::of(emulated(&place, out("emulated/"))).expect("emulated", 0, "denoiser int8 on cpu");

    let (native, emulated) = (pixels(&place.work().join("native")), pixels(&place.work().join("emulated")));
    assert!(native.keys().eq(emulated.keys()) && native.len() == 10, "{:?}", place.left());
    let psnr = |a: &[u8], b: &[u8]| psnr_db(a, b).unwrap_or(f64::INFINITY);
    for (name, expected) in &native {
        eprintln!("{}: {:.1} dB", name.display(), psnr(expected, &emulated[name]));
    }
    let together = |pictures: &BTreeMap<_, Vec<u8>>| pictures.values().flatten().copied().collect::<Vec<u8>>();
    let found = psnr(&together(&native), &together(&emulated));
    eprintln!("together: {found:.2} dB");
    assert!(found >= MIN_PSNR_DB, "{found} dB, expected {MIN_PSNR_DB} or more");
    assert_eq!(place.left().len(), 20, "{:?}", place.left());
}

/// The system starts a program's own children, and cannot: it says so, and opens nothing unprobed.
#[test]
#[ignore = "needs an aarch64 build, its library and qemu: ./check --cross"]
fn a_probe_that_cannot_start_is_told() {
    let place = Place::new();
    let outcome = Outcome::of(emulated(&place, ["generate", "a red apple", "--precision", "int8"]));
    outcome.expect("probe", 4, "could not be tried in a probe process");
    outcome.expect("probe", 4, "--no-probe opens it without");
    assert_eq!(place.left(), [""; 0]);
}

/// The colours of all pictures of a folder, by their file names.
fn pixels(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    files.map(|file| (file.file_name(), image::open(file.path()).unwrap().into_rgb8().into_raw())).collect()
}

fn text_of(command: Command) -> String {
    let outcome = Outcome::of(command);
    let stdout = String::from_utf8(outcome.stdout).unwrap();
    assert_eq!(outcome.code, 0, "{stdout}{}", outcome.stderr);
    stdout
}

/// What `scripts/cross aarch64` built, in this place, with the aarch64 library.
fn emulated<S: AsRef<OsStr>>(place: &Place, arguments: impl IntoIterator<Item = S>) -> Command {
    let native = place.command(arguments);
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("aarch64-unknown-linux-gnu/release/safelight");
    assert!(built.exists(), "{} is not there: scripts/cross aarch64 builds it", built.display());
    let mut command = Command::new(repository().join("scripts/emulate"));
    command.arg(built).args(native.get_args()).current_dir(place.work());
    for (name, value) in native.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("ORT_DYLIB_PATH", repository().join(".onnxruntime/linux-aarch64"));
    command
}
