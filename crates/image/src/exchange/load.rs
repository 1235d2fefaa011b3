//! From an archive into the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

use super::{LoadError, docker, layout, members::Members};
use crate::{
    Descriptor, Digest, Hold, ImageStore, Reference,
    manifest::{self, Manifest, Offer},
    registry::FetchError,
};

/// Indexes that lead to indexes are followed this far.
const DEEPEST: usize = 4;

/// How to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// The registry that names without one belong to.
    pub default_registry: String,
    /// Bytes that the archive may unpack to.
    pub most_bytes: u64,
    /// What the only image in it is to be called, whatever the archive calls it.
    pub called: Option<Reference>,
}

/// An image that came out of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// An index, or a manifest itself.
    pub descriptor: Descriptor,
    /// What the archive calls it; nothing if it does not say.
    pub references: Vec<Reference>,
}

impl ImageStore {
    /// Takes all images out of an archive that comes as a stream, packed with gzip or zstd or not at
    /// all: an OCI image layout or what `docker save` writes. They get the names that they have
    /// there, whatever those meant before; one without a name stays until it is pruned.
    ///
    /// Works on the calling thread for as long as the stream takes to come; to give it up, let the
    /// stream fail. `progress` hears how many of its bytes have come. `_hold` keeps what is in the
    /// store already.
    ///
    /// # Errors
    /// [`LoadError`]; nothing is loaded then, and every name means what it meant before.
    pub fn load(
        &self,
        _hold: &Hold,
        source: impl Read,
        options: &LoadOptions,
        progress: &dyn Fn(u64),
    ) -> Result<Vec<LoadedImage>, LoadError> {
        let mut members = Members::read(self, source, options.most_bytes, progress)?;
        let registry = &options.default_registry;
        let mut found = match layout::images(&members, registry)? {
            Some(images) => images,
            None => docker::images(&mut members, registry)?.ok_or(LoadError::NoImages)?,
        };
        if let Some(called) = &options.called {
            match found.as_mut_slice() {
                [image] => image.references = vec![called.clone()],
                images => return Err(LoadError::NotOne(images.len())),
            }
        }
        let mut needed = BTreeSet::new();
        for image in &found {
            Whole {
                members: &members,
                image: &image.called(),
                needed: &mut needed,
            }
            .check(&image.descriptor, 0)?;
        }
        members.keep(&needed)?;
        let named = found.iter().flat_map(|image| {
            let references = image.references.iter().cloned().map(Some);
            let unnamed = image.references.is_empty().then_some(None);
            let references = references.chain(unnamed);
            references.map(|reference| (image.descriptor.clone(), reference))
        });
        let named: Vec<_> = named.collect();
        self.give(&named)?;
        Ok(found)
    }
}

impl LoadedImage {
    /// Its name, or its digest where it has none.
    fn called(&self) -> String {
        let first = self.references.first();
        first.map_or_else(|| self.descriptor.digest.to_string(), Reference::to_string)
    }
}

/// One image for each digest, with all of its names, in the order of the archive.
pub(super) fn together(all: Vec<(Descriptor, Option<Reference>)>) -> Vec<LoadedImage> {
    let mut positions: BTreeMap<Digest, usize> = BTreeMap::new();
    let mut images: Vec<LoadedImage> = Vec::new();
    for (descriptor, reference) in all {
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

/// Finds whether an image is whole, for one platform at least, and what it needs.
struct Whole<'a> {
    members: &'a Members,
    image: &'a str,
    needed: &'a mut BTreeSet<Digest>,
}

impl Whole<'_> {
    fn check(&mut self, top: &Descriptor, depth: usize) -> Result<(), LoadError> {
        self.ensure_there(top, "the manifest")?;
        let bytes = self.members.small(&top.digest)?;
        let bytes = bytes.ok_or_else(|| self.too_large("manifest"))?;
        let parsed = manifest::parse(&bytes, Some(&top.media_type));
        let (parsed, _) = parsed.map_err(|error| self.unusable(error))?;
        match parsed {
            Manifest::Image(parts) => {
                self.ensure_there(&parts.config, "the configuration")?;
                let config = self.members.small(&parts.config.digest)?;
                let config = config.ok_or_else(|| self.too_large("configuration"))?;
                manifest::configuration(&config, parts.layers.len())
                    .map_err(|error| self.unusable(error))?;
                self.needed.insert(parts.config.digest);
                for (number, (layer, _)) in parts.layers.iter().enumerate() {
                    self.ensure_there(layer, &format!("layer {}", number + 1))?;
                    self.needed.insert(layer.digest);
                }
            }
            Manifest::Index(_) if depth == DEEPEST => {
                return Err(self.unusable(FetchError::Malformed {
                    what: "index",
                    reason: "it leads to an index that leads to an index, and on".to_owned(),
                }));
            }
            Manifest::Index(entries) => {
                // What is for other platforms may have been left out of the archive.
                let mut here = Vec::new();
                for Offer { platform, manifest } in &entries {
                    let is_here = self.members.size(manifest).is_some();
                    if is_here && (platform.is_some() || self.may_be_image(manifest)?) {
                        here.push(manifest);
                    }
                }
                if here.is_empty() {
                    return Err(self.missing("everything for any platform"));
                }
                for entry in here {
                    self.check(entry, depth + 1)?;
                }
            }
        }
        self.needed.insert(top.digest);
        Ok(())
    }

    /// Whether a manifest for no platform is one of an image or an index at all.
    fn may_be_image(&self, manifest: &Descriptor) -> Result<bool, LoadError> {
        let bytes = self.members.small(&manifest.digest)?.unwrap_or_default();
        Ok(manifest::parse(&bytes, Some(&manifest.media_type)).is_ok())
    }

    fn ensure_there(&self, descriptor: &Descriptor, what: &str) -> Result<(), LoadError> {
        match self.members.size(descriptor) {
            Some(size) if size == descriptor.size => Ok(()),
            Some(found) => Err(LoadError::WrongSize {
                image: self.image.to_owned(),
                digest: descriptor.digest,
                expected: descriptor.size,
                found,
            }),
            None => Err(self.missing(&format!("{what} {}", descriptor.digest))),
        }
    }

    fn missing(&self, what: &str) -> LoadError {
        LoadError::Missing {
            image: self.image.to_owned(),
            what: what.to_owned(),
        }
    }

    fn too_large(&self, what: &'static str) -> LoadError {
        self.unusable(FetchError::TooLarge {
            what,
            limit: crate::registry::LARGEST_MANIFEST,
        })
    }

    fn unusable(&self, source: FetchError) -> LoadError {
        LoadError::Image {
            image: self.image.to_owned(),
            source,
        }
    }
}
