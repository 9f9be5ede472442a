//! Every finding of `safelight doctor`, provoked: machines are folders, libraries are compiled from C. On Linux, for its
//! files and its loader.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Outcome as Run, Place as Folders, compiled, copy_folder, repository, tiny};
use safelight::doctor::{Depth, Finding, Severity, Subject, checks, examine};
use safelight::library::{Found, Outcome, Place, Search};
use safelight::{Error, ErrorKind, Model, Target};
use serde_json::Value;
use tempfile::TempDir;

mod common;

use Severity::{Note, Ok as Fine, Problem, Warning};

/// A machine, a library, a target and a model, all made up; at first nothing is wrong with any.
struct Patient {
    root: TempDir,
    variables: BTreeMap<&'static str, OsString>,
    search: Search,
    targets: Vec<Target>,
    target: Result<Target, Error>,
    model: Option<Result<Model, Error>>,
    depth: Depth,
    free_bytes: Option<u64>,
}

/// A target with these fields.
fn target(fields: &str) -> Target {
    let head = "schema: safelight-target/1\nname: t\ntitle: T\n";
    Target::parse(&format!("{head}{fields}")).unwrap()
}

const CPU: &str = "precision: [int8]\nproviders: [{ name: cpu, need: required }]\n";
const CUDA: &str =
    "precision: [int8]\nproviders: [{ name: cuda, need: required }, { name: cpu, need: required }]\ndetect: {}\n";

impl Patient {
    fn new() -> Self {
        let found =
            Found { path: "/x/libonnxruntime.so".into(), version: "1.31.1".into(), providers: vec!["cpu".into()] };
        let places = vec![Place { why: "test", path: found.path.clone(), outcome: Outcome::Opened }];
        let patient = Self {
            root: tempfile::tempdir().unwrap(),
            variables: BTreeMap::new(),
            search: Search { places, found: Some(found) },
            targets: vec![target(&format!("{CPU}detect: {{}}\n"))],
            target: Ok(target(CPU)),
            model: Some(Model::open(&repository().join("models/emoji"))),
            depth: Depth::Lengths,
            free_bytes: Some(100 << 30),
        };
        patient.file("proc/cpuinfo", "processor : 0\nprocessor : 1\n");
        patient
            .file("proc/meminfo", "MemTotal: 4000000 kB\nMemAvailable: 3000000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n");
        patient.with("ORT_DISABLE_TELEMETRY", "1").with("HOME", "/home")
    }

    /// A file of the machine.
    fn file(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn with(mut self, variable: &'static str, value: &str) -> Self {
        self.variables.insert(variable, value.into());
        self
    }

    fn place(&mut self, path: &Path, outcome: Outcome) {
        self.search.places.push(Place { why: "elsewhere", path: path.into(), outcome });
    }

    fn examine(&self) -> Vec<Finding> {
        examine(&Subject {
            root: self.root.path(),
            variable: &|name| self.variables.get(name).cloned(),
            free_bytes: &|_| self.free_bytes,
            library: &self.search,
            targets: &self.targets,
            target: self.target.as_ref(),
            model: self.model.as_ref().map(Result::as_ref),
            depth: self.depth,
        })
    }

    /// This check tells this, that severe, with that advice.
    #[track_caller]
    fn expect(&self, check: &str, severity: Severity, evidence: &str, advice: &str) {
        let findings = self.examine();
        let of_check: Vec<_> = findings.iter().filter(|finding| finding.check == check).collect();
        let fits = |finding: &&&Finding| {
            finding.severity == severity && finding.evidence.contains(evidence) && finding.advice.contains(advice)
        };
        assert!(of_check.iter().any(|finding| fits(&finding)), "{check}, {severity}, {evidence:?}: {of_check:#?}");
    }
}

#[test]
fn where_nothing_is_wrong_every_check_says_so() {
    let findings = Patient::new().examine();
    let names: Vec<_> = findings.iter().map(|finding| finding.check).collect();
    assert_eq!(names, checks().map(|(name, _)| name).collect::<Vec<_>>());
    for finding in findings {
        assert_eq!((finding.severity, finding.advice.as_str()), (Fine, ""), "{finding:?}");
    }
}

#[test]
fn whatever_is_not_well_comes_with_advice() {
    let mut patient = Patient::new();
    (patient.search, patient.targets, patient.model) = (Search::default(), vec![], None);
    patient.target = Err(Error::new(ErrorKind::Usage, "no such target"));
    let findings = patient.examine();
    assert!(findings.iter().filter(|finding| finding.severity > Fine).count() >= 4);
    for Finding { check, severity, advice, evidence, .. } in findings {
        assert_eq!(advice.is_empty(), severity == Fine, "{check}");
        assert!(!evidence.is_empty() && !evidence.ends_with('.') && !advice.ends_with('.'), "{check}");
    }
}

// ── Machine and target ──────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_unknown_machine_is_noted() {
    let mut patient = Patient::new();
    patient.file("proc/device-tree/model", "Toaster 3\0");
    patient.targets = vec![target(&format!("{CPU}detect: {{ device_tree: Jetson }}\n"))];
    patient.expect("machine", Note, "Toaster 3", "docs/adding-a-target.md");
}

