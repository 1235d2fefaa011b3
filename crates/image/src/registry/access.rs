//! How to reach registries: what was said for this request, what the settings say, and the
//! environment of whoever asks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

use super::{InvalidHost, RegistryHost, Scheme, scheme::Decided};
use crate::{Environment, Reference};

/// What is set once for all registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    /// The file with the credentials that people keep with us.
    pub own_credentials: Option<PathBuf>,
    /// Single registries.
    pub hosts: BTreeMap<RegistryHost, HostSettings>,
}

/// What is set for one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSettings {
    /// Where its images are looked for first, in this order.
    pub mirrors: Vec<Mirror>,
    /// How to speak to it, where a request does not say.
    pub scheme: Scheme,
    /// A file of PEM certificates: authorities that may vouch for it besides the host's.
    pub ca: Option<PathBuf>,
}

/// A place that has the same images as a registry: `HOST[:PORT][/PATH]`. An image's repository
/// stands behind that there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mirror {
    pub(super) host: RegistryHost,
    /// Without slashes around it; empty for none.
    path: String,
}

impl Mirror {
    /// The repository's name there.
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
        let whole = format!("{host}/{path}/any");
        let is_path = path.is_empty() || Reference::parse(&whole, "docker.io").is_ok();
        match is_path {
            true => Ok(Mirror {
                host,
                path: path.to_owned(),
            }),
            false => Err(InvalidHost::new(word)),
        }
    }
}

impl TryFrom<String> for Mirror {
    type Error = InvalidHost;

    fn try_from(word: String) -> Result<Mirror, InvalidHost> {
        word.parse()
    }
}

/// All that counts for one request.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// What the request says about the registry that it names.
    pub scheme: Scheme,
    /// The environment of whoever asks.
    pub environment: &'a Environment,
    /// What is set.
    pub registries: &'a Registries,
}

impl<'a> Access<'a> {
    /// How to speak to this registry. Where neither the request nor the settings decide, its name
    /// does.
    pub(super) fn scheme_for(&self, host: &RegistryHost) -> Decided {
        let settings = self.settings_of(host).map(|settings| settings.scheme);
        let scheme = match self.scheme {
            Scheme::Auto => settings.unwrap_or_default(),
            said => said,
        };
        scheme.decided(host.address())
    }

    /// The further authorities that are set for this registry.
    pub(super) fn ca_of(&self, host: &RegistryHost) -> Option<&'a Path> {
        self.settings_of(host)?.ca.as_deref()
    }

    /// Where the registry's images are looked for first.
    pub(super) fn mirrors_of(&self, host: &RegistryHost) -> &'a [Mirror] {
        let settings = self.settings_of(host);
        settings.map_or(&[], |settings| settings.mirrors.as_slice())
    }

    /// For a mirror, of which the request says nothing.
    pub(super) fn of_mirror(self) -> Access<'a> {
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

    #[test]
    fn a_mirror_is_a_host_and_perhaps_a_path() {
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
    fn the_request_counts_more_than_the_settings_and_these_more_than_the_name() {
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
        let decided = |scheme, host: &RegistryHost| {
            let access = Access {
                scheme,
                environment: &environment,
                registries: &registries,
            };
            access.scheme_for(host)
        };
        assert_eq!(decided(Scheme::Auto, &host), Decided::Http);
        assert_eq!(decided(Scheme::Https, &host), Decided::Https);
        let other: RegistryHost = "other.example".parse().unwrap();
        assert_eq!(decided(Scheme::Auto, &other), Decided::Https);
    }
}
