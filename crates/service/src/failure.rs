//! Errors of requests in the form of the API.

use container_api::{Failure, FailureKind};
use container_image::{ImageError, ResolveError};
use container_machine::BundleError;

/// Error of an operation that a client requested.
pub(crate) trait RequestError: std::error::Error + Send + 'static {
    /// Returns the kind of the failure, for programs.
    fn kind(&self) -> FailureKind;

    /// Returns the error in the form of the API.
    fn to_failure(&self) -> Failure {
        Failure {
            kind: self.kind(),
            message: self.to_string(),
        }
    }
}

/// The task of a request panicked, which is a defect of the service.
#[derive(Debug, thiserror::Error)]
#[error("the service failed while it handled this request: see service.log, and try again")]
pub(crate) struct TaskPanicked;

impl RequestError for TaskPanicked {
    fn kind(&self) -> FailureKind {
        FailureKind::Failed
    }
}

impl RequestError for BundleError {
    fn kind(&self) -> FailureKind {
        match self {
            BundleError::NotFound(_) | BundleError::NoMachines | BundleError::NoDefault => {
                FailureKind::NotFound
            }
            BundleError::Exists(_) => FailureKind::Exists,
            BundleError::Io { .. } | BundleError::Malformed { .. } => FailureKind::Failed,
        }
    }
}

impl RequestError for ResolveError {
    fn kind(&self) -> FailureKind {
        match self {
            ResolveError::NotFound(_) => FailureKind::NotFound,
            ResolveError::Reference(_) => FailureKind::Invalid,
            ResolveError::Store(_) | ResolveError::Unnamed(_) | ResolveError::Ambiguous { .. } => {
                FailureKind::Failed
            }
        }
    }
}

impl RequestError for ImageError {
    fn kind(&self) -> FailureKind {
        match self {
            ImageError::Resolve(error) => error.kind(),
            ImageError::Reference(_) | ImageError::Platform(_) | ImageError::Scheme(_) => {
                FailureKind::Invalid
            }
            _ => FailureKind::Failed,
        }
    }
}
