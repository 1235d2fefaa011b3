//! Environment variables of the caller that concern images.

use std::{collections::BTreeMap, env, fmt};

use serde::{Deserialize, Serialize};

/// Variables that locate registries, engines, stores and credentials, and those that credential
/// helpers need to find credentials and to ask for a passphrase.
const NAMES: [&str; 27] = [
    "ALL_PROXY",
    "CONTAINER_HOST",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "DOCKER_TLS_VERIFY",
    "GNUPGHOME",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GPG_TTY",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LOGNAME",
    "NO_PROXY",
    "PASSWORD_STORE_DIR",
    "PATH",
    "REGISTRY_AUTH_FILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "USER",
    "WAYLAND_DISPLAY",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
];

/// Lower-case spellings, which many programs accept as well.
const LOWER_CASE: [&str; 4] = ["all_proxy", "http_proxy", "https_proxy", "no_proxy"];

/// Prefixes of the variables of builders, of containers-storage, and of the credential helpers of
/// cloud registries.
const PREFIXES: [&str; 5] = ["AWS_", "BUILDAH_", "CLOUDSDK_", "CONTAINERS_", "STORAGE_"];

/// Variables with the path of a file or directory, which may be relative to the caller's working
/// directory.
const PATHS: [&str; 9] = [
    "CONTAINERS_CONF",
    "CONTAINERS_REGISTRIES_CONF",
    "CONTAINERS_STORAGE_CONF",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "REGISTRY_AUTH_FILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];

/// The environment variables of the caller that concern images. Each request carries them, because
/// the service was started from another environment, and they replace those of the service.
///
/// They may contain secrets, such as the password of a proxy: they are not logged, and `Debug`
/// writes names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallerEnvironment(BTreeMap<String, String>);

impl CallerEnvironment {
    /// Returns the variables of this process, with absolute paths. Values that are not UTF-8 are
    /// skipped.
    pub fn from_process() -> CallerEnvironment {
        let variables = env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            let value = if PATHS.contains(&name.as_str()) && !value.is_empty() {
                std::path::absolute(value).ok()?.into_os_string()
            } else {
                value
            };
            Some((name, value.into_string().ok()?))
        });
        CallerEnvironment::from_iter(variables)
    }

    /// Returns values by name.
    pub fn into_variables(self) -> BTreeMap<String, String> {
        self.0
    }
}

impl FromIterator<(String, String)> for CallerEnvironment {
    /// Keeps the variables that concern images.
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> CallerEnvironment {
        let concerns_images = |name: &str| {
            NAMES.contains(&name)
                || LOWER_CASE.contains(&name)
                || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        let variables = variables.into_iter();
        CallerEnvironment(
            variables
                .filter(|(name, _)| concerns_images(name))
                .collect(),
        )
    }
}

impl fmt::Debug for CallerEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_for_images_are_kept_and_debug_writes_no_values() {
        let variables = [
            ("HTTPS_PROXY", "http://me:secret@proxy:3128"),
            ("no_proxy", "localhost"),
            ("CONTAINERS_STORAGE_CONF", "/etc/s.conf"),
            ("LANG", "C"),
            ("MY_PATH", "x"),
            ("NO_PROXY_AT_ALL", "x"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment = CallerEnvironment::from_iter(variables);
        assert_eq!(
            format!("{environment:?}"),
            r#"{"CONTAINERS_STORAGE_CONF", "HTTPS_PROXY", "no_proxy"}"#
        );
        let json = serde_json::to_string(&environment).unwrap();
        assert!(json.starts_with(r#"{"CONTAINERS_STORAGE_CONF":"/etc/s.conf","#));
        assert_eq!(
            serde_json::from_str::<CallerEnvironment>(&json).unwrap(),
            environment
        );
    }
}
