//! Engines with Docker's API (Docker Engine API v1.41: "Inspect an image", "Export an image"),
//! which podman's service speaks too.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::TryStreamExt;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use tokio_util::io::StreamReader;

use super::{LocalArchive, LocalImage, names};
use crate::{
    Digest, Environment, Listener, Platform, Progress, Reference, Step,
    registry::{FetchError, choose_cryptography, innermost},
};

/// How long an engine may take to let us in.
const CONNECT: Duration = Duration::from_secs(2);
/// Longer descriptions of an image are no honest ones.
const LONGEST: usize = 4 << 20;

/// How an engine is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Endpoint {
    Socket(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// An image in an engine.
#[derive(Debug)]
pub(super) struct Source {
    client: Client,
    url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    os: String,
    architecture: String,
    variant: Option<String>,
}

pub(super) async fn find(
    reference: &Reference,
    platform: &Platform,
    environment: &Environment,
    listener: Listener<'_>,
) -> Option<LocalImage> {
    let named = named(environment);
    let endpoints = match &named {
        Some(named) => named.endpoint.clone().into_iter().collect(),
        None => usual(environment),
    };
    if named.as_ref().is_some_and(|named| named.is_wrong()) {
        let reason = "that is neither unix:///path nor tcp://host:port";
        tell_of(environment, reason, listener);
    }
    for endpoint in endpoints {
        let Some(client) = endpoint.client() else {
            continue;
        };
        let mut problem = None;
        for name in names(reference) {
            let url = format!("http://{}/images/{name}", endpoint.host());
            let found = match inspected(&client, &url).await {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(reason) => {
                    tracing::debug!("{endpoint:?}: {reason}");
                    problem = Some(reason);
                    continue;
                }
            };
            let offered = Platform::new(&found.os, &found.architecture, found.variant.as_deref());
            let id = found.id.parse::<Digest>().ok();
            if let Some(id) = id.filter(|_| platform.distance(&offered).is_some()) {
                return Some(LocalImage {
                    id,
                    place: endpoint.to_string(),
                    source: super::Source::Engine(Source { client, url }),
                });
            }
        }
        if let Some(reason) = problem {
            tell_of(environment, &reason, listener);
        }
    }
    None
}

/// Tells of an engine that cannot be asked, if the environment names it.
pub(super) fn tell_of(environment: &Environment, reason: &str, listener: Listener<'_>) {
    if let Some(Named { variable, word, .. }) = named(environment) {
        let reason = format!("{variable} is {word}: {reason}");
        listener(Progress::step(Step::EngineUnknown { reason }));
    }
}

/// None if the engine has no such image; fails with the reason if it cannot say.
async fn inspected(client: &Client, url: &str) -> Result<Option<Inspected>, String> {
    let broken = |error: reqwest::Error| innermost(&error);
    let asked = client.get(format!("{url}/json")).send();
    let mut response = asked.await.map_err(broken)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        body.extend_from_slice(&chunk);
        if body.len() > LONGEST {
            return Err("its answer has no end".to_owned());
        }
    }
    match response.status() {
        StatusCode::NOT_FOUND => Ok(None),
        status if status.is_success() => serde_json::from_slice(&body)
            .map(Some)
            .map_err(|_| "what it answers is not what an engine says of an image".to_owned()),
        status => Err(format!("it answers with {status}")),
    }
}

impl Source {
    pub(super) async fn archive(self, place: &str) -> Result<LocalArchive, FetchError> {
        let failed = |reason: String| FetchError::Local {
            place: place.to_owned(),
            reason,
        };
        let sent = self.client.get(format!("{}/get", self.url)).send().await;
        let response = sent.map_err(|error| failed(error.without_url().to_string()))?;
        if !response.status().is_success() {
            return Err(failed(format!("it answered with {}", response.status())));
        }
        let bytes = response.bytes_stream().map_err(io::Error::other);
        Ok(LocalArchive {
            bytes: Box::new(StreamReader::new(Box::pin(bytes))),
            program: None,
        })
    }
}

