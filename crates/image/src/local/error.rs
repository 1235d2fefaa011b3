//! Error of reading an image from another program.

/// Error of an engine or store that has the image but cannot provide it.
#[derive(Debug, thiserror::Error)]
#[error("cannot load the image from {store}: {reason}")]
pub struct LocalStoreError {
    /// Description of the engine or store, or the name of the program that reads it.
    pub store: String,
    /// Error of the connection or the program.
    pub reason: String,
}
