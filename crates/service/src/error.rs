//! Why a request was not carried out.

use container_api::{Failure, FailureKind};
use container_engine::EngineError;
use container_image::ImageError;
use container_machine::{BundleError, InvalidMachineId};
use container_runtime::{FindError, GuestFilesError, LaunchError, StopError};

use crate::configuration::ConfigurationError;

/// Anything that can go wrong with a machine.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The machine on disk.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A name.
    #[error(transparent)]
    Name(#[from] InvalidMachineId),
    /// The name that would be made from the image's is taken.
    #[error("a machine {0} exists already: give this one another name with --name")]
    DefaultNameTaken(container_machine::MachineId),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The configuration file.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// The disk.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The start.
    #[error("starting machine {id}: {source}")]
    Launch {
        /// The machine.
        id: container_machine::MachineId,
        /// What went wrong.
        source: LaunchError,
    },
    /// Whether it runs.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The stop.
    #[error("stopping the machine: {0}")]
    Stop(#[from] StopError),
    /// The home directory.
    #[error(
        "the home directory {path} cannot be shared with the machine: {source}; choose --home-mount none, or set HOME"
    )]
    Home {
        /// The directory.
        path: std::path::PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] GuestFilesError),
    /// The account of whoever runs the service.
    #[error("finding out whose machine it will be: {0}")]
    User(#[source] std::io::Error),
    /// A word of the request.
    #[error("{0}")]
    Invalid(String),
    /// Whoever asked went away.
    #[error("the request was given up")]
    GivenUp,
}

impl From<&ServiceError> for Failure {
    fn from(error: &ServiceError) -> Self {
        let kind = match error {
            ServiceError::Bundle(BundleError::NotFound(_) | BundleError::NoDefault) => {
                FailureKind::NotFound
            }
            ServiceError::Bundle(BundleError::Exists(_)) | ServiceError::DefaultNameTaken(_) => {
                FailureKind::Exists
            }
            ServiceError::Name(_) | ServiceError::Invalid(_) | ServiceError::Kernel(_) => {
                FailureKind::Invalid
            }
            _ => FailureKind::Failed,
        };
        Failure {
            kind,
            message: error.to_string(),
        }
    }
}
