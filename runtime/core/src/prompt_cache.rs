//! Hidden states of prompts on disk, so that a device with fixed prompts needs no text encoder.
//!
//! An entry is a file named after what its numbers depend on: the text encoder's graph and weights, its precision, its
//! providers and session settings, and the token ids. It holds, in this order: a magic line; that name as 32 bytes;
//! tokens, width and length of the pooled vector as little-endian `u32`; `tokens × width` hidden states and the pooled vector
//! as little-endian `f32`; SHA-256 of all before it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::graph::Source;
use crate::guard::all_finite;
use crate::model::{DataFile, GraphFile, Model};
use crate::picture::save;
use crate::stage::{Precision, Stage};
use crate::text::Hidden;
use crate::{Error, Result, bounded, hash};

/// The first bytes of an entry; the number is the format's version.
const MAGIC: &[u8] = b"safelight-prompt/2\n";
const HASH_BYTES: usize = 32;
const HEAD_BYTES: usize = MAGIC.len() + HASH_BYTES + 12;
/// Largest entry that is read: an SD-size encoder makes 0.3 MB.
const MAX_ENTRY_BYTES: u64 = 64 << 20;
/// Largest note on an encoder that is read.
const MAX_NOTE_BYTES: u64 = 64 << 10;
/// All notes together.
const MAX_NOTES_BYTES: u64 = 1 << 20;

const ENTRY: &str = "prompt";
const NOTE: &str = "encoder";

/// A folder of hidden states, shared by models and processes.
///
/// Writing an entry may remove the oldest ones, so that their bytes stay within a limit.
#[derive(Debug, Clone)]
pub struct PromptCache {
    folder: PathBuf,
    max_bytes: u64,
}

impl PromptCache {
    /// Bytes that entries take together unless [`with_max_bytes`](Self::with_max_bytes) says otherwise.
    pub const MAX_BYTES: u64 = 256 << 20;

    /// The cache in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where it is neither there nor can be made.
    pub fn open(folder: &Path) -> Result<Self> {
        let told =
            |e: io::Error| Error::io(format!("prompt cache {}: cannot be made: {e}; give a folder", folder.display()));
        fs::create_dir_all(folder).map_err(|e| told(e.kind().into()).because(e))?;
        Ok(Self { folder: folder.to_path_buf(), max_bytes: Self::MAX_BYTES })
    }

    /// The same cache with another limit to the bytes of all entries.
    pub fn with_max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes, ..self }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The entries of each text encoder of a model, which work with `denoiser`.
    pub(crate) fn of(&self, encoders: &[Source], denoiser: &Source, model: &Model) -> Result<Vec<Entries>> {
        let warning = self.note(encoders, denoiser, model).err().map(|e| format!("this model is not noted: {e}"));
        let entries = encoders.iter().map(|encoder| self.of_encoder(encoder, warning.clone()));
        entries.collect()
    }

    fn of_encoder(&self, encoder: &Source, warning: Option<String>) -> Result<Entries> {
        let mut encoder_hash = Sha256::new();
        encoder_hash.update(MAGIC);
        encoder_hash.update(encoder.sha256());
        for data in &encoder.file().data {
            encoder_hash.update(data.sha256()?);
        }
        let session = &encoder.settings().session;
        let numbers = (encoder.precision(), &encoder.settings().providers, session.graph_optimization, &session.keys);
        let numbers = serde_json::to_vec(&numbers)
            .map_err(|e| Error::new(crate::ErrorKind::Internal, format!("prompt cache: {e}")))?;
        encoder_hash.update(numbers);
        Ok(Entries { cache: self.clone(), encoder: encoder_hash.finalize().into(), warning })
    }

    /// Removes the oldest files of a kind until they are within a limit; `kept` stays.
    fn prune(&self, extension: &str, most: u64, kept: &Path) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            // Another process may have removed it since it was listed.
            let Ok(meta) = path.metadata() else { continue };
            if meta.is_file() && path.extension().is_some_and(|found| found == extension) {
                files.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total > most && path != kept {
                let _ = fs::remove_file(&path);
                total -= bytes;
            }
        }
        Ok(())
    }
}

/// What is known of a text encoder whose model promises no hashes, so that its entries are found without it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    stage: Stage,
    precision: Precision,
    graph: NotedFile,
    data: Vec<NotedFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotedFile {
    /// Inside the model's folder.
    path: PathBuf,
    bytes: u64,
    sha256: String,
}

impl PromptCache {
    /// Notes which text encoders work with a denoiser, where nothing else would tell once the encoders are gone.
    fn note(&self, encoders: &[Source], denoiser: &Source, model: &Model) -> Result<()> {
        let notes = encoders.iter().filter(|encoder| encoder.file().sha256.is_none());
        let notes: Vec<_> = notes.map(|encoder| Note::of(encoder, model)).collect::<Result<_>>()?;
        if notes.is_empty() {
            return Ok(());
        }
        let text = serde_json::to_string(&notes)
            .map_err(|e| Error::new(crate::ErrorKind::Internal, format!("prompt cache: {e}")))?;
        let path = self.note_path(denoiser.sha256());
        // A cache that cannot be written to is as good as it was.
        if bounded::read(&path, MAX_NOTE_BYTES).is_ok_and(|found| found == text) {
            return Ok(());
        }
        save(&path, text.as_bytes())?;
        let _ = self.prune(NOTE, MAX_NOTES_BYTES, &path);
        Ok(())
    }

