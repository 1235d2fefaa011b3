//! A registry's name.

use std::{fmt, str::FromStr};

use serde::Deserialize;

use crate::Reference;

/// The registry that unqualified names and `library/` belong to.
pub(crate) const DOCKER_HUB: &str = "docker.io";
/// Where its API answers.
const DOCKER_HUB_API: &str = "registry-1.docker.io";
/// What docker calls it where it keeps credentials.
const DOCKER_HUB_INDEX: &str = "index.docker.io";
const DOCKER_HUB_INDEX_URL: &str = "https://index.docker.io/v1/";

/// `HOST[:PORT]`, as it stands in references. Docker Hub is `docker.io`, however it is spelled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct RegistryHost(String);

/// Not a registry's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no registry: a registry is a host name, with a port where it needs one")]
pub struct InvalidHost(String);

impl InvalidHost {
    /// Without a name and password that may stand before it.
    pub(super) fn new(word: &str) -> InvalidHost {
        let host = word.rsplit('@').next().unwrap_or(word);
        InvalidHost(host.chars().take(100).collect())
    }
}

impl RegistryHost {
    /// The registry that this reference names.
    pub(crate) fn of(reference: &Reference) -> RegistryHost {
        RegistryHost(reference.registry().to_owned())
    }

    /// As people write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where its API answers, with its port.
    pub(crate) fn address(&self) -> &str {
        match self.as_str() {
            DOCKER_HUB => DOCKER_HUB_API,
            host => host,
        }
    }

    /// What programs that keep credentials call it.
    pub(crate) fn spelling(&self) -> &str {
        match self.as_str() {
            DOCKER_HUB => DOCKER_HUB_INDEX_URL,
            host => host,
        }
    }

    /// All that such programs may call it.
    pub(crate) fn spellings(&self) -> [String; 2] {
        match self.as_str() {
            DOCKER_HUB => [DOCKER_HUB_INDEX_URL.to_owned(), DOCKER_HUB.to_owned()],
            host => [host.to_owned(), format!("https://{host}")],
        }
    }

    /// `docker.io` for any of its names; other hosts as they are.
    pub(crate) fn hub_or(host: &str) -> &str {
        match host {
            DOCKER_HUB_INDEX | DOCKER_HUB_API => DOCKER_HUB,
            host => host,
        }
    }
}

impl FromStr for RegistryHost {
    type Err = InvalidHost;

    /// Reads a name. An address in its place (`https://HOST/`, `https://HOST/v2/`) is as good.
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
        let host = RegistryHost::hub_or(host.unwrap_or_default());
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
    fn one_registry_has_one_name() {
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
        assert_eq!(hub.spelling(), "https://index.docker.io/v1/");
    }
}
