//! Errors of bundles.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::MachineId;

/// A bundle cannot be found, created, read or written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is no machine with this id.
    #[error("machine {0:?} not found (list machines with: container machine ls)")]
    NotFound(MachineId),
    /// There is a machine with this id.
    #[error("machine {0:?} already exists (choose another name, or delete that machine first)")]
    Exists(MachineId),
    /// There is no default machine, because there are no machines.
    #[error("no machines yet (create one with: container machine create IMAGE)")]
    NoMachines,
    /// None of the machines is the default machine.
    #[error(
        "no default machine (name a machine, or choose one with: container machine set-default ID)"
    )]
    NoDefault,
    /// A file or directory of a bundle cannot be read or written.
    #[error("cannot {action} {path}: {cause}")]
    Io {
        /// Attempted operation, a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Error of the system call.
        cause: io::Error,
    },
    /// A file of a bundle is not valid JSON, or lacks fields.
    #[error(
        "{path} is invalid: {cause} (a newer version of this program may have written it; the \
         machine's disk is not affected)"
    )]
    Malformed {
        /// File with the invalid content.
        path: PathBuf,
        /// Error of the parser.
        cause: serde_json::Error,
    },
}

impl BundleError {
    /// Returns a conversion of the error of a system call on this path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BundleError {
        let path = path.to_owned();
        move |cause| BundleError::Io {
            action,
            path,
            cause,
        }
    }

    /// Returns a conversion of the error of a JSON parser.
    pub(crate) fn malformed(path: &Path) -> impl FnOnce(serde_json::Error) -> BundleError {
        let path = path.to_owned();
        move |cause| BundleError::Malformed { path, cause }
    }
}
