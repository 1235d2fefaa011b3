//! From the store to a registry.

use std::collections::{BTreeSet, HashMap};

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    Access, AskedBy, Descriptor, Digest, Environment, FetchError, ImageError, ImageStore, Listener,
    Platform, Progress, Reference, Registries, Scheme, Step, StoreError,
    manifest::{self, Parts},
    progress::Meter,
    registry::{Registry, with_problems},
};

/// Layers that are sent at once.
const AT_ONCE: usize = 3;
/// Indexes that lead to indexes are followed this far.
const DEEPEST: usize = 4;

/// How to push.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushOptions {
    /// How to speak to the registry.
    pub scheme: Scheme,
    /// The environment of whoever pushes.
    pub environment: Environment,
    /// What is set for registries.
    pub registries: Registries,
}

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// There is no such image.
    #[error("it is not here: pull, load, build or tag it first")]
    NotHere,
    /// A part of it is missing.
    #[error("its part {0} is not here: pull it again")]
    Incomplete(Digest),
    /// We may not.
    #[error("{registry} does not let {}", refused(.asked_by, registry, repository))]
    Denied {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// Who was refused.
        asked_by: AskedBy,
    },
    /// Nobody may.
    #[error("{registry} takes no images: it is read-only, or a mirror of another registry")]
    ReadOnly {
        /// The registry.
        registry: String,
    },
    /// There is no room there.
    #[error("{registry} has no space left for it; nothing was changed there")]
    NoSpace {
        /// The registry.
        registry: String,
    },
    /// There is no such repository.
    #[error("{registry} has no repository {repository}, and makes none: check the name")]
    NoRepository {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
    },
    /// The way to the registry.
    #[error(transparent)]
    Registry(FetchError),
}

impl From<StoreError> for PushError {
    fn from(error: StoreError) -> PushError {
        PushError::Registry(error.into())
    }
}

/// A manifest that is sent once all it names is there.
struct Outgoing {
    descriptor: Descriptor,
    bytes: Vec<u8>,
}

/// What a push sends.
#[derive(Default)]
struct Shipment {
    configs: Vec<Descriptor>,
    /// Each once.
    layers: Vec<Descriptor>,
    /// In the order in which they are sent: what is named before what names it.
    manifests: Vec<Outgoing>,
}

impl ImageStore {
    /// Sends the image that this reference means here to its registry, under this reference. What
    /// the registry has is not sent. Manifests go last, so nobody sees half an image.
    ///
    /// Of an index whose images are not all here, the one for this host is sent alone; the listener
    /// hears so ([`Step::OnePlatform`]). Layers that are to be fetched from elsewhere (foreign
    /// ones) stay there. Returns what the reference means at the registry now.
    ///
    /// # Errors
    /// [`ImageError::Push`]. The tag means what it meant before, then.
    pub async fn push(
        &self,
        reference: &Reference,
        options: &PushOptions,
        listener: Listener<'_>,
    ) -> Result<Descriptor, ImageError> {
        let pushed = self.pushed(reference, options, listener).await;
        pushed.map_err(|source| ImageError::Push {
            reference: reference.to_string(),
            source: Box::new(source),
        })
    }

    /// The recipe.
    async fn pushed(
        &self,
        reference: &Reference,
        options: &PushOptions,
        listener: Listener<'_>,
    ) -> Result<Descriptor, PushError> {
        let _hold = self.hold().await?;
        let shipment = self.shipment(reference, listener)?;
        let sources = self.sources(reference, &shipment)?;
        let repositories: BTreeSet<String> = sources.values().cloned().collect();
        let access = Access {
            scheme: options.scheme,
            environment: &options.environment,
            registries: &options.registries,
        };
        let told = |error| told(reference, error);
        let registry = Registry::to_push(reference, &repositories, access).map_err(told)?;
        self.send_blobs(&registry, &shipment, &sources, listener)
            .await
            .map_err(told)?;
        for reason in registry.problems() {
            listener(Progress::step(Step::CredentialsUnknown { reason }));
        }
        let (top, below) = shipment.manifests.split_last().ok_or(PushError::NotHere)?;
        for manifest in below {
            let name = manifest.descriptor.digest.to_string();
            send(&registry, &name, manifest).await.map_err(told)?;
        }
        let digest = top.descriptor.digest.to_string();
        let name = reference.tag().unwrap_or(&digest);
        send(&registry, name, top).await.map_err(told)?;
        Ok(top.descriptor.clone())
    }

