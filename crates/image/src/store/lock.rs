//! Who may do what to the store, over all processes.
//!
//! There are three kinds of lock, each a file in `locks/`:
//!
//! - `<name>`: one maker at a time of the blob or the base of that name.
//! - `index`: one writer at a time of `index.json`, for moments.
//! - `use`: one readers' and writers' lock over all that is in the store. Whoever relies on content
//!   that nothing names yet holds it shared ([`Hold`]): a pull until its reference is remembered, a
//!   load likewise, a `create` until its machine is there, a save while it reads. Whoever takes
//!   something away holds it alone ([`Alone`]), so nobody is between "the store has this already"
//!   and "this is named".
//!
//! What can meet, and what comes of it:
//!
//! - *A pull finds a layer here, meanwhile that layer's last image is removed*: the removal waits
//!   for the pull, then finds the layer named by the pulled image.
//! - *A removal has begun, a pull comes*: the pull waits for moments, then fetches what is gone.
//! - *A `create` has its base but not its machine yet, meanwhile the bases are pruned*: pruning
//!   waits until the machine is there, and is told of it, since it asks which machines there are
//!   only once it is alone. Renaming a machine is held off as well, lest it be missed.
//! - *A pull was given up, its last blob is still being written*: it may appear after the lock is
//!   free. Nothing relies on it; the next pruning removes it.
//! - *Two pulls, or a pull and a load*: both hold the lock shared; names and blobs have their own.
//! - *A removal is killed*: names go from the index first, content after it. So what is named is
//!   whole at any moment, and what is not named any more goes with the next pruning. The lock is the
//!   kernel's and goes with its process.
//!
//! Holders do not queue: whoever wants to be alone waits until there is nobody, and does not keep
//! others from coming meanwhile, so that a pull never waits for another pull.

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{ImageStore, StoreError};

/// The lock over all that is in the store.
pub(super) const USE: &str = "use";

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

fn try_lock(path: &Path) -> io::Result<Option<Lock>> {
    let file = File::create(path)?;
    match file.try_lock() {
        Ok(()) => still_named(file, path),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn still_named(file: File, path: &Path) -> io::Result<Option<Lock>> {
    Ok(is_named(&file, path)?.then(|| Lock {
        path: path.to_owned(),
        _file: file,
    }))
}

/// A lock on a file that has lost its name keeps nobody out.
pub(super) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(named) => Ok(named.ino() == file.metadata()?.ino()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// While this is held, nothing that is in the store goes: see the module's page.
#[derive(Debug)]
#[must_use]
pub struct Hold {
    _file: File,
}

/// While this is held, nobody relies on anything in the store but what its index names, and
/// what the machines need that are there.
#[derive(Debug)]
#[must_use]
pub struct Alone {
    pub(super) store: ImageStore,
    _file: File,
}

impl ImageStore {
    /// Keeps everything that is in the store, or comes into it, until this is dropped. Waits while
    /// somebody removes something, which takes moments.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    pub async fn hold(&self) -> Result<Hold, StoreError> {
        let file = self.wait_for_use(File::try_lock_shared).await?;
        Ok(Hold { _file: file })
    }

    /// Waits until nobody relies on anything that nothing names: pulls, loads, saves and `create`
    /// have ended. To stop waiting, drop the future.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    pub async fn alone(&self) -> Result<Alone, StoreError> {
        let file = self.wait_for_use(File::try_lock).await?;
        Ok(Alone {
            store: self.clone(),
            _file: file,
        })
    }

    async fn wait_for_use(
        &self,
        lock: fn(&File) -> Result<(), TryLockError>,
    ) -> Result<File, StoreError> {
        let path = self.lock_path(USE);
        let failed = || StoreError::io("locking", &path);
        loop {
            // Somebody may have removed the whole directory since the store was opened.
            self.prepare()?;
            let file = File::create(&path).map_err(failed())?;
            match lock(&file) {
                Ok(()) if is_named(&file, &path).map_err(failed())? => return Ok(file),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed()(error)),
            }
            tokio::time::sleep(PAUSE).await;
        }
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
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = try_lock(&path).unwrap().unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        drop(first);
        assert!(!path.exists());
        assert!(try_lock(&path).unwrap().is_some());
    }

    #[tokio::test]
    async fn many_may_hold_the_store_and_one_may_be_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (
            ImageStore::open(directory.path()).unwrap(),
            ImageStore::open(directory.path()).unwrap(),
        );
        let waits = |store: ImageStore| async move {
            let short = Duration::from_millis(100);
            tokio::time::timeout(short, store.alone()).await.is_err()
        };
        let (first, second) = (one.hold().await.unwrap(), other.hold().await.unwrap());
        drop(first);
        assert!(waits(one.clone()).await);
        drop(second);
        let alone = one.alone().await.unwrap();
        assert!(waits(other.clone()).await);
        let mut held = std::pin::pin!(other.hold());
        let short = Duration::from_millis(100);
        assert!(tokio::time::timeout(short, &mut held).await.is_err());
        drop(alone);
        let _held = held.await.unwrap();
    }

    #[tokio::test]
    async fn a_store_whose_directory_was_removed_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("images");
        let store = ImageStore::open(&root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        let _held = store.hold().await.unwrap();
        assert!(root.join("oci-layout").exists());
        // Another one that comes now sees that the store is in use.
        let leftover = root.join("incoming/leftover");
        fs::write(&leftover, "half").unwrap();
        let other = ImageStore::open(&root).unwrap();
        assert!(leftover.exists());
        drop(other);
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
