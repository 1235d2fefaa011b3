//! `load` and `save`: archives of images, as streams.

use std::{
    io::{self, Write},
    sync::Arc,
};

use axum::body::{Body, BodyDataStream, Bytes};
use container_api::{
    ArchiveFormat as WrittenFormat, FAILURE_TRAILER, Failure, Loaded, LoadedImage, Progress,
    SaveRequest, Step,
};
use container_image::{
    Archive, ArchiveFormat, Hold, ImageError, ImageToSave, LoadOptions, Meant, SaveError,
};
use futures::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::{
    HeaderMap,
    body::Frame,
    header::{HeaderName, HeaderValue},
};
use tokio::sync::mpsc;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::list::made_from;
use crate::{Service, caller::Caller, configuration::Configuration, error::ServiceError};

/// Bytes between two reports.
const INTERVAL: u64 = 1 << 20;
/// Pieces of an archive that may wait for a slow reader, and bytes of each.
const BACKLOG: usize = 8;
const PIECE: usize = 256 << 10;

impl Service {
    /// Takes all images out of an archive. If whoever sends it goes away, the stream breaks off
    /// and nothing is loaded.
    pub(super) async fn load_images(
        self: Arc<Self>,
        archive: BodyDataStream,
        caller: &Caller,
    ) -> Result<Loaded, ServiceError> {
        let configuration = Configuration::read(&self.world.config)?;
        configuration.check()?;
        let options = LoadOptions {
            most_bytes: configuration.image.most_bytes,
            default_registry: configuration.registry.domain,
            called: None,
        };
        let hold = self.images.hold().await?;
        let archive = StreamReader::new(archive.map(|piece| piece.map_err(io::Error::other)));
        // It must be made where the event loop is known.
        let mut archive = SyncIoBridge::new(archive);
        let caller = caller.clone();
        let loading = tokio::task::spawn_blocking(move || {
            let report = report(&caller);
            let loaded = self.images.load(&hold, &mut archive, &options, &report);
            if loaded.is_err() {
                discard(archive, caller);
            }
            loaded
        });
        let loaded = loading.await.map_err(|_| ServiceError::Crashed)?;
        let loaded = loaded.map_err(ImageError::from)?;
        let images = loaded.iter().map(|image| LoadedImage {
            digest: image.descriptor.digest.to_string(),
            references: image.references.iter().map(ToString::to_string).collect(),
        });
        Ok(Loaded {
            images: images.collect(),
        })
    }

    /// The archive of these images, as the body of an answer.
    pub(super) async fn save_images(&self, request: &SaveRequest) -> Result<Body, ServiceError> {
        let domain = Configuration::read(&self.world.config)?.registry.domain;
        let platform = request.platform.as_deref().map(str::parse).transpose()?;
        let format = match request.format {
            WrittenFormat::Oci => ArchiveFormat::Oci,
            WrittenFormat::Docker => ArchiveFormat::Docker,
        };
        let hold = self.images.hold().await?;
        let (uses, _) = self.uses()?;
        let images = self.images.images(&made_from(&uses))?;
        let mut to_save: Vec<ImageToSave<'_>> = Vec::new();
        for word in &request.images {
            let meant = Meant::find(word, &domain, &images)?;
            let references = match &meant {
                Meant::Name(_, reference) => vec![reference.clone()],
                Meant::Digest(image) => image.references.clone(),
            };
            let image = meant.image();
            match to_save.iter_mut().find(|it| it.image == image) {
                Some(known) => known.references.extend(references),
                None => to_save.push(ImageToSave { image, references }),
            }
        }
        let archive = self.images.archive(&to_save, format, platform.as_ref());
        Ok(body(archive.map_err(ImageError::from)?, hold))
    }
}

/// Takes the rest of what comes, until whoever sends it has read the answer and goes. The answer goes
/// on until then: whoever still sends would lose its last line with the connection.
fn discard(mut archive: impl io::Read + Send + 'static, caller: Caller) {
    tokio::task::spawn_blocking(move || {
        // It ends in an error when the sender goes.
        let _ = io::copy(&mut archive, &mut io::sink());
        drop(caller);
    });
}

/// Tells the caller now and then how many bytes have come.
fn report(caller: &Caller) -> impl Fn(u64) + use<> {
    let caller = caller.clone();
    let told = std::cell::Cell::new(None);
    move |bytes| {
        let step = bytes / INTERVAL;
        if told.replace(Some(step)) != Some(step) {
            caller.tell(Progress::Step(Step {
                name: "loading images".to_owned(),
                layers: None,
                done: Some(bytes),
                total: None,
            }));
        }
    }
}

/// The archive, written on a thread of its own; a failure on the way is told in a trailer.
fn body(archive: Archive, hold: Hold) -> Body {
    let (pieces, receiver) = mpsc::channel::<Frame<Bytes>>(BACKLOG);
    tokio::task::spawn_blocking(move || {
        let out = io::BufWriter::with_capacity(PIECE, Pieces(pieces.clone()));
        match archive.write(&hold, out) {
            Ok(()) => {}
            // Nobody reads any more.
            Err(SaveError::Write(_)) => {}
            Err(error) => {
                let failure = Failure::from(&ServiceError::from(ImageError::from(error)));
                // Whoever reads may be gone.
                let _ = pieces.blocking_send(Frame::trailers(trailer(&failure)));
            }
        }
    });
    let frames = stream::unfold(receiver, async |mut receiver| {
        let frame = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(frame), receiver))
    });
    Body::new(StreamBody::new(frames))
}

fn trailer(failure: &Failure) -> HeaderMap {
    let mut trailer = HeaderMap::new();
    // Headers are of ASCII, and JSON can be.
    let text = serde_json::to_string(failure).unwrap_or_default();
    let text: String = text.chars().map(as_ascii).collect();
    if let Ok(value) = HeaderValue::from_str(&text) {
        trailer.insert(HeaderName::from_static(FAILURE_TRAILER), value);
    }
    trailer
}

/// A character of JSON text in ASCII.
fn as_ascii(letter: char) -> String {
    if letter.is_ascii() {
        return letter.to_string();
    }
    let units = letter.encode_utf16(&mut [0; 2]).to_vec();
    units.iter().map(|unit| format!("\\u{unit:04x}")).collect()
}

/// What is written goes to the body of an answer.
struct Pieces(mpsc::Sender<Frame<Bytes>>);

impl Write for Pieces {
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
    fn a_trailer_holds_any_sentence() {
        let failure = Failure {
            kind: FailureKind::Failed,
            message: "naïve … 𝄞 \n\"x\"".to_owned(),
        };
        let trailer = trailer(&failure);
        let text = trailer[FAILURE_TRAILER].to_str().unwrap();
        assert_eq!(serde_json::from_str::<Failure>(text).unwrap(), failure);
    }
}
