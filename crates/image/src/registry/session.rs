//! Who we are to a registry, and what shows it that.

use std::collections::BTreeSet;

use reqwest::{RequestBuilder, StatusCode};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::{AskedBy, FetchError, Registry};
use crate::credentials::{self, Credential, Lookup, Secret};

/// What goes with each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Authorization {
    /// What a token service gave us (RFC 6750).
    Bearer(Secret),
    /// Name and password (RFC 7617).
    Basic { username: String, password: Secret },
}

impl Authorization {
    pub(super) fn on(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Authorization::Bearer(token) => request.bearer_auth(token.reveal()),
            Authorization::Basic { username, password } => {
                request.basic_auth(username, Some(password.reveal()))
            }
        }
    }
}

/// Our standing with one registry.
pub(super) struct Session {
    /// Of which credentials are looked for.
    repository: String,
    /// What a token is to allow.
    pub(super) scopes: BTreeSet<String>,
    authorization: Mutex<Option<Authorization>>,
    /// Looked for once the registry wants to know: most images are for everyone.
    who: OnceCell<Who>,
}

/// Whose credentials count.
pub(super) enum Who {
    /// Those that were found, if any were.
    Found(Lookup),
    /// Somebody's who is here.
    Given(Credential),
}

impl Session {
    pub(super) fn new(repository: &str, scopes: BTreeSet<String>) -> Session {
        Session {
            repository: repository.to_owned(),
            scopes,
            authorization: Mutex::new(None),
            who: OnceCell::new(),
        }
    }

    pub(super) fn of_user(credential: Credential) -> Session {
        Session {
            who: OnceCell::from(Who::Given(credential)),
            ..Session::new("", BTreeSet::new())
        }
    }

    pub(super) async fn authorization(&self) -> Option<Authorization> {
        self.authorization.lock().await.clone()
    }

    /// To be replaced; others that are refused meanwhile wait for it.
    pub(super) async fn locked(&self) -> MutexGuard<'_, Option<Authorization>> {
        self.authorization.lock().await
    }

    pub(super) async fn credential(&self, registry: &Registry) -> Option<&Credential> {
        let looked_for = self.who.get_or_init(|| async {
            let access = registry.access();
            Who::Found(credentials::find(&registry.host, &self.repository, access).await)
        });
        match looked_for.await {
            Who::Found(lookup) => lookup.found.as_ref().map(|found| &found.credential),
            Who::Given(credential) => Some(credential),
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        match self.who.get() {
            Some(Who::Found(lookup)) => lookup.problems.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        }
    }

    /// What it means to be denied something with this status.
    pub(super) async fn denied(&self, status: StatusCode, registry: &str) -> FetchError {
        // With a token it is not who we are, but what we may.
        let is_wrong = status == StatusCode::UNAUTHORIZED
            && matches!(
                self.authorization().await,
                Some(Authorization::Basic { .. })
            );
        self.refused(registry, is_wrong)
    }

    /// The credentials are wrong, or not good enough.
    pub(super) fn refused(&self, registry: &str, is_wrong: bool) -> FetchError {
        let registry = registry.to_owned();
        let found = match self.who.get() {
            Some(Who::Found(lookup)) => lookup.found.as_ref(),
            _ => None,
        };
        match found {
            Some(found) if is_wrong => FetchError::CredentialsRefused {
                registry,
                user: found.credential.username().to_owned(),
                place: found.place.clone(),
            },
            Some(found) => FetchError::Unauthorized {
                registry,
                asked_by: AskedBy::User {
                    name: found.credential.username().to_owned(),
                    place: found.place.clone(),
                },
            },
            None => FetchError::Unauthorized {
                registry,
                asked_by: AskedBy::Anyone {
                    problems: self.problems(),
                },
            },
        }
    }
}
