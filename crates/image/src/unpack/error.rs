//! Errors of unpacking an image.

use std::io::{self, ErrorKind};

use crate::{
    Digest,
    store::{NotArrived, StoreError},
    tar::TarError,
};

use super::limits::LimitExceeded;

/// Error of making a base image. No file is left.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer cannot be unpacked.
    #[error("layer {number} of {layers}: {cause}")]
    Layer {
        /// Number of the layer, from 1 for the lowest.
        number: usize,
        /// Number of layers.
        layers: usize,
        /// Error of the layer.
        cause: Box<UnpackError>,
    },
    /// A layer's blob does not have its digest any more. It was removed from the store.
    #[error(
        "layer {number} of {layers} was damaged on disk and has been removed; try again, and it is fetched again"
    )]
    Damaged {
        /// Number of the layer, from 1 for the lowest.
        number: usize,
        /// Number of layers.
        layers: usize,
    },
    /// The layer's blob was not fetched completely. The fetching side reports the reason.
    #[error("the layer was not fetched")]
    NotArrived,
    /// The layer's tar archive is invalid.
    #[error("invalid tar archive {place}: {cause}")]
    Tar {
        /// Position of the error, relative to the last readable member.
        place: String,
        /// Rule that the archive breaks there.
        cause: TarError,
    },
    /// The image exceeds its [`Limits`](crate::Limits).
    #[error(transparent)]
    LimitExceeded(#[from] LimitExceeded),
    /// The layer's tar archive does not have the digest in the image's configuration.
    #[error(
        "the tar archive has digest {found} instead of {expected}, which the image's configuration lists; the image is inconsistent and must be rebuilt by its author"
    )]
    WrongArchive {
        /// Digest in the configuration.
        expected: Digest,
        /// Digest of the archive.
        found: Digest,
    },
    /// A whiteout without a valid target name.
    #[error("whiteout {path} has no target name")]
    Whiteout {
        /// Path of the whiteout.
        path: String,
    },
    /// The host's disk is full.
    #[error("the disk is full; free some space, or remove machines that you no longer need")]
    DiskFull,
    /// A member cannot be written to the file system.
    #[error(transparent)]
    FileSystem(container_ext4::WriteError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A thread ended without a result, which is a bug.
    #[error("unpacking ended without a result; please report this bug")]
    NoResult,
    /// The caller has dropped the future.
    #[error("cancelled")]
    Cancelled,
}

impl From<NotArrived> for UnpackError {
    fn from(_: NotArrived) -> UnpackError {
        UnpackError::NotArrived
    }
}

impl UnpackError {
    /// Whether a damaged blob may be the cause.
    pub(super) fn may_be_damage(&self) -> bool {
        matches!(
            self,
            UnpackError::Tar { .. } | UnpackError::WrongArchive { .. } | UnpackError::FileSystem(_)
        )
    }

    /// Whether the image would fit into a larger file system.
    pub(crate) fn is_out_of_space(&self) -> bool {
        match self {
            UnpackError::Layer { cause, .. } => cause.is_out_of_space(),
            UnpackError::FileSystem(
                container_ext4::WriteError::Full | container_ext4::WriteError::NoInodes,
            ) => true,
            _ => false,
        }
    }

    pub(crate) fn is_missing_layer(&self) -> bool {
        matches!(self, UnpackError::NotArrived)
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}