#[test]
fn a_target_for_another_machine_or_none_is_told() {
    let mut patient = Patient::new();
    patient.target = Ok(target(&format!("{CPU}detect: {{ device_tree: Jetson }}\n")));
    patient.expect("target", Warning, "target t is made for another machine", "safelight targets --detect");
    patient.target = Err(Error::new(ErrorKind::Usage, "unknown target \"x\""));
    patient.expect("target", Problem, "unknown target \"x\"", "--target");
}

#[test]
fn a_jetson_that_is_slower_than_it_could_be_is_told() {
    let patient = Patient::new();
    let modes = "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=7W >\n\
                 < POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=1 >\n";
    patient.file("etc/nvpmodel.conf", modes);
    patient.expect("power", Note, "tells no power mode", "sudo nvpmodel -q");
    patient.file("var/lib/nvpmodel/status", "pmode:0001\n");
    patient.expect("power", Warning, "power mode 7W, and MAXN_SUPER is there", "sudo nvpmodel -m 2");
    patient.file("var/lib/nvpmodel/status", "pmode:0002\n");
    patient.expect("power", Fine, "power mode MAXN_SUPER", "");
    patient.file("etc/nvpmodel.conf", modes.replace("MAXN_SUPER", "MODE_10W"));
    patient.file("var/lib/nvpmodel/status", "pmode:0002\n");
    patient.expect("power", Warning, "power mode MODE_10W, and 15W is there", "sudo nvpmodel -m 0");
}

#[test]
fn a_raspberry_pi_with_a_weak_supply_is_told() {
    for folder in ["soc/soc:firmware", "soc@107c000000/soc@107c000000:firmware"] {
        let patient = Patient::new();
        let file = format!("sys/devices/platform/{folder}/get_throttled");
        for (bits, severity, evidence) in [
            ("50005\n", Warning, "0x50005: the voltage is too low, it is throttled, the voltage was too low"),
            ("50000\n", Note, "the voltage was too low, it was throttled"),
            ("0\n", Fine, "get_throttled is 0"),
            ("hot\n", Fine, "holds no hexadecimal number"),
        ] {
            patient.file(&file, bits);
            patient.expect("throttled", severity, evidence, if severity > Fine { "power supply" } else { "" });
        }
    }
}

#[test]
fn a_zone_near_a_trip_point_is_told() {
    let patient = Patient::new();
    let zone = |file: &str, content: &str| patient.file(&format!("sys/class/thermal/thermal_zone0/{file}"), content);
    zone("type", "cpu-thermal\n");
    zone("trip_point_0_type", "active\n");
    zone("trip_point_0_temp", "40000\n");
    zone("trip_point_1_type", "passive\n");
    zone("trip_point_1_temp", "80000\n");
    zone("trip_point_2_type", "critical\n");
    zone("trip_point_2_temp", "110000\n");
    for (temperature, severity, evidence) in [
        ("81500\n", Warning, "cpu-thermal is at 81.5 °C, its passive trip point is 80.0 °C"),
        ("80000\n", Warning, "cpu-thermal is at 80.0 °C"),
        ("76000\n", Note, "cpu-thermal is at 76.0 °C"),
        ("60000\n", Fine, "1 of 1 zones are below"),
        ("-256000\n", Fine, "1 of 1 zones are below"),
        ("cold\n", Fine, "1 of 1 zones are below"),
    ] {
        zone("temp", temperature);
        patient.expect("thermal", severity, evidence, if severity > Fine { "cool it" } else { "" });
    }
}

