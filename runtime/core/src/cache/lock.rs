//! A lock file beside an entry: shared by whoever uses the entry, exclusive for whoever builds or removes it.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;

/// A lock, held until it is dropped, or until the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Nothing where the folder is read-only and has no lock file: then nobody can remove the entry either.
    _file: Option<File>,
}

impl Lock {
    /// A shared lock; calls `waiting` once where another process builds the entry, and waits for that.
    pub(crate) fn shared(path: &Path, waiting: &dyn Fn()) -> io::Result<Self> {
        loop {
            let Some(file) = open(path)? else { return Ok(Self { _file: None }) };
            match file.try_lock_shared() {
                Ok(()) => (),
                Err(TryLockError::WouldBlock) => {
                    waiting();
                    file.lock_shared()?;
                }
                Err(TryLockError::Error(e)) => return Err(e),
            }
            if is_still(path, &file) {
                return Ok(Self { _file: Some(file) });
            }
        }
    }

    /// An exclusive lock; nothing where another process uses or builds the entry, or nobody may.
    pub(crate) fn exclusive(path: &Path) -> io::Result<Option<Self>> {
        let Some(file) = open(path)? else { return Err(ErrorKind::ReadOnlyFilesystem.into()) };
        match file.try_lock() {
            Ok(()) => Ok(is_still(path, &file).then_some(Self { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// Removes the lock file of an entry that is gone; whoever waits for it notices.
    pub(crate) fn remove(self, path: &Path) {
        if cfg!(unix) {
            let _ = fs::remove_file(path);
        }
    }
}

/// The lock file, made if need be; nothing where it is not there and cannot be made, because nobody may write here.
fn open(path: &Path) -> io::Result<Option<File>> {
    let read_only = |e: &io::Error| matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
    match File::options().read(true).write(true).create(true).truncate(false).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if read_only(&e) => match File::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        },
        Err(e) => Err(e),
    }
}

/// Whether the path still leads to the file that was locked: it may have been removed since it was opened.
#[cfg(unix)]
pub(crate) fn is_still(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((fs::metadata(path), file.metadata()), (Ok(a), Ok(b)) if same(&a, &b))
}

#[cfg(not(unix))]
pub(crate) fn is_still(_: &Path, _: &File) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn users_share_and_a_builder_is_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let quiet = || ();
        let users = [Lock::shared(&path, &quiet).unwrap(), Lock::shared(&path, &quiet).unwrap()];
        assert!(Lock::exclusive(&path).unwrap().is_none());
        drop(users);
        let builder = Lock::exclusive(&path).unwrap().unwrap();
        assert!(Lock::exclusive(&path).unwrap().is_none());
        std::thread::scope(|scope| {
            let told = scope.spawn(|| {
                let told = Cell::new(0);
                Lock::shared(&path, &|| told.set(told.get() + 1)).unwrap();
                told.get()
            });
            std::thread::sleep(std::time::Duration::from_millis(100));
            drop(builder);
            assert_eq!(told.join().unwrap(), 1);
        });
    }

    #[cfg(unix)]
    #[test]
    fn whoever_waited_for_a_removed_file_locks_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let builder = Lock::exclusive(&path).unwrap().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| Lock::shared(&path, &|| ()).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(100));
            builder.remove(&path);
            let _held = waiter.join().unwrap();
            assert!(path.exists() && Lock::exclusive(&path).unwrap().is_none());
        });
    }
}
