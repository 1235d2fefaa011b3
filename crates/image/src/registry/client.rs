//! Requests to one repository of a registry.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE},
};

use super::{
    Access, Registries, RegistryError, RegistryHost, Scheme,
    error::{self, is_busy},
    http::{HttpClientKind, describe_proxy},
    probe::{base_url, choose_scheme},
    retry::{MAX_BUSY_RETRIES, backoff},
    scheme::ResolvedScheme,
    session::Session,
};
use crate::{
    Digest, Environment, Reference,
    credentials::Credential,
    media_type::{self, LARGEST_MANIFEST},
};

/// Client of one repository. It asks the registry's mirrors first, and authenticates when the
/// registry requests it.
pub(crate) struct RegistryClient {
    http: Client,
    /// `…/v2/<repository>/`.
    base_url: Url,
    scheme: ResolvedScheme,
    pub(super) host: RegistryHost,
    environment: Environment,
    registries: Registries,
    pub(super) session: Session,
    /// Mirrors, in the order in which they are asked.
    mirrors: Vec<RegistryClient>,
    /// Whether this is a mirror that could not be reached the last time.
    is_down: AtomicBool,
}

/// Bytes of a manifest or index with the media type that the registry gave it.
#[derive(Debug)]
pub(crate) struct FetchedManifest {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: Option<String>,
}

impl FetchedManifest {
    /// Whether it was requested by a digest that it does not have.
    fn has_wrong_digest(&self, name: &str) -> bool {
        let expected = name.parse::<Digest>();
        expected.is_ok_and(|expected| Digest::compute(&self.bytes) != expected)
    }
}

impl RegistryClient {
    /// Creates a client to pull from the repository of this reference. Sends nothing, except to
    /// choose a [scheme](choose_scheme).
    pub(crate) async fn new(
        reference: &Reference,
        access: Access<'_>,
    ) -> Result<RegistryClient, RegistryError> {
        let (host, repository) = (RegistryHost::from(reference), reference.repository());
        Ok(RegistryClient {
            mirrors: RegistryClient::mirror_clients(reference, access).await,
            ..RegistryClient::for_pull(&host, repository, access).await?
        })
    }

    pub(super) async fn for_pull(
        host: &RegistryHost,
        repository: &str,
        access: Access<'_>,
    ) -> Result<RegistryClient, RegistryError> {
        let session = Session::new(repository, BTreeSet::from([scope(repository, "pull")]));
        let path = format!("{repository}/");
        RegistryClient::with_session(host, &path, session, HttpClientKind::Download, access).await
    }

    /// Creates a client to push to the repository of this reference. Blobs may be mounted from the
    /// repositories `sources` of the same registry.
    pub(crate) async fn for_push(
        reference: &Reference,
        sources: &BTreeSet<String>,
        access: Access<'_>,
    ) -> Result<RegistryClient, RegistryError> {
        let repository = reference.repository();
        let mut scopes: BTreeSet<String> =
            sources.iter().map(|source| scope(source, "pull")).collect();
        scopes.insert(scope(repository, "pull,push"));
        let (host, path) = (RegistryHost::from(reference), format!("{repository}/"));
        let session = Session::new(repository, scopes);
        RegistryClient::with_session(&host, &path, session, HttpClientKind::Upload, access).await
    }

    /// Creates a client of the registry itself, authenticated with these credentials.
    pub(super) async fn for_user(
        host: &RegistryHost,
        credential: Credential,
        access: Access<'_>,
    ) -> Result<RegistryClient, RegistryError> {
        let session = Session::with_credential(credential);
        RegistryClient::with_session(host, "", session, HttpClientKind::Download, access).await
    }