#[test]
fn a_clock_that_is_held_down_is_told() {
    let patient = Patient::new();
    let file = |core: u8, name: &str, content: &str| {
        patient.file(&format!("sys/devices/system/cpu/cpu{core}/cpufreq/{name}"), content);
    };
    file(0, "scaling_governor", "schedutil\n");
    file(1, "scaling_governor", "powersave\n");
    file(1, "scaling_driver", "cpufreq-dt\n");
    patient.expect("governor", Warning, "1 of 2 cores have the governor powersave", "schedutil");
    file(1, "scaling_driver", "intel_pstate\n");
    patient.expect("governor", Fine, "governor schedutil", "");
}

#[test]
fn other_work_is_told() {
    let patient = Patient::new();
    patient.file("proc/loadavg", "2.50 1.00 0.50 3/100 4242\n");
    patient.expect("load", Warning, "load 2.50 on 2 cores", "end other work");
    patient.file("proc/loadavg", "1.50 1.00 0.50 3/100 4242\n");
    patient.expect("load", Fine, "load 1.50 on 2 cores", "");
    patient.file("proc/pressure/cpu", "some avg10=37.21 avg60=1.00 avg300=0.00 total=1\n");
    patient.expect("load", Warning, "tasks waited 37.2 % of the last 10 s", "end other work");
}

#[test]
fn swap_in_use_is_noted() {
    let patient = Patient::new();
    patient.file("proc/meminfo", "MemTotal: 4000000 kB\nSwapTotal: 1024000 kB\nSwapFree: 512000 kB\n");
    patient.file("proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1024000 512000 5\n");
    patient.expect("swap", Note, "500 MiB of 1000 MiB are swapped out to /dev/zram0", "end other programs");
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let mut patient = Patient::new();
    // Not even the superuser makes files in /proc.
    symlink("/proc/self", patient.root.path().join("home")).unwrap();
    patient.expect(
        "storage",
        Warning,
        "the user's data folder, /home/.local/share/safelight, cannot be written",
        "right",
    );
    patient.target = Ok(target(
        "precision: [int8]\nproviders: [{ name: openvino, need: optional, options: { cache_dir: /home/c } }]\n",
    ));
    patient.expect("storage", Warning, "cache_dir of openvino, /home/c, cannot be written", "choose another");
    patient = patient.with("XDG_DATA_HOME", "/data");
    patient.expect("storage", Fine, "/data/safelight, can be written", "");
    assert!(!patient.root.path().join("data").exists());
}

/// An entry of a cache that was built for this library, driver and processor.
fn entry(patient: &Patient, name: &str, library: &str, driver: &str) {
    let key = format!(r#"{{ "ONNX Runtime": "{library}", "driver": "{driver}", "processor": "x86_64" }}"#);
    let key = key.replace("x86_64", std::env::consts::ARCH);
    let manifest = format!(
        r#"{{ "format": "safelight-cache/1", "key": {key}, "target": "t", "safelight": "0", "built_s": 0, "build_ms": 0.0,
        "files": [] }}"#
    );
    patient.file(&format!("cache/{name:0>64}/cache.json"), manifest);
    patient.file(&format!("cache/{name:0>64}/engine"), vec![0; 3 << 20]);
}

#[test]
fn a_cache_that_is_of_no_use_is_told() {
    let cached = |fields: &str| Ok(target(&format!("{CPU}cache: {fields}\n")));
    let mut patient = Patient::new();
    patient.expect("cache", Fine, "the target keeps nothing", "");
    patient.target = cached("{ folder: /cache }");
    patient.expect("cache", Fine, "the cache, /cache, can be written", "");
    patient.expect("cache", Fine, "0 entries take 0 MiB of 8192 MiB", "");
    entry(&patient, "1", "1.31.1", "none");
    entry(&patient, "2", "1.18.0", "none");
    entry(&patient, "3", "1.31.1", "NVRM version: 535");
    patient.file(&format!("cache/{:0>64}/engine", "4"), "half");
    patient.expect("cache", Note, "ONNX Runtime: was 1.18.0, is 1.31.1", "safelight warm");
    patient.expect("cache", Note, "driver: was NVRM version: 535, is none", "may be deleted");
    patient.expect("cache", Note, "0 MiB, was not finished", "may be deleted");
    let notes = patient.examine().into_iter().filter(|found| (found.check, found.severity) == ("cache", Note)).count();
    assert_eq!(notes, 3);
    patient.expect("cache", Fine, "4 entries take 9 MiB of 8192 MiB", "");
    patient.target = cached("{ folder: /cache, max_bytes: 5000000 }");
    patient.expect("cache", Warning, "4 entries take 9 MiB of 4 MiB", "raise max_bytes");
}

