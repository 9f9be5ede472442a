//! The library as C and C++ see it: programs compiled and run, under valgrind and the sanitizers, too.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use safelight::{Format, Model, Pipeline, Request, Target};
use tempfile::TempDir;

const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-pedantic", "-Werror"];
/// The examples use what POSIX adds to C.
const POSIX: &str = "-D_POSIX_C_SOURCE=200809L";
const PROMPT: &str = "a red apple";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn project(path: &str) -> PathBuf {
    here("../..").join(path).canonicalize().unwrap()
}

/// The folder of the library, built: Cargo builds it for no test by itself.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // The same packages and a test beside them: then features are those of the build that is there already.
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--workspace", "--lib", "--bin", "safelight", "--test", "header"])
            .current_dir(project("."));
        let folder = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_path_buf();
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        succeed(&mut cargo);
        folder
    })
}

/// A folder as the package installs it, with ONNX Runtime.
fn installed() -> &'static Path {
    static PREFIX: OnceLock<TempDir> = OnceLock::new();
    let prefix = PREFIX.get_or_init(|| {
        let prefix = TempDir::new().unwrap();
        let at = |path: &str| prefix.path().join(path);
        for folder in ["lib/pkgconfig", "lib/cmake/safelight", "lib/safelight", "include"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::copy(built().join("libsafelight_capi.so"), at("lib/libsafelight.so.0.1.0")).unwrap();
        fs::copy(built().join("libsafelight_capi.a"), at("lib/libsafelight.a")).unwrap();
        symlink("libsafelight.so.0.1.0", at("lib/libsafelight.so.0")).unwrap();
        symlink("libsafelight.so.0", at("lib/libsafelight.so")).unwrap();
        for header in ["safelight.h", "safelight.hpp"] {
            fs::copy(here("include").join(header), at("include").join(header)).unwrap();
        }
        for (template, place) in [
            ("safelight.pc.in", "lib/pkgconfig/safelight.pc"),
            ("safelight-config.cmake.in", "lib/cmake/safelight/safelight-config.cmake"),
        ] {
            let text = fs::read_to_string(here(template)).unwrap().replace("@VERSION@", env!("CARGO_PKG_VERSION"));
            assert!(!text.contains('@'), "{template} has another placeholder");
            fs::write(at(place), text).unwrap();
        }
        symlink(onnxruntime(), at("lib/safelight/libonnxruntime.so")).unwrap();
        prefix
    });
    prefix.path()
}

/// The file of ONNX Runtime that tests run with.
fn onnxruntime() -> PathBuf {
    let named = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    let path = named.expect("ORT_DYLIB_PATH is set by .cargo/config.toml");
    let path = if path.is_relative() { project(path.to_str().unwrap()) } else { path };
    if path.is_dir() { path.join("libonnxruntime.so") } else { path }
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Runs what must succeed, and returns what it printed.
fn succeed(command: &mut Command) -> String {
    let output = run(command);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{told}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a tool is here; tells so where it is not.
fn has(tool: &str) -> bool {
    let is_here = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_here {
        // Past libtest, which shows what is printed for tests that fail alone.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {tool} is not installed");
    }
    is_here
}

/// Compiles a program against what is installed, with what pkg-config says.
fn compile(compiler: &str, source: &Path, flags: &[&str], program: &Path) {
    let told = succeed(
        Command::new("pkg-config")
            .args(["--cflags", "--libs", "safelight"])
            .env("PKG_CONFIG_PATH", installed().join("lib/pkgconfig")),
    );
    succeed(Command::new(compiler).args(flags).arg(source).args(told.split_whitespace()).arg("-o").arg(program));
}

/// A compiled program that finds the library where it is installed, and ONNX Runtime because that lies near it.
fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.env("LD_LIBRARY_PATH", installed().join("lib")).env_remove("ORT_DYLIB_PATH");
    command
}

fn target() -> PathBuf {
    project("targets/generic-cpu.yaml")
}

/// What the programs of tests/c are given: files in `folder`.
fn arguments(name: &str, folder: &Path) -> Vec<PathBuf> {
    let model = project("tests/models/tiny-static");
    if name == "threads" {
        return vec![target(), model];
    }
    let staged = folder.join("staged.yaml");
    let text = "schema: safelight-target/1\nname: staged\ntitle: One graph at a time\nresidency: staged\n\
                providers: [{ name: cpu, need: required }]\nprecision: [int8, fp32, fp16]\n";
    fs::write(&staged, text).unwrap();
    let faulty = folder.join("faulty");
    copy(&model, &faulty);
    fs::copy(project("tests/models/faulty/denoiser_nan_later.onnx"), faulty.join("unet/model.onnx")).unwrap();
    vec![target(), staged, model, faulty, folder.to_path_buf(), built().join("safelight")]
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let place = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &place),
            false => fs::copy(entry.path(), place).map(drop).unwrap(),
        }
    }
}

