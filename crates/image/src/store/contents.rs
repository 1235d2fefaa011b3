//! What an image's blobs are, found from its top one down.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
};

use serde::Deserialize;

use super::{ImageStore, StoreError, index::Entry};
use crate::{Digest, registry::LARGEST_MANIFEST};

/// The blobs of an image that are in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// All of them, and the bytes of disk that each takes.
    pub(crate) blobs: BTreeMap<Digest, u64>,
    /// Those that are manifests or indexes.
    pub(crate) manifests: BTreeSet<Digest>,
}

/// What a manifest, an index or an artifact names, whatever else it is: what is looked for here
/// must not depend on what we can make a disk of.
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
    /// All that these images need and that is here: their parts for every platform, and the
    /// artifacts with their machine settings that `entries` name.
    pub(crate) fn contents(
        &self,
        images: impl IntoIterator<Item = Digest>,
        entries: &[Entry],
    ) -> Result<Contents, StoreError> {
        let mut contents = Contents::default();
        for top in images {
            self.add(&mut contents, top)?;
        }
        for entry in entries {
            if let Entry::Settings(artifact, image) = entry
                && contents.manifests.contains(image)
            {
                self.add(&mut contents, artifact.digest)?;
            }
        }
        Ok(contents)
    }

    fn add(&self, contents: &mut Contents, manifest: Digest) -> Result<(), StoreError> {
        let mut waiting = vec![manifest];
        while let Some(digest) = waiting.pop() {
            if contents.manifests.contains(&digest) {
                continue;
            }
            let Some(about) = self.about_blob(&digest)? else {
                continue;
            };
            contents.blobs.insert(digest, about.blocks() * 512);
            contents.manifests.insert(digest);
            if about.len() > LARGEST_MANIFEST {
                continue;
            }
            let bytes = self.small(&digest)?.unwrap_or_default();
            let links: Links = serde_json::from_slice(&bytes).unwrap_or_default();
            let parts = links.config.iter().chain(links.layers.iter().flatten());
            for part in parts.filter_map(Link::digest) {
                if let Some(about) = self.about_blob(&part)? {
                    contents.blobs.insert(part, about.blocks() * 512);
                }
            }
            let manifests = links.manifests.iter().flatten();
            waiting.extend(manifests.filter_map(Link::digest));
        }
        Ok(())
    }

    fn about_blob(&self, digest: &Digest) -> Result<Option<fs::Metadata>, StoreError> {
        let path = self.blob_path(digest);
        match fs::symlink_metadata(&path) {
            Ok(about) => Ok(Some(about)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("looking at", &path)(error)),
        }
    }
}

impl Link {
    fn digest(&self) -> Option<Digest> {
        self.digest.parse().ok()
    }
}
