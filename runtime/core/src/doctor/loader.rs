//! Checks of what the system's loader will find when a provider is first used. Only Linux is known; elsewhere they say so.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::library::provider_file;
use super::{Severity, Subject, Told, elf, ok, or_ok, told};
use crate::library::{Found, Outcome, Place};
use crate::provider::{Need, Provider};

/// Where a machine keeps its libraries.
const USUAL_FOLDERS: &[&str] = &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// Where vendors put libraries that the loader finds only when it is told.
const OTHER_FOLDERS: &[&str] = &["/usr/local", "/opt"];

/// The C library against the versions of its symbols that each file of ONNX Runtime on the search path needs.
pub(super) fn glibc(subject: &Subject<'_>) -> Vec<Told> {
    let Some((path, has)) = installed_glibc(subject) else {
        return vec![ok("not compared: no libc.so.6 that tells its version")];
    };
    let is_file = |place: &&Place| !matches!(place.outcome, Outcome::Absent(_));
    let files: Vec<_> = subject.library.places.iter().filter(is_file).collect();
    if files.is_empty() {
        return vec![ok("not compared: no file of ONNX Runtime is on the search path")];
    }
    let too_new = files.into_iter().filter_map(|place| {
        let needed = elf::needs(&place.path)?.versions.iter().filter_map(|name| glibc_version(name)).max()?;
        let used = subject.library.found.is_none() || place.outcome == Outcome::Opened;
        let severity = if used { Severity::Problem } else { Severity::Note };
        let evidence = format!(
            "{} needs glibc {}.{}, and {} is {}.{}",
            place.path.display(),
            needed.0,
            needed.1,
            path.display(),
            has.0,
            has.1
        );
        let advice = "take a build of ONNX Runtime for this system's release, or a newer system";
        (needed > has).then(|| told(severity, evidence, advice))
    });
    or_ok(too_new.collect(), format!("glibc {}.{} is new enough for what is on the search path", has.0, has.1))
}

/// The C library, and its major and minor version.
fn installed_glibc(subject: &Subject<'_>) -> Option<(PathBuf, (u32, u32))> {
    let path = usual_folders(subject).into_iter().map(|folder| folder.join("libc.so.6"));
    let path = path.into_iter().find(|path| subject.at(path).is_file())?;
    let file = File::open(subject.at(&path)).ok()?;
    // SAFETY: the bytes are only read, and a running system does not truncate its C library.
    let bytes = unsafe { Mmap::map(&file) }.ok()?;
    let marker = b"stable release version ";
    let at = bytes.windows(marker.len()).position(|window| window == marker)? + marker.len();
    let version = String::from_utf8_lossy(bytes.get(at..)?.get(..16.min(bytes.len() - at))?).into_owned();
    Some((path, two_numbers(&version)?))
}

/// The numbers of `GLIBC_2.28`.
fn glibc_version(name: &str) -> Option<(u32, u32)> {
    two_numbers(name.strip_prefix("GLIBC_")?)
}

