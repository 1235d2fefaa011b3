//! `inspect`: all that is known of an image.

use container_api::{ImageBase, ImageConfig, ImageDetails, ImageHistory, InspectRequest};
use container_image::{Descriptor, HistoryStep, Meant, Platform, StoredImage, Variant};

use super::{
    list::{machines_of, made_from, platforms},
    uses::Use,
};
use crate::{Service, configuration::Configuration, error::ServiceError};

impl Service {
    /// The images that are meant, in the order of the request.
    pub(super) fn inspect_images(
        &self,
        request: &InspectRequest,
    ) -> Result<Vec<ImageDetails>, ServiceError> {
        let domain = Configuration::read(&self.world.config)?.registry.domain;
        let platform = request.platform.as_deref().map(str::parse).transpose()?;
        let (uses, _) = self.uses()?;
        let images = self.images.images(&made_from(&uses))?;
        let details = request.images.iter().map(|word| {
            let image = Meant::find(word, &domain, &images)?.image();
            details(image, platform.as_ref(), &uses)
        });
        details.collect()
    }
}

fn details(
    image: &StoredImage,
    platform: Option<&Platform>,
    uses: &[Use],
) -> Result<ImageDetails, ServiceError> {
    let variant = match platform {
        None => image.variant(&Platform::host()),
        Some(platform) => Some(image.variant_for(platform).ok_or_else(|| {
            ServiceError::Invalid(format!(
                "the image is not here for {platform}, only for {}",
                platforms(image).join(", ")
            ))
        })?),
    };
    let bases = image.bases.iter().map(|base| {
        let on = uses.iter().filter(|used| used.is_on(&base.path));
        ImageBase {
            disk_size: base.disk_size,
            machines: on.map(|used| used.machine.clone()).collect(),
            path: base.path.clone(),
        }
    });
    let references = image.references.iter();
    Ok(ImageDetails {
        bases: bases.collect(),
        config: variant.map(config).unwrap_or_default(),
        created_date: variant.and_then(|variant| variant.created),
        descriptor: written(&image.descriptor),
        disk_size: image.disk_size,
        history: variant.map(history).unwrap_or_default(),
        layers: variant.map_or(Vec::new(), |it| it.layers.iter().map(written).collect()),
        machines: machines_of(image, uses),
        manifest: variant.map(|variant| written(&variant.manifest)),
        platform: variant.map(|variant| variant.platform.to_string()),
        platforms: platforms(image),
        references: references.map(ToString::to_string).collect(),
        shared_size: image.shared_size,
    })
}

fn config(variant: &Variant) -> ImageConfig {
    ImageConfig {
        command: variant.command.clone(),
        entrypoint: variant.entrypoint.clone(),
        environment: variant.environment.clone(),
        labels: variant.labels.clone(),
        stop_signal: variant.stop_signal.clone(),
        user: variant.user.clone(),
        working_directory: variant.working_directory.clone(),
    }
}

fn history(variant: &Variant) -> Vec<ImageHistory> {
    let step = |step: &HistoryStep| ImageHistory {
        comment: step.comment.clone(),
        created_by: step.created_by.clone(),
        created_date: step.created,
        empty_layer: step.is_empty_layer,
    };
    variant.history.iter().map(step).collect()
}

fn written(descriptor: &Descriptor) -> container_machine::Descriptor {
    container_machine::Descriptor {
        digest: descriptor.digest.to_string(),
        media_type: descriptor.media_type.clone(),
        size: descriptor.size,
    }
}
