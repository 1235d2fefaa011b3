//! Locks on the store's content, between threads and processes.
//!
//! `locks/` has three kinds of lock files:
//!
//! - `<name>`: exclusive; held while the blob or the base image of that name is being made.
//! - `index`: exclusive; held for milliseconds while `index.json` is changed.
//! - `use`: a readers-writer lock on everything in the store. An operation that relies on content
//!   that nothing refers to yet holds it shared ([`SharedGuard`]): a pull until its reference is
//!   recorded, a load likewise, a `create` until its machine exists, a save while it reads. An
//!   operation that removes content holds it exclusively ([`ExclusiveGuard`]), so that no other
//!   operation is between "the store already has this blob" and "something refers to this blob".
//!
//! Operations that interact:
//!
//! - *A pull finds a layer in the store, and that layer's last image is removed*: the removal waits
//!   for the pull. Then the pulled image refers to the layer, and it stays.
//! - *A pull starts during a removal*: the pull waits until the removal has finished, which takes
//!   milliseconds, then fetches what is missing.
//! - *Bases are pruned while a `create` has its base but not its machine yet*: pruning waits until
//!   the machine exists. It lists the machines only after it has the exclusive lock, so it sees the
//!   new one. Renaming a machine takes the shared lock too, or pruning could miss the machine.
//! - *A pull is cancelled while its last blob is being written*: the blob may appear after the lock
//!   is released. Nothing relies on it, and the next pruning removes it.
//! - *Two pulls, or a pull and a load*: both hold the lock shared. References and blobs have locks
//!   of their own.
//! - *A removal is killed*: references are removed from the index first, content after it. So a
//!   reference always leads to complete content, and unreferenced content is removed by the next
//!   pruning. The kernel releases the lock with the process.
//!
//! The lock prefers readers: a waiting exclusive holder does not block new shared ones. So a pull
//! never waits for another pull, and a removal may wait as long as pulls keep coming.

use std::fs::{File, TryLockError};

use super::{
    ImageStore, StoreError,
    directory::CONTENT,
    lock_file::{RETRY, is_named},
};

/// Shared lock on the store's content: nothing is removed while it is held.
#[derive(Debug)]
#[must_use]
pub struct SharedGuard {
    _file: File,
}

/// Exclusive lock on the store's content, which permits removals: no operation relies on anything
/// but what the index and the existing machines refer to.
#[derive(Debug)]
#[must_use]
pub struct ExclusiveGuard {
    pub(super) store: ImageStore,
    _file: File,
}

impl ImageStore {
    /// Takes the shared lock: until it is dropped, nothing is removed from the store. Waits while
    /// another process removes something, which takes milliseconds.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    pub async fn lock_shared(&self) -> Result<SharedGuard, StoreError> {
        let file = self.wait_for_content(File::try_lock_shared).await?;
        Ok(SharedGuard { _file: file })
    }

    /// Takes the exclusive lock. Waits until all pulls, loads, saves and `create`s have finished;
    /// dropping the future stops waiting.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    pub async fn lock_exclusive(&self) -> Result<ExclusiveGuard, StoreError> {
        let file = self.wait_for_content(File::try_lock).await?;
        Ok(ExclusiveGuard {
            store: self.clone(),
            _file: file,
        })
    }

    async fn wait_for_content(
        &self,
        lock: fn(&File) -> Result<(), TryLockError>,
    ) -> Result<File, StoreError> {
        let path = self.lock_path(CONTENT);
        let failed = || StoreError::io("lock", &path);
        loop {
            // The user may have removed the whole directory since the store was opened.
            self.prepare()?;
            let file = File::create(&path).map_err(failed())?;
            match lock(&file) {
                Ok(()) if is_named(&file, &path).map_err(failed())? => return Ok(file),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed()(error)),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    #[tokio::test]
    async fn many_hold_the_lock_shared_or_one_exclusively() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (
            ImageStore::open(directory.path()).unwrap(),
            ImageStore::open(directory.path()).unwrap(),
        );
        let waits = |store: ImageStore| async move {
            let short = Duration::from_millis(100);
            tokio::time::timeout(short, store.lock_exclusive())
                .await
                .is_err()
        };
        let (first, second) = (
            one.lock_shared().await.unwrap(),
            other.lock_shared().await.unwrap(),
        );
        drop(first);
        assert!(waits(one.clone()).await);
        drop(second);
        let exclusive = one.lock_exclusive().await.unwrap();
        assert!(waits(other.clone()).await);
        let mut shared = std::pin::pin!(other.lock_shared());
        let short = Duration::from_millis(100);
        assert!(tokio::time::timeout(short, &mut shared).await.is_err());
        drop(exclusive);
        let _shared = shared.await.unwrap();
    }

    #[tokio::test]
    async fn a_removed_store_directory_is_recreated() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("images");
        let store = ImageStore::open(&root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        let _shared = store.lock_shared().await.unwrap();
        assert!(root.join("oci-layout").exists());
        // A second process must see that the new directory is in use.
        let leftover = root.join("incoming/leftover");
        fs::write(&leftover, "half").unwrap();
        let other = ImageStore::open(&root).unwrap();
        assert!(leftover.exists());
        drop(other);
    }
}
