//! Errors of the store.

use std::{
    io::{Error, ErrorKind},
    path::{Path, PathBuf},
};

use crate::Digest;

/// Error of an operation on the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system is full, or the user's quota is used up.
    #[error(
        "cannot {action} {path}: the disk is full; free some space, or remove machines that you no longer need"
    )]
    DiskFull {
        /// Attempted operation, a verb: `write`.
        action: &'static str,
        /// File or directory.
        path: PathBuf,
    },
    /// What is to be downloaded does not fit on the file system.
    #[error(
        "the disk is full: the download needs {} MiB, and {} MiB are free in {path}; free some \
         space, or remove images and machines that you no longer need", needed >> 20, free >> 20
    )]
    NoSpace {
        /// Directory of the store.
        path: PathBuf,
        /// Bytes of the download.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A system call failed.
    #[error("cannot {action} {path}: {cause}")]
    Io {
        /// Attempted operation, a verb: `read`.
        action: &'static str,
        /// File or directory.
        path: PathBuf,
        /// Error of the system call.
        cause: Error,
    },
    /// A file of the layout is not valid JSON of its kind.
    #[error("{path} is invalid: {cause}; remove it, and the images are fetched again")]
    Malformed {
        /// Path of the file: `index.json` or another of the layout.
        path: PathBuf,
        /// Error of the parser.
        cause: serde_json::Error,
    },
    /// The directory has a layout of another version.
    #[error("{path}: layout version {version} is not supported (supported: 1.0.0)")]
    Version {
        /// The file `oci-layout`.
        path: PathBuf,
        /// Version in it.
        version: String,
    },
    /// Received bytes do not have the digest of their blob.
    #[error(
        "blob {expected} was received with the digest {found}: it was changed or damaged in transit, and was discarded"
    )]
    WrongDigest {
        /// Digest that refers to the blob.
        expected: Digest,
        /// Digest of the received bytes.
        found: Digest,
    },
    /// More or fewer bytes were received than the blob's descriptor says.
    #[error("blob {digest} has {found} bytes instead of {expected}, and was discarded")]
    WrongSize {
        /// Digest that the blob should have.
        digest: Digest,
        /// Size in its descriptor.
        expected: u64,
        /// Received bytes; a lower bound if there were too many.
        found: u64,
    },
}

impl StoreError {
    /// Returns the conversion of an I/O error. `action` is the verb after "cannot".
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(Error) -> StoreError {
        let path = path.to_owned();
        move |cause| match cause.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                StoreError::DiskFull { action, path }
            }
            _ => StoreError::Io {
                action,
                path,
                cause,
            },
        }
    }

    pub(crate) fn malformed(path: &Path) -> impl FnOnce(serde_json::Error) -> StoreError {
        let path = path.to_owned();
        move |cause| StoreError::Malformed { path, cause }
    }
}
