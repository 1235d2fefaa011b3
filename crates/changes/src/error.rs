use std::io;

/// Why the changes could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// A file on the machine's disk.
    #[error("reading {path} on the machine's disk: {source}")]
    File {
        /// Its path.
        path: String,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// What the host sends.
    #[error("reading what the machine's image has: {0}")]
    Listing(#[source] io::Error),
    /// Nobody takes the archive any more.
    #[error("writing the archive: {0}")]
    Write(#[source] io::Error),
}
