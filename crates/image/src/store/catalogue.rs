//! The images in the store and their disk usage.

use std::{collections::HashMap, fs, io::ErrorKind, os::unix::fs::MetadataExt, path::PathBuf};

use super::{ImageStore, StoreError, image_blobs::ImageBlobs, index::LayoutEntry};
use crate::{
    Descriptor, Digest, ImageConfig, Platform, Reference,
    manifest::{self, Manifest},
};

/// An image in the store: everything that one digest refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// An index, or a manifest itself.
    pub descriptor: Descriptor,
    /// Its references; empty if they refer to other images by now.
    pub references: Vec<Reference>,
    /// The platforms for which all blobs are stored.
    pub variants: Vec<Variant>,
    /// The base images that were made from it.
    pub bases: Vec<Base>,
    /// Disk usage of its blobs and bases in bytes.
    pub disk_size: u64,
    /// Part of `disk_size` that other images share.
    pub shared_size: u64,
    pub(super) blobs: ImageBlobs,
}

/// Image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Manifest of the platform.
    pub manifest: Descriptor,
    /// Descriptor of the configuration blob.
    pub config_descriptor: Descriptor,
    /// Configuration, as the blob has it.
    pub config: ImageConfig,
    /// Layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// A base image: an ext4 file system made from an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Path of the file.
    pub path: PathBuf,
    /// Disk usage in bytes; the file is sparse.
    pub disk_size: u64,
    /// The manifest that it was made from; absent if the file's name does not begin with a digest.
    pub(super) manifest: Option<Digest>,
}

impl StoredImage {
    /// Whether the base at this path was made from this image.
    pub fn has_base(&self, path: &std::path::Path) -> bool {
        let name = path.file_name();
        let manifest = name.and_then(|name| manifest_of_base(name.to_str()?));
        manifest.is_some_and(|manifest| self.blobs.manifests.contains(&manifest))
    }

    /// Returns the variant that suits this platform best, else the first one.
    pub fn variant(&self, platform: &Platform) -> Option<&Variant> {
        self.variant_for(platform).or(self.variants.first())
    }

    /// Returns the variant that suits this platform best; `None` when no variant runs on it.
    pub fn variant_for(&self, platform: &Platform) -> Option<&Variant> {
        let fitting = self.variants.iter().filter_map(|variant| {
            let distance = platform.distance(&variant.config.platform)?;
            Some((distance, variant))
        });
        let nearest = fitting.min_by_key(|(distance, _)| *distance);
        nearest.map(|(_, variant)| variant)
    }

    /// Returns the indexes among its blobs; empty if the image is a single manifest.
    pub(crate) fn indexes(&self, store: &ImageStore) -> Result<Vec<Digest>, StoreError> {
        let mut indexes = Vec::new();
        for digest in &self.blobs.manifests {
            let bytes = store.read_small(digest)?.unwrap_or_default();
            if let Ok((Manifest::Index(_), _)) = manifest::parse(&bytes, None) {
                indexes.push(*digest);
            }
        }
        Ok(indexes)
    }
}