    /// The text encoders that were noted to work with a denoiser; their files need not be there.
    fn noted(&self, denoiser_sha256: &str, root: &Path) -> Option<Vec<(Stage, Precision, GraphFile)>> {
        let text = bounded::read(&self.note_path(denoiser_sha256), MAX_NOTE_BYTES).ok()?;
        let notes: Vec<Note> = serde_json::from_str(&text).ok()?;
        notes.into_iter().map(|note| note.graph_in(root)).collect()
    }

    fn note_path(&self, denoiser_sha256: &str) -> PathBuf {
        self.folder.join(denoiser_sha256).with_extension(NOTE)
    }
}

impl Note {
    fn of(encoder: &Source, model: &Model) -> Result<Self> {
        let file = encoder.file();
        let noted = |path: &Path, bytes, sha256| NotedFile {
            path: path.strip_prefix(&model.root).unwrap_or(path).to_path_buf(),
            bytes,
            sha256,
        };
        let data = file.data.iter().map(|data| Ok(noted(&data.path, data.bytes, data.sha256()?)));
        Ok(Self {
            stage: encoder.stage(),
            precision: encoder.precision(),
            graph: noted(&file.path, file.bytes, encoder.sha256().to_owned()),
            data: data.collect::<Result<_>>()?,
        })
    }

    /// The graph below a model's folder; nothing where the note would leave that.
    fn graph_in(self, root: &Path) -> Option<(Stage, Precision, GraphFile)> {
        let Self { stage, precision, graph, data } = self;
        let is_plain =
            |file: &NotedFile| file.path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !is_plain(&graph) || !data.iter().all(is_plain) {
            return None;
        }
        let data = data.into_iter().map(|NotedFile { path, bytes, sha256 }| DataFile {
            path: root.join(path),
            bytes,
            sha256: Some(sha256),
        });
        let NotedFile { path, bytes, sha256 } = graph;
        Some((stage, precision, GraphFile { path: root.join(path), bytes, sha256: Some(sha256), data: data.collect() }))
    }
}

/// The entries of one text encoder, as one target runs it.
pub(crate) struct Entries {
    cache: PromptCache,
    encoder: [u8; HASH_BYTES],
    /// What went wrong before there was anybody to tell.
    pub(crate) warning: Option<String>,
}

impl Entries {
    pub(crate) fn folder(&self) -> &Path {
        &self.cache.folder
    }

    /// Hidden states of token ids; `None` where there is no entry.
    ///
    /// # Errors
    /// A message for people where there is one that cannot be used.
    pub(crate) fn read(&self, ids: &[u32]) -> Result<Option<Hidden>, String> {
        let key = self.key(ids);
        let path = self.path(&key);
        let told = |what: &dyn std::fmt::Display| format!("prompt cache: {}: {what}; it is not used", path.display());
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_ENTRY_BYTES + 1).read_to_end(&mut bytes)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(told(&format_args!("cannot be read: {e}"))),
            Ok(_) => decode(&bytes, &key).map(Some).map_err(|what| told(&what)),
        }
    }

    /// Writes an entry whole or not at all, and removes the oldest beyond the limit.
    ///
    /// # Errors
    /// As [`save`].
    pub(crate) fn write(&self, ids: &[u32], hidden: &Hidden) -> Result<()> {
        let key = self.key(ids);
        let path = self.path(&key);
        save(&path, &encode(&key, hidden))?;
        self.cache.prune(ENTRY, self.cache.max_bytes, &path).map_err(|e| {
            let what = format!("prompt cache {}: cannot be listed: {e}", self.folder().display());
            Error::io(what).because(e)
        })
    }

    fn key(&self, ids: &[u32]) -> [u8; HASH_BYTES] {
        let mut key = Sha256::new();
        key.update(self.encoder);
        ids.iter().for_each(|id| key.update(id.to_le_bytes()));
        key.finalize().into()
    }

    fn path(&self, key: &[u8; HASH_BYTES]) -> PathBuf {
        self.folder().join(hash::hex(key)).with_extension(ENTRY)
    }
}

