//! From what has changed in a machine to an image: its base's layers and one more over them.
//!
//! The layer's archive is hashed and compressed as it comes. The new image's configuration and
//! manifest are the base's with what is new in them; whatever else stands there stays as it is. A
//! Docker base becomes an OCI image: its layers are the same bytes under OCI's names. Blobs come
//! first, the reference last, so that a crash or an error leaves at most blobs that nothing leads
//! to.

mod change;
mod documents;
mod error;
mod layer;
mod listing;

use std::io::Read;

use jiff::{Timestamp, Unit};

pub use change::{Change, InvalidChange};
pub use error::CommitError;
pub use layer::LayerFormat;
pub use listing::write_listing_of_base;

use crate::{
    Descriptor, Digest, Image, ImageStore, Reference,
    media_type::{OCI_CONFIG, OCI_MANIFEST},
    store::StoreError,
};

/// What a new image is to say of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// Who made it.
    pub author: Option<String>,
    /// What it is, for its history.
    pub message: Option<String>,
    /// What is to differ from the base's configuration.
    pub changes: Vec<Change>,
    /// How its layer is packed.
    pub format: LayerFormat,
}

impl ImageStore {
    /// Makes an image of a base and this archive of changes over it, and gives it the reference,
    /// whatever that meant before. The base's machine settings are the new image's too.
    /// `progress` hears how many bytes of the archive have been read.
    ///
    /// Works on the calling thread, for as long as the archive takes to come.
    ///
    /// # Errors
    /// [`CommitError`]; the reference means what it meant before then.
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
        let manifest = self.document(&base.manifest.digest)?;
        let config = self.document(&documents::config_digest(&manifest)?)?;
        let config = documents::config(config, &layer, options, &now)?;
        let config = self.keep_document(&config, OCI_CONFIG)?;
        let manifest = documents::manifest(&manifest, &config, &layer.blob)?;
        let manifest = self.keep_document(&manifest, OCI_MANIFEST)?;
        let settings = self.find_settings(&base.reference, &base.manifest.digest)?;
        self.remember_settings(reference, &manifest.digest, settings.as_ref())?;
        self.give(&[(manifest.clone(), Some(reference.clone()))])?;
        Ok(manifest)
    }

    fn document(&self, digest: &Digest) -> Result<serde_json::Value, CommitError> {
        let bytes = self.small(digest)?;
        let bytes = bytes.ok_or(CommitError::Missing(*digest))?;
        serde_json::from_slice(&bytes).map_err(|error| CommitError::Base(error.to_string()))
    }

    fn keep_document(
        &self,
        document: &serde_json::Value,
        media_type: &str,
    ) -> Result<Descriptor, StoreError> {
        let bytes = document.to_string().into_bytes();
        let descriptor = Descriptor {
            digest: Digest::of(&bytes),
            media_type: media_type.to_owned(),
            size: bytes.len() as u64,
        };
        self.keep(&descriptor, &bytes)?;
        Ok(descriptor)
    }
}

#[cfg(test)]
mod tests;