impl ImageStore {
    /// Returns the images in the store, sorted by name with unnamed ones last: all that the index
    /// lists, and those of `others` (images that machines were made from) that are stored.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub fn images(&self, others: &[Descriptor]) -> Result<Vec<StoredImage>, StoreError> {
        let entries = self.entries()?;
        let mut named: Vec<(Descriptor, Vec<Reference>)> = Vec::new();
        let mut add = |descriptor: &Descriptor, reference: Option<&Reference>| {
            let known = named
                .iter_mut()
                .find(|(known, _)| known.digest == descriptor.digest);
            match (known, reference) {
                (Some((_, references)), reference) => references.extend(reference.cloned()),
                (None, reference) => {
                    named.push((descriptor.clone(), reference.cloned().into_iter().collect()));
                }
            }
        };
        for entry in &entries {
            if let LayoutEntry::Image(descriptor, reference) = entry {
                add(descriptor, reference.as_ref());
            }
        }
        for descriptor in others {
            if self.blob_path(&descriptor.digest).exists() {
                add(descriptor, None);
            }
        }
        let bases = self.all_bases()?;
        let stored = named.into_iter().map(|(descriptor, mut references)| {
            references.sort_by_key(Reference::to_string);
            self.stored(descriptor, references, &entries, &bases)
        });
        let mut stored: Vec<StoredImage> = stored.collect::<Result<_, _>>()?;
        stored.sort_by_key(|image| match image.references.first() {
            Some(first) => (false, first.to_string()),
            None => (true, image.descriptor.digest.to_string()),
        });
        count_shared(&mut stored);
        Ok(stored)
    }

    fn stored(
        &self,
        descriptor: Descriptor,
        references: Vec<Reference>,
        entries: &[LayoutEntry],
        bases: &[Base],
    ) -> Result<StoredImage, StoreError> {
        let blobs = self.image_blobs([descriptor.digest], entries)?;
        let is_from_image = |base: &&Base| {
            let manifest = base.manifest.as_ref();
            manifest.is_some_and(|manifest| blobs.manifests.contains(manifest))
        };
        let bases: Vec<Base> = bases.iter().filter(is_from_image).cloned().collect();
        let blobs_size: u64 = blobs.sizes.values().sum();
        let mut variants = Vec::new();
        for manifest in &blobs.manifests {
            variants.extend(self.variant(manifest)?);
        }
        variants.sort_by_key(|variant| variant.config.platform.to_string());
        Ok(StoredImage {
            descriptor,
            references,
            variants,
            disk_size: blobs_size + bases.iter().map(|base| base.disk_size).sum::<u64>(),
            bases,
            shared_size: 0,
            blobs,
        })
    }

    /// Returns the variant that this manifest describes, unless it is not an image's manifest or a
    /// blob is missing.
    fn variant(&self, digest: &Digest) -> Result<Option<Variant>, StoreError> {
        let bytes = self.read_small(digest)?.unwrap_or_default();
        let Ok((Manifest::Image(parts), media_type)) = manifest::parse(&bytes, None) else {
            return Ok(None);
        };
        if !parts.layers.iter().all(|(layer, _)| self.has_blob(layer)) {
            return Ok(None);
        }
        let config = self.read_small(&parts.config.digest)?.unwrap_or_default();
        let Ok(document) = manifest::parse_config(&config, parts.layers.len()) else {
            return Ok(None);
        };
        let manifest = Descriptor {
            digest: *digest,
            media_type,
            size: bytes.len() as u64,
        };
        let layers = parts.layers.into_iter().map(|(layer, _)| layer).collect();
        Ok(Some(Variant {
            manifest,
            config_descriptor: parts.config,
            config: document.config,
            layers,
        }))
    }

    /// Returns all base images, whatever they were made from.
    pub(super) fn all_bases(&self) -> Result<Vec<Base>, StoreError> {
        let directory = self.bases();
        let reading = || StoreError::io("read", &directory);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(reading())?,
        };
        let mut bases = Vec::new();
        for entry in entries {
            let entry = entry.map_err(reading())?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata.map_err(reading())?,
            };
            bases.push(Base {
                path: entry.path(),
                disk_size: metadata.blocks() * 512,
                manifest: entry.file_name().to_str().and_then(manifest_of_base),
            });
        }
        bases.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(bases)
    }
}

/// Parses the manifest's digest at the start of a base image's file name.
fn manifest_of_base(name: &str) -> Option<Digest> {
    let (hex, _) = name.split_once('-')?;
    format!("sha256:{hex}").parse().ok()
}

fn count_shared(images: &mut [StoredImage]) {
    let mut blobs: HashMap<Digest, usize> = HashMap::new();
    let mut bases: HashMap<PathBuf, usize> = HashMap::new();
    for image in images.iter() {
        for blob in image.blobs.sizes.keys() {
            *blobs.entry(*blob).or_default() += 1;
        }
        for base in &image.bases {
            *bases.entry(base.path.clone()).or_default() += 1;
        }
    }
    for image in images {
        let shared_blobs = image.blobs.sizes.iter().filter(|(blob, _)| blobs[blob] > 1);
        let shared_bases = image.bases.iter().filter(|base| bases[&base.path] > 1);
        image.shared_size = shared_blobs.map(|(_, size)| size).sum::<u64>()
            + shared_bases.map(|base| base.disk_size).sum::<u64>();
    }
}