/// The numbers that a text such as `2.28.1` or `2.36-9` begins with.
fn two_numbers(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The provider whose library opens cuDNN only when the first convolution runs, since ONNX Runtime 1.31 at least, and what
/// it looks for: such a library does not name it among what it needs.
const OPENS_CUDNN: (&str, &str) = ("cuda", "libcudnn.so.9");

/// Providers that are a library of their own beside ONNX Runtime, wherever they were built in; all need the second name.
const APART: (&[&str], &str) = (&["cuda", "tensorrt", "openvino", "migraphx"], "shared");

/// What the providers' own libraries need beside ONNX Runtime, such as CUDA's, in the version that they name.
pub(super) fn companions(subject: &Subject<'_>) -> Vec<Told> {
    let Some(found) = &subject.library.found else { return vec![ok("not looked for: no library was opened")] };
    let Some(folder) = found.path.parent().filter(|folder| folder.is_absolute()) else {
        return vec![ok("not looked for: the system loader does not tell where it found the library")];
    };
    // What ONNX Runtime itself needs is there: it was opened.
    let there: BTreeSet<_> = elf::needs(&found.path).unwrap_or_default().libraries.into_iter().collect();
    let missing = |provider: &Provider| {
        let Some(needs) = provider_needs(subject, provider) else { return Vec::new() };
        let file = provider.library.clone().unwrap_or_else(|| folder.join(provider_file(provider.name.as_str())));
        let folder = file.parent().unwrap_or(folder);
        let own = needs.folders.iter().map(|own| PathBuf::from(own.replace("$ORIGIN", &folder.display().to_string())));
        let own: Vec<_> = own.chain([folder.to_path_buf()]).collect();
        let is_missing = |name: &String| !there.contains(name) && !own.iter().any(|at| at.join(name).exists());
        needs.libraries.into_iter().filter(is_missing).collect::<Vec<_>>()
    };
    let findings =
        subject.providers().into_iter().flat_map(|provider| match told_of_itself(found, folder, &provider) {
            Some(told) => vec![told],
            None => told_of_missing(subject, &provider, missing(&provider)),
        });
    or_ok(findings.collect(), "nothing that a provider of the target needs is missing")
}

/// What a provider's own library needs, with what it opens while it runs; nothing where there is no such file.
pub(super) fn provider_needs(subject: &Subject<'_>, provider: &Provider) -> Option<elf::Needs> {
    let folder = subject.library.found.as_ref()?.path.parent()?;
    let file = provider.library.clone().unwrap_or_else(|| folder.join(provider_file(provider.name.as_str())));
    let mut needs = elf::needs(&file)?;
    let (name, cudnn) = OPENS_CUDNN;
    if provider.name.as_str() == name && !needs.libraries.iter().any(|name| name.starts_with("libcudnn.so")) {
        needs.libraries.push(cudnn.to_owned());
    }
    Some(needs)
}

/// What to say where a provider that the library was built with has lost its own library.
fn told_of_itself(found: &Found, folder: &Path, provider: &Provider) -> Option<Told> {
    let name = provider.name.as_str();
    let is_apart = provider.library.is_none() && APART.0.contains(&name);
    if !is_apart || !found.providers.iter().any(|has| has == name) {
        return None;
    }
    let gone = [APART.1, name].map(provider_file).into_iter().find(|file| !folder.join(file).exists())?;
    let severity = match provider.need {
        Need::Required => Severity::Problem,
        Need::Optional => Severity::Note,
    };
    let evidence = format!("provider {name} is in {gone}, which is not in {}", folder.display());
    Some(told(severity, evidence, "take it from the package that ONNX Runtime is from, and put it there"))
}

/// Of libraries that a provider needs and does not bring along: those that the loader does not find.
fn told_of_missing(subject: &Subject<'_>, provider: &Provider, mut missing: Vec<String>) -> Vec<Told> {
    let (searched, others) = (searched_folders(subject), other_folders(subject));
    let holds = |folder: &&PathBuf, name: &str| subject.at(folder).join(name).exists();
    missing.retain(|name| !searched.iter().any(|folder| holds(&folder, name)));
    let elsewhere = |name: &String| others.iter().find(|folder| holds(folder, name));
    let (hidden, gone): (Vec<_>, Vec<_>) = missing.iter().partition(|name| elsewhere(name).is_some());
    let mut findings = Vec::new();
    if !gone.is_empty() {
        findings.push(told_of_gone(subject, provider, &gone, searched.iter().chain(&others)));
    }
    if !hidden.is_empty() {
        let folders: BTreeSet<_> = hidden.iter().filter_map(|name| elsewhere(name)).collect();
        let folders: Vec<_> = folders.into_iter().map(|folder| folder.display().to_string()).collect();
        let what = format!("provider {} needs {}", provider.name, join(&hidden));
        let evidence = format!("{what}, found in {}, where the loader does not look", folders.join(", "));
        findings.push(told(Severity::Warning, evidence, format!("export LD_LIBRARY_PATH={}", folders.join(":"))));
    }
    findings
}

/// What to say of libraries that are nowhere, and of other versions of them that are somewhere.
fn told_of_gone<'a>(
    subject: &Subject<'_>,
    provider: &Provider,
    gone: &[&String],
    folders: impl Iterator<Item = &'a PathBuf> + Clone,
) -> Told {
    let severity = match provider.need {
        Need::Required => Severity::Problem,
        Need::Optional => Severity::Warning,
    };
    let stems = gone.iter().map(|name| format!("{}.so.", name.split(".so").next().unwrap_or(name)));
    let similar = stems.flat_map(|stem| folders.clone().flat_map(move |folder| subject.list(folder, &stem)));
    let similar: BTreeSet<_> = similar.map(|path| path.display().to_string()).collect();
    let similar: Vec<_> = similar.iter().collect();
    let evidence = format!("provider {} needs {}, nowhere that the loader looks", provider.name, join(gone));
    let advice = "install what is missing, or put its folder on LD_LIBRARY_PATH";
    if similar.is_empty() {
        return told(severity, evidence, advice);
    }
    let evidence = format!("{evidence}, but other versions are here: {}", join(&similar));
    told(severity, evidence, format!("{advice}; or use a build of ONNX Runtime for the versions that are here"))
}

fn join(names: &[&String]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Folders of the machine's own libraries, and those of each architecture inside them.
fn usual_folders(subject: &Subject<'_>) -> Vec<PathBuf> {
    let nested = |folder: &&str| subject.list(folder, "").into_iter().filter(|path| is_architecture(path));
    let nested: Vec<_> = USUAL_FOLDERS.iter().flat_map(nested).collect();
    USUAL_FOLDERS.iter().map(PathBuf::from).chain(nested).collect()
}

/// `x86_64-linux-gnu`, `aarch64-linux-gnu`.
fn is_architecture(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains("-linux-gnu"))
}

/// Where the loader looks: LD_LIBRARY_PATH, ld.so.conf and what it includes, and the usual folders.
fn searched_folders(subject: &Subject<'_>) -> Vec<PathBuf> {
    let listed = subject.folder("LD_LIBRARY_PATH").unwrap_or_default();
    let listed: Vec<_> = std::env::split_paths(&listed).filter(|folder| folder.is_absolute()).collect();
    let files = [PathBuf::from("/etc/ld.so.conf")].into_iter().chain(subject.list("/etc/ld.so.conf.d", ""));
    let lines = files.filter_map(|file| subject.text(file)).collect::<Vec<_>>().join("\n");
    let configured = lines.lines().map(str::trim).filter(|line| line.starts_with('/')).map(PathBuf::from);
    listed.into_iter().chain(configured).chain(usual_folders(subject)).collect()
}

/// Where vendors put libraries without telling the loader: `lib` and `lib64` below /usr/local/* and /opt/*, and the
/// packages of NVIDIA's libraries in the active Python environment.
fn other_folders(subject: &Subject<'_>) -> Vec<PathBuf> {
    let products = OTHER_FOLDERS.iter().flat_map(|folder| subject.list(folder, ""));
    let products = products.flat_map(|product| ["lib64", "lib"].map(|name| product.join(name)));
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(|name| subject.folder(name));
    let pythons = environments.flat_map(|root| subject.list(root.join("lib"), "python3"));
    let packages = pythons.flat_map(|python| subject.list(python.join("site-packages/nvidia"), ""));
    products.chain(packages.map(|package| package.join("lib"))).collect()
}
