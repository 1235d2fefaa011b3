//! Downloads of single blobs into the store, with retries after broken connections.

use std::{io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinHandle};

use super::PullError;
use crate::{
    Descriptor, Step,
    manifest::ManifestError,
    progress::Meter,
    registry::{MAX_RETRIES, RegistryClient, RegistryError, backoff},
    store::{Arrival, ImageStore, IncomingBlob, StoreError},
};

/// Bytes after which a download counts as progressing, which resets its number of retries.
const PROGRESS: u64 = 1 << 20;

/// Chunks in the queue to the writer's thread. It lets the network continue while the disk is slow,
/// and bounds the memory for that.
const QUEUED_CHUNKS: usize = 16;

/// Downloads a blob that the store does not have. Of several concurrent callers, also in other
/// processes, one downloads it and the others wait. `arrival` follows the download; it is not
/// cancelled on failure, which is up to the caller.
pub(super) async fn download(
    registry: &RegistryClient,
    store: &ImageStore,
    descriptor: &Descriptor,
    arrival: &Arc<Arrival>,
    meter: &Meter<'_>,
) -> Result<(), PullError> {
    let _lock = store.lock(&descriptor.digest.hex()).await?;
    if store.has_blob(descriptor) {
        meter.add(descriptor.size);
        arrival.complete();
        return Ok(());
    }
    let mut blob = BlobWriter::start(store.create_blob(descriptor)?, arrival)?;
    let mut failures = 0;
    while blob.received < descriptor.size {
        let before = blob.received;
        let error = match resume(registry, descriptor, &mut blob, meter).await {
            Ok(()) => continue,
            Err(PullError::Registry(error)) => error,
            Err(error) => return Err(error),
        };
        if blob.received - before >= PROGRESS {
            failures = 0;
        }
        if failures == MAX_RETRIES || !error.is_transient() {
            return Err(error.into());
        }
        tracing::info!(
            "download of {} failed at byte {}: {error}",
            descriptor.digest,
            blob.received
        );
        backoff(failures).await;
        failures += 1;
    }
    blob.finish().await?;
    arrival.complete();
    Ok(())
}

/// Downloads a blob of at most `limit` bytes, unless it is in the store, and returns its content.
/// `document` names it in errors.
pub(crate) async fn fetch_small(
    registry: &RegistryClient,
    store: &ImageStore,
    blob: &Descriptor,
    document: &'static str,
    limit: u64,
) -> Result<Vec<u8>, PullError> {
    if blob.size > limit {
        return Err(ManifestError::TooLarge { document, limit }.into());
    }
    if let Some(bytes) = store.read_small(&blob.digest)? {
        return Ok(bytes);
    }
    // The blob is missing or damaged. A damaged one would count as present.
    store.remove_if_damaged(&blob.digest)?;
    let meter = Meter::new(&|_| {}, Step::Resolving, [blob.size].into_iter());
    let arrival = Arc::new(Arrival::pending());
    download(registry, store, blob, &arrival, &meter).await?;
    let bytes = store.read_small(&blob.digest)?;
    Ok(bytes.ok_or_else(|| ManifestError::Invalid {
        document,
        reason: "its blob changed on disk during the read".to_owned(),
    })?)
}

/// Downloads the rest of a blob over one connection.
async fn resume(
    registry: &RegistryClient,
    descriptor: &Descriptor,
    blob: &mut BlobWriter,
    meter: &Meter<'_>,
) -> Result<(), PullError> {
    let mut response = registry
        .fetch_blob(&descriptor.digest, blob.received)
        .await?;
    // Bytes to skip: a registry without ranges sends the blob from the start.
    let mut repeated = match response.start {
        Some(start) if start <= blob.received => blob.received - start,
        _ => blob.received,
    };
    while let Some(mut chunk) = response.chunk().await? {
        let skipped = repeated.min(chunk.len() as u64);
        repeated -= skipped;
        // Fits, because it is at most the chunk's length.
        let new = chunk.split_off(skipped as usize);
        if !new.is_empty() {
            meter.add(new.len() as u64);
            blob.write(new).await?;
        }
    }
    if blob.received < descriptor.size {
        let error: RegistryError = response.truncated(blob.received, descriptor.size);
        return Err(error.into());
    }
    Ok(())
}

/// Blob that is hashed and written on a thread of its own.
struct BlobWriter {
    chunks: mpsc::Sender<Received>,
    thread: JoinHandle<Result<(), StoreError>>,
    /// Final path of the blob, for errors.
    path: PathBuf,
    received: u64,
}

enum Received {
    Bytes(Bytes),
    End,
}

impl BlobWriter {
    fn start(mut blob: IncomingBlob, arrival: &Arc<Arrival>) -> Result<BlobWriter, StoreError> {
        let path = blob.path().to_owned();
        let (chunks, mut incoming) = mpsc::channel(QUEUED_CHUNKS);
        arrival.begin(blob.reader()?);
        let arrival = Arc::clone(arrival);
        let thread = tokio::task::spawn_blocking(move || {
            loop {
                match incoming.blocking_recv() {
                    Some(Received::Bytes(bytes)) => arrival.advance(blob.write(&bytes)?),
                    Some(Received::End) => return blob.finish(),
                    // The download failed or was dropped. Dropping the blob removes its file.
                    None => return Ok(()),
                }
            }
        });
        Ok(BlobWriter {
            chunks,
            thread,
            path,
            received: 0,
        })
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.received += bytes.len() as u64;
        match self.chunks.send(Received::Bytes(bytes)).await {
            Ok(()) => Ok(()),
            Err(_) => self.join().await,
        }
    }

    async fn finish(mut self) -> Result<(), StoreError> {
        // Fails only if the thread has ended, whose error `join` returns.
        let _ = self.chunks.send(Received::End).await;
        self.join().await
    }

    async fn join(&mut self) -> Result<(), StoreError> {
        match (&mut self.thread).await {
            Ok(result) => result,
            Err(panic) => Err(StoreError::io("write", &self.path)(io::Error::other(panic))),
        }
    }
}
