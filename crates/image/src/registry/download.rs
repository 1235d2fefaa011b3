//! Blobs, from the registry into the store, through broken connections.

use std::{io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use reqwest::{Response, StatusCode, header::CONTENT_RANGE};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{FetchError, RETRIES, Registry, pause};
use crate::{
    Descriptor,
    progress::Meter,
    store::{Arrival, ImageStore, IncomingBlob, StoreError},
};

/// A download that got this far since it last broke has not got nowhere.
const HEADWAY: u64 = 1 << 20;

/// Fetches a blob that the store does not have. Of several at once, over all processes, one
/// fetches and the others wait for it. How far it has come is told to `arrival`; that it will not
/// come is the caller's to tell.
pub(crate) async fn download(
    registry: &Registry,
    store: &ImageStore,
    descriptor: &Descriptor,
    arrival: &Arc<Arrival>,
    meter: &Meter<'_>,
) -> Result<(), FetchError> {
    let _lock = store.lock(&descriptor.digest.hex()).await?;
    if store.has(descriptor) {
        meter.add(descriptor.size);
        arrival.complete();
        return Ok(());
    }
    let mut blob = Writing::begin(store.begin(descriptor)?, arrival)?;
    let mut failures = 0;
    while blob.received < descriptor.size {
        let before = blob.received;
        let Err(error) = fetch_on(registry, descriptor, &mut blob, meter).await else {
            continue;
        };
        if blob.received - before >= HEADWAY {
            failures = 0;
        }
        if failures == RETRIES || !error.may_pass() {
            return Err(error);
        }
        tracing::info!(
            "{} broke at byte {}: {error}",
            descriptor.digest,
            blob.received
        );
        pause(failures).await;
        failures += 1;
    }
    blob.finish().await?;
    arrival.complete();
    Ok(())
}

/// Goes on from where the blob is.
async fn fetch_on(
    registry: &Registry,
    descriptor: &Descriptor,
    blob: &mut Writing,
    meter: &Meter<'_>,
) -> Result<(), FetchError> {
    let response = registry.blob(&descriptor.digest, blob.received).await;
    let mut response = response.map_err(|error| match error {
        FetchError::NotFound { registry, .. } => FetchError::Incomplete {
            registry,
            digest: descriptor.digest,
        },
        error => error,
    })?;
    // A registry that cannot resume sends all again.
    let mut repeated = match start(&response) {
        Some(start) if start <= blob.received => blob.received - start,
        _ => blob.received,
    };
    while let Some(mut chunk) = response.chunk().await.map_err(registry.broken())? {
        let skipped = repeated.min(chunk.len() as u64);
        repeated -= skipped;
        // No larger than the chunk's length.
        let fresh = chunk.split_off(skipped as usize);
        if !fresh.is_empty() {
            meter.add(fresh.len() as u64);
            blob.write(fresh).await?;
        }
    }
    if blob.received < descriptor.size {
        return Err(FetchError::Broken {
            registry: registry.name.clone(),
            reason: format!("{} of {} bytes came", blob.received, descriptor.size),
        });
    }
    Ok(())
}

/// Where the bytes of this response start: what its `Content-Range: bytes 5-9/10` says.
fn start(response: &Response) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Some(0);
    }
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let (start, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    start.trim().parse().ok()
}

/// A blob that is written and hashed on a thread of its own.
struct Writing {
    chunks: mpsc::Sender<Chunk>,
    writer: JoinHandle<Result<(), StoreError>>,
    path: PathBuf,
    received: u64,
}

enum Chunk {
    Bytes(Bytes),
    End,
}

impl Writing {
    fn begin(mut blob: IncomingBlob, arrival: &Arc<Arrival>) -> Result<Writing, StoreError> {
        let path = blob.path().to_owned();
        let (chunks, mut incoming) = mpsc::channel(16);
        arrival.begin(blob.reader()?);
        let arrival = Arc::clone(arrival);
        let writer = tokio::task::spawn_blocking(move || {
            loop {
                match incoming.blocking_recv() {
                    Some(Chunk::Bytes(bytes)) => arrival.advance(blob.write(&bytes)?),
                    Some(Chunk::End) => return blob.finish(),
                    // Given up: the blob goes with this thread.
                    None => return Ok(()),
                }
            }
        });
        Ok(Writing {
            chunks,
            writer,
            path,
            received: 0,
        })
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.received += bytes.len() as u64;
        match self.chunks.send(Chunk::Bytes(bytes)).await {
            Ok(()) => Ok(()),
            Err(_) => self.outcome().await,
        }
    }

    async fn finish(mut self) -> Result<(), StoreError> {
        // A writer that is gone already says why below.
        let _ = self.chunks.send(Chunk::End).await;
        self.outcome().await
    }

    async fn outcome(&mut self) -> Result<(), StoreError> {
        match (&mut self.writer).await {
            Ok(outcome) => outcome,
            Err(lost) => Err(StoreError::io("writing", &self.path)(io::Error::other(
                lost,
            ))),
        }
    }
}