/// The names of files that a program has left in its folder.
fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_headers_are_clean_in_every_dialect() {
    let folder = TempDir::new().unwrap();
    for (dialect, header) in [
        ("c99", "safelight.h"),
        ("c11", "safelight.h"),
        ("c++11", "safelight.h"),
        ("c++11", "safelight.hpp"),
        ("c++20", "safelight.hpp"),
    ] {
        let (compiler, extension) = if dialect.starts_with("c++") { ("c++", "cpp") } else { ("cc", "c") };
        let source = folder.path().join(format!("whole.{extension}"));
        // Twice, as in large programs.
        fs::write(&source, format!("#include <{header}>\n#include <{header}>\nint main(void) {{ return 0; }}\n"))
            .unwrap();
        compile(
            compiler,
            &source,
            &[&format!("-std={dialect}"), STRICT[0], STRICT[1], STRICT[2], STRICT[3]],
            &folder.path().join("whole"),
        );
    }
}

#[test]
fn the_library_exports_its_own_functions_alone() {
    let library = built().join("libsafelight_capi.so");
    let exported = succeed(Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(&library));
    let exported: Vec<_> = exported.lines().filter_map(|line| line.split(' ').next()).collect();
    let header = fs::read_to_string(here("include/safelight.h")).unwrap();
    let declared = header.lines().filter(|line| !line.starts_with("//")).filter_map(|line| {
        let (before, _) = line.split_once('(')?;
        before.rsplit([' ', '*']).next().filter(|name| name.starts_with("safelight_"))
    });
    let mut declared: Vec<_> = declared.collect();
    declared.sort_unstable();
    assert_eq!(exported, declared);
    let about = succeed(Command::new("readelf").arg("-d").arg(&library));
    assert!(about.contains("soname: [libsafelight.so.0]") && about.contains("NODELETE"), "{about}");
}

