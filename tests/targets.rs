//! Which target a machine is given, and what the command tells of it. Machines are made of text files; nothing here
//! needs ONNX Runtime, but for the last.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use common::{Outcome, Place, copy_folder, repository, tiny};
use safelight::target::list_targets;
use safelight::{Machine, Target};
use tempfile::TempDir;

mod common;

fn shipped() -> Vec<Target> {
    list_targets(&[repository().join("targets")]).iter().map(|path| Target::open(path).unwrap()).collect()
}

/// A path and a text.
type File<'a> = (&'a str, &'a str);

/// Writes files below a fresh root.
fn root(files: &[File]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

/// The machine whose files these are.
fn machine(arch: &str, files: &[File]) -> Machine {
    Machine { os: "linux".into(), arch: arch.into(), ..Machine::read(root(files).path()) }
}

const ARM: File = (
    "proc/cpuinfo",
    "processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd aes crc32 atomics asimdhp asimddp\nCPU implementer\t: 0x41\n\n\
     processor\t: 1\nFeatures\t: fp asimd aes crc32 atomics asimdhp asimddp\n",
);
const PLAIN_ARM: File = ("proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd\n");
const VNNI: File = (
    "proc/cpuinfo",
    "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse4_2 avx2 avx512f avx512_vnni\n",
);
const AVX_VNNI: File = ("proc/cpuinfo", "processor\t: 0\nmodel name\t: 12th Gen Intel\nflags\t\t: fpu avx2 avx_vnni\n");
const AVX2: File = ("proc/cpuinfo", "processor\t: 0\nmodel name\t: Intel i7\nflags\t\t: fpu sse4_2 avx2\n");
const SSE: File = ("proc/cpuinfo", "processor\t: 0\nmodel name\t: Pentium\nflags\t\t: fpu sse4_2\n");

const MODEL: &str = "proc/device-tree/model";
const COMPATIBLE: &str = "proc/device-tree/compatible";
const ORIN_NANO: File = (MODEL, "NVIDIA Jetson Orin Nano Developer Kit Super\0");
const AGX_ORIN: File = (MODEL, "NVIDIA Jetson AGX Orin Developer Kit\0");
const TEGRA: File = (COMPATIBLE, "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0");
const R36: File = (
    "etc/nv_tegra_release",
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: x\n",
);
const R35: File = (
    "etc/nv_tegra_release",
    "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: x\n",
);
const GIB_8: File = ("proc/meminfo", "MemTotal:        7802880 kB\nMemFree:         1024 kB\n");
const GIB_4: File = ("proc/meminfo", "MemTotal:        3901440 kB\n");
const H200: File =
    ("proc/driver/nvidia/gpus/0000:04:00.0/information", "Model: \t\t NVIDIA H200\nIRQ:   \t\t 11\nGPU UUID: \t x\n");
const H100: File = ("proc/driver/nvidia/gpus/0000:00:06.0/information", "Model: \t\t NVIDIA H100 80GB HBM3\n");
const RTX: File = ("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA GeForce RTX 3060\n");

#[test]
fn every_machine_is_given_its_target() {
    let targets = shipped();
    #[rustfmt::skip]
    let cases: &[(&str, &[File], &str, &str)] = &[
        ("aarch64", &[ARM, ORIN_NANO, TEGRA, R36, GIB_8], "jetson-orin-nano",
            "device tree \"NVIDIA Jetson Orin Nano Developer Kit Super\"; l4t 36; memory 7.4 GiB; arch aarch64"),
        ("aarch64", &[ARM, AGX_ORIN, TEGRA, R36, GIB_8], "jetson-agx-orin", "AGX Orin"),
        // The 4 GB module has the same name, and too little for what the 8 GB one is set to.
        ("aarch64", &[ARM, ORIN_NANO, TEGRA, R36, GIB_4], "jetson", "device tree \"nvidia,tegra234\"; l4t 36"),
        ("aarch64", &[ARM, (MODEL, "A carrier board\0"), TEGRA, R36], "jetson", "nvidia,tegra234"),
        ("aarch64", &[ARM, ORIN_NANO, TEGRA, R35, GIB_8], "jetson-jetpack5", "l4t 35"),
        ("aarch64", &[ARM, (MODEL, "NVIDIA Jetson Xavier NX Developer Kit\0"),
            (COMPATIBLE, "nvidia,p3449-0000+p3668-0001\0nvidia,tegra194\0"), R35], "jetson-jetpack5", "nvidia,tegra194"),
        ("aarch64", &[ARM, ORIN_NANO, TEGRA, GIB_8], "generic-cpu", "it fits every machine"),
        ("aarch64", &[ARM, (MODEL, "Raspberry Pi 5 Model B Rev 1.0\0"),
            (COMPATIBLE, "raspberrypi,5-model-b\0brcm,bcm2712\0")], "raspberry-pi-5", "device tree \"brcm,bcm2712\""),
        ("aarch64", &[PLAIN_ARM, (MODEL, "Raspberry Pi 4 Model B Rev 1.5\0"),
            (COMPATIBLE, "raspberrypi,4-model-b\0brcm,bcm2711\0")], "generic-cpu", "it fits every machine"),
        ("aarch64", &[ARM, (MODEL, "Radxa ROCK 5B\0"), (COMPATIBLE, "radxa,rock-5b\0rockchip,rk3588\0")],
            "rk3588", "device tree \"rockchip,rk3588\""),
        ("aarch64", &[ARM, (COMPATIBLE, "orangepi,5\0rockchip,rk3588s\0")], "rk3588", "rockchip,rk3588s"),
        ("x86_64", &[VNNI], "x86-64-vnni", "cpu avx2, vnni; arch x86_64"),
        ("x86_64", &[AVX_VNNI], "x86-64-vnni", "cpu avx2, vnni; arch x86_64"),
        ("x86_64", &[AVX2], "x86-64", "cpu avx2; arch x86_64"),
        ("x86_64", &[SSE], "generic-cpu", "it fits every machine"),
        ("x86_64", &[VNNI, H200], "h200", "gpu \"NVIDIA H200\""),
        ("x86_64", &[VNNI, H100], "h100", "gpu \"NVIDIA H100 80GB HBM3\""),
        ("x86_64", &[AVX2, RTX], "cuda", "gpu \"NVIDIA GeForce RTX 3060\""),
        ("x86_64", &[AVX2, RTX, H200], "h200", "gpu \"NVIDIA H200\""),
        ("x86_64", &[AVX2, ("dev/nvidia0", "")], "cuda", "gpu \"NVIDIA GPU\""),
        ("riscv64", &[("proc/cpuinfo", "processor\t: 0\nisa\t: rv64imafdc\n")], "generic-cpu", "it fits every machine"),
    ];
    for (arch, files, name, reason) in cases {
        let machine = machine(arch, files);
        let choice = machine.best_target(&targets).unwrap();
        assert_eq!(choice.target.name, *name, "{machine:?}");
        assert!(choice.reason.contains(reason), "{name}: {}", choice.reason);
    }
    for (os, arch, name) in [
        ("macos", "aarch64", "apple-m"),
        ("macos", "x86_64", "x86-64"),
        ("windows", "x86_64", "x86-64"),
        ("windows", "aarch64", "windows-directml"),
        ("android", "aarch64", "android-qnn"),
    ] {
        let machine = Machine { os: os.into(), ..machine(arch, &[if arch == "x86_64" { AVX2 } else { ARM }]) };
        assert_eq!(machine.best_target(&targets).unwrap().target.name, name, "{os} on {arch}");
    }
}

/// A copy of the repository's folder where one stands, as after `cp -r` or on a device with a package.
#[test]
fn a_model_that_is_in_two_places_is_one() {
    let place = Place::new();
    copy_folder(&repository().join("models/emoji"), &place.work().join("models/emoji"));
    let outcome = Outcome::of(place.without_library(["generate", "x", "--target", "generic-cpu", "--dry-run"]));
    outcome.expect("two copies of emoji", 0, "");
}

#[test]
fn what_a_machine_does_not_tell_is_absent() {
    let read = machine("aarch64", &[ARM, AGX_ORIN, TEGRA, R36, GIB_8]);
    assert_eq!(read.board.as_deref(), Some("NVIDIA Jetson AGX Orin Developer Kit"));
    assert_eq!((read.compatible.len(), read.l4t, read.cores), (3, Some(36), 2));
    assert_eq!(read.memory_bytes, Some(7_802_880 * 1024));
    assert_eq!(read.features.iter().map(ToString::to_string).collect::<Vec<_>>(), ["dotprod"]);

    #[rustfmt::skip]
    let nonsense: &[File] = &[
        ("proc/cpuinfo", ":::\n\nprocessor"), (MODEL, "\0\0"), (COMPATIBLE, ""), ("etc/nv_tegra_release", "# R (release)"),
        ("proc/meminfo", "MemTotal: many kB\n"), ("proc/driver/nvidia/gpus/0/information", "IRQ: 11\n"),
    ];
    let read = machine("aarch64", nonsense);
    assert_eq!((read.board, read.l4t, read.memory_bytes, read.processor), (None, None, None, None));
    assert!(read.compatible.is_empty() && read.gpus.is_empty() && read.features.is_empty() && read.cores > 0);

    let read = machine("aarch64", &[("proc/meminfo", "MemTotal: 18446744073709551615 kB\n")]);
    assert_eq!(read.memory_bytes, None);
}

/// A target for a machine of this project's tests.
fn target(name: &str, detect: &str) -> Target {
    let text = format!("schema: safelight-target/1\nname: {name}\ntitle: T\nprecision: [fp32]\n{detect}\n");
    Target::parse(&(text + "providers: [{ name: cpu, need: required }]\n")).unwrap()
}

#[test]
fn the_more_specific_target_is_chosen() {
    let machine = machine("aarch64", &[ARM, ORIN_NANO, TEGRA, R36, GIB_8, RTX]);
    // Each of them fits, and is more specific than those before it.
    let ascending = [
        "detect: {}",
        "detect: { arch: aarch64 }",
        "detect: { arch: aarch64, os: linux }",
        "detect: { memory_gib: 2 }",
        "detect: { memory_gib: 8 }",
        "detect: { cpu: [dotprod] }",
        "detect: { l4t: [35, 36] }",
        "detect: { gpu: rtx 3060 }",
        "detect: { gpu: geforce rtx 3060 }",
        "detect: { device_tree: tegra }",
        "detect: { device_tree: tegra234 }",
        "detect: { device_tree: p3767 }",
        "detect: { device_tree: Orin }",
        "detect: { device_tree: Orin Nano }",
        "detect: { device_tree: Orin Nano, arch: aarch64 }",
    ];
    for count in 1..=ascending.len() {
        let named = ascending[..count].iter().enumerate().map(|(index, detect)| target(&index.to_string(), detect));
        let targets: Vec<_> = named.collect();
        assert_eq!(machine.best_target(&targets).unwrap().target.name, (count - 1).to_string());
    }
    for detect in ["", "detect: { l4t: [35] }", "detect: { memory_gib: 9 }", "detect: { device_tree: Xavier }"] {
        assert_eq!(machine.best_target(&[target("other", detect)]), None, "{detect}");
    }
    let twins = [target("first", "detect: {}"), target("second", "detect: {}")];
    assert_eq!(machine.best_target(&twins).unwrap().target.name, "first");
}

#[test]
fn this_machine_is_told_and_given_a_target() {
    let place = Place::new();
    let outcome = Outcome::of(place.without_library(["targets", "--detect"]));
    outcome.expect("text", 0, "");
    let told = String::from_utf8(outcome.stdout).unwrap();
    assert!(
        told.starts_with(&format!("this machine: {} on {}", std::env::consts::OS, std::env::consts::ARCH)),
        "{told}"
    );
    assert!(told.contains("\ntarget: "), "{told}");

    let outcome = Outcome::of(place.without_library(["targets", "--detect", "--json"]));
    let told: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    let best = Machine::read(Path::new("/")).best_target(&shipped()).unwrap().target.name.clone();
    assert_eq!(told["fitting"][0]["name"], best);
    assert_eq!(told["machine"]["arch"], std::env::consts::ARCH);
}

/// A home of targets; models are still the repository's.
fn home(targets: &[File]) -> TempDir {
    let files: Vec<_> = targets.iter().map(|(name, text)| (format!("targets/{name}.yaml"), *text)).collect();
    root(&files.iter().map(|(name, text)| (name.as_str(), *text)).collect::<Vec<_>>())
}

const HEAD: &str =
    "schema: safelight-target/1\ntitle: T\nprecision: [fp32]\nproviders: [{ name: cpu, need: required }]\n";

#[test]
fn a_choice_that_cannot_be_made_is_told() {
    let place = Place::new();
    let request = |home: &TempDir| {
        let mut command = place.without_library(["generate", "x", "--model"]);
        command.arg(tiny("tiny-sd")).env("SAFELIGHT_HOME", home.path());
        Outcome::of(command)
    };
    let mine = format!("{HEAD}name: mine\n");
    request(&home(&[("mine", &mine)])).expect("no detect", 2, "no target here fits this machine (looked in ");
    let fitting = format!("{mine}detect: {{}}\n");
    let outcome = request(&home(&[("broken", "schema: 1\n"), ("mine", &fitting)]));
    outcome.expect("broken", 4, "broken.yaml: ");
    outcome.expect("broken", 4, "target mine, chosen for: it fits every machine");
    let home = home(&[("auto", &format!("{HEAD}name: auto\n"))]);
    let mut command = place.without_library(["targets"]);
    command.env("SAFELIGHT_HOME", home.path());
    let outcome = Outcome::of(command);
    assert!(String::from_utf8_lossy(&outcome.stdout).contains("name is \"auto\", which stands for"));
}

/// What stands in ```yaml in the recipe is a target that works where the recipe says.
#[test]
fn the_recipe_for_a_new_target_works() {
    let recipe = fs::read_to_string(repository().join("docs/adding-a-target.md")).unwrap();
    let steps = recipe.lines().filter(|line| line.split_once(". ").is_some_and(|(n, _)| n.parse::<u8>().is_ok()));
    assert!((1..=10).contains(&steps.count()));
    let example = recipe.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let place = Place::new();
    let file = place.input("my-board.yaml", example);
    let command = place.without_library(["targets".as_ref(), file.as_os_str()]);
    let outcome = Outcome::of(command);
    outcome.expect("check", 0, "");
    assert!(String::from_utf8_lossy(&outcome.stdout).starts_with("my-board\n"));

    let target = Target::open_with(&file, &[repository().join("targets")]).unwrap();
    let board =
        machine("aarch64", &[ARM, (MODEL, "ACME Camera 2\0"), (COMPATIBLE, "acme,camera-2\0rockchip,rk3588\0")]);
    let targets: Vec<_> = shipped().into_iter().chain([target]).collect();
    assert_eq!(board.best_target(&targets).unwrap().target.name, "my-board");
}

#[test]
fn a_generation_tells_which_target_it_took() {
    let place = Place::new();
    let request = |extra: &[&str]| {
        let mut command = place.command(["generate", "x", "--seed", "1", "--steps", "1", "--model"]);
        command.arg(tiny("tiny-sd")).args(["--json"]).args(extra);
        let outcome = Outcome::of(command);
        outcome.expect("generate", 0, "");
        let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
        let target = report["pictures"][0]["provenance"]["target"].as_str().unwrap().to_owned();
        (target, outcome.stderr)
    };
    let best = Machine::read(Path::new("/")).best_target(&shipped()).unwrap().target.name.clone();
    for extra in [&[][..], &["--target", "auto"]] {
        let (target, told) = request(extra);
        assert_eq!(target, best);
        assert!(told.contains(&format!("target {best}, chosen for: ")), "{told}");
    }
    assert!(!request(&["--quiet"]).1.contains("chosen for"));
    let (target, told) = request(&["--target", "generic-cpu"]);
    assert_eq!((target.as_str(), told.contains("chosen for")), ("generic-cpu", false));
}
