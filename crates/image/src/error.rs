//! Error of the operations that turn a reference into an image or a base.

use crate::{
    archive::{LoadError, SaveError},
    platform::InvalidPlatform,
    pull::PullError,
    push::PushError,
    reference::{Reference, ReferenceError},
    registry::InvalidScheme,
    store::{ResolveError, StoreError},
    unpack::UnpackError,
};

/// Error of an operation on images. The errors of the operations themselves do not name the image;
/// this one adds its reference.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference is invalid.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The platform is invalid.
    #[error(transparent)]
    Platform(#[from] InvalidPlatform),
    /// The scheme is invalid.
    #[error(transparent)]
    Scheme(#[from] InvalidScheme),
    /// The image cannot be fetched from its registry or imported from a local store.
    #[error("cannot pull image {reference:?}: {cause}")]
    Pull {
        /// Reference of the image.
        reference: String,
        /// Error of the pull.
        cause: Box<PullError>,
    },
    /// The image cannot be sent to its registry.
    #[error("cannot push image {reference:?}: {cause}")]
    Push {
        /// Reference of the image.
        reference: String,
        /// Error of the push.
        cause: Box<PushError>,
    },
    /// The layers cannot be unpacked into a base.
    #[error("cannot unpack image {reference:?}: {cause}")]
    Unpack {
        /// Reference of the image.
        reference: String,
        /// Error of the unpacking.
        cause: Box<UnpackError>,
    },
    /// No image in the store has the name or digest.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// An archive cannot be loaded.
    #[error("cannot load images: {0}")]
    Load(LoadError),
    /// An archive cannot be saved.
    #[error("cannot save images: {0}")]
    Save(SaveError),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<LoadError> for ImageError {
    fn from(error: LoadError) -> ImageError {
        ImageError::Load(error)
    }
}

impl From<SaveError> for ImageError {
    fn from(error: SaveError) -> ImageError {
        ImageError::Save(error)
    }
}

impl ImageError {
    pub(crate) fn pull(reference: &Reference, cause: PullError) -> ImageError {
        ImageError::Pull {
            reference: reference.to_string(),
            cause: Box::new(cause),
        }
    }

    /// Whether the image would fit into a larger base.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, ImageError::Unpack { cause, .. } if cause.is_out_of_space())
    }

    /// Whether unpacking failed because the download of a layer failed.
    pub(crate) fn is_missing_layer(&self) -> bool {
        matches!(self, ImageError::Unpack { cause, .. } if cause.is_missing_layer())
    }
}
