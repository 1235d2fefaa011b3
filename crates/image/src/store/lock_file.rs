//! Lock files: `flock` on a file that is removed when the lock is released.

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::StoreError;

/// Interval at which a taken lock is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(30);

/// An exclusive lock. Dropping it releases the lock and removes the file.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    _file: File,
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Removed while still locked: a waiter that then locks the old file sees that it has lost
        // its name and starts over. A file that cannot be removed does no harm.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(
                "cannot remove the lock file {}: {error}",
                self.path.display()
            );
        }
    }
}

/// Waits for the lock. Dropping the future stops waiting.
pub(super) async fn lock(path: &Path) -> Result<LockFile, StoreError> {
    loop {
        if let Some(lock) = try_lock(path).map_err(StoreError::io("lock", path))? {
            return Ok(lock);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Waits for the lock on the calling thread. Only for locks that are held for milliseconds.
pub(super) fn lock_blocking(path: &Path) -> Result<LockFile, StoreError> {
    let locked = || -> io::Result<LockFile> {
        loop {
            let file = File::create(path)?;
            file.lock()?;
            if let Some(lock) = into_lock(file, path)? {
                return Ok(lock);
            }
        }
    };
    locked().map_err(StoreError::io("lock", path))
}

fn try_lock(path: &Path) -> io::Result<Option<LockFile>> {
    let file = File::create(path)?;
    match file.try_lock() {
        Ok(()) => into_lock(file, path),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn into_lock(file: File, path: &Path) -> io::Result<Option<LockFile>> {
    Ok(is_named(&file, path)?.then(|| LockFile {
        path: path.to_owned(),
        _file: file,
    }))
}

/// Whether the path still names this file. If it does not, a lock on the file excludes no other
/// process: others create and lock a new file.
pub(super) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(named) => Ok(named.ino() == file.metadata()?.ino()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[test]
    fn a_lock_excludes_others_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = try_lock(&path).unwrap().unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        drop(first);
        assert!(!path.exists());
        assert!(try_lock(&path).unwrap().is_some());
    }

    #[test]
    fn only_one_of_many_threads_holds_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let inside = Arc::new(AtomicU32::new(0));
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..200 {
                        let _lock = lock_blocking(&path).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
