//! `tag`: another name for an image.

use container_api::{TagRequest, Tagged};
use container_image::{Meant, Reference};

use super::list::made_from;
use crate::{Service, configuration::Configuration, error::ServiceError};

impl Service {
    /// Gives an image another name, whatever that meant before.
    pub(super) async fn tag_image(&self, request: &TagRequest) -> Result<Tagged, ServiceError> {
        let domain = Configuration::read(&self.world.config)?.registry.domain;
        let name = Reference::parse(&request.target, &domain)?;
        if name.digest().is_some() {
            return Err(ServiceError::Invalid(format!(
                "{:?} says by its digest what it means: give a name with a tag",
                request.target
            )));
        }
        let hold = self.images.hold().await?;
        let (uses, _) = self.uses()?;
        let images = self.images.images(&made_from(&uses))?;
        let meant = Meant::find(&request.source, &domain, &images)?;
        let known_as = match &meant {
            Meant::Name(_, reference) => Some(reference),
            Meant::Digest(image) => image.references.first(),
        };
        self.images.tag(&hold, meant.image(), known_as, &name)?;
        Ok(Tagged {
            reference: name.to_string(),
        })
    }
}
