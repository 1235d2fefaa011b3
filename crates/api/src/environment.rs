//! What the caller's environment says.

use std::{collections::BTreeMap, env, fmt};

use serde::{Deserialize, Serialize};

/// Variables by their full name: where registries, engines, stores and credentials are, and what
/// programs that keep credentials need to find them and to ask for a passphrase.
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

/// Lower-case spellings that programs know too.
const LOWER_CASE: [&str; 4] = ["all_proxy", "http_proxy", "https_proxy", "no_proxy"];

/// Those that begin so: of builders, of container stores, and of the programs that keep
/// credentials for cloud registries.
const PREFIXES: [&str; 5] = ["AWS_", "BUILDAH_", "CLOUDSDK_", "CONTAINERS_", "STORAGE_"];

/// Those that name a file or directory, which may be relative to where the caller is.
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

/// The variables of the caller's environment that matter to images. The service was started from
/// some other environment, so they come with each request, and count in the place of its own.
///
/// They may hold secrets (a proxy's password): they are not logged, and `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallerEnvironment(BTreeMap<String, String>);

impl CallerEnvironment {
    /// What this process's environment says, with paths made absolute. A value that is not UTF-8 is
    /// left out.
    pub fn of_this_process() -> CallerEnvironment {
        let variables = env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            let value = match PATHS.contains(&name.as_str()) && !value.is_empty() {
                true => std::path::absolute(value).ok()?.into_os_string(),
                false => value,
            };
            Some((name, value.into_string().ok()?))
        });
        CallerEnvironment::from_iter(variables)
    }

    /// The variables, by name.
    pub fn into_variables(self) -> BTreeMap<String, String> {
        self.0
    }
}

impl FromIterator<(String, String)> for CallerEnvironment {
    /// Keeps those that matter.
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> CallerEnvironment {
        let matters = |name: &str| {
            NAMES.contains(&name)
                || LOWER_CASE.contains(&name)
                || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        let variables = variables.into_iter();
        CallerEnvironment(variables.filter(|(name, _)| matters(name)).collect())
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
    fn only_what_matters_to_images_travels_and_no_value_is_shown() {
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
        let written = serde_json::to_string(&environment).unwrap();
        assert!(written.starts_with(r#"{"CONTAINERS_STORAGE_CONF":"/etc/s.conf","#));
        assert_eq!(
            serde_json::from_str::<CallerEnvironment>(&written).unwrap(),
            environment
        );
    }
}
