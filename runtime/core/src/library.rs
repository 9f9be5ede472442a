//! Finding and opening ONNX Runtime: loaded, never linked, and only when a graph is to be opened.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::ortsys;
use ort::session::Session;

use crate::{Error, Result, provider};

mod newer;
mod plugin;

use newer::Newer;
pub(crate) use newer::RECORD_ASSIGNMENT;

/// How many nodes of each operator each provider was given: by the provider's name and the operator's.
pub(crate) type Nodes = BTreeMap<(String, String), usize>;

/// ONNX Runtime, opened. There is one in a process, and it stays until the process ends.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    version: String,
    providers: Vec<String>,
    environment: Environment,
    newer: Newer,
    plugins: Mutex<plugin::Loaded>,
}

static OPENED: Mutex<Option<&'static Library>> = Mutex::new(None);

impl Library {
    /// The oldest ONNX Runtime that is accepted, as the minor number of 1.x; newer ones always work.
    pub const OLDEST_MINOR: u32 = ort::sys::ORT_API_VERSION;

    /// The first minor release of 1.x that takes providers as plug-ins.
    pub(crate) const FIRST_WITH_PLUGINS: u32 = 22;

    /// Opens the library, or returns the one that this process has opened already.
    ///
    /// With `explicit`, a file or a folder that holds one, nothing else is tried. Otherwise the first of these
    /// that works: `ORT_DYLIB_PATH` (which, if set, is the only one tried), beside the executable, in its `../lib`
    /// and `../lib/safelight`, the same of the shared object that safelight is part of (where it is part of one), what
    /// this project fetched where the executable is its own build, the per-user data folder,
    /// `onnxruntime` in the active Python environment, the system loader.
    ///
    /// ONNX Runtime's telemetry is switched off first: official builds since 1.29 otherwise write to the user's
    /// cache folder before any setting can stop them.
    ///
    /// # Errors
    /// [`ErrorKind::Library`](crate::ErrorKind::Library) with everything that was tried and why it was refused, and where
    /// another one than `explicit` is open already.
    pub fn open(explicit: Option<&Path>) -> Result<&'static Self> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = *opened {
            return explicit.map_or(Ok(library), |path| library.same_as(path));
        }
        let library = Box::leak(Box::new(open_first(&candidates(explicit, &Surroundings::of_this_process()))?));
        *opened = Some(library);
        Ok(library)
    }

    /// Looks in every place that [`Library::open`] would try, and opens the first that works, or takes the one that
    /// this process has opened already. Unlike `open` it tells of every place, and a library that cannot be used is no
    /// error.
    pub fn search(explicit: Option<&Path>) -> Search {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        switch_telemetry_off();
        let candidates = candidates(explicit, &Surroundings::of_this_process());
        let places = candidates.into_iter().map(|candidate| look(candidate, &mut opened)).collect();
        let found = opened.map(|library| Found {
            path: library.path.clone(),
            version: library.version.clone(),
            providers: library.providers().map(str::to_owned).collect(),
        });
        Search { places, found }
    }

    /// This library, where a path names it and no other.
    fn same_as(&'static self, path: &Path) -> Result<&'static Self> {
        let file = resolve(path).map_err(|refusal| Error::library(format!("{}: {refusal}", path.display())))?;
        let same = file == self.path || file.canonicalize().ok() == self.path.canonicalize().ok();
        if same {
            return Ok(self);
        }
        let (asked, own) = (file.display(), self.path.display());
        Err(Error::library(format!("{asked}: a process has one ONNX Runtime, and has opened {own} already; name that")))
    }

    /// Where it was found; a bare file name means the system loader found it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, such as `1.31.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Execution providers compiled into it, by the names that targets use where they have one.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        self.providers.iter().map(|name| provider::short_name(name))
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    pub(crate) fn newer(&self) -> Newer {
        self.newer
    }

    /// Where the nodes of a graph went, whose session was opened with [`RECORD_ASSIGNMENT`]; nothing where the library
    /// does not tell (before 1.24).
    pub(crate) fn assigned(&self, session: &Session) -> Result<Option<Nodes>> {
        if !self.newer.has_assignment() {
            return Ok(None);
        }
        let mut nodes = Nodes::new();
        self.newer.assigned(session, &mut |provider, operator| {
            *nodes.entry((provider::short_name(provider).to_owned(), operator)).or_default() += 1;
        })?;
        Ok(Some(nodes))
    }
}

