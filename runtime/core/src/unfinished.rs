//! Files and folders that exist only while work is under way, so that a process that ends at once can remove them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// One of them, listed until this is dropped.
pub(crate) struct Unfinished(PathBuf);

impl Unfinished {
    /// Makes a file or folder by `make`, and lists its path before another thread could end the process. Bound in this order,
    /// the file is gone before its listing is.
    pub(crate) fn make<T>(
        make: impl FnOnce() -> std::io::Result<T>,
        path: fn(&T) -> &Path,
    ) -> std::io::Result<(Self, T)> {
        let mut listed = lock();
        let made = make()?;
        let path = path(&made).to_path_buf();
        listed.insert(path.clone());
        Ok((Self(path), made))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        lock().remove(&self.0);
    }
}

fn lock() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what no thread will come to finish, because the process is about to end: files that [`save`](crate::save) has
/// not given their names yet, folders of profiles. Whoever wants to begin another waits for ever. For the thread that
/// answers a signal where a generation does not stop soon enough, as while ONNX Runtime opens a large graph; the caller
/// ends the process next.
pub fn remove_unfinished() {
    // A disk that does not answer must not keep the process alive.
    for _ in 0..20 {
        let listed = match UNFINISHED.try_lock() {
            Ok(listed) => listed,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
        };
        for path in listed.iter() {
            let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
        std::mem::forget(listed);
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_work_is_listed_and_what_is_done_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let make = || std::fs::write(&path, "x").map(|()| path.clone());
        let (unfinished, made) = Unfinished::make(make, PathBuf::as_path).unwrap();
        assert!(lock().contains(&made));
        drop(unfinished);
        assert!(!lock().contains(&made));
    }
}
