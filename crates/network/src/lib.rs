//! A machine's network in user space, with no privilege on the host.
//!
//! The machine's network card is connected to one end of a pair of datagram sockets; each datagram
//! is an Ethernet frame. At the other end, a TCP/IP stack ([`smoltcp`]) answers for every address
//! the guest connects to, and ordinary sockets of the host carry the data on. Ports that the guest
//! listens on are listened on by the host too, at the machine's own address in 127/8.
//!
//! A network runs as one task on a thread of its own. Every buffer is bounded: a slow receiver
//! slows its sender, as over a real link.
//!
//! # Modules
//!
//! | module | responsibility |
//! |---|---|
//! | `stack` | the task: polls everything below, in a fixed order |
//! | `link`, `frame` | Ethernet frames from and to the guest's card |
//! | `packet` | IP packets, UDP datagrams, ICMP errors, ARP and neighbour discovery |
//! | `fragments` | fragmented IP packets |
//! | `dhcp`, `dhcp6`, `router` | the machine's lease, for images that configure their network |
//! | `tcp_stack`, `connection` | TCP: smoltcp's sockets, each joined to a stream of the host |
//! | `buffer_budget` | memory for the buffers of TCP connections |
//! | `udp`, `host_senders` | UDP: sockets on the host for the guest, and the reverse |
//! | `echo` | `ping` |
//! | `host_listeners`, `host_socket`, `connect_queue` | connections from the host to the guest |
//! | `held`, `stand_in` | sockets of a suspended machine, until it is used |
//! | `usage` | whether the network is in use |
//! | `connection_owner` | which user has connected |
//! | `peers` | packets and names of the user's other machines |
//! | `name_server`, `host_name_server` | DNS for the guest; DNS for the host |
//! | `host_resolver` | the host's `resolv.conf` |
//! | `throttle` | messages about what the guest does, of which there may be any number |
//! | `refusals` | connections to the host's loopback that a setting would allow |
//! | `policy`, `address`, `settings` | which destinations any machine may reach, addresses, settings |
//! | `gate` | the decision on what the guest sends out, by policy and egress rules |
//! | `pins`, `special_addresses`, `host_addresses` | what is known of addresses |
//! | `outgoing`, `first_bytes` | the server name of a connection of the guest |
//! | `peer_flows` | who has begun the flows between machines |
//! | `blocked` | what the rules have blocked |
//!
//! # Example
//!
//! ```no_run
//! use std::os::unix::net::UnixDatagram;
//!
//! use container_machine::MachineAddress;
//! use container_network::{Network, Policy, Settings};
//! use container_protocol::Egress;
//!
//! # fn main() -> std::io::Result<()> {
//! let (card, engine_end) = UnixDatagram::pair()?;
//! let network = Network::start(
//!     card,
//!     Settings {
//!         id: "dev".to_owned(),
//!         address: MachineAddress::from_index(7),
//!         policy: Policy::default(),
//!         egress: Egress::default(),
//!         published: Vec::new(),
//!         peer_directory: "/run/user/1000/container/segment".into(),
//!         name_server: "127.19.0.1:5353".parse().unwrap(),
//!     },
//! )?;
//! // QEMU gets `engine_end` as the socket of `-netdev dgram`.
//! println!("{:?}", network.ports());
//! # Ok(())
//! # }
//! ```

mod address;
mod blocked;
mod buffer_budget;
mod connect_queue;
mod connection;
mod connection_owner;
mod dhcp;
mod dhcp6;
mod echo;
mod first_bytes;
mod fragments;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod held;
mod host_addresses;
mod host_listeners;
mod host_name_server;
mod host_resolver;
mod host_senders;
mod host_socket;
mod link;
mod name_server;
mod outgoing;
mod packet;
mod peer_flows;
mod peers;
mod pins;
mod policy;
mod refusals;
mod router;
mod settings;
mod special_addresses;
mod stack;
mod stand_in;
mod tcp_stack;
mod throttle;
mod udp;
mod usage;

