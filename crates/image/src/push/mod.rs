//! Pushes: from the store to a registry.
//!
//! - [`shipment`] collects what must be sent;
//! - [`upload`](mod@upload) sends a blob;
//! - [`error`] converts a registry's refusal to an error of the push.

mod error;
mod shipment;
#[cfg(test)]
mod tests;
mod upload;

use std::collections::{BTreeSet, HashMap};

use futures::{StreamExt, TryStreamExt, stream};

pub use error::PushError;

use crate::{
    Access, Descriptor, Digest, Environment, ImageError, ImageStore, Listener, Reference,
    Registries, Scheme, Step,
    progress::Meter,
    registry::{RegistryClient, RegistryError},
};
use shipment::{OutgoingManifest, Shipment};
use upload::{UploadError, upload};

/// Layers that are uploaded concurrently.
const CONCURRENT_UPLOADS: usize = 3;

/// Options of a push.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushOptions {
    /// Scheme of the registry.
    pub scheme: Scheme,
    /// Environment of the caller.
    pub environment: Environment,
    /// Configuration of the registries.
    pub registries: Registries,
}

impl ImageStore {
    /// Pushes the image with this reference to its registry, under the same reference. Blobs that
    /// the registry has are not sent. Manifests are sent last, so no other client sees an
    /// incomplete image.
    ///
    /// If an index is incomplete in the store, only the image of the host's platform is pushed, and
    /// the listener is notified ([`Step::OnePlatform`]). Foreign layers are not pushed. Returns
    /// what the reference names at the registry afterwards.
    ///
    /// # Errors
    /// [`ImageError::Push`]. The reference is unchanged at the registry then.
    pub async fn push(
        &self,
        reference: &Reference,
        options: &PushOptions,
        listener: Listener<'_>,
    ) -> Result<Descriptor, ImageError> {
        let pushed = self.push_image(reference, options, listener).await;
        pushed.map_err(|cause| ImageError::Push {
            reference: reference.to_string(),
            cause: Box::new(cause),
        })
    }

    async fn push_image(
        &self,
        reference: &Reference,
        options: &PushOptions,
        listener: Listener<'_>,
    ) -> Result<Descriptor, PushError> {
        let _guard = self.lock_shared().await?;
        let shipment = Shipment::collect(self, reference, listener)?;
        let sources = shipment.mount_sources(self, reference)?;
        let repositories: BTreeSet<String> = sources.values().cloned().collect();
        let access = Access {
            scheme: options.scheme,
            environment: &options.environment,
            registries: &options.registries,
        };
        let refused = |error| PushError::from_registry(reference, error);
        let registry = RegistryClient::for_push(reference, &repositories, access).await;
        let registry = registry.map_err(refused)?;
        let blobs = self.push_blobs(&registry, &shipment, &sources, listener);
        blobs.await.map_err(|error| match error {
            UploadError::Registry(error) => refused(error),
            UploadError::Store(error) => PushError::Store(error),
        })?;
        for reason in registry.credential_problems() {
            listener(Step::CredentialsSkipped { reason }.into());
        }
        let (top, others) = shipment.manifests.split_last().ok_or(PushError::NotFound)?;
        for manifest in others {
            let name = manifest.descriptor.digest.to_string();
            push_manifest(&registry, &name, manifest)
                .await
                .map_err(refused)?;
        }
        let digest = top.descriptor.digest.to_string();
        let name = reference.tag().unwrap_or(&digest);
        push_manifest(&registry, name, top).await.map_err(refused)?;
        Ok(top.descriptor.clone())
    }

    async fn push_blobs(
        &self,
        registry: &RegistryClient,
        shipment: &Shipment,
        sources: &HashMap<Digest, String>,
        listener: Listener<'_>,
    ) -> Result<(), UploadError> {
        let source_of = |blob: &Descriptor| sources.get(&blob.digest).map(String::as_str);
        let sizes = shipment.layers.iter().map(|layer| layer.size);
        let meter = &Meter::new(listener, Step::Uploading, sizes);
        for config in &shipment.configs {
            // Configurations are too small to be worth a report.
            let silent = Meter::new(&|_| {}, Step::Uploading, [config.size].into_iter());
            upload(registry, self, config, source_of(config), &silent).await?;
        }
        let uploads = shipment.layers.iter().map(|layer| async move {
            upload(registry, self, layer, source_of(layer), meter).await?;
            meter.layer_done();
            Ok(())
        });
        let uploads: Vec<_> = uploads.collect();
        stream::iter(uploads)
            .buffer_unordered(CONCURRENT_UPLOADS)
            .try_collect()
            .await
    }
}

async fn push_manifest(
    registry: &RegistryClient,
    name: &str,
    manifest: &OutgoingManifest,
) -> Result<(), RegistryError> {
    let media_type = &manifest.descriptor.media_type;
    registry
        .put_manifest(name, media_type, &manifest.bytes)
        .await
}
