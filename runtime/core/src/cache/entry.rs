//! One entry: a folder with what was made of a graph, and a `cache.json` that tells what it is and what belongs to it.
//!
//! The manifest is written last, whole or not at all: a folder without it is unfinished. Files that the manifest does not
//! list were written by a process that did not come to its end, and are not used.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::key::{FORMAT, Key};
use super::lock::Lock;
use super::room;
use super::{Cached, Outcome};
use crate::bounded::{self, Unread};
use crate::library::Nodes;
use crate::picture::save;
use crate::{Error, ErrorKind, Result, hash};

pub(crate) const MANIFEST: &str = "cache.json";
/// Largest manifest that is read: about 5,000 files.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// How [`save`] names files that are not finished yet.
const TEMPORARY: &str = ".safelight-";
/// Deepest folder of an entry; compiled models of Core ML have three.
const MAX_DEPTH: usize = 16;
/// How long others may look at an entry that cannot be used before it is left alone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why an entry was built that was there.
const REBUILT: &str = "the provider did not use what was kept, and built it again";

/// What an entry says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    format: String,
    pub(crate) key: Key,
    /// Name of the target that it was built for.
    pub(crate) target: String,
    /// Version of safelight that built it.
    safelight: String,
    /// When, in seconds since 1970.
    built_s: u64,
    /// How long opening the graph took.
    build_ms: f64,
    /// Provider, operator and number of the nodes of the graph that it was built from; what was made of these has other
    /// nodes. Empty where the library does not tell.
    #[serde(default)]
    nodes: Vec<(String, String, usize)>,
    files: Vec<KeptFile>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptFile {
    /// Path inside the entry, with `/` between folders.
    name: String,
    bytes: u64,
    sha256: String,
}

/// What is told of an entry when it is built.
pub(crate) struct About<'a> {
    /// Name of the target that it is for.
    pub(crate) target: &'a str,
    /// Where the graph's nodes went, where the library tells.
    pub(crate) nodes: Option<&'a Nodes>,
    /// When opening the graph began.
    pub(crate) since: Instant,
    /// Why it was not there.
    pub(crate) why: String,
}

/// Why an entry cannot be used.
#[derive(Debug, PartialEq)]
pub(crate) enum Fault {
    /// There is none.
    Absent,
    /// Whoever built it did not come to the end.
    Unfinished,
    /// It is not what its manifest says, or that cannot be read.
    Damaged(String),
}

/// What may be done with an entry.
pub(crate) enum Access {
    /// Use it, once all of it was found as it was written.
    Ready(Lock, Checked),
    /// Build it; why it is not there, and whether that is worth a warning.
    Build { lock: Lock, why: String, is_damaged: bool },
    /// Neither; why.
    Refused(String),
}

/// A manifest, and the files that it lists, as they were when their hashes were compared.
pub(crate) struct Checked {
    pub(crate) manifest: Manifest,
    stamps: Stamps,
}

/// Length and time of a file, which tell cheaply whether it was written to.
type Stamps = BTreeMap<String, (u64, Option<SystemTime>)>;

/// A folder for one key.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    cache: PathBuf,
    /// Bytes that all entries of the cache take together.
    max_bytes: u64,
    folder: PathBuf,
    lock: PathBuf,
    key: Key,
}

impl Entry {
    /// The entry of a key in the folder `cache`, whose entries take at most `max_bytes` together.
    pub(crate) fn new(cache: &Path, max_bytes: u64, key: Key) -> Self {
        let name = key.name();
        Self { cache: cache.to_path_buf(), max_bytes, folder: cache.join(&name), lock: lock_file(cache, &name), key }
    }

    /// The folder of all entries.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The entry under a shared lock, and whether it can be used; calls `waiting` where another process builds it.
    /// Writes nothing where the entry is not there.
    pub(crate) fn look(&self, waiting: &dyn Fn()) -> io::Result<(Option<Lock>, Result<Checked, Fault>)> {
        if !self.folder.exists() {
            return Ok((None, Err(Fault::Absent)));
        }
        let lock = Lock::shared(&self.lock, waiting)?;
        let found = self.check();
        Ok((Some(lock), found))
    }

