//! Packages as a user meets them: packed of the binary of these tests, installed, run with an empty environment, removed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

mod common;

use common::{repository, skipped};

// --- scripts/dist

/// One test, since packing takes seconds.
#[test]
fn a_package_is_made_installed_run_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let first = pack(&folder.path().join("one"), "022", "UTC");
    let second = pack(&folder.path().join("another place"), "077", "Asia/Tokyo");
    let (tarball, model) = (format!("safelight-{VERSION}-{ARCH}-linux-gnu"), format!("safelight-model-tiny-{VERSION}"));
    let packages = [
        "SHA256SUMS".into(),
        format!("{tarball}.tar.gz"),
        format!("{model}.tar.gz"),
        format!("safelight-dev_{VERSION}_{DEBIAN}.deb"),
        format!("safelight-model-tiny_{VERSION}_all.deb"),
        format!("safelight_{VERSION}_{DEBIAN}.deb"),
    ];
    assert_eq!(tree(&first), BTreeSet::from(packages));
    for name in tree(&first) {
        assert!(fs::read(first.join(&name)).unwrap() == fs::read(second.join(&name)).unwrap(), "{name} differs");
    }

    let (package, model) = (unpack(&first, &tarball), unpack(&first, &model));
    let found = tree(&package);
    assert_eq!(found, expected_tree(), "new: {:?}", found.difference(&expected_tree()));
    check_bill(&package.join("share/doc/safelight/sbom.cdx.json"));
    let notices = fs::read_to_string(package.join("share/doc/safelight/THIRD-PARTY-NOTICES.txt")).unwrap();
    for told in ["clap_builder 4.", "The Rust standard library 1.", "Permission is hereby granted", "Apache License"] {
        assert!(notices.contains(told), "{told}");
    }
    check_debs(&first);

    let prefix = folder.path().join("a prefix");
    install(&package, &prefix, &[]).expect(0, "safelight doctor");
    install(&model, &prefix, &[]).expect(0, "safelight models --verify");
    check_c_library(&prefix, folder.path());
    check_command(&prefix, folder.path());
    install(&model, &prefix, &["--uninstall"]).expect(0, "is removed");
    install(&package, &prefix, &["--uninstall"]).expect(0, "is removed");
    assert_eq!(tree(&prefix), BTreeSet::new());
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
const ARCH: &str = std::env::consts::ARCH;
const DEBIAN: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

/// All packages, made below a folder of that name, under that umask and in that time zone.
fn pack(folder: &Path, umask: &str, zone: &str) -> PathBuf {
    let (built, model, out) = (folder.join("built"), folder.join("tiny"), folder.join("out"));
    let library = built.join("libsafelight_capi.so");
    // Only its name matters here.
    let code = "const char *safelight_packaged(void) { return \"packaged\"; }";
    common::compiled(&library, code, &["-Wl,-soname,libsafelight.so.0"]);
    succeed(Command::new("ar").arg("rcsD").arg(built.join("libsafelight_capi.a")).arg(built.join("source.c")));
    succeed(Command::new("strip").arg("-o").arg(built.join("safelight")).arg(env!("CARGO_BIN_EXE_safelight")));
    common::copy_folder(&common::tiny("tiny-lcm"), &model);
    fs::write(model.join("NOTICE"), "Nobody's.\n").unwrap();
    for arguments in
        [[ARCH.as_ref(), "--built".as_ref(), built.as_os_str()], ["model".as_ref(), model.as_ref(), "".as_ref()]]
    {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("umask {umask} && exec \"$@\""), "sh"]).arg(repository().join("scripts/dist"));
        command.args(arguments.iter().filter(|it| !it.is_empty())).arg("--out").arg(&out);
        succeed(command.env("TZ", zone).env("SOURCE_DATE_EPOCH", "1700000000"));
    }
    out
}