/// What a search for the library came upon, as plain facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// Every place, in the order in which they are tried.
    pub places: Vec<Place>,
    /// The library that is used; nothing where none could be opened.
    pub found: Option<Found>,
}

/// The library that a search opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is; a bare file name means the system loader found it.
    pub path: PathBuf,
    /// Its version, such as `1.31.1`.
    pub version: String,
    /// Execution providers compiled into it, by the names that targets use where they have one.
    pub providers: Vec<String>,
}

/// A place that was looked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Why it was looked in, such as [`Place::VARIABLE`] or `the system loader`.
    pub why: &'static str,
    /// The library's file where there is one, else the place.
    pub path: PathBuf,
    /// What was found there.
    pub outcome: Outcome,
}

/// What was found in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The library that is used.
    Opened,
    /// A file that cannot be used, and why.
    Refused(String),
    /// No file, and why.
    Absent(String),
    /// A file that was not tried, because a library was open by then.
    Shadowed,
}

impl Place {
    /// The environment variable that names the library, or its folder: where it is set, nothing else is tried.
    pub const VARIABLE: &'static str = "ORT_DYLIB_PATH";
}

/// Looks in one place, and opens what is there unless a library is open.
fn look(Candidate { why, path }: Candidate, opened: &mut Option<&'static Library>) -> Place {
    let file = match resolve(&path) {
        Ok(file) => file,
        Err(refusal) => return Place { why, path, outcome: Outcome::Absent(refusal.0) },
    };
    let outcome = match *opened {
        Some(library) if library.path == file => Outcome::Opened,
        Some(_) if file.is_absolute() => Outcome::Shadowed,
        Some(_) => Outcome::Absent("was not asked".into()),
        None => match open_file(&file) {
            Ok(library) => {
                *opened = Some(Box::leak(Box::new(library)));
                Outcome::Opened
            }
            Err(refusal) => Outcome::Refused(refusal.0),
        },
    };
    Place { why, path: file, outcome }
}

/// A place to look in, and why.
struct Candidate {
    why: &'static str,
    path: PathBuf,
}

/// What the search depends on, passed in so that tests can choose it.
struct Surroundings {
    variable: Option<OsString>,
    executable: Option<PathBuf>,
    /// The folder of the shared object that this code is part of, where that is not the executable.
    shared_object: Option<PathBuf>,
    user_data: Option<PathBuf>,
    python: Vec<PathBuf>,
}

impl Surroundings {
    fn of_this_process() -> Self {
        let folder = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user_data = if cfg!(target_os = "macos") {
            folder("HOME").map(|home| home.join("Library/Application Support"))
        } else if cfg!(windows) {
            folder("LOCALAPPDATA")
        } else {
            folder("XDG_DATA_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/share")))
        };
        Self {
            variable: env::var_os(Place::VARIABLE).filter(|value| !value.is_empty()),
            shared_object: shared_object(),
            executable: env::current_exe().ok().and_then(|path| Some(path.parent()?.to_path_buf())),
            user_data: user_data.map(|folder| folder.join("safelight")),
            python: ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(folder).collect(),
        }
    }
}

/// The folder of the shared object that this code is part of; nothing where that is the executable.
#[cfg(unix)]
fn shared_object() -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut found = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is that of a function, which lies in whatever this code is part of; `found` is written to.
    let known = unsafe { libc::dladdr(candidates as *const libc::c_void, found.as_mut_ptr()) };
    // SAFETY: all zeros is a value of it, too.
    let name = unsafe { found.assume_init() }.dli_fname;
    if known == 0 || name.is_null() {
        return None;
    }
    // SAFETY: the loader's names are NUL-terminated, and stay for as long as this code does.
    let path = Path::new(std::ffi::OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
    let path = std::path::absolute(path).ok().filter(|_| path.components().count() > 1)?;
    // For the executable the loader tells what it was started as.
    let is_executable = env::current_exe().is_ok_and(|own| path.canonicalize().is_ok_and(|path| path == own));
    path.parent().filter(|_| !is_executable).map(Path::to_path_buf)
}

