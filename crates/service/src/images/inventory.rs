//! The stored images together with the machines that use them.

use container_api::FailureKind;
use container_image::{Platform, ResolveError, Resolved, StoreError, StoredImage};
use container_machine::{BundleError, MachineId};

use super::uses::ImageUses;
use crate::{configuration::ConfigurationError, failure::RequestError, service::Service};

/// The images or the machines that use them cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InventoryError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RequestError for InventoryError {
    fn kind(&self) -> FailureKind {
        match self {
            InventoryError::Bundle(error) => error.kind(),
            InventoryError::Configuration(_) | InventoryError::Store(_) => FailureKind::Failed,
        }
    }
}

/// All images of the store, also those without a name that machines were made from.
pub(crate) struct Inventory {
    /// Registry of references that name none.
    pub(super) default_registry: String,
    pub(crate) images: Vec<StoredImage>,
    pub(crate) uses: ImageUses,
}

impl Service {
    /// Reads the store and the images that machines use.
    pub(crate) fn inventory(&self) -> Result<Inventory, InventoryError> {
        let default_registry = self.configuration()?.registry.domain;
        let uses = ImageUses::read(&self.bundles)?;
        let images = self.images.images(&uses.images())?;
        Ok(Inventory {
            default_registry,
            images,
            uses,
        })
    }
}

impl Inventory {
    /// Returns the image that a reference, a digest or the beginning of a digest names.
    pub(super) fn resolve(&self, name: &str) -> Result<Resolved<'_>, ResolveError> {
        Resolved::find(name, &self.default_registry, &self.images)
    }

    /// Returns the machines that use this image.
    pub(crate) fn machines_of(&self, image: &StoredImage) -> Vec<MachineId> {
        self.uses.machines_of(image)
    }
}

/// Returns the platforms for which the image is complete.
pub(super) fn platforms(image: &StoredImage) -> Vec<String> {
    let platforms = image
        .variants
        .iter()
        .map(|variant| &variant.config.platform);
    platforms.map(Platform::to_string).collect()
}
