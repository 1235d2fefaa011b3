//! Schemes: whether a registry is accessed over HTTP or HTTPS.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::Deserialize;

/// Choice between HTTP and HTTPS for a registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Scheme {
    /// HTTP.
    Http,
    /// HTTPS.
    Https,
    /// HTTP for loopback; for private names HTTPS, else HTTP without credentials; HTTPS for all
    /// others.
    #[default]
    Auto,
}

/// Error for text that is not a scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid scheme {0:?} (choose http, https or auto)")]
pub struct InvalidScheme(String);

impl FromStr for Scheme {
    type Err = InvalidScheme;

    fn from_str(word: &str) -> Result<Scheme, InvalidScheme> {
        match word {
            "http" => Ok(Scheme::Http),
            "https" => Ok(Scheme::Https),
            "auto" => Ok(Scheme::Auto),
            _ => Err(InvalidScheme(word.chars().take(100).collect())),
        }
    }
}

impl TryFrom<String> for Scheme {
    type Error = InvalidScheme;

    fn try_from(word: String) -> Result<Scheme, InvalidScheme> {
        word.parse()
    }
}

/// What the user and the name of a registry say about its scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SchemeRule {
    Always(ResolvedScheme),
    /// HTTPS if the registry has it, else [`ResolvedScheme::AnonymousHttp`].
    HttpsFirst,
}

/// Scheme of one registry, after the choice is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResolvedScheme {
    /// HTTP, because the user chose it.
    Http,
    /// HTTP, because the registry is on this host. Credentials stay on it.
    LoopbackHttp,
    /// HTTP in a network where anybody may answer and listen, so without credentials.
    AnonymousHttp,
    Https,
}

impl fmt::Display for ResolvedScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResolvedScheme::Http | ResolvedScheme::LoopbackHttp | ResolvedScheme::AnonymousHttp => {
                "http"
            }
            ResolvedScheme::Https => "https",
        })
    }
}

impl Scheme {
    /// Returns the rule for a registry at this address, `host[:port]`.
    pub(super) fn rule(self, address: &str) -> SchemeRule {
        match self {
            Scheme::Http => SchemeRule::Always(ResolvedScheme::Http),
            Scheme::Https => SchemeRule::Always(ResolvedScheme::Https),
            Scheme::Auto if is_loopback(host(address)) => {
                SchemeRule::Always(ResolvedScheme::LoopbackHttp)
            }
            Scheme::Auto if is_private(host(address)) => SchemeRule::HttpsFirst,
            Scheme::Auto => SchemeRule::Always(ResolvedScheme::Https),
        }
    }
}

fn host(address: &str) -> &str {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let is_port = port.bytes().all(|letter| letter.is_ascii_digit());
    if is_port { host } else { address }
}

/// Whether a host is this one (RFC 6761, section 6.3).
pub(super) fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => {
            let name = host.to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// Whether a host is in a private network: RFC 1918 and similar addresses, names without a dot, and
/// domains that cannot be registered (RFC 6761, 6762, 8375 and ICANN's `internal`).
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
        let rule = |address| Scheme::Auto.rule(address);
        let always = SchemeRule::Always;
        for address in ["127.0.0.1:5000", "localhost", "a.localhost:5000"] {
            assert_eq!(
                rule(address),
                always(ResolvedScheme::LoopbackHttp),
                "{address}"
            );
        }
        for address in [
            "registry:5000",
            "192.168.1.9",
            "10.0.0.1:80",
            "nas.local",
            "registry.team.internal:5000",
        ] {
            assert_eq!(rule(address), SchemeRule::HttpsFirst, "{address}");
        }
        for address in [
            "registry-1.docker.io",
            "ghcr.io:443",
            "8.8.8.8:5000",
            "172.32.0.1",
            "127.0.0.1.example.com",
            "local.example.com",
        ] {
            assert_eq!(rule(address), always(ResolvedScheme::Https), "{address}");
        }
        assert_eq!(Scheme::Http.rule("ghcr.io"), always(ResolvedScheme::Http));
        assert_eq!(
            Scheme::Https.rule("nas.local"),
            always(ResolvedScheme::Https)
        );
    }

    #[test]
    fn unknown_schemes_are_refused() {
        assert_eq!("auto".parse::<Scheme>().unwrap(), Scheme::Auto);
        assert!("ftp".parse::<Scheme>().is_err());
    }
}
