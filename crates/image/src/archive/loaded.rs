//! The images that were found in an archive.

use std::collections::BTreeMap;

use crate::{Descriptor, Digest, Reference};

/// An image loaded from an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Descriptor of its index or manifest.
    pub descriptor: Descriptor,
    /// References that the archive gives it, possibly none.
    pub references: Vec<Reference>,
}

impl LoadedImage {
    /// Returns its first reference, or its digest when it has none.
    pub(super) fn display_name(&self) -> String {
        let first = self.references.first();
        first.map_or_else(|| self.descriptor.digest.to_string(), Reference::to_string)
    }
}

/// Merges entries of the same digest into one image with all its references, in the archive's
/// order.
pub(super) fn group_by_digest(named: Vec<(Descriptor, Option<Reference>)>) -> Vec<LoadedImage> {
    let mut positions: BTreeMap<Digest, usize> = BTreeMap::new();
    let mut images: Vec<LoadedImage> = Vec::new();
    for (descriptor, reference) in named {
        let position = *positions.entry(descriptor.digest).or_insert_with(|| {
            images.push(LoadedImage {
                descriptor,
                references: Vec::new(),
            });
            images.len() - 1
        });
        let references = &mut images[position].references;
        references.extend(reference.filter(|it| !references.contains(it)));
    }
    images
}