use std::{
    io,
    os::unix::net::UnixDatagram,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use container_machine::MachineAddress;
use container_protocol::{
    Egress, PublishedPort,
    local::{Blocked, PortStatus},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    gate::Gate,
    stack::{Change, Channels},
    usage::Usage,
};

pub use address::{GATEWAY, GATEWAY6, PREFIX, PREFIX6, ipv6_address, mac_address};
pub use held::HeldSockets;
pub use host_listeners::{GuestPort, Reach};
pub use host_resolver::{HostResolver, RESOLV_CONF};
pub use packet::MTU;
pub use policy::Policy;
pub use refusals::RefusedPort;
pub use settings::Settings;
pub use stand_in::StandIn;

/// A running network. It stops when this is dropped, or when the card's other end is closed.
#[derive(Debug)]
pub struct Network {
    /// `None` only while this is being dropped: closing the channel stops the thread.
    changes: Option<mpsc::UnboundedSender<Change>>,
    statuses: Arc<Mutex<Vec<PortStatus>>>,
    /// Taken by [`Network::take_refused`].
    refused: Mutex<Option<mpsc::UnboundedReceiver<RefusedPort>>>,
    address: MachineAddress,
    usage: Arc<Usage>,
    gate: Arc<Gate>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// Starts to serve the card.
    ///
    /// # Errors
    /// If the thread or its event loop cannot be created.
    pub fn start(card: UnixDatagram, settings: Settings) -> io::Result<Network> {
        Network::start_with(card, settings, None)
    }

    /// Starts to serve the card of a machine that is resumed, with the open sockets of its earlier
    /// network if they were held. Connections of the host wait until the guest's ports are known.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn take_over(
        card: UnixDatagram,
        settings: Settings,
        held: HeldSockets,
    ) -> io::Result<Network> {
        Network::start_with(card, settings, Some(held))
    }

    fn start_with(
        card: UnixDatagram,
        settings: Settings,
        held: Option<HeldSockets>,
    ) -> io::Result<Network> {
        let address = settings.address;
        let (changes, change_receiver) = mpsc::unbounded_channel();
        let statuses = Arc::new(Mutex::new(Vec::new()));
        let usage = Arc::new(Usage::default());
        let gate = Arc::new(Gate::new(settings.policy, settings.egress.clone()));
        let (refused, refused_receiver) = mpsc::unbounded_channel();
        let channels = Channels {
            changes: change_receiver,
            statuses: Arc::clone(&statuses),
            refused,
            usage: Arc::clone(&usage),
            gate: Arc::clone(&gate),
        };
        let events = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        card.set_nonblocking(true)?;
        let thread = thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || {
                let served = stack::serve(card, settings, held, channels);
                if let Err(error) = events.block_on(served) {
                    tracing::error!("the machine's network failed: {error}");
                }
            })?;
        Ok(Network {
            changes: Some(changes),
            statuses,
            refused: Mutex::new(Some(refused_receiver)),
            address,
            usage,
            gate,
            thread: Some(thread),
        })
    }

    /// Returns the machine's address.
    pub fn address(&self) -> MachineAddress {
        self.address
    }

    /// Returns the receiver of ports on the host's loopback where a program listens, and to which
    /// the policy has refused the guest a connection. Each port is sent once. Only the first call
    /// returns the receiver.
    pub fn take_refused(&self) -> Option<mpsc::UnboundedReceiver<RefusedPort>> {
        let refused = self.refused.lock();
        refused.unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Replaces the list of ports that the guest listens on, and returns once the host's listeners
    /// have followed. A guest that changes its ports faster than that has to wait.
    pub async fn set_ports(&self, ports: Vec<GuestPort>) {
        let (done, is_done) = oneshot::channel();
        self.send(Change::Guest(ports, done));
        // An error means that the network has stopped, and there is nothing to wait for.
        let _ = is_done.await;
    }

    /// Replaces the list of published ports, and returns once the host's listeners have followed.
    pub async fn set_published(&self, ports: Vec<PublishedPort>) {
        let (done, is_done) = oneshot::channel();
        self.send(Change::Published(ports, done));
        // An error means that the network has stopped, and there is nothing to wait for.
        let _ = is_done.await;
    }

    /// Replaces the egress rules, and returns once they apply. Connections that they do not allow
    /// are reset.
    pub async fn set_egress(&self, egress: Egress) {
        let (done, is_done) = oneshot::channel();
        self.send(Change::Egress(egress, done));
        // An error means that the network has stopped, and there is nothing to wait for.
        let _ = is_done.await;
    }

    /// Returns the guest's attempts to reach what the egress rules do not allow.
    pub fn blocked(&self) -> Blocked {
        self.gate.blocked()
    }

    /// Ends all connections with a reset on both sides, and passes nothing on until
    /// [`resume`](Self::resume). Returns once the guest's card has the resets.
    pub async fn pause(&self) {
        let (done, is_done) = oneshot::channel();
        self.send(Change::Pause(done));
        // An error means that the network has stopped, and there is nothing to wait for.
        let _ = is_done.await;
    }

    /// Returns the number of uses since the start: connections and datagrams of the host, and
    /// packets from and to other machines.
    pub fn uses(&self) -> u64 {
        self.usage.uses()
    }

    /// Whether there are TCP connections between the guest and the host or a server.
    pub fn has_connections(&self) -> bool {
        self.usage.has_connections()
    }

    /// Passes nothing on until [`resume`](Self::resume), unless there are connections or the
    /// network was used since [`uses`](Self::uses) was this number. Returns whether it is paused.
    pub async fn pause_if_idle(&self, uses: u64) -> bool {
        let (done, is_paused) = oneshot::channel();
        self.send(Change::PauseIfIdle(uses, done));
        is_paused.await.unwrap_or(false)
    }

    /// Ends a paused network, whose sockets on the host stay open.
    ///
    /// # Errors
    /// If the sockets cannot be kept, or the network has ended before.
    pub async fn hold(&self) -> io::Result<HeldSockets> {
        let (done, held) = oneshot::channel();
        self.send(Change::Hold(done));
        let ended = |_| io::Error::from(io::ErrorKind::NotConnected);
        held.await.map_err(ended)?
    }

    /// Passes everything on again.
    pub fn resume(&self) {
        self.send(Change::Continue);
    }

    fn send(&self, change: Change) {
        if let Some(changes) = &self.changes {
            // An error means that the network has stopped: there is no guest to listen for.
            let _ = changes.send(change);
        }
    }

    /// Returns the state of every forwarded and published port, sorted by guest port.
    pub fn ports(&self) -> Vec<PortStatus> {
        let statuses = self.statuses.lock();
        statuses.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Network {
    /// Waits until the thread has ended, which takes at most one iteration of its loop.
    fn drop(&mut self) {
        drop(self.changes.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the machine's network panicked");
        }
    }
}