    /// The entry to use, or the right to build it; calls `waiting` where another process builds it.
    pub(crate) fn access(&self, waiting: &dyn Fn()) -> Access {
        let refused = |what: &str, e: io::Error| {
            let cache = self.cache.display();
            Access::Refused(format!("cache {cache}: {what}: {e}; nothing is kept: give a folder that can be written"))
        };
        if let Err(e) = fs::create_dir_all(&self.cache) {
            return refused("cannot be made", e);
        }
        let since = Instant::now();
        loop {
            match Lock::shared(&self.lock, waiting).map(|lock| (lock, self.check())) {
                Ok((lock, Ok(checked))) => return Access::Ready(lock, checked),
                // The lock ends here, so that somebody can have the exclusive one.
                Ok((_, Err(_))) => (),
                Err(e) => return refused("cannot be locked", e),
            }
            match Lock::exclusive(&self.lock) {
                // Another process may have built it in the meantime.
                Ok(Some(lock)) => match self.check() {
                    Ok(_) => continue,
                    Err(fault) => {
                        let is_damaged = matches!(fault, Fault::Damaged(_));
                        return Access::Build { lock, why: self.reason(fault), is_damaged };
                    }
                },
                Ok(None) if since.elapsed() > PATIENCE => {
                    let what = "cannot be used, but another process uses it, so that it cannot be built again";
                    return Access::Refused(format!("cache entry {}: {what}; it is left alone", self.folder.display()));
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(50)),
                Err(e) => return refused("cannot be written", e),
            }
        }
    }

    /// Why an entry cannot be used, for people: for one that is not there, what has changed since the nearest was built.
    pub(crate) fn reason(&self, fault: Fault) -> String {
        match fault {
            Fault::Unfinished => "its building was interrupted".into(),
            Fault::Damaged(what) => what,
            Fault::Absent => {
                let others = room::holdings(&self.cache).into_iter().filter_map(|holding| holding.key);
                let others = others.filter(|key| key.is_of_the_graph_of(&self.key) && *key != self.key);
                let differences = others.map(|key| self.key.differences(&key));
                match differences.min_by_key(Vec::len) {
                    Some(differences) => differences.join("; "),
                    None => "it was never built".into(),
                }
            }
        }
    }

    /// Whether all is there, as it was written.
    fn check(&self) -> Result<Checked, Fault> {
        let damaged = |what: String| Fault::Damaged(format!("{}: {what}", self.folder.display()));
        let Some(manifest) = read_manifest(&self.folder).map_err(damaged)? else {
            return Err(if self.folder.exists() { Fault::Unfinished } else { Fault::Absent });
        };
        if manifest.format != FORMAT || manifest.key != self.key {
            return Err(damaged(format!("{MANIFEST} is that of another entry")));
        }
        let mut found = stamps(&self.folder).map_err(|e| damaged(e.to_string()))?;
        for KeptFile { name, bytes, sha256 } in &manifest.files {
            if !is_plain(name) {
                return Err(damaged(format!("{MANIFEST} lists {name:?}, which is no plain path inside the entry")));
            }
            match found.get(name) {
                None => return Err(damaged(format!("{name} is missing"))),
                Some((length, _)) if length != bytes => {
                    return Err(damaged(format!("{name} has {length} bytes, {bytes} were written")));
                }
                Some(_) => (),
            }
            let hash =
                hash::of_file(&self.folder.join(name)).map_err(|e| damaged(format!("{name} cannot be read: {e}")))?;
            if hash != *sha256 {
                return Err(damaged(format!("{name} is not what was written: its sha256 differs")));
            }
        }
        let is_listed = |name: &String| manifest.files.iter().any(|file| file.name == *name);
        for name in found.keys().filter(|name| !is_listed(name)) {
            fs::remove_file(self.folder.join(name))
                .map_err(|e| damaged(format!("{name} was never finished and cannot be removed: {e}")))?;
        }
        found.retain(|name, _| is_listed(name));
        Ok(Checked { manifest, stamps: found })
    }

