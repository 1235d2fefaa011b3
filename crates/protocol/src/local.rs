//! What a program on the host says to a running machine's runtime process, over its Unix socket.
//!
//! A connection starts with one [`RuntimeRequest`] frame. After [`RuntimeRequest::Connect`]
//! the connection *is* a stream to the guest agent: the caller names the
//! [`Port`](crate::Port) next.

use std::{
    fs::{File, Permissions},
    io,
    net::{Ipv4Addr, SocketAddr},
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};

use crate::{InitProgram, PublishedPort, Transport};

/// The first frame on a connection to a runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RuntimeRequest {
    /// Answered with one [`RuntimeReport`].
    Report,
    /// Stop the machine in order; answered by the end of the connection, once the machine's
    /// processes have ended.
    Stop {
        /// How long init may take before it is killed, in seconds.
        grace_seconds: u32,
    },
    /// From now on the machine's SSH agent is the one that listens on this socket of the host.
    /// Answered by the end of the connection.
    UseSshAgent {
        /// An absolute path.
        socket: PathBuf,
    },
    /// Answered with all [`PortStatus`]es of the machine, in one frame.
    Ports,
    /// From now on these ports are published, and no others. Answered as `Ports` is.
    Publish(Vec<PublishedPort>),
    /// Join this connection to a new stream to the guest agent.
    Connect,
}

/// A running machine, as its runtime knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeReport {
    /// `<id>-<6 characters>`, new at each boot.
    pub container_id: String,
    /// When this boot began, nanoseconds since 1970 UTC.
    pub started_nanoseconds: i64,
    /// The machine's address, where it has one of its own.
    pub ip_address: Option<Ipv4Addr>,
    /// The runtime's process id.
    pub pid: u32,
    /// Whether it is being stopped.
    pub stopping: bool,
    /// Whether it was booted to have its disk read, and never counts as up.
    pub reads_disk: bool,
    /// What runs as its init; none before the machine is up: commands are served from then on.
    pub init: Option<InitProgram>,
}

/// A port of a machine, and where on the host it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// Where on the host it is reached, or would be.
    pub host: SocketAddr,
    /// The machine's port.
    pub port: u16,
    /// Why it is not reached, a sentence; none if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The name of the program in the machine that listens, if one does and its name is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Whether it was published, and is not there for its listener's sake alone.
    pub published: bool,
    /// How it is spoken to.
    pub transport: Transport,
}

/// Connects to a runtime's or the service's socket, however long its path.
pub async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (_directory, short) = short_path(socket)?;
    UnixStream::connect(short).await
}

/// Listens on a socket that only its owner may use, however long its path. A socket that
/// was left behind there is replaced, so the caller must know that nobody listens any more.
pub fn listen(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_directory, short) = short_path(socket)?;
    let listener = UnixListener::bind(&short)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A path of a few bytes to the same socket, good for as long as the directory is held: the
/// kernel takes 107 bytes and no more (unix(7)).
fn short_path(socket: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidFilename));
    };
    let directory = File::open(directory)?;
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    Ok((directory, short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_may_lie_deeper_than_the_kernel_takes() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let socket = deep.join("a.sock");
        let listener = listen(&socket).unwrap();
        let (connected, accepted) = tokio::join!(connect(&socket), listener.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert_eq!(
            connect(&socket).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert!(listen(&socket).is_ok());
    }
}
