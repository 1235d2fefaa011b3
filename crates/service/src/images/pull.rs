//! `pull`: fetches an image from its registry into the store.

use container_api::{FailureKind, PullRequest, Pulled};
use container_image::{ImageError, InvalidPlatform, InvalidScheme, Reference, ReferenceError};

use crate::{
    configuration::ConfigurationError,
    failure::RequestError,
    progress,
    pull_options::{platform, pull_options, scheme},
    service::Service,
    stream_client::StreamClient,
};

/// An image cannot be pulled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullImageError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Platform(#[from] InvalidPlatform),
    #[error(transparent)]
    Scheme(#[from] InvalidScheme),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("cancelled: the client has disconnected")]
    Cancelled,
}

impl RequestError for PullImageError {
    fn kind(&self) -> FailureKind {
        match self {
            PullImageError::Image(error) => error.kind(),
            PullImageError::Reference(_)
            | PullImageError::Platform(_)
            | PullImageError::Scheme(_) => FailureKind::Invalid,
            PullImageError::Configuration(_) | PullImageError::Cancelled => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Pulls an image. If the client disconnects, complete layers are kept for the next pull.
    pub(crate) async fn pull_image(
        &self,
        request: &PullRequest,
        client: &StreamClient,
    ) -> Result<Pulled, PullImageError> {
        let configuration = self.checked_configuration()?;
        let reference = Reference::parse(&request.image, &configuration.registry.domain)?;
        let platform = platform(request.platform.as_deref())?;
        let options = pull_options(
            &self.directories,
            &configuration,
            &request.environment,
            scheme(request.scheme.as_deref())?,
            request.max_concurrent_downloads,
        );
        let report = progress::image_listener(client);
        let pull = self.images.pull(&reference, &platform, &options, &report);
        let image = tokio::select! {
            image = pull => image?,
            () = client.disconnected() => return Err(PullImageError::Cancelled),
        };
        let reference = reference.with_digest(&image.descriptor.digest);
        Ok(Pulled {
            reference: reference.to_string(),
        })
    }
}
