//! HTTP clients, which know proxies and certificates.

use std::time::Duration;

use reqwest::{Client, Url, redirect::Policy};

use super::{FetchError, RegistryHost, certificates::Certificates, error, proxy::Proxies};
use crate::{Access, Environment};

/// How long the other side may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// Redirects of a token service that are followed.
const MOST_REDIRECTS: usize = 5;

/// Whom a client talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientFor {
    /// A registry, which may send us elsewhere for content; credentials do not go there.
    Downloads,
    /// A registry, which says nothing while it takes what we send.
    Uploads,
    /// A token service. Credentials are part of what it is told, so it sends us nowhere else.
    Tokens,
}

/// Chooses who does the cryptography, without which no client is made, even one that needs none.
pub(crate) fn choose_cryptography() {
    // Another part of the program may have chosen already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl ClientFor {
    /// A client for what is at `url`, on behalf of this registry.
    pub(super) fn built(
        self,
        host: &RegistryHost,
        url: &Url,
        access: Access<'_>,
    ) -> Result<Client, FetchError> {
        choose_cryptography();
        let is_http = url.scheme() == "http";
        let builder = || -> Result<_, FetchError> {
            let mut builder = Client::builder()
                .user_agent(concat!("container/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(Duration::from_secs(10))
                .https_only(!is_http)
                // The environment of this process does not count.
                .no_proxy();
            for proxy in Proxies::of(access.environment).configured()? {
                builder = builder.proxy(proxy);
            }
            Ok(match self {
                ClientFor::Downloads => builder.read_timeout(PATIENCE),
                ClientFor::Uploads => builder.tcp_user_timeout(PATIENCE).tcp_keepalive(PATIENCE),
                ClientFor::Tokens => builder.read_timeout(PATIENCE).redirect(within_origin()),
            })
        };
        let client = match is_http {
            true => builder()?.build(),
            false => {
                let mut certificates = Certificates::of(host, access)?;
                if !is_at(url, host) {
                    certificates = certificates.elsewhere(other(url, access)?);
                }
                certificates.used_by(builder()?).build()
            }
        };
        let client = match client {
            // A host without any certificate authorities can still use registries over HTTP.
            Err(_) if is_http => builder()?.tls_certs_only([]).build(),
            client => client,
        };
        client.map_err(|error| FetchError::Client {
            reason: error::innermost(&error),
        })
    }
}

/// Whether it is the registry that is at this address, and not, say, its token service.
fn is_at(url: &Url, host: &RegistryHost) -> bool {
    let base = Url::parse(&format!("{}://{}/", url.scheme(), host.address()));
    base.is_ok_and(|base| base.origin() == url.origin())
}

/// What holds for the host of this address.
fn other(url: &Url, access: Access<'_>) -> Result<Certificates, FetchError> {
    let host = url.host_str().unwrap_or_default();
    let host = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    match host.parse() {
        Ok(host) => Certificates::of(&host, access),
        Err(_) => Ok(Certificates::default()),
    }
}

/// The proxy before this address, for people.
pub(super) fn proxy_before(url: &Url, environment: &Environment) -> Option<String> {
    Proxies::of(environment).before(url)
}

fn within_origin() -> Policy {
    Policy::custom(|attempt| {
        let before = attempt.previous();
        let is_within = before
            .last()
            .is_some_and(|last| last.origin() == attempt.url().origin());
        match is_within && before.len() <= MOST_REDIRECTS {
            true => attempt.follow(),
            false => attempt.stop(),
        }
    })
}
