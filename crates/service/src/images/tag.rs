//! `tag`: gives an image another name.

use container_api::{FailureKind, TagRequest, Tagged};
use container_image::{Reference, ReferenceError, ResolveError, Resolved, StoreError};

use super::inventory::InventoryError;
use crate::{configuration::ConfigurationError, failure::RequestError, service::Service};

/// An image cannot be given a name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TagImageError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("invalid name {0:?}: a name with a digest cannot be given to an image (use a tag)")]
    Digest(String),
}

impl RequestError for TagImageError {
    fn kind(&self) -> FailureKind {
        match self {
            TagImageError::Inventory(error) => error.kind(),
            TagImageError::Resolve(error) => error.kind(),
            TagImageError::Reference(_) | TagImageError::Digest(_) => FailureKind::Invalid,
            TagImageError::Configuration(_) | TagImageError::Store(_) => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Gives an image another name. An image that had the name loses it.
    pub(crate) async fn tag_image(&self, request: &TagRequest) -> Result<Tagged, TagImageError> {
        let default_registry = self.configuration()?.registry.domain;
        let name = Reference::parse(&request.target, &default_registry)?;
        if name.digest().is_some() {
            return Err(TagImageError::Digest(request.target.clone()));
        }
        // Keeps the image from being removed before it has the name.
        let guard = self.images.lock_shared().await?;
        let inventory = self.inventory()?;
        let source = inventory.resolve(&request.source)?;
        let known_as = match &source {
            Resolved::Name(_, reference) => Some(reference),
            Resolved::Digest(image) => image.references.first(),
        };
        self.images.tag(&guard, source.image(), known_as, &name)?;
        Ok(Tagged {
            reference: name.to_string(),
        })
    }
}
