//! Credentials for registries: those that people keep with us, and those that they have already
//! for docker and podman.
//!
//! The first of these files that has some for a registry counts:
//!
//! 1. our own ([`Registries::own_credentials`](crate::Registries)), written by `registry login`;
//! 2. `$REGISTRY_AUTH_FILE`;
//! 3. podman's `$XDG_RUNTIME_DIR/containers/auth.json`, and
//! 4. `$XDG_CONFIG_HOME/containers/auth.json`;
//! 5. docker's `$DOCKER_CONFIG/config.json`, otherwise `~/.docker/config.json`.
//!
//! All are of one form ([`file`]), and may hand a registry to a program ([`helper`]). Secrets are
//! never logged, and are in no error.

mod file;
mod helper;
mod keep;

use std::{
    fmt,
    path::{Path, PathBuf},
};

pub use file::AuthFileError;
pub use helper::HelperError;
pub use keep::{KeepError, LoggedOut, Login, Place, logins};

pub(crate) use keep::{forget, keep};

use crate::{Access, Environment, RegistryHost};
use file::{AuthFile, Kept};

/// A password or token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it from being shown.
    pub fn new(secret: String) -> Secret {
        Secret(secret)
    }

    /// The secret itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What somebody shows a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// What a token service gave in place of a password (an OAuth 2 refresh token).
    IdentityToken(Secret),
}

impl Credential {
    /// Whose they are, as far as that is known.
    pub fn username(&self) -> &str {
        match self {
            Credential::Password { username, .. } => username,
            Credential::IdentityToken(_) => helper::TOKEN,
        }
    }
}

/// Credentials that were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) credential: Credential,
    pub(crate) place: Place,
}

/// What a search came to. What could not be read keeps nobody from what everyone may have.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    pub(crate) found: Option<Found>,
    pub(crate) problems: Vec<Problem>,
}

/// Why a place could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file.
    #[error(transparent)]
    File(#[from] AuthFileError),
    /// The program.
    #[error("{file} names a program for credentials: {source}")]
    Helper {
        /// The file that names it.
        file: PathBuf,
        /// What went wrong.
        source: HelperError,
    },
}

/// The files, the one that counts most first.
fn places(access: Access<'_>) -> Vec<PathBuf> {
    let environment = access.environment;
    let own = access.registries.own_credentials.clone();
    let named = environment.path("REGISTRY_AUTH_FILE").map(Path::to_owned);
    let run = match environment.path("XDG_RUNTIME_DIR") {
        Some(directory) => directory.to_owned(),
        // Where podman keeps them without that variable.
        None => format!("/run/containers/{}", rustix::process::getuid().as_raw()).into(),
    };
    let podman_run = match environment.path("XDG_RUNTIME_DIR") {
        Some(_) => run.join("containers/auth.json"),
        None => run.join("auth.json"),
    };
    let podman = configuration_directory(environment).map(|it| it.join("containers/auth.json"));
    let found = [
        own,
        named,
        Some(podman_run),
        podman,
        docker_configuration(environment),
    ];
    let mut places: Vec<PathBuf> = Vec::new();
    for place in found.into_iter().flatten() {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// Where other programs' configurations are.
pub(crate) fn configuration_directory(environment: &Environment) -> Option<PathBuf> {
    let named = environment.path("XDG_CONFIG_HOME").map(Path::to_owned);
    named.or_else(|| environment.below_home(".config"))
}

fn docker_configuration(environment: &Environment) -> Option<PathBuf> {
    let named = environment.path("DOCKER_CONFIG").map(Path::to_owned);
    let directory = named.or_else(|| environment.below_home(".docker"))?;
    Some(directory.join("config.json"))
}

/// Looks for credentials for a repository at a registry.
pub(crate) async fn find(host: &RegistryHost, repository: &str, access: Access<'_>) -> Lookup {
    let mut lookup = Lookup::default();
    for path in places(access) {
        match find_in(&path, host, repository, access.environment).await {
            Ok(None) => {}
            Ok(Some(found)) => {
                tracing::debug!(
                    "credentials of {} for {host}: {}",
                    found.credential.username(),
                    found.place
                );
                lookup.found = Some(found);
                break;
            }
            Err(problem) => {
                tracing::warn!("{problem}");
                lookup.problems.push(problem);
            }
        }
    }
    lookup
}

async fn find_in(
    path: &Path,
    host: &RegistryHost,
    repository: &str,
    environment: &Environment,
) -> Result<Option<Found>, Problem> {
    let Some(file) = AuthFile::read(path)? else {
        return Ok(None);
    };
    match file.look_up(host, repository)? {
        None => Ok(None),
        Some(Kept::Here(credential)) => Ok(Some(Found {
            credential,
            place: Place::File(path.to_owned()),
        })),
        Some(Kept::ByHelper(name)) => {
            let found = helper::get(&name, host, environment).await;
            let found = found.map_err(|source| Problem::Helper {
                file: path.to_owned(),
                source,
            })?;
            let place = Place::Helper(name);
            Ok(found.map(|credential| Found { credential, place }))
        }
    }
}

#[cfg(test)]
mod tests;