#[cfg(not(unix))]
fn shared_object() -> Option<PathBuf> {
    None
}

fn candidates(explicit: Option<&Path>, surroundings: &Surroundings) -> Vec<Candidate> {
    if let Some(path) = explicit {
        return vec![Candidate { why: "the path that was given", path: path.to_path_buf() }];
    }
    if let Some(path) = &surroundings.variable {
        return vec![Candidate { why: Place::VARIABLE, path: path.into() }];
    }
    let mut found = Vec::new();
    let mut add = |why, path| found.push(Candidate { why, path });
    if let Some(folder) = &surroundings.executable {
        add("beside the executable", folder.clone());
        add("../lib of the executable", folder.join("../lib"));
        // Packages keep it where no other program on the machine comes upon it.
        add("../lib/safelight of the executable", folder.join("../lib/safelight"));
        // target/release/safelight, run without cargo, finds what ./run has fetched.
        if let Some(project) = folder.parent().filter(|parent| parent.ends_with("target")).and_then(Path::parent) {
            add("fetched by ./run", project.join(".onnxruntime/host"));
        }
    }
    if let Some(folder) = &surroundings.shared_object {
        add("beside the library safelight", folder.clone());
        add("../lib of the library safelight", folder.join("../lib"));
        // With its name: an application's folder may have the command beside the library.
        add("safelight/ beside the library safelight", folder.join("safelight").join(file_name()));
    }
    if let Some(folder) = &surroundings.user_data {
        add("the user's data folder", folder.clone());
    }
    for root in &surroundings.python {
        for folder in python_packages(root) {
            add("the active Python environment", folder.join("onnxruntime/capi"));
        }
    }
    add("the system loader", PathBuf::from(file_name()));
    found
}

/// `lib/python3.*/site-packages` of a Python environment (`Lib/site-packages` on Windows).
fn python_packages(root: &Path) -> Vec<PathBuf> {
    if cfg!(windows) {
        return vec![root.join("Lib/site-packages")];
    }
    let entries = std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
    let pythons = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"));
    pythons.map(|entry| entry.path().join("site-packages")).collect()
}

