//! Logging in and out: credentials are checked at the registry before they are stored.

use std::path::Path;

use super::{Access, RegistryError, RegistryHost, client::RegistryClient};
use crate::credentials::{
    self, Credential, CredentialStore, CredentialWriteError, LogoutOutcome, Secret,
};

/// Error of a login or logout.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The registry does not accept the user name and password.
    #[error(
        "registry {registry} does not accept this password for user {username} (nothing was stored)"
    )]
    InvalidPassword {
        /// Registry to which the user tried to log in.
        registry: RegistryHost,
        /// User name that was entered.
        username: String,
    },
    /// The registry could not check the credentials.
    #[error("cannot log in to registry {registry}: {cause}")]
    Check {
        /// Registry to which the user tried to log in.
        registry: RegistryHost,
        /// Error of the request.
        cause: RegistryError,
    },
    /// The credentials could not be stored or removed.
    #[error(transparent)]
    Write(#[from] CredentialWriteError),
}

/// Checks a user name and password at a registry and stores them: with the credential helper that
/// docker's configuration names, otherwise in the file `own_file`. Returns where they are stored.
///
/// # Errors
/// [`LoginError`]. Nothing is stored then.
pub async fn log_in(
    host: &RegistryHost,
    username: &str,
    password: &Secret,
    own_file: &Path,
    access: Access<'_>,
) -> Result<CredentialStore, LoginError> {
    let credential = Credential::Password {
        username: username.to_owned(),
        password: password.clone(),
    };
    match check(host, credential, access).await {
        Ok(()) => Ok(credentials::store(host, username, password, own_file, access).await?),
        Err(RegistryError::PermissionDenied { .. }) => Err(LoginError::InvalidPassword {
            registry: host.clone(),
            username: username.to_owned(),
        }),
        Err(cause) => Err(LoginError::Check {
            registry: host.clone(),
            cause,
        }),
    }
}

/// Requests the base of the registry's API (distribution-spec, "Determining Support").
async fn check(
    host: &RegistryHost,
    credential: Credential,
    access: Access<'_>,
) -> Result<(), RegistryError> {
    let client = RegistryClient::for_user(host, credential, access).await?;
    let response = client.get("", |http, url| http.get(url)).await;
    match response {
        Err(RegistryError::NotFound { registry }) => Err(RegistryError::InvalidAddress {
            registry,
            reason: "the server there is not a registry".to_owned(),
        }),
        response => response.map(drop),
    }
}

/// Removes the credentials of a registry from the file `own_file` and from the credential helper
/// that it names. Reports where credentials of other programs remain.
///
/// # Errors
/// [`LoginError::Write`] if they cannot be removed.
pub async fn log_out(
    host: &RegistryHost,
    own_file: &Path,
    access: Access<'_>,
) -> Result<LogoutOutcome, LoginError> {
    Ok(credentials::remove(host, own_file, access).await?)
}
