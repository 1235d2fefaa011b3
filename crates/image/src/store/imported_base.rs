//! Base images from other hosts.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;
use uuid::Uuid;

use super::{ImageStore, SharedGuard, StoreError, sync_directory};
use crate::Digest;

impl ImageStore {
    /// Stores a base that another host made from an image. `write` replaces the empty file at the
    /// path that it gets. Returns the base's path.
    ///
    /// Its contents need not be those of the image, so it has a name of its own, and no other
    /// machine gets it. Without a machine that uses it, the next pruning removes it, which
    /// `_shared` prevents meanwhile.
    ///
    /// # Errors
    /// Errors of `write`, and [`StoreError`]. Nothing is stored then.
    pub fn import_base<E: From<StoreError>>(
        &self,
        _shared: &SharedGuard,
        image: &Digest,
        write: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let directory = self.incoming();
        let file = NamedTempFile::new_in(&directory);
        let file = file.map_err(StoreError::io("create a file in", &directory))?;
        let file = file.into_temp_path();
        write(&file)?;
        let name = format!("{}-imported-{}", image.hex(), Uuid::new_v4().simple());
        let path = self.base_path(&name);
        let failed = || StoreError::io("write", &path);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).map_err(failed())?;
        let synced = File::open(&file).and_then(|file| file.sync_all());
        synced.map_err(failed())?;
        file.persist(&path).map_err(|error| failed()(error.error))?;
        sync_directory(&self.bases())?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_imported_base_is_of_its_image_and_read_only() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        let shared = store.lock_shared().await.unwrap();
        let image = Digest::compute(b"image");
        let write = |path: &Path| {
            fs::remove_file(path).unwrap();
            fs::write(path, "base").map_err(StoreError::io("write", path))
        };
        let one = store.import_base(&shared, &image, write).unwrap();
        let other = store.import_base(&shared, &image, write).unwrap();
        assert_ne!(one, other);
        assert_eq!(fs::read_to_string(&one).unwrap(), "base");
        assert_eq!(
            fs::metadata(&one).unwrap().permissions().mode() & 0o777,
            0o400
        );
        let bases = store.all_bases().unwrap();
        assert!(bases.iter().all(|base| base.manifest == Some(image)));

        let failed = |path: &Path| {
            Err(StoreError::io("write", path)(
                std::io::ErrorKind::Other.into(),
            ))
        };
        store.import_base(&shared, &image, failed).unwrap_err();
        assert_eq!(store.all_bases().unwrap().len(), 2);
        assert_eq!(fs::read_dir(store.incoming()).unwrap().count(), 0);
    }
}
