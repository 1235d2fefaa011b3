//! `inspect`: all details of images.

use container_api::{
    FailureKind, ImageBase, ImageConfig, ImageDetails, ImageHistory, InspectRequest,
};
use container_image::{
    Descriptor, HistoryStep, InvalidPlatform, Platform, ResolveError, StoredImage, Variant,
};

use super::{
    inventory::{InventoryError, platforms},
    uses::ImageUses,
};
use crate::{failure::RequestError, service::Service};

/// The details of an image cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectImagesError {
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    InvalidPlatform(#[from] InvalidPlatform),
    #[error("image not found for platform {platform} (stored for: {})", .stored.join(", "))]
    Platform {
        platform: Platform,
        /// Platforms for which the image is complete.
        stored: Vec<String>,
    },
}

impl RequestError for InspectImagesError {
    fn kind(&self) -> FailureKind {
        match self {
            InspectImagesError::Inventory(error) => error.kind(),
            InspectImagesError::Resolve(error) => error.kind(),
            InspectImagesError::InvalidPlatform(_) | InspectImagesError::Platform { .. } => {
                FailureKind::Invalid
            }
        }
    }
}

impl Service {
    /// Returns the details of the requested images, in the order of the request.
    pub(crate) fn inspect_images(
        &self,
        request: &InspectRequest,
    ) -> Result<Vec<ImageDetails>, InspectImagesError> {
        let platform = request.platform.as_deref().map(str::parse).transpose()?;
        let inventory = self.inventory()?;
        let details = request.images.iter().map(|name| {
            let image = inventory.resolve(name)?.image();
            details(image, platform.as_ref(), &inventory.uses)
        });
        details.collect()
    }
}

fn details(
    image: &StoredImage,
    platform: Option<&Platform>,
    uses: &ImageUses,
) -> Result<ImageDetails, InspectImagesError> {
    let variant = match platform {
        None => image.variant(&Platform::host()),
        Some(platform) => {
            Some(
                image
                    .variant_for(platform)
                    .ok_or_else(|| InspectImagesError::Platform {
                        platform: platform.clone(),
                        stored: platforms(image),
                    })?,
            )
        }
    };
    let bases = image.bases.iter().map(|base| {
        let uses = uses.uses.iter().filter(|used| used.has_base(&base.path));
        ImageBase {
            disk_size: base.disk_size,
            machines: uses.map(|used| used.machine.clone()).collect(),
            path: base.path.clone(),
        }
    });
    let layers = variant.map(|variant| variant.layers.iter().map(descriptor).collect());
    let references = image.references.iter();
    Ok(ImageDetails {
        bases: bases.collect(),
        config: variant.map(config).unwrap_or_default(),
        created_date: variant.and_then(|variant| variant.config.created),
        descriptor: descriptor(&image.descriptor),
        disk_size: image.disk_size,
        history: variant.map(history).unwrap_or_default(),
        layers: layers.unwrap_or_default(),
        machines: uses.machines_of(image),
        manifest: variant.map(|variant| descriptor(&variant.manifest)),
        platform: variant.map(|variant| variant.config.platform.to_string()),
        platforms: platforms(image),
        references: references.map(ToString::to_string).collect(),
        shared_size: image.shared_size,
    })
}

fn config(variant: &Variant) -> ImageConfig {
    ImageConfig {
        command: variant.config.command.clone(),
        entrypoint: variant.config.entrypoint.clone(),
        environment: variant.config.environment.clone(),
        labels: variant.config.labels.clone(),
        stop_signal: variant.config.stop_signal.clone(),
        user: variant.config.user.clone(),
        working_directory: variant.config.working_directory.clone(),
    }
}

fn history(variant: &Variant) -> Vec<ImageHistory> {
    let step = |step: &HistoryStep| ImageHistory {
        comment: step.comment.clone(),
        created_by: step.created_by.clone(),
        created_date: step.created,
        empty_layer: step.is_empty_layer,
    };
    variant.config.history.iter().map(step).collect()
}

fn descriptor(descriptor: &Descriptor) -> container_machine::Descriptor {
    container_machine::Descriptor {
        digest: descriptor.digest.to_string(),
        media_type: descriptor.media_type.clone(),
        size: descriptor.size,
    }
}
