//! Everything that a push sends, collected from the store.

use std::collections::HashMap;

use super::PushError;
use crate::{
    Descriptor, Digest, ImageStore, Listener, Platform, Reference, Step,
    manifest::{self, IndexDepth, ReferencedBlobs},
};

/// Manifest or index to send.
pub(super) struct OutgoingManifest {
    pub(super) descriptor: Descriptor,
    pub(super) bytes: Vec<u8>,
}

/// Blobs and manifests to send.
#[derive(Default)]
pub(super) struct Shipment {
    pub(super) configs: Vec<Descriptor>,
    /// Layers, without duplicates.
    pub(super) layers: Vec<Descriptor>,
    /// Manifests in the order of sending: an index after the manifests that it lists. The last one
    /// is what the reference names.
    pub(super) manifests: Vec<OutgoingManifest>,
}

impl Shipment {
    /// Collects everything that the reference names. If an index is incomplete in the store, only
    /// the image of the host's platform is collected, and the listener is notified.
    pub(super) fn collect(
        store: &ImageStore,
        reference: &Reference,
        listener: Listener<'_>,
    ) -> Result<Shipment, PushError> {
        let known = store.find_reference(reference)?;
        let media_type = known.as_ref().map(|known| known.media_type.clone());
        let digest = reference.digest().or(known.map(|known| known.digest));
        let digest = digest.ok_or(PushError::NotFound)?;
        let mut shipment = Shipment::default();
        let top = IndexDepth::default();
        match shipment.add(store, &digest, media_type.as_deref(), top) {
            Err(PushError::BlobNotFound(blob)) => {
                let image = store.find_local(reference, &Platform::host()).ok();
                let image = image.flatten();
                let Some(image) = image.filter(|image| image.manifest.digest != digest) else {
                    return Err(if blob == digest {
                        PushError::NotFound
                    } else {
                        PushError::BlobNotFound(blob)
                    });
                };
                let platform = image.config.platform.to_string();
                listener(Step::OnePlatform { platform }.into());
                let mut shipment = Shipment::default();
                let media_type = Some(image.manifest.media_type.as_str());
                shipment.add(store, &image.manifest.digest, media_type, top)?;
                Ok(shipment)
            }
            added => added.map(|()| shipment),
        }
    }

    /// Adds a manifest or index with everything that it references.
    fn add(
        &mut self,
        store: &ImageStore,
        digest: &Digest,
        media_type: Option<&str>,
        depth: IndexDepth,
    ) -> Result<(), PushError> {
        let bytes = store.read_small(digest)?;
        let bytes = bytes.ok_or(PushError::BlobNotFound(*digest))?;
        let (referenced, media_type) = manifest::parse_references(&bytes, media_type)?;
        match referenced {
            ReferencedBlobs::Manifests(manifests) => {
                let depth = depth.descend()?;
                for manifest in manifests {
                    let media_type = Some(manifest.media_type.as_str());
                    self.add(store, &manifest.digest, media_type, depth)?;
                }
            }
            ReferencedBlobs::Image { config, layers } => {
                let is_missing = |blob: &&Descriptor| !store.has_blob(blob);
                let missing = layers.iter().chain([&config]).find(is_missing);
                if let Some(missing) = missing {
                    return Err(PushError::BlobNotFound(missing.digest));
                }
                self.configs.push(config);
                for layer in layers {
                    if !self.layers.contains(&layer) {
                        self.layers.push(layer);
                    }
                }
            }
        }
        let descriptor = Descriptor {
            digest: *digest,
            media_type,
            size: bytes.len() as u64,
        };
        self.manifests.push(OutgoingManifest { descriptor, bytes });
        Ok(())
    }

    /// Returns other repositories of the same registry from which blobs can be mounted: according
    /// to the store, they had them at the last pull or push.
    pub(super) fn mount_sources(
        &self,
        store: &ImageStore,
        reference: &Reference,
    ) -> Result<HashMap<Digest, String>, PushError> {
        let mut sources = HashMap::new();
        for (other, descriptor) in store.references()? {
            let is_source = other.registry() == reference.registry()
                && other.repository() != reference.repository();
            if !is_source {
                continue;
            }
            let available = store.image_blobs([descriptor.digest], &[])?.sizes;
            let wanted = self.configs.iter().chain(&self.layers);
            let shared = wanted.map(|blob| blob.digest);
            for digest in shared.filter(|digest| available.contains_key(digest)) {
                sources.insert(digest, other.repository().to_owned());
            }
        }
        Ok(sources)
    }
}
