//! All blobs that an image refers to, found from its index or manifest downwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
};

use serde::Deserialize;

use super::{ImageStore, StoreError, index::LayoutEntry};
use crate::{Digest, media_type::LARGEST_MANIFEST};

/// The blobs of one or more images that are in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageBlobs {
    /// Disk usage of each blob in bytes.
    pub(crate) sizes: BTreeMap<Digest, u64>,
    /// The manifests and indexes among them.
    pub(crate) manifests: BTreeSet<Digest>,
}

/// Descriptors in a manifest, an index or an artifact. Parsed leniently, without regard to media
/// types: a removal must keep the blobs of images that this program cannot unpack, too.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Links {
    config: Option<Link>,
    layers: Option<Vec<Link>>,
    manifests: Option<Vec<Link>>,
}

#[derive(Debug, Deserialize)]
struct Link {
    digest: String,
}

impl ImageStore {
    /// Returns all stored blobs that these images refer to: their parts for every platform, and the
    /// artifacts with their machine settings among `entries`.
    pub(crate) fn image_blobs(
        &self,
        images: impl IntoIterator<Item = Digest>,
        entries: &[LayoutEntry],
    ) -> Result<ImageBlobs, StoreError> {
        let mut blobs = ImageBlobs::default();
        for top in images {
            self.collect_blobs(&mut blobs, top)?;
        }
        for entry in entries {
            if let LayoutEntry::Settings(artifact, image) = entry
                && blobs.manifests.contains(image)
            {
                self.collect_blobs(&mut blobs, artifact.digest)?;
            }
        }
        Ok(blobs)
    }

    fn collect_blobs(&self, blobs: &mut ImageBlobs, manifest: Digest) -> Result<(), StoreError> {
        let mut pending = vec![manifest];
        while let Some(digest) = pending.pop() {
            if blobs.manifests.contains(&digest) {
                continue;
            }
            let Some(metadata) = self.blob_metadata(&digest)? else {
                continue;
            };
            // `st_blocks` counts 512-byte units whatever the file system's block size is.
            blobs.sizes.insert(digest, metadata.blocks() * 512);
            blobs.manifests.insert(digest);
            if metadata.len() > LARGEST_MANIFEST {
                continue;
            }
            let bytes = self.read_small(&digest)?.unwrap_or_default();
            let links: Links = serde_json::from_slice(&bytes).unwrap_or_default();
            let parts = links.config.iter().chain(links.layers.iter().flatten());
            for part in parts.filter_map(Link::digest) {
                if let Some(metadata) = self.blob_metadata(&part)? {
                    blobs.sizes.insert(part, metadata.blocks() * 512);
                }
            }
            let manifests = links.manifests.iter().flatten();
            pending.extend(manifests.filter_map(Link::digest));
        }
        Ok(())
    }

    fn blob_metadata(&self, digest: &Digest) -> Result<Option<fs::Metadata>, StoreError> {
        let path = self.blob_path(digest);
        match fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("inspect", &path)(error)),
        }
    }
}

impl Link {
    fn digest(&self) -> Option<Digest> {
        self.digest.parse().ok()
    }
}
