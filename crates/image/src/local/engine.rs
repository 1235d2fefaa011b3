//! Engines with Docker's API (Docker Engine API v1.41: "Inspect an image", "Export an image").
//! podman's service has it too.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::TryStreamExt;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use tokio_util::io::StreamReader;

use super::{LocalStoreError, archive::LocalArchive};
use crate::{
    Digest, Environment, Listener, Platform, Reference, Step,
    registry::{install_crypto_provider, root_cause},
};

/// Timeout for a connection to an engine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Size limit of the description of an image.
const LARGEST_DESCRIPTION: usize = 4 << 20;

/// Address of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
enum EngineAddress {
    Socket(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// Image in an engine.
#[derive(Debug)]
pub(super) struct EngineImage {
    http: Client,
    /// URL of the image in the engine's API.
    url: String,
}

/// Fields of the response to "Inspect an image".
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageDescription {
    id: String,
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Error of an engine that should describe an image.
#[derive(Debug, thiserror::Error)]
enum InspectError {
    #[error("{0}")]
    Connection(String),
    #[error("its response is larger than {LARGEST_DESCRIPTION} bytes")]
    TooLarge,
    #[error("its response does not describe an image")]
    InvalidResponse,
    #[error("it answered with status {0}")]
    Status(StatusCode),
}

/// Searches the engine that the environment names, otherwise those at the usual sockets. Returns
/// the image with its id and a description of the engine.
pub(super) async fn find(
    reference: &Reference,
    platform: &Platform,
    environment: &Environment,
    listener: Listener<'_>,
) -> Option<(Digest, String, EngineImage)> {
    let configured = ConfiguredEngine::from_environment(environment);
    let addresses = match &configured {
        Some(configured) => configured.address.clone().into_iter().collect(),
        None => usual_addresses(environment),
    };
    if configured
        .as_ref()
        .is_some_and(ConfiguredEngine::is_invalid)
    {
        let reason = "invalid address (expected unix:///path or tcp://host:port)";
        report_problem(environment, reason, listener);
    }
    for address in addresses {
        let Some(http) = address.client() else {
            continue;
        };
        let mut problem = None;
        for name in reference.local_names() {
            let url = format!("http://{}/images/{name}", address.host());
            let image = match inspect(&http, &url).await {
                Ok(Some(image)) => image,
                Ok(None) => continue,
                Err(error) => {
                    tracing::debug!("{address}: {error}");
                    problem = Some(error);
                    continue;
                }
            };
            let offered = Platform::new(&image.os, &image.architecture, image.variant.as_deref());
            let id = image.id.parse::<Digest>().ok();
            if let Some(id) = id.filter(|_| platform.distance(&offered).is_some()) {
                return Some((id, address.to_string(), EngineImage { http, url }));
            }
        }
        if let Some(error) = problem {
            report_problem(environment, &error.to_string(), listener);
        }
    }
    None
}

/// Notifies the listener of an engine that cannot be used, if the environment names it. An engine
/// that was only tried at a usual socket is not worth a message.
pub(super) fn report_problem(environment: &Environment, reason: &str, listener: Listener<'_>) {
    if let Some(configured) = ConfiguredEngine::from_environment(environment) {
        let ConfiguredEngine {
            variable, value, ..
        } = configured;
        let reason = format!("{variable}={value}: {reason}");
        listener(Step::EngineSkipped { reason }.into());
    }
}

/// Requests the description of an image. `None` when the engine does not have it.
async fn inspect(http: &Client, url: &str) -> Result<Option<ImageDescription>, InspectError> {
    let failed = |error: reqwest::Error| InspectError::Connection(root_cause(&error));
    let request = http.get(format!("{url}/json")).send();
    let mut response = request.await.map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST_DESCRIPTION {
            return Err(InspectError::TooLarge);
        }
    }
    match response.status() {
        StatusCode::NOT_FOUND => Ok(None),
        status if status.is_success() => serde_json::from_slice(&body)
            .map(Some)
            .map_err(|_| InspectError::InvalidResponse),
        status => Err(InspectError::Status(status)),
    }
}

impl EngineImage {
    /// Requests the image as an archive.
    pub(super) async fn open(self, store: &str) -> Result<LocalArchive, LocalStoreError> {
        let failed = |reason: String| LocalStoreError {
            store: store.to_owned(),
            reason,
        };
        let response = self.http.get(format!("{}/get", self.url)).send().await;
        let response = response.map_err(|error| failed(error.without_url().to_string()))?;
        if !response.status().is_success() {
            return Err(failed(format!(
                "it answered with status {}",
                response.status()
            )));
        }
        let bytes = response.bytes_stream().map_err(io::Error::other);
        Ok(LocalArchive {
            bytes: Box::new(StreamReader::new(Box::pin(bytes))),
            writer: None,
        })
    }
}

/// Engine that the environment names. No other one is asked then.
struct ConfiguredEngine {
    variable: &'static str,
    value: String,
    /// `None` when the value is not the address of an engine on this host.
    address: Option<EngineAddress>,
}

impl ConfiguredEngine {
    fn from_environment(environment: &Environment) -> Option<ConfiguredEngine> {
        let variables = ["DOCKER_HOST", "CONTAINER_HOST"].into_iter();
        let mut configured = variables.filter_map(|variable| {
            let value = environment.get(variable)?.to_owned();
            Some(ConfiguredEngine {
                variable,
                address: EngineAddress::parse(&value),
                value,
            })
        });
        configured.next()
    }

    /// Whether the value is an error. Addresses over SSH or TLS are valid, but such an engine is on
    /// another host, so its images are ignored.
    fn is_invalid(&self) -> bool {
        let is_remote = ["ssh://", "https://"].map(|scheme| self.value.starts_with(scheme));
        self.address.is_none() && !is_remote.contains(&true)
    }
}

/// Returns the existing sockets among those that engines usually have.
fn usual_addresses(environment: &Environment) -> Vec<EngineAddress> {
    let runtime = environment.path("XDG_RUNTIME_DIR").map(Path::to_owned);
    let in_runtime = |path: &str| runtime.as_ref().map(|runtime| runtime.join(path));
    let candidates = [
        Some(PathBuf::from("/var/run/docker.sock")),
        in_runtime("docker.sock"),
        environment.home_path(".docker/run/docker.sock"),
        environment.home_path(".docker/desktop/docker.sock"),
        in_runtime("podman/podman.sock"),
        Some(PathBuf::from("/run/podman/podman.sock")),
    ];
    let existing = candidates
        .into_iter()
        .flatten()
        .filter(|path| path.exists());
    existing.map(EngineAddress::Socket).collect()
}

impl EngineAddress {
    /// Parses `unix:///path`, `tcp://host:port` or `http://host:port`.
    fn parse(word: &str) -> Option<EngineAddress> {
        let (scheme, rest) = word.split_once("://")?;
        match scheme {
            "unix" => Some(EngineAddress::Socket(PathBuf::from(rest))),
            "tcp" | "http" if !rest.is_empty() => {
                Some(EngineAddress::Tcp(rest.trim_end_matches('/').to_owned()))
            }
            _ => None,
        }
    }

    fn client(&self) -> Option<Client> {
        install_crypto_provider();
        let builder = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy();
        let builder = match self {
            EngineAddress::Socket(path) => builder.unix_socket(path.as_path()),
            EngineAddress::Tcp(_) => builder,
        };
        // Engines are accessed without TLS, so a host without certificates is no error.
        builder.tls_certs_only([]).build().ok()
    }

    /// Returns the host in URLs. Over a Unix socket any name works.
    fn host(&self) -> &str {
        match self {
            EngineAddress::Socket(_) => "engine",
            EngineAddress::Tcp(host) => host,
        }
    }
}

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineAddress::Socket(path) => write!(f, "the engine at {}", path.display()),
            EngineAddress::Tcp(host) => write!(f, "the engine at {host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Environment::from(
            variables
                .iter()
                .map(owned)
                .collect::<std::collections::BTreeMap<_, _>>(),
        )
    }

