//! From a reference to an image in the store.

use std::{
    collections::HashSet,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{
    StreamExt, TryStreamExt,
    future::{Either, select},
    stream, try_join,
};

use crate::{
    Access, Descriptor, Digest, Environment, Image, ImageError, ImageStore, Listener, LocalStore,
    MachineSettings, Platform, Progress, Reference, Registries, Scheme, Step, Variant,
    image::Layer,
    local,
    manifest::{self, Manifest},
    progress::Meter,
    registry::{FetchError, LARGEST_MANIFEST, Registry, download},
    store::{Arrival, Arrivals},
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
    /// The environment of whoever wants the image.
    pub environment: Environment,
    /// What is set for registries.
    pub registries: Registries,
    /// Whether an image may come from elsewhere than the registry of its name: from here, if it
    /// was given that name here, or from these stores of other programs.
    pub local_stores: Option<Vec<LocalStore>>,
}

impl PullOptions {
    /// How to reach registries.
    fn access(&self) -> Access<'_> {
        Access {
            scheme: self.scheme,
            environment: &self.environment,
            registries: &self.registries,
        }
    }
}

impl Default for PullOptions {
    fn default() -> PullOptions {
        PullOptions {
            scheme: Scheme::Auto,
            max_concurrent_downloads: 3,
            environment: Environment::default(),
            registries: Registries::default(),
            local_stores: None,
        }
    }
}

/// What a reference means, and the image for the platform.
struct Found {
    descriptor: Descriptor,
    manifest: Descriptor,
    parts: manifest::ImageParts,
}

/// The image that a reference means.
struct LookedUp {
    image: Image,
    /// Who has its layers and machine settings, which may be missing; none if all is here.
    registry: Option<Registry>,
}

