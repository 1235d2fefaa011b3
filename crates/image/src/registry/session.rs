//! Authentication state of one registry client.

use std::collections::BTreeSet;

use reqwest::{RequestBuilder, StatusCode};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::{Access, RegistryError, RegistryHost, Requester};
use crate::credentials::{self, Credential, CredentialLookup, Secret};

/// Authorization header of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Authorization {
    /// Token of a token service (RFC 6750).
    Bearer(Secret),
    /// User name and password (RFC 7617).
    Basic { username: String, password: Secret },
}

impl Authorization {
    pub(super) fn add_to(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Authorization::Bearer(token) => request.bearer_auth(token.reveal()),
            Authorization::Basic { username, password } => {
                request.basic_auth(username, Some(password.reveal()))
            }
        }
    }
}

/// Credentials and current authorization at one registry.
pub(super) struct Session {
    /// Repository for which credentials are looked up.
    repository: String,
    /// Scopes of the token to request.
    pub(super) scopes: BTreeSet<String>,
    authorization: Mutex<Option<Authorization>>,
    /// Looked up when the registry first requests authentication: most images are public, and a
    /// credential helper may ask the user for a passphrase.
    source: OnceCell<CredentialOrigin>,
}

/// Origin of a session's credentials.
enum CredentialOrigin {
    /// They were looked up in files and helpers.
    LookedUp(CredentialLookup),
    /// They were passed in, by a login.
    Given(Credential),
}

impl Session {
    pub(super) fn new(repository: &str, scopes: BTreeSet<String>) -> Session {
        Session {
            repository: repository.to_owned(),
            scopes,
            authorization: Mutex::new(None),
            source: OnceCell::new(),
        }
    }

    pub(super) fn with_credential(credential: Credential) -> Session {
        Session {
            source: OnceCell::from(CredentialOrigin::Given(credential)),
            ..Session::new("", BTreeSet::new())
        }
    }

    pub(super) async fn authorization(&self) -> Option<Authorization> {
        self.authorization.lock().await.clone()
    }

    /// Locks the authorization for replacement. Concurrent requests that were refused wait for it.
    pub(super) async fn lock_authorization(&self) -> MutexGuard<'_, Option<Authorization>> {
        self.authorization.lock().await
    }

    /// Returns the credentials for the registry, if there are any.
    pub(super) async fn credential(
        &self,
        host: &RegistryHost,
        access: Access<'_>,
    ) -> Option<&Credential> {
        let source = self.source.get_or_init(|| async {
            let lookup = credentials::find(host, &self.repository, access).await;
            CredentialOrigin::LookedUp(lookup)
        });
        match source.await {
            CredentialOrigin::LookedUp(lookup) => {
                lookup.found.as_ref().map(|found| &found.credential)
            }
            CredentialOrigin::Given(credential) => Some(credential),
        }
    }

    /// Returns the errors of the credential files and helpers that could not be read.
    pub(super) fn problems(&self) -> Vec<String> {
        match self.source.get() {
            Some(CredentialOrigin::LookedUp(lookup)) => {
                lookup.problems.iter().map(ToString::to_string).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Returns the error for a request that was refused with this status, 401 or 403.
    pub(super) async fn permission_denied(
        &self,
        status: StatusCode,
        registry: &RegistryHost,
    ) -> RegistryError {
        // A token proves that the credentials were accepted; then only the permission is missing.
        let is_invalid = status == StatusCode::UNAUTHORIZED
            && matches!(
                self.authorization().await,
                Some(Authorization::Basic { .. })
            );
        self.denial(registry, is_invalid)
    }

    /// Returns the error for credentials that are invalid, or valid but insufficient.
    pub(super) fn denial(&self, registry: &RegistryHost, is_invalid: bool) -> RegistryError {
        let registry = registry.to_string();
        let found = match self.source.get() {
            Some(CredentialOrigin::LookedUp(lookup)) => lookup.found.as_ref(),
            _ => None,
        };
        match found {
            Some(found) if is_invalid => RegistryError::InvalidCredentials {
                registry,
                user: found.credential.username().to_owned(),
                store: found.store.clone(),
            },
            Some(found) => RegistryError::PermissionDenied {
                registry,
                requester: Requester::User {
                    name: found.credential.username().to_owned(),
                    store: found.store.clone(),
                },
            },
            None => RegistryError::PermissionDenied {
                registry,
                requester: Requester::Anonymous {
                    problems: self.problems(),
                },
            },
        }
    }
}
