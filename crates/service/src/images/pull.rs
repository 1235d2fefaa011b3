//! `pull`: from a reference to an image in the store.

use std::num::NonZeroUsize;

use container_api::{CallerEnvironment, PullRequest, Pulled};
use container_image::{Platform, PullOptions, Reference};

use crate::{
    Service, caller::Caller, configuration::Configuration, error::ServiceError,
    recipes::create::told,
};

impl Service {
    /// Fetches an image. If the caller goes away, what came whole stays for the next time.
    pub(super) async fn pull_image(
        &self,
        request: &PullRequest,
        caller: &Caller,
    ) -> Result<Pulled, ServiceError> {
        let configuration = Configuration::read(&self.world.config)?;
        configuration.check()?;
        let reference = Reference::parse(&request.image, &configuration.registry.domain)?;
        let platform = platform(request.platform.as_deref())?;
        let options = self.pull_options(
            &configuration,
            &request.environment,
            request.scheme.as_deref(),
            request.max_concurrent_downloads,
        )?;
        let report = |progress| caller.tell(told(progress));
        let pull = self.images.pull(&reference, &platform, &options, &report);
        let image = tokio::select! {
            image = pull => image?,
            () = caller.gone() => return Err(ServiceError::GivenUp),
        };
        let reference = reference.with_digest(&image.descriptor.digest);
        Ok(Pulled {
            reference: reference.to_string(),
        })
    }

    /// How to pull, of which not all need have been said.
    pub(crate) fn pull_options(
        &self,
        configuration: &Configuration,
        environment: &CallerEnvironment,
        scheme: Option<&str>,
        downloads: Option<NonZeroUsize>,
    ) -> Result<PullOptions, ServiceError> {
        let mut options = PullOptions {
            environment: environment.clone().into_variables().into(),
            registries: configuration.registries(&self.world),
            ..PullOptions::default()
        };
        if let Some(scheme) = scheme {
            options.scheme = scheme.parse()?;
        }
        if let Some(downloads) = downloads {
            options.max_concurrent_downloads = downloads.get();
        }
        Ok(options)
    }
}

/// The platform that was asked for, or else the host's.
pub fn platform(word: Option<&str>) -> Result<Platform, ServiceError> {
    match word {
        Some(word) => Ok(word.parse()?),
        None => Ok(Platform::host()),
    }
}
