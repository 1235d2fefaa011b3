//! Uploads of single blobs from the store, with retries after broken connections.

use std::{
    fs::File,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::Body;
use tokio_util::io::ReaderStream;

use crate::{
    Descriptor, ImageStore,
    progress::Meter,
    registry::{MAX_RETRIES, RegistryClient, RegistryError, backoff},
    store::StoreError,
};

/// Bytes that are read from disk at once.
const CHUNK_SIZE: usize = 256 << 10;

/// Interval of progress reports during an upload.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Error of an upload.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Ensures that the repository has a blob of the store. If it lacks the blob, it may mount it from
/// its repository `source` instead.
pub(super) async fn upload(
    registry: &RegistryClient,
    store: &ImageStore,
    blob: &Descriptor,
    source: Option<&str>,
    meter: &Meter<'_>,
) -> Result<(), UploadError> {
    let sent = Arc::new(SentBytes::default());
    let mut failures = 0;
    loop {
        match upload_once(registry, store, blob, source, &sent, meter).await {
            Err(UploadError::Registry(error))
                if failures < MAX_RETRIES && error.is_transient() && !error.is_out_of_space() =>
            {
                tracing::info!("upload of {} failed: {error}", blob.digest);
                backoff(failures).await;
                failures += 1;
            }
            result => return result,
        }
    }
}

async fn upload_once(
    registry: &RegistryClient,
    store: &ImageStore,
    blob: &Descriptor,
    source: Option<&str>,
    sent: &Arc<SentBytes>,
    meter: &Meter<'_>,
) -> Result<(), UploadError> {
    let digest = &blob.digest;
    if registry.has_blob(digest).await? {
        tracing::debug!("the registry has {digest}");
        meter.add(sent.report_up_to(blob.size));
        return Ok(());
    }
    let Some(location) = registry.start_upload(digest, source).await? else {
        tracing::debug!("the registry mounted {digest} from {source:?}");
        meter.add(sent.report_up_to(blob.size));
        return Ok(());
    };
    let open = || -> Result<File, StoreError> {
        let path = store.blob_path(digest);
        File::open(&path).map_err(StoreError::io("read", &path))
    };
    // A missing file must be an error of the store, not of the connection.
    drop(open()?);
    let body = || match open() {
        Ok(file) => Body::wrap_stream(read_chunks(file, Arc::clone(sent))),
        // The registry refuses the empty body, because its length is wrong.
        Err(_) => Body::from(""),
    };
    let mut sending = pin!(registry.send_blob(location, blob, body));
    let mut tick = tokio::time::interval(REPORT_INTERVAL);
    let result = loop {
        tokio::select! {
            result = &mut sending => break result,
            _ = tick.tick() => meter.add(sent.report(blob.size)),
        }
    };
    result?;
    meter.add(sent.report_up_to(blob.size));
    Ok(())
}

/// Bytes of a blob that were sent, over all attempts, and how many of them were reported. Progress
/// must not go back when an attempt starts from the beginning.
#[derive(Default)]
struct SentBytes {
    sent: AtomicU64,
    reported: AtomicU64,
}

impl SentBytes {
    /// Returns how many bytes to report if `bytes` were sent in total, and counts them as reported.
    fn report_up_to(&self, bytes: u64) -> u64 {
        let reported = self.reported.fetch_max(bytes, Ordering::Relaxed);
        bytes.saturating_sub(reported)
    }

    /// Returns how many bytes of a blob of this size to report.
    fn report(&self, size: u64) -> u64 {
        self.report_up_to(self.sent.load(Ordering::Relaxed).min(size))
    }
}

fn read_chunks(file: File, sent: Arc<SentBytes>) -> impl Stream<Item = std::io::Result<Bytes>> {
    let file = tokio::fs::File::from_std(file);
    let mut position = 0;
    ReaderStream::with_capacity(file, CHUNK_SIZE).inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            position += chunk.len() as u64;
            sent.sent.fetch_max(position, Ordering::Relaxed);
        }
    })
}
