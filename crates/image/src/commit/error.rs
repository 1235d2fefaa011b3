//! What can go wrong.

use std::io;

use super::InvalidChange;
use crate::{Digest, store::StoreError};

/// Why there is no new image.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A digest is of what is there already.
    #[error("{0}: a new image cannot be given a digest: give it a name and a tag")]
    Digest(String),
    /// Something that is to be in the image's configuration.
    #[error(transparent)]
    Change(#[from] InvalidChange),
    /// The changes do not come.
    #[error("reading what has changed in the machine: {0}")]
    Archive(#[source] io::Error),
    /// The base is not whole.
    #[error("the image that the machine was made from lacks its part {0}: fetch it again")]
    Missing(Digest),
    /// The base cannot be understood.
    #[error("the image that the machine was made from cannot be understood: {0}")]
    Base(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
