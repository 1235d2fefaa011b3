//! What can be wrong with an archive.

use crate::{Digest, registry::FetchError, store::StoreError, tar::TarError};

/// Why nothing was loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The archive cannot be read.
    #[error("the archive cannot be read: {0}")]
    Tar(#[from] TarError),
    /// It has more in it than any honest archive.
    #[error("the archive has more than {limit} {what}, which no honest one needs")]
    TooMuch {
        /// What it has too many of.
        what: &'static str,
        /// How many are taken.
        limit: usize,
    },
    /// It is larger than it may be.
    #[error(
        "the archive unpacks to more than {0} bytes; if you trust it, raise most-bytes of [image] in config.toml"
    )]
    TooLarge(u64),
    /// A name in it leads out of it.
    #[error("the name {name:?} in the archive leads out of it")]
    Outside {
        /// The name.
        name: String,
    },
    /// It is some other archive.
    #[error(
        "there are no images in the archive: neither the index.json of an OCI image layout is in it, nor the manifest.json that `docker save` writes"
    )]
    NoImages,
    /// There is no telling which of its images is meant.
    #[error("there are {0} images in the archive where one was expected")]
    NotOne(usize),
    /// An image is not whole.
    #[error("the archive is incomplete: {what} of the image {image} is not in it")]
    Missing {
        /// Which image.
        image: String,
        /// What of it.
        what: String,
    },
    /// A piece of content has another size than is said.
    #[error(
        "in the archive {digest} has {found} bytes where the image {image} promises {expected}"
    )]
    WrongSize {
        /// Which image.
        image: String,
        /// Which content.
        digest: Digest,
        /// Bytes that were promised.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// An image's description cannot be used.
    #[error("the image {image} in the archive: {source}")]
    Image {
        /// Which image.
        image: String,
        /// What is wrong with it.
        source: FetchError,
    },
    /// A list of images cannot be read.
    #[error("{name} in the archive cannot be understood: {reason}")]
    Malformed {
        /// Which file.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
