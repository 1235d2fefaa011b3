//! Which images are in the store, and what each takes.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use jiff::Timestamp;

use super::{ImageStore, StoreError, contents::Contents, index::Entry};
use crate::{
    Descriptor, Digest, HistoryStep, Platform, Reference,
    manifest::{self, Manifest},
};

/// An image in the store: all that one digest leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// An index, or a manifest itself.
    pub descriptor: Descriptor,
    /// What it is called here; nothing if its names mean other images now.
    pub references: Vec<Reference>,
    /// The platforms whose every part is here.
    pub variants: Vec<Variant>,
    /// The file systems that were made from it.
    pub bases: Vec<Base>,
    /// Bytes of disk that its blobs and bases take.
    pub disk_size: u64,
    /// Those of them that other images need as well.
    pub shared_size: u64,
    pub(super) contents: Contents,
}

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// The platform.
    pub platform: Platform,
    /// The platform's manifest.
    pub manifest: Descriptor,
    /// What describes its programs, as it is in the store.
    pub config: Descriptor,
    /// When it was made, if its maker says.
    pub created: Option<Timestamp>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// What to run.
    pub entrypoint: Vec<String>,
    /// What to run, or the entry point's arguments.
    pub command: Vec<String>,
    /// Where to run it.
    pub working_directory: Option<String>,
    /// As whom to run it.
    pub user: Option<String>,
    /// How to stop it.
    pub stop_signal: Option<String>,
    /// Whatever its maker says about it.
    pub labels: BTreeMap<String, String>,
    /// The lowest first.
    pub layers: Vec<Descriptor>,
    /// How it was made, if its maker says.
    pub history: Vec<HistoryStep>,
}

/// A file system that was made from an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The file.
    pub path: PathBuf,
    /// Bytes of disk that it takes.
    pub disk_size: u64,
    /// The manifest that it was made from, if its name says so.
    pub(super) manifest: Option<Digest>,
}

impl StoredImage {
    /// Whether that base was made from this image.
    pub fn has_base(&self, path: &std::path::Path) -> bool {
        let name = path.file_name();
        let manifest = name.and_then(|name| manifest_in(name.to_str()?));
        manifest.is_some_and(|manifest| self.contents.manifests.contains(&manifest))
    }

    /// The variant for this platform, or else the first.
    pub fn variant(&self, platform: &Platform) -> Option<&Variant> {
        self.variant_for(platform).or(self.variants.first())
    }

    /// The variant that serves this platform best.
    pub fn variant_for(&self, platform: &Platform) -> Option<&Variant> {
        let fitting = self.variants.iter().filter_map(|variant| {
            let distance = platform.distance(&variant.platform)?;
            Some((distance, variant))
        });
        let nearest = fitting.min_by_key(|(distance, _)| *distance);
        nearest.map(|(_, variant)| variant)
    }

    /// What leads to its variants, if it is not one itself.
    pub(crate) fn indexes(&self, store: &ImageStore) -> Result<Vec<Digest>, StoreError> {
        let mut indexes = Vec::new();
        for digest in &self.contents.manifests {
            let bytes = store.small(digest)?.unwrap_or_default();
            if let Ok((Manifest::Index(_), _)) = manifest::parse(&bytes, None) {
                indexes.push(*digest);
            }
        }
        Ok(indexes)
    }
}

impl ImageStore {
    /// The images that are here: those that have a name or were kept without, and those of
    /// `others` that are here. In the order of their names, those without last.
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
            if let Entry::Image(descriptor, reference) = entry {
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
        entries: &[Entry],
        bases: &[Base],
    ) -> Result<StoredImage, StoreError> {
        let contents = self.contents([descriptor.digest], entries)?;
        let is_its = |base: &&Base| {
            let manifest = base.manifest.as_ref();
            manifest.is_some_and(|manifest| contents.manifests.contains(manifest))
        };
        let bases: Vec<Base> = bases.iter().filter(is_its).cloned().collect();
        let blobs: u64 = contents.blobs.values().sum();
        let mut variants = Vec::new();
        for manifest in &contents.manifests {
            variants.extend(self.variant(manifest)?);
        }
        variants.sort_by_key(|variant| variant.platform.to_string());
        Ok(StoredImage {
            descriptor,
            references,
            variants,
            disk_size: blobs + bases.iter().map(|base| base.disk_size).sum::<u64>(),
            bases,
            shared_size: 0,
            contents,
        })
    }

    /// The variant that this manifest describes, if it is one and all of it is here.
    fn variant(&self, digest: &Digest) -> Result<Option<Variant>, StoreError> {
        let bytes = self.small(digest)?.unwrap_or_default();
        let Ok((Manifest::Image(parts), media_type)) = manifest::parse(&bytes, None) else {
            return Ok(None);
        };
        if !parts.layers.iter().all(|(layer, _)| self.has(layer)) {
            return Ok(None);
        }
        let read = self.small(&parts.config.digest)?.unwrap_or_default();
        let Ok(read) = manifest::configuration(&read, parts.layers.len()) else {
            return Ok(None);
        };
        let manifest = Descriptor {
            digest: *digest,
            media_type,
            size: bytes.len() as u64,
        };
        let layers = parts.layers.into_iter().map(|(layer, _)| layer).collect();
        Ok(Some(Variant {
            platform: read.platform,
            manifest,
            config: parts.config,
            created: read.created,
            environment: read.environment,
            entrypoint: read.entrypoint,
            command: read.command,
            working_directory: read.working_directory,
            user: read.user,
            stop_signal: read.stop_signal,
            labels: read.labels,
            layers,
            history: read.history,
        }))
    }

    /// All bases that are there, whatever they were made from.
    pub(super) fn all_bases(&self) -> Result<Vec<Base>, StoreError> {
        let directory = self.bases();
        let reading = || StoreError::io("reading", &directory);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(reading())?,
        };
        let mut bases = Vec::new();
        for entry in entries {
            let entry = entry.map_err(reading())?;
            let about = match entry.metadata() {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                about => about.map_err(reading())?,
            };
            bases.push(Base {
                path: entry.path(),
                disk_size: about.blocks() * 512,
                manifest: entry.file_name().to_str().and_then(manifest_in),
            });
        }
        bases.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(bases)
    }
}

/// The manifest that a base was made from, as its file's name begins with it.
fn manifest_in(name: &str) -> Option<Digest> {
    let (hex, _) = name.split_once('-')?;
    format!("sha256:{hex}").parse().ok()
}

fn count_shared(images: &mut [StoredImage]) {
    let mut blobs: HashMap<Digest, usize> = HashMap::new();
    let mut bases: HashMap<PathBuf, usize> = HashMap::new();
    for image in images.iter() {
        for blob in image.contents.blobs.keys() {
            *blobs.entry(*blob).or_default() += 1;
        }
        for base in &image.bases {
            *bases.entry(base.path.clone()).or_default() += 1;
        }
    }
    for image in images {
        let shared_blobs = image
            .contents
            .blobs
            .iter()
            .filter(|(blob, _)| blobs[blob] > 1);
        let shared_bases = image.bases.iter().filter(|base| bases[&base.path] > 1);
        image.shared_size = shared_blobs.map(|(_, size)| size).sum::<u64>()
            + shared_bases.map(|base| base.disk_size).sum::<u64>();
    }
}
