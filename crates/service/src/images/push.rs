//! `push`: sends an image from the store to its registry.

use container_api::{FailureKind, PushRequest, Pushed};
use container_image::{ImageError, InvalidScheme, PushOptions, Reference, ReferenceError};

use crate::{
    configuration::ConfigurationError, failure::RequestError, progress, pull_options::scheme,
    service::Service, stream_client::StreamClient,
};

/// An image cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushImageError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Scheme(#[from] InvalidScheme),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("cancelled: the client has disconnected")]
    Cancelled,
}

impl RequestError for PushImageError {
    fn kind(&self) -> FailureKind {
        match self {
            PushImageError::Image(error) => error.kind(),
            PushImageError::Reference(_) | PushImageError::Scheme(_) => FailureKind::Invalid,
            PushImageError::Configuration(_) | PushImageError::Cancelled => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Pushes an image. If the client disconnects, the tag at the registry is unchanged.
    pub(crate) async fn push_image(
        &self,
        request: &PushRequest,
        client: &StreamClient,
    ) -> Result<Pushed, PushImageError> {
        let configuration = self.checked_configuration()?;
        let reference = Reference::parse(&request.image, &configuration.registry.domain)?;
        let options = PushOptions {
            scheme: scheme(request.scheme.as_deref())?,
            environment: request.environment.clone().into_variables().into(),
            registries: configuration.registries(&self.directories),
        };
        let report = progress::image_listener(client);
        let pushed = tokio::select! {
            pushed = self.images.push(&reference, &options, &report) => pushed?,
            () = client.disconnected() => return Err(PushImageError::Cancelled),
        };
        Ok(Pushed {
            reference: reference.with_digest(&pushed.digest).to_string(),
        })
    }
}
