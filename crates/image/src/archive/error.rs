//! Errors of loading an image archive.

use crate::{Digest, manifest::ManifestError, store::StoreError, tar::TarError};

/// Error of loading an archive. Nothing was loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The stream is not a readable tar archive.
    #[error("cannot read the archive: {0}")]
    Tar(TarError),
    /// A limit that protects memory was exceeded.
    #[error("the archive has more than {limit} {what}, which is not supported")]
    TooMany {
        /// Counted items, in the plural.
        what: &'static str,
        /// Largest permitted number.
        limit: usize,
    },
    /// The members have more bytes than [`LoadOptions::most_bytes`](super::LoadOptions).
    #[error(
        "the archive unpacks to more than {0} bytes; if you trust it, raise most-bytes of [image] in config.toml"
    )]
    TooLarge(u64),
    /// A member's name or link is absolute or leads out of the archive with `..`.
    #[error("invalid name {name:?} in the archive: it leads out of the archive")]
    Outside {
        /// The name or link target.
        name: String,
    },
    /// The archive is neither a layout nor one of `docker save`, or it lists no images.
    #[error(
        "no images found in the archive: it has neither the index.json of an OCI image layout nor the manifest.json of `docker save`"
    )]
    NoImages,
    /// [`LoadOptions::name_override`](super::LoadOptions) needs an archive with exactly one image.
    #[error("the archive has {0} images instead of one")]
    ExpectedOne(usize),
    /// A part of an image is not in the archive.
    #[error("the archive is incomplete: {what} of image {image:?} is missing")]
    Missing {
        /// The image's name or digest.
        image: String,
        /// Missing part: a member of the archive, or a blob with its kind.
        what: String,
    },
    /// A blob does not have the size that its descriptor says.
    #[error("image {image:?}: {digest} in the archive has {found} bytes instead of {expected}")]
    WrongSize {
        /// The image's name or digest.
        image: String,
        /// Digest of the blob.
        digest: Digest,
        /// Size in the descriptor.
        expected: u64,
        /// Size in the archive.
        found: u64,
    },
    /// An image's manifest or configuration is invalid or not supported.
    #[error("image {image:?}: {cause}")]
    Image {
        /// The image's name or digest.
        image: String,
        /// Error of the document.
        cause: ManifestError,
    },
    /// An uncompressed layer is not the one that the configuration names.
    #[error("image {image:?}: a layer in the archive has the digest {found} instead of {expected}")]
    WrongLayer {
        /// The image's name or digest.
        image: String,
        /// Digest in the configuration.
        expected: Digest,
        /// Digest of the layer.
        found: Digest,
    },
    /// The archive's list of images is invalid.
    #[error("invalid {name} in the archive: {reason}")]
    Malformed {
        /// The member: `index.json` or `manifest.json`.
        name: &'static str,
        /// Rule that it breaks.
        reason: String,
    },
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<TarError> for LoadError {
    fn from(cause: TarError) -> LoadError {
        LoadError::Tar(cause)
    }
}
