//! From a reference to an image in the store.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    Descriptor, Digest, Image, ImageError, ImageStore, Listener, MachineSettings, Platform,
    Progress, Reference, Scheme, Step,
    image::Layer,
    manifest::{self, Manifest},
    progress::Meter,
    registry::{FetchError, LARGEST_MANIFEST, Registry, download},
};

/// Indexes that lead to indexes are followed this far.
const DEEPEST: usize = 4;

/// How to pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOptions {
    /// How to speak to the registry.
    pub scheme: Scheme,
    /// Layers that are fetched at once; at least one is.
    pub max_concurrent_downloads: usize,
}

impl Default for PullOptions {
    fn default() -> PullOptions {
        PullOptions {
            scheme: Scheme::Auto,
            max_concurrent_downloads: 3,
        }
    }
}

/// What a reference means, and the image for the platform.
struct Found {
    descriptor: Descriptor,
    manifest: Descriptor,
    parts: manifest::ImageParts,
}

impl ImageStore {
    /// Sees to it that the image is in the store. What is there already is not fetched again.
    ///
    /// A digest always means the same, so an image that is here is used without asking anyone.
    /// A tag is looked up at its registry each time; where the registry cannot be reached, the
    /// image that is here is used, and the listener hears why ([`Step::Offline`]). With a tag's
    /// meaning, and with what is fetched anew, the image's [`MachineSettings`] are asked for.
    ///
    /// # Errors
    /// [`ImageError::Fetch`]. Parts that came whole stay in the store for the next try, nothing
    /// else does. The same holds when the future is dropped.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        options: &PullOptions,
        listener: Listener<'_>,
    ) -> Result<Image, ImageError> {
        let pulled = self.pulled(reference, platform, options, listener).await;
        pulled.map_err(|source| ImageError::Fetch {
            reference: reference.to_string(),
            source,
        })
    }

    /// The image, if all of it is in the store; nobody is asked.
    ///
    /// # Errors
    /// [`ImageError::Fetch`] if the store cannot be read.
    pub fn local(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<Image>, ImageError> {
        self.here(reference, platform)
            .map_err(|source| ImageError::Fetch {
                reference: reference.to_string(),
                source,
            })
    }

    async fn pulled(
        &self,
        reference: &Reference,
        platform: &Platform,
        options: &PullOptions,
        listener: Listener<'_>,
    ) -> Result<Image, FetchError> {
        // Until the reference is remembered: see the store's locks.
        let _hold = self.hold().await?;
        if reference.digest().is_some()
            && let Some(image) = self.here(reference, platform)?
        {
            return Ok(image);
        }
        listener(Progress::step(Step::Resolving));
        let fetched = self.fetch(reference, platform, options, listener).await;
        match fetched {
            Err(error) if error.is_offline() => match self.here(reference, platform)? {
                Some(image) => {
                    let reason = error.to_string();
                    tracing::warn!("using the local image {reference}: {reason}");
                    listener(Progress::step(Step::Offline { reason }));
                    Ok(image)
                }
                None => Err(error),
            },
            fetched => fetched,
        }
    }

    /// The recipe.
    async fn fetch(
        &self,
        reference: &Reference,
        platform: &Platform,
        options: &PullOptions,
        listener: Listener<'_>,
    ) -> Result<Image, FetchError> {
        let registry = Registry::new(reference, options.scheme)?;
        let found = self.resolve(&registry, reference, platform).await?;
        let config = self.fetch_config(&registry, &found).await?;
        let mut image = image(reference, platform, &found, &config)?;
        let (manifest, top) = (&image.manifest.digest, &image.descriptor.digest);
        image.settings = self
            .fetch_settings(&registry, reference, manifest, top, listener)
            .await?;
        self.fetch_layers(&registry, &image, options, listener)
            .await?;
        self.remember(reference, &image.descriptor)?;
        Ok(image)
    }

    async fn resolve(
        &self,
        registry: &Registry,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Found, FetchError> {
        let digest = reference.digest();
        let wanted = digest.map_or(reference.tag_or_digest().to_owned(), |it| it.to_string());
        let (descriptor, mut parsed) = self.fetch_manifest(registry, &wanted, digest).await?;
        let mut manifest = descriptor.clone();
        for _ in 0..DEEPEST {
            match parsed {
                Manifest::Image(parts) => {
                    return Ok(Found {
                        descriptor,
                        manifest,
                        parts,
                    });
                }
                Manifest::Index(entries) => {
                    let chosen = manifest::chosen(&entries, platform)?.digest;
                    let wanted = chosen.to_string();
                    (manifest, parsed) =
                        self.fetch_manifest(registry, &wanted, Some(chosen)).await?;
                }
            }
        }
        Err(too_deep())
    }

    /// A manifest from the store if its digest is known and it is there, else from the registry.
    async fn fetch_manifest(
        &self,
        registry: &Registry,
        wanted: &str,
        digest: Option<Digest>,
    ) -> Result<(Descriptor, Manifest), FetchError> {
        if let Some(digest) = digest
            && let Some(known) = self.manifest_here(&digest, None)?
        {
            return Ok(known);
        }
        let fetched = registry.manifest(wanted).await?;
        let found = Digest::of(&fetched.bytes);
        if let Some(expected) = digest
            && expected != found
        {
            return Err(FetchError::WrongManifest { expected, found });
        }
        let (parsed, media_type) = manifest::parse(&fetched.bytes, fetched.media_type.as_deref())?;
        let descriptor = Descriptor {
            digest: found,
            media_type,
            size: fetched.bytes.len() as u64,
        };
        self.keep(&descriptor, &fetched.bytes)?;
        Ok((descriptor, parsed))
    }

    async fn fetch_config(
        &self,
        registry: &Registry,
        found: &Found,
    ) -> Result<Vec<u8>, FetchError> {
        let config = &found.parts.config;
        self.fetch_small(registry, config, "configuration", LARGEST_MANIFEST)
            .await
    }

    /// A blob that is read whole, from the store if it is there.
    pub(crate) async fn fetch_small(
        &self,
        registry: &Registry,
        blob: &Descriptor,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, FetchError> {
        if blob.size > limit {
            return Err(FetchError::TooLarge { what, limit });
        }
        if let Some(bytes) = self.small(&blob.digest)? {
            return Ok(bytes);
        }
        // Not there, or damaged there, which has to go before it can come anew.
        self.remove_if_damaged(&blob.digest)?;
        let unheard = Meter::new(&|_| {}, Step::Resolving, [blob.size].into_iter());
        download(registry, self, blob, &unheard).await?;
        self.small(&blob.digest)?.ok_or(FetchError::Malformed {
            what,
            reason: "it changed on disk while it was read".to_owned(),
        })
    }

    async fn fetch_layers(
        &self,
        registry: &Registry,
        image: &Image,
        options: &PullOptions,
        listener: Listener<'_>,
    ) -> Result<(), FetchError> {
        let mut seen = HashSet::new();
        let blobs = image.layers.iter().map(|layer| &layer.blob);
        let missing: Vec<&Descriptor> = blobs
            .filter(|blob| seen.insert(blob.digest) && !self.has(blob))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let sizes = missing.iter().map(|blob| blob.size);
        let meter = &Meter::new(listener, Step::Downloading, sizes);
        let downloads: Vec<_> = missing
            .into_iter()
            .map(|blob| async move {
                download(registry, self, blob, meter).await?;
                meter.layer_done();
                Ok(())
            })
            .collect();
        stream::iter(downloads)
            .buffer_unordered(options.max_concurrent_downloads.max(1))
            .try_collect::<()>()
            .await
    }

    /// The image, if all of it is in the store.
    fn here(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<Image>, FetchError> {
        let known = self.find(reference)?;
        let called = known.as_ref().map(|known| known.media_type.clone());
        let Some(digest) = reference.digest().or(known.map(|known| known.digest)) else {
            return Ok(None);
        };
        let Some((descriptor, mut parsed)) = self.manifest_here(&digest, called.as_deref())? else {
            return Ok(None);
        };
        let mut manifest = descriptor.clone();
        for _ in 0..DEEPEST {
            let parts = match parsed {
                Manifest::Image(parts) => parts,
                Manifest::Index(entries) => {
                    let chosen = manifest::chosen(&entries, platform)?;
                    match self.manifest_here(&chosen.digest, Some(&chosen.media_type))? {
                        Some(known) => (manifest, parsed) = known,
                        None => return Ok(None),
                    }
                    continue;
                }
            };
            let Some(config) = self.small(&parts.config.digest)? else {
                return Ok(None);
            };
            let found = Found {
                descriptor,
                manifest,
                parts,
            };
            let mut image = image(reference, platform, &found, &config)?;
            let Some(settings) = self.settings_here(reference, &image.manifest.digest)? else {
                return Ok(None);
            };
            image.settings = settings;
            let is_whole = image.layers.iter().all(|layer| self.has(&layer.blob));
            return Ok(is_whole.then_some(image));
        }
        Err(too_deep())
    }

    /// A manifest in the store, and what others call it if it does not say itself.
    fn manifest_here(
        &self,
        digest: &Digest,
        called: Option<&str>,
    ) -> Result<Option<(Descriptor, Manifest)>, FetchError> {
        let Some(bytes) = self.small(digest)? else {
            return Ok(None);
        };
        let (parsed, media_type) = manifest::parse(&bytes, called)?;
        let descriptor = Descriptor {
            digest: *digest,
            media_type,
            size: bytes.len() as u64,
        };
        Ok(Some((descriptor, parsed)))
    }
}

fn too_deep() -> FetchError {
    FetchError::Malformed {
        what: "index",
        reason: "it leads to an index that leads to an index, and on".to_owned(),
    }
}

fn image(
    reference: &Reference,
    wanted: &Platform,
    found: &Found,
    config: &[u8],
) -> Result<Image, FetchError> {
    let layers = &found.parts.layers;
    let config = manifest::configuration(config, layers.len())?;
    if wanted.distance(&config.platform).is_none() {
        return Err(FetchError::NoPlatform {
            wanted: wanted.clone(),
            offered: vec![config.platform],
        });
    }
    let layers = layers.iter().zip(config.diff_ids);
    Ok(Image {
        reference: reference.clone(),
        descriptor: found.descriptor.clone(),
        manifest: found.manifest.clone(),
        platform: config.platform,
        environment: config.environment,
        entrypoint: config.entrypoint,
        command: config.command,
        working_directory: config.working_directory,
        user: config.user,
        stop_signal: config.stop_signal,
        labels: config.labels,
        settings: MachineSettings::default(),
        layers: layers
            .map(|((blob, compression), diff_id)| Layer {
                blob: blob.clone(),
                compression: *compression,
                diff_id,
            })
            .collect(),
    })
}