fn expected_tree() -> BTreeSet<String> {
    let mut expected: BTreeSet<String> = CONTENT.split_whitespace().map(|it| it.replace("VERSION", VERSION)).collect();
    for (from, extension, to) in [("targets", "yaml", "targets"), ("docs", "md", "../doc/safelight/docs")] {
        let names =
            tree(&repository().join(from)).into_iter().filter(|it| it.ends_with(extension) && !it.contains('/'));
        expected.extend(names.map(|name| format!("share/safelight/{to}/{name}").replace("safelight/../", "")));
    }
    for name in tree(&repository().join("runtime/cli")).iter().filter_map(|it| it.strip_suffix(".rs")) {
        if PAGES.split_whitespace().any(|page| page == name) {
            expected.insert(format!("share/man/man1/safelight-{name}.1"));
        }
    }
    expected
}

const PAGES: &str =
    "generate schedule models inspect targets verify place warm bench doctor report sensors compare collect version";

const CONTENT: &str = "
PACKAGE SHA256SUMS README.md install.sh bin/safelight include/safelight.h include/safelight.hpp
lib/libsafelight.a lib/libsafelight.so lib/libsafelight.so.0 lib/libsafelight.so.VERSION
lib/pkgconfig/safelight.pc lib/cmake/safelight/safelight-config.cmake
share/bash-completion/completions/safelight share/zsh/site-functions/_safelight
share/fish/vendor_completions.d/safelight.fish share/safelight/completions/safelight.ps1
share/doc/safelight/CHANGELOG.md share/doc/safelight/LICENSE share/doc/safelight/README.md
share/doc/safelight/THIRD-PARTY-NOTICES.txt share/doc/safelight/sbom.cdx.json share/man/man1/safelight.1
share/safelight/systemd/safelight-generate@.path share/safelight/systemd/safelight-generate@.service
share/safelight/systemd/safelight-warm.service share/safelight/targets/target.schema.json";

