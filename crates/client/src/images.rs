//! What can be asked of the service about images: see [`container_api`].

use container_api::{Images, Progress, PullRequest, Pulled, PushRequest, Pushed};
use hyper::Method;

use crate::{Client, ClientError};

impl Client {
    /// All images.
    pub async fn images(&self) -> Result<Images, ClientError> {
        self.ask(Method::GET, "/v1/images", &()).await
    }

    /// Fetches an image. Dropping the future gives it up; what came whole stays.
    pub async fn pull(
        &self,
        request: &PullRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Pulled, ClientError> {
        self.ask_streamed("/v1/images/pull", request, progress)
            .await
    }

    /// Sends an image to its registry. Dropping the future gives it up.
    pub async fn push(
        &self,
        request: &PushRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Pushed, ClientError> {
        self.ask_streamed("/v1/images/push", request, progress)
            .await
    }
}
