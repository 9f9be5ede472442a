//! Files of a model folder, which may come from strangers: nothing outside the folder is ever read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;

use crate::onnx::check::check;
use crate::onnx::{self, Activations, Outline};
use crate::{Error, Result, hash};

/// One graph on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphFile {
    /// Where it is; checked to lie inside the model folder.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// The hash that its manifest promises, in lower-case hex; a plain pipeline promises none.
    pub sha256: Option<String>,
    /// Weights that the graph keeps in files of their own.
    pub data: Vec<DataFile>,
}

/// A file that is not a graph: weights that a graph keeps outside its own, golden numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Where it is; checked to lie inside the model folder.
    pub path: PathBuf,
    /// Length in bytes.
    pub bytes: u64,
    /// The hash that the manifest promises, in lower-case hex.
    pub sha256: Option<String>,
}

impl DataFile {
    /// Reads the file where a hash is promised, and compares.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where it cannot be read or its hash differs.
    pub fn verify(&self) -> Result<()> {
        // What nobody vouches for may be gigabytes of hashing for nothing.
        match &self.sha256 {
            Some(promised) => compare(&self.path, hash_of_file(&self.path)?, Some(promised)).map(drop),
            None => Ok(()),
        }
    }

    /// Its SHA-256 in lower-case hex: the promised one where there is one.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where it has to be read and cannot be.
    pub(crate) fn sha256(&self) -> Result<String> {
        match &self.sha256 {
            Some(promised) => Ok(promised.clone()),
            None => hash_of_file(&self.path),
        }
    }

    /// The file's bytes, once their number and hash are what the manifest promises.
    ///
    /// # Errors
    /// As [`DataFile::verify`].
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(&self.path)
            .and_then(|file| file.take(self.bytes + 1).read_to_end(&mut bytes))
            .map_err(|e| unreadable(&self.path, &e).because(e))?;
        check_hash(&self.path, &bytes, self.sha256.as_deref())?;
        Ok(bytes)
    }
}

/// What tells whether a file that ONNX Runtime has mapped was written to. One that was replaced by another of its name is
/// still what it was for whoever has it open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    path: PathBuf,
    file: (u64, u64),
    bytes: u64,
    modified: Option<std::time::SystemTime>,
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let meta = path.metadata().ok()?;
        let (file, bytes, modified) = (file_number(&meta)?, meta.len(), meta.modified().ok());
        Some(Self { path: path.to_path_buf(), file, bytes, modified })
    }

    /// Whether the name leads to the same file, and nobody wrote to it since.
    fn is_now(&self) -> bool {
        Self::of(&self.path).as_ref() == Some(self)
    }

    /// Refuses to go on with a file that was cut short, which would end this process, or overwritten, which would change
    /// what the graph computes without a word.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model).
    pub(crate) fn check(&self) -> Result<()> {
        match Self::of(&self.path) {
            Some(now) if now.file == self.file && now != *self => Err(Error::model(format!(
                "{}: was written to while it was open (it had {} bytes, and has {}): its graph would compute nonsense, or \
                 end this process; open the model again, and replace models as whole folders, or files by renaming",
                self.path.display(),
                self.bytes,
                now.bytes
            ))),
            _ => Ok(()),
        }
    }
}

/// Which file it is, whatever its name; nothing where the system does not let go of mapped files in the first place.
#[cfg(unix)]
fn file_number(meta: &std::fs::Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    Some((meta.dev(), meta.ino()))
}

#[cfg(not(unix))]
fn file_number(_: &std::fs::Metadata) -> Option<(u64, u64)> {
    None
}

/// A graph on disk, and what tells whether it still is the one whose hash was compared.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    pub(crate) file: GraphFile,
    /// SHA-256 of the graph's own file.
    pub(crate) sha256: String,
    /// Of all its files, from before they were read.
    stamps: Vec<Stamp>,
}

impl Verified {
    /// Compares a graph's hash, and reads its outline.
    pub(crate) fn inspect(file: &GraphFile) -> Result<(Self, Outline)> {
        let paths = std::iter::once(&file.path).chain(file.data.iter().map(|data| &data.path));
        let stamps = paths.filter_map(|path| Stamp::of(path)).collect();
        let (sha256, outline) = file.inspect()?;
        Ok((Self { file: file.clone(), sha256, stamps }, outline))
    }

