//! Error of the document parsers.

use crate::Platform;

/// Error in a manifest, an index or an image configuration.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The document cannot be parsed, or contradicts itself.
    #[error("invalid {document}: {reason}")]
    Invalid {
        /// Kind of the document, such as `index`.
        document: &'static str,
        /// First error that was found, at most 300 characters.
        reason: String,
    },
    /// The document is too large to be read into memory.
    #[error("{document} is larger than {limit} bytes")]
    TooLarge {
        /// Kind of the document.
        document: &'static str,
        /// Limit in bytes.
        limit: u64,
    },
    /// The document, or a blob that it references, has an unknown media type.
    #[error(
        "media type {media_type:?} of the {document} is not supported (only Docker schema 2 and OCI images are)"
    )]
    UnsupportedMediaType {
        /// Kind of the document or blob.
        document: &'static str,
        /// Its media type; `none` for a document without one.
        media_type: String,
    },
    /// The image is not available for the platform.
    #[error("platform {wanted} not found in the image, only {}", list(.offered))]
    PlatformNotFound {
        /// Platform that was requested.
        wanted: Platform,
        /// Platforms that the image has.
        offered: Vec<Platform>,
    },
}

impl ManifestError {
    /// Returns a constructor for an invalid document.
    pub(super) fn invalid<E: ToString>(document: &'static str) -> impl FnOnce(E) -> ManifestError {
        move |error| ManifestError::Invalid {
            document,
            // A parser may quote the whole document.
            reason: error.to_string().chars().take(300).collect(),
        }
    }
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<String> = platforms.iter().map(Platform::to_string).collect();
    words.join(", ")
}
