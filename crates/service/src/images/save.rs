//! `save`: writes images into an archive, which is the body of the reply.

use axum::body::Body;
use container_api::{ArchiveFormat as RequestedFormat, FailureKind, SaveRequest};
use container_image::{
    ArchiveFormat, ImageError, ImageToSave, InvalidPlatform, ResolveError, Resolved, StoreError,
};

use super::inventory::{Inventory, InventoryError};
use crate::{archive_stream::archive_body, failure::RequestError, service::Service};

/// Images cannot be saved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveImagesError {
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error(transparent)]
    Platform(#[from] InvalidPlatform),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Archive(#[from] ImageError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RequestError for SaveImagesError {
    fn kind(&self) -> FailureKind {
        match self {
            SaveImagesError::Inventory(error) => error.kind(),
            SaveImagesError::Resolve(error) => error.kind(),
            SaveImagesError::Archive(error) => error.kind(),
            SaveImagesError::Platform(_) => FailureKind::Invalid,
            SaveImagesError::Store(_) => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Returns the archive of the requested images. An error after the first byte is sent in the
    /// trailer [`FAILURE_TRAILER`](container_api::FAILURE_TRAILER).
    pub(crate) async fn save_images(&self, request: &SaveRequest) -> Result<Body, SaveImagesError> {
        let platform = request.platform.as_deref().map(str::parse).transpose()?;
        let format = match request.format {
            RequestedFormat::Oci => ArchiveFormat::Oci,
            RequestedFormat::Docker => ArchiveFormat::Docker,
        };
        let guard = self.images.lock_shared().await?;
        let inventory = self.inventory()?;
        let images = images_to_save(&inventory, &request.images)?;
        let archive = self
            .images
            .prepare_archive(&images, format, platform.as_ref())
            .map_err(ImageError::from)?;
        // The guard keeps the blobs from being removed meanwhile.
        Ok(archive_body(move |to| archive.write(&guard, to)))
    }
}

/// Resolves the names of a request. An image that is named twice is saved once, with both names.
fn images_to_save<'a>(
    inventory: &'a Inventory,
    names: &[String],
) -> Result<Vec<ImageToSave<'a>>, ResolveError> {
    let mut to_save: Vec<ImageToSave<'_>> = Vec::new();
    for name in names {
        let resolved = inventory.resolve(name)?;
        let references = match &resolved {
            Resolved::Name(_, reference) => vec![reference.clone()],
            Resolved::Digest(image) => image.references.clone(),
        };
        let image = resolved.image();
        match to_save.iter_mut().find(|known| known.image == image) {
            Some(known) => known.references.extend(references),
            None => to_save.push(ImageToSave { image, references }),
        }
    }
    Ok(to_save)
}
