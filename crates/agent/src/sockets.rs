//! Forwards Unix sockets between the machine and the host.

use std::{
    collections::HashMap,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
};

use container_protocol::{
    GuestUser, HostPort, SocketPath, SocketProblem, SocketReply,
    frame::{self, FrameError},
    mux::Stream,
};
use rustix::{
    fs::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use tokio::{
    io::{AsyncReadExt, copy_bidirectional},
    net::UnixStream,
    sync::Mutex,
};

use crate::{
    guest_listener::{self, GuestListener},
    init::InitProcess,
    kernel_log,
    link::Host,
    machine::{GuestRoot, descriptor_path},
    namespace_thread,
};

/// The forwarded sockets of the machine.
#[derive(Debug)]
pub(crate) struct Sockets {
    init: InitProcess,
    user: GuestUser,
    host: Host,
    /// Sockets in the machine that lead to the host.
    listeners: Mutex<HashMap<SocketPath, GuestListener>>,
}

impl Sockets {
    pub(crate) fn new(init: InitProcess, user: GuestUser, host: Host) -> Sockets {
        Sockets {
            init,
            user,
            host,
            listeners: Mutex::default(),
        }
    }

    /// Serves one stream of [`Port::Socket`](container_protocol::Port::Socket).
    pub(crate) async fn serve_connection(&self, stream: Stream) {
        // The host sees the end of the stream.
        let _ = self.join(stream).await;
    }

    async fn join(&self, mut stream: Stream) -> Result<(), FrameError> {
        let path: SocketPath = frame::read(&mut stream).await?;
        let mut connected = self.connect(&path).await;
        if connected.is_err() {
            // Its program may not have been started yet.
            let _ = self.init.start_services().await;
            connected = self.connect(&path).await;
        }
        match connected {
            Ok(mut connection) => {
                frame::write(&mut stream, &SocketReply::Connected).await?;
                copy_bidirectional(&mut connection, &mut stream).await?;
            }
            Err(error) => {
                frame::write(&mut stream, &SocketReply::Failed(error.to_string())).await?;
                // The host closes the stream when it has read the reply.
                let _ = stream.read_u8().await;
            }
        }
        Ok(())
    }

    /// Connects to a socket as the machine's user, or else as root, which the user may become.
    async fn connect(&self, path: &SocketPath) -> io::Result<UnixStream> {
        let socket = GuestRoot::of_process(self.init.pid)?.locate(path.as_str())?;
        let user = (self.user.uid, self.user.gid);
        let connected = match connect_as(user, socket.try_clone()?).await {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                connect_as((0, 0), socket).await?
            }
            other => other?,
        };
        connected.set_nonblocking(true)?;
        UnixStream::from_std(connected)
    }

    /// Serves one stream of [`Port::HostSockets`](container_protocol::Port::HostSockets).
    pub(crate) async fn serve_list(&self, mut stream: Stream) {
        let Ok(paths) = frame::read::<Vec<SocketPath>>(&mut stream).await else {
            return;
        };
        // Early boot would hide or remove the sockets.
        let _ = self.init.settle().await;
        let problems = self.listen(&paths).await;
        if frame::write(&mut stream, &problems).await.is_ok() {
            // The host closes the stream when it has read the reply.
            let _ = stream.read_u8().await;
        }
    }

    /// Listens on these paths and no others. Returns those that are not possible.
    async fn listen(&self, paths: &[SocketPath]) -> Vec<SocketProblem> {
        let mut listeners = self.listeners.lock().await;
        let root = match GuestRoot::of_process(self.init.pid) {
            Ok(root) => root,
            Err(error) => {
                kernel_log::error(&format!("cannot find the machine's files: {error}"));
                return Vec::new();
            }
        };
        let unwanted = listeners.extract_if(|path, _| !paths.contains(path));
        for (path, listener) in unwanted.collect::<Vec<_>>() {
            listener.finish().await;
            if let Err(error) = guest_listener::remove(&root, path.as_str()) {
                kernel_log::error(&format!("cannot remove socket {path}: {error}"));
            }
        }
        let mut problems = Vec::new();
        for path in paths {
            if listeners.contains_key(path) {
                continue;
            }
            let (port, host) = (HostPort::Socket(path.clone()), self.host.clone());
            match GuestListener::start(&root, path.as_str(), &self.user, port, host).await {
                Ok(listener) => drop(listeners.insert(path.clone(), listener)),
                Err(error) => problems.push(SocketProblem {
                    path: path.clone(),
                    problem: format!("the machine cannot listen: {error}"),
                }),
            }
        }
        problems
    }

    /// Closes all sockets, which keep the machine's file systems in use.
    pub(crate) async fn finish(&self) {
        for (_, listener) in self.listeners.lock().await.drain() {
            listener.finish().await;
        }
    }
}

/// Connects to a socket with the ids of a user, which the program that listens sees.
async fn connect_as((uid, gid): (u32, u32), socket: OwnedFd) -> io::Result<StdUnixStream> {
    // Waits while the socket's queue is full, and changes the ids of its thread only.
    namespace_thread::run(move || {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        StdUnixStream::connect(descriptor_path(socket.as_fd()))
    })
    .await
}
