//! Archives that are the body of a request or of a reply.

use std::{
    convert::Infallible,
    io::{self, Write},
};

use axum::body::{Body, BodyDataStream, Bytes};
use container_api::{FAILURE_TRAILER, Failure};
use container_image::{ImageError, SaveError};
use futures::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::{
    HeaderMap,
    body::Frame,
    header::{HeaderName, HeaderValue},
};
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::{failure::RequestError, stream_client::StreamClient};

/// Chunks of an archive that are buffered for a client that reads slowly.
const BUFFERED_CHUNKS: usize = 8;

/// Size of a chunk in bytes.
const CHUNK_SIZE: usize = 256 << 10;

/// Writer of a reply's body.
pub(crate) type BodyWriter = io::BufWriter<ChunkWriter>;

/// Returns a reader of a request's body, for a thread that may block. If the client disconnects,
/// reading fails.
pub(crate) fn archive_reader(body: BodyDataStream) -> impl io::Read + Send + 'static {
    let body = body.map(|chunk| chunk.map_err(io::Error::other));
    // Takes the handle of the event loop of the current thread.
    SyncIoBridge::new(StreamReader::new(body))
}

/// Reads the rest of a refused archive, and keeps the reply open meanwhile: a client that is still
/// sending when the connection is closed does not get to read the error.
pub(crate) fn discard(mut archive: impl io::Read + Send + 'static, client: StreamClient) {
    tokio::task::spawn_blocking(move || {
        // Ends with an error when the client disconnects.
        let _ = io::copy(&mut archive, &mut io::sink());
        drop(client);
    });
}

/// Returns a body for an archive, which `write` writes on a thread of its own.
pub(crate) fn archive_body(
    write: impl FnOnce(BodyWriter) -> Result<(), SaveError> + Send + 'static,
) -> Body {
    let (chunks, receiver) = mpsc::channel::<Frame<Bytes>>(BUFFERED_CHUNKS);
    tokio::task::spawn_blocking(move || {
        let to = io::BufWriter::with_capacity(CHUNK_SIZE, ChunkWriter(chunks.clone()));
        match write(to) {
            Ok(()) => {}
            // The client has disconnected.
            Err(SaveError::Write(_)) => {}
            Err(error) => {
                let failure = ImageError::from(error).to_failure();
                // Fails if the client has disconnected.
                let _ = chunks.blocking_send(Frame::trailers(trailer(&failure)));
            }
        }
    });
    let frames = stream::unfold(receiver, async |mut receiver| {
        let frame = receiver.recv().await?;
        Some((Ok::<_, Infallible>(frame), receiver))
    });
    Body::new(StreamBody::new(frames))
}

fn trailer(failure: &Failure) -> HeaderMap {
    let mut trailer = HeaderMap::new();
    let json = serde_json::to_string(failure).unwrap_or_default();
    // Header values are ASCII.
    let json: String = json.chars().map(escape_non_ascii).collect();
    if let Ok(value) = HeaderValue::from_str(&json) {
        trailer.insert(HeaderName::from_static(FAILURE_TRAILER), value);
    }
    trailer
}

/// Returns a character of a JSON text in ASCII (RFC 8259, section 7).
fn escape_non_ascii(character: char) -> String {
    if character.is_ascii() {
        return character.to_string();
    }
    let units = character.encode_utf16(&mut [0; 2]).to_vec();
    units.iter().map(|unit| format!("\\u{unit:04x}")).collect()
}

/// Writer that sends each write as a frame of a body.
pub(crate) struct ChunkWriter(mpsc::Sender<Frame<Bytes>>);

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let frame = Frame::data(Bytes::copy_from_slice(bytes));
        match self.0.blocking_send(frame) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use container_api::FailureKind;

    use super::*;

    #[test]
    fn a_trailer_holds_any_message() {
        let failure = Failure {
            kind: FailureKind::Failed,
            message: "naïve … 𝄞 \n\"x\"".to_owned(),
        };
        let trailer = trailer(&failure);
        let text = trailer[FAILURE_TRAILER].to_str().unwrap();
        assert_eq!(serde_json::from_str::<Failure>(text).unwrap(), failure);
    }
}
