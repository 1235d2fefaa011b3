//! Errors of comparing and packing.

use std::io;

/// Reason why the changes cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// A file on the machine's disk cannot be read.
    #[error("cannot read {path} on the machine's disk: {cause}")]
    File {
        /// Path from the root of the disk.
        path: String,
        /// Error of the system call.
        cause: io::Error,
    },
    /// The listing of the base cannot be read from the host.
    #[error("cannot read the listing of the machine's base image: {0}")]
    Listing(io::Error),
    /// The archive cannot be written to the host, usually because it closed the stream.
    #[error("cannot write the archive: {0}")]
    Write(io::Error),
}
