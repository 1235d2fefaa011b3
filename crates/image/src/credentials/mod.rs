//! Credentials for registries, in the files and helpers of this program, podman and docker.
//!
//! The first of these files with credentials for a registry is used:
//!
//! 1. the own file ([`Registries::own_credentials`](crate::Registries)), which logins write;
//! 2. `$REGISTRY_AUTH_FILE`;
//! 3. podman's `$XDG_RUNTIME_DIR/containers/auth.json`, and
//! 4. `$XDG_CONFIG_HOME/containers/auth.json`;
//! 5. docker's `$DOCKER_CONFIG/config.json`, otherwise `~/.docker/config.json`.
//!
//! All have the same format ([`file`](mod@file)), and may refer to a credential helper
//! ([`helper`]). Secrets are never logged and are in no error message.
//!
//! - [`lookup`]: lookup for a repository;
//! - [`write`](mod@write): storing and removing, for logins;
//! - [`list`]: all stored credentials.

mod credential;
mod file;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod helper;
mod list;
mod lookup;
mod stores;
#[cfg(test)]
mod tests;
mod write;

pub use credential::Secret;
pub use file::AuthFileError;
pub use helper::HelperError;
pub use list::{RegistryLogin, list_logins};
pub use lookup::CredentialReadError;
pub use stores::CredentialStore;
pub use write::{CredentialWriteError, LogoutOutcome};

pub(crate) use credential::Credential;
pub(crate) use lookup::{CredentialLookup, find};
pub(crate) use write::{remove, store};
