//! `list`: which images there are.

use container_api::{ImageSummary, Images};
use container_image::{Descriptor, Platform, Reference, StoredImage, Variant};
use container_machine::MachineId;

use super::uses::Use;
use crate::{Service, configuration::Configuration, error::ServiceError};

impl Service {
    /// All images, once for each of their names.
    pub(super) fn list_images(&self) -> Result<Images, ServiceError> {
        let domain = Configuration::read(&self.world.config)?.registry.domain;
        let (uses, broken) = self.uses()?;
        let images = self.images.images(&made_from(&uses))?;
        let rows = images
            .iter()
            .flat_map(|image| rows(image, &machines_of(image, &uses), &domain));
        Ok(Images {
            images: rows.collect(),
            broken,
        })
    }
}

/// The images that machines were made from.
pub(super) fn made_from(uses: &[Use]) -> Vec<Descriptor> {
    uses.iter().filter_map(|used| used.image.clone()).collect()
}

/// The machines that use this image.
pub(super) fn machines_of(image: &StoredImage, uses: &[Use]) -> Vec<MachineId> {
    let uses = uses.iter().filter(|used| used.is_of(image));
    uses.map(|used| used.machine.clone()).collect()
}

fn rows(image: &StoredImage, machines: &[MachineId], domain: &str) -> Vec<ImageSummary> {
    let newest = image.variant(&Platform::host());
    let unnamed = ImageSummary {
        created_date: newest.and_then(|variant: &Variant| variant.created),
        digest: image.descriptor.digest.to_string(),
        disk_size: image.disk_size,
        machines: machines.to_vec(),
        name: None,
        platforms: platforms(image),
        reference: None,
        // As long as it has another name, all of it is needed.
        shared_size: match image.references.len() {
            0 | 1 => image.shared_size,
            _ => image.disk_size,
        },
        tag: None,
    };
    let named = |reference: &Reference| ImageSummary {
        name: Some(reference.short_name(domain)),
        reference: Some(reference.to_string()),
        tag: reference.tag().map(str::to_owned),
        ..unnamed.clone()
    };
    match image.references.is_empty() {
        true => vec![unnamed],
        false => image.references.iter().map(named).collect(),
    }
}

/// The platforms whose every part is here.
pub(super) fn platforms(image: &StoredImage) -> Vec<String> {
    let variants = image.variants.iter();
    variants
        .map(|variant| variant.platform.to_string())
        .collect()
}
