//! Checks the file system on the disk of a machine that was booted for that.

use std::io;

use container_protocol::{
    CheckReply, CheckRequest, Port,
    frame::{self, FrameError},
    local::{self, RuntimeRequest},
};

use crate::handle::Runtime;

/// Error of checking the file system.
#[derive(Debug, thiserror::Error)]
pub enum DiskCheckError {
    /// The machine's runtime cannot be reached.
    #[error("cannot connect to the machine: {0}")]
    Connect(io::Error),
    /// The connection ended before the reply.
    #[error("the machine ended during the check: {0}")]
    Channel(FrameError),
}

impl Runtime {
    /// Checks the file system. The machine must have been launched with
    /// [`Purpose::CheckDisk`](crate::Purpose::CheckDisk).
    ///
    /// # Errors
    /// [`DiskCheckError`].
    pub async fn check_disk(&self, request: CheckRequest) -> Result<CheckReply, DiskCheckError> {
        let connected = local::connect(self.socket()).await;
        let mut stream = connected.map_err(DiskCheckError::Connect)?;
        let reply = async {
            frame::write(&mut stream, &RuntimeRequest::Connect).await?;
            frame::write(&mut stream, &Port::Check).await?;
            frame::write(&mut stream, &request).await?;
            frame::read(&mut stream).await
        };
        reply.await.map_err(DiskCheckError::Channel)
    }
}
