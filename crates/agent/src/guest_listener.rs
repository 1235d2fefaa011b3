//! A socket in the machine that leads to the host.
//!
//! Each connection is copied to a stream, which the runtime connects to a socket of the host.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::lchown,
    },
    path::PathBuf,
    time::Duration,
};

use container_protocol::{
    GuestUser, HostPort, frame, local,
    socket_file::{self, OccupiedError},
};
use rustix::fs::{AtFlags, unlinkat};
use tokio::{
    io::{AsyncReadExt, copy_bidirectional},
    net::{UnixListener, UnixStream},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    kernel_log,
    link::Host,
    machine::{GuestRoot, descriptor_path},
};

/// Timeout for a client's first request if nothing listens on the host.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Backoff after a failed accept.
const ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

/// The socket in the machine, served until [`finish`](Self::finish).
#[derive(Debug)]
pub(crate) struct GuestListener {
    end: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl GuestListener {
    /// Creates the socket, which belongs to the machine's user, and serves it. `port` is what its
    /// connections lead to.
    pub(crate) async fn start(
        root: &GuestRoot,
        path: &str,
        user: &GuestUser,
        port: HostPort,
        host: Host,
    ) -> Result<GuestListener, OccupiedError> {
        let listener = listen(root, path, user).await?;
        let (end, ended) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, port, host, ended));
        Ok(GuestListener { end, serving })
    }

    /// Closes the socket and all connections, which keep the machine's file systems in use.
    pub(crate) async fn finish(self) {
        // Fails only if the task has panicked.
        let _ = self.end.send(());
        let _ = self.serving.await;
    }
}

async fn serve(
    listener: UnixListener,
    port: HostPort,
    host: Host,
    mut ended: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut ended => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                // A finished connection needs no handling, whatever its outcome.
                Ok((client, _)) => {
                    drop(connections.spawn(forward(client, port.clone(), host.clone())));
                }
                Err(error) => {
                    kernel_log::error(&format!("cannot accept a client of the host: {error}"));
                    sleep(ACCEPT_BACKOFF).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

/// Creates the listening socket, replacing one of an earlier boot, and its directory.
async fn listen(
    root: &GuestRoot,
    path: &str,
    user: &GuestUser,
) -> Result<UnixListener, OccupiedError> {
    let (directory, name) = path
        .rsplit_once('/')
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    root.make_directory(directory)?;
    let (_directory, socket) = in_directory(root, directory, name)?;
    socket_file::remove_stale(&socket).await?;
    let listener = local::listen(&socket)?;
    lchown(&socket, Some(user.uid), Some(user.gid))?;
    Ok(listener)
}

/// Removes the file of a socket.
pub(crate) fn remove(root: &GuestRoot, path: &str) -> io::Result<()> {
    let (directory, name) = path
        .rsplit_once('/')
        .ok_or(io::ErrorKind::InvalidFilename)?;
    Ok(unlinkat(
        root.directory(directory)?,
        name,
        AtFlags::empty(),
    )?)
}

/// Returns a path of a file that is valid while the directory is open. It keeps symlinks of the
/// machine from leading out of its disk.
fn in_directory(root: &GuestRoot, directory: &str, name: &str) -> io::Result<(OwnedFd, PathBuf)> {
    let directory = root.directory(directory)?;
    let path = descriptor_path(directory.as_fd()).join(name);
    Ok((directory, path))
}

/// Serves one connection. If nothing listens on the host it is closed.
async fn forward(mut client: UnixStream, port: HostPort, host: Host) {
    if connect_to_host(&mut client, port, &host).await.is_err() {
        // Closing the connection before the client has sent its request would kill it by SIGPIPE.
        let _ = timeout(FIRST_REQUEST_TIMEOUT, client.read(&mut [0; 1024])).await;
    }
}

async fn connect_to_host(client: &mut UnixStream, port: HostPort, host: &Host) -> io::Result<()> {
    let mut host = host.open().await?;
    frame::write(&mut host, &port)
        .await
        .map_err(io::Error::other)?;
    copy_bidirectional(client, &mut host).await?;
    Ok(())
}
