//! Downloads of blobs.

use bytes::Bytes;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{CONTENT_RANGE, RANGE},
};

use super::{RegistryError, client::RegistryClient};
use crate::Digest;

/// Bytes of a blob as they arrive.
pub(crate) struct BlobResponse<'a> {
    client: &'a RegistryClient,
    response: Response,
    /// Offset of the first byte in the blob. `None` when the registry does not say.
    pub(crate) start: Option<u64>,
}

impl RegistryClient {
    /// Requests a blob from the offset `from` on. The response may start earlier: not every
    /// registry supports ranges.
    pub(crate) async fn fetch_blob(
        &self,
        digest: &Digest,
        from: u64,
    ) -> Result<BlobResponse<'_>, RegistryError> {
        let response = self.request_blob(digest, from).await;
        let response = response.map_err(|error| match error {
            RegistryError::NotFound { registry } => RegistryError::BlobNotFound {
                registry,
                digest: *digest,
            },
            error => error,
        })?;
        Ok(BlobResponse {
            start: first_offset(&response),
            client: self,
            response,
        })
    }

    /// Starts at the mirrors, but resumes at the registry itself: the mirror may be what failed.
    async fn request_blob(&self, digest: &Digest, from: u64) -> Result<Response, RegistryError> {
        let request = |http: &Client, url: Url| match from {
            0 => http.get(url),
            _ => http.get(url).header(RANGE, format!("bytes={from}-")),
        };
        let path = format!("blobs/{digest}");
        if from == 0 {
            return self.get(&path, request).await;
        }
        match self.get_directly(&path, &request).await {
            Err(error) => self.get_from_mirrors(&path, &request).await.ok_or(error),
            response => response,
        }
    }
}

impl BlobResponse<'_> {
    /// Waits for the next bytes. None at the end of the response.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let chunk = self.response.chunk().await;
        chunk.map_err(self.client.connection_error())
    }

    /// Returns the error of a response that ended after `received` of `size` bytes.
    pub(crate) fn truncated(&self, received: u64, size: u64) -> RegistryError {
        RegistryError::ConnectionFailed {
            registry: self.client.name(),
            reason: format!("only {received} of {size} bytes were received"),
        }
    }
}

/// Returns the offset in the blob at which the response starts.
fn first_offset(response: &Response) -> Option<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Some(0);
    }
    parse_content_range(response.headers().get(CONTENT_RANGE)?.to_str().ok()?)
}

/// Parses the offset of the first byte from a Content-Range header: 5 from `bytes 5-9/10`.
pub(super) fn parse_content_range(header: &str) -> Option<u64> {
    let (start, _) = header.strip_prefix("bytes ")?.split_once('-')?;
    start.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_a_range_is_its_first_number() {
        for (header, offset) in [
            ("bytes 5-9/10", Some(5)),
            ("bytes 0-9/*", Some(0)),
            ("bytes */10", None),
            ("bytes -1-9/10", None),
            ("items 5-9/10", None),
            ("bytes 18446744073709551616-9/10", None),
        ] {
            assert_eq!(parse_content_range(header), offset, "{header}");
        }
    }
}