#[test]
fn a_cache_without_a_place_or_room_is_told() {
    let mut patient = Patient::new();
    patient.target = Ok(target(&format!("{CPU}cache: {{}}\n")));
    patient.expect("cache", Fine, "safelight, can be written", "");
    patient.free_bytes = Some(5 << 20);
    patient.expect("cache", Warning, "has 5 MiB left", "make room");
    symlink("/proc/self", patient.root.path().join("home")).unwrap();
    patient.expect("cache", Warning, "safelight, cannot be written", "give yourself the right");
    patient.target = Ok(target(&format!("{CPU}cache: {{ build: never }}\n")));
    let severe = patient.examine().into_iter().filter(|found| found.check == "cache" && found.severity > Fine).count();
    assert_eq!(severe, 0);
    patient.variables.remove("HOME");
    patient.expect("cache", Warning, "neither SAFELIGHT_CACHE nor HOME says where", "--cache");
}

// ── The library ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_library_that_cannot_be_opened_is_a_problem_and_the_rest_is_told_all_the_same() {
    let mut patient = Patient::new();
    patient.search = Search::default();
    patient.place(Path::new("/a/libonnxruntime.so"), Outcome::Refused("is ONNX Runtime 1.16.3".into()));
    patient.place(Path::new("/b"), Outcome::Absent("cannot be read".into()));
    patient.expect("library", Problem, "/a/libonnxruntime.so (elsewhere) is ONNX Runtime 1.16.3; /b", "ORT_DYLIB_PATH");
    patient.expect("providers", Note, "no library was opened", "library");
    patient.expect("precision", Fine, "denoiser int8", "");
}

#[test]
fn refused_and_shadowed_libraries_are_told() {
    let mut patient = Patient::new();
    patient.place(Path::new("/a/libonnxruntime.so"), Outcome::Refused("is cut short".into()));
    patient.expect("library", Warning, "passed over: /a/libonnxruntime.so (elsewhere) is cut short", "fetch it again");
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("libonnxruntime.so");
    fs::write(&other, "").unwrap();
    patient.place(&other, Outcome::Shadowed);
    patient.expect("shadowed", Note, "hides", "export ORT_DYLIB_PATH=");
    fs::write(folder.path().join("libonnxruntime_providers_cuda.so"), "").unwrap();
    patient.target = Ok(target(CUDA));
    patient.expect("shadowed", Warning, "which has what the target asks for: cuda", "export ORT_DYLIB_PATH=");
}

#[test]
fn a_variable_that_leads_nowhere_is_told() {
    let mut patient = Patient::new().with("ORT_DYLIB_PATH", "/opt/ort");
    patient.expect("variable", Note, "ORT_DYLIB_PATH is /opt/ort, and nothing is there", "unset");
    patient.search = Search::default();
    patient.search.places.push(Place {
        why: Place::VARIABLE,
        path: "/opt/ort".into(),
        outcome: Outcome::Absent("cannot be read".into()),
    });
    patient.expect("variable", Problem, "ORT_DYLIB_PATH is /opt/ort, and nothing is there", "unset");
    patient.file("opt/ort", "");
    patient.expect("variable", Fine, "leads to /opt/ort", "");
}

#[test]
fn a_provider_that_the_library_lacks_is_as_bad_as_the_target_says() {
    let mut patient = Patient::new();
    patient.target = Ok(target(CUDA));
    patient.expect(
        "providers",
        Problem,
        "target t requires cuda, but ONNX Runtime 1.31.1 was built with: cpu",
        "build",
    );
    patient.target = Ok(target(&CUDA.replacen("required", "optional", 1)));
    patient.expect("providers", Note, "target t would like cuda", "build");
    // What one stage requires is required.
    let stage = "stages: { decoder: { providers: [{ name: cuda, need: required }] } }\n";
    patient.target = Ok(target(&(CUDA.replacen("required", "optional", 1) + stage)));
    patient.expect("providers", Problem, "target t requires cuda", "build");
}