fn file_name() -> String {
    format!("{}onnxruntime{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX)
}

/// Why a candidate was not taken.
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn switch_telemetry_off() {
    const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
    if env::var_os(VARIABLE).is_some_and(|value| value == "1") {
        return;
    }
    // SAFETY: the variable must be set before the library is loaded, because official builds start their
    // telemetry in a static initialiser. The callers hold a lock, so safelight itself never races here; an
    // embedder that changes or reads the environment from other threads at this very moment must open the library
    // first, or set the variable itself.
    unsafe { env::set_var(VARIABLE, "1") };
}

fn open_first(candidates: &[Candidate]) -> Result<Library> {
    switch_telemetry_off();
    let mut tried = String::new();
    for candidate in candidates {
        match resolve(&candidate.path).and_then(|path| open_file(&path)) {
            Ok(library) => return Ok(library),
            Err(refusal) => {
                tried += &format!("\n  {} ({}): {refusal}", candidate.path.display(), candidate.why);
            }
        }
    }
    Err(Error::library(format!(
        "no usable ONNX Runtime library (1.{} or newer) was found; tried:{tried}\n\
         in safelight's own folder, ./run fetches it; elsewhere, point ORT_DYLIB_PATH to {} or to a folder that \
         holds it (the Python package \"onnxruntime\" ships one in onnxruntime/capi)",
        Library::OLDEST_MINOR,
        file_name(),
    )))
}

/// A folder becomes the newest library file in it; a file or a bare name stays what it is.
fn resolve(path: &Path) -> Result<PathBuf, Refusal> {
    if path.components().count() == 1 && !path.exists() {
        return Ok(path.to_path_buf());
    }
    let found = std::fs::metadata(path).map_err(|e| Refusal(format!("cannot be read: {e}")))?;
    if found.is_file() {
        return std::path::absolute(path).map_err(|e| Refusal(e.to_string()));
    }
    let entries = std::fs::read_dir(path).map_err(|e| Refusal(format!("cannot be listed: {e}")))?;
    let is_library = |name: &str| match env::consts::OS {
        "windows" => name == "onnxruntime.dll",
        "macos" => name.starts_with("libonnxruntime") && name.ends_with(".dylib") && !name.contains("_providers"),
        _ => name == "libonnxruntime.so" || name.starts_with("libonnxruntime.so."),
    };
    let files = entries.flatten().map(|entry| entry.path());
    let libraries = files.filter(|file| file.file_name().is_some_and(|name| is_library(&name.to_string_lossy())));
    let newest = libraries.max().ok_or_else(|| Refusal(format!("holds no {}", file_name())))?;
    std::path::absolute(newest).map_err(|e| Refusal(e.to_string()))
}

fn open_file(path: &Path) -> Result<Library, Refusal> {
    let (version, newer) = probe(path)?;
    let ort_refusal = |e: &dyn fmt::Display| Refusal(format!("did not start: {e}"));
    let environment = ort::init_from(path)
        .map_err(|e| ort_refusal(&e))?
        .with_name("safelight")
        .with_telemetry(false)
        .build()
        .map_err(|e| ort_refusal(&e))?;
    let providers = available_providers().map_err(|e| ort_refusal(&e))?;
    Ok(Library { path: path.to_path_buf(), version, providers, environment, newer, plugins: Mutex::default() })
}

/// Asks a file for its version and for the API that safelight was built for, before `ort` sees it: `ort` would
/// panic where either is missing.
fn probe(path: &Path) -> Result<(String, Newer), Refusal> {
    // A bare name is the system loader's to find, so a file that cannot be read here is no fault yet.
    if is_cut_short(path).unwrap_or(false) {
        return Err(Refusal("is cut short: its end is missing; fetch or copy it again".into()));
    }
    // SAFETY: opening a library runs its initialisers. The path comes from the user or from the places where
    // ONNX Runtime is installed, which is the trust that loading a library means.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| Refusal(loader_message(&e)))?;
    // SAFETY: `OrtGetApiBase` has had this signature since the first release of ONNX Runtime.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase") }
        .map_err(|_| Refusal("is not ONNX Runtime: it has no OrtGetApiBase".into()))?;
    // SAFETY: the function takes nothing and returns a pointer to a static table, or null.
    let base = unsafe { base().as_ref() }.ok_or_else(|| Refusal("returned no API".into()))?;
    // SAFETY: the function takes nothing and returns a static string, or null.
    let version = unsafe { (base.GetVersionString)() };
    if version.is_null() {
        return Err(Refusal("told no version".into()));
    }
    // SAFETY: it is not null, and static strings of C are NUL-terminated.
    let version = unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned();
    let oldest = Library::OLDEST_MINOR;
    let minor = match version_number(&version) {
        Some((1, minor)) if minor >= oldest => minor,
        _ => return Err(Refusal(format!("is ONNX Runtime {version}, expected 1.{oldest} or newer"))),
    };
    // SAFETY: asking for a version of the API returns a static table, or null where it is not offered.
    if unsafe { (base.GetApi)(oldest) }.is_null() {
        return Err(Refusal(format!("is ONNX Runtime {version}, which does not offer API {oldest} any more")));
    }
    // Kept open: unloading it only for `ort` to load it again would take as long as loading it.
    std::mem::forget(library);
    // SAFETY: it is what OrtGetApiBase returned, and offers the API.
    Ok((version, unsafe { Newer::of(base, minor) }))
}

/// Whether a 64-bit ELF file ends before the segments that its header lists, as after an interrupted copy. The
/// loader maps such a file without complaint, and the process dies of SIGBUS when it touches what is missing.
fn is_cut_short(path: &Path) -> std::io::Result<bool> {
    const ELF_64_LITTLE_ENDIAN: &[u8] = b"\x7fELF\x02\x01";
    const HEADER_BYTES: usize = 64;
    const SEGMENT_BYTES: usize = 56;
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    // Linkers write the list of segments right behind the header.
    let mut head = Vec::new();
    file.take(4096).read_to_end(&mut head)?;
    if head.len() < HEADER_BYTES || !head.starts_with(ELF_64_LITTLE_ENDIAN) {
        return Ok(false);
    }
    let u64_at = |bytes: &[u8], at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let first = usize::try_from(u64_at(&head, 32)).unwrap_or(usize::MAX);
    let count = u16::from_le_bytes([head[56], head[57]]);
    let mut segments = head.get(first..).unwrap_or_default().chunks_exact(SEGMENT_BYTES).take(count.into());
    let end = |segment: &[u8]| u64_at(segment, 8).saturating_add(u64_at(segment, 32));
    Ok(segments.any(|segment| end(segment) > length))
}

fn version_number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The dynamic loader's own words, which `libloading` keeps in the source of its error.
fn loader_message(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("cannot be loaded: {source}"),
        None => format!("cannot be loaded: {error}"),
    }
}

