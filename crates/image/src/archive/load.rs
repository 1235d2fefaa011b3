//! Loading images from an archive into the store.

use std::{collections::BTreeSet, io::Read};

use super::{LoadError, LoadedImage, docker, layout, members::Members};
use crate::{
    Descriptor, Digest, ImageStore, Reference, SharedGuard,
    manifest::{self, IndexDepth, IndexEntry, Manifest, ManifestError},
    media_type::LARGEST_MANIFEST,
};

/// Options for loading an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Registry of names without one.
    pub default_registry: String,
    /// Limit on the bytes that the archive unpacks to.
    pub most_bytes: u64,
    /// Reference that replaces the archive's own. The archive must have exactly one image then.
    pub name_override: Option<Reference>,
}

impl ImageStore {
    /// Loads all images of an archive, which is an OCI image layout or an archive of `docker save`,
    /// uncompressed or compressed with gzip, bzip2, xz or zstd. Images get the references that the
    /// archive gives them, moving those in use; an image without one stays until it is pruned.
    ///
    /// Works on the calling thread until the stream ends. To cancel, let the stream fail.
    /// `progress` is called with the number of bytes read so far. `_shared` protects blobs that are
    /// already stored from removal.
    ///
    /// # Errors
    /// [`LoadError`]. Nothing is loaded then, and no reference is changed.
    pub fn load(
        &self,
        _shared: &SharedGuard,
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
        if let Some(called) = &options.name_override {
            match found.as_mut_slice() {
                [image] => image.references = vec![called.clone()],
                images => return Err(LoadError::ExpectedOne(images.len())),
            }
        }
        let mut needed = BTreeSet::new();
        for image in &found {
            Completeness {
                members: &members,
                image: &image.display_name(),
                needed: &mut needed,
            }
            .check(&image.descriptor, IndexDepth::default())?;
        }
        members.move_to_store(&needed)?;
        let named = found.iter().flat_map(|image| {
            let references = image.references.iter().cloned().map(Some);
            let unnamed = image.references.is_empty().then_some(None);
            let references = references.chain(unnamed);
            references.map(|reference| (image.descriptor.clone(), reference))
        });
        let named: Vec<_> = named.collect();
        self.assign_names(&named)?;
        Ok(found)
    }
}

/// Checks that an image is complete for at least one platform, and collects the blobs it needs.
struct Completeness<'a> {
    members: &'a Members,
    image: &'a str,
    needed: &'a mut BTreeSet<Digest>,
}

impl Completeness<'_> {
    fn check(&mut self, top: &Descriptor, depth: IndexDepth) -> Result<(), LoadError> {
        self.ensure_present(top, "the manifest")?;
        let bytes = self.members.read_small(&top.digest)?;
        let bytes = bytes.ok_or_else(|| self.too_large("manifest"))?;
        let parsed = manifest::parse(&bytes, Some(&top.media_type));
        let (parsed, _) = parsed.map_err(|error| self.unusable(error))?;
        match parsed {
            Manifest::Image(parts) => {
                self.ensure_present(&parts.config, "the configuration")?;
                let config = self.members.read_small(&parts.config.digest)?;
                let config = config.ok_or_else(|| self.too_large("configuration"))?;
                manifest::parse_config(&config, parts.layers.len())
                    .map_err(|error| self.unusable(error))?;
                self.needed.insert(parts.config.digest);
                for (number, (layer, _)) in parts.layers.iter().enumerate() {
                    self.ensure_present(layer, &format!("layer {}", number + 1))?;
                    self.needed.insert(layer.digest);
                }
            }
            Manifest::Index(entries) => {
                let depth = depth.descend().map_err(|error| self.unusable(error))?;
                // Tools often save one platform of an image together with its whole index.
                let mut here = Vec::new();
                for IndexEntry { platform, manifest } in &entries {
                    let is_here = self.members.size(manifest).is_some();
                    if is_here && (platform.is_some() || self.may_be_image(manifest)?) {
                        here.push(manifest);
                    }
                }
                if here.is_empty() {
                    return Err(self.missing("every blob for any platform"));
                }
                for entry in here {
                    self.check(entry, depth)?;
                }
            }
        }
        self.needed.insert(top.digest);
        Ok(())
    }

    /// Whether a manifest without a platform can be parsed as an image or an index. Attached
    /// artifacts, such as signatures, cannot.
    fn may_be_image(&self, manifest: &Descriptor) -> Result<bool, LoadError> {
        let bytes = self
            .members
            .read_small(&manifest.digest)?
            .unwrap_or_default();
        Ok(manifest::parse(&bytes, Some(&manifest.media_type)).is_ok())
    }

    fn ensure_present(&self, descriptor: &Descriptor, what: &str) -> Result<(), LoadError> {
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
        self.unusable(ManifestError::TooLarge {
            document: what,
            limit: LARGEST_MANIFEST,
        })
    }

    fn unusable(&self, cause: ManifestError) -> LoadError {
        LoadError::Image {
            image: self.image.to_owned(),
            cause,
        }
    }
}