#[test]
fn a_plug_in_that_is_not_there_or_cannot_be_taken_is_told() {
    let plugin = |need: &str| {
        format!(
            "precision: [int8]\nproviders: [{{ name: openvino, need: {need}, library: /opt/plug/libov.so }}, {{ name: cpu, \
             need: required }}]\n"
        )
    };
    let mut patient = Patient::new();
    patient.target = Ok(target(&plugin("required")));
    let evidence = "target t requires openvino, but its plug-in /opt/plug/libov.so is not there";
    patient.expect("providers", Problem, evidence, "install the plug-in there");
    patient.target = Ok(target(&plugin("optional")));
    patient.expect("providers", Note, "would like openvino", "correct library in the target");
    patient.file("opt/plug/libov.so", "");
    patient.expect("providers", Fine, "all that target t asks for", "");
    patient.search.found.as_mut().unwrap().version = "1.21.0".into();
    patient.expect("providers", Note, "ONNX Runtime 1.21.0 takes no plug-ins", "1.22 or newer");
}

/// A library whose CUDA provider needs libcublasLt.so.13.
fn gpu_patient(need: &str) -> (Patient, TempDir) {
    let (mut patient, folder) = (Patient::new(), tempfile::tempdir().unwrap());
    let (blas, main) = (folder.path().join("elsewhere/libcublasLt.so.13"), folder.path().join("libonnxruntime.so"));
    compiled(&blas, "int blas;", &["-Wl,-soname,libcublasLt.so.13"]);
    compiled(&main, "int main;", &[]);
    compiled(&folder.path().join("libonnxruntime_providers_cuda.so"), "int cuda;", &[blas.to_str().unwrap()]);
    fs::write(folder.path().join("libonnxruntime_providers_shared.so"), "").unwrap();
    patient.file("lib/libcudnn.so.9", "");
    let providers = vec!["cuda".into(), "cpu".into()];
    patient.search.found = Some(Found { path: main, version: "1.31.1".into(), providers });
    patient.target = Ok(target(&CUDA.replacen("required", need, 1)));
    (patient, folder)
}

#[test]
fn a_library_that_a_provider_needs_and_is_missing_is_told() {
    let (patient, _folder) = gpu_patient("required");
    patient.expect("companions", Problem, "cuda needs libcublasLt.so.13, nowhere", "LD_LIBRARY_PATH");
    let told = patient.examine();
    assert_eq!(told.iter().filter(|finding| finding.check == "companions").count(), 1, "{told:#?}");
    patient.file("usr/lib/x86_64-linux-gnu/libcublasLt.so.12", "");
    let evidence = "but other versions are here: /usr/lib/x86_64-linux-gnu/libcublasLt.so.12";
    patient.expect("companions", Problem, evidence, "a build of ONNX Runtime for the versions that are here");
    let (optional, _folder) = gpu_patient("optional");
    optional.expect("companions", Warning, "cuda needs libcublasLt.so.13, nowhere", "LD_LIBRARY_PATH");
}

#[test]
fn cudnn_that_is_opened_only_while_a_graph_runs_is_missed_before() {
    let (patient, folder) = gpu_patient("required");
    fs::remove_file(patient.root.path().join("lib/libcudnn.so.9")).unwrap();
    patient.file("lib/libcublasLt.so.13", "");
    patient.expect("companions", Problem, "cuda needs libcudnn.so.9, nowhere", "LD_LIBRARY_PATH");
    // Builds that name it need the version that they name.
    let named = folder.path().join("elsewhere/libcudnn.so.8");
    compiled(&named, "int dnn;", &["-Wl,-soname,libcudnn.so.8"]);
    compiled(&folder.path().join("libonnxruntime_providers_cuda.so"), "int cuda;", &[named.to_str().unwrap()]);
    patient.expect("companions", Problem, "cuda needs libcudnn.so.8, nowhere", "LD_LIBRARY_PATH");
    patient.file("lib/libcudnn.so.8", "");
    patient.expect("companions", Fine, "nothing that a provider of the target needs is missing", "");
}

#[test]
fn a_provider_without_its_own_library_is_told() {
    for (need, severity) in [("required", Problem), ("optional", Note)] {
        let (patient, folder) = gpu_patient(need);
        for file in ["libonnxruntime_providers_cuda.so", "libonnxruntime_providers_shared.so"] {
            fs::remove_file(folder.path().join(file)).unwrap();
            let evidence = format!("provider cuda is in {file}, which is not in {}", folder.path().display());
            patient.expect("companions", severity, &evidence, "take it from the package");
        }
    }
}

const H200: (&str, &str) = ("proc/driver/nvidia/gpus/0000:00:06.0/information", "Model: \t\t NVIDIA H200\n");
const DRIVER: &str = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (x@)  \n";

