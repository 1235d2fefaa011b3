//! One maker at a time of anything in the store, over all processes.

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::StoreError;

/// The right to make something. The file goes with it.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The name goes while the lock is still held; whoever waits for the old file sees that
        // it lost its name and starts again. Should it stay, it does no harm.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("removing the lock {}: {error}", self.path.display());
        }
    }
}

/// How often to look again.
const PAUSE: Duration = Duration::from_millis(30);

/// Waits until nobody else has the lock. To stop waiting, drop the future.
pub(crate) async fn lock(path: &Path) -> Result<Lock, StoreError> {
    loop {
        if let Some(lock) = try_lock(path).map_err(StoreError::io("locking", path))? {
            return Ok(lock);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits on this thread; for what is held for moments only.
pub(super) fn lock_here(path: &Path) -> Result<Lock, StoreError> {
    let locked = || -> io::Result<Lock> {
        loop {
            let file = File::create(path)?;
            file.lock()?;
            if let Some(lock) = still_named(file, path)? {
                return Ok(lock);
            }
        }
    };
    locked().map_err(StoreError::io("locking", path))
}

/// Whether somebody makes what this lock is for.
pub(crate) fn is_locked(path: &Path) -> Result<bool, StoreError> {
    let taken = try_lock(path).map_err(StoreError::io("locking", path))?;
    Ok(taken.is_none())
}

fn try_lock(path: &Path) -> io::Result<Option<Lock>> {
    let file = File::create(path)?;
    match file.try_lock() {
        Ok(()) => still_named(file, path),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A lock on a file that has lost its name keeps nobody out.
fn still_named(file: File, path: &Path) -> io::Result<Option<Lock>> {
    let is_named = match fs::metadata(path) {
        Ok(named) => named.ino() == file.metadata()?.ino(),
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    Ok(is_named.then(|| Lock {
        path: path.to_owned(),
        _file: file,
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = try_lock(&path).unwrap().unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        assert!(is_locked(&path).unwrap());
        drop(first);
        assert!(!path.exists());
        assert!(!is_locked(&path).unwrap());
    }

    #[test]
    fn of_many_at_once_one_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let inside = Arc::new(AtomicU32::new(0));
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..200 {
                        let _lock = lock_here(&path).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
