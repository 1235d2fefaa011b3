//! Errors of a commit.

use std::io;

use super::{InvalidChange, InvalidLayerFormat};
use crate::{Digest, store::StoreError};

/// Error of a commit. The reference is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The new image's reference has a digest, which cannot be chosen.
    #[error("invalid reference {0:?}: a new image needs a name and a tag, not a digest")]
    Digest(String),
    /// A change of the configuration is invalid.
    #[error(transparent)]
    Change(#[from] InvalidChange),
    /// The compression's name is invalid.
    #[error(transparent)]
    Format(#[from] InvalidLayerFormat),
    /// The archive of changes cannot be read.
    #[error("cannot read the machine's changes: {0}")]
    Archive(io::Error),
    /// A blob of the base is missing.
    #[error("blob {0} of the machine's image is missing; pull the image again")]
    Missing(Digest),
    /// The base's manifest or configuration is invalid or not supported.
    #[error("cannot use the machine's image as a base: {0}")]
    Base(String),
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}