    /// A graph whose hash is only promised, or that somebody else has verified.
    pub(crate) fn unread(file: GraphFile, sha256: String) -> Self {
        Self { file, sha256, stamps: Vec::new() }
    }

    /// Refuses a graph that was written to or replaced since: the picture would be another model's, or of half of each.
    /// A file that was only touched or copied anew has the hash that is known, and passes.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) naming the file.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let is_known = |stamp: &&Stamp| {
            let data = self.file.data.iter().find(|data| data.path == stamp.path);
            let known = if stamp.path == self.file.path {
                Some(&self.sha256)
            } else {
                data.and_then(|data| data.sha256.as_ref())
            };
            known.is_some_and(|known| hash::of_file(&stamp.path).is_ok_and(|found| found == *known))
        };
        match self.stamps.iter().find(|stamp| !stamp.is_now() && !is_known(stamp)) {
            None => Ok(()),
            Some(changed) => Err(Error::model(format!(
                "{}: changed since the model was opened; open the model again, and replace models as whole folders while \
                 nothing runs them",
                changed.path.display()
            ))),
        }
    }
}

impl GraphFile {
    /// What its weights outside are now, which ONNX Runtime maps.
    pub(crate) fn stamps(&self) -> Vec<Stamp> {
        self.data.iter().filter_map(|file| Stamp::of(&file.path)).collect()
    }

    /// Bytes of the graph with its weights.
    pub fn total_bytes(&self) -> u64 {
        self.bytes + self.data.iter().map(|file| file.bytes).sum::<u64>()
    }

    /// Reads the graph, and weights that a manifest vouches for, and returns the graph's SHA-256 in lower-case hex.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where a hash differs from the manifest's, the file is not an
    /// ONNX graph, it keeps weights in files that are not listed or lie elsewhere, or it holds what is refused
    /// ([`Fault`](crate::inspect::Fault)).
    pub fn verify(&self) -> Result<String> {
        self.inspect().map(|(sha256, _)| sha256)
    }

    /// As [`verify`](Self::verify), with what was read.
    pub(crate) fn inspect(&self) -> Result<(String, Outline)> {
        self.data.iter().try_for_each(DataFile::verify)?;
        // Read, not mapped: hashing takes long, and a file that is cut short meanwhile would end this process.
        let sha256 = compare(&self.path, hash_of_file(&self.path)?, self.sha256.as_deref())?;
        Ok((sha256, self.check(&map(&self.path)?)?))
    }

    /// The outline of a graph that may be opened. Graphs in a cache come from the library, and are not asked.
    fn check(&self, bytes: &[u8]) -> Result<Outline> {
        let graph = onnx::read(bytes, &self.path)?;
        let outline = graph.outline();
        let weights = self.weights(&outline)?;
        match check(&graph, &|name| weights.get(name).map(|map| &map[..])).first() {
            Some(refusal) => Err(Error::model(format!("{}: {refusal}", self.path.display()))),
            None => Ok(outline),
        }
    }

    /// As [`verify`](Self::verify), but without hashes: for telling what it is, not for opening it.
    pub(crate) fn outline(&self) -> Result<Outline> {
        self.check(&map(&self.path)?)
    }

    /// The bytes of the graph's own file, mapped.
    pub(crate) fn map(&self) -> Result<Mmap> {
        map(&self.path)
    }

    /// What the graph computes in between, for inputs of these sizes.
    pub(crate) fn activations(&self, inputs: &[(String, Vec<u64>)]) -> Result<Activations> {
        Ok(onnx::activations(&onnx::read(&map(&self.path)?, &self.path)?, inputs))
    }

