//! scripts/cross against pretended toolchains: what it chooses, and what it says when nothing here can build.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

/// Lists its target folder if that is there, as rustc does; `$0.targets` has those that it can build for.
const RUSTC: &str = r#"case "$1" in
  --version) echo "rustc of $(basename "$(dirname "$0")")" ;;
  *) echo "$0.targets/$4" ;;
esac"#;

/// Adds a target to the rustc beside it.
const RUSTUP: &str = r#"mkdir -p "$(dirname "$0")/rustc.targets/$3""#;

const OFFLINE_RUSTUP: &str = "echo 'error: could not download' >&2; exit 1";

const AARCH64: &str = "aarch64-unknown-linux-gnu";

/// Held while a program is written and while one starts: what is written as another thread forks is "text file busy".
static STARTING: Mutex<()> = Mutex::new(());

#[test]
fn takes_what_is_there_before_anything_is_fetched() {
    let machine = Machine::new();
    machine.program("path/rustup", RUSTUP);
    machine.program("path/rustc", RUSTC);
    machine.program("debian/rustc", RUSTC);
    machine.add_target("debian");
    let outcome = machine.cross(&["aarch64"]);
    outcome.expect(0, "aarch64-unknown-linux-gnu with glibc 2.31, by Debian's rustc of debian");
    assert!(outcome.stdout.contains("RUSTC=DEBIAN/rustc"), "{}", outcome.stdout);
    assert!(!machine.root.path().join("path/rustc.targets").exists());
}

#[test]
fn adds_the_target_with_rustup() {
    let machine = Machine::new();
    machine.program("path/rustup", RUSTUP);
    machine.program("path/rustc", RUSTC);
    let outcome = machine.cross(&["aarch64"]);
    outcome.expect(0, "aarch64-unknown-linux-gnu with glibc 2.31, by rustc of path");
    let built = "zigbuild --locked --release --target aarch64-unknown-linux-gnu.2.31 \
                 --package safelight-cli --package safelight-capi RUSTC=";
    assert_eq!(outcome.stdout.trim_end(), built);
}

#[test]
fn never_asks_rustup_where_debian_was_asked_for() {
    let machine = Machine::new();
    machine.program("path/rustup", RUSTUP);
    machine.program("path/rustc", RUSTC);
    machine.cross(&["--toolchain", "debian", "aarch64"]).expect(7, "no Rust here can build");
    assert!(!machine.root.path().join("path/rustc.targets").exists());
}

#[test]
fn tells_both_ways_where_nothing_can_build() {
    let machine = Machine::new();
    let advice = ["rustup target add aarch64-unknown-linux-gnu", "dpkg --add-architecture arm64 && apt-get update"];
    for told in
        advice.into_iter().chain(["install --no-install-recommends rustc-web cargo-web libstd-rust-web-dev:arm64"])
    {
        machine.cross(&["aarch64"]).expect(7, told);
    }
    machine.program("path/rustup", OFFLINE_RUSTUP);
    machine.cross(&["--toolchain", "rustup", "aarch64"]).expect(7, "error: could not download");
}

#[test]
fn hands_on_a_cargo_command() {
    let machine = Machine::new();
    machine.program("path/rustc", RUSTC);
    machine.add_target("path");
    let outcome = machine.cross(&["aarch64", "test", "--test", "samplers"]);
    assert_eq!(
        outcome.stdout.trim_end(),
        "test --locked --target aarch64-unknown-linux-gnu.2.31 --test samplers RUSTC="
    );
}

#[test]
fn fetches_the_linker_again_only_when_the_pins_changed() {
    let machine = Machine::new();
    machine.program("path/rustc", RUSTC);
    machine.add_target("path");
    machine.cross(&["aarch64"]).expect(0, "by rustc of path");
    let pins = machine.root.path().join("project/scripts/cross-requirements.txt");
    fs::write(&pins, "cargo-zigbuild==9\n").unwrap();
    machine.program("path/python3", "exit 1");
    machine
        .cross(&["aarch64"])
        .expect(7, "no Python environment for the linker (Debian: apt-get install python3-venv)");
}

#[test]
fn wrong_arguments_show_the_usage() {
    let machine = Machine::new();
    let cases: [(&[&str], &str); 4] = [
        (&[], "which target?"),
        (&["riscv64"], "no target riscv64"),
        (&["--toolchain", "nix", "aarch64"], "--toolchain is rustup or debian"),
        (&["--verbose", "aarch64"], "unknown option --verbose"),
    ];
    for (arguments, told) in cases {
        machine.cross(arguments).expect(2, told);
        machine.cross(arguments).expect(2, "usage: scripts/cross");
    }
    assert!(machine.cross(&["--help"]).stdout.starts_with("usage: scripts/cross"));
}

/// A project that holds nothing but the script and its linker, on a machine with folders `path` and `debian` of programs.
struct Machine {
    root: TempDir,
}

struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap() };
        let at = |path: &str| machine.root.path().join(path);
        for folder in ["path", "debian", "project/scripts", "project/.venv-cross/bin"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        // Debian's programs are named by their whole path.
        let script = fs::read_to_string(original.join("cross")).unwrap();
        let script = script.replace("/usr/bin/", &format!("{}/", at("debian").display()));
        fs::write(at("project/scripts/cross"), script).unwrap();
        for pins in ["scripts", ".venv-cross"] {
            let name = if pins == "scripts" { "cross-requirements.txt" } else { "requirements.txt" };
            fs::copy(original.join("cross-requirements.txt"), at("project").join(pins).join(name)).unwrap();
        }
        machine.program("project/.venv-cross/bin/cargo-zigbuild", r#"echo "$@" RUSTC="${RUSTC-}""#);
        for tool in ["basename", "cmp", "cp", "dirname", "id", "mkdir", "readlink", "uname"] {
            symlink(find_on_path(tool), at("path").join(tool)).unwrap();
        }
        machine
    }

    fn program(&self, path: &str, script: &str) {
        let path = self.root.path().join(path);
        let _alone = STARTING.lock();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Gives the rustc in a folder the standard library for aarch64.
    fn add_target(&self, folder: &str) {
        fs::create_dir_all(self.root.path().join(folder).join("rustc.targets").join(AARCH64)).unwrap();
    }

    fn cross(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new("/bin/sh");
        command.arg(self.root.path().join("project/scripts/cross")).args(arguments);
        command.env("PATH", self.root.path().join("path")).env_remove("RUSTC");
        let alone = STARTING.lock();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(alone);
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let debian = self.root.path().join("debian").display().to_string();
        let stdout = text(output.stdout).replace(&debian, "DEBIAN");
        Outcome { code: output.status.code(), stdout, stderr: text(output.stderr) }
    }
}

impl Outcome {
    #[track_caller]
    fn expect(&self, code: i32, message: &str) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert!(self.stderr.contains(message), "{message:?} is not in {:?}", self.stderr);
    }
}

fn find_on_path(tool: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|it| it.exists());
    found.unwrap_or_else(|| panic!("{tool} is not on the PATH"))
}
