//! Serves the streams that the guest agent opens: init's output, connections to the SSH agent and
//! to forwarded sockets, reports of listening sockets, and messages for the file share.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use container_network::Network;
use container_protocol::{
    HostPort, Listener,
    frame::{self, FrameError},
    mux::{Incoming, Stream},
};
use tokio::{net::UnixStream, sync::Mutex};

use crate::{
    file_share::TAG, log::Log, ports::guest_ports, socket_forwarding, splice::splice,
    state::MachineState,
};

/// What the streams of a guest lead to.
pub(crate) struct Targets {
    stdio_log: PathBuf,
    machine: Arc<MachineState>,
    /// Absent if only the disk is read.
    network: Option<Arc<Network>>,
    /// Held by the stream that reports listening sockets. Further ones wait, because each report
    /// may be large.
    listeners: Mutex<()>,
}

/// Serves the streams of a guest until its channel ends.
pub(crate) async fn serve(mut incoming: Incoming, targets: Arc<Targets>) {
    while let Some(stream) = incoming.recv().await {
        let targets = Arc::clone(&targets);
        tokio::spawn(async move { targets.serve(stream).await });
    }
}

impl Targets {
    /// Creates the targets of a guest; without a network if only the disk is read.
    pub(crate) fn new(
        stdio_log: PathBuf,
        machine: Arc<MachineState>,
        network: Option<Arc<Network>>,
    ) -> Targets {
        Targets {
            stdio_log,
            machine,
            network,
            listeners: Mutex::default(),
        }
    }

    async fn serve(&self, mut stream: Stream) {
        match frame::read_short::<HostPort>(&mut stream).await {
            Ok(HostPort::StdioLog) => {
                let log = Log::new(&self.stdio_log);
                log.write_from(stream, Duration::ZERO).await;
            }
            Ok(HostPort::SshAgent) => {
                if let Err(error) = join_ssh_agent(&self.machine, stream).await {
                    tracing::debug!("connection to the SSH agent ended: {error}");
                }
            }
            Ok(HostPort::Socket(path)) => {
                if let Err(error) = socket_forwarding::join_host(&self.machine, &path, stream).await
                {
                    tracing::debug!("connection of the machine to {path} ended: {error}");
                }
            }
            Ok(HostPort::Listeners) => {
                if let Some(network) = &self.network {
                    let _only = self.listeners.lock().await;
                    forward_ports(network, &mut stream).await;
                }
            }
            Ok(HostPort::Home) => self.relay(TAG, stream).await,
            Ok(HostPort::Mount(tag)) => self.relay(&tag, stream).await,
            Err(error) => tracing::warn!("invalid stream from the guest: {error}"),
        }
    }
}

impl Targets {
    /// Relays messages between the agent and the file share with this tag.
    async fn relay(&self, tag: &str, stream: Stream) {
        let Some(relay) = self.machine.relay(tag) else {
            return;
        };
        match relay.serve(stream).await {
            Ok(()) | Err(FrameError::Ended) => {}
            Err(error) => tracing::debug!("connection of file share and agent ended: {error}"),
        }
    }
}

/// Joins a guest's stream to the SSH agent that the machine may use, as long as it may. Without an
/// agent the stream is closed, as a connection to an agent that has ended would be.
async fn join_ssh_agent(machine: &MachineState, guest: Stream) -> io::Result<()> {
    let agents = machine.ssh_agents();
    let agent = agents.current().ok_or(io::ErrorKind::NotConnected)?;
    let client = UnixStream::connect(agent.socket).await?;
    tokio::select! {
        joined = splice(client, guest) => joined,
        () = agent.ended.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Keeps the network's forwarded ports equal to the guest's listeners until the stream ends.
async fn forward_ports(network: &Network, stream: &mut Stream) {
    let guest = network.address().guest().into();
    while let Ok(listeners) = frame::read::<Vec<Listener>>(stream).await {
        network.set_ports(guest_ports(listeners, guest)).await;
    }
}