/// An engine that the environment names: the only one that is asked.
struct Named {
    variable: &'static str,
    word: String,
    endpoint: Option<Endpoint>,
}

impl Named {
    /// Whether nobody could ask it. Engines behind SSH or TLS are not on this host.
    fn is_wrong(&self) -> bool {
        let is_elsewhere = ["ssh://", "https://"].map(|scheme| self.word.starts_with(scheme));
        self.endpoint.is_none() && !is_elsewhere.contains(&true)
    }
}

fn named(environment: &Environment) -> Option<Named> {
    let variables = ["DOCKER_HOST", "CONTAINER_HOST"].into_iter();
    let mut named = variables.filter_map(|variable| {
        let word = environment.get(variable)?.to_owned();
        Some(Named {
            variable,
            endpoint: Endpoint::read(&word),
            word,
        })
    });
    named.next()
}

/// Engines whose sockets are where they usually are.
fn usual(environment: &Environment) -> Vec<Endpoint> {
    let runtime = environment.path("XDG_RUNTIME_DIR").map(Path::to_owned);
    let below_runtime = |path: &str| runtime.as_ref().map(|runtime| runtime.join(path));
    let usual = [
        Some(PathBuf::from("/var/run/docker.sock")),
        below_runtime("docker.sock"),
        environment.below_home(".docker/run/docker.sock"),
        environment.below_home(".docker/desktop/docker.sock"),
        below_runtime("podman/podman.sock"),
        Some(PathBuf::from("/run/podman/podman.sock")),
    ];
    let there = usual.into_iter().flatten().filter(|path| path.exists());
    there.map(Endpoint::Socket).collect()
}

impl Endpoint {
    /// `unix:///path`, `tcp://host:port` or `http://host:port`.
    fn read(word: &str) -> Option<Endpoint> {
        let (scheme, rest) = word.split_once("://")?;
        match scheme {
            "unix" => Some(Endpoint::Socket(PathBuf::from(rest))),
            "tcp" | "http" if !rest.is_empty() => {
                Some(Endpoint::Tcp(rest.trim_end_matches('/').to_owned()))
            }
            _ => None,
        }
    }

    fn client(&self) -> Option<Client> {
        choose_cryptography();
        let builder = Client::builder().connect_timeout(CONNECT).no_proxy();
        let builder = match self {
            Endpoint::Socket(path) => builder.unix_socket(path.as_path()),
            Endpoint::Tcp(_) => builder,
        };
        // No certificate authority is needed to speak to an engine.
        builder.tls_certs_only([]).build().ok()
    }

    fn host(&self) -> &str {
        match self {
            Endpoint::Socket(_) => "engine",
            Endpoint::Tcp(host) => host,
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Socket(path) => write!(f, "the engine at {}", path.display()),
            Endpoint::Tcp(host) => write!(f, "the engine at {host}"),
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
    fn a_named_engine_is_the_only_one() {
        let named = |word| named(&environment(&[("DOCKER_HOST", word)])).unwrap();
        let endpoint = |word| named(word).endpoint;
        assert_eq!(
            endpoint("unix:///a/b.sock"),
            Some(Endpoint::Socket("/a/b.sock".into()))
        );
        assert_eq!(
            endpoint("tcp://127.0.0.1:2375"),
            Some(Endpoint::Tcp("127.0.0.1:2375".to_owned()))
        );
        for (word, is_wrong) in [("ssh://host", false), ("nonsense", true), ("tcp://", true)] {
            assert_eq!(endpoint(word), None, "{word}");
            assert_eq!(named(word).is_wrong(), is_wrong, "{word}");
        }
    }

    #[test]
    fn sockets_that_are_there_are_asked() {
        let runtime = tempfile::tempdir().unwrap();
        let socket = runtime.path().join("podman/podman.sock");
        std::fs::create_dir(socket.parent().unwrap()).unwrap();
        std::fs::write(&socket, "").unwrap();
        let found = usual(&environment(&[(
            "XDG_RUNTIME_DIR",
            runtime.path().to_str().unwrap(),
        )]));
        assert!(found.contains(&Endpoint::Socket(socket)), "{found:?}");
    }
}
