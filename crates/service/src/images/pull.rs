//! `pull`: from a reference to an image in the store.

use std::num::NonZeroUsize;

use container_api::{PullRequest, Pulled};
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
        let options = pull_options(request.scheme.as_deref(), request.max_concurrent_downloads)?;
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
}

/// The platform that was asked for, or else the host's.
pub fn platform(word: Option<&str>) -> Result<Platform, ServiceError> {
    match word {
        Some(word) => Ok(word.parse()?),
        None => Ok(Platform::host()),
    }
}

/// How to pull, of which not all need have been said.
pub fn pull_options(
    scheme: Option<&str>,
    downloads: Option<NonZeroUsize>,
) -> Result<PullOptions, ServiceError> {
    let mut options = PullOptions::default();
    if let Some(scheme) = scheme {
        options.scheme = scheme.parse()?;
    }
    if let Some(downloads) = downloads {
        options.max_concurrent_downloads = downloads.get();
    }
    Ok(options)
}
