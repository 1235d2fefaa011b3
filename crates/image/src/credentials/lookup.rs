//! Lookup of the credentials for a repository.

use std::path::{Path, PathBuf};

use super::{
    AuthFileError, Credential, CredentialStore, HelperError,
    file::{AuthFile, StoredCredential},
    helper,
    stores::auth_files,
};
use crate::{Access, Environment, RegistryHost};

/// Credentials and where they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundCredential {
    pub(crate) credential: Credential,
    pub(crate) store: CredentialStore,
}

/// Result of a lookup. Files and helpers that could not be read do not fail it, because most images
/// are public.
#[derive(Debug, Default)]
pub(crate) struct CredentialLookup {
    pub(crate) found: Option<FoundCredential>,
    pub(crate) problems: Vec<CredentialReadError>,
}

/// Error of a file or helper that was searched for credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialReadError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] AuthFileError),
    /// The helper that a file refers to failed.
    #[error("credential helper of {file} failed: {cause}")]
    Helper {
        /// File that names the helper.
        file: PathBuf,
        /// Error of the helper.
        cause: HelperError,
    },
}

/// Looks up the credentials for a repository of a registry.
pub(crate) async fn find(
    host: &RegistryHost,
    repository: &str,
    access: Access<'_>,
) -> CredentialLookup {
    let mut lookup = CredentialLookup::default();
    for path in auth_files(access) {
        match find_in_file(&path, host, repository, access.environment).await {
            Ok(None) => {}
            Ok(Some(found)) => {
                tracing::debug!(
                    "credentials of {} for {host}: {}",
                    found.credential.username(),
                    found.store
                );
                lookup.found = Some(found);
                break;
            }
            Err(error) => {
                tracing::warn!("credentials skipped: {error}");
                lookup.problems.push(error);
            }
        }
    }
    lookup
}

async fn find_in_file(
    path: &Path,
    host: &RegistryHost,
    repository: &str,
    environment: &Environment,
) -> Result<Option<FoundCredential>, CredentialReadError> {
    let Some(file) = AuthFile::read(path)? else {
        return Ok(None);
    };
    match file.find(host, repository)? {
        None => Ok(None),
        Some(StoredCredential::Inline(credential)) => Ok(Some(FoundCredential {
            credential,
            store: CredentialStore::File(path.to_owned()),
        })),
        Some(StoredCredential::Helper(name)) => {
            let credential = helper::get(&name, host, environment).await;
            let credential = credential.map_err(|cause| CredentialReadError::Helper {
                file: path.to_owned(),
                cause,
            })?;
            let store = CredentialStore::Helper(name);
            Ok(credential.map(|credential| FoundCredential { credential, store }))
        }
    }
}
