//! Names of registries.

use std::{fmt, str::FromStr};

use serde::Deserialize;

use crate::{Reference, reference::DOCKER_HUB};

/// Host of Docker Hub's API.
const DOCKER_HUB_API: &str = "registry-1.docker.io";
/// Host under which docker stores credentials for Docker Hub.
const DOCKER_HUB_INDEX: &str = "index.docker.io";
const DOCKER_HUB_INDEX_URL: &str = "https://index.docker.io/v1/";

/// Name of a registry as references have it, `HOST[:PORT]`. All aliases of Docker Hub become
/// `docker.io`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct RegistryHost(String);

/// Error for text that is not the name of a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid registry {0:?} (expected HOST or HOST:PORT)")]
pub struct InvalidHost(String);

impl InvalidHost {
    /// Creates the error, without a user name and password that may precede the host.
    pub(super) fn new(word: &str) -> InvalidHost {
        let host = word.rsplit('@').next().unwrap_or(word);
        InvalidHost(host.chars().take(100).collect())
    }
}

impl From<&Reference> for RegistryHost {
    fn from(reference: &Reference) -> RegistryHost {
        RegistryHost(reference.registry().to_owned())
    }
}

impl RegistryHost {
    /// Returns the name, `HOST[:PORT]`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns host and port of the registry's API.
    pub(crate) fn address(&self) -> &str {
        match self.as_str() {
            DOCKER_HUB => DOCKER_HUB_API,
            host => host,
        }
    }

    /// Returns the key under which docker and credential helpers store credentials.
    pub(crate) fn credential_key(&self) -> &str {
        match self.as_str() {
            DOCKER_HUB => DOCKER_HUB_INDEX_URL,
            host => host,
        }
    }

    /// Returns all keys under which credentials may be stored, the usual one first.
    pub(crate) fn credential_keys(&self) -> [String; 2] {
        match self.as_str() {
            DOCKER_HUB => [DOCKER_HUB_INDEX_URL.to_owned(), DOCKER_HUB.to_owned()],
            host => [host.to_owned(), format!("https://{host}")],
        }
    }

    /// Returns `docker.io` for its aliases, and any other host unchanged.
    pub(crate) fn normalize_alias(host: &str) -> &str {
        match host {
            DOCKER_HUB_INDEX | DOCKER_HUB_API => DOCKER_HUB,
            host => host,
        }
    }
}

impl FromStr for RegistryHost {
    type Err = InvalidHost;

    /// Parses a name, or the URL of a registry (`https://HOST/`, `https://HOST/v2/`).
    fn from_str(word: &str) -> Result<RegistryHost, InvalidHost> {
        let address = word
            .strip_prefix("https://")
            .or(word.strip_prefix("http://"));
        let host = match address {
            Some(address) => {
                let (host, path) = address.split_once('/').unwrap_or((address, ""));
                let is_base = matches!(path, "" | "v1" | "v1/" | "v2" | "v2/");
                host.get(..if is_base { host.len() } else { 0 })
            }
            None => Some(word),
        };
        let host = RegistryHost::normalize_alias(host.unwrap_or_default());
        // The parser of references knows which hosts are valid.
        let reference = Reference::parse("any", host);
        match reference {
            Ok(reference) if reference.registry() == host => Ok(RegistryHost(host.to_owned())),
            _ => Err(InvalidHost::new(word)),
        }
    }
}

impl TryFrom<String> for RegistryHost {
    type Error = InvalidHost;

    fn try_from(word: String) -> Result<RegistryHost, InvalidHost> {
        word.parse()
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_and_urls_are_normalized() {
        for (word, host) in [
            ("docker.io", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("https://quay.io", "quay.io"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("localhost", "localhost"),
            ("registry:5000", "registry:5000"),
        ] {
            assert_eq!(
                word.parse::<RegistryHost>().unwrap().as_str(),
                host,
                "{word}"
            );
        }
        for word in [
            "",
            "a b",
            "quay.io/team",
            "https://",
            "ftp://x",
            "https://quay.io/team",
            "http:///x",
        ] {
            assert!(word.parse::<RegistryHost>().is_err(), "{word}");
        }
        let error = "https://me:secret@quay.io".parse::<RegistryHost>();
        assert!(!error.unwrap_err().to_string().contains("secret"));
        let hub: RegistryHost = "docker.io".parse().unwrap();
        assert_eq!(hub.address(), "registry-1.docker.io");
        assert_eq!(hub.credential_key(), "https://index.docker.io/v1/");
    }
}