    async fn send_blobs(
        &self,
        registry: &Registry,
        shipment: &Shipment,
        sources: &HashMap<Digest, String>,
        listener: Listener<'_>,
    ) -> Result<(), FetchError> {
        let source_of = |blob: &Descriptor| sources.get(&blob.digest).map(String::as_str);
        let sizes = shipment.layers.iter().map(|layer| layer.size);
        let meter = &Meter::new(listener, Step::Uploading, sizes);
        for config in &shipment.configs {
            let unheard = Meter::new(&|_| {}, Step::Uploading, [config.size].into_iter());
            registry
                .upload(self, config, source_of(config), &unheard)
                .await?;
        }
        let uploads = shipment.layers.iter().map(|layer| async move {
            registry
                .upload(self, layer, source_of(layer), meter)
                .await?;
            meter.layer_done();
            Ok(())
        });
        let uploads: Vec<_> = uploads.collect();
        stream::iter(uploads)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// All that the reference leads to.
    fn shipment(
        &self,
        reference: &Reference,
        listener: Listener<'_>,
    ) -> Result<Shipment, PushError> {
        let known = self.find(reference)?;
        let called = known.as_ref().map(|known| known.media_type.clone());
        let digest = reference.digest().or(known.map(|known| known.digest));
        let digest = digest.ok_or(PushError::NotHere)?;
        let mut shipment = Shipment::default();
        match self.collect(&digest, called.as_deref(), &mut shipment, DEEPEST) {
            Err(PushError::Incomplete(part)) => {
                let image = self.local(reference, &Platform::host()).ok().flatten();
                let Some(image) = image.filter(|image| image.manifest.digest != digest) else {
                    return Err(match part == digest {
                        true => PushError::NotHere,
                        false => PushError::Incomplete(part),
                    });
                };
                let platform = image.platform.to_string();
                listener(Progress::step(Step::OnePlatform { platform }));
                shipment = Shipment::default();
                let called = Some(image.manifest.media_type.as_str());
                self.collect(&image.manifest.digest, called, &mut shipment, 0)?;
                Ok(shipment)
            }
            collected => collected.map(|()| shipment),
        }
    }

    fn collect(
        &self,
        digest: &Digest,
        called: Option<&str>,
        shipment: &mut Shipment,
        depth: usize,
    ) -> Result<(), PushError> {
        let bytes = self.small(digest)?.ok_or(PushError::Incomplete(*digest))?;
        let (parts, media_type) =
            manifest::all_parts(&bytes, called).map_err(PushError::Registry)?;
        match parts {
            Parts::Manifests(manifests) => {
                for manifest in manifests {
                    let below = depth.checked_sub(1).ok_or(PushError::Incomplete(*digest))?;
                    let called = Some(manifest.media_type.as_str());
                    self.collect(&manifest.digest, called, shipment, below)?;
                }
            }
            Parts::Image { config, layers } => {
                let missing = layers.iter().chain([&config]).find(|part| !self.has(part));
                if let Some(missing) = missing {
                    return Err(PushError::Incomplete(missing.digest));
                }
                shipment.configs.push(config);
                for layer in layers {
                    if !shipment.layers.contains(&layer) {
                        shipment.layers.push(layer);
                    }
                }
            }
        }
        let descriptor = Descriptor {
            digest: *digest,
            media_type,
            size: bytes.len() as u64,
        };
        shipment.manifests.push(Outgoing { descriptor, bytes });
        Ok(())
    }

    /// Other repositories of the same registry that had these blobs when we last looked.
    fn sources(
        &self,
        reference: &Reference,
        shipment: &Shipment,
    ) -> Result<HashMap<Digest, String>, PushError> {
        let mut sources = HashMap::new();
        for (other, descriptor) in self.references()? {
            let is_elsewhere = other.registry() == reference.registry()
                && other.repository() != reference.repository();
            if !is_elsewhere {
                continue;
            }
            let theirs = self.contents([descriptor.digest], &[])?.blobs;
            let ours = shipment.configs.iter().chain(&shipment.layers);
            let shared = ours.map(|blob| blob.digest);
            for digest in shared.filter(|digest| theirs.contains_key(digest)) {
                sources.insert(digest, other.repository().to_owned());
            }
        }
        Ok(sources)
    }
}

async fn send(registry: &Registry, name: &str, manifest: &Outgoing) -> Result<(), FetchError> {
    let media_type = &manifest.descriptor.media_type;
    registry
        .put_manifest(name, media_type, &manifest.bytes)
        .await
}

/// The rest of the sentence that begins with a registry.
fn refused(asked_by: &AskedBy, registry: &str, repository: &str) -> String {
    match asked_by {
        AskedBy::Anyone { problems } => {
            let advice = format!(
                "everyone write to {repository}: log in with `container registry login {registry}`"
            );
            with_problems(advice, problems)
        }
        AskedBy::User { name, place } => format!(
            "{name} (credentials from {place}) write to {repository}: check the name, or log in as somebody else"
        ),
    }
}

/// What a registry's refusal means to somebody who pushes.
fn told(reference: &Reference, error: FetchError) -> PushError {
    let repository = reference.repository().to_owned();
    match error {
        error if error.is_full() => PushError::NoSpace {
            registry: reference.registry().to_owned(),
        },
        FetchError::Unauthorized { registry, asked_by } => PushError::Denied {
            registry,
            repository,
            asked_by,
        },
        FetchError::Refused {
            registry,
            status: 405,
            ..
        } => PushError::ReadOnly { registry },
        FetchError::NotFound { registry, .. } => PushError::NoRepository {
            registry,
            repository,
        },
        error => PushError::Registry(error),
    }
}

#[cfg(test)]
mod tests;