/// What CycloneDX 1.5 demands of what we write, and that it tells of what is linked and of nothing else.
fn check_bill(file: &Path) {
    let bill: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(
        (&bill["bomFormat"], &bill["specVersion"], &bill["version"]),
        (&"CycloneDX".into(), &"1.5".into(), &1.into())
    );
    assert!(bill["serialNumber"].as_str().unwrap().strip_prefix("urn:uuid:").is_some_and(|it| it.len() == 36));
    assert_eq!(bill["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    let lock = fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    let components = bill["components"].as_array().unwrap();
    let mut references = BTreeSet::from([bill["metadata"]["component"]["bom-ref"].as_str().unwrap()]);
    for it in components {
        let (name, version) = (it["name"].as_str().unwrap(), it["version"].as_str().unwrap());
        assert_eq!(it["type"], "library", "{name}");
        assert!(it["licenses"][0]["expression"].as_str().is_some_and(|it| !it.contains('/')), "{name}");
        assert!(references.insert(it["bom-ref"].as_str().unwrap()), "{name} is told twice");
        let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        assert!(name == "rust-std" || lock.contains(&entry), "{entry}");
        if let Some(hash) = it["hashes"][0]["content"].as_str() {
            assert!(lock.split(&entry).nth(1).unwrap().split("\n\n").next().unwrap().contains(hash), "{name}");
        }
    }
    let names: BTreeSet<_> = components.iter().map(|it| it["name"].as_str().unwrap()).collect();
    for (name, linked) in
        [("ort", true), ("clap", true), ("rust-std", true), ("criterion", false), ("clap_derive", false)]
    {
        assert_eq!(names.contains(name), linked, "{name}");
    }
    for it in bill["dependencies"].as_array().unwrap() {
        for reference in it["dependsOn"].as_array().unwrap().iter().chain([&it["ref"]]) {
            assert!(references.contains(reference.as_str().unwrap()), "{reference} is told nowhere");
        }
    }
}

/// What dpkg reads of the packages, and that nobody else's user or group is in them.
fn check_debs(folder: &Path) {
    let deb = |name: &str, option: &str| {
        let file = folder.join(format!("{name}.deb"));
        String::from_utf8(succeed(Command::new("dpkg-deb").arg(option).arg(file)).stdout).unwrap()
    };
    let command = format!("safelight_{VERSION}_{DEBIAN}");
    let fields = deb(&command, "--field");
    let architecture = format!("Architecture: {DEBIAN}\n");
    for told in ["Package: safelight\n", &architecture, "Depends: libc6 (>= 2.", "Recommends: safelight-onnxruntime"] {
        assert!(fields.contains(told), "{told} is not in {fields}");
    }
    let content = deb(&command, "--contents");
    for file in [
        "./usr/bin/safelight\n",
        "./usr/lib/libsafelight.so.0 -> ",
        "./usr/share/man/man1/safelight-generate.1.gz\n",
        "./usr/share/zsh/vendor-completions/_safelight\n",
        "./usr/share/doc/safelight/copyright\n",
        "./usr/share/doc/safelight/changelog.gz\n",
    ] {
        assert!(content.contains(file), "{file} is not in\n{content}");
    }
    assert!(!content.contains("libsafelight.a") && !content.contains("install.sh"), "{content}");
    assert!(content.lines().all(|line| line.contains(" root/root ")), "{content}");
    let development = deb(&format!("safelight-dev_{VERSION}_{DEBIAN}"), "--contents");
    for file in ["./usr/include/safelight.h\n", "./usr/lib/libsafelight.a\n", "./usr/lib/libsafelight.so -> "] {
        assert!(development.contains(file), "{file} is not in\n{development}");
    }
    assert!(deb(&format!("safelight-model-tiny_{VERSION}_all"), "--contents").contains("models/tiny/NOTICE\n"));
}

/// A C program is compiled with what pkg-config tells, wherever the prefix lies, and finds the library by its soname.
fn check_c_library(prefix: &Path, folder: &Path) {
    if Command::new("pkg-config").arg("--version").output().is_err() {
        return skipped("the C library of a package (pkg-config is not installed)");
    }
    let flags = succeed(
        Command::new("pkg-config")
            .args(["--cflags", "--libs", "safelight"])
            .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")),
    );
    let source = folder.join("program.c");
    fs::write(&source, PROGRAM).unwrap();
    let script = format!("cc \"$1\" -o \"$2\" {}", String::from_utf8(flags.stdout).unwrap().trim());
    let program = folder.join("program");
    succeed(Command::new("sh").args(["-c", &script, "sh"]).arg(&source).arg(&program));
    let output = succeed(Command::new(program).env("LD_LIBRARY_PATH", prefix.join("lib")));
    assert_eq!(output.stdout, b"packaged\n");
}

const PROGRAM: &str = "#include <safelight.h>
#include <stdio.h>
const char *safelight_packaged(void);
int main(void) { return puts(safelight_packaged()) < 0; }";

/// With nothing in the environment, from a folder that holds nothing.
fn check_command(prefix: &Path, folder: &Path) {
    let fetched = repository().join(".onnxruntime/host");
    let library = std::env::var_os("ORT_DYLIB_PATH").map_or(fetched, PathBuf::from);
    let library = if library.is_dir() { library.join("libonnxruntime.so") } else { library };
    let place = prefix.join("lib/safelight");
    fs::create_dir(&place).unwrap();
    symlink(library, place.join("libonnxruntime.so")).unwrap();
    let empty = folder.join("empty");
    fs::create_dir(&empty).unwrap();
    let safelight = |arguments: &[&str]| {
        let mut command = Command::new(prefix.join("bin/safelight"));
        String::from_utf8(succeed(command.args(arguments).env_clear().current_dir(&empty)).stdout).unwrap()
    };
    assert!(safelight(&["version"]).contains("lib/safelight/libonnxruntime.so"));
    assert!(safelight(&["targets"]).contains("raspberry-pi-5"));
    assert!(safelight(&["models"]).contains("tiny"));
    safelight(&["generate", "a word", "--steps", "1", "--no-probe", "--out", "picture.png"]);
    assert!(empty.join("picture.png").is_file());
    fs::remove_dir_all(place).unwrap();
}

// --- packaging/install.sh, on a package of two files

#[test]
fn what_is_damaged_or_for_another_machine_is_refused_before_anything_is_written() {
    let other = if ARCH == "aarch64" { "x86_64" } else { "aarch64" };
    for (file, content, code, telling) in [
        ("share/text", "another".to_owned(), 7, "thing is damaged"),
        ("SHA256SUMS", "no sums\n".to_owned(), 7, "thing is damaged"),
        ("PACKAGE", format!("thing 1.0 {other}\n"), 4, "and this machine is Linux"),
        (
            "bin/safelight",
            "#!/bin/sh\necho no such libc >&2; exit 1\n".to_owned(),
            4,
            "does not run on this machine: no such libc",
        ),
    ] {
        let place = Place::new("1.0", ARCH, &["share/text"]);
        fs::write(place.package.join(file), content).unwrap();
        if code == 4 {
            place.sum();
        }
        place.install(&[]).expect(code, telling);
        assert!(!place.prefix.exists(), "{file}");
    }
}

#[test]
fn either_all_files_are_installed_or_none() {
    let place = Place::new("1.0", ARCH, &["share/deep/er/text", "share/z/last"]);
    fs::create_dir_all(place.prefix.join("share")).unwrap();
    // Where a folder should be made; the files before it are copied by then.
    fs::write(place.prefix.join("share/z"), "somebody's").unwrap();
    place.install(&[]).expect(7, "nothing was installed");
    assert_eq!(tree(&place.prefix), BTreeSet::from(["share/z".to_owned()]));
    assert!(!place.prefix.join("share/deep").exists() && !place.prefix.join("bin").exists());
}

#[test]
fn the_files_of_others_are_neither_overwritten_nor_removed() {
    let place = Place::new("1.0", ARCH, &["share/text"]);
    fs::create_dir_all(place.prefix.join("share")).unwrap();
    fs::write(place.prefix.join("share/text"), "somebody's").unwrap();
    place.install(&[]).expect(7, "no installation of thing put it there");
    assert_eq!(tree(&place.prefix), BTreeSet::from(["share/text".to_owned()]));

    fs::remove_file(place.prefix.join("share/text")).unwrap();
    place.install(&[]).expect(0, "thing 1.0 is installed");
    fs::write(place.prefix.join("bin/other"), "somebody's").unwrap();
    place.install(&["--uninstall"]).expect(0, "is removed");
    assert_eq!(tree(&place.prefix), BTreeSet::from(["bin/other".to_owned()]));
    place.install(&["--uninstall"]).expect(7, "is not installed in");
}

#[test]
fn a_newer_version_takes_the_place_of_the_older_one() {
    let old = Place::new("1.0", ARCH, &["share/old/text", "share/text"]);
    old.install(&[]).expect(0, "thing 1.0 is installed");
    let new = Place { prefix: old.prefix.clone(), ..Place::new("1.1", ARCH, &["share/text", "share/new"]) };
    new.install(&[]).expect(0, "thing 1.1 is installed");
    let expected = ["bin/safelight", "share/new", "share/safelight/installed/thing", "share/text"];
    assert_eq!(tree(&new.prefix), BTreeSet::from(expected.map(str::to_owned)));
    let mode = fs::metadata(new.prefix.join("bin/safelight")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    new.install(&["--uninstall"]).expect(0, "is removed");
    assert_eq!(fs::read_dir(&new.prefix).unwrap().count(), 0);
}

#[test]
fn wrong_arguments_are_told() {
    let place = Place::new("1.0", ARCH, &[]);
    for arguments in [&["--prefix"][..], &["--remove"], &["/usr"]] {
        let mut command = Command::new(place.package.join("install.sh"));
        Outcome::of(command.args(arguments)).expect(2, "usage: ./install.sh");
    }
    for (arguments, telling) in [
        (&[][..], "which target?"),
        (&["mips"], "no target or option mips"),
        (&["model"], "which model?"),
        (&["model", "/absent"], "/absent is no folder"),
    ] {
        let outcome = Outcome::of(
            Command::new(repository().join("scripts/dist")).args(arguments).arg("--out").arg(&place.prefix),
        );
        assert!(matches!(outcome.code, Some(2 | 3)), "{}", outcome.told);
        assert!(outcome.told.contains(telling), "{}", outcome.told);
    }
}

/// The units as systemd reads them; whether they do what they should needs a system that was started by it.
#[test]
fn systemd_understands_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skipped("systemd-analyze verify (systemd is not installed)");
    }
    let folder = tempfile::tempdir().unwrap();
    let units = tree(&repository().join("packaging/systemd"));
    assert_eq!(units.len(), 3);
    for name in &units {
        let text = fs::read_to_string(repository().join("packaging/systemd").join(name)).unwrap();
        let text = text.replace("ExecStart=safelight", "ExecStart=/bin/true");
        fs::write(folder.path().join(name.replace('@', "@kiosk")), text).unwrap();
    }
    let files = units.iter().map(|name| folder.path().join(name.replace('@', "@kiosk")));
    let output = succeed(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(files));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!told.contains(&folder.path().display().to_string()), "{told}");
}

