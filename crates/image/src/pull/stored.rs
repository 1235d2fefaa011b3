//! Images that are complete in the store.

use super::{PullError, resolved::ResolvedManifest};
use crate::{
    Descriptor, Digest, Image, ImageError, ImageStore, Platform, Reference,
    manifest::{self, IndexDepth, Manifest},
};

impl ImageStore {
    /// Returns the image if it is complete in the store. Sends no request.
    ///
    /// # Errors
    /// [`ImageError::Pull`] if the store cannot be read, or a document in it is invalid.
    pub(crate) fn find_local(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<Image>, ImageError> {
        let image = self.stored_image(reference, platform);
        image.map_err(|cause| ImageError::pull(reference, cause))
    }

    pub(super) fn stored_image(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<Image>, PullError> {
        let Some(resolved) = self.resolve_stored(reference, platform)? else {
            return Ok(None);
        };
        let Some(config) = self.read_small(&resolved.manifest.config.digest)? else {
            return Ok(None);
        };
        let mut image = resolved.into_image(reference, platform, &config)?;
        let Some(settings) = self.stored_settings(reference, &image.manifest.digest)? else {
            return Ok(None);
        };
        image.settings = settings;
        let is_complete = image.blobs().all(|blob| self.has_blob(blob));
        Ok(is_complete.then_some(image))
    }

    /// Follows the reference through the indexes in the store to the manifest of the platform.
    fn resolve_stored(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<ResolvedManifest>, PullError> {
        let known = self.find_reference(reference)?;
        let media_type = known.as_ref().map(|known| known.media_type.clone());
        let Some(digest) = reference.digest().or(known.map(|known| known.digest)) else {
            return Ok(None);
        };
        let Some((top, mut parsed)) = self.read_manifest(&digest, media_type.as_deref())? else {
            return Ok(None);
        };
        let (mut descriptor, mut depth) = (top.clone(), IndexDepth::default());
        loop {
            match parsed {
                Manifest::Image(manifest) => {
                    return Ok(Some(ResolvedManifest {
                        top,
                        descriptor,
                        manifest,
                    }));
                }
                Manifest::Index(entries) => {
                    depth = depth.descend()?;
                    let chosen = manifest::choose_platform(&entries, platform)?;
                    match self.read_manifest(&chosen.digest, Some(&chosen.media_type))? {
                        Some(next) => (descriptor, parsed) = next,
                        None => return Ok(None),
                    }
                }
            }
        }
    }

    /// Reads a manifest or index from the store. `media_type` is used if the document has none.
    pub(super) fn read_manifest(
        &self,
        digest: &Digest,
        media_type: Option<&str>,
    ) -> Result<Option<(Descriptor, Manifest)>, PullError> {
        let Some(bytes) = self.read_small(digest)? else {
            return Ok(None);
        };
        let (parsed, media_type) = manifest::parse(&bytes, media_type)?;
        let descriptor = Descriptor {
            digest: *digest,
            media_type,
            size: bytes.len() as u64,
        };
        Ok(Some((descriptor, parsed)))
    }
}