#[test]
fn a_gpu_that_is_not_there_or_hidden_is_told() {
    let (patient, _folder) = gpu_patient("required");
    patient.expect("gpu", Problem, "provider cuda finds no NVIDIA GPU", "install the driver");
    patient.file(H200.0, H200.1);
    patient.expect("gpu", Fine, "NVIDIA H200, driver of unknown version", "");
    patient.file("proc/driver/nvidia/version", DRIVER);
    patient.expect("gpu", Fine, "NVIDIA H200, driver 580.159.04", "");
    let patient = patient.with("CUDA_VISIBLE_DEVICES", "");
    patient.expect("gpu", Problem, "CUDA_VISIBLE_DEVICES is \"\"", "unset CUDA_VISIBLE_DEVICES");
    let (optional, _folder) = gpu_patient("optional");
    optional.expect("gpu", Warning, "provider cuda finds no NVIDIA GPU", "choose another target");
    optional.file("etc/nv_tegra_release", "# R36 (release), REVISION: 4.0\n");
    optional.expect("gpu", Fine, "no provider of the target needs one", "");
}

#[test]
fn a_driver_that_is_too_old_for_a_provider_is_told() {
    let (patient, folder) = gpu_patient("required");
    patient.file(H200.0, H200.1);
    patient.file("proc/driver/nvidia/version", DRIVER.replace("580", "550"));
    patient.expect("gpu", Fine, "driver 550.159.04", "");
    let runtime = folder.path().join("elsewhere/libcudart.so.13");
    compiled(&runtime, "int rt;", &["-Wl,-soname,libcudart.so.13"]);
    compiled(&folder.path().join("libonnxruntime_providers_cuda.so"), "int cuda;", &[runtime.to_str().unwrap()]);
    let evidence = "cuda needs CUDA 13: driver 580 or newer, and 550.159.04 is here";
    patient.expect("gpu", Problem, evidence, "a newer driver");
    patient.file("proc/driver/nvidia/version", DRIVER);
    patient.expect("gpu", Fine, "driver 580.159.04", "");
}

#[test]
fn a_library_that_the_loader_will_not_find_is_told() {
    let (patient, _folder) = gpu_patient("required");
    patient.file("usr/local/cuda/lib64/libcublasLt.so.13", "");
    let advice = "export LD_LIBRARY_PATH=/usr/local/cuda/lib64";
    patient.expect("companions", Warning, "found in /usr/local/cuda/lib64, where the loader does not look", advice);
    patient.file("venv/lib/python3.11/site-packages/nvidia/cu13/lib/libcublasLt.so.13", "");
    fs::remove_dir_all(patient.root.path().join("usr")).unwrap();
    let patient = patient.with("VIRTUAL_ENV", "/venv");
    let advice = "export LD_LIBRARY_PATH=/venv/lib/python3.11/site-packages/nvidia/cu13/lib";
    patient.expect("companions", Warning, "where the loader does not look", advice);
    patient.file("usr/local/cuda/lib64/libcublasLt.so.13", "");
    patient.file("etc/ld.so.conf.d/cuda.conf", "# CUDA\n/usr/local/cuda/lib64\n");
    patient.expect("companions", Fine, "nothing that a provider of the target needs is missing", "");
    let (patient, _folder) = gpu_patient("required");
    patient.file("opt/nvidia/lib/libcublasLt.so.13", "");
    let patient = patient.with("LD_LIBRARY_PATH", "/x:/opt/nvidia/lib");
    patient.expect("companions", Fine, "nothing that a provider of the target needs is missing", "");
}

#[test]
fn what_a_provider_brings_along_is_found() {
    let (patient, folder) = gpu_patient("required");
    let (provider, blas) = ("libonnxruntime_providers_cuda.so", folder.path().join("elsewhere/libcublasLt.so.13"));
    let flags = [blas.to_str().unwrap(), "-Wl,-rpath,$ORIGIN/elsewhere"];
    compiled(&folder.path().join(provider), "int cuda;", &flags);
    patient.expect("companions", Fine, "nothing that a provider of the target needs is missing", "");
}

