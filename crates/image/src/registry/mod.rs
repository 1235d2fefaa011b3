//! Registries (OCI distribution-spec v1.1): the only room that speaks HTTP.
//!
//! The client is our own on top of reqwest because `oci-client` reads manifests of any length
//! into memory, which leaves it to the registry how much memory we need.

mod access;
mod certificates;
mod client;
mod download;
mod error;
mod host;
mod login;
mod mirrors;
mod proxy;
mod referrers;
mod scheme;
mod session;
mod upload;

use std::{collections::BTreeSet, sync::atomic::AtomicBool, time::Duration};

use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, RANGE},
};

pub use access::{Access, HostSettings, Mirror, Registries};
pub use certificates::check_authorities;
pub use error::{AskedBy, FetchError};
pub use host::{InvalidHost, RegistryHost};
pub use login::{LoginError, log_in, log_out};
pub use scheme::{InvalidScheme, Scheme};

pub(crate) use download::download;
pub(crate) use error::{innermost, with_problems};
pub(crate) use host::DOCKER_HUB;
pub(crate) use referrers::Referrer;

use crate::{Digest, Environment, Reference, credentials::Credential, media_type};
use client::ClientFor;
pub(crate) use client::choose_cryptography;
use session::Session;

/// Manifests larger than this are refused: 4 MiB is what the distribution-spec asks registries
/// to take ("Pushing manifests").
pub(crate) const LARGEST_MANIFEST: u64 = 4 << 20;

/// How often a blob that gets nowhere is tried again.
const RETRIES: u32 = 4;
/// How often a registry is asked the same again that is there but busy.
const BUSY_RETRIES: u32 = 2;
/// Before the first retry; twice as much before each further one.
const PAUSE: Duration = Duration::from_millis(300);

/// Waits after so many failures.
async fn pause(failures: u32) {
    tokio::time::sleep(PAUSE * 2u32.pow(failures)).await;
}

/// A repository at a registry.
pub(crate) struct Registry {
    client: Client,
    /// `…/v2/<repository>/`.
    repository: Url,
    host: RegistryHost,
    /// The host, as people name it.
    name: String,
    image: String,
    environment: Environment,
    registries: Registries,
    session: Session,
    /// Asked first, in this order.
    mirrors: Vec<Registry>,
    /// Of a mirror: whether it could not be reached.
    is_down: AtomicBool,
}

/// A manifest's bytes and what the registry calls them.
#[derive(Debug)]
pub(crate) struct FetchedManifest {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: Option<String>,
}

impl FetchedManifest {
    /// What is wrong if it was asked for by its digest and is another.
    fn wrong_for(&self, wanted: &str) -> Option<FetchError> {
        let expected: Digest = wanted.parse().ok()?;
        let found = Digest::of(&self.bytes);
        (found != expected).then_some(FetchError::WrongManifest { expected, found })
    }
}

impl Registry {
    /// The repository that this reference names, and the same one at the registry's mirrors.
    /// Nothing is sent yet.
    pub(crate) fn new(reference: &Reference, access: Access<'_>) -> Result<Registry, FetchError> {
        let (host, repository) = (RegistryHost::of(reference), reference.repository());
        Ok(Registry {
            mirrors: Registry::mirrors(reference, access),
            ..Registry::to_pull(&host, repository, reference, access)?
        })
    }

    fn to_pull(
        host: &RegistryHost,
        repository: &str,
        reference: &Reference,
        access: Access<'_>,
    ) -> Result<Registry, FetchError> {
        let session = Session::new(repository, BTreeSet::from([scope(repository, "pull")]));
        let path = format!("{repository}/");
        let image = reference.to_string();
        Registry::at(host, &path, image, session, ClientFor::Downloads, access)
    }

    /// The registry itself, for somebody with these credentials.
    fn as_user(
        host: &RegistryHost,
        credential: Credential,
        access: Access<'_>,
    ) -> Result<Registry, FetchError> {
        let session = Session::of_user(credential);
        Registry::at(
            host,
            "",
            String::new(),
            session,
            ClientFor::Downloads,
            access,
        )
    }

    fn at(
        host: &RegistryHost,
        path: &str,
        image: String,
        session: Session,
        client: ClientFor,
        access: Access<'_>,
    ) -> Result<Registry, FetchError> {
        let scheme = access.scheme_for(host);
        let url = format!("{scheme}://{}/v2/{path}", host.address());
        let repository = Url::parse(&url).map_err(|error| FetchError::Address {
            registry: host.to_string(),
            reason: error.to_string(),
        })?;
        Ok(Registry {
            client: client.built(host, &repository, access)?,
            repository,
            host: host.clone(),
            name: host.to_string(),
            image,
            environment: access.environment.clone(),
            registries: access.registries.clone(),
            session,
            mirrors: Vec::new(),
            is_down: AtomicBool::new(false),
        })
    }

