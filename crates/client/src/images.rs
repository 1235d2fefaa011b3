//! What can be asked of the service about images: see [`container_api`].

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

/// Bytes that are sent at once.
const PIECE: usize = 256 << 10;

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

    /// All that is known of images.
    pub async fn inspect_images(
        &self,
        request: &InspectRequest,
    ) -> Result<Vec<ImageDetails>, ClientError> {
        self.ask(Method::POST, "/v1/images/inspect", request).await
    }

    /// Gives an image another name.
    pub async fn tag_image(&self, request: &TagRequest) -> Result<Tagged, ClientError> {
        self.ask(Method::POST, "/v1/images/tag", request).await
    }

    /// Removes images. Once it has begun it is carried through.
    pub async fn remove_images(
        &self,
        request: &RemoveRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Freed, ClientError> {
        self.ask_streamed("/v1/images/remove", request, progress)
            .await
    }

    /// Removes what nobody needs. Once it has begun it is carried through.
    pub async fn prune_images(
        &self,
        request: &PruneRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Freed, ClientError> {
        self.ask_streamed("/v1/images/prune", request, progress)
            .await
    }

    /// Takes all images out of an archive that comes as a tar stream. Dropping the future gives it
    /// up: nothing is loaded then.
    pub async fn load_images(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Loaded, ClientError> {
        let failure = Arc::new(Mutex::new(None));
        let body = StreamBody::new(pieces(archive, Arc::clone(&failure)));
        let loaded = self
            .ask_streamed_with("/v1/images/load", body, progress)
            .await;
        // A stream that broke off is no news of the service's.
        let failure = failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match failure {
            Some(error) => Err(ClientError::Read(error)),
            None => loaded,
        }
    }

    /// Writes an archive of images to `to`, which has no whole one until this is done.
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
                    to.write_all(&bytes).await.map_err(ClientError::Write)?;
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
                        let failure: Failure = serde_json::from_slice(failure.as_bytes())?;
                        return Err(failure.into());
                    }
                }
            }
        }
        to.flush().await.map_err(ClientError::Write)
    }
}

/// What can be read, in pieces. A failure is left where whoever sends them finds it.
fn pieces(
    archive: impl AsyncRead + Send + Unpin,
    failure: Arc<Mutex<Option<io::Error>>>,
) -> impl stream::Stream<Item = io::Result<Frame<Bytes>>> {
    stream::unfold((archive, failure), async |(mut archive, failure)| {
        let mut piece = vec![0; PIECE];
        match archive.read(&mut piece).await {
            Ok(0) => None,
            Ok(count) => {
                piece.truncate(count);
                Some((Ok(Frame::data(piece.into())), (archive, failure)))
            }
            Err(error) => {
                let broken = io::Error::from(error.kind());
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Some((Err(broken), (archive, failure)))
            }
        }
    })
}