    /// The files that keep the graph's weights, by the names that it gives them. Refuses those outside of the graph's
    /// folder, which ONNX Runtime would read through hard links, and those that no hash vouches for where there are hashes.
    pub(crate) fn weights(&self, outline: &Outline) -> Result<BTreeMap<String, Mmap>> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut weights = BTreeMap::new();
        for name in &outline.data_files {
            let path =
                inside(folder, name).map_err(|e| e.context(format_args!("{}: its weights", self.path.display())))?;
            let listed = self.data.iter().find(|file| file.path == path);
            if listed.is_none() && self.sha256.is_some() {
                return Err(Error::model(format!(
                    "{}: keeps weights in \"{name}\", which the manifest does not list under data",
                    self.path.display()
                )));
            }
            if listed.is_none_or(|file| file.sha256.is_none()) {
                refuse_hard_links(&path)?;
            }
            weights.insert(name.clone(), map(&path)?);
        }
        Ok(weights)
    }
}

impl GraphFile {
    /// A graph that nothing describes: a plain file of a folder.
    pub(crate) fn loose(path: &Path) -> Result<Self> {
        let absolute = std::path::absolute(path).map_err(|e| unreadable(path, &e).because(e))?;
        let (Some(folder), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(Error::model(format!("{}: is not a regular file", path.display())));
        };
        let root = folder.canonicalize().map_err(|e| unreadable(folder, &e).because(e))?;
        let path = inside(&root, &name.to_string_lossy())?;
        Ok(Self { bytes: graph_bytes(&path)?, path, sha256: None, data: Vec::new() })
    }
}

/// Whether a graph takes or gives half precision.
pub(super) fn is_half(path: &Path) -> Result<bool> {
    let outline = onnx::outline(&map(path)?, path)?;
    Ok(outline.inputs.iter().chain(&outline.outputs).any(|tensor| tensor.element_type == onnx::FLOAT16))
}

/// Maps a file, so that looking at one with gigabytes of weights reads only what is looked at.
fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| unreadable(path, &e).because(e))?;
    // SAFETY: the bytes are only read. Another process that truncates the file meanwhile would kill this one, as it
    // would while ONNX Runtime reads it: models are replaced as whole folders, never in place.
    unsafe { Mmap::map(&file) }.map_err(|e| unreadable(path, &e).because(e))
}

fn check_hash(path: &Path, bytes: &[u8], promised: Option<&str>) -> Result<String> {
    compare(path, hash::of(bytes), promised)
}

fn hash_of_file(path: &Path) -> Result<String> {
    hash::of_file(path).map_err(|e| unreadable(path, &e).because(e))
}

fn compare(path: &Path, found: String, promised: Option<&str>) -> Result<String> {
    match promised {
        Some(promised) if promised != found => Err(Error::model(format!(
            "{}: sha256 is {found}, but the manifest says {promised}; the file is damaged or was replaced: fetch the \
             model again, or correct the manifest if you changed the graph yourself",
            path.display()
        ))),
        _ => Ok(found),
    }
}

/// Turns a name from a manifest into a path inside `root`, of a file that may be missing.
pub(super) fn plain(root: &Path, name: &str) -> Result<PathBuf> {
    let relative = Path::new(name);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !plain || name.contains(|c: char| c.is_control() || c == '\\') {
        return Err(Error::model(format!("file {name:?} is not a plain path inside the model folder")));
    }
    Ok(root.join(relative))
}

/// Turns a name from a manifest into a path, refusing whatever is not a plain file inside `root`.
pub(super) fn inside(root: &Path, name: &str) -> Result<PathBuf> {
    let path = plain(root, name)?;
    let found = path.canonicalize().map_err(|e| unreadable(&path, &e).because(e))?;
    if !found.starts_with(root) {
        return Err(Error::model(format!(
            "{}: is a link that leaves the model folder (to {}); copy the folder with its links resolved: cp -rL",
            path.display(),
            found.display()
        )));
    }
    let meta = found.metadata().map_err(|e| unreadable(&found, &e).because(e))?;
    if !meta.is_file() {
        return Err(Error::model(format!("{}: is not a regular file", found.display())));
    }
    Ok(found)
}

/// Refuses weights that are hard links, where nothing vouches for what they are.
///
/// An archive can hold a graph whose weights are a hard link to any file of the disk that whoever unpacks it may read: the
/// graph would show it as a picture. Only weights are numbers whatever they are: a graph, a manifest or a tokenizer that
/// is something else is refused as damaged. Where a manifest promises a hash, the file is what was published. Hard links
/// as such are common: ostree, `nix-store --optimise`, uv and cp -l install by them.
fn refuse_hard_links(path: &Path) -> Result<()> {
    let meta = path.metadata().map_err(|e| unreadable(path, &e).because(e))?;
    if hard_links(&meta) < 2 {
        return Ok(());
    }
    Err(Error::model(format!(
        "{}: has other hard links, so that it may be another file of this disk, and no hash says what it should be; copy \
         it (cp --remove-destination), or list it with its sha256 in a model.yaml",
        path.display()
    )))
}

