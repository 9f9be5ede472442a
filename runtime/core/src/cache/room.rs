//! What a cache holds, and what makes room in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::entry::{Entry, MANIFEST, lock_file, read_manifest};
use super::key::Key;
use super::lock::Lock;

/// One entry of a cache, whatever its state.
pub(crate) struct Holding {
    name: String,
    pub(crate) folder: PathBuf,
    pub(crate) bytes: u64,
    used: SystemTime,
    /// Nothing where the entry is unfinished or its manifest is damaged.
    pub(crate) key: Option<Key>,
    target: String,
}

/// Every entry of a cache, the least recently used first; a folder that cannot be listed has none.
pub(crate) fn holdings(cache: &Path) -> Vec<Holding> {
    let is_entry = |name: &str| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let folders = fs::read_dir(cache).into_iter().flatten().flatten();
    let named = folders.filter_map(|folder| Some((folder.file_name().into_string().ok()?, folder.path())));
    let hold = |(name, folder): (String, PathBuf)| {
        let manifest = read_manifest(&folder).ok().flatten();
        let modified = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
        let used = modified(&folder.join(MANIFEST)).or_else(|| modified(&folder)).unwrap_or(SystemTime::UNIX_EPOCH);
        let (key, target) = manifest.map_or((None, String::new()), |found| (Some(found.key), found.target));
        Holding { bytes: bytes_of(&folder, 0), name, folder, used, key, target }
    };
    let mut found: Vec<_> = named.filter(|(name, folder)| is_entry(name) && folder.is_dir()).map(hold).collect();
    found.sort_by_key(|holding| holding.used);
    found
}

/// Deepest folder whose files are counted.
const MAX_DEPTH: usize = 16;

fn bytes_of(folder: &Path, depth: usize) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => bytes_of(&entry.path(), depth + 1),
        Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |meta| meta.len()),
        _ => 0,
    });
    bytes.sum()
}

/// Removes entries that nobody uses: those that the one just built succeeds, those that were never finished, and then the
/// least recently used until the rest is within the limit. Tells where one alone is beyond it.
pub(super) fn make_room(built: &Entry, target: &str, max_bytes: u64, own_bytes: u64) -> Option<String> {
    let cache = built.cache();
    let mut total = own_bytes;
    let mut rest = Vec::new();
    for holding in holdings(cache).into_iter().filter(|holding| holding.folder != built.folder()) {
        let is_old = match &holding.key {
            Some(key) => holding.target == target && built.key().succeeds(key),
            None => true,
        };
        if !(is_old && remove_unused(cache, &holding)) {
            total += holding.bytes;
            rest.push(holding);
        }
    }
    for holding in rest {
        if total > max_bytes && remove_unused(cache, &holding) {
            total -= holding.bytes;
        }
    }
    (total > max_bytes).then(|| {
        let what = format!("cache {}: takes {total} bytes with what is in use", cache.display());
        format!("{what}, max_bytes is {max_bytes}; raise it, or it will be built again and again")
    })
}

/// Removes an entry unless a process uses or builds it.
fn remove_unused(cache: &Path, holding: &Holding) -> bool {
    let path = lock_file(cache, &holding.name);
    let Ok(Some(lock)) = Lock::exclusive(&path) else { return false };
    let _ = fs::remove_file(holding.folder.join(MANIFEST));
    let is_gone = fs::remove_dir_all(&holding.folder).is_ok();
    lock.remove(&path);
    is_gone
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, Instant};

    use super::super::entry::{About, Access, Kept};
    use super::super::key::tests::key;
    use super::*;

    fn build(cache: &Path, change: &str, used_s: u64) -> Kept {
        let entry = Entry::new(cache, u64::MAX, key(change));
        let Access::Build { lock, .. } = entry.access(&|| ()) else { panic!("{change} is there") };
        entry.clear().unwrap();
        fs::write(entry.folder().join("engine"), [0; 10_000]).unwrap();
        let about = About { target: "t", nodes: None, since: Instant::now(), why: String::new() };
        let kept = entry.seal(lock, about).unwrap();
        let manifest = File::options().write(true).open(entry.folder().join(MANIFEST)).unwrap();
        manifest.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(used_s)).unwrap();
        kept
    }

    fn is_there(cache: &Path, change: &str) -> bool {
        Entry::new(cache, u64::MAX, key(change)).folder().exists()
    }

    #[test]
    fn the_least_recently_used_that_nobody_uses_make_room() {
        let cache = tempfile::tempdir().unwrap();
        let kept: Vec<_> = [("graph", 1), ("axes", 2), ("stage", 3), ("weights", 4)]
            .map(|(change, s)| build(cache.path(), change, s))
            .into();
        let mut kept = kept.into_iter();
        // The oldest stays in use; the next two are free.
        let _used = kept.next().unwrap();
        drop(kept);
        fs::write(cache.path().join("not-ours"), [0; 100_000]).unwrap();
        let built = Entry::new(cache.path(), u64::MAX, key(""));
        let own = build(cache.path(), "", 5);
        assert_eq!(make_room(&built, "t", 36_000, own.cached.bytes), None);
        let there = ["graph", "axes", "stage", "weights", ""].map(|change| is_there(cache.path(), change));
        assert_eq!(there, [true, false, false, true, true]);
        let told = make_room(&built, "t", 5_000, own.cached.bytes).unwrap();
        assert!(told.contains("max_bytes is 5000"), "{told}");
        assert!(is_there(cache.path(), "") && !is_there(cache.path(), "weights"));
        assert!(cache.path().join("not-ours").exists());
    }

    #[test]
    fn an_entry_takes_the_place_of_the_one_before() {
        let cache = tempfile::tempdir().unwrap();
        ["driver", "options", "axes"].into_iter().for_each(|change| drop(build(cache.path(), change, 1)));
        let unfinished = cache.path().join("0".repeat(64));
        fs::create_dir(&unfinished).unwrap();
        let own = build(cache.path(), "", 2);
        let built = Entry::new(cache.path(), u64::MAX, key(""));
        make_room(&built, "another target", u64::MAX, own.cached.bytes);
        assert!(!unfinished.exists() && is_there(cache.path(), "driver"));
        make_room(&built, "t", u64::MAX, own.cached.bytes);
        let there = ["driver", "options", "axes", ""].map(|change| is_there(cache.path(), change));
        assert_eq!(there, [false, false, true, true]);
    }
}
