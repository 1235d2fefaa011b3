//! Changes of the disk of a running machine.

use std::{io, path::Path, time::Duration};

use container_protocol::{
    FreezeReply, Port,
    frame::{self, FrameError},
    local::{self, OverlayReply, RuntimeRequest},
};
use tokio::{net::UnixStream, time::timeout};

use crate::handle::Runtime;

/// Timeout for the guest to write its files to the disk and freeze it.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(60);

/// Timeout for the engine to write to another file. The guest thaws its disk after ten seconds.
const OVERLAY_TIMEOUT: Duration = Duration::from_secs(8);

/// A running machine's disk cannot be frozen, or written to another file.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The runtime cannot be reached.
    #[error("cannot connect to the machine's runtime: {0}")]
    Connect(io::Error),
    /// The connection ended. An older build of the program does not know the request.
    #[error(
        "the machine does not answer ({0}); if it was started by an earlier version of this \
         program, restart it with: container machine restart"
    )]
    Request(FrameError),
    /// There was no answer in time.
    #[error("timed out waiting for the machine")]
    TimedOut,
    /// The guest could not freeze the disk.
    #[error("cannot freeze the machine's disk: {0}")]
    Freeze(String),
    /// The engine still writes to the same file.
    #[error("{0}")]
    Refused(String),
    /// The engine may write to either file.
    #[error("{0}")]
    Failed(String),
}

/// A frozen disk: until this is dropped, but at most for ten seconds, nothing is written to it.
#[derive(Debug)]
pub struct FrozenDisk {
    _stream: UnixStream,
}

impl Runtime {
    /// Freezes the machine's disk. Everything that was written to files is on it then.
    ///
    /// # Errors
    /// [`LayerError`].
    pub async fn freeze_disk(&self) -> Result<FrozenDisk, LayerError> {
        let connected = local::connect(self.socket()).await;
        let mut stream = connected.map_err(LayerError::Connect)?;
        let reply = in_time(FREEZE_TIMEOUT, async {
            frame::write(&mut stream, &RuntimeRequest::Connect).await?;
            frame::write(&mut stream, &Port::Freeze).await?;
            frame::read(&mut stream).await
        });
        match reply.await? {
            FreezeReply::Frozen => Ok(FrozenDisk { _stream: stream }),
            FreezeReply::Failed(message) => Err(LayerError::Freeze(message)),
        }
    }

    /// Makes the engine write to `overlay`, an empty overlay of the disk's current file.
    ///
    /// # Errors
    /// [`LayerError`]. The engine still writes to the current file after a
    /// [refusal](LayerError::Refused), and may write to either file after another error.
    pub async fn put_overlay(&self, overlay: &Path) -> Result<(), LayerError> {
        let connected = local::connect(self.socket()).await;
        let mut stream = connected.map_err(LayerError::Connect)?;
        let overlay = overlay.to_owned();
        let reply = in_time(OVERLAY_TIMEOUT, async {
            frame::write(&mut stream, &RuntimeRequest::PutOverlay { overlay }).await?;
            frame::read(&mut stream).await
        });
        match reply.await? {
            OverlayReply::Done => Ok(()),
            OverlayReply::Refused(message) => Err(LayerError::Refused(message)),
            OverlayReply::Failed(message) => Err(LayerError::Failed(message)),
        }
    }
}

async fn in_time<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, FrameError>>,
) -> Result<T, LayerError> {
    match timeout(limit, request).await {
        Ok(answer) => answer.map_err(LayerError::Request),
        Err(_) => Err(LayerError::TimedOut),
    }
}
