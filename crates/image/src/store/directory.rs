//! The store's directory: opening it, the paths in it, and atomic replacement of files.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    StoreError,
    lock_file::{self, LockFile},
};
use crate::Limits;

/// A user's images. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(super) root: PathBuf,
    /// Lock on [`IN_USE`], held shared by every process that has the store open. A process that can
    /// lock it exclusively knows that the files in `incoming/` are leftovers of a crash.
    in_use: Arc<Mutex<File>>,
    limits: Limits,
}

/// Name of the lock file that every user of the store holds shared.
const IN_USE: &str = "store";

/// Name of the lock file behind [`SharedGuard`](super::SharedGuard) and
/// [`ExclusiveGuard`](super::ExclusiveGuard).
pub(super) const CONTENT: &str = "use";

/// Bytes that a download leaves free for everything else on the file system.
const SPARE_SPACE: u64 = 16 << 20;

impl ImageStore {
    /// Opens the store in this directory, and creates it if it is missing.
    ///
    /// # Errors
    /// [`StoreError`] if the directory cannot be created or written, or has a layout of another
    /// version.
    pub fn open(root: &Path) -> Result<ImageStore, StoreError> {
        create_directories(root)?;
        let store = ImageStore {
            root: root.to_owned(),
            in_use: Arc::new(Mutex::new(lock_in_use(root)?)),
            limits: Limits::default(),
        };
        store.check_layout()?;
        Ok(store)
    }

    /// Returns the files that opening the store would remove: unfinished ones, if no process uses
    /// it. The store need not exist.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub fn leftovers(root: &Path) -> Result<Vec<PathBuf>, StoreError> {
        let path = root.join("locks").join(IN_USE);
        let in_use = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.map_err(StoreError::io("open", &path))?,
        };
        match in_use.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Vec::new()),
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
        }
        let incoming = root.join("incoming");
        let entries = fs::read_dir(&incoming).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(StoreError::io("read", &incoming))?;
        Ok(entries.iter().map(fs::DirEntry::path).collect())
    }

    /// Returns the same store with other limits for unpacking images.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> ImageStore {
        ImageStore { limits, ..self }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Recreates the directories if they were removed after the store was opened.
    pub(super) fn prepare(&self) -> Result<(), StoreError> {
        create_directories(&self.root)?;
        let path = self.lock_path(IN_USE);
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        // A removed lock file locks nothing: another process would take the new one exclusively.
        if !lock_file::is_named(&in_use, &path).map_err(StoreError::io("inspect", &path))? {
            *in_use = lock_in_use(&self.root)?;
        }
        self.check_layout()
    }

    /// Path of the base image of this name, whether it exists or not.
    pub(crate) fn base_path(&self, name: &str) -> PathBuf {
        self.bases().join(format!("{name}.ext4"))
    }

    /// Returns the store's base image with the file name of `base`, if that does not exist and was
    /// in this store while the store had another path.
    pub fn find_moved_base(&self, base: &Path) -> Option<PathBuf> {
        let here = self.bases().join(base.file_name()?);
        (!base.exists() && here.exists()).then_some(here)
    }

    /// Checks that a download of `needed` bytes leaves [`SPARE_SPACE`] on the file system. One that
    /// does not report its free space passes.
    pub(crate) fn check_space(&self, needed: u64) -> Result<(), StoreError> {
        let Ok(statistics) = rustix::fs::statvfs(&self.root) else {
            return Ok(());
        };
        let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
        if free < needed.saturating_add(SPARE_SPACE) {
            return Err(StoreError::NoSpace {
                path: self.root.clone(),
                needed,
                free,
            });
        }
        Ok(())
    }

    /// Returns the directory of the base images.
    pub fn bases(&self) -> PathBuf {
        self.root.join("bases")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Waits for the lock on the blob or base image of this name.
    pub(crate) async fn lock(&self, name: &str) -> Result<LockFile, StoreError> {
        lock_file::lock(&self.lock_path(name)).await
    }

    pub(super) fn lock_path(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(name)
    }

    /// Refuses a store of another version. A layout file that cannot be parsed says nothing about
    /// the version, and is written again.
    fn check_layout(&self) -> Result<(), StoreError> {
        let path = self.root.join("oci-layout");
        let written = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        match serde_json::from_slice::<oci_spec::image::OciLayout>(&written) {
            Ok(layout) if layout.image_layout_version() == "1.0.0" => Ok(()),
            Ok(layout) => Err(StoreError::Version {
                path,
                version: layout.image_layout_version().clone(),
            }),
            Err(_) => self.replace(&path, br#"{"imageLayoutVersion":"1.0.0"}"#),
        }
    }

    /// Replaces a file atomically: readers see the old bytes or the new ones.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let failed = || StoreError::io("write", path);
        let mut file = tempfile::NamedTempFile::new_in(self.incoming()).map_err(failed())?;
        file.write_all(bytes).map_err(failed())?;
        file.as_file().sync_all().map_err(failed())?;
        file.persist(path).map_err(|error| failed()(error.error))?;
        sync_directory(&self.root)
    }
}

