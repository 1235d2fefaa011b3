//! Requests about images (see [`container_api`]).

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use container_api::{
    FAILURE_TRAILER, Failure, Freed, ImageDetails, Images, InspectRequest, Loaded, Progress,
    PruneRequest, PullRequest, Pulled, PushRequest, Pushed, RemoveRequest, SaveRequest, Step,
    TagRequest, Tagged,
};
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Method,
    body::{Bytes, Frame},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{Client, ClientError};

/// Size of the chunks in which an archive is sent.
const CHUNK: usize = 256 << 10;

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
        let failure = Arc::new(Mutex::new(None));
        let body = StreamBody::new(chunks(archive, Arc::clone(&failure)));
        let loaded = self
            .request_streamed_with("/v1/images/load", body, progress)
            .await;
        // The service only reports that the stream broke off. The local error says why.
        let failure = failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match failure {
            Some(error) => Err(ClientError::ReadArchive(error)),
            None => loaded,
        }
    }

    /// Saves images as an archive to `to`. What is written is only valid if this succeeds.
    pub async fn save_images(
        &self,
        request: &SaveRequest,
        mut to: impl AsyncWrite + Unpin,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ClientError> {
        let response = self.send(Method::POST, "/v1/images/save", request).await?;
        let mut body = response.into_body();
        let mut written = 0;
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(bytes) => {
                    to.write_all(&bytes)
                        .await
                        .map_err(ClientError::WriteArchive)?;
                    written += bytes.len() as u64;
                    progress(Progress::Step(Step {
                        name: "saving images".to_owned(),
                        layers: None,
                        done: Some(written),
                        total: None,
                    }));
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    if let Some(failure) = trailers.get(FAILURE_TRAILER) {
                        let failure: Failure = serde_json::from_slice(failure.as_bytes())
                            .map_err(ClientError::InvalidReply)?;
                        return Err(failure.into());
                    }
                }
            }
        }
        to.flush().await.map_err(ClientError::WriteArchive)
    }
}

/// Reads the archive as a stream of chunks. A read error breaks the stream off, and is stored in
/// `failure`.
fn chunks(
    archive: impl AsyncRead + Send + Unpin,
    failure: Arc<Mutex<Option<io::Error>>>,
) -> impl stream::Stream<Item = io::Result<Frame<Bytes>>> {
    stream::unfold((archive, failure), async |(mut archive, failure)| {
        let mut chunk = vec![0; CHUNK];
        match archive.read(&mut chunk).await {
            Ok(0) => None,
            Ok(count) => {
                chunk.truncate(count);
                Some((Ok(Frame::data(chunk.into())), (archive, failure)))
            }
            Err(error) => {
                // An I/O error cannot be cloned. The stream gets one of the same kind.
                let broken = io::Error::from(error.kind());
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Some((Err(broken), (archive, failure)))
            }
        }
    })
}
