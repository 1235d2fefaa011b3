//! Resolving a user's word to an image: a reference, a digest, or the beginning of a digest.

use super::{ImageStore, StoreError, StoredImage};
use crate::{Reference, reference::ReferenceError};

/// Minimum length of a digest prefix. Shorter ones are too likely to be words.
const MIN_DIGITS: usize = 4;

/// Stored images that a word refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved<'a> {
    /// An image, by one of its references.
    Name(&'a StoredImage, Reference),
    /// An image, by its digest.
    Digest(&'a StoredImage),
}

/// The word does not refer to one image.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The word is neither a valid reference nor the beginning of a digest.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No image has this name or digest.
    #[error("image {0:?} not found (list images with: container image ls)")]
    NotFound(String),
    /// The image has no name, but the operation needs one.
    #[error("image {0:?} has no name (assign one with: container image tag)")]
    Unnamed(String),
    /// The digests of several images begin with the word.
    #[error("{word:?} is ambiguous: several images' digests begin with it: {}", .digests.join(", "))]
    Ambiguous {
        /// Name or digest prefix that was entered.
        word: String,
        /// Digests of these images.
        digests: Vec<String>,
    },
}

impl<'a> Resolved<'a> {
    /// Returns the image.
    pub fn image(&self) -> &'a StoredImage {
        match self {
            Resolved::Name(image, _) | Resolved::Digest(image) => image,
        }
    }

    /// Finds the image that a word refers to: by reference, by digest, or by the beginning of
    /// exactly one digest. References win: `cafe` is an image of that name before it is a digest.
    ///
    /// # Errors
    /// [`ResolveError`] if there is not exactly one.
    pub fn find(
        word: &str,
        default_registry: &str,
        images: &'a [StoredImage],
    ) -> Result<Resolved<'a>, ResolveError> {
        let parsed = Reference::parse(word, default_registry);
        if let Ok(reference) = &parsed
            && let Some(resolved) = Resolved::by_name(reference, images)
        {
            return Ok(resolved);
        }
        let prefix = digest_prefix(word);
        let begins = |image: &&StoredImage| {
            let digest = image.descriptor.digest.hex();
            prefix.is_some_and(|prefix| digest.starts_with(prefix))
        };
        let found: Vec<&StoredImage> = images.iter().filter(begins).collect();
        match (found.as_slice(), parsed) {
            ([one], _) => Ok(Resolved::Digest(one)),
            ([], Err(error)) if prefix.is_none() => Err(error.into()),
            ([], _) => Err(ResolveError::NotFound(shortened(word))),
            (several, _) => Err(ResolveError::Ambiguous {
                word: shortened(word),
                digests: several
                    .iter()
                    .map(|image| image.descriptor.digest.to_string())
                    .collect(),
            }),
        }
    }

    fn by_name(reference: &Reference, images: &'a [StoredImage]) -> Option<Resolved<'a>> {
        let has_reference = |image: &&StoredImage| image.references.contains(reference);
        if let Some(image) = images.iter().find(has_reference) {
            return Some(Resolved::Name(image, reference.clone()));
        }
        // An image that was pulled by tag is also known as `repository@digest`.
        let digest = reference.digest()?;
        let is_same_repository = |it: &Reference| {
            (it.registry(), it.repository()) == (reference.registry(), reference.repository())
        };
        let is_match = |image: &&StoredImage| {
            image.descriptor.digest == digest && image.references.iter().any(is_same_repository)
        };
        images.iter().find(is_match).map(Resolved::Digest)
    }
}

impl ImageStore {
    /// Returns the reference that a word is, or a reference to the image whose digest begins with
    /// it.
    ///
    /// # Errors
    /// [`ResolveError`] if several digests begin with it, or if it is neither a valid reference nor
    /// a digest.
    pub fn reference(&self, word: &str, default_registry: &str) -> Result<Reference, ResolveError> {
        let parsed = Reference::parse(word, default_registry);
        if digest_prefix(word).is_none() {
            return Ok(parsed?);
        }
        let images = self.images(&[])?;
        match Resolved::find(word, default_registry, &images) {
            Ok(Resolved::Name(_, reference)) => Ok(reference),
            Ok(Resolved::Digest(image)) => match image.references.first() {
                Some(name) => Ok(name.with_digest(&image.descriptor.digest)),
                None => Err(ResolveError::Unnamed(shortened(word))),
            },
            Err(ResolveError::NotFound(_)) => Ok(parsed?),
            Err(error) => Err(error),
        }
    }
}

/// Returns the hexadecimal digits of a word that may be the beginning of a digest.
fn digest_prefix(word: &str) -> Option<&str> {
    let hex = word.strip_prefix("sha256:").unwrap_or(word);
    let is_hex = |letter: u8| matches!(letter, b'0'..=b'9' | b'a'..=b'f');
    ((MIN_DIGITS..=64).contains(&hex.len()) && hex.bytes().all(is_hex)).then_some(hex)
}

fn shortened(word: &str) -> String {
    word.chars().take(300).collect()
}
