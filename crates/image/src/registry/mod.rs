//! Registries (OCI distribution-spec v1.1): the only room that speaks HTTP.
//!
//! The client is our own on top of reqwest because `oci-client` reads manifests of any length
//! into memory, which leaves it to the registry how much memory we need.

mod download;
mod error;
mod login;
mod referrers;
mod scheme;

use std::time::Duration;

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, RANGE, WWW_AUTHENTICATE},
};
use tokio::sync::Mutex;

pub use error::FetchError;
pub use scheme::{InvalidScheme, Scheme};

pub(crate) use download::download;
pub(crate) use referrers::Referrer;

use crate::{Digest, Reference, media_type};

/// Manifests larger than this are refused: 4 MiB is what the distribution-spec asks registries
/// to take ("Pushing manifests").
pub(crate) const LARGEST_MANIFEST: u64 = 4 << 20;

/// A repository at a registry.
pub(crate) struct Registry {
    client: Client,
    /// `…/v2/<repository>/`.
    repository: Url,
    /// As people name it.
    name: String,
    image: String,
    /// What the registry's token service gave us.
    token: Mutex<Option<String>>,
}

/// A manifest's bytes and what the registry calls them.
pub(crate) struct FetchedManifest {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: Option<String>,
}

impl Registry {
    /// The repository that this reference names. Nothing is sent yet.
    pub(crate) fn new(reference: &Reference, scheme: Scheme) -> Result<Registry, FetchError> {
        let address = reference.registry_address();
        let scheme = scheme.decided(address);
        let url = format!("{scheme}://{address}/v2/{}/", reference.repository());
        let repository = Url::parse(&url).map_err(|error| FetchError::Address {
            registry: reference.registry().to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Registry {
            client: client(&repository)?,
            repository,
            name: reference.registry().to_owned(),
            image: reference.to_string(),
            token: Mutex::new(None),
        })
    }

    /// The manifest of a tag or digest. A digest in what is asked for is the caller's to check.
    pub(crate) async fn manifest(&self, wanted: &str) -> Result<FetchedManifest, FetchError> {
        let accepted = media_type::MANIFESTS.join(", ");
        let ask = |client: &Client, url: Url| client.get(url).header(ACCEPT, &accepted);
        let response = self.get(&format!("manifests/{wanted}"), ask).await?;
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let media_type = content_type.map(|value| {
            let essence = value.split(';').next().unwrap_or(value);
            essence.trim().to_owned()
        });
        let bytes = self.body(response, "manifest", LARGEST_MANIFEST).await?;
        Ok(FetchedManifest { bytes, media_type })
    }

    /// All of a response that is not longer than that.
    async fn body(
        &self,
        mut response: Response,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(self.broken())? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(FetchError::TooLarge { what, limit });
            }
        }
        Ok(bytes)
    }

    /// A blob from this byte on, if the registry can do that; else from the start.
    async fn blob(&self, digest: &Digest, from: u64) -> Result<Response, FetchError> {
        let ask = |client: &Client, url: Url| match from {
            0 => client.get(url),
            _ => client.get(url).header(RANGE, format!("bytes={from}-")),
        };
        self.get(&format!("blobs/{digest}"), ask).await
    }

    /// Asks, and if the registry wants to know who asks, gets a token and asks again.
    async fn get(
        &self,
        path: &str,
        ask: impl Fn(&Client, Url) -> reqwest::RequestBuilder,
    ) -> Result<Response, FetchError> {
        let url = self
            .repository
            .join(path)
            .map_err(|error| FetchError::Address {
                registry: self.name.clone(),
                reason: error.to_string(),
            })?;
        let token = self.token.lock().await.clone();
        let response = self
            .send(ask(&self.client, url.clone()), token.as_deref())
            .await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.accepted(response).await;
        }
        let fresh = self.fresh_token(&response, token.as_deref()).await?;
        let response = self.send(ask(&self.client, url), fresh.as_deref()).await?;
        self.accepted(response).await
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        token: Option<&str>,
    ) -> Result<Response, FetchError> {
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.map_err(self.broken())
    }

    /// A token in place of the refused one; several downloads refused at once share it.
    async fn fresh_token(
        &self,
        refused: &Response,
        refused_token: Option<&str>,
    ) -> Result<Option<String>, FetchError> {
        let mut token = self.token.lock().await;
        if token.as_deref() == refused_token {
            let challenges = refused.headers().get_all(WWW_AUTHENTICATE);
            let challenges = challenges.iter().filter_map(|value| value.to_str().ok());
            *token = login::token(self, challenges).await?;
        }
        Ok(token.clone())
    }

    async fn accepted(&self, response: Response) -> Result<Response, FetchError> {
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(FetchError::Unauthorized {
                registry: self.name.clone(),
            }),
            StatusCode::NOT_FOUND => Err(FetchError::NotFound {
                registry: self.name.clone(),
                image: self.image.clone(),
            }),
            status => Err(FetchError::Refused {
                registry: self.name.clone(),
                status: status.as_u16(),
                message: error::message(response).await,
            }),
        }
    }

    /// What it means when there was no answer for so long.
    pub(crate) fn silent(&self, patience: Duration) -> FetchError {
        FetchError::Broken {
            registry: self.name.clone(),
            reason: format!("no answer came within {} seconds", patience.as_secs()),
        }
    }

    /// What a connection that failed means.
    fn broken(&self) -> impl FnOnce(reqwest::Error) -> FetchError {
        let registry = self.name.clone();
        move |error| {
            let unreachable = error.is_connect() || error.is_timeout();
            let reason = error::innermost(&error.without_url());
            if unreachable {
                FetchError::Unreachable { registry, reason }
            } else {
                FetchError::Broken { registry, reason }
            }
        }
    }
}

fn client(repository: &Url) -> Result<Client, FetchError> {
    // Another part of the program may have chosen a provider already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let is_http = repository.scheme() == "http";
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("container/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(30))
            .https_only(!is_http);
        if scheme::is_loopback(repository) {
            builder.no_proxy()
        } else {
            builder
        }
    };
    let client = match builder().build() {
        // A host without any certificate authorities can still use registries over HTTP.
        Err(_) if is_http => builder().tls_certs_only([]).build(),
        client => client,
    };
    client.map_err(|error| FetchError::Client {
        reason: error::innermost(&error),
    })
}
