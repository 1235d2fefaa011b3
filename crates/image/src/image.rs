//! Images that are complete in the store.

use crate::{Descriptor, Digest, ImageConfig, MachineSettings, Reference, media_type::Compression};

/// Image for one platform. All of its blobs are in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Reference under which it was requested.
    pub reference: Reference,
    /// Descriptor that the reference resolves to: of an index, or of the manifest itself.
    pub descriptor: Descriptor,
    /// Manifest of the platform.
    pub manifest: Descriptor,
    /// Digest of the configuration blob.
    pub(crate) config_digest: Digest,
    /// Configuration, as the blob has it.
    pub config: ImageConfig,
    /// Settings that the image's author attached for machines made from it.
    pub settings: MachineSettings,
    /// Layers, the lowest first.
    pub(crate) layers: Vec<Layer>,
}

impl Image {
    /// Returns the blobs of the layers, the lowest layer first.
    pub(crate) fn blobs(&self) -> impl ExactSizeIterator<Item = &Descriptor> {
        self.layers.iter().map(|layer| &layer.blob)
    }
}

/// Layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Blob as it was transferred, usually compressed.
    pub(crate) blob: Descriptor,
    pub(crate) compression: Compression,
    /// Digest of the decompressed archive.
    pub(crate) diff_id: Digest,
}
