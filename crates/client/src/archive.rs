//! Archives that are the body of a request or of a reply.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use container_api::{FAILURE_TRAILER, Failure, Progress, Step};
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Response,
    body::{Bytes, Frame, Incoming},
};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{Client, ClientError};

/// Size of the chunks in which an archive is sent.
const CHUNK: usize = 256 << 10;

impl Client {
    /// Sends a request with an archive as its body, whose reply is a stream. Calls `progress` for
    /// each report, and returns the result.
    pub(crate) async fn send_archive<T: DeserializeOwned>(
        &self,
        path: &str,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<T, ClientError> {
        let failure = Arc::new(Mutex::new(None));
        let body = StreamBody::new(chunks(archive, Arc::clone(&failure)));
        let reply = self.request_streamed_with(path, body, progress).await;
        // The service only reports that the stream broke off. The local error says why.
        let failure = failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match failure {
            Some(error) => Err(ClientError::ReadArchive(error)),
            None => reply,
        }
    }
}

/// Writes a reply that is an archive to `to`. What is written is only valid if this succeeds.
pub(crate) async fn receive_archive(
    response: Response<Incoming>,
    step: &str,
    mut to: impl AsyncWrite + Unpin,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ClientError> {
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
                    name: step.to_owned(),
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
