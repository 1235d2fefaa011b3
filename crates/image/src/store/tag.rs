//! Assigning another name to an image.

use super::{ImageStore, SharedGuard, StoreError, StoredImage};
use crate::Reference;

impl ImageStore {
    /// Assigns another name to an image, moving the name if it is in use. The machine settings that
    /// the image has under `known_as` are copied to the new name.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read or written. The name is not assigned then.
    pub fn tag(
        &self,
        _hold: &SharedGuard,
        image: &StoredImage,
        known_as: Option<&Reference>,
        name: &Reference,
    ) -> Result<(), StoreError> {
        if let Some(known_as) = known_as {
            for variant in &image.variants {
                let manifest = &variant.manifest.digest;
                let settings = self.find_settings(known_as, manifest)?;
                self.record_settings(name, manifest, settings.as_ref())?;
            }
        }
        self.assign_names(&[(image.descriptor.clone(), Some(name.clone()))])
    }
}