#[test]
fn a_c_library_that_is_too_old_is_told() {
    let (mut patient, folder) = (Patient::new(), tempfile::tempdir().unwrap());
    let library = folder.path().join("libonnxruntime.so");
    compiled(&library, "#include <stdio.h>\nint f(void) { return puts(\"x\"); }", &[]);
    patient.expect("glibc", Fine, "not compared", "");
    patient.file("lib64/libc.so.6", "GNU C Library (made up) stable release version 2.1.\n");
    patient.place(&library, Outcome::Shadowed);
    patient.expect("glibc", Note, "and /lib64/libc.so.6 is 2.1", "a build of ONNX Runtime for this system");
    patient.search = Search::default();
    patient.place(&library, Outcome::Refused("cannot be loaded".into()));
    patient.expect("glibc", Problem, "libonnxruntime.so needs glibc 2.", "a build of ONNX Runtime for this system");
    patient.file("lib64/libc.so.6", "GNU C Library (made up) stable release version 2.99.\n");
    patient.expect("glibc", Fine, "glibc 2.99 is new enough", "");
}

#[test]
fn telemetry_that_is_on_is_told() {
    let mut patient = Patient::new().with("ORT_DISABLE_TELEMETRY", "0");
    patient.expect("telemetry", Warning, "ORT_DISABLE_TELEMETRY is \"0\"", "export ORT_DISABLE_TELEMETRY=1");
    patient.variables.remove("ORT_DISABLE_TELEMETRY");
    patient.expect("telemetry", Warning, "ORT_DISABLE_TELEMETRY is not set", "export ORT_DISABLE_TELEMETRY=1");
    patient.search.found.as_mut().unwrap().version = "1.28.0".into();
    patient.expect("telemetry", Fine, "none before 1.29", "");
}

// ── The model ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// A copy of the shipped model, and it opened.
fn emoji() -> (TempDir, PathBuf, Model) {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&repository().join("models/emoji"), folder.path());
    let model = Model::open(folder.path()).unwrap();
    let graph = model.stages.values().next().unwrap().graphs.values().next().unwrap().path.clone();
    (folder, graph, model)
}

#[test]
fn damaged_model_files_are_told() {
    let (_folder, graph, model) = emoji();
    let mut patient = Patient { model: Some(Ok(model)), ..Patient::new() };
    let whole = fs::read(&graph).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&graph, &flipped).unwrap();
    patient.expect("files", Fine, "lengths are right; --deep compares hashes", "");
    patient.depth = Depth::Hashes;
    patient.expect("files", Problem, "the file is damaged or was replaced", "fetch the model again");
    fs::write(&graph, &whole[1..]).unwrap();
    patient.expect("files", Problem, &format!("has {} bytes, expected {}", whole.len() - 1, whole.len()), "fetch");
    fs::remove_file(&graph).unwrap();
    patient.expect("files", Problem, "cannot be read", "fetch the model again");
}

#[test]
fn a_model_that_promises_nothing_or_is_missing_is_told() {
    let mut patient = Patient::new();
    patient.model = Some(Model::open(&tiny("tiny-sd")));
    patient.expect("files", Note, "0 of 3 files have one", "model.yaml");
    patient.model = Some(Model::open(Path::new("nowhere")));
    patient.expect("files", Problem, "nowhere: cannot be read", "fetch the model");
    patient.model = None;
    patient.expect("files", Note, "no model was looked at", "--model");
}

#[test]
fn precisions_that_do_not_meet_are_told() {
    let mut patient = Patient::new();
    patient.target = Ok(target(&CPU.replace("int8", "fp32")));
    patient.expect("precision", Problem, "has no denoiser in fp32; it has int8, fp16", "--precision");
    patient.target = Ok(target(&CPU.replace("int8", "fp32, fp16")));
    patient.expect("precision", Note, "denoiser runs in fp16: the model has no fp32", "export it in fp32");
}

#[test]
fn a_model_that_is_bigger_than_memory_or_limits_is_told() {
    let mut patient = Patient::new();
    patient.file("proc/meminfo", "MemTotal: 4000000 kB\nMemAvailable: 2000 kB\n");
    patient.expect("memory", Warning, "and 1 MiB are available", "smaller precision");
    patient.file("proc/meminfo", "MemTotal: 4000 kB\nMemAvailable: 2000 kB\n");
    patient.expect("memory", Problem, "and there are 3 MiB here", "smaller model");
    patient.file("proc/meminfo", "MemTotal: 4000000 kB\nMemAvailable: 3000000 kB\n");
    patient.file("sys/fs/cgroup/memory.max", "max\n");
    patient.expect("memory", Fine, "2929 MiB available", "");
    patient.file("sys/fs/cgroup/memory.max", "2097152\n");
    patient.expect("memory", Problem, "and there are 2 MiB here", "smaller model");
    fs::remove_file(patient.root.path().join("sys/fs/cgroup/memory.max")).unwrap();
    patient.file("proc/meminfo", "MemTotal: 4000000 kB\n");
    patient.expect("memory", Fine, "nothing tells how much is available", "");
    patient.target = Ok(target(&format!("{CPU}limits: {{ max_graph_bytes: 1000 }}\n")));
    patient.expect("memory", Problem, "more than the 1000 of the target's limits", "max_graph_bytes");
}

