//! runtime/fetch-onnxruntime against a pretended pip: what it leaves on the disk and what it says when it cannot.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

#[test]
fn puts_library_licence_and_version_in_place() {
    let project = Project::new();
    project.install_python("tests/scripts/python3");
    project.make_wheel("first");
    project.fetch(&["--platform", "linux-aarch64"]).expect_success();
    assert_eq!(project.stored(), ["LICENSE", "ThirdPartyNotices.txt", "VERSION", "libonnxruntime.so"]);
    assert_eq!(project.library(), "first");
}

#[test]
fn fetches_again_only_when_the_pin_changed() {
    let project = Project::new();
    project.install_python("tests/scripts/python3");
    project.make_wheel("first");
    project.fetch(&["--platform", "linux-aarch64"]).expect_success();

    project.make_wheel("second");
    let outcome = project.fetch(&["--platform", "linux-aarch64"]);
    outcome.expect_success();
    assert_eq!((project.library().as_str(), outcome.message.as_str()), ("first", ""));

    let pin = project.root.join("runtime/onnxruntime.txt");
    let changed = fs::read_to_string(&pin).unwrap().replace("onnxruntime==", "onnxruntime==9.");
    fs::write(&pin, changed).unwrap();
    project.fetch(&["--platform", "linux-aarch64"]).expect_success();
    assert_eq!(project.library(), "second");
}

#[test]
fn a_failed_download_leaves_nothing_behind() {
    let project = Project::new();
    project.install_python("tests/scripts/python3");
    let outcome = project.fetch(&["--platform", "linux-x86_64"]);
    outcome.expect_failure(4, "could not be downloaded: pip says why above");
    outcome.expect_failure(4, "ERROR: no matching distribution");
    assert!(!project.root.join(".onnxruntime").exists());
}

#[test]
fn says_how_to_install_python() {
    Project::new().fetch(&["--platform", "macos-arm64"]).expect_failure(4, "apt-get install python3 python3-pip");
}

#[test]
fn says_how_to_install_pip() {
    let project = Project::new();
    // A python3 without pip is one that fails.
    project.install_python(find_on_path("false"));
    project.fetch(&["--platform", "macos-arm64"]).expect_failure(4, "apt-get install python3-pip;");
}

#[test]
fn an_unsupported_platform_is_told_which_are_and_what_else_helps() {
    let outcome = Project::new().fetch(&["--platform", "plan9-mips"]);
    outcome.expect_failure(4, "for 'plan9-mips', only for linux-x86_64, linux-aarch64, macos-arm64");
    outcome.expect_failure(4, "set ORT_DYLIB_PATH");
}

#[test]
fn wrong_arguments_show_the_usage() {
    for arguments in [&["--platform"][..], &["linux-x86_64"], &["--help"]] {
        Project::new().fetch(arguments).expect_failure(2, "usage: fetch-onnxruntime [--platform PLATFORM]");
    }
}

/// A project that holds nothing but the script and its pin, with a PATH of its own.
struct Project {
    _folder: TempDir,
    root: PathBuf,
    bin: PathBuf,
}

struct Outcome {
    code: Option<i32>,
    message: String,
}

impl Project {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a project");
        let bin = folder.path().join("bin");
        fs::create_dir_all(root.join("runtime")).unwrap();
        fs::create_dir(&bin).unwrap();
        for file in ["runtime/fetch-onnxruntime", "runtime/onnxruntime.txt"] {
            fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(file), root.join(file)).unwrap();
        }
        for tool in [
            "cat", "cp", "dirname", "getconf", "ln", "mkdir", "mktemp", "mv", "readlink", "rm", "rmdir", "sed", "uname",
        ] {
            symlink(find_on_path(tool), bin.join(tool)).unwrap();
        }
        Self { _folder: folder, root, bin }
    }

    // A link: a program that another thread of this test has just written may be "text file busy".
    fn install_python(&self, program: impl AsRef<Path>) {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
        symlink(program, self.bin.join("python3")).unwrap();
    }

    /// A wheel whose library holds `content`, for the pretended pip to find.
    fn make_wheel(&self, content: &str) {
        const SCRIPT: &str = "
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], 'w') as wheel:
    for name in ('LICENSE', 'ThirdPartyNotices.txt', 'capi/libonnxruntime.so.1', 'capi/libonnxruntime_providers_shared.so'):
        wheel.writestr('onnxruntime/' + name, sys.argv[2])";
        let made = Command::new("python3").args(["-c", SCRIPT]).arg(self.bin.join("wheel")).arg(content).status();
        assert!(made.unwrap().success());
    }

    fn fetch(&self, arguments: &[&str]) -> Outcome {
        let output = Command::new("/bin/sh")
            .arg(self.root.join("runtime/fetch-onnxruntime"))
            .args(arguments)
            .env("PATH", &self.bin)
            .env("REAL_PATH", std::env::var_os("PATH").unwrap())
            .output()
            .unwrap();
        Outcome { code: output.status.code(), message: String::from_utf8(output.stderr).unwrap() }
    }

    fn library(&self) -> String {
        fs::read_to_string(self.root.join(".onnxruntime/linux-aarch64/libonnxruntime.so")).unwrap()
    }

    fn stored(&self) -> Vec<String> {
        let folder = fs::read_dir(self.root.join(".onnxruntime/linux-aarch64")).unwrap();
        let mut names: Vec<String> = folder.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Outcome {
    fn expect_success(&self) {
        assert_eq!(self.code, Some(0), "{}", self.message);
    }

    fn expect_failure(&self, code: i32, message: &str) {
        assert_eq!(self.code, Some(code), "{}", self.message);
        assert!(self.message.contains(message), "{message:?} is not in {:?}", self.message);
    }
}

fn find_on_path(tool: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|it| it.exists());
    found.unwrap_or_else(|| panic!("{tool} is not on the PATH"))
}
