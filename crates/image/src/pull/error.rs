//! Error of a pull.

use crate::{
    Digest,
    local::LocalStoreError,
    manifest::ManifestError,
    registry::RegistryError,
    settings::{InvalidSettings, StoredSettingsError},
    store::StoreError,
};

/// Error of a pull. It does not name the image; [`ImageError::Pull`](crate::ImageError::Pull) does.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// A request to the registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The manifest, an index or the configuration of the image is invalid.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The machine settings that are attached to the image are invalid.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// The registry sent another manifest than the requested one.
    #[error(
        "the manifest has digest {found} instead of {expected}: it was changed or damaged in transit (it was discarded)"
    )]
    WrongManifest {
        /// Digest that was requested.
        expected: Digest,
        /// Digest of the received bytes.
        found: Digest,
    },
    /// Another program on this host has the image, but cannot provide it.
    #[error(transparent)]
    Local(#[from] LocalStoreError),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PullError {
    /// Whether the registry cannot be reached, so that an image in the store may be used.
    pub(super) fn is_offline(&self) -> bool {
        matches!(self, PullError::Registry(error) if error.is_offline())
    }

    /// Whether it is more than a failed request: the content is wrong, or cannot be stored.
    pub(crate) fn is_integrity_or_store_error(&self) -> bool {
        matches!(self, PullError::WrongManifest { .. } | PullError::Store(_))
    }
}

impl From<StoredSettingsError> for PullError {
    fn from(error: StoredSettingsError) -> PullError {
        match error {
            StoredSettingsError::Invalid(error) => PullError::Settings(error),
            StoredSettingsError::Store(error) => PullError::Store(error),
        }
    }
}
