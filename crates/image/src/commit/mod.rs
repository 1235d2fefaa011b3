//! Committing a machine: its changes become a layer over the layers of the image that it was made
//! from.
//!
//! The layer's archive is hashed and compressed while it is read. Configuration and manifest are
//! the base's with the additions; unknown fields are kept. A Docker base becomes an OCI image, as
//! its layers have the same bytes under OCI's media types. Blobs are written first and the
//! reference last, so a crash or an error leaves at most unreferenced blobs.

mod change;
mod documents;
mod error;
mod format;
mod layer;
mod listing;
mod options;

use std::io::Read;

use jiff::{Timestamp, Unit};

pub use change::{Change, InvalidChange};
pub use error::CommitError;
pub use format::{InvalidLayerFormat, LayerFormat};
pub use listing::write_listing_of_base;
pub use options::CommitOptions;

use crate::{
    Descriptor, Digest, Image, ImageStore, Reference,
    media_type::{OCI_CONFIG, OCI_MANIFEST},
    store::StoreError,
};

impl ImageStore {
    /// Makes an image of a base and an archive of changes, and assigns the reference to it, moving
    /// the reference if it is in use. The base's machine settings are copied. `progress` is called
    /// with the number of bytes of the archive read so far.
    ///
    /// Works on the calling thread until the archive ends.
    ///
    /// # Errors
    /// [`CommitError`]. The reference is unchanged then.
    pub fn commit(
        &self,
        base: &Image,
        reference: &Reference,
        archive: &mut dyn Read,
        options: &CommitOptions,
        progress: &dyn Fn(u64),
    ) -> Result<Descriptor, CommitError> {
        if reference.digest().is_some() {
            return Err(CommitError::Digest(reference.to_string()));
        }
        let layer = layer::write(self, archive, options.format, progress)?;
        let now = Timestamp::now().round(Unit::Second);
        let now = now.unwrap_or_default().to_string();
        let manifest = self.read_document(&base.manifest.digest)?;
        let config = self.read_document(&documents::config_digest(&manifest)?)?;
        let config = documents::config(config, &layer, options, &now)?;
        let config = self.write_document(&config, OCI_CONFIG)?;
        let manifest = documents::manifest(&manifest, &config, &layer.blob)?;
        let manifest = self.write_document(&manifest, OCI_MANIFEST)?;
        let settings = self.find_settings(&base.reference, &base.manifest.digest)?;
        self.record_settings(reference, &manifest.digest, settings.as_ref())?;
        self.assign_names(&[(manifest.clone(), Some(reference.clone()))])?;
        Ok(manifest)
    }

    fn read_document(&self, digest: &Digest) -> Result<serde_json::Value, CommitError> {
        let bytes = self.read_small(digest)?;
        let bytes = bytes.ok_or(CommitError::Missing(*digest))?;
        serde_json::from_slice(&bytes).map_err(|error| CommitError::Base(error.to_string()))
    }

    fn write_document(
        &self,
        document: &serde_json::Value,
        media_type: &str,
    ) -> Result<Descriptor, StoreError> {
        let bytes = document.to_string().into_bytes();
        let descriptor = Descriptor {
            digest: Digest::compute(&bytes),
            media_type: media_type.to_owned(),
            size: bytes.len() as u64,
        };
        self.write_blob(&descriptor, &bytes)?;
        Ok(descriptor)
    }
}

#[cfg(test)]
mod tests;
