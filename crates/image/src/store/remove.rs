//! Removing references, blobs and base images. See [`lock`](super::lock) for concurrent operations.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    Base, ExclusiveGuard, StoreError, image_blobs::ImageBlobs, index::LayoutEntry, sync_directory,
};
use crate::{Descriptor, Digest, Reference, StoredImage};

/// Roots of the garbage collection outside the store: kept although the index does not refer to
/// them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcRoots {
    /// Images that machines were made from.
    pub images: Vec<Descriptor>,
    /// Base images that machines use. Only the file names count.
    pub bases: Vec<PathBuf>,
}

/// Result of a removal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// References.
    pub references: Vec<Reference>,
    /// Images that are gone with all their references.
    pub images: Vec<Digest>,
    /// Number of blobs.
    pub blobs: usize,
    /// Number of base images.
    pub bases: usize,
    /// Disk space of the blobs and bases in bytes.
    pub bytes: u64,
}

impl std::ops::AddAssign for Freed {
    fn add_assign(&mut self, more: Freed) {
        self.references.extend(more.references);
        self.images.extend(more.images);
        self.blobs += more.blobs;
        self.bases += more.bases;
        self.bytes += more.bytes;
    }
}

/// Blobs and bases that are removed unless something refers to them.
enum Candidates {
    /// The blobs of these images, and the bases made from them.
    Only(ImageBlobs),
    /// All blobs and bases.
    Everything,
}

impl ExclusiveGuard {
    /// Removes a reference. If it was an image's last one and no root refers to the image, its
    /// blobs and bases that no other image shares are removed too.
    ///
    /// # Errors
    /// [`StoreError`] if a file cannot be removed. All remaining references lead to complete images
    /// even then.
    pub fn untag(&self, reference: &Reference, roots: &GcRoots) -> Result<Freed, StoreError> {
        self.collect(|_, name| name == Some(reference), roots, Candidates::Only)
    }

    /// Removes an image with all its references, and the blobs and bases that no other image
    /// shares. If a root refers to the image, only the references are removed.
    ///
    /// # Errors
    /// As [`untag`](Self::untag).
    pub fn remove(&self, image: &StoredImage, roots: &GcRoots) -> Result<Freed, StoreError> {
        let digest = image.descriptor.digest;
        self.collect(|it, _| it.digest == digest, roots, Candidates::Only)
    }

    /// Removes everything that neither a reference nor a root leads to: blobs, unnamed images, and
    /// all bases that are not roots, since they can be recreated. With `all`, images that are not
    /// roots are removed with their references.
    ///
    /// # Errors
    /// As [`untag`](Self::untag).
    pub fn prune(&self, roots: &GcRoots, all: bool) -> Result<Freed, StoreError> {
        let is_root = |image: &Descriptor| {
            let mut images = roots.images.iter();
            images.any(|it| it.digest == image.digest)
        };
        self.collect(
            |image, name| !is_root(image) && (all || name.is_none()),
            roots,
            |_| Candidates::Everything,
        )
    }

    /// Removes the references for which `goes` returns true, then unreferenced content. References
    /// go first, so that a reference leads to complete content even if the process is killed.
    fn collect(
        &self,
        goes: impl Fn(&Descriptor, Option<&Reference>) -> bool,
        roots: &GcRoots,
        candidates: impl FnOnce(ImageBlobs) -> Candidates,
    ) -> Result<Freed, StoreError> {
        let store = &self.store;
        let entries = store.entries()?;
        let is_going = |entry: &LayoutEntry| match entry {
            LayoutEntry::Image(image, name) => goes(image, name.as_ref()),
            LayoutEntry::Settings(..) => false,
        };
        let (going, staying): (Vec<LayoutEntry>, Vec<LayoutEntry>) =
            entries.into_iter().partition(is_going);
        let kept = staying.iter().filter_map(LayoutEntry::image);
        let kept = kept.chain(&roots.images).map(|image| image.digest);
        let live = store.image_blobs(kept, &staying)?;
        let removed = going
            .iter()
            .filter_map(LayoutEntry::image)
            .map(|it| it.digest);
        let removed = store.image_blobs(removed, &staying)?;
        store.retain_entries(|entry| match entry {
            LayoutEntry::Settings(_, manifest) => live.manifests.contains(manifest),
            image => !is_going(image),
        })?;
        let mut freed = Freed::default();
        for entry in &going {
            if let LayoutEntry::Image(image, name) = entry {
                freed.references.extend(name.clone());
                if !live.sizes.contains_key(&image.digest) {
                    freed.images.push(image.digest);
                }
            }
        }
        freed.images.sort();
        freed.images.dedup();
        let candidates = candidates(removed);
        self.remove_bases(&candidates, &live, roots, &mut freed)?;
        self.remove_blobs(&candidates, &live, &mut freed)?;
        Ok(freed)
    }

    fn remove_bases(
        &self,
        candidates: &Candidates,
        live: &ImageBlobs,
        roots: &GcRoots,
        freed: &mut Freed,
    ) -> Result<(), StoreError> {
        let is_root = |base: &Base| {
            let mut bases = roots.bases.iter();
            bases.any(|it| it.file_name() == base.path.file_name())
        };
        let is_candidate = |base: &Base| match (candidates, &base.manifest) {
            (Candidates::Everything, _) => true,
            (Candidates::Only(removed), Some(manifest)) => {
                removed.manifests.contains(manifest) && !live.manifests.contains(manifest)
            }
            (Candidates::Only(_), None) => false,
        };
        for base in self.store.all_bases()? {
            if is_candidate(&base)
                && !is_root(&base)
                && let Some(bytes) = remove(&base.path)?
            {
                freed.bases += 1;
                freed.bytes += bytes;
            }
        }
        sync_directory(&self.store.bases())
    }

    fn remove_blobs(
        &self,
        candidates: &Candidates,
        live: &ImageBlobs,
        freed: &mut Freed,
    ) -> Result<(), StoreError> {
        let all: BTreeSet<PathBuf> = match candidates {
            Candidates::Only(removed) => {
                let blobs = removed.sizes.keys();
                blobs.map(|blob| self.store.blob_path(blob)).collect()
            }
            Candidates::Everything => {
                let directory = self.store.blobs();
                let reading = || StoreError::io("read", &directory);
                let entries = fs::read_dir(&directory).map_err(reading())?;
                let paths = entries.map(|entry| entry.map(|entry| entry.path()));
                paths.collect::<Result<_, _>>().map_err(reading())?
            }
        };
        let live: BTreeSet<PathBuf> = live
            .sizes
            .keys()
            .map(|blob| self.store.blob_path(blob))
            .collect();
        for path in all.difference(&live) {
            if let Some(bytes) = remove(path)? {
                freed.blobs += 1;
                freed.bytes += bytes;
            }
        }
        sync_directory(&self.store.blobs())
    }
}

/// Removes a file. Returns its disk usage in bytes, or `None` when it did not exist.
fn remove(path: &Path) -> Result<Option<u64>, StoreError> {
    let removed = fs::symlink_metadata(path).and_then(|metadata| {
        fs::remove_file(path)?;
        Ok(metadata.blocks() * 512)
    });
    match removed {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("remove", path)(error)),
    }
}

#[cfg(test)]
mod tests;
