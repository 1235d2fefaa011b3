//! Error of a push.

use crate::{
    Digest, Reference,
    manifest::ManifestError,
    registry::{RegistryError, Requester, append_problems},
    store::StoreError,
};

/// Error of a push. It does not name the image; [`ImageError::Push`](crate::ImageError::Push) does.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The store does not have the image.
    #[error("image not found in the store (pull, load, build or tag it first)")]
    NotFound,
    /// The store lacks a blob of the image.
    #[error("blob {0} not found in the store (pull the image again)")]
    BlobNotFound(Digest),
    /// The user must not write to the repository.
    #[error("permission denied by registry {registry}: {}", explain_denial(.requester, registry, repository))]
    PermissionDenied {
        /// Name of the registry.
        registry: String,
        /// Repository that was pushed to.
        repository: String,
        /// Identity under which the registry was asked.
        requester: Requester,
    },
    /// The registry does not support pushes.
    #[error(
        "registry {registry} does not accept images: it is read-only, or a mirror of another registry"
    )]
    ReadOnly {
        /// Name of the registry.
        registry: String,
    },
    /// The registry has no space left.
    #[error("registry {registry} has no space left (nothing was changed there)")]
    OutOfSpace {
        /// Name of the registry.
        registry: String,
    },
    /// The registry does not create repositories.
    #[error(
        "repository {repository} not found in registry {registry}, which does not create repositories (check the name)"
    )]
    RepositoryNotFound {
        /// Name of the registry.
        registry: String,
        /// Repository that was pushed to.
        repository: String,
    },
    /// Another request to the registry failed.
    #[error(transparent)]
    Registry(RegistryError),
    /// A manifest or index of the image is invalid.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PushError {
    /// Converts the error of a request that was part of a push to this reference.
    pub(super) fn from_registry(reference: &Reference, error: RegistryError) -> PushError {
        let repository = reference.repository().to_owned();
        match error {
            error if error.is_out_of_space() => PushError::OutOfSpace {
                registry: reference.registry().to_owned(),
            },
            RegistryError::PermissionDenied {
                registry,
                requester,
            } => PushError::PermissionDenied {
                registry,
                repository,
                requester,
            },
            RegistryError::Status {
                registry,
                status: 405,
                ..
            } => PushError::ReadOnly { registry },
            RegistryError::NotFound { registry } => PushError::RepositoryNotFound {
                registry,
                repository,
            },
            error => PushError::Registry(error),
        }
    }
}

fn explain_denial(requester: &Requester, registry: &str, repository: &str) -> String {
    match requester {
        Requester::Anonymous { problems } => {
            let advice = format!(
                "{repository} is not writable without a login (log in with: container registry login {registry})"
            );
            append_problems(advice, problems)
        }
        Requester::User { name, store } => format!(
            "{repository} is not writable for user {name} (credentials from {store}; check the name, or log in as another user)"
        ),
    }
}