    /// An empty folder, for building; the caller holds the exclusive lock.
    pub(crate) fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => (),
        }
        fs::create_dir(&self.folder)
    }

    /// Removes the entry; the caller gives the exclusive lock.
    pub(crate) fn remove(&self, lock: Lock) {
        // In this order: what is left of it is never taken for a whole one.
        let _ = fs::remove_file(self.folder.join(MANIFEST));
        let _ = fs::remove_dir_all(&self.folder);
        lock.remove(&self.lock);
    }

    /// Removes an entry that turned out not to be usable, unless another process uses it.
    pub(crate) fn discard(&self) -> bool {
        let lock = Lock::exclusive(&self.lock).ok().flatten();
        lock.map(|lock| self.remove(lock)).is_some()
    }

    /// Writes down what was built; the exclusive lock becomes a shared one.
    pub(crate) fn seal(&self, lock: Lock, about: About) -> Result<Kept> {
        let About { target, nodes, since, why } = about;
        let nodes = nodes.into_iter().flatten();
        let nodes = nodes.map(|((provider, operator), count)| (provider.clone(), operator.clone(), *count)).collect();
        let built_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let manifest = Manifest {
            format: FORMAT.into(),
            key: self.key.clone(),
            target: target.into(),
            safelight: env!("CARGO_PKG_VERSION").into(),
            built_s,
            build_ms: milliseconds(since),
            nodes,
            files: Vec::new(),
        };
        let cached = Cached { outcome: Outcome::Built, why: Some(why), ms: 0.0, bytes: 0 };
        let stamps = Stamps::new();
        let mut kept = Kept { entry: self.clone(), lock: None, manifest, stamps, cached };
        kept.write()?;
        kept.cached.ms = milliseconds(since);
        drop(lock);
        kept.lock = Some(Lock::shared(&self.lock, &|| ()).map_err(|e| self.fault("locked", e))?);
        Ok(kept)
    }

    /// An entry that is used as it is.
    pub(crate) fn reuse(&self, lock: Lock, checked: Checked, since: Instant) -> Result<Kept> {
        let Checked { manifest, stamps } = checked;
        let bytes = manifest.files.iter().map(|file| file.bytes).sum();
        let cached = Cached { outcome: Outcome::Hit, why: None, ms: 0.0, bytes };
        let mut kept = Kept { entry: self.clone(), lock: Some(lock), manifest, stamps, cached };
        // The least recently used make room; a folder that is read-only needs none.
        let touched = File::options().write(true).open(self.folder.join(MANIFEST));
        let _ = touched.and_then(|file| file.set_modified(SystemTime::now()));
        if kept.is_changed() {
            // The provider found what was there, and made something of its own all the same.
            (kept.cached.outcome, kept.cached.why) = (Outcome::Built, Some(REBUILT.into()));
            kept.write()?;
        }
        kept.cached.ms = milliseconds(since);
        Ok(kept)
    }

    fn fault(&self, what: &str, error: io::Error) -> Error {
        Error::new(ErrorKind::Io, format!("cache entry {}: cannot be {what}: {error}", self.folder.display()))
            .because(error)
    }
}

/// An entry in use: while this lives, no process removes it.
pub(crate) struct Kept {
    entry: Entry,
    lock: Option<Lock>,
    manifest: Manifest,
    stamps: Stamps,
    pub(crate) cached: Cached,
}

impl Kept {
    /// Where the nodes of the graph went when it was built, if the library told.
    pub(crate) fn nodes(&self) -> Option<Nodes> {
        let nodes = self.manifest.nodes.iter();
        let nodes: Nodes = nodes.map(|(provider, node, count)| ((provider.clone(), node.clone()), *count)).collect();
        (!nodes.is_empty()).then_some(nodes)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.entry.folder
    }

    /// Makes room for what was built; tells where that does not suffice.
    pub(crate) fn make_room(&self) -> Option<String> {
        let Self { entry, manifest, cached, .. } = self;
        room::make_room(entry, &manifest.target, entry.max_bytes, cached.bytes)
    }