impl LookedUp {
    fn here(image: Image) -> LookedUp {
        LookedUp {
            image,
            registry: None,
        }
    }
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
        pulled.map_err(|source| fetch_error(reference, source))
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
            .map_err(|source| fetch_error(reference, source))
    }

    /// [Pulls](ImageStore::pull) the image and makes its [base](ImageStore::base_of_size) of this
    /// many bytes on the way: layers are written to it as they arrive.
    ///
    /// # Errors
    /// [`ImageError::Fetch`] and [`ImageError::Unpack`]; as there.
    pub async fn pull_to_base(
        &self,
        reference: &Reference,
        platform: &Platform,
        options: &PullOptions,
        size: u64,
        listener: Listener<'_>,
    ) -> Result<(Image, PathBuf), ImageError> {
        let failed = |source| fetch_error(reference, source);
        // Until the reference is remembered: see the store's locks.
        let _hold = self.hold().await?;
        let found = self.look_up(reference, platform, options, listener).await;
        let LookedUp { image, registry } = found.map_err(failed)?;
        let Some(registry) = registry else {
            let base = self.base_of_size(&image, size, listener).await?;
            return Ok((image, base));
        };
        let arrivals = self.arrivals(image.blobs());
        let is_fetched = AtomicBool::new(false);
        let fetched = async {
            let rest = self.fetch_rest(&registry, &image, &arrivals, options, listener);
            let fetched = rest.await.map_err(failed)?;
            is_fetched.store(true, Ordering::Relaxed);
            Ok(fetched)
        };
        // One step is told at a time: what the network gives, then what is left to unpack.
        let tell = |progress| {
            if is_fetched.load(Ordering::Relaxed) {
                listener(progress);
            }
        };
        let base = self.base_as_it_arrives(&image, size, &arrivals, &tell);
        match select(pin!(fetched), pin!(base)).await {
            Either::Left((fetched, base)) => {
                // Without all layers it ends at once.
                let made = base.await;
                Ok((fetched?, made?))
            }
            // Why a layer did not arrive is for the other one to say.
            Either::Right((Err(error), fetched)) if error.is_of_missing_layer() => {
                fetched.await.and(Err(error))
            }
            Either::Right((made, fetched)) => {
                let base = made?;
                Ok((fetched.await?, base))
            }
        }
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
        let found = self.look_up(reference, platform, options, listener).await?;
        let LookedUp { image, registry } = found;
        let Some(registry) = registry else {
            return Ok(image);
        };
        let arrivals = self.arrivals(image.blobs());
        self.fetch_rest(&registry, &image, &arrivals, options, listener)
            .await
    }

    async fn look_up(
        &self,
        reference: &Reference,
        platform: &Platform,
        options: &PullOptions,
        listener: Listener<'_>,
    ) -> Result<LookedUp, FetchError> {
        if reference.digest().is_some()
            && let Some(image) = self.here(reference, platform)?
        {
            return Ok(LookedUp::here(image));
        }
        if let Some(stores) = &options.local_stores
            && let Some(image) = self
                .look_around(stores, reference, platform, options, listener)
                .await?
        {
            return Ok(LookedUp::here(image));
        }
        listener(Progress::step(Step::Resolving));
        match self.look_up_remote(reference, platform, options).await {
            Ok(found) => {
                let registry = found.registry.iter();
                for reason in registry.flat_map(Registry::problems) {
                    listener(Progress::step(Step::CredentialsUnknown { reason }));
                }
                Ok(found)
            }
            Err(error) if error.is_offline() => match self.here(reference, platform)? {
                Some(image) => {
                    let reason = error.to_string();
                    tracing::warn!("using the local image {reference}: {reason}");
                    listener(Progress::step(Step::Offline { reason }));
                    Ok(LookedUp::here(image))
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// An image that belongs to this host: it was given its name here, or another program has it.
    /// A program that had it before may have built it anew. What a registry gave is for the registry
    /// to say.
    async fn look_around(
        &self,
        stores: &[LocalStore],
        reference: &Reference,
        platform: &Platform,
        options: &PullOptions,
        listener: Listener<'_>,
    ) -> Result<Option<Image>, FetchError> {
        if reference.digest().is_some()
            || (self.find(reference)?.is_some() && !self.is_given_here(reference)?)
        {
            return Ok(None);
        }
        let here = self.here(reference, platform)?;
        if here.is_some() && !self.is_taken_over(reference)? {
            return Ok(here);
        }
        let environment = &options.environment;
        let Some(found) = local::find(stores, reference, platform, environment, listener).await
        else {
            return Ok(here);
        };
        let is_same = |image: &Image| [image.config, image.manifest.digest].contains(&found.id);
        if here.as_ref().is_some_and(is_same) {
            return Ok(here);
        }
        if self.take_name_over(found.id, reference).await?
            && let Some(image) = self.here(reference, platform)?
        {
            return Ok(Some(image));
        }
        let place = found.place.clone();
        listener(Progress::step(Step::TakingOver { place }));
        self.take_over(found, reference, environment).await?;
        self.here(reference, platform)
    }

    /// Gives the name to the image with this id, if that is here under another one.
    async fn take_name_over(&self, id: Digest, reference: &Reference) -> Result<bool, FetchError> {
        let is_it =
            |variant: &Variant| [variant.config.digest, variant.manifest.digest].contains(&id);
        let images = self.images(&[])?;
        let known = images.iter().find(|image| image.variants.iter().any(is_it));
        let Some(image) = known else {
            return Ok(false);
        };
        let hold = self.hold().await?;
        self.tag(&hold, image, image.references.first(), reference)?;
        self.note_taken_over(reference)?;
        Ok(true)
    }

    async fn look_up_remote(
        &self,
        reference: &Reference,
        platform: &Platform,
        options: &PullOptions,
    ) -> Result<LookedUp, FetchError> {
        let registry = Registry::new(reference, options.access())?;
        let found = self.resolve(&registry, reference, platform).await?;
        let config = self.fetch_config(&registry, &found).await?;
        let image = image(reference, platform, &found, &config)?;
        Ok(LookedUp {
            image,
            registry: Some(registry),
        })
    }

    /// Fetches what is missing of an image, its machine settings included, and remembers it.
    /// When this ends in whatever way, nothing is awaited any more.
    async fn fetch_rest(
        &self,
        registry: &Registry,
        image: &Image,
        arrivals: &Arrivals,
        options: &PullOptions,
        listener: Listener<'_>,
    ) -> Result<Image, FetchError> {
        let arrivals = GivenUpAtLast(arrivals);
        let (manifest, top) = (&image.manifest.digest, &image.descriptor.digest);
        let settings = self.fetch_settings(registry, &image.reference, manifest, top, listener);
        let layers = self.fetch_layers(registry, image, arrivals.0, options, listener);
        let (settings, ()) = try_join!(settings, layers)?;
        self.remember(&image.reference, &image.descriptor)?;
        Ok(Image {
            settings,
            ..image.clone()
        })
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
        let arrival = Arc::new(Arrival::awaited());
        download(registry, self, blob, &arrival, &unheard).await?;
        self.small(&blob.digest)?.ok_or(FetchError::Malformed {
            what,
            reason: "it changed on disk while it was read".to_owned(),
        })
    }

    async fn fetch_layers(
        &self,
        registry: &Registry,
        image: &Image,
        arrivals: &Arrivals,
        options: &PullOptions,
        listener: Listener<'_>,
    ) -> Result<(), FetchError> {
        let mut seen = HashSet::new();
        let missing: Vec<&Descriptor> = image
            .blobs()
            .filter(|blob| seen.insert(blob.digest) && arrivals.of(&blob.digest).is_awaited())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let sizes = missing.iter().map(|blob| blob.size);
        let meter = &Meter::new(listener, Step::Downloading, sizes);
        let downloads: Vec<_> = missing
            .into_iter()
            .map(|blob| async move {
                let arrival = arrivals.of(&blob.digest);
                download(registry, self, blob, &arrival, meter).await?;
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

/// When this goes, nobody waits any longer for what is not there.
struct GivenUpAtLast<'a>(&'a Arrivals);

impl Drop for GivenUpAtLast<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

fn fetch_error(reference: &Reference, source: FetchError) -> ImageError {
    ImageError::Fetch {
        reference: reference.to_string(),
        source: Box::new(source),
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
        config: found.parts.config.digest,
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