fn available_providers() -> ort::Result<Vec<String>> {
    let (mut names, mut count) = (std::ptr::null_mut(), 0);
    // SAFETY: both are out parameters; on success `names` holds `count` strings until it is released below.
    ortsys![unsafe GetAvailableProviders(&mut names, &mut count)?];
    let read = |i: usize| {
        // SAFETY: `i < count`, and each string is NUL-terminated.
        unsafe { CStr::from_ptr(*names.add(i)) }.to_string_lossy().into_owned()
    };
    let providers = (0..usize::try_from(count).unwrap_or(0)).map(read).collect();
    // SAFETY: exactly what GetAvailableProviders gave, released once.
    ortsys![unsafe ReleaseAvailableProviders(names, count)?];
    Ok(providers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_of_the_project_finds_what_the_project_fetched() {
        let built = Surroundings { executable: Some("/src/safelight/target/release".into()), ..surroundings() };
        let found = candidates(None, &built);
        let fetched = found.iter().find(|candidate| candidate.why == "fetched by ./run").unwrap();
        assert_eq!(fetched.path, Path::new("/src/safelight/.onnxruntime/host"));
        assert!(!places(None, &surroundings()).contains(&"fetched by ./run"));
    }

    fn surroundings() -> Surroundings {
        Surroundings {
            variable: None,
            executable: Some("/app/bin".into()),
            shared_object: None,
            user_data: Some("/data".into()),
            python: vec![],
        }
    }

    fn places(explicit: Option<&str>, surroundings: &Surroundings) -> Vec<&'static str> {
        candidates(explicit.map(Path::new), surroundings).iter().map(|candidate| candidate.why).collect()
    }

    #[test]
    fn a_path_that_was_named_is_the_only_one_tried() {
        let named = Surroundings { variable: Some("/opt/ort".into()), ..surroundings() };
        assert_eq!(places(Some("/x.so"), &named), ["the path that was given"]);
        assert_eq!(places(None, &named), ["ORT_DYLIB_PATH"]);
    }

    #[test]
    fn otherwise_the_nearest_place_comes_first() {
        let python = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(python.path().join("lib/python3.11/site-packages")).unwrap();
        let shared_object = Some("/opt/safelight/lib".into());
        let around = Surroundings { python: vec![python.path().into()], shared_object, ..surroundings() };
        assert_eq!(
            places(None, &around),
            [
                "beside the executable",
                "../lib of the executable",
                "../lib/safelight of the executable",
                "beside the library safelight",
                "../lib of the library safelight",
                "safelight/ beside the library safelight",
                "the user's data folder",
                "the active Python environment",
                "the system loader"
            ]
        );
    }

    #[test]
    fn every_refusal_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("libonnxruntime.so");
        std::fs::write(&text, "not a library").unwrap();
        let empty = folder.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        let candidates = [text, empty, folder.path().join("absent")].map(|path| Candidate { why: "test", path });
        let error = open_first(&candidates).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Library);
        let message = error.to_string();
        for expected in ["cannot be loaded", "holds no", "cannot be read", "ORT_DYLIB_PATH"] {
            assert!(message.contains(expected), "{expected}: {message}");
        }
    }
}