// ── The command ─────────────────────────────────────────────────────────────────────────────────────────────────────

fn doctor(folders: &Folders, arguments: &[&str]) -> Command {
    folders.command(["doctor", "--model", "emoji"].iter().chain(arguments))
}

#[test]
fn json_has_a_finding_of_every_check_and_nothing_is_left_behind() {
    let folders = Folders::new();
    let run = Run::of(doctor(&folders, &["--target", "generic-cpu", "--deep", "--json"]));
    run.expect("healthy", 0, "");
    let told: Value = serde_json::from_slice(&run.stdout).unwrap();
    let findings = told["findings"].as_array().unwrap();
    let names: BTreeSet<_> = findings.iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    assert_eq!(names, checks().map(|(name, _)| name).collect());
    assert_ne!(told["worst"], "problem");
    assert_eq!(folders.left(), [""; 0]);
}

#[test]
fn the_exit_code_is_that_of_the_first_problem() {
    let folders = Folders::new();
    let limited = "schema: safelight-target/1\nname: limited\ntitle: T\nextends: generic-cpu\n\
                   limits: { max_graph_bytes: 1000 }\n";
    let limited = folders.input("limited.yaml", limited).display().to_string();
    for (arguments, code, telling) in [
        (["--target", "nothing"], 2, "1 problem found: target"),
        (["--model", "nothing"], 3, "found: files"),
        (["--library", "nothing"], 4, "found: library"),
        (["--target", &limited], 5, "found: memory"),
    ] {
        let run = Run::of(folders.command(["doctor"].iter().chain(&arguments)));
        run.expect(telling, code, telling);
        let text = String::from_utf8(run.stdout).unwrap();
        assert!(text.contains("problem") && text.contains("do this: "), "{text}");
        assert!(text.find("problem") < text.find(" ok\n"), "{text}");
    }
    Run::of(folders.without_library(["doctor"])).expect("no library", 4, "found: library, variable");
    assert_eq!(folders.left(), [""; 0]);
}

/// The real search: a library that is too old, the one that works, and one that nobody opens.
#[test]
fn the_search_tells_what_was_passed_over_and_what_is_hidden() {
    let folders = Folders::new();
    let version = Run::of(folders.command(["version", "--json"]));
    let version: Value = serde_json::from_slice(&version.stdout).unwrap();
    let real = version["onnxruntime"]["path"].as_str().unwrap();
    let binary = folders.inputs().join("app/bin/safelight");
    fs::create_dir_all(binary.parent().unwrap()).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_safelight"), &binary).unwrap();
    let old = "static const void *api(unsigned v) { return 0; }\nstatic const char *text(void) { return \"1.16.3\"; }\n\
               static struct { const void *(*a)(unsigned); const char *(*b)(void); } base = { api, text };\n\
               void *OrtGetApiBase(void) { return &base; }\n";
    compiled(&folders.inputs().join("app/bin/libonnxruntime.so"), old, &[]);
    fs::create_dir_all(folders.inputs().join("app/lib")).unwrap();
    symlink(real, folders.inputs().join("app/lib/libonnxruntime.so")).unwrap();
    let python = folders.inputs().join("venv/lib/python3.11/site-packages/onnxruntime/capi");
    compiled(&python.join("libonnxruntime.so.1.99.0"), "int another;", &[]);
    let mut command = Command::new(&binary);
    command.args(["doctor", "--json", "--target", "generic-cpu"]).env("SAFELIGHT_HOME", repository());
    command.env_remove("ORT_DYLIB_PATH").env("VIRTUAL_ENV", folders.inputs().join("venv"));
    let run = Run::of(command);
    run.expect("search", 0, "");
    let text = String::from_utf8(run.stdout).unwrap();
    for telling in
        ["passed over: ", "is ONNX Runtime 1.16.3, expected 1.18 or newer", "app/bin/../lib", "hides ", "1.99.0"]
    {
        assert!(text.contains(telling), "{telling}: {text}");
    }
}
