//! Room made.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{ImageStore, StoreError, is_locked, sync_directory};

impl ImageStore {
    /// Removes all bases but these, and tells how many bytes of disk that freed. A base that is
    /// being made right now stays. The images stay too: a base is made again from them.
    ///
    /// The caller sees to it that no machine is being made from a base while this runs.
    ///
    /// # Errors
    /// [`StoreError`] if something cannot be removed; what was removed before it stays so.
    pub fn remove_unused_bases(&self, kept: &HashSet<PathBuf>) -> Result<u64, StoreError> {
        let directory = self.bases();
        let reading = || StoreError::io("reading", &directory);
        let mut freed = 0;
        for entry in fs::read_dir(&directory).map_err(reading())? {
            let path = entry.map_err(reading())?.path();
            if !kept.contains(&path) && !self.is_being_made(&path)? {
                let removing = || StoreError::io("removing", &path);
                let file = fs::symlink_metadata(&path).map_err(removing())?;
                fs::remove_file(&path).map_err(removing())?;
                freed += file.blocks() * 512;
            }
        }
        sync_directory(&directory)?;
        Ok(freed)
    }

    fn is_being_made(&self, base: &Path) -> Result<bool, StoreError> {
        match base.file_stem().and_then(|name| name.to_str()) {
            Some(name) => is_locked(&self.lock_path(name)),
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_unused_bases_go() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageStore::open(root.path()).unwrap();
        for name in ["used", "unused", "in-the-making"] {
            fs::write(store.base_path(name), vec![1; 5000]).unwrap();
        }
        let lock = store.lock("in-the-making").await.unwrap();
        let kept = HashSet::from([store.base_path("used")]);
        let freed = store.remove_unused_bases(&kept).unwrap();
        assert!(freed >= 5000, "{freed}");
        assert!(store.base_path("used").exists());
        assert!(!store.base_path("unused").exists());
        assert!(store.base_path("in-the-making").exists());
        drop(lock);
        store.remove_unused_bases(&kept).unwrap();
        assert!(!store.base_path("in-the-making").exists());
    }
}