fn encode(key: &[u8; HASH_BYTES], hidden: &Hidden) -> Vec<u8> {
    let Hidden { values, tokens, width, pooled, .. } = hidden;
    let mut bytes = Vec::with_capacity(HEAD_BYTES + 4 * (values.len() + pooled.len()) + HASH_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(key);
    [*tokens, *width, pooled.len()].iter().for_each(|&size| bytes.extend_from_slice(&(size as u32).to_le_bytes()));
    values.iter().chain(pooled).for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    let checksum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

/// The hidden states of an entry, or what is wrong with it.
fn decode(bytes: &[u8], key: &[u8; HASH_BYTES]) -> Result<Hidden, &'static str> {
    if !bytes.starts_with(MAGIC) {
        return Err("is not an entry of this version");
    }
    let Some((body, checksum)) = bytes.split_last_chunk::<HASH_BYTES>().filter(|(body, _)| body.len() >= HEAD_BYTES)
    else {
        return Err("is cut short");
    };
    if Sha256::digest(body)[..] != checksum[..] {
        return Err("is damaged: its checksum differs");
    }
    let (head, values) = body.split_at(HEAD_BYTES);
    let (named, sizes) = head[MAGIC.len()..].split_at(HASH_BYTES);
    if named != key {
        return Err("is the entry of another prompt or text encoder");
    }
    let size = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| sizes[at + i]));
    let (tokens, width, pooled) = (size(0), size(4), size(8));
    let count = u64::from(tokens) * u64::from(width);
    let all = count.checked_add(u64::from(pooled)).and_then(|numbers| numbers.checked_mul(4));
    if count == 0 || all != Some(values.len() as u64) {
        return Err("has another size than it says");
    }
    let number = |bytes: &[u8]| f32::from_le_bytes(std::array::from_fn(|i| bytes[i]));
    let mut values: Vec<_> = values.chunks_exact(4).map(number).collect();
    if !all_finite(&values) {
        return Err("has NaN or infinite numbers");
    }
    let pooled = values.split_off(values.len() - pooled as usize);
    Ok(Hidden { values, tokens: tokens as usize, width: width as usize, pooled, cut: None })
}

/// The graphs of a model's text encoders as the cache has noted them, for a model whose own are gone.
pub(crate) fn noted_encoders(cache: &PromptCache, model: &Model) -> Result<Vec<(Stage, Precision, GraphFile)>> {
    let Some(denoiser) = model.stages.get(&Stage::Denoiser) else { return Ok(Vec::new()) };
    for graph in denoiser.graphs.values() {
        if let Some(found) = cache.noted(&graph.verify()?, &model.root) {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; HASH_BYTES] = [7; HASH_BYTES];

    fn hidden(value: f32) -> Hidden {
        let values = vec![value, -0.0, f32::MIN_POSITIVE, 3.5, 1e-42, -7.25];
        Hidden { values, tokens: 3, width: 2, pooled: vec![0.25, -0.0, 2.5], cut: None }
    }

    fn entries(folder: &Path, max_bytes: u64) -> Entries {
        Entries { cache: PromptCache::open(folder).unwrap().with_max_bytes(max_bytes), encoder: KEY, warning: None }
    }

    #[test]
    fn an_entry_gives_back_every_bit() {
        let found = decode(&encode(&KEY, &hidden(1.5)), &KEY).unwrap();
        let bits = |hidden: &Hidden| {
            hidden.values.iter().chain(&hidden.pooled).map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!((bits(&found), found.tokens, found.width), (bits(&hidden(1.5)), 3, 2));
    }

    #[test]
    fn whatever_is_not_a_whole_entry_is_refused() {
        let whole = encode(&KEY, &hidden(1.5));
        for length in 0..whole.len() {
            assert!(decode(&whole[..length], &KEY).is_err(), "cut to {length} bytes");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged, &KEY).is_err(), "byte {at}");
        }
        assert!(decode(&[&whole[..], b"x"].concat(), &KEY).is_err());
        assert!(decode(&whole, &[8; HASH_BYTES]).unwrap_err().contains("another prompt"));
        assert!(decode(&encode(&KEY, &hidden(f32::NAN)), &KEY).unwrap_err().contains("NaN"));
        let lying = Hidden { tokens: usize::try_from(u32::MAX).unwrap(), width: 1 << 30, ..hidden(1.5) };
        assert!(decode(&encode(&KEY, &lying), &KEY).unwrap_err().contains("another size"));
    }

    #[test]
    fn the_oldest_entries_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = encode(&KEY, &hidden(0.0)).len() as u64;
        let entries = entries(folder.path(), 2 * bytes);
        fs::write(folder.path().join("not-ours"), vec![0; 1000]).unwrap();
        for id in 0..4 {
            entries.write(&[id], &hidden(id as f32)).unwrap();
            let file = File::options().write(true).open(entries.path(&entries.key(&[id]))).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(id.into())).unwrap();
        }
        let there: Vec<_> = (0..4).map(|id| entries.read(&[id]).unwrap().is_some()).collect();
        assert_eq!(there, [false, false, true, true]);
        assert!(folder.path().join("not-ours").exists());
    }

    #[test]
    fn writers_at_once_leave_whole_entries() {
        let folder = tempfile::tempdir().unwrap();
        let write = |round: u32| {
            let entries = entries(folder.path(), 1000);
            for id in 0..50 {
                entries.write(&[id % 10], &hidden((id % 10) as f32)).unwrap();
                let found = entries.read(&[(id + round) % 10]).unwrap();
                assert!(found.is_none_or(|found| found.values == hidden(((id + round) % 10) as f32).values));
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|round| drop(scope.spawn(move || write(round)))));
        let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        assert!(left.sum::<u64>() <= 1000);
    }
}
