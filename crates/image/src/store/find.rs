//! Which image somebody means.

use super::{ImageStore, StoredImage};
use crate::{ImageError, Reference};

/// Fewer digits of a digest than this name nothing: too many words are made of them.
const FEWEST_DIGITS: usize = 4;

/// What a word names among the images that are here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meant<'a> {
    /// An image by one of its names.
    Name(&'a StoredImage, Reference),
    /// An image by its digest, whatever it is called.
    Digest(&'a StoredImage),
}

/// Why a word names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMeant {
    /// There is none.
    #[error("there is no image {0} here: `container image ls` lists those there are")]
    Nothing(String),
    /// It has no name, and needs one.
    #[error("the image {0} has no name: give it one with `container image tag`")]
    Nameless(String),
    /// There are several.
    #[error("{word} begins the digests of several images: {}", .digests.join(", "))]
    Several {
        /// What was given.
        word: String,
        /// The digests.
        digests: Vec<String>,
    },
}

impl<'a> Meant<'a> {
    /// The image.
    pub fn image(&self) -> &'a StoredImage {
        match self {
            Meant::Name(image, _) | Meant::Digest(image) => image,
        }
    }

    /// Finds what a word names: a reference, a digest, or a beginning of a digest that begins no
    /// other one. What is a reference here is never taken for a digest.
    ///
    /// # Errors
    /// [`ImageError::NotMeant`], and [`ImageError::Reference`] for a word that could name nothing.
    pub fn find(
        word: &str,
        default_registry: &str,
        images: &'a [StoredImage],
    ) -> Result<Meant<'a>, ImageError> {
        let parsed = Reference::parse(word, default_registry);
        if let Ok(reference) = &parsed
            && let Some(meant) = Meant::by_name(reference, images)
        {
            return Ok(meant);
        }
        let beginning = beginning(word);
        let begins = |image: &&StoredImage| {
            let digest = image.descriptor.digest.hex();
            beginning.is_some_and(|beginning| digest.starts_with(beginning))
        };
        let found: Vec<&StoredImage> = images.iter().filter(begins).collect();
        match (found.as_slice(), parsed) {
            ([one], _) => Ok(Meant::Digest(one)),
            ([], Err(error)) if beginning.is_none() => Err(error),
            ([], _) => Err(NotMeant::Nothing(shortened(word)).into()),
            (several, _) => Err(NotMeant::Several {
                word: shortened(word),
                digests: several
                    .iter()
                    .map(|image| image.descriptor.digest.to_string())
                    .collect(),
            }
            .into()),
        }
    }

    fn by_name(reference: &Reference, images: &'a [StoredImage]) -> Option<Meant<'a>> {
        let is_it = |image: &&StoredImage| image.references.contains(reference);
        if let Some(image) = images.iter().find(is_it) {
            return Some(Meant::Name(image, reference.clone()));
        }
        // A tag that was pulled may be named by its digest too.
        let digest = reference.digest()?;
        let is_same = |it: &Reference| {
            (it.registry(), it.repository()) == (reference.registry(), reference.repository())
        };
        let is_it = |image: &&StoredImage| {
            image.descriptor.digest == digest && image.references.iter().any(is_same)
        };
        images.iter().find(is_it).map(Meant::Digest)
    }
}

impl ImageStore {
    /// The reference that a word is, or that leads to the image whose digest it begins.
    ///
    /// # Errors
    /// [`ImageError::NotMeant`] if it begins several, and [`ImageError::Reference`] for a word that
    /// could name nothing.
    pub fn reference(&self, word: &str, default_registry: &str) -> Result<Reference, ImageError> {
        let parsed = Reference::parse(word, default_registry);
        if beginning(word).is_none() {
            return parsed;
        }
        let images = self.images(&[])?;
        match Meant::find(word, default_registry, &images) {
            Ok(Meant::Name(_, reference)) => Ok(reference),
            Ok(Meant::Digest(image)) => match image.references.first() {
                Some(name) => Ok(name.with_digest(&image.descriptor.digest)),
                None => Err(NotMeant::Nameless(shortened(word)).into()),
            },
            Err(ImageError::NotMeant(NotMeant::Nothing(_))) => parsed,
            Err(error) => Err(error),
        }
    }
}

/// The hexadecimal digits in a word that may begin a digest.
fn beginning(word: &str) -> Option<&str> {
    let hex = word.strip_prefix("sha256:").unwrap_or(word);
    let is_hex = |letter: u8| matches!(letter, b'0'..=b'9' | b'a'..=b'f');
    ((FEWEST_DIGITS..=64).contains(&hex.len()) && hex.bytes().all(is_hex)).then_some(hex)
}

fn shortened(word: &str) -> String {
    word.chars().take(300).collect()
}