/// A package and the prefix that it goes to.
struct Place {
    _folder: TempDir,
    package: PathBuf,
    prefix: PathBuf,
}

impl Place {
    /// With a command, and these files.
    fn new(version: &str, architecture: &str, files: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (package, prefix) = (folder.path().join("the package"), folder.path().join("usr local"));
        let place = Self { _folder: folder, package, prefix };
        let write = |file: &str, content: &str| {
            let path = place.package.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write("PACKAGE", &format!("thing {version} {architecture}\n"));
        write("bin/safelight", "#!/bin/sh\necho safelight\n");
        fs::set_permissions(place.package.join("bin/safelight"), fs::Permissions::from_mode(0o755)).unwrap();
        files.iter().for_each(|file| write(file, file));
        place.sum();
        // A link: what another thread of this test has just written may be "text file busy".
        symlink(repository().join("packaging/install.sh"), place.package.join("install.sh")).unwrap();
        place
    }

    /// Writes the sums of what is there.
    fn sum(&self) {
        let files = tree(&self.package).into_iter().filter(|it| it != "SHA256SUMS" && it != "install.sh");
        let line = |file: String| {
            let hash = Sha256::digest(fs::read(self.package.join(&file)).unwrap());
            let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hash}  ./{file}\n")
        };
        fs::write(self.package.join("SHA256SUMS"), files.map(line).collect::<String>()).unwrap();
    }

