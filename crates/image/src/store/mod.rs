//! The image store on disk, an OCI image layout (image-spec, image-layout.md) with two rooms
//! more:
//!
//! | path | what |
//! |---|---|
//! | `oci-layout`, `index.json`, `blobs/sha256/<hex>` | as the specification says |
//! | `bases/<name>.ext4` | file systems made from images |
//! | `incoming/` | what is not yet whole |
//! | `locks/` | who is making what |
//!
//! A blob is there under its digest only when all its bytes were seen to have that digest and
//! are on the disk; a base only when it is finished. `index.json` is replaced as a whole. A
//! crash leaves at most files in `incoming/` and `locks/`, which the next one to open the store
//! alone removes, and blobs that nothing names, which the next pruning removes. Any number of
//! processes may use a store at once: see `lock` for what may meet.

mod arrival;
mod blobs;
mod catalogue;
mod contents;
mod error;
mod find;
mod index;
mod lock;
mod remove;

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::Limits;

pub use catalogue::{Base, StoredImage, Variant};
pub use error::StoreError;
pub use find::{Meant, NotMeant};
pub use index::references;
pub use lock::{Alone, Hold};
pub use remove::{Freed, Needed};

pub(crate) use arrival::{Arrival, Arrivals, ArrivingBlob, NotArrived};
pub(crate) use blobs::IncomingBlob;
pub(crate) use lock::{Lock, lock};

/// All images of a world. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
    /// Held shared while anyone uses the store, so that leftovers can be told from work.
    in_use: Arc<Mutex<File>>,
    limits: Limits,
}

/// The lock that tells whether anyone uses the store.
const IN_USE: &str = "store";

impl ImageStore {
    /// Opens the store in this directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`StoreError`] if the directory cannot be made or written, or holds a layout of another
    /// version.
    pub fn open(root: &Path) -> Result<ImageStore, StoreError> {
        make_directories(root)?;
        let store = ImageStore {
            root: root.to_owned(),
            in_use: Arc::new(Mutex::new(lock_in_use(root)?)),
            limits: Limits::default(),
        };
        store.check_layout()?;
        Ok(store)
    }

    /// The same store, which unpacks images within these limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> ImageStore {
        ImageStore { limits, ..self }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Makes what is missing of the store, if somebody removed it since it was opened.
    fn prepare(&self) -> Result<(), StoreError> {
        make_directories(&self.root)?;
        let path = self.lock_path(IN_USE);
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if !lock::is_named(&in_use, &path).map_err(StoreError::io("looking at", &path))? {
            *in_use = lock_in_use(&self.root)?;
        }
        self.check_layout()
    }

    /// Where the base of that name is, made or not.
    pub(crate) fn base_path(&self, name: &str) -> PathBuf {
        self.bases().join(format!("{name}.ext4"))
    }

    pub(crate) fn bases(&self) -> PathBuf {
        self.root.join("bases")
    }

    pub(crate) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Waits for the right to make what has that name.
    pub(crate) async fn lock(&self, name: &str) -> Result<Lock, StoreError> {
        lock(&self.lock_path(name)).await
    }

    pub(crate) fn lock_path(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(name)
    }

    fn check_layout(&self) -> Result<(), StoreError> {
        let path = self.root.join("oci-layout");
        let written = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return self.replace(&path, br#"{"imageLayoutVersion":"1.0.0"}"#);
            }
            Err(error) => return Err(StoreError::io("reading", &path)(error)),
        };
        let layout: oci_spec::image::OciLayout =
            serde_json::from_slice(&written).map_err(StoreError::malformed(&path))?;
        if layout.image_layout_version() == "1.0.0" {
            Ok(())
        } else {
            Err(StoreError::Version {
                path,
                version: layout.image_layout_version().clone(),
            })
        }
    }

    /// Puts a whole file in the place of another.
    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let failed = || StoreError::io("writing", path);
        let mut file = tempfile::NamedTempFile::new_in(self.incoming()).map_err(failed())?;
        file.write_all(bytes).map_err(failed())?;
        file.as_file().sync_all().map_err(failed())?;
        file.persist(path).map_err(|error| failed()(error.error))?;
        sync_directory(&self.root)
    }
}

/// Makes the names in a directory outlast a power cut.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(StoreError::io("writing the directory", path))
}

fn make_directories(root: &Path) -> Result<(), StoreError> {
    for directory in ["blobs/sha256", "bases", "incoming", "locks"] {
        let path = root.join(directory);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(StoreError::io("making the directory", &path))?;
    }
    Ok(())
}

/// Removes leftovers if nobody else uses the store, then uses it.
fn lock_in_use(root: &Path) -> Result<File, StoreError> {
    let path = root.join("locks").join(IN_USE);
    let failed = || StoreError::io("locking", &path);
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
    for (directory, kept) in [("incoming", &[][..]), ("locks", &[IN_USE, lock::USE])] {
        let directory = root.join(directory);
        let entries = fs::read_dir(&directory).map_err(StoreError::io("reading", &directory))?;
        for entry in entries {
            let entry = entry.map_err(StoreError::io("reading", &directory))?;
            if !kept.iter().any(|kept| entry.file_name() == **kept) {
                let path = entry.path();
                fs::remove_file(&path).map_err(StoreError::io("removing", &path))?;
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
    fn a_layout_of_another_version_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        drop(ImageStore::open(root.path()).unwrap());
        let layout = r#"{"imageLayoutVersion":"9.0.0"}"#;
        fs::write(root.path().join("oci-layout"), layout).unwrap();
        let error = ImageStore::open(root.path()).unwrap_err();
        assert!(error.to_string().contains("9.0.0"), "{error}");
    }

    #[test]
    fn leftovers_go_when_nobody_else_is_there() {
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