    async fn with_session(
        host: &RegistryHost,
        path: &str,
        session: Session,
        kind: HttpClientKind,
        access: Access<'_>,
    ) -> Result<RegistryClient, RegistryError> {
        let scheme = choose_scheme(host, access).await?;
        let base_url = base_url(scheme, host, path)?;
        Ok(RegistryClient {
            http: kind.build(host, &base_url, access)?,
            base_url,
            scheme,
            host: host.clone(),
            environment: access.environment.clone(),
            registries: access.registries.clone(),
            session,
            mirrors: Vec::new(),
            is_down: AtomicBool::new(false),
        })
    }

    /// Returns how this registry is accessed, with the scheme that was chosen for it.
    pub(super) fn access(&self) -> Access<'_> {
        Access {
            scheme: match self.scheme {
                ResolvedScheme::Http
                | ResolvedScheme::LoopbackHttp
                | ResolvedScheme::AnonymousHttp => Scheme::Http,
                ResolvedScheme::Https => Scheme::Https,
            },
            environment: &self.environment,
            registries: &self.registries,
        }
    }

    pub(super) fn scheme(&self) -> ResolvedScheme {
        self.scheme
    }

    pub(super) fn base_url(&self) -> &Url {
        &self.base_url
    }

    /// Returns the name of the registry, for messages.
    pub(super) fn name(&self) -> String {
        self.host.to_string()
    }

    /// Returns the errors of all credential files and helpers that could not be read. Empty until a
    /// registry requested authentication.
    pub(crate) fn credential_problems(&self) -> Vec<String> {
        let all = self.mirrors.iter().chain([self]);
        all.flat_map(|client| client.session.problems()).collect()
    }

    /// Fetches the manifest or index with this tag or digest. The caller checks the digest.
    pub(crate) async fn fetch_manifest(
        &self,
        name: &str,
    ) -> Result<FetchedManifest, RegistryError> {
        for mirror in self.reachable_mirrors() {
            match mirror.fetch_manifest_directly(name).await {
                Ok(manifest) if manifest.has_wrong_digest(name) => {
                    tracing::debug!("mirror {} skipped: wrong digest of {name}", mirror.host);
                }
                Ok(manifest) => return Ok(manifest),
                Err(error) => mirror.skip(&error),
            }
        }
        self.fetch_manifest_directly(name).await
    }

    async fn fetch_manifest_directly(&self, name: &str) -> Result<FetchedManifest, RegistryError> {
        let accepted = media_type::MANIFESTS.join(", ");
        let request = |http: &Client, url: Url| http.get(url).header(ACCEPT, &accepted);
        let response = self
            .get_directly(&format!("manifests/{name}"), &request)
            .await?;
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let media_type = content_type.map(|value| {
            let without_parameters = value.split(';').next().unwrap_or(value);
            without_parameters.trim().to_owned()
        });
        let bytes = self
            .read_body(response, "manifest", LARGEST_MANIFEST)
            .await?;
        Ok(FetchedManifest { bytes, media_type })
    }

    /// Reads a response of at most `limit` bytes.
    pub(super) async fn read_body(
        &self,
        mut response: Response,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(self.connection_error())? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(RegistryError::TooLarge { what, limit });
            }
        }
        Ok(bytes)
    }

    /// Sends a GET request to the mirrors, then to the registry, until one succeeds.
    pub(super) async fn get(
        &self,
        path: &str,
        request: impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        match self.get_from_mirrors(path, &request).await {
            Some(response) => Ok(response),
            None => self.get_directly(path, &request).await,
        }
    }

    /// Sends a GET request to the first mirror that answers it. A mirror that cannot be reached is
    /// not asked again.
    pub(super) async fn get_from_mirrors(
        &self,
        path: &str,
        request: &impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Option<Response> {
        for mirror in self.reachable_mirrors() {
            match mirror.get_directly(path, request).await {
                Ok(response) => return Some(response),
                Err(error) => mirror.skip(&error),
            }
        }
        None
    }

    fn reachable_mirrors(&self) -> impl Iterator<Item = &RegistryClient> {
        let mirrors = self.mirrors.iter();
        mirrors.filter(|mirror| !mirror.is_down.load(Ordering::Relaxed))
    }

    /// Records that this mirror could not serve a request.
    fn skip(&self, error: &RegistryError) {
        tracing::debug!("mirror {} skipped: {error}", self.host);
        let is_down = matches!(error, RegistryError::Unreachable { .. });
        self.is_down.store(is_down, Ordering::Relaxed);
    }

    /// Sends a GET request to the registry itself.
    pub(super) async fn get_directly(
        &self,
        path: &str,
        request: &impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let response = self.send_until_ready(self.url(path)?, request).await?;
        self.check_status(response).await
    }

    /// Sends a request as [`send`](Self::send) does, again while the registry is busy.
    pub(super) async fn send_until_ready(
        &self,
        url: Url,
        request: &impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let mut failures = 0;
        loop {
            let response = self.send(url.clone(), request).await?;
            let status = response.status();
            if failures == MAX_BUSY_RETRIES || !is_busy(status.as_u16()) {
                return Ok(response);
            }
            tracing::info!("registry {} is busy: {status}", self.host);
            backoff(failures).await;
            failures += 1;
        }
    }

    pub(super) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        let url = self.base_url.join(path);
        url.map_err(|error| RegistryError::InvalidAddress {
            registry: self.name(),
            reason: error.to_string(),
        })
    }

    /// Sends a request, and sends it again with credentials if the registry requests them. Returns
    /// the response whatever its status is. Credentials are sent to the registry's origin only.
    pub(super) async fn send(
        &self,
        url: Url,
        request: impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        if url.origin() != self.base_url.origin() {
            let response = request(&self.http, url).send().await;
            return response.map_err(self.connection_error());
        }
        let authorization = self.session.authorization().await;
        let first = request(&self.http, url.clone());
        let first = match &authorization {
            Some(authorization) => authorization.add_to(first),
            None => first,
        };
        let response = first.send().await.map_err(self.connection_error())?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        match self.reauthorize(&response, authorization).await? {
            Some(authorization) => {
                let second = authorization.add_to(request(&self.http, url));
                second.send().await.map_err(self.connection_error())
            }
            None => Ok(response),
        }
    }

    /// Returns a successful response, and an error for any other.
    pub(super) async fn check_status(&self, response: Response) -> Result<Response, RegistryError> {
        match response.status() {
            status if status.is_success() => Ok(response),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(self.session.permission_denied(status, &self.host).await)
            }
            StatusCode::NOT_FOUND => Err(RegistryError::NotFound {
                registry: self.name(),
            }),
            status => Err(self.status_error(status, error::read_message(response).await)),
        }
    }

    fn status_error(&self, status: StatusCode, message: String) -> RegistryError {
        let registry = self.name();
        let is_http = self.base_url.scheme() == "http";
        match status {
            // Common reply of TLS servers to a request without TLS.
            StatusCode::BAD_REQUEST if is_http && message.contains("HTTPS") => {
                RegistryError::HttpsOnly { registry }
            }
            status => RegistryError::Status {
                registry,
                status: status.as_u16(),
                message,
            },
        }
    }

    /// Returns the error of a request that was not answered within `timeout`.
    pub(crate) fn timed_out(&self, timeout: Duration) -> RegistryError {
        RegistryError::ConnectionFailed {
            registry: self.name(),
            reason: format!("timed out after {} s", timeout.as_secs()),
        }
    }

    /// Returns a function that converts the error of a connection to this registry.
    pub(super) fn connection_error(&self) -> impl FnOnce(reqwest::Error) -> RegistryError {
        let proxy = describe_proxy(&self.base_url, &self.environment);
        let registry = self.name();
        move |error| error::from_connection(registry, error, proxy)
    }
}

/// Formats the scope of a token (distribution, "Token Scope Documentation").
fn scope(repository: &str, actions: &str) -> String {
    format!("repository:{repository}:{actions}")
}