    fn install(&self, arguments: &[&str]) -> Outcome {
        install(&self.package, &self.prefix, arguments)
    }
}

fn install(package: &Path, prefix: &Path, arguments: &[&str]) -> Outcome {
    // Run by its shell from the package's folder: as a link it would look for its package beside what it leads to.
    let mut command = Command::new("sh");
    Outcome::of(command.current_dir(package).arg("./install.sh").arg("--prefix").arg(prefix).args(arguments))
}

struct Outcome {
    code: Option<i32>,
    told: String,
}

impl Outcome {
    fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        Self { code: status.code(), told: String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned() }
    }

    #[track_caller]
    fn expect(&self, code: i32, telling: &str) {
        assert_eq!(self.code, Some(code), "{}", self.told);
        assert!(self.told.contains(telling), "{telling:?} is not in {}", self.told);
    }
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Unpacks an archive beside itself; its one folder.
fn unpack(folder: &Path, name: &str) -> PathBuf {
    let to = folder.with_file_name("unpacked");
    fs::create_dir_all(&to).unwrap();
    succeed(Command::new("tar").arg("xzf").arg(folder.join(format!("{name}.tar.gz"))).arg("-C").arg(&to));
    to.join(name)
}

/// Every file and link below a folder.
fn tree(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(tree(&entry.path()).iter().map(|below| format!("{name}/{below}"))),
            false => drop(found.insert(name)),
        }
    }
    found
}
