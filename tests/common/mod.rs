//! The binary as a user runs it, in a place of its own where everything that it leaves is seen.
#![allow(dead_code, reason = "no test file needs everything")]

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// Tells what is not tested here. Past libtest, which shows what is printed for tests that fail alone.
pub(crate) fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

/// The repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A tiny pipeline of `tests/models`.
pub(crate) fn tiny(name: &str) -> PathBuf {
    repository().join("tests/models").join(name)
}

/// Folders of one test, gone when it ends.
pub(crate) struct Place {
    root: TempDir,
}

/// Has a command answer signals also where whoever runs the tests ignores them, as `nohup` does, and a shell for what it
/// starts in the background: to be ignored is inherited.
#[cfg(unix)]
fn answer_signals(command: &mut Command) {
    let reset = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            // SAFETY: it may be called between fork and exec, and every signal has a default.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: the closure calls nothing but `signal`, and allocates nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, reset) };
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self { root: tempfile::tempdir().unwrap() };
        for folder in ["inputs", "work", "home", "temporary"] {
            fs::create_dir(place.root.path().join(folder)).unwrap();
        }
        place.share_probes();
        place
    }

    /// What has passed the probe in one test need not be tried in the next; `tests/probe.rs` has folders of its own.
    #[cfg(unix)]
    fn share_probes(&self) {
        let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("probed");
        fs::create_dir_all(&shared).unwrap();
        fs::create_dir_all(self.probed().parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(shared, self.probed()).unwrap();
    }

    #[cfg(not(unix))]
    fn share_probes(&self) {}

    /// Where it is remembered which graphs have passed the probe.
    pub(crate) fn probed(&self) -> PathBuf {
        self.root.path().join("home/safelight/probed")
    }

    /// Where a test puts what it feeds to the binary.
    pub(crate) fn inputs(&self) -> PathBuf {
        self.root.path().join("inputs")
    }

    /// Where the binary runs, so that its pictures land here.
    pub(crate) fn work(&self) -> PathBuf {
        self.root.path().join("work")
    }

    /// Writes a file into the inputs.
    pub(crate) fn input(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.inputs().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A copy of a tiny pipeline among the inputs.
    pub(crate) fn copy_of(&self, model: &str) -> PathBuf {
        let copy = self.inputs().join(model);
        copy_folder(&tiny(model), &copy);
        copy
    }

    /// The binary, with homes and temporary folder in this place.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_safelight"));
        command.args(arguments).current_dir(self.work()).env("SAFELIGHT_HOME", repository());
        let home = self.root.path().join("home");
        for variable in ["HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
            command.env(variable, &home);
        }
        command.env("TMPDIR", self.root.path().join("temporary")).env_remove("ORT_DISABLE_TELEMETRY");
        #[cfg(unix)]
        answer_signals(&mut command);
        command
    }

    /// The binary where opening ONNX Runtime would fail: for everything that must be told before it.
    pub(crate) fn without_library<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(arguments);
        command.env("ORT_DYLIB_PATH", self.root.path().join("no-library-here"));
        command
    }

    /// Every file that the binary left, wherever it may write, but what it shares with other tests; as paths from the
    /// place's root.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for folder in ["work", "home", "temporary"] {
            list_files(&self.root.path().join(folder), &mut left);
        }
        let relative = |path: PathBuf| path.strip_prefix(self.root.path()).unwrap().display().to_string();
        let mut left: Vec<_> = left.into_iter().map(relative).collect();
        left.sort();
        left
    }
}

/// What one run of the binary did.
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Runs a command; a signal, a panic or a mistake of safelight's own is a failure in every test.
    pub(crate) fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        let code = status.code().unwrap_or_else(|| panic!("{command:?}: {status}\n{stderr}"));
        assert!(code != 101 && code != 70 && !stderr.contains("panicked"), "{command:?}: {status}\n{stderr}");
        Self { code, stdout, stderr }
    }

    /// The exit code is this, and standard error tells that.
    #[track_caller]
    pub(crate) fn expect(&self, case: &str, code: i32, telling: &str) {
        let Self { code: found, stderr, .. } = self;
        assert_eq!(*found, code, "{case}: {stderr}");
        assert!(stderr.contains(telling), "{case}: expected {telling:?} in: {stderr}");
    }
}

/// Compiles a shared library from C.
pub(crate) fn compiled(path: &Path, code: &str, flags: &[&str]) {
    let source = path.with_file_name("source.c");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&source, code).unwrap();
    let mut command = Command::new("cc");
    command.args(["-shared", "-fPIC", "-Wl,--no-as-needed", "-o"]).arg(path).arg(&source).args(flags);
    assert!(command.status().unwrap().success(), "{}", path.display());
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => fs::copy(entry.path(), to).map(drop).unwrap(),
        }
    }
}

fn list_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() && path.ends_with("safelight/probed") {
            continue;
        }
        match path.is_dir() {
            true => list_files(&path, files),
            false => files.push(path),
        }
    }
}

pub(crate) const STAGES: [(&str, &str); 3] =
    [("text_encoder", "text_encoder"), ("denoiser", "unet"), ("decoder", "vae_decoder")];

/// A model folder with a manifest: the graphs of tiny-sd and a tokenizer.json.
pub(crate) fn manifest_model(place: &Place) -> PathBuf {
    let model = place.inputs().join("model");
    fs::create_dir(&model).unwrap();
    for (stage, folder) in STAGES {
        fs::copy(tiny("tiny-sd").join(folder).join("model.onnx"), model.join(format!("{stage}.onnx"))).unwrap();
    }
    fs::copy(repository().join("models").join("emoji").join("tokenizer.json"), model.join("tokenizer.json")).unwrap();
    describe(&model);
    model
}

/// Writes the manifest of the graphs that are in the folder, with their right lengths and hashes.
pub(crate) fn describe(model: &Path) {
    let mut manifest = String::from(
        "schema: safelight-model/1\nname: model\ntitle: A model\nlicence: Apache-2.0\n\
         picture: { width: 64, height: 64, multiple: 8 }\nlatent: { channels: 4, downscale: 8, scale: 0.18215 }\n\
         training: { beta_start: 0.00085, beta_end: 0.012, betas: scaled_linear, prediction: epsilon }\n\
         tokenizer: { file: tokenizer.json, length: 16, start: 0, end: 1, pad: 1 }\n\
         defaults: { sampler: ddim, schedule: trailing, steps: 2, guidance: 1.0 }\nstages:\n",
    );
    for (stage, _) in STAGES {
        let graph = fs::read(model.join(format!("{stage}.onnx"))).unwrap();
        let hash: String = Sha256::digest(&graph).iter().map(|byte| format!("{byte:02x}")).collect();
        let entry = format!("{{ file: {stage}.onnx, bytes: {}, sha256: {hash} }}", graph.len());
        manifest += &format!("  {stage}: {{ graphs: {{ fp32: {entry} }} }}\n");
    }
    fs::write(model.join("model.yaml"), manifest).unwrap();
}

/// A target for FP32 on the CPU, with more lines.
pub(crate) fn board(place: &Place, more: &str) -> String {
    let text = format!(
        "schema: safelight-target/1\nname: board\ntitle: A board\nprecision: [fp32]\n\
         providers: [{{ name: cpu, need: required }}]\n{more}\n"
    );
    place.input("board.yaml", text).display().to_string()
}