    /// That a provider has no use for what it keeps, for people.
    pub(crate) fn complaint(&self) -> Option<String> {
        let is_unused = self.cached.why.as_deref() == Some(REBUILT);
        is_unused.then(|| {
            format!(
                "cache entry {}: {REBUILT}; its library may not be able to read it back",
                self.entry.folder.display()
            )
        })
    }

    /// Writes down what providers have written since, because some build when they first run, or when a shape is new.
    /// Tells where it cannot be written, so that the entry counts as unfinished, or where there is no room for it.
    pub(crate) fn settle(&mut self) -> Option<String> {
        if !self.is_changed() {
            return None;
        }
        match self.write() {
            Ok(()) => self.make_room(),
            Err(e) => Some(format!("{e}; it will be built again")),
        }
    }

    fn is_changed(&self) -> bool {
        stamps(&self.entry.folder).map_or(true, |found| found != self.stamps)
    }

    /// The manifest of what is there now; files that were not written to keep their hashes.
    fn write(&mut self) -> Result<()> {
        let folder = &self.entry.folder;
        let unwritable = |e| self.entry.fault("written down", e);
        let found = stamps(folder).map_err(unwritable)?;
        let known: BTreeMap<_, _> = self.manifest.files.drain(..).map(|file| (file.name, file.sha256)).collect();
        let mut files = Vec::with_capacity(found.len());
        for (name, stamp) in &found {
            let same = self.stamps.get(name) == Some(stamp);
            let sha256 = match known.get(name).filter(|_| same) {
                Some(sha256) => sha256.clone(),
                None => hash::of_file(&folder.join(name)).map_err(unwritable)?,
            };
            files.push(KeptFile { name: name.clone(), bytes: stamp.0, sha256 });
        }
        self.cached.bytes = files.iter().map(|file| file.bytes).sum();
        (self.manifest.files, self.stamps) = (files, found);
        let text = serde_json::to_string_pretty(&self.manifest)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("{MANIFEST}: {e}")))?;
        let path = folder.join(MANIFEST);
        save(&path, text.as_bytes()).inspect_err(|_| drop(fs::remove_file(&path)))
    }
}

/// The lock file of an entry.
pub(super) fn lock_file(cache: &Path, name: &str) -> PathBuf {
    cache.join(format!("{name}.lock"))
}

/// The manifest of an entry's folder; nothing where it has none.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn read_manifest(folder: &Path) -> Result<Option<Manifest>, String> {
    match bounded::read(&folder.join(MANIFEST), MAX_MANIFEST_BYTES) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| format!("{MANIFEST} is damaged: {e}")),
        Err(Unread::Failed(e)) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{MANIFEST} {e}")),
    }
}

/// Every file of an entry but its manifest.
fn stamps(folder: &Path) -> io::Result<Stamps> {
    fn list(folder: &Path, prefix: &str, depth: usize, found: &mut Stamps) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let is_ours = name == MANIFEST || name.starts_with(TEMPORARY);
            let kind = entry.file_type()?;
            if kind.is_dir() && depth < MAX_DEPTH {
                list(&entry.path(), &format!("{name}/"), depth + 1, found)?;
            } else if kind.is_file() && !is_ours {
                let meta = entry.metadata()?;
                found.insert(name, (meta.len(), meta.modified().ok()));
            } else if !is_ours {
                return Err(io::Error::other(format!("{name} is neither a file nor a folder")));
            }
        }
        Ok(())
    }
    let mut found = Stamps::new();
    list(folder, "", 0, &mut found)?;
    Ok(found)
}