#[cfg(unix)]
fn hard_links(meta: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(meta)
}

#[cfg(not(unix))]
fn hard_links(_: &std::fs::Metadata) -> u64 {
    1
}

/// Checks that a file can be a graph at all, and returns its length.
pub(super) fn graph_bytes(path: &Path) -> Result<u64> {
    let mut head = Vec::with_capacity(64);
    let read = |head: &mut Vec<u8>| {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        file.take(64).read_to_end(head).map(|_| length)
    };
    let length = read(&mut head).map_err(|e| unreadable(path, &e).because(e))?;
    let trimmed = head.trim_ascii_start().to_ascii_lowercase();
    let fault = if length == 0 {
        "is empty"
    } else if trimmed.starts_with(b"version https://git-lfs") {
        "is a Git LFS pointer, not the graph; run: git lfs pull"
    } else if trimmed.starts_with(b"<!doctype") || trimmed.starts_with(b"<html") {
        "is a web page, not a graph; the download was answered with an error or a login page"
    } else {
        return Ok(length);
    };
    Err(Error::model(format!("{}: {fault}", path.display())))
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    let what = match error.kind() {
        std::io::ErrorKind::NotFound => "is missing".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    Error::model(format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_plain_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["", "..", "../x", "a/../x", "/etc/passwd", "a\0b", "a\\b", "./x", "C:\\x", "a\nb"] {
            let error = inside(&root, name).unwrap_err();
            let refused = error.to_string().contains("not a plain path") || name == "./x";
            assert!(refused, "{name:?}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_refused_where_they_lead_outside() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("model").canonicalize_or_create();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        std::fs::write(root.join("real"), "graph").unwrap();
        symlink("real", root.join("near")).unwrap();
        symlink(&secret, root.join("far")).unwrap();
        symlink(folder.path(), root.join("up")).unwrap();
        std::fs::hard_link(&secret, root.join("hard")).unwrap();
        assert!(inside(&root, "near").is_ok());
        assert!(inside(&root, "far").unwrap_err().to_string().contains("leaves the model folder"));
        assert!(inside(&root, "up/secret").unwrap_err().to_string().contains("leaves the model folder"));
        assert!(refuse_hard_links(&inside(&root, "hard").unwrap()).unwrap_err().to_string().contains("hard links"));
        assert!(inside(&root, "absent").unwrap_err().to_string().contains("is missing"));
        std::fs::create_dir(root.join("folder")).unwrap();
        assert!(inside(&root, "folder").unwrap_err().to_string().contains("not a regular file"));
    }

    #[cfg(unix)]
    trait CanonicalizeOrCreate {
        fn canonicalize_or_create(&self) -> PathBuf;
    }

    #[cfg(unix)]
    impl CanonicalizeOrCreate for PathBuf {
        fn canonicalize_or_create(&self) -> PathBuf {
            std::fs::create_dir_all(self).unwrap();
            self.canonicalize().unwrap()
        }
    }

    #[test]
    fn what_cannot_be_a_graph_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let cases: [(&str, &str); 3] = [
            ("", "is empty"),
            ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
            ("\n<!DOCTYPE html><html>", "web page"),
        ];
        for (content, expected) in cases {
            let path = folder.path().join("graph.onnx");
            std::fs::write(&path, content).unwrap();
            let error = graph_bytes(&path).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("graph.onnx");
        let graph = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models/tiny-sd/unet/model.onnx");
        let mut bytes = std::fs::read(graph).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let mut file = GraphFile { path: path.clone(), bytes: bytes.len() as u64, sha256: None, data: vec![] };
        let promised = file.verify().unwrap();
        file.sha256 = Some(promised.clone());
        assert_eq!(file.verify().unwrap(), promised);
        bytes[100] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(file.verify().unwrap_err().to_string().contains(&promised));
    }
}
