//! Error of a request to the service.

use std::{io, path::PathBuf};

use container_api::Failure;
use container_machine::DirectoriesError;
use hyper::StatusCode;

/// Error of reaching the service, or of one request to it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The service refused or failed. Its reply says why.
    #[error(transparent)]
    Service(#[from] Failure),
    /// The directories of the environment cannot be used.
    #[error(transparent)]
    Directories(#[from] DirectoriesError),
    /// The service process cannot be started.
    #[error("cannot start the service: {0}")]
    Start(io::Error),
    /// The service was started and has ended.
    #[error("cannot start the service; last line of {log}:\n{reason}")]
    StartFailed {
        /// Log of the service.
        log: PathBuf,
        /// Last line of the log.
        reason: String,
    },
    /// The service was started and does not reply.
    #[error("timed out waiting for the service to start; last lines of {log}:\n{last_lines}")]
    StartTimeout {
        /// Log of the service.
        log: PathBuf,
        /// Last lines of the log.
        last_lines: String,
    },
    /// A service of another build does not end, because it is busy, and it has another API.
    #[error(
        "an earlier version of this program has not finished its work yet (wait for its commands \
         to end, or interrupt them)"
    )]
    OtherBuildBusy,
    /// The socket belongs to a service with another data directory.
    #[error(
        "the service in {runtime} manages the machines in {theirs}, not in {ours} (set XDG_RUNTIME_DIR to another directory as well)"
    )]
    OtherData {
        /// Runtime directory with the socket.
        runtime: PathBuf,
        /// Data directory of the running service.
        theirs: PathBuf,
        /// Data directory of this client.
        ours: PathBuf,
    },
    /// The archive to load cannot be read.
    #[error("cannot read the archive: {0}")]
    ReadArchive(io::Error),
    /// The saved archive cannot be written.
    #[error("cannot write the archive: {0}")]
    WriteArchive(io::Error),
    /// The service's socket cannot be connected to.
    #[error("cannot connect to the service: {0}")]
    Connect(io::Error),
    /// The connection failed during a request, whose result is unknown.
    #[error(
        "lost the connection to the service: {0} (see the result with: container machine ls, container image ls)"
    )]
    ConnectionLost(hyper::Error),
    /// The service closed the connection before the result of a request.
    #[error(
        "the service ended during the request (see the result with: container machine ls, container image ls)"
    )]
    NoResult,
    /// A request cannot be encoded.
    #[error("cannot encode the request for {path}: {cause}")]
    Encode {
        /// Path of the request.
        path: String,
        /// Error of the encoder.
        cause: serde_json::Error,
    },
    /// The parameters of a request cannot be encoded.
    #[error("cannot encode the parameters of the request: {0}")]
    Query(serde_urlencoded::ser::Error),
    /// A request is not valid HTTP.
    #[error("invalid request for {path}: {cause}")]
    InvalidRequest {
        /// Path of the request.
        path: String,
        /// Error of the HTTP library.
        cause: hyper::http::Error,
    },
    /// A reply does not have the expected form.
    #[error("invalid reply from the service: {0}")]
    InvalidReply(serde_json::Error),
    /// An error reply is not in the form of [`Failure`].
    #[error("unexpected reply from the service: {status}: {body}")]
    UnexpectedStatus {
        /// HTTP status of the reply.
        status: StatusCode,
        /// Text of the reply.
        body: String,
    },
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> Self {
        ClientError::ConnectionLost(error)
    }
}
