//! `push`: from the store to a registry.

use container_api::{PushRequest, Pushed};
use container_image::{PushOptions, Reference};

use crate::{
    Service, caller::Caller, configuration::Configuration, error::ServiceError,
    recipes::create::told,
};

impl Service {
    /// Sends an image to its registry. If the caller goes away, its tag means there what it meant
    /// before.
    pub(super) async fn push_image(
        &self,
        request: &PushRequest,
        caller: &Caller,
    ) -> Result<Pushed, ServiceError> {
        let configuration = Configuration::read(&self.world.config)?;
        configuration.check()?;
        let reference = Reference::parse(&request.image, &configuration.registry.domain)?;
        let scheme = request.scheme.as_deref().map(str::parse).transpose()?;
        let options = PushOptions {
            scheme: scheme.unwrap_or_default(),
            environment: request.environment.clone().into_variables().into(),
            registries: configuration.registries(&self.world),
        };
        let report = |progress| caller.tell(told(progress));
        let pushed = tokio::select! {
            pushed = self.images.push(&reference, &options, &report) => pushed?,
            () = caller.gone() => return Err(ServiceError::GivenUp),
        };
        Ok(Pushed {
            reference: reference.with_digest(&pushed.digest).to_string(),
        })
    }
}
