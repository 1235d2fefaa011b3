//! Serves the programs on the host that connect to the runtime's socket.

use std::{
    future::ready,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use container_engine::LiveDiskError;
use container_machine::create_runtime_directory;
use container_protocol::{
    frame,
    local::{self, OverlayReply, RuntimeRequest, SuspendReply},
};
use tokio::{
    io::AsyncReadExt,
    net::{UnixListener, UnixStream},
    sync::oneshot,
};

use crate::{listening, phase::StopOrder, socket_forwarding, splice::splice, state::MachineState};

/// Serves clients at the socket. One that was removed, for example with the directory of a login
/// session, is created again.
pub(crate) async fn serve(machine: Arc<MachineState>, socket: PathBuf, listener: UnixListener) {
    let listen = || {
        let directory = socket.parent().unwrap_or(Path::new("/"));
        let created = create_runtime_directory(directory).map_err(io::Error::other);
        ready(created.and_then(|()| local::listen(&socket)))
    };
    let serve = |stream| {
        let machine = Arc::clone(&machine);
        tokio::spawn(async move {
            if let Err(error) = serve_client(&machine, stream).await {
                tracing::debug!("connection of a client ended: {error}");
            }
        });
    };
    listening::serve(&socket, listener, listen, serve).await;
}

/// Serves one connection: a request and its answer, or a stream to the guest.
async fn serve_client(machine: &Arc<MachineState>, mut stream: UnixStream) -> io::Result<()> {
    match frame::read(&mut stream).await.map_err(io::Error::other)? {
        RuntimeRequest::Report => frame::write(&mut stream, &machine.report())
            .await
            .map_err(io::Error::other),
        RuntimeRequest::Stop {
            grace_seconds,
            power_cut,
        } => {
            let order = if power_cut {
                StopOrder::power_cut()
            } else {
                StopOrder::in_order(grace_seconds)
            };
            machine.stop_for(stream, order);
            Ok(())
        }
        // The connection is closed without an answer.
        RuntimeRequest::UseSshAgent { .. } | RuntimeRequest::LendSshAgent { .. }
            if machine.is_isolated() =>
        {
            Ok(())
        }
        RuntimeRequest::UseSshAgent { socket } => {
            machine.ssh_agents().give(socket);
            Ok(())
        }
        RuntimeRequest::LendSshAgent { socket } => {
            let _lent = machine.ssh_agents().lend(socket);
            let written = frame::write(&mut stream, &()).await;
            written.map_err(io::Error::other)?;
            // The client sends nothing.
            let _ = stream.read_u8().await;
            Ok(())
        }
        RuntimeRequest::Ports => write_ports(machine, &mut stream).await,
        RuntimeRequest::Publish(ports) => {
            machine.set_published(ports.clone());
            if let Some(network) = machine.network() {
                network.set_published(ports).await;
            }
            write_ports(machine, &mut stream).await
        }
        RuntimeRequest::SetEgress(egress) => {
            machine.set_egress(egress).await;
            frame::write(&mut stream, &())
                .await
                .map_err(io::Error::other)
        }
        RuntimeRequest::Blocked => {
            let blocked = machine.network().map(|network| network.blocked());
            frame::write(&mut stream, &blocked.unwrap_or_default())
                .await
                .map_err(io::Error::other)
        }
        RuntimeRequest::SocketProblems => frame::write(&mut stream, &machine.sockets().problems())
            .await
            .map_err(io::Error::other),
        RuntimeRequest::ForwardSockets(wanted) => {
            let problems = socket_forwarding::replace(machine, wanted).await;
            frame::write(&mut stream, &problems)
                .await
                .map_err(io::Error::other)
        }
        RuntimeRequest::MountProblems => frame::write(&mut stream, &machine.mount_problems())
            .await
            .map_err(io::Error::other),
        RuntimeRequest::SetMounts(wanted) => {
            let reply = machine.replace_mounts(wanted).await;
            let reply = reply.map_err(io::Error::other)?;
            frame::write(&mut stream, &reply)
                .await
                .map_err(io::Error::other)
        }
        RuntimeRequest::SuspendWhenIdle { after_seconds } => {
            machine.set_idle_time(after_seconds.map(Duration::from_secs));
            frame::write(&mut stream, &())
                .await
                .map_err(io::Error::other)
        }
        RuntimeRequest::TakeNotes => frame::write(&mut stream, &machine.take_notes())
            .await
            .map_err(io::Error::other),
        RuntimeRequest::PutOverlay { overlay } => {
            let reply = put_overlay(machine, &overlay).await;
            frame::write(&mut stream, &reply)
                .await
                .map_err(io::Error::other)
        }
        RuntimeRequest::Suspend { force } => suspend(machine, stream, force).await,
        RuntimeRequest::Snapshot { overlay, memory } => {
            let result = machine.snapshot(overlay, memory);
            let reply = unless_closed(&mut stream, result).await?;
            frame::write(&mut stream, &reply)
                .await
                .map_err(io::Error::other)
        }
        RuntimeRequest::Connect => {
            // First, so that the machine is not suspended between the two.
            let _session = machine.begin_session();
            let opener = machine.opener().ok_or(io::ErrorKind::NotConnected)?;
            machine.sync_shares().await;
            splice(stream, opener.open().await?).await
        }
    }
}

/// Suspends the machine, unless the client closes the connection before.
async fn suspend(machine: &MachineState, mut stream: UnixStream, force: bool) -> io::Result<()> {
    let reply = unless_closed(&mut stream, machine.suspend(force)).await?;
    let is_suspended = reply == SuspendReply::Suspended;
    let written = frame::write(&mut stream, &reply).await;
    if is_suspended {
        machine.release_at_end(stream);
    }
    written.map_err(io::Error::other)
}

/// Waits for a result, which is dropped if the client closes the connection before.
async fn unless_closed<T>(stream: &mut UnixStream, result: oneshot::Receiver<T>) -> io::Result<T> {
    tokio::select! {
        reply = result => reply.map_err(io::Error::other),
        // The client sends nothing.
        _ = stream.read_u8() => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

async fn put_overlay(machine: &MachineState, overlay: &Path) -> OverlayReply {
    let Some(disk) = machine.disk() else {
        return OverlayReply::Refused("the machine is not up".to_owned());
    };
    match disk.put_overlay(overlay).await {
        Ok(()) => {
            machine.set_disk_file(overlay.to_owned());
            OverlayReply::Done
        }
        Err(error @ LiveDiskError::Refused(_)) => OverlayReply::Refused(error.to_string()),
        Err(error @ LiveDiskError::Unknown(_)) => OverlayReply::Failed(error.to_string()),
    }
}

async fn write_ports(machine: &MachineState, stream: &mut UnixStream) -> io::Result<()> {
    let ports = machine.network().map(|network| network.ports());
    frame::write(stream, &ports.unwrap_or_default())
        .await
        .map_err(io::Error::other)
}
