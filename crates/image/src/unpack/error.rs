//! What can go wrong on the way to a disk.

use std::io::{self, ErrorKind};

use crate::{
    Digest,
    store::{NotArrived, StoreError},
    tar::TarError,
};

use super::limits::TooMuch;

/// Why no disk was made.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// One of the layers.
    #[error("layer {number} of {layers}: {source}")]
    Layer {
        /// Which one, from 1.
        number: usize,
        /// Of how many.
        layers: usize,
        /// What went wrong.
        source: Box<UnpackError>,
    },
    /// A layer is not what it was when it was fetched.
    #[error(
        "layer {number} of {layers} was damaged on disk and has been removed: try again, and it is fetched anew"
    )]
    Damaged {
        /// Which one, from 1.
        number: usize,
        /// Of how many.
        layers: usize,
    },
    /// The layer's blob did not come; whoever fetched it knows why.
    #[error("it did not arrive")]
    NotArrived,
    /// The archive cannot be read.
    #[error("its archive is malformed {place}: {source}")]
    Tar {
        /// How far it could be read.
        place: String,
        /// What is wrong there.
        source: TarError,
    },
    /// The image is larger than it may be.
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    /// The archive is not the one that the configuration promises.
    #[error(
        "its archive has the digest {found} where the image's configuration promises {expected}: the image was put together wrongly, ask its maker"
    )]
    WrongArchive {
        /// What was promised.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// A whiteout that would remove nothing sensible.
    #[error("it removes {path}, which is no name of a file")]
    Whiteout {
        /// The whiteout.
        path: String,
    },
    /// The host's disk is full.
    #[error("the disk is full; free some space, or delete machines that are not needed")]
    DiskFull,
    /// The file system cannot take an entry.
    #[error("{0}")]
    FileSystem(#[source] container_ext4::Error),
    /// The thread cannot be started.
    #[error("starting a thread: {0}")]
    Thread(#[source] io::Error),
    /// The thread ended without a word.
    #[error("the unpacking ended without a result; this is an error in this program")]
    Lost,
    /// Nobody waits any more.
    #[error("it was given up")]
    GivenUp,
}

impl From<NotArrived> for UnpackError {
    fn from(_: NotArrived) -> UnpackError {
        UnpackError::NotArrived
    }
}

impl UnpackError {
    /// Whether wrong bytes may be the reason.
    pub(super) fn may_be_damage(&self) -> bool {
        matches!(
            self,
            UnpackError::Tar { .. } | UnpackError::WrongArchive { .. } | UnpackError::FileSystem(_)
        )
    }

    /// Whether a larger file system would have taken the image.
    pub(crate) fn is_of_size(&self) -> bool {
        match self {
            UnpackError::Layer { source, .. } => source.is_of_size(),
            UnpackError::FileSystem(
                container_ext4::Error::Full | container_ext4::Error::NoInodes,
            ) => true,
            _ => false,
        }
    }

    /// Whether a layer did not arrive.
    pub(crate) fn is_of_missing_layer(&self) -> bool {
        matches!(self, UnpackError::NotArrived)
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}