/// Under AddressSanitizer and UndefinedBehaviorSanitizer, which also look for leaks.
#[test]
fn sanitizers_find_nothing() {
    let flags = ["-std=c11", "-g", POSIX, "-pthread", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    for name in ["faults", "threads"] {
        let folder = TempDir::new().unwrap();
        let compiled = folder.path().join(name);
        compile("cc", &here(&format!("tests/c/{name}.c")), &[&flags[..], &STRICT].concat(), &compiled);
        let home = TempDir::new().unwrap();
        succeed(program(&compiled).args(arguments(name, folder.path())).env("SAFELIGHT_CACHE", home.path()));
        if name == "faults" {
            assert_eq!(files(folder.path()), ["faults", "faulty", "picture.png", "prompts", "staged.yaml"]);
            let kept = files(&folder.path().join("prompts"));
            assert!(kept.iter().any(|name| name.ends_with(".prompt")), "{kept:?}");
            // What the probe has found; nothing else is written unasked.
            assert_eq!(files(home.path()), ["probed"]);
        }
    }
    assert!(!leaks(&flags, &[]).success(), "the sanitizers do not see what they should");
}

/// How a program ends that forgets a request.
fn leaks(flags: &[&str], tool: &[&str]) -> std::process::ExitStatus {
    let folder = TempDir::new().unwrap();
    let (source, compiled) = (folder.path().join("leak.c"), folder.path().join("leak"));
    let text = "#include <safelight.h>\nint main(void) { return safelight_request_new() == NULL; }\n";
    fs::write(&source, text).unwrap();
    compile("cc", &source, flags, &compiled);
    let under = tool.iter().map(OsStr::new).chain([compiled.as_os_str()]).collect::<Vec<_>>();
    run(program(Path::new(under[0])).args(&under[1..])).status
}

fn valgrind() -> Vec<String> {
    let suppressions = format!("--suppressions={}", here("tests/c/valgrind.supp").display());
    let usual = [
        "valgrind",
        "--quiet",
        "--error-exitcode=99",
        "--leak-check=full",
        "--show-leak-kinds=definite",
        "--errors-for-leak-kinds=definite",
    ];
    usual.map(str::to_owned).into_iter().chain([suppressions]).collect()
}

fn valgrind_finds_nothing_in(name: &str) {
    if !has("valgrind") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let compiled = folder.path().join(name);
    compile("cc", &here(&format!("tests/c/{name}.c")), &["-std=c11", "-g", POSIX, "-pthread"], &compiled);
    let tool = valgrind();
    let mut watched = program(Path::new(&tool[0]));
    watched.args(&tool[1..]).arg(&compiled).args(arguments(name, folder.path()));
    succeed(watched.env("SAFELIGHT_CACHE", folder.path().join("cache")).env("UNDER_VALGRIND", "1"));
}

#[test]
fn valgrind_finds_nothing_in_faults() {
    valgrind_finds_nothing_in("faults");
}

#[test]
fn valgrind_finds_nothing_in_threads() {
    valgrind_finds_nothing_in("threads");
}

#[test]
fn valgrind_finds_what_is_forgotten() {
    if has("valgrind") {
        let tool = valgrind();
        assert_eq!(leaks(&["-g"], &tool.iter().map(String::as_str).collect::<Vec<_>>()).code(), Some(99));
    }
}

/// The picture that the library in Rust makes of what examples/kiosk.c asks for, as the bytes of a PNG.
fn expected(model: &Path) -> Vec<u8> {
    let mut pipeline = Pipeline::open(&Target::open(&target()).unwrap(), &Model::open(model).unwrap()).unwrap();
    let request = Request { prompt: PROMPT.into(), seed: 7, ..Request::default() };
    pipeline.generate(&request).unwrap().pictures[0].encode(Format::Png).unwrap()
}

/// From a folder that knows of nothing but what is installed: pkg-config, CMake, C++, and both kinds of library.
#[test]
fn a_program_needs_only_what_is_installed() {
    let (fresh, model) = (TempDir::new().unwrap(), project("models/emoji"));
    let at = |name: &str| fresh.path().join(name);
    let strict = [&["-std=c99"], &STRICT[..]].concat();
    compile("cc", &here("examples/kiosk.c"), &strict, &at("kiosk"));
    compile("c++", &here("examples/kiosk.cpp"), &[&["-std=c++11"], &STRICT[..]].concat(), &at("kiosk-cpp"));
    let mut programs = vec!["kiosk", "kiosk-cpp"];
    if has("cmake") {
        let source = format!("-DKIOSK={}", here("examples/kiosk.c").display());
        let prefix = format!("-DCMAKE_PREFIX_PATH={}", installed().display());
        let mut configure = Command::new("cmake");
        configure.arg("-S").arg(here("tests/c")).arg("-B").arg(fresh.path()).args([source, prefix]);
        succeed(configure.arg("-DCMAKE_BUILD_TYPE=Release").arg("-DCMAKE_RUNTIME_OUTPUT_DIRECTORY=cmake"));
        succeed(Command::new("cmake").arg("--build").arg(fresh.path()));
        programs.extend(["cmake/kiosk", "cmake/kiosk-static"]);
    }
    let expected = expected(&model);
    for name in programs {
        let place = TempDir::new().unwrap();
        let mut kiosk = program(&at(name));
        if name.ends_with("static") {
            // It is its own executable, which ONNX Runtime does not lie beside.
            kiosk.env_remove("LD_LIBRARY_PATH").env("ORT_DYLIB_PATH", onnxruntime());
        }
        let told = succeed(kiosk.current_dir(place.path()).arg(target()).arg(&model).arg(PROMPT));
        assert!(told.contains("kiosk-1.png: "), "{name}: {told}");
        assert!(fs::read(place.path().join("kiosk-1.png")).unwrap() == expected, "{name}: another picture than Rust's");
    }
}

#[test]
fn live_tells_previews_and_is_cancelled_in_time() {
    let (folder, model) = (TempDir::new().unwrap(), project("models/emoji"));
    let live = folder.path().join("live");
    compile("cc", &here("examples/live.c"), &[&["-std=c11", POSIX, "-pthread"], &STRICT[..]].concat(), &live);
    let mut whole = program(&live);
    let told = succeed(whole.current_dir(folder.path()).arg(target()).arg(&model).arg(PROMPT));
    assert_eq!(told, "step 1 of 4\nstep 2 of 4\nstep 3 of 4\nstep 4 of 4\n");
    assert_eq!(files(folder.path()), ["live", "live.png", "preview-1.ppm", "preview-2.ppm", "preview-3.ppm"]);
    fs::remove_file(folder.path().join("live.png")).unwrap();
    let mut cancelled = program(&live);
    let output = run(cancelled.current_dir(folder.path()).arg(target()).arg(&model).args([PROMPT, "0"]));
    assert_eq!(output.status.code(), Some(8), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!folder.path().join("live.png").exists());
}

/// The shipped model holds its bounds; with a bound that nothing holds, the same numbers are an error with a report.
#[test]
fn a_model_is_held_to_its_numbers() {
    let folder = TempDir::new().unwrap();
    let (verify, strict) = (folder.path().join("verify"), folder.path().join("strict"));
    compile("cc", &here("tests/c/verify.c"), &[&["-std=c99"], &STRICT[..]].concat(), &verify);
    copy(&project("models/emoji"), &strict);
    let manifest = fs::read_to_string(strict.join("model.yaml")).unwrap();
    let bounds = "bounds: { int8: { relative_l2: 0.000001, psnr_db: 90 } }";
    let golden = "file: golden/a-red-apple-3.npz";
    assert!(manifest.contains(golden), "{manifest}");
    fs::write(strict.join("model.yaml"), manifest.replace(golden, &format!("{bounds}, {golden}"))).unwrap();
    for (model, code) in [(project("models/emoji"), 0), (strict, 6)] {
        let output = run(program(&verify).arg(target()).arg(model));
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), told.contains("error: ")), (Some(code), code != 0), "{told}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["comparisons"].as_array().map(Vec::len), Some(3), "{report}");
    }
}

/// The long run is done by hand; here, that the program counts.
#[test]
fn soak_counts() {
    let folder = TempDir::new().unwrap();
    let soak = folder.path().join("soak");
    compile("cc", &here("examples/soak.c"), &[&["-std=c11", POSIX], &STRICT[..]].concat(), &soak);
    let output = run(program(&soak).arg(target()).arg(project("tests/models/tiny-static")).args(["40", "4"]));
    let told = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines[0], "pictures,resident_kib,descriptors,threads", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(lines.len(), 12, "{told}");
    let columns = |line: &str| line.split(',').map(|number| number.parse::<u64>().unwrap()).collect::<Vec<_>>();
    let (first, last) = (columns(lines[1]), columns(lines[10]));
    assert_eq!((first[0], last[0]), (4, 40));
    assert!(first[1] > 10_000, "{told}");
    assert_eq!(first[2..], last[2..], "descriptors or threads have become more: {told}");
}
