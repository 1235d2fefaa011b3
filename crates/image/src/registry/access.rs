//! Access to registries: what the request, the configuration and the caller's environment say.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

use super::{InvalidHost, RegistryHost, Scheme, scheme::SchemeRule};
use crate::{Environment, Reference};

/// Configuration of all registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    /// File of the credentials that [`log_in`](crate::log_in) stores. It takes precedence over the
    /// files of other programs.
    pub own_credentials: Option<PathBuf>,
    /// Settings of single registries.
    pub hosts: BTreeMap<RegistryHost, HostSettings>,
}

/// Settings of one registry, a table of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSettings {
    /// Mirrors, which are asked first, in this order.
    pub mirrors: Vec<Mirror>,
    /// Scheme for requests that do not choose one.
    pub scheme: Scheme,
    /// PEM file of certificate authorities that are trusted for this registry besides the host's.
    pub ca: Option<PathBuf>,
}

/// Mirror of a registry: `HOST[:PORT][/PATH]`. The path is prepended to the repository name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mirror {
    pub(super) host: RegistryHost,
    /// Path without leading and trailing slash. May be empty.
    path: String,
}

impl Mirror {
    /// Returns the name of a repository at the mirror.
    pub(super) fn repository(&self, repository: &str) -> String {
        match self.path.as_str() {
            "" => repository.to_owned(),
            path => format!("{path}/{repository}"),
        }
    }
}

impl FromStr for Mirror {
    type Err = InvalidHost;

    fn from_str(word: &str) -> Result<Mirror, InvalidHost> {
        let (host, path) = word.split_once('/').unwrap_or((word, ""));
        let host = host.parse()?;
        let example = format!("{host}/{path}/any");
        if path.is_empty() || Reference::parse(&example, "docker.io").is_ok() {
            Ok(Mirror {
                host,
                path: path.to_owned(),
            })
        } else {
            Err(InvalidHost::new(word))
        }
    }
}

impl TryFrom<String> for Mirror {
    type Error = InvalidHost;

    fn try_from(word: String) -> Result<Mirror, InvalidHost> {
        word.parse()
    }
}

/// Everything that determines how a registry is accessed.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// Scheme that the request chooses for the registry it names.
    pub scheme: Scheme,
    /// Environment of the caller, for proxies, certificates and credentials.
    pub environment: &'a Environment,
    /// Configuration of the registries.
    pub registries: &'a Registries,
}

impl<'a> Access<'a> {
    /// Returns the rule for a registry's scheme: the request's, else the configured one, else the
    /// one that fits its name.
    pub(super) fn scheme_for(&self, host: &RegistryHost) -> SchemeRule {
        let configured = self.settings_of(host).map(|settings| settings.scheme);
        let scheme = match self.scheme {
            Scheme::Auto => configured.unwrap_or_default(),
            requested => requested,
        };
        scheme.rule(host.address())
    }

    /// Returns the file of additional certificate authorities for a registry.
    pub(super) fn ca_of(&self, host: &RegistryHost) -> Option<&'a Path> {
        self.settings_of(host)?.ca.as_deref()
    }

    /// Returns the mirrors of a registry.
    pub(super) fn mirrors_of(&self, host: &RegistryHost) -> &'a [Mirror] {
        let settings = self.settings_of(host);
        settings.map_or(&[], |settings| settings.mirrors.as_slice())
    }

    /// Returns the access to a mirror, to which the request's scheme does not apply.
    pub(super) fn for_mirror(self) -> Access<'a> {
        Access {
            scheme: Scheme::Auto,
            ..self
        }
    }

    fn settings_of(&self, host: &RegistryHost) -> Option<&'a HostSettings> {
        self.registries.hosts.get(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::scheme::ResolvedScheme;

    #[test]
    fn a_mirror_is_a_host_with_an_optional_path() {
        let repository = |mirror: &str| {
            let mirror: Mirror = mirror.parse().unwrap();
            mirror.repository("library/alpine")
        };
        assert_eq!(repository("mirror.example"), "library/alpine");
        assert_eq!(repository("127.0.0.1:5000/hub"), "hub/library/alpine");
        for word in [
            "",
            "/hub",
            "http://mirror.example",
            "mirror.example/A",
            "mirror.example/a//b",
        ] {
            assert!(word.parse::<Mirror>().is_err(), "{word}");
        }
    }

    #[test]
    fn the_scheme_comes_from_request_then_settings_then_name() {
        let host: RegistryHost = "registry.example".parse().unwrap();
        let settings = HostSettings {
            scheme: Scheme::Http,
            ..HostSettings::default()
        };
        let registries = Registries {
            hosts: BTreeMap::from([(host.clone(), settings)]),
            ..Registries::default()
        };
        let environment = Environment::default();
        let resolve = |scheme, host: &RegistryHost| {
            let access = Access {
                scheme,
                environment: &environment,
                registries: &registries,
            };
            access.scheme_for(host)
        };
        assert_eq!(
            resolve(Scheme::Auto, &host),
            SchemeRule::Always(ResolvedScheme::Http)
        );
        assert_eq!(
            resolve(Scheme::Https, &host),
            SchemeRule::Always(ResolvedScheme::Https)
        );
        let other: RegistryHost = "other.example".parse().unwrap();
        assert_eq!(
            resolve(Scheme::Auto, &other),
            SchemeRule::Always(ResolvedScheme::Https)
        );
    }
}
