//! `load`: reads the images of an archive, which is the body of the request, into the store.

use std::sync::Arc;

use axum::body::BodyDataStream;
use container_api::{FailureKind, Loaded, LoadedImage};
use container_image::{ImageError, LoadOptions, StoreError};

use crate::{
    archive_stream::{archive_reader, discard},
    configuration::ConfigurationError,
    failure::{RequestError, TaskPanicked},
    progress::ByteCounter,
    service::Service,
    stream_client::StreamClient,
};

/// An archive cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadImagesError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    TaskPanicked(#[from] TaskPanicked),
}

impl RequestError for LoadImagesError {
    fn kind(&self) -> FailureKind {
        match self {
            LoadImagesError::Image(error) => error.kind(),
            LoadImagesError::Configuration(_)
            | LoadImagesError::Store(_)
            | LoadImagesError::TaskPanicked(_) => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Loads all images of an archive. If the client disconnects, the archive ends early and
    /// nothing is loaded.
    pub(crate) async fn load_images(
        self: Arc<Self>,
        archive: BodyDataStream,
        client: &StreamClient,
    ) -> Result<Loaded, LoadImagesError> {
        let configuration = self.checked_configuration()?;
        let options = LoadOptions {
            most_bytes: configuration.image.most_bytes,
            default_registry: configuration.registry.domain,
            name_override: None,
        };
        let guard = self.images.lock_shared().await?;
        let mut archive = archive_reader(archive);
        let client = client.clone();
        let load = tokio::task::spawn_blocking(move || {
            let counter = ByteCounter::new(&client, "loading images");
            let report = |bytes| counter.update(bytes);
            let loaded = self.images.load(&guard, &mut archive, &options, &report);
            if loaded.is_err() {
                discard(archive, client);
            }
            loaded
        });
        let loaded = load.await.map_err(|_| TaskPanicked)?;
        let loaded = loaded.map_err(ImageError::from)?;
        let images = loaded.iter().map(|image| LoadedImage {
            digest: image.descriptor.digest.to_string(),
            references: image.references.iter().map(ToString::to_string).collect(),
        });
        Ok(Loaded {
            images: images.collect(),
        })
    }
}
