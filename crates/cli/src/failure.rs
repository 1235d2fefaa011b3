//! The error that ends a command.

use std::io;

use container_client::{
    ClientError,
    doctor::DoctorError,
    exec::ExecError,
    host_names::{HostNamesError, ResolvedUnusable, RootStepError},
    report::ReportError,
};
use container_copy::CopyError;
use container_kernel::{ExtractError, FetchError, KernelsError, SourceError};
use container_machine::{BundleError, DirectoriesError};
use container_protocol::StartFailure;

use crate::template::TemplateError;

/// Error that ends a command, or the part of it that concerns one machine, image or kernel.
///
/// Errors of other crates keep their type. Every text is complete: it is printed as the one line of
/// the command's error message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The service refused or failed, or cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A command could not run in the machine.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The host cannot be checked.
    #[error(transparent)]
    Doctor(#[from] DoctorError),
    /// A bug report cannot be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Files cannot be packed or unpacked.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The directories of the environment cannot be used.
    #[error(transparent)]
    Directories(#[from] DirectoriesError),
    /// The files of the SSH client cannot be read or written.
    #[error(transparent)]
    Files(#[from] BundleError),
    /// A kernel cannot be added, chosen or removed.
    #[error(transparent)]
    Kernels(#[from] KernelsError),
    /// The location of a kernel is invalid.
    #[error(transparent)]
    KernelSource(#[from] SourceError),
    /// A kernel cannot be fetched.
    #[error(transparent)]
    KernelFetch(#[from] FetchError),
    /// A kernel cannot be extracted from an archive.
    #[error(transparent)]
    KernelExtract(#[from] ExtractError),
    /// Host names cannot be set up or removed.
    #[error(transparent)]
    HostNames(#[from] HostNamesError),
    /// systemd-resolved was requested and cannot be used.
    #[error(transparent)]
    Resolved(#[from] ResolvedUnusable),
    /// A step that needs root failed.
    #[error(transparent)]
    RootStep(#[from] RootStepError),
    /// A list cannot be formatted.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A system call of the command itself failed.
    #[error("cannot {action}: {cause}")]
    Io {
        /// Attempted operation, an infinitive: `read /a/file`.
        action: String,
        /// Error of the system call.
        cause: io::Error,
    },
    /// The command itself found the error. The text is complete, with a hint if there is one.
    #[error("{0}")]
    Message(String),
}

/// Exit codes of a verb that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureCode {
    /// 1 for every failure.
    One,
    /// 125 for a failure of this program, 126 or 127 if the command could not be executed or was
    /// not found: any other code is the command's own.
    OfCommand,
}

impl FailureCode {
    /// Returns the exit code for `failure`.
    pub(crate) fn code(self, failure: &Failure) -> u8 {
        match (self, failure) {
            (FailureCode::One, _) => 1,
            (FailureCode::OfCommand, Failure::Exec(ExecError::Failed { reason, .. })) => {
                reason.exit_code()
            }
            (FailureCode::OfCommand, Failure::Exec(ExecError::TooLong)) => {
                StartFailure::NotExecutable.exit_code()
            }
            (FailureCode::OfCommand, _) => StartFailure::Preparation.exit_code(),
        }
    }
}

impl Failure {
    /// Returns a failure with this text.
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure::Message(message.into())
    }

    /// Returns a function that adds what was attempted to an I/O error: `cannot {action}: {cause}`.
    pub(crate) fn cannot<E: Into<io::Error>>(
        action: impl Into<String>,
    ) -> impl FnOnce(E) -> Failure {
        let action = action.into();
        move |cause| Failure::Io {
            action,
            cause: cause.into(),
        }
    }
}
