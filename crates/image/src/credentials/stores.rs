//! Places where credentials are stored.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{Access, Environment};

/// Place where credentials are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialStore {
    /// File in the format of docker's `config.json`.
    File(PathBuf),
    /// Credential helper, the program `docker-credential-NAME`.
    Helper(String),
}

impl fmt::Display for CredentialStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialStore::File(path) => write!(f, "{}", path.display()),
            CredentialStore::Helper(name) => write!(f, "docker-credential-{name}"),
        }
    }
}

/// Returns the files to search, the one with precedence first. They may not exist.
pub(super) fn auth_files(access: Access<'_>) -> Vec<PathBuf> {
    let environment = access.environment;
    let own = access.registries.own_credentials.clone();
    let configured = environment.path("REGISTRY_AUTH_FILE").map(Path::to_owned);
    let podman_runtime = match environment.path("XDG_RUNTIME_DIR") {
        Some(directory) => directory.join("containers/auth.json"),
        // podman's path without that variable.
        None => {
            let uid = rustix::process::getuid().as_raw();
            PathBuf::from(format!("/run/containers/{uid}/auth.json"))
        }
    };
    let podman_config = environment
        .config_directory()
        .map(|it| it.join("containers/auth.json"));
    let candidates = [
        own,
        configured,
        Some(podman_runtime),
        podman_config,
        docker_config(environment),
    ];
    let mut files: Vec<PathBuf> = Vec::new();
    for file in candidates.into_iter().flatten() {
        if !files.contains(&file) {
            files.push(file);
        }
    }
    files
}

/// Returns the path of docker's configuration file.
pub(super) fn docker_config(environment: &Environment) -> Option<PathBuf> {
    let configured = environment.path("DOCKER_CONFIG").map(Path::to_owned);
    let directory = configured.or_else(|| environment.home_path(".docker"))?;
    Some(directory.join("config.json"))
}