/// Syncs a directory, so that the names in it survive a power failure.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(StoreError::io("sync the directory", path))
}

fn create_directories(root: &Path) -> Result<(), StoreError> {
    for directory in ["blobs/sha256", "bases", "incoming", "locks"] {
        let path = root.join(directory);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(StoreError::io("create the directory", &path))?;
    }
    Ok(())
}

/// Removes leftovers if no other process uses the store, then takes the shared lock.
fn lock_in_use(root: &Path) -> Result<File, StoreError> {
    let path = root.join("locks").join(IN_USE);
    let failed = || StoreError::io("lock", &path);
    let in_use = File::create(&path).map_err(failed())?;
    match in_use.try_lock() {
        Ok(()) => remove_leftovers(root)?,
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(failed()(error)),
    }
    in_use.lock_shared().map_err(failed())?;
    Ok(in_use)
}

fn remove_leftovers(root: &Path) -> Result<(), StoreError> {
    for (directory, kept) in [("incoming", &[][..]), ("locks", &[IN_USE, CONTENT])] {
        let directory = root.join(directory);
        let entries = fs::read_dir(&directory).map_err(StoreError::io("read", &directory))?;
        for entry in entries {
            let entry = entry.map_err(StoreError::io("read", &directory))?;
            if !kept.iter().any(|kept| entry.file_name() == **kept) {
                let path = entry.path();
                fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_store_is_an_oci_layout() {
        let root = tempfile::tempdir().unwrap();
        let _store = ImageStore::open(&root.path().join("images")).unwrap();
        let layout = fs::read_to_string(root.path().join("images/oci-layout")).unwrap();
        assert_eq!(layout, r#"{"imageLayoutVersion":"1.0.0"}"#);
        assert!(root.path().join("images/blobs/sha256").is_dir());
    }

    #[test]
    fn a_download_that_does_not_fit_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        store.check_space(1).unwrap();
        for needed in [1 << 62, u64::MAX] {
            let error = store.check_space(needed).unwrap_err();
            assert!(error.to_string().contains("free some space"), "{error}");
        }
    }

    #[test]
    fn a_layout_of_another_version_is_not_changed() {
        let root = tempfile::tempdir().unwrap();
        drop(ImageStore::open(root.path()).unwrap());
        let layout = r#"{"imageLayoutVersion":"9.0.0"}"#;
        fs::write(root.path().join("oci-layout"), layout).unwrap();
        let error = ImageStore::open(root.path()).unwrap_err();
        assert!(error.to_string().contains("9.0.0"), "{error}");
    }

    #[test]
    fn a_damaged_layout_file_is_written_again() {
        let root = tempfile::tempdir().unwrap();
        drop(ImageStore::open(root.path()).unwrap());
        let path = root.path().join("oci-layout");
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            drop(ImageStore::open(root.path()).unwrap());
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn leftovers_are_removed_when_no_other_process_uses_the_store() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let leftover = root.path().join("incoming/leftover");
        fs::write(&leftover, "half").unwrap();
        let second = ImageStore::open(root.path()).unwrap();
        assert!(leftover.exists());
        drop((store, second));
        ImageStore::open(root.path()).unwrap();
        assert!(!leftover.exists());
    }
}