    #[test]
    fn addresses_of_configured_engines_are_parsed() {
        let configured = |word| {
            let environment = environment(&[("DOCKER_HOST", word)]);
            ConfiguredEngine::from_environment(&environment).unwrap()
        };
        let address = |word| configured(word).address;
        assert_eq!(
            address("unix:///a/b.sock"),
            Some(EngineAddress::Socket("/a/b.sock".into()))
        );
        assert_eq!(
            address("tcp://127.0.0.1:2375"),
            Some(EngineAddress::Tcp("127.0.0.1:2375".to_owned()))
        );
        for (word, is_invalid) in [("ssh://host", false), ("nonsense", true), ("tcp://", true)] {
            assert_eq!(address(word), None, "{word}");
            assert_eq!(configured(word).is_invalid(), is_invalid, "{word}");
        }
    }

    #[test]
    fn existing_sockets_are_used() {
        let runtime = tempfile::tempdir().unwrap();
        let socket = runtime.path().join("podman/podman.sock");
        std::fs::create_dir(socket.parent().unwrap()).unwrap();
        std::fs::write(&socket, "").unwrap();
        let found = usual_addresses(&environment(&[(
            "XDG_RUNTIME_DIR",
            runtime.path().to_str().unwrap(),
        )]));
        assert!(found.contains(&EngineAddress::Socket(socket)), "{found:?}");
    }
}
