//! Uploads of blobs and manifests (distribution-spec, "Pushing blobs", "Pushing manifests").

use reqwest::{
    Body, Client, StatusCode, Url,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
};

use super::{RegistryError, client::RegistryClient};
use crate::{Descriptor, Digest, media_type};

impl RegistryClient {
    /// Whether the repository has this blob.
    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let request = |http: &Client, url: Url| {
            let accepted = media_type::MANIFESTS.join(", ");
            http.head(url).header(ACCEPT, accepted)
        };
        let response = self
            .send(self.url(&format!("blobs/{digest}"))?, request)
            .await?;
        match self.check_status(response).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            // A response to HEAD has no body with a message. The next request fails the same way,
            // and its response has one.
            Err(RegistryError::Status { status: 400, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Starts the upload of a blob and returns the URL to send it to. `None` when the registry
    /// mounted the blob from its repository `source` instead.
    pub(crate) async fn start_upload(
        &self,
        digest: &Digest,
        source: Option<&str>,
    ) -> Result<Option<Url>, RegistryError> {
        let mut url = self.url("blobs/uploads/")?;
        if let Some(source) = source {
            url.query_pairs_mut()
                .append_pair("mount", &digest.to_string())
                .append_pair("from", source);
        }
        let request = |http: &Client, url: Url| http.post(url).header(CONTENT_LENGTH, 0);
        let response = self.send(url, request).await?;
        let response = self.check_status(response).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(None);
        }
        let location = response.headers().get(LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        let location = location.and_then(|it| upload_url(response.url(), it, digest));
        match location {
            Some(location) => Ok(Some(location)),
            None => Err(RegistryError::InvalidResponse {
                what: "response to an upload",
                reason: "it has no valid Location header".to_owned(),
            }),
        }
    }

    /// Sends a blob to the URL of its upload. `body` is called once for each attempt, because the
    /// registry may request authentication first.
    pub(crate) async fn send_blob(
        &self,
        location: Url,
        blob: &Descriptor,
        body: impl Fn() -> Body,
    ) -> Result<(), RegistryError> {
        let request = |http: &Client, url: Url| {
            http.put(url)
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, blob.size)
                .body(body())
        };
        let response = self.send(location, request).await?;
        match self.check_status(response).await {
            // The upload has expired. The caller may start another one.
            Err(RegistryError::NotFound { registry }) => Err(RegistryError::ConnectionFailed {
                registry,
                reason: "the registry dropped the upload".to_owned(),
            }),
            result => result.map(drop),
        }
    }

    /// Uploads a manifest under a tag or its digest.
    pub(crate) async fn put_manifest(
        &self,
        name: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let request = |http: &Client, url: Url| {
            let request = http.put(url).header(CONTENT_TYPE, media_type);
            request.body(bytes.to_vec())
        };
        let response = self.send_until_ready(url, &request).await?;
        self.check_status(response).await.map(drop)
    }
}

/// Resolves the Location header of the response from `base`, and adds the digest of the blob to
/// upload. Registries keep the state of the upload in its other parameters.
pub(super) fn upload_url(base: &Url, location: &str, digest: &Digest) -> Option<Url> {
    let mut url = base.join(location).ok()?;
    url.query_pairs_mut()
        .append_pair("digest", &digest.to_string());
    Some(url)
}
