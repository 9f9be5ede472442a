//! Files of a model folder, which may come from strangers: nothing outside the folder is ever read.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::onnx::{self, Activations, Outline};
use crate::{Error, Result};

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

impl GraphFile {
    /// Bytes of the graph with its weights.
    pub fn total_bytes(&self) -> u64 {
        self.bytes + self.data.iter().map(|file| file.bytes).sum::<u64>()
    }

    /// Reads the graph, and weights that a manifest vouches for, and returns the graph's SHA-256 in lower-case hex.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model) where a hash differs from the manifest's, the file is not an
    /// ONNX graph, or it keeps weights in files that are not listed or lie elsewhere.
    pub fn verify(&self) -> Result<String> {
        self.inspect().map(|(sha256, _)| sha256)
    }

    /// As [`verify`](Self::verify), with what was read.
    pub(crate) fn inspect(&self) -> Result<(String, Outline)> {
        self.data.iter().try_for_each(DataFile::verify)?;
        let bytes = map(&self.path)?;
        let sha256 = check_hash(&self.path, &bytes, self.sha256.as_deref())?;
        let outline = onnx::outline(&bytes, &self.path)?;
        self.check_data_files(&outline)?;
        Ok((sha256, outline))
    }

    /// What the graph's file tells of itself, unverified: for telling what it is, not for opening it.
    pub(crate) fn outline(&self) -> Result<Outline> {
        onnx::outline(&map(&self.path)?, &self.path)
    }

    /// What the graph computes in between, for inputs of these sizes.
    pub(crate) fn activations(&self, inputs: &[(String, Vec<u64>)]) -> Result<Activations> {
        let found = onnx::activations(&map(&self.path)?, inputs);
        found.ok_or_else(|| Error::model(format!("{}: is damaged; export or fetch it again", self.path.display())))
    }

    /// Refuses weights outside of the graph's folder, which ONNX Runtime would read through hard links, and weights
    /// that no hash vouches for.
    fn check_data_files(&self, outline: &Outline) -> Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        for name in &outline.data_files {
            let path =
                inside(folder, name).map_err(|e| e.context(format_args!("{}: its weights", self.path.display())))?;
            let listed = self.data.iter().any(|file| file.path == path);
            if !listed && self.sha256.is_some() {
                return Err(Error::model(format!(
                    "{}: keeps weights in \"{name}\", which the manifest does not list under data",
                    self.path.display()
                )));
            }
        }
        Ok(())
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
    compare(path, hex(&Sha256::digest(bytes)), promised)
}

/// SHA-256 of a file that may be large, in lower-case hex. Read, not mapped: pages of a map would count as this process's
/// memory while gigabytes pass by.
fn hash_of_file(path: &Path) -> Result<String> {
    let told = |e: std::io::Error| unreadable(path, &e).because(e);
    let mut file = File::open(path).map_err(told)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(count) => hash.update(&buffer[..count]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => (),
            Err(e) => return Err(told(e)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
    if hard_links(&meta) > 1 {
        return Err(Error::model(format!(
            "{}: has other hard links, so that it can change from outside the model folder; copy it instead",
            found.display()
        )));
    }
    Ok(found)
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
        assert!(inside(&root, "hard").unwrap_err().to_string().contains("hard links"));
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