    /// How it is reached.
    fn access(&self) -> Access<'_> {
        Access {
            scheme: match self.repository.scheme() {
                "http" => Scheme::Http,
                _ => Scheme::Https,
            },
            environment: &self.environment,
            registries: &self.registries,
        }
    }

    /// Credentials that could not be looked for, if it was asked for any: a sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let all = self.mirrors.iter().chain([self]);
        all.flat_map(|place| place.session.problems()).collect()
    }

    /// The manifest of a tag or digest. A digest in what is asked for is the caller's to check.
    pub(crate) async fn manifest(&self, wanted: &str) -> Result<FetchedManifest, FetchError> {
        for mirror in self.mirrors_that_are_up() {
            match mirror.manifest_here(wanted).await {
                Ok(manifest) => match manifest.wrong_for(wanted) {
                    None => return Ok(manifest),
                    Some(error) => mirror.pass_over(&error),
                },
                Err(error) => mirror.pass_over(&error),
            }
        }
        self.manifest_here(wanted).await
    }

    async fn manifest_here(&self, wanted: &str) -> Result<FetchedManifest, FetchError> {
        let accepted = media_type::MANIFESTS.join(", ");
        let ask = |client: &Client, url: Url| client.get(url).header(ACCEPT, &accepted);
        let response = self.get_here(&format!("manifests/{wanted}"), &ask).await?;
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

    /// A blob from this byte on, if the registry can do that; else from the start. What broke
    /// before, perhaps at a mirror, goes on at the registry itself if that can be reached.
    async fn blob(&self, digest: &Digest, from: u64) -> Result<Response, FetchError> {
        let ask = |client: &Client, url: Url| match from {
            0 => client.get(url),
            _ => client.get(url).header(RANGE, format!("bytes={from}-")),
        };
        let path = format!("blobs/{digest}");
        if from == 0 {
            return self.get(&path, ask).await;
        }
        match self.get_here(&path, &ask).await {
            Err(error) => self.at_mirrors(&path, &ask).await.ok_or(error),
            response => response,
        }
    }

    /// Asks the mirrors, then the registry itself. If one wants to know who asks, tells it and
    /// asks again.
    async fn get(
        &self,
        path: &str,
        ask: impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Result<Response, FetchError> {
        match self.at_mirrors(path, &ask).await {
            Some(response) => Ok(response),
            None => self.get_here(path, &ask).await,
        }
    }

    async fn get_here(
        &self,
        path: &str,
        ask: &impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Result<Response, FetchError> {
        let response = self.send_until_heard(self.url(path)?, ask).await?;
        self.accepted(response).await
    }

    /// As [`send`](Self::send), and again where the registry is there but busy.
    async fn send_until_heard(
        &self,
        url: Url,
        ask: &impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Result<Response, FetchError> {
        let mut failures = 0;
        loop {
            let response = self.send(url.clone(), ask).await?;
            let status = response.status();
            if failures == BUSY_RETRIES || !error::is_busy(status.as_u16()) {
                return Ok(response);
            }
            tracing::info!("{} is busy: {status}", self.name);
            pause(failures).await;
            failures += 1;
        }
    }

    fn url(&self, path: &str) -> Result<Url, FetchError> {
        let url = self.repository.join(path);
        url.map_err(|error| FetchError::Address {
            registry: self.name.clone(),
            reason: error.to_string(),
        })
    }

    /// Asks once or twice, whatever the answer is then. Credentials go to the registry only.
    async fn send(
        &self,
        url: Url,
        ask: impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Result<Response, FetchError> {
        if url.origin() != self.repository.origin() {
            return ask(&self.client, url).send().await.map_err(self.broken());
        }
        let shown = self.session.authorization().await;
        let request = ask(&self.client, url.clone());
        let request = match &shown {
            Some(authorization) => authorization.on(request),
            None => request,
        };
        let response = request.send().await.map_err(self.broken())?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        match login::authorized_anew(self, &response, shown).await? {
            Some(fresh) => {
                let request = fresh.on(ask(&self.client, url));
                request.send().await.map_err(self.broken())
            }
            None => Ok(response),
        }
    }

    async fn accepted(&self, response: Response) -> Result<Response, FetchError> {
        match response.status() {
            status if status.is_success() => Ok(response),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(self.session.denied(status, &self.name).await)
            }
            StatusCode::NOT_FOUND => Err(FetchError::NotFound {
                registry: self.name.clone(),
                image: self.image.clone(),
            }),
            status => Err(self.refused(status, error::message(response).await)),
        }
    }

    fn refused(&self, status: StatusCode, message: String) -> FetchError {
        let registry = self.name.clone();
        let is_plain = self.repository.scheme() == "http";
        match status {
            // What servers of many kinds say to a request without encryption.
            StatusCode::BAD_REQUEST if is_plain && message.contains("HTTPS") => {
                FetchError::NotPlain { registry }
            }
            status => FetchError::Refused {
                registry,
                status: status.as_u16(),
                message,
            },
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
        let proxy = client::proxy_before(&self.repository, &self.environment);
        let registry = self.name.clone();
        move |error| error::of_connection(registry, error, proxy)
    }
}

/// What a token is to allow (distribution's "Token Scope Documentation").
fn scope(repository: &str, actions: &str) -> String {
    format!("repository:{repository}:{actions}")
}

#[cfg(test)]
mod tests;
