//! Room made: names, content and bases that go. See `lock` for what may happen meanwhile.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Alone, Base, StoreError, contents::Contents, index::Entry, sync_directory};
use crate::{Descriptor, Digest, Reference, StoredImage};

/// What somebody outside of the store needs of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// Images, whether they have a name here or not.
    pub images: Vec<Descriptor>,
    /// Bases, which are known by their files' names.
    pub bases: Vec<PathBuf>,
}

/// What is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// Names that mean nothing any more.
    pub references: Vec<Reference>,
    /// Images.
    pub images: Vec<Digest>,
    /// Blobs.
    pub blobs: usize,
    /// Bases.
    pub bases: usize,
    /// Bytes of disk that blobs and bases took.
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

/// Of what is not needed, what goes.
enum Reach {
    /// What these images were made of.
    Only(Contents),
    /// All of it.
    Everything,
}

impl Alone {
    /// Takes a name from an image. With its last name the image goes, unless it is needed, and with
    /// it what no other image needs.
    ///
    /// # Errors
    /// [`StoreError`] if something cannot be removed. What is named is whole even then.
    pub fn untag(&self, reference: &Reference, needed: &Needed) -> Result<Freed, StoreError> {
        self.forget(|_, name| name == Some(reference), needed, Reach::Only)
    }

    /// Removes an image with all of its names, and what no other image needs. One that is needed
    /// loses its names only.
    ///
    /// # Errors
    /// As [`untag`](Self::untag).
    pub fn remove(&self, image: &StoredImage, needed: &Needed) -> Result<Freed, StoreError> {
        let digest = image.descriptor.digest;
        self.forget(|it, _| it.digest == digest, needed, Reach::Only)
    }

    /// Removes all that neither a name leads to nor anybody needs: content, images without a name,
    /// and every base that is not needed, as it can be made again. With `all`, images that are not
    /// needed go with their names.
    ///
    /// # Errors
    /// As [`untag`](Self::untag).
    pub fn prune(&self, needed: &Needed, all: bool) -> Result<Freed, StoreError> {
        let is_needed = |image: &Descriptor| {
            let mut images = needed.images.iter();
            images.any(|it| it.digest == image.digest)
        };
        self.forget(
            |image, name| !is_needed(image) && (all || name.is_none()),
            needed,
            |_| Reach::Everything,
        )
    }

    /// Names go first, content after them: what is named is whole at any moment.
    fn forget(
        &self,
        goes: impl Fn(&Descriptor, Option<&Reference>) -> bool,
        needed: &Needed,
        reach: impl FnOnce(Contents) -> Reach,
    ) -> Result<Freed, StoreError> {
        let store = &self.store;
        let entries = store.entries()?;
        let is_going = |entry: &Entry| match entry {
            Entry::Image(image, name) => goes(image, name.as_ref()),
            Entry::Settings(..) => false,
        };
        let (going, staying): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(is_going);
        let kept = staying.iter().filter_map(Entry::image);
        let kept = kept.chain(&needed.images).map(|image| image.digest);
        let live = store.contents(kept, &staying)?;
        let removed = going.iter().filter_map(Entry::image).map(|it| it.digest);
        let removed = store.contents(removed, &staying)?;
        store.retain_entries(|entry| match entry {
            Entry::Settings(_, manifest) => live.manifests.contains(manifest),
            image => !is_going(image),
        })?;
        let mut freed = Freed::default();
        for entry in &going {
            if let Entry::Image(image, name) = entry {
                freed.references.extend(name.clone());
                if !live.blobs.contains_key(&image.digest) {
                    freed.images.push(image.digest);
                }
            }
        }
        freed.images.sort();
        freed.images.dedup();
        let reach = reach(removed);
        self.remove_bases(&reach, &live, needed, &mut freed)?;
        self.remove_blobs(&reach, &live, &mut freed)?;
        Ok(freed)
    }

    fn remove_bases(
        &self,
        reach: &Reach,
        live: &Contents,
        needed: &Needed,
        freed: &mut Freed,
    ) -> Result<(), StoreError> {
        let is_needed = |base: &Base| {
            let mut bases = needed.bases.iter();
            bases.any(|it| it.file_name() == base.path.file_name())
        };
        let is_meant = |base: &Base| match (reach, &base.manifest) {
            (Reach::Everything, _) => true,
            (Reach::Only(removed), Some(manifest)) => {
                removed.manifests.contains(manifest) && !live.manifests.contains(manifest)
            }
            (Reach::Only(_), None) => false,
        };
        for base in self.store.all_bases()? {
            if is_meant(&base)
                && !is_needed(&base)
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
        reach: &Reach,
        live: &Contents,
        freed: &mut Freed,
    ) -> Result<(), StoreError> {
        let meant: BTreeSet<PathBuf> = match reach {
            Reach::Only(removed) => {
                let blobs = removed.blobs.keys();
                blobs.map(|blob| self.store.blob_path(blob)).collect()
            }
            Reach::Everything => {
                let directory = self.store.blobs();
                let reading = || StoreError::io("reading", &directory);
                let entries = fs::read_dir(&directory).map_err(reading())?;
                let paths = entries.map(|entry| entry.map(|entry| entry.path()));
                paths.collect::<Result<_, _>>().map_err(reading())?
            }
        };
        let live: BTreeSet<PathBuf> = live
            .blobs
            .keys()
            .map(|blob| self.store.blob_path(blob))
            .collect();
        for path in meant.difference(&live) {
            if let Some(bytes) = remove(path)? {
                freed.blobs += 1;
                freed.bytes += bytes;
            }
        }
        sync_directory(&self.store.blobs())
    }
}

/// Removes a file, and tells how many bytes of disk that frees; none if it was gone.
fn remove(path: &Path) -> Result<Option<u64>, StoreError> {
    let removed = fs::symlink_metadata(path).and_then(|about| {
        fs::remove_file(path)?;
        Ok(about.blocks() * 512)
    });
    match removed {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("removing", path)(error)),
    }
}

#[cfg(test)]
#[path = "remove_tests.rs"]
mod tests;
