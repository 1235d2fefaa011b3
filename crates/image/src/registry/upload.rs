//! Content, from the store to the registry (distribution-spec, "Pushing blobs", "Pushing
//! manifests").

use std::{
    collections::BTreeSet,
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use reqwest::{
    Body, Client, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
};
use tokio_util::io::ReaderStream;

use super::{
    Access, ClientFor, FetchError, RETRIES, Registry, RegistryHost, error, pause, scope,
    session::Session,
};
use crate::{Descriptor, ImageStore, Reference, progress::Meter, store::StoreError};

/// Read from disk at once.
const PIECE: usize = 256 << 10;

impl Registry {
    /// The repository that this reference names, to write to it. Content may come there from these
    /// other repositories of the same registry.
    pub(crate) fn to_push(
        reference: &Reference,
        sources: &BTreeSet<String>,
        access: Access<'_>,
    ) -> Result<Registry, FetchError> {
        let repository = reference.repository();
        let mut scopes: BTreeSet<String> =
            sources.iter().map(|source| scope(source, "pull")).collect();
        scopes.insert(scope(repository, "pull,push"));
        let (host, session) = (
            RegistryHost::of(reference),
            Session::new(repository, scopes),
        );
        let (path, image) = (format!("{repository}/"), reference.to_string());
        Registry::at(&host, &path, image, session, ClientFor::Uploads, access)
    }

    /// Sees to it that the registry has a blob of the store. Where it has none, and there is
    /// another repository with it, it is taken from there.
    pub(crate) async fn upload(
        &self,
        store: &ImageStore,
        blob: &Descriptor,
        source: Option<&str>,
        meter: &Meter<'_>,
    ) -> Result<(), FetchError> {
        let sent = Arc::new(Sent::default());
        let mut failures = 0;
        loop {
            match self.upload_once(store, blob, source, &sent, meter).await {
                Err(error) if failures < RETRIES && error.may_pass() && !error.is_full() => {
                    tracing::info!("sending {} broke: {error}", blob.digest);
                    pause(failures).await;
                    failures += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn upload_once(
        &self,
        store: &ImageStore,
        blob: &Descriptor,
        source: Option<&str>,
        sent: &Arc<Sent>,
        meter: &Meter<'_>,
    ) -> Result<(), FetchError> {
        let path = format!("blobs/{}", blob.digest);
        if self.has(&path).await? {
            tracing::debug!("{} has {}", self.name, blob.digest);
            meter.add(sent.up_to(blob.size));
            return Ok(());
        }
        let Some(place) = self.begin(blob, source).await? else {
            tracing::debug!("{} took {} from {source:?}", self.name, blob.digest);
            meter.add(sent.up_to(blob.size));
            return Ok(());
        };
        let file = || -> Result<File, StoreError> {
            let path = store.blob_path(&blob.digest);
            File::open(&path).map_err(StoreError::io("reading", &path))
        };
        // A file that is not there is told before anything is sent.
        drop(file()?);
        let content = |client: &Client, url: Url| {
            let body = match file() {
                Ok(file) => Body::wrap_stream(pieces(file, Arc::clone(sent))),
                Err(_) => Body::from(""),
            };
            client
                .put(url)
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, blob.size)
                .body(body)
        };
        let sending = self.send(place, content);
        let response = self.metered(sending, sent, blob.size, meter).await?;
        match self.accepted(response).await {
            // An upload that the registry knows no more is begun anew.
            Err(FetchError::NotFound { registry, .. }) => {
                let reason = "it forgot what was sent".to_owned();
                return Err(FetchError::Broken { registry, reason });
            }
            accepted => accepted?,
        };
        meter.add(sent.up_to(blob.size));
        Ok(())
    }

    /// Tells how far an upload is while it is under way.
    async fn metered(
        &self,
        sending: impl Future<Output = Result<Response, FetchError>>,
        sent: &Sent,
        size: u64,
        meter: &Meter<'_>,
    ) -> Result<Response, FetchError> {
        let mut sending = std::pin::pin!(sending);
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                response = &mut sending => return response,
                _ = tick.tick() => meter.add(sent.fresh(size)),
            }
        }
    }

    /// Begins an upload; none if the registry took the blob from another repository. Returns
    /// where the content goes.
    async fn begin(
        &self,
        blob: &Descriptor,
        source: Option<&str>,
    ) -> Result<Option<Url>, FetchError> {
        let mut url = self.url("blobs/uploads/")?;
        if let Some(source) = source {
            url.query_pairs_mut()
                .append_pair("mount", &blob.digest.to_string())
                .append_pair("from", source);
        }
        let begin = |client: &Client, url: Url| client.post(url).header(CONTENT_LENGTH, 0);
        let response = self.send(url, begin).await?;
        let response = self.accepted(response).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(None);
        }
        let location = response.headers().get(LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        let place = location.and_then(|location| response.url().join(location).ok());
        let mut place = place.ok_or_else(|| FetchError::Malformed {
            what: "registry's answer",
            reason: "it does not say where the content should go".to_owned(),
        })?;
        let digest = blob.digest.to_string();
        place.query_pairs_mut().append_pair("digest", &digest);
        Ok(Some(place))
    }

    /// Whether the registry has what this path names.
    pub(crate) async fn has(&self, path: &str) -> Result<bool, FetchError> {
        let ask = |client: &Client, url: Url| {
            let accepted = crate::media_type::MANIFESTS.join(", ");
            client.head(url).header(reqwest::header::ACCEPT, accepted)
        };
        let response = self.send(self.url(path)?, ask).await?;
        match self.accepted(response).await {
            Ok(_) => Ok(true),
            Err(FetchError::NotFound { .. }) => Ok(false),
            // The answer to such a question has no body that would tell why; that to the next has.
            Err(FetchError::Refused { status: 400, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a manifest, under a tag or its digest.
    pub(crate) async fn put_manifest(
        &self,
        name: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), FetchError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let put = |client: &Client, url: Url| {
            let request = client.put(url).header(CONTENT_TYPE, media_type);
            request.body(bytes.to_vec())
        };
        let response = self.send_until_heard(url, &put).await?;
        self.accepted(response).await.map(drop)
    }
}

impl FetchError {
    /// Whether the registry says that it has no room.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            FetchError::Refused {
                status, message, ..
            } => *status == 507 || message.contains(error::NO_SPACE),
            _ => false,
        }
    }
}

/// How much of a blob was sent, over all tries, and how much of that was told.
#[derive(Default)]
struct Sent {
    most: AtomicU64,
    told: AtomicU64,
}

impl Sent {
    /// What is to be told if this much was sent.
    fn up_to(&self, bytes: u64) -> u64 {
        let told = self.told.fetch_max(bytes, Ordering::Relaxed);
        bytes.saturating_sub(told)
    }

    /// What is to be told of a blob of this size that is on its way.
    fn fresh(&self, size: u64) -> u64 {
        self.up_to(self.most.load(Ordering::Relaxed).min(size))
    }
}

fn pieces(file: File, sent: Arc<Sent>) -> impl Stream<Item = std::io::Result<Bytes>> {
    let file = tokio::fs::File::from_std(file);
    let mut so_far = 0;
    ReaderStream::with_capacity(file, PIECE).inspect(move |piece| {
        if let Ok(piece) = piece {
            so_far += piece.len() as u64;
            sent.most.fetch_max(so_far, Ordering::Relaxed);
        }
    })
}
