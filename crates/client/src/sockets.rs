//! Unix sockets in a running machine, over the socket of the machine's runtime process.

use std::path::Path;

use container_protocol::{Port, SocketPath, SocketReply, frame};

use crate::exec::{self, ExecError};

/// Returns whether a program listens on a socket in the machine with this runtime socket, after
/// init has started its services.
pub async fn has_listener(socket: &Path, path: &SocketPath) -> Result<bool, ExecError> {
    let mut stream = exec::open(socket, Port::Socket).await?;
    frame::write(&mut stream, path).await?;
    let reply: SocketReply = frame::read(&mut stream).await?;
    tracing::debug!("socket {path}: {reply:?}");
    Ok(reply == SocketReply::Connected)
}
