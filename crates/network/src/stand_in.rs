//! The stand-in for the network of a suspended machine.

use std::{io, os::unix::net::UnixStream, sync::Arc};

use tokio::task::JoinHandle;

use crate::{held::HeldSockets, host_name_server, peers::PeerNetwork, settings::Settings};

/// Holds the sockets of a suspended machine, and answers the host's DNS queries for its name.
///
/// Dropping it closes the sockets, and removes the machine's name. Create and use it within a tokio
/// runtime.
#[derive(Debug)]
pub struct StandIn {
    held: HeldSockets,
    peers: Arc<PeerNetwork>,
    name_server: JoinHandle<()>,
}

impl StandIn {
    /// Takes the place of the network with these settings, whose sockets these are.
    ///
    /// # Errors
    /// If the machine's name cannot be kept.
    pub fn new(held: HeldSockets, settings: &Settings) -> io::Result<StandIn> {
        let socket = held.peers().map(|socket| socket.try_clone()).transpose()?;
        let (directory, id) = (&settings.peer_directory, &settings.id);
        let peers = PeerNetwork::join(directory, id, settings.address, socket)?;
        let peers = Arc::new(peers);
        let serve = host_name_server::serve(settings.name_server, Arc::clone(&peers));
        Ok(StandIn {
            held,
            peers,
            name_server: tokio::spawn(serve),
        })
    }

    /// Waits until the machine is used: by a connection, a datagram or the lookup of its name.
    ///
    /// # Errors
    /// If the sockets cannot be observed.
    pub async fn used(&self) -> io::Result<()> {
        self.held.used().await
    }

    /// Keeps the machine's name in the directory of the user's machines if that was replaced.
    ///
    /// # Errors
    /// If there is no directory, and none can be created.
    pub fn keep_name(&mut self) -> io::Result<()> {
        if self.peers.rejoin()? {
            self.held.replace_peers(self.peers.socket()?);
        }
        Ok(())
    }

    /// Resets the connections that wait, and drops the packets.
    pub fn refuse_waiting(&self) {
        self.held.refuse_waiting();
    }

    /// Hands all sockets over to the process at the other end, with what waits there.
    ///
    /// # Errors
    /// If the other process does not [take](HeldSockets::receive) them. They are closed then.
    pub fn hand_over(self, stream: &UnixStream) -> io::Result<()> {
        self.held.send(stream)?;
        self.peers.hold()?;
        Ok(())
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // It shares the machine's name, which is removed when the last owner is dropped.
        self.name_server.abort();
    }
}
