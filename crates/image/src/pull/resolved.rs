//! Images built from their documents.

use super::PullError;
use crate::{
    Descriptor, Image, MachineSettings, Platform, Reference,
    image::Layer,
    manifest::{self, ImageManifest, ManifestError},
};

/// Manifest that a reference resolves to on one platform.
pub(super) struct ResolvedManifest {
    /// Descriptor that the reference names: of an index, or of the manifest itself.
    pub(super) top: Descriptor,
    /// Manifest of the platform.
    pub(super) descriptor: Descriptor,
    pub(super) manifest: ImageManifest,
}

impl ResolvedManifest {
    /// Builds the image from the manifest and its configuration `config`. It has no machine
    /// settings yet.
    ///
    /// # Errors
    /// [`PullError::Manifest`] if the configuration is invalid, or of another platform than
    /// `wanted`: a manifest without an index does not say which one it is for.
    pub(super) fn into_image(
        self,
        reference: &Reference,
        wanted: &Platform,
        config: &[u8],
    ) -> Result<Image, PullError> {
        let ImageManifest {
            config: config_blob,
            layers,
        } = self.manifest;
        let document = manifest::parse_config(config, layers.len())?;
        let platform = &document.config.platform;
        if wanted.distance(platform).is_none() {
            let error = ManifestError::PlatformNotFound {
                wanted: wanted.clone(),
                offered: vec![platform.clone()],
            };
            return Err(error.into());
        }
        let layers = layers.into_iter().zip(document.diff_ids);
        let layers = layers.map(|((blob, compression), diff_id)| Layer {
            blob,
            compression,
            diff_id,
        });
        Ok(Image {
            reference: reference.clone(),
            descriptor: self.top,
            manifest: self.descriptor,
            config_digest: config_blob.digest,
            config: document.config,
            settings: MachineSettings::default(),
            layers: layers.collect(),
        })
    }
}
