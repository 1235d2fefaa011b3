//! `save`: writes images into an archive, which is the body of the reply.

use std::{
    convert::Infallible,
    io::{self, Write},
};

use axum::body::{Body, Bytes};
use container_api::{
    ArchiveFormat as RequestedFormat, FAILURE_TRAILER, Failure, FailureKind, SaveRequest,
};
use container_image::{
    ArchiveFormat, ImageArchive, ImageError, ImageToSave, InvalidPlatform, ResolveError, Resolved,
    SaveError, SharedGuard, StoreError,
};
use futures::stream;
use http_body_util::StreamBody;
use hyper::{
    HeaderMap,
    body::Frame,
    header::{HeaderName, HeaderValue},
};
use tokio::sync::mpsc;

use super::inventory::{Inventory, InventoryError};
use crate::{failure::RequestError, service::Service};

/// Chunks of an archive that are buffered for a client that reads slowly.
const BUFFERED_CHUNKS: usize = 8;

/// Size of a chunk in bytes.
const CHUNK_SIZE: usize = 256 << 10;

/// Images cannot be saved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveImagesError {
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error(transparent)]
    Platform(#[from] InvalidPlatform),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Archive(#[from] ImageError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RequestError for SaveImagesError {
    fn kind(&self) -> FailureKind {
        match self {
            SaveImagesError::Inventory(error) => error.kind(),
            SaveImagesError::Resolve(error) => error.kind(),
            SaveImagesError::Archive(error) => error.kind(),
            SaveImagesError::Platform(_) => FailureKind::Invalid,
            SaveImagesError::Store(_) => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Returns the archive of the requested images. An error after the first byte is sent in the
    /// trailer [`FAILURE_TRAILER`].
    pub(crate) async fn save_images(&self, request: &SaveRequest) -> Result<Body, SaveImagesError> {
        let platform = request.platform.as_deref().map(str::parse).transpose()?;
        let format = match request.format {
            RequestedFormat::Oci => ArchiveFormat::Oci,
            RequestedFormat::Docker => ArchiveFormat::Docker,
        };
        let guard = self.images.lock_shared().await?;
        let inventory = self.inventory()?;
        let images = images_to_save(&inventory, &request.images)?;
        let archive = self
            .images
            .prepare_archive(&images, format, platform.as_ref())
            .map_err(ImageError::from)?;
        Ok(body(archive, guard))
    }
}

/// Resolves the names of a request. An image that is named twice is saved once, with both names.
fn images_to_save<'a>(
    inventory: &'a Inventory,
    names: &[String],
) -> Result<Vec<ImageToSave<'a>>, ResolveError> {
    let mut to_save: Vec<ImageToSave<'_>> = Vec::new();
    for name in names {
        let resolved = inventory.resolve(name)?;
        let references = match &resolved {
            Resolved::Name(_, reference) => vec![reference.clone()],
            Resolved::Digest(image) => image.references.clone(),
        };
        let image = resolved.image();
        match to_save.iter_mut().find(|known| known.image == image) {
            Some(known) => known.references.extend(references),
            None => to_save.push(ImageToSave { image, references }),
        }
    }
    Ok(to_save)
}

/// Returns a body for the archive, which a thread writes. The guard keeps its blobs from being
/// removed meanwhile.
fn body(archive: ImageArchive, guard: SharedGuard) -> Body {
    let (chunks, receiver) = mpsc::channel::<Frame<Bytes>>(BUFFERED_CHUNKS);
    tokio::task::spawn_blocking(move || {
        let out = io::BufWriter::with_capacity(CHUNK_SIZE, ChunkWriter(chunks.clone()));
        match archive.write(&guard, out) {
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
struct ChunkWriter(mpsc::Sender<Frame<Bytes>>);

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
