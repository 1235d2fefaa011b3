//! Why the service did not do what it was asked.

use std::{io, path::PathBuf};

use container_api::Failure;
use container_machine::WorldError;

/// Anything that can go wrong between a command and the service.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The service says why.
    #[error(transparent)]
    Service(#[from] Failure),
    /// There are no directories to work in.
    #[error(transparent)]
    World(#[from] WorldError),
    /// The service could not be started.
    #[error("starting the service: {0}")]
    Start(#[source] io::Error),
    /// The service was started and does not answer.
    #[error("the service does not answer; the end of {log}:\n{last_lines}")]
    Silent {
        /// Its log.
        log: PathBuf,
        /// The end of it.
        last_lines: String,
    },
    /// The service keeps other machines.
    #[error(
        "the service in {runtime} keeps the machines of {theirs}, not of {ours}: set XDG_RUNTIME_DIR to another directory as well"
    )]
    OtherData {
        /// Where its socket is.
        runtime: PathBuf,
        /// Its data directory.
        theirs: PathBuf,
        /// The one that was asked for.
        ours: PathBuf,
    },
    /// What was to be sent cannot be read.
    #[error("reading the archive: {0}")]
    Read(#[source] io::Error),
    /// What came cannot be written.
    #[error("writing the archive: {0}")]
    Write(#[source] io::Error),
    /// The connection to the service failed.
    #[error("talking to the service: {0}")]
    Connection(String),
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> Self {
        ClientError::Connection(format!(
            "the connection was lost ({error}); `container machine ls` and `container image ls` show what came of it"
        ))
    }
}

impl From<serde_json::Error> for ClientError {
    fn from(error: serde_json::Error) -> Self {
        ClientError::Connection(format!(
            "an answer does not have the expected form: {error}"
        ))
    }
}
