//! `list`: all images.

use container_api::{ImageSummary, Images};
use container_image::{Platform, Reference, StoredImage};
use container_machine::MachineId;

use super::inventory::{InventoryError, platforms};
use crate::service::Service;

impl Service {
    /// Lists all images, once for each of their names.
    pub(crate) fn list_images(&self) -> Result<Images, InventoryError> {
        let inventory = self.inventory()?;
        let summaries = inventory.images.iter().flat_map(|image| {
            let machines = inventory.machines_of(image);
            summaries(image, &machines, &inventory.default_registry)
        });
        Ok(Images {
            images: summaries.collect(),
            broken: inventory.uses.broken.clone(),
        })
    }
}

fn summaries(
    image: &StoredImage,
    machines: &[MachineId],
    default_registry: &str,
) -> Vec<ImageSummary> {
    let variant = image.variant(&Platform::host());
    let unnamed = ImageSummary {
        created_date: variant.and_then(|variant| variant.config.created),
        digest: image.descriptor.digest.to_string(),
        disk_size: image.disk_size,
        machines: machines.to_vec(),
        name: None,
        platforms: platforms(image),
        reference: None,
        // With several references, removing one frees nothing, so all of it counts as shared.
        shared_size: match image.references.len() {
            0 | 1 => image.shared_size,
            _ => image.disk_size,
        },
        tag: None,
    };
    if image.references.is_empty() {
        return vec![unnamed];
    }
    let named = |reference: &Reference| ImageSummary {
        name: Some(reference.short_name(default_registry)),
        reference: Some(reference.to_string()),
        tag: reference.tag().map(str::to_owned),
        ..unnamed.clone()
    };
    image.references.iter().map(named).collect()
}
