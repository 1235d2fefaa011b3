//! Encrypted or not.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::Deserialize;

use crate::ImageError;

/// How to speak to a registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Scheme {
    /// Without encryption.
    Http,
    /// With.
    Https,
    /// Without for loopback and private names only.
    #[default]
    Auto,
}

/// Not a scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scheme: choose http, https or auto")]
pub struct InvalidScheme(String);

impl FromStr for Scheme {
    type Err = ImageError;

    fn from_str(word: &str) -> Result<Scheme, ImageError> {
        match word {
            "http" => Ok(Scheme::Http),
            "https" => Ok(Scheme::Https),
            "auto" => Ok(Scheme::Auto),
            _ => Err(InvalidScheme(word.chars().take(100).collect()).into()),
        }
    }
}

impl TryFrom<String> for Scheme {
    type Error = ImageError;

    fn try_from(word: String) -> Result<Scheme, ImageError> {
        word.parse()
    }
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decided {
    Http,
    Https,
}

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Decided::Http => "http",
            Decided::Https => "https",
        })
    }
}

impl Scheme {
    /// For a registry at this address, `host[:port]`.
    pub(super) fn decided(self, address: &str) -> Decided {
        match self {
            Scheme::Http => Decided::Http,
            Scheme::Https => Decided::Https,
            Scheme::Auto if is_private(host(address)) => Decided::Http,
            Scheme::Auto => Decided::Https,
        }
    }
}

fn host(address: &str) -> &str {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let is_port = port.bytes().all(|letter| letter.is_ascii_digit());
    if is_port { host } else { address }
}

/// Addresses of RFC 1918 and the like, names without a dot, and the domains that belong to
/// nobody (RFC 6761, 6762, 8375 and ICANN's `internal`).
fn is_private(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            address.is_loopback() || address.is_private() || address.is_link_local()
        }
        Ok(IpAddr::V6(address)) => address.is_loopback() || address.is_unique_local(),
        Err(_) => {
            let domains = [".localhost", ".local", ".internal", ".home.arpa", ".test"];
            let name = host.to_ascii_lowercase();
            !name.contains('.') || domains.iter().any(|domain| name.ends_with(domain))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_private_names_only() {
        let decided = |address| Scheme::Auto.decided(address);
        for address in [
            "127.0.0.1:5000",
            "localhost",
            "localhost:5000",
            "registry:5000",
            "192.168.1.9",
            "10.0.0.1:80",
            "nas.local",
            "registry.team.internal:5000",
        ] {
            assert_eq!(decided(address), Decided::Http, "{address}");
        }
        for address in [
            "registry-1.docker.io",
            "ghcr.io:443",
            "8.8.8.8:5000",
            "172.32.0.1",
            "127.0.0.1.example.com",
            "local.example.com",
        ] {
            assert_eq!(decided(address), Decided::Https, "{address}");
        }
        assert_eq!(Scheme::Http.decided("ghcr.io"), Decided::Http);
        assert_eq!(Scheme::Https.decided("localhost"), Decided::Https);
    }

    #[test]
    fn a_scheme_is_one_of_three() {
        assert_eq!("auto".parse::<Scheme>().unwrap(), Scheme::Auto);
        assert!("ftp".parse::<Scheme>().is_err());
    }
}
