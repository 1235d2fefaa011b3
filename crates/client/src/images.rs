//! Requests about images (see [`container_api`]).

use container_api::{
    Freed, ImageDetails, Images, InspectRequest, Loaded, Progress, PruneRequest, PullRequest,
    Pulled, PushRequest, Pushed, RemoveRequest, SaveRequest, TagRequest, Tagged,
};
use hyper::Method;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Client, ClientError, archive::receive_archive};

impl Client {
    /// Returns all images.
    pub async fn images(&self) -> Result<Images, ClientError> {
        self.request(Method::GET, "/v1/images", &()).await
    }

    /// Pulls an image. Dropping the future cancels the request; blobs that are complete stay
    /// stored.
    pub async fn pull(
        &self,
        request: &PullRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Pulled, ClientError> {
        self.request_streamed("/v1/images/pull", request, progress)
            .await
    }

    /// Pushes an image to its registry. Dropping the future cancels the request.
    pub async fn push(
        &self,
        request: &PushRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Pushed, ClientError> {
        self.request_streamed("/v1/images/push", request, progress)
            .await
    }

    /// Returns all details of images.
    pub async fn inspect_images(
        &self,
        request: &InspectRequest,
    ) -> Result<Vec<ImageDetails>, ClientError> {
        self.request(Method::POST, "/v1/images/inspect", request)
            .await
    }

    /// Adds a reference to an image.
    pub async fn tag_image(&self, request: &TagRequest) -> Result<Tagged, ClientError> {
        self.request(Method::POST, "/v1/images/tag", request).await
    }

    /// Removes images. Dropping the future does not cancel the removal.
    pub async fn remove_images(
        &self,
        request: &RemoveRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Freed, ClientError> {
        self.request_streamed("/v1/images/remove", request, progress)
            .await
    }

    /// Removes everything that is not needed. Dropping the future does not cancel the removal.
    pub async fn prune_images(
        &self,
        request: &PruneRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Freed, ClientError> {
        self.request_streamed("/v1/images/prune", request, progress)
            .await
    }

    /// Loads all images of an archive, sent as a tar stream. Dropping the future cancels the
    /// request, and no image is loaded.
    pub async fn load_images(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Loaded, ClientError> {
        self.send_archive("/v1/images/load", archive, progress)
            .await
    }

    /// Saves images as an archive to `to`. What is written is only valid if this succeeds.
    pub async fn save_images(
        &self,
        request: &SaveRequest,
        to: impl AsyncWrite + Unpin,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ClientError> {
        let response = self.send(Method::POST, "/v1/images/save", request).await?;
        receive_archive(response, "saving images", to, progress).await
    }
}
