//! Forwards the host's SSH agent into the machine.
//!
//! A socket in the machine accepts connections. Each is copied to a stream, which the runtime
//! connects to the SSH agent of the user's most recent command.

use std::{
    io,
    os::{
        fd::AsFd,
        unix::fs::{PermissionsExt, chown},
    },
    time::Duration,
};

use container_protocol::{GuestUser, HostPort, SSH_AUTH_SOCKET, frame};
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

/// Timeout for a client's first request if the host has no SSH agent.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Backoff after a failed accept.
const ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

/// The socket in the machine, served until [`finish`](Self::finish).
#[derive(Debug)]
pub(crate) struct SshAgent {
    end: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl SshAgent {
    /// Creates the socket, which belongs to the machine's user, and serves it.
    pub(crate) fn serve(user: &GuestUser, host: Host) -> io::Result<SshAgent> {
        let listener = listen(&GuestRoot::open()?, user)?;
        let (end, ended) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, host, ended));
        Ok(SshAgent { end, serving })
    }

    /// Closes the socket and all connections, which keep the machine's file systems in use.
    pub(crate) async fn finish(self) {
        // Fails only if the task has panicked.
        let _ = self.end.send(());
        let _ = self.serving.await;
    }
}

async fn serve(listener: UnixListener, host: Host, mut ended: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut ended => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                // A finished connection needs no handling, whatever its outcome.
                Ok((client, _)) => drop(connections.spawn(forward(client, host.clone()))),
                Err(error) => {
                    kernel_log::error(&format!("cannot accept a client of the SSH agent: {error}"));
                    sleep(ACCEPT_BACKOFF).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

/// Creates the listening socket, replacing one of an earlier boot.
fn listen(root: &GuestRoot, user: &GuestUser) -> io::Result<UnixListener> {
    let (directory, name) = SSH_AUTH_SOCKET
        .rsplit_once('/')
        .ok_or(io::ErrorKind::InvalidFilename)?;
    root.make_directory(directory)?;
    let directory = root.directory(directory)?;
    match unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    // Binding through /proc/self/fd keeps symlinks of the machine from leading out of its disk.
    let socket = descriptor_path(directory.as_fd()).join(name);
    let listener = UnixListener::bind(&socket)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
    chown(&socket, Some(user.uid), Some(user.gid))?;
    Ok(listener)
}

/// Serves one connection. Without an SSH agent on the host it is closed.
async fn forward(mut client: UnixStream, host: Host) {
    if connect_to_host(&mut client, &host).await.is_err() {
        // Closing the connection before the client has sent its request would kill it by SIGPIPE.
        let _ = timeout(FIRST_REQUEST_TIMEOUT, client.read(&mut [0; 1024])).await;
    }
}

async fn connect_to_host(client: &mut UnixStream, host: &Host) -> io::Result<()> {
    let mut host = host.open().await?;
    frame::write(&mut host, &HostPort::SshAgent)
        .await
        .map_err(io::Error::other)?;
    copy_bidirectional(client, &mut host).await?;
    Ok(())
}
