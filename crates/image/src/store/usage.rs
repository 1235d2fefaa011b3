//! Disk usage of the store as a whole.

use std::{fs, io::ErrorKind, os::unix::fs::MetadataExt};

use super::{Base, GcRoots, ImageStore, StoreError, index::LayoutEntry};

/// Disk usage of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Disk usage of all blobs in bytes.
    pub blobs: u64,
    /// Part of `blobs` that no root leads to, which pruning with `all` removes.
    pub unused_blobs: u64,
    /// Number of base images.
    pub bases: usize,
    /// Number of base images that are roots.
    pub used_bases: usize,
    /// Disk usage of all base images in bytes.
    pub bases_size: u64,
    /// Part of `bases_size` that is not of roots, which pruning removes.
    pub unused_bases_size: u64,
}

impl ImageStore {
    /// Returns the disk usage of the store, of which machines need the roots.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub fn usage(&self, roots: &GcRoots) -> Result<StoreUsage, StoreError> {
        let entries: Vec<LayoutEntry> = self.entries()?;
        let used = roots.images.iter().map(|image| image.digest);
        let used = self.image_blobs(used, &entries)?;
        let blobs = self.all_blobs_size()?;
        let is_used = |base: &Base| {
            let mut used = roots.bases.iter();
            used.any(|used| used.file_name() == base.path.file_name())
        };
        let mut usage = StoreUsage {
            blobs,
            unused_blobs: blobs.saturating_sub(used.sizes.values().sum()),
            ..StoreUsage::default()
        };
        for base in self.all_bases()? {
            usage.bases += 1;
            usage.bases_size += base.disk_size;
            if is_used(&base) {
                usage.used_bases += 1;
            } else {
                usage.unused_bases_size += base.disk_size;
            }
        }
        Ok(usage)
    }

    fn all_blobs_size(&self) -> Result<u64, StoreError> {
        let directory = self.blobs();
        let reading = || StoreError::io("read", &directory);
        let mut size = 0;
        for entry in fs::read_dir(&directory).map_err(reading())? {
            match entry.map_err(reading())?.metadata() {
                // `st_blocks` counts 512-byte units whatever the file system's block size is.
                Ok(metadata) => size += metadata.blocks() * 512,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(reading()(error)),
            }
        }
        Ok(size)
    }
}
