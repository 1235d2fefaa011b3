//! HTTP clients with the proxies, certificates and timeouts for one server.

use std::time::Duration;

use reqwest::{Client, Url, redirect::Policy};

use super::{
    Access, RegistryError, RegistryHost, certificates::Certificates, error::root_cause,
    proxy::Proxies,
};
use crate::Environment;

/// Timeout for a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for a server that sends nothing, or acknowledges nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Limit of redirects of a token service.
const MAX_REDIRECTS: usize = 5;

/// Purpose of an HTTP client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HttpClientKind {
    /// Requests to a registry. They follow redirects to other servers, without credentials.
    Download,
    /// Requests with large bodies. The registry sends nothing while it receives, so the timeout is
    /// that of TCP.
    Upload,
    /// Requests to a token service. Their bodies may contain credentials, so redirects to other
    /// servers are not followed.
    Token,
}

/// Installs the default cryptography of rustls. Without one reqwest creates no client, not even for
/// plain HTTP.
pub(crate) fn install_crypto_provider() {
    // Fails if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl HttpClientKind {
    /// Builds a client for the server of `url`, on behalf of the registry `host`.
    pub(super) fn build(
        self,
        host: &RegistryHost,
        url: &Url,
        access: Access<'_>,
    ) -> Result<Client, RegistryError> {
        install_crypto_provider();
        let is_http = url.scheme() == "http";
        let builder = || -> Result<_, RegistryError> {
            let mut builder = Client::builder()
                .user_agent(concat!("container/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .https_only(!is_http)
                // Ignores the environment of this process; the caller's is configured below.
                .no_proxy();
            for proxy in Proxies::from_environment(access.environment).to_reqwest()? {
                builder = builder.proxy(proxy);
            }
            Ok(match self {
                HttpClientKind::Download => builder.read_timeout(IDLE_TIMEOUT),
                HttpClientKind::Upload => builder
                    .tcp_user_timeout(IDLE_TIMEOUT)
                    .tcp_keepalive(IDLE_TIMEOUT),
                HttpClientKind::Token => builder
                    .read_timeout(IDLE_TIMEOUT)
                    .redirect(same_origin_policy()),
            })
        };
        let client = if is_http {
            builder()?.build()
        } else {
            let mut certificates = Certificates::read(host, access)?;
            if !is_registry(url, host) {
                certificates = certificates.for_other_server(read_certificates(url, access)?);
            }
            certificates.configure(builder()?).build()
        };
        let client = match client {
            // reqwest fails on a host without certificate authorities. HTTP needs none.
            Err(_) if is_http => builder()?.tls_certs_only([]).build(),
            client => client,
        };
        client.map_err(|error| RegistryError::HttpClient {
            reason: root_cause(&error),
        })
    }
}

/// Whether the URL is on the registry itself, and not, say, on its token service.
fn is_registry(url: &Url, host: &RegistryHost) -> bool {
    let base = Url::parse(&format!("{}://{}/", url.scheme(), host.address()));
    base.is_ok_and(|base| base.origin() == url.origin())
}

/// Reads the certificates that are configured for the server of this URL.
fn read_certificates(url: &Url, access: Access<'_>) -> Result<Certificates, RegistryError> {
    let host = url.host_str().unwrap_or_default();
    let host = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    match host.parse() {
        Ok(host) => Ok(Certificates::read(&host, access)?),
        Err(_) => Ok(Certificates::default()),
    }
}

/// Describes the proxy for this URL, for messages.
pub(super) fn describe_proxy(url: &Url, environment: &Environment) -> Option<String> {
    Proxies::from_environment(environment).describe(url)
}

fn same_origin_policy() -> Policy {
    Policy::custom(|attempt| {
        let previous = attempt.previous();
        let is_same_origin = previous
            .last()
            .is_some_and(|last| last.origin() == attempt.url().origin());
        if is_same_origin && previous.len() <= MAX_REDIRECTS {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}
