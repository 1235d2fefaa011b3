//! The host's SSH agent, in the machine: a socket, each connection to which is carried to the agent
//! of whoever ran a command last (PROTOCOL.agent of OpenSSH says nothing of the way there).

use std::{
    io,
    os::{
        fd::AsFd,
        unix::fs::{PermissionsExt, chown},
    },
    time::Duration,
};

use container_protocol::{
    GuestHome, HostPort, SSH_AUTH_SOCKET,
    frame::{self, FrameError},
    mux::Opener,
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
    machine::{GuestRoot, descriptor_path},
    power,
};

/// How long a client may take to ask an agent that is not there.
const QUESTION: Duration = Duration::from_secs(1);

/// How long to wait when no client can be accepted.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The socket, served until this is [finished](Self::finish).
#[derive(Debug)]
pub struct SshAgent {
    end: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl SshAgent {
    /// Makes the socket, which belongs to the machine's user, and serves it.
    pub fn serve(user: &GuestHome, opener: Opener) -> io::Result<SshAgent> {
        let listener = listen(&GuestRoot::open()?, user)?;
        let (end, ended) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, opener, ended));
        Ok(SshAgent { end, serving })
    }

    /// Lets go of the socket and of all connections to it, which keep the machine's disk in use.
    pub async fn finish(self) {
        // Whoever serves waits for this, and for nothing else that could end it.
        let _ = self.end.send(());
        let _ = self.serving.await;
    }
}

async fn serve(listener: UnixListener, opener: Opener, mut ended: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut ended => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                // Without an agent on the host the client sees its connection closed.
                Ok((client, _)) => drop(connections.spawn(carry(client, opener.clone()))),
                Err(error) => {
                    power::say(&format!("accepting a client of the SSH agent: {error}"));
                    sleep(TRY_AGAIN).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

fn listen(root: &GuestRoot, user: &GuestHome) -> io::Result<UnixListener> {
    let (directory, name) = SSH_AUTH_SOCKET
        .rsplit_once('/')
        .ok_or(io::ErrorKind::InvalidFilename)?;
    root.make_directory(directory)?;
    let directory = root.directory(directory)?;
    match unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let socket = descriptor_path(directory.as_fd()).join(name);
    let listener = UnixListener::bind(&socket)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
    chown(&socket, Some(user.uid), Some(user.gid))?;
    Ok(listener)
}

async fn carry(mut client: UnixStream, opener: Opener) {
    if join(&mut client, &opener).await.is_err() {
        // A client that finds nobody before it has asked would be killed for writing (SIGPIPE).
        let _ = timeout(QUESTION, client.read(&mut [0; 1024])).await;
    }
}

async fn join(client: &mut UnixStream, opener: &Opener) -> Result<(), FrameError> {
    let mut host = opener.open().await?;
    frame::write(&mut host, &HostPort::SshAgent).await?;
    copy_bidirectional(client, &mut host).await?;
    Ok(())
}
