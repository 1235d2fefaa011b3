//! What can go wrong with the store's files.

use std::{
    io::{Error, ErrorKind},
    path::{Path, PathBuf},
};

use crate::Digest;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no room.
    #[error(
        "the disk is full: {doing} {path} failed; free some space there, or delete machines that are not needed"
    )]
    DiskFull {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
    },
    /// A file or directory failed.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: Error,
    },
    /// A file is not what it should be.
    #[error("{path} cannot be understood: {source}; remove it, and the images are fetched again")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Somebody else's layout.
    #[error("{path} is of version {version}, and this program knows 1.0.0 only")]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: String,
    },
    /// The bytes are not those that were promised.
    #[error(
        "the content {expected} came with the digest {found}: it was changed or damaged on its way, and was thrown away"
    )]
    WrongDigest {
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// There are more or fewer bytes than promised.
    #[error(
        "the content {digest} has {found} bytes where {expected} were promised, and was thrown away"
    )]
    WrongSize {
        /// Which content.
        digest: Digest,
        /// The size in its descriptor.
        expected: u64,
        /// The size seen; at least this, if there was too much.
        found: u64,
    },
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(Error) -> StoreError {
        let path = path.to_owned();
        move |source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                StoreError::DiskFull { doing, path }
            }
            _ => StoreError::Io {
                doing,
                path,
                source,
            },
        }
    }

    pub(crate) fn malformed(path: &Path) -> impl FnOnce(serde_json::Error) -> StoreError {
        let path = path.to_owned();
        move |source| StoreError::Malformed { path, source }
    }
}
