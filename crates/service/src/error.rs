//! Why a request was not carried out.

use container_api::{Failure, FailureKind};
use container_engine::EngineError;
use container_image::{
    CommitError, ImageError, InvalidHost, LoginError, NotMeant, RegistryHost, StoreError,
};
use container_machine::{BundleError, DiskCapacity, InvalidMachineId};
use container_runtime::{ChangesError, FindError, GuestFilesError, LaunchError, StopError};

use crate::{configuration::ConfigurationError, host::TooMuch};

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
    /// A registry's name.
    #[error(transparent)]
    Host(#[from] InvalidHost),
    /// Credentials.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// There is nothing to forget.
    #[error("nobody is logged in to {host}{}", elsewhere(.left))]
    NotLoggedIn {
        /// The registry.
        host: RegistryHost,
        /// Where there are credentials that are not ours to remove.
        left: Vec<String>,
    },
    /// The image is needed.
    #[error(
        "the image {image} is not removed, as machines use it: {machines}; delete them first, or give it another name before this one goes"
    )]
    ImageInUse {
        /// What was to be removed.
        image: String,
        /// The machines' names.
        machines: String,
    },
    /// Whether an image is needed cannot be told.
    #[error(
        "nothing is removed, as it cannot be told which images machines use: {0}; mend or delete them first"
    )]
    UsesUnknown(String),
    /// The images on disk.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// It would have to be stopped.
    #[error("machine {0} is running: stop it first, with `container machine stop {0}`")]
    Running(container_machine::MachineId),
    /// The start ended without a reason.
    #[error(
        "starting machine {id}: its runtime process ended; the last lines of its log:\n{last_lines}"
    )]
    RuntimeDied {
        /// The machine.
        id: container_machine::MachineId,
        /// The end of the runtime's log.
        last_lines: String,
    },
    /// Whether it runs.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The image of a machine that is to be committed.
    #[error(
        "the image that machine {id} was made from is no longer whole in the store, and could not be fetched again: {source}"
    )]
    Base {
        /// The machine.
        id: container_machine::MachineId,
        /// Why not.
        source: Box<ImageError>,
    },
    /// The way from a machine to an image.
    #[error("committing the machine: {0}")]
    Commit(#[from] CommitError),
    /// The way to what has changed in it.
    #[error("committing the machine: {0}")]
    Changes(#[from] ChangesError),
    /// A thread or a directory of a commit.
    #[error("committing the machine: {0}")]
    CommitSurroundings(#[source] std::io::Error),
    /// The stop.
    #[error("stopping the machine: {0}")]
    Stop(#[from] StopError),
    /// The home directory.
    #[error(
        "the home directory {path} cannot be shared with the machine: {reason}; set HOME to one that can, or choose --home-mount none"
    )]
    Home {
        /// The directory.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The host's disk.
    #[error(
        "the disk is full: {free} MiB are free for {disk}, and a machine needs 64 MiB to boot; free some space there"
    )]
    NoSpace {
        /// The machine's disk.
        disk: std::path::PathBuf,
        /// MiB that are free.
        free: u64,
    },
    /// A disk would become smaller.
    #[error(
        "the machine's disk cannot be made smaller: it has {} MiB, and {asked} is less", .has >> 20
    )]
    Shrinks {
        /// What was asked for.
        asked: DiskCapacity,
        /// Bytes that it can hold.
        has: u64,
    },
    /// The image needs a larger disk.
    #[error(
        "{source}: the image does not fit on a disk of {capacity}; give the machine a larger one with --disk-size"
    )]
    DiskTooSmall {
        /// What the disk can hold.
        capacity: DiskCapacity,
        /// What went wrong.
        source: Box<ImageError>,
    },
    /// A kernel cannot be used.
    #[error(transparent)]
    Prepare(#[from] container_kernel::PrepareError),
    /// The kernels that there are.
    #[error(transparent)]
    Kernels(#[from] container_kernel::KernelsError),
    /// The accelerator.
    #[error(transparent)]
    Accelerator(#[from] container_engine::AcceleratorError),
    /// What a guest boots with.
    #[error(transparent)]
    Kernel(#[from] GuestFilesError),
    /// The host's limits.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    /// The account of whoever runs the service.
    #[error("finding out whose machine it will be: {0}")]
    User(#[source] std::io::Error),
    /// Something in the request.
    #[error("{0}")]
    Invalid(String),
    /// A defect: what carried the request out is gone.
    #[error("the service failed at this request, and its log says where: try again")]
    Crashed,
    /// Whoever asked went away.
    #[error("the request was given up")]
    GivenUp,
}

fn elsewhere(left: &[String]) -> String {
    match left {
        [] => String::new(),
        left => format!(
            " with this program; there are credentials in {}, which is for docker or podman to remove",
            left.join(", ")
        ),
    }
}

impl ServiceError {
    /// Why this machine did not start. The machine's logs may be removed with it, so what they
    /// say is taken along.
    pub fn launch(id: &container_machine::MachineId, source: LaunchError) -> ServiceError {
        let id = id.clone();
        match source {
            LaunchError::Died { log } => {
                let text = std::fs::read(log).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<&str> = text.lines().collect();
                let last_lines = lines[lines.len().saturating_sub(10)..].join("\n");
                ServiceError::RuntimeDied { id, last_lines }
            }
            source => ServiceError::Launch { id, source },
        }
    }
}

impl From<&ServiceError> for Failure {
    fn from(error: &ServiceError) -> Self {
        let kind = match error {
            ServiceError::Bundle(
                BundleError::NotFound(_) | BundleError::NoMachines | BundleError::NoDefault,
            ) => FailureKind::NotFound,
            ServiceError::NotLoggedIn { .. } => FailureKind::NotFound,
            ServiceError::Bundle(BundleError::Exists(_)) | ServiceError::DefaultNameTaken(_) => {
                FailureKind::Exists
            }
            ServiceError::Image(ImageError::NotMeant(NotMeant::Nothing(_))) => {
                FailureKind::NotFound
            }
            ServiceError::Name(_)
            | ServiceError::ImageInUse { .. }
            | ServiceError::Invalid(_)
            | ServiceError::Host(_)
            | ServiceError::Login(LoginError::Wrong { .. })
            | ServiceError::Running(_)
            | ServiceError::Kernel(_)
            | ServiceError::Shrinks { .. }
            | ServiceError::DiskTooSmall { .. }
            | ServiceError::TooMuch(_)
            | ServiceError::Home { .. }
            | ServiceError::Commit(CommitError::Change(_) | CommitError::Digest(_))
            | ServiceError::Image(
                ImageError::Reference(_) | ImageError::Platform(_) | ImageError::Scheme(_),
            ) => FailureKind::Invalid,
            _ => FailureKind::Failed,
        };
        Failure {
            kind,
            message: error.to_string(),
        }
    }
}
