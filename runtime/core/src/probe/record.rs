//! What has passed the probe, a small file each below a folder: `probed/NAME.json`, named after all that it depends on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::child::Told;
use crate::cache::key::{Key, LIBRARY};
use crate::{bounded, picture};

/// The format of the files.
const FORMAT: &str = "safelight-probe/1";

/// Most files of a folder; the oldest make room.
const MAX_RECORDS: usize = 1000;

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 10;

/// A graph that has passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    schema: String,
    key: Key,
    /// Most that was resident in the process.
    peak_bytes: Option<u64>,
    /// What the probe took, in milliseconds.
    ms: f64,
    /// Why it was not opened or run, where the library refused that in good order.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    refused: String,
}

/// Where the files are.
pub(crate) fn folder(cache: &Path) -> PathBuf {
    cache.join("probed")
}

/// Whether a graph has passed with all that its key says. A file that is damaged says nothing.
pub(crate) fn is_kept(cache: &Path, key: &Key) -> bool {
    read(&path(cache, key)).is_some_and(|record| record.key == *key)
}

/// Remembers that a graph has passed: whole, or not at all.
pub(super) fn keep(cache: &Path, key: &Key, told: &Told, took: Duration) -> io::Result<()> {
    fs::create_dir_all(folder(cache))?;
    let (schema, ms, refused) = (FORMAT.to_owned(), took.as_secs_f64() * 1000.0, told.message.clone());
    let text = serde_json::to_vec(&Record { schema, key: key.clone(), peak_bytes: told.peak_bytes, ms, refused })?;
    picture::save(&path(cache, key), &text).map_err(|e| io::Error::other(e.to_string()))?;
    make_room(cache);
    Ok(())
}

fn path(cache: &Path, key: &Key) -> PathBuf {
    folder(cache).join(format!("{}.json", key.name()))
}

fn read(path: &Path) -> Option<Record> {
    let text = bounded::read(path, MAX_BYTES).ok()?;
    serde_json::from_str(&text).ok().filter(|record: &Record| record.schema == FORMAT)
}

fn files(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder(cache)).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

fn make_room(cache: &Path) {
    let mut files = files(cache);
    if files.len() <= MAX_RECORDS {
        return;
    }
    let time = |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    files.sort_by_cached_key(time);
    // One that cannot be removed costs a kilobyte.
    files.iter().take(files.len() - MAX_RECORDS).for_each(|path| drop(fs::remove_file(path)));
}

/// What is remembered of a graph, for people: with which libraries it has passed.
pub(crate) fn told(cache: &Path, sha256: &str) -> Option<String> {
    let of_graph = |record: &Record| record.key.get("graph") == Some(sha256);
    let records = files(cache).into_iter().filter_map(|path| read(&path)).filter(of_graph);
    let mut versions: Vec<_> = records.filter_map(|record| record.key.get(LIBRARY).map(str::to_owned)).collect();
    versions.sort();
    versions.dedup();
    (!versions.is_empty()).then(|| format!("passed with ONNX Runtime {}", versions.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::{MAX_RECORDS, Told, files, folder, is_kept, keep, make_room, path};
    use std::fs;
    use std::time::{Duration, SystemTime};

    use crate::cache::key::tests::key;
    use crate::probe::child::Verdict;

    fn told() -> Told {
        Told { verdict: Verdict::Passed, message: String::new(), peak_bytes: Some(7) }
    }

    #[test]
    fn what_has_passed_is_known_and_nothing_else() {
        let cache = tempfile::tempdir().unwrap();
        assert!(!is_kept(cache.path(), &key("")));
        keep(cache.path(), &key(""), &told(), Duration::from_millis(3)).unwrap();
        assert!(is_kept(cache.path(), &key("")));
        for change in ["graph", "weights", "optimization", "keys", "library", "build", "options", "providers", "driver"]
        {
            assert!(!is_kept(cache.path(), &key(change)), "{change}");
        }
        assert_eq!(super::told(cache.path(), "aa").unwrap(), "passed with ONNX Runtime 1.31.1");
        assert_eq!(super::told(cache.path(), "bb"), None);
        fs::write(path(cache.path(), &key("")), "{").unwrap();
        assert!(!is_kept(cache.path(), &key("")));
    }

    #[test]
    fn the_oldest_make_room() {
        let cache = tempfile::tempdir().unwrap();
        keep(cache.path(), &key(""), &told(), Duration::ZERO).unwrap();
        let old = fs::File::options().write(true).open(path(cache.path(), &key(""))).unwrap();
        old.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        for index in 0..MAX_RECORDS {
            fs::write(folder(cache.path()).join(format!("{index}.json")), "").unwrap();
        }
        make_room(cache.path());
        assert_eq!(files(cache.path()).len(), MAX_RECORDS);
        assert!(!is_kept(cache.path(), &key("")));
    }
}
