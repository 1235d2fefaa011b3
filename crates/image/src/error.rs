//! What can go wrong, made into sentences once.

use crate::{
    exchange::{LoadError, SaveError},
    platform::InvalidPlatform,
    push::PushError,
    reference::ReferenceError,
    registry::{FetchError, InvalidScheme},
    store::{NotMeant, StoreError},
    unpack::UnpackError,
};

/// Why there is no image, or no disk made from it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The platform.
    #[error(transparent)]
    Platform(#[from] InvalidPlatform),
    /// The scheme.
    #[error(transparent)]
    Scheme(#[from] InvalidScheme),
    /// The way from the registry.
    #[error("{}", fetching(reference, source))]
    Fetch {
        /// Which image.
        reference: String,
        /// What went wrong.
        source: Box<FetchError>,
    },
    /// The way to the registry.
    #[error("pushing the image {reference}: {source}")]
    Push {
        /// Which image.
        reference: String,
        /// What went wrong.
        source: Box<PushError>,
    },
    /// The way to the disk.
    #[error("unpacking the image {reference}: {source}")]
    Unpack {
        /// Which image.
        reference: String,
        /// What went wrong.
        source: Box<UnpackError>,
    },
    /// A word that names no image.
    #[error(transparent)]
    NotMeant(#[from] NotMeant),
    /// The way from an archive.
    #[error("loading images: {0}")]
    Load(#[from] LoadError),
    /// The way into an archive.
    #[error("saving images: {0}")]
    Save(#[from] SaveError),
    /// The store itself.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An error that names the image itself needs no second name.
fn fetching(reference: &str, source: &FetchError) -> String {
    match source {
        FetchError::NotFound { .. } => source.to_string(),
        _ => format!("fetching the image {reference}: {source}"),
    }
}

impl ImageError {
    /// Whether the image would fit into a larger file system.
    pub fn is_of_size(&self) -> bool {
        matches!(self, ImageError::Unpack { source, .. } if source.is_of_size())
    }

    /// Whether no disk was made because a layer did not arrive.
    pub(crate) fn is_of_missing_layer(&self) -> bool {
        matches!(self, ImageError::Unpack { source, .. } if source.is_of_missing_layer())
    }
}