/// Whether a name stays inside the entry.
fn is_plain(name: &str) -> bool {
    let parts = || Path::new(name).components();
    !name.contains('\\') && parts().next().is_some() && parts().all(|part| matches!(part, Component::Normal(_)))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::key::tests::key;
    use super::*;

    fn about(why: &str) -> About<'static> {
        About { target: "t", nodes: None, since: Instant::now(), why: why.into() }
    }

    /// An entry with these files, built.
    fn build(cache: &Path, change: &str, files: &[(&str, &str)]) -> (Entry, Kept) {
        let entry = Entry::new(cache, u64::MAX, key(change));
        let Access::Build { lock, .. } = entry.access(&|| ()) else { panic!("{change} is there") };
        entry.clear().unwrap();
        for (name, content) in files {
            let path = entry.folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let kept = entry.seal(lock, about("it was never built")).unwrap();
        (entry, kept)
    }

    /// Spoils the entry in a folder.
    type Damage = fn(&Path);

    const FILES: &[(&str, &str)] = &[("engine", "0123456789"), ("model.mlmodelc/weights/w.bin", "abc")];

    fn fault(entry: &Entry) -> Fault {
        entry.look(&|| ()).unwrap().1.err().unwrap()
    }

    #[test]
    fn what_was_built_is_found_again() {
        let cache = tempfile::tempdir().unwrap();
        let entry = Entry::new(&cache.path().join("new"), u64::MAX, key(""));
        assert_eq!(fault(&entry), Fault::Absent);
        let (entry, kept) = build(cache.path(), "", FILES);
        assert_eq!((kept.cached.outcome, kept.cached.bytes), (Outcome::Built, 13));
        drop(kept);
        let Access::Ready(lock, checked) = entry.access(&|| ()) else { panic!("is not there") };
        assert_eq!(checked.manifest.target, "t");
        let kept = entry.reuse(lock, checked, Instant::now()).unwrap();
        assert_eq!((kept.cached.outcome, kept.cached.bytes), (Outcome::Hit, 13));
        // A provider that refuses what it finds, and makes its own, is told.
        let Access::Ready(lock, checked) = entry.access(&|| ()) else { panic!("is not there") };
        fs::write(entry.folder.join("engine"), "9876543210-").unwrap();
        let kept = entry.reuse(lock, checked, Instant::now()).unwrap();
        assert_eq!((kept.cached.outcome, kept.cached.bytes), (Outcome::Built, 14));
        drop(kept);
        assert!(entry.look(&|| ()).unwrap().1.is_ok());
    }

    #[test]
    fn whatever_differs_from_the_manifest_is_told_and_may_be_built_again() {
        let damages: [(&str, Damage); 8] = [
            ("engine has 3 bytes, 10 were written", |at| fs::write(at.join("engine"), "012").unwrap()),
            ("engine is not what was written", |at| fs::write(at.join("engine"), "0123456780").unwrap()),
            ("w.bin is missing", |at| fs::remove_dir_all(at.join("model.mlmodelc")).unwrap()),
            ("cache.json is damaged", |at| fs::write(at.join(MANIFEST), "{").unwrap()),
            ("cache.json is damaged", |at| fs::write(at.join(MANIFEST), "").unwrap()),
            ("is longer than 1048576 bytes", |at| {
                fs::write(at.join(MANIFEST), vec![b' '; (MAX_MANIFEST_BYTES + 1) as usize]).unwrap();
            }),
            ("lists \"../engine\", which is no plain path", |at| {
                let text = fs::read_to_string(at.join(MANIFEST)).unwrap();
                fs::write(at.join(MANIFEST), text.replace("\"engine\"", "\"../engine\"")).unwrap();
            }),
            ("is that of another entry", |at| {
                let text = fs::read_to_string(at.join(MANIFEST)).unwrap();
                fs::write(at.join(MANIFEST), text.replace("1.31.1", "1.31.2")).unwrap();
            }),
        ];
        for (expected, damage) in damages {
            let cache = tempfile::tempdir().unwrap();
            let (entry, kept) = build(cache.path(), "", FILES);
            drop(kept);
            damage(&entry.folder);
            let Access::Build { why, is_damaged, lock } = entry.access(&|| ()) else { panic!("{expected}") };
            assert!(is_damaged && why.contains(expected), "{expected:?}: {why}");
            entry.clear().unwrap();
            let rebuilt = entry.seal(lock, about(&why)).unwrap();
            assert_eq!(rebuilt.cached.bytes, 0);
        }
    }

    #[test]
    fn where_nodes_went_is_remembered() {
        let cache = tempfile::tempdir().unwrap();
        let entry = Entry::new(cache.path(), u64::MAX, key(""));
        let Access::Build { lock, .. } = entry.access(&|| ()) else { panic!("is there") };
        entry.clear().unwrap();
        let nodes = Nodes::from([(("qnn".into(), "Conv".into()), 40), (("cpu".into(), "Resize".into()), 2)]);
        drop(entry.seal(lock, About { nodes: Some(&nodes), ..about("") }).unwrap());
        let Access::Ready(lock, checked) = entry.access(&|| ()) else { panic!("is not there") };
        assert_eq!(entry.reuse(lock, checked, Instant::now()).unwrap().nodes(), Some(nodes));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_an_entry_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        let (entry, kept) = build(cache.path(), "", FILES);
        drop(kept);
        fs::remove_file(entry.folder.join("engine")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", entry.folder.join("engine")).unwrap();
        assert!(
            matches!(fault(&entry), Fault::Damaged(what) if what.contains("engine is neither a file nor a folder"))
        );
    }

    #[test]
    fn an_entry_without_a_manifest_is_unfinished_and_files_of_nobody_are_removed() {
        let cache = tempfile::tempdir().unwrap();
        let (entry, kept) = build(cache.path(), "", FILES);
        drop(kept);
        fs::write(entry.folder.join("half-written"), "x").unwrap();
        assert!(entry.look(&|| ()).unwrap().1.is_ok());
        assert!(!entry.folder.join("half-written").exists());
        fs::remove_file(entry.folder.join(MANIFEST)).unwrap();
        assert_eq!(fault(&entry), Fault::Unfinished);
        let Access::Build { why, is_damaged, .. } = entry.access(&|| ()) else { panic!() };
        assert!(!is_damaged && why == "its building was interrupted", "{why}");
    }

    #[test]
    fn what_is_written_later_is_written_down() {
        let cache = tempfile::tempdir().unwrap();
        let (entry, mut kept) = build(cache.path(), "", FILES);
        let manifest = fs::read(entry.folder.join(MANIFEST)).unwrap();
        assert_eq!(kept.settle(), None);
        assert_eq!(fs::read(entry.folder.join(MANIFEST)).unwrap(), manifest);
        fs::write(entry.folder.join("second-engine"), "xyz").unwrap();
        fs::write(entry.folder.join("engine"), "changed").unwrap();
        assert_eq!(kept.settle(), None);
        assert_eq!(kept.cached.bytes, 13);
        drop(kept);
        assert_eq!(entry.look(&|| ()).unwrap().1.ok().unwrap().manifest.files.len(), 3);
    }

    #[test]
    fn an_entry_that_another_uses_is_not_built_again() {
        let cache = tempfile::tempdir().unwrap();
        let (entry, kept) = build(cache.path(), "", FILES);
        fs::write(entry.folder.join("engine"), "damaged").unwrap();
        let Access::Refused(why) = entry.access(&|| ()) else { panic!() };
        assert!(why.contains("another process uses it"), "{why}");
        assert!(!entry.discard());
        drop(kept);
        assert!(entry.discard() && !entry.folder.exists());
    }

    #[test]
    fn a_missing_entry_is_told_by_what_has_changed() {
        let cache = tempfile::tempdir().unwrap();
        for change in ["driver", "graph"] {
            build(cache.path(), change, FILES);
        }
        let entry = Entry::new(cache.path(), u64::MAX, key(""));
        assert_eq!(entry.reason(Fault::Absent), "driver: was 550, is 535");
        assert_eq!(Entry::new(cache.path(), u64::MAX, key("stage")).reason(Fault::Absent), "it was never built");
    }

    #[test]
    fn names_that_leave_an_entry_are_not_plain() {
        for name in ["", "..", "../x", "a/../../x", "/x", "./x", "a\\..\\x"] {
            assert!(!is_plain(name) || name == "./x" && cfg!(windows), "{name}");
        }
        assert!(is_plain("a/b.c"));
    }
}
