//! The host's listeners for ports of the guest.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    io, mem,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use container_protocol::{PublishedPort, Transport, local::PortStatus};
use tokio::{
    net::TcpStream,
    time::{Sleep, sleep},
};

use crate::{
    held::{HeldSockets, Purpose},
    host_socket::{HostSocket, HostSocketError},
};

/// Interval at which listeners that could not be opened are retried: the program that occupies the
/// port may have ended.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Path to a listener in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It listens on the machine's address.
    Direct,
    /// It listens on the guest's loopback only, and is reached through the agent's relay.
    Relay,
}

/// A port that a program in the guest listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPort {
    /// TCP or UDP.
    pub transport: Transport,
    /// The port's number.
    pub port: u16,
    /// Path to the listener.
    pub reach: Reach,
    /// Name of the listening program; `None` when it is not known.
    pub process: Option<String>,
}

/// A connection that a program on the host has made.
#[derive(Debug)]
pub(crate) struct AcceptedConnection {
    pub stream: TcpStream,
    /// The guest's port that the listener stands for.
    pub guest_port: u16,
    pub accepted_at: Instant,
}

/// Time that the guest has to accept a connection, similar to that of a Linux client (tcp(7),
/// `tcp_syn_retries`). A guest that hangs would otherwise collect the connections of clients that
/// have gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(120);

impl AcceptedConnection {
    /// Returns whether the guest has had its time to accept the connection.
    pub(crate) fn is_overdue(&self) -> bool {
        self.accepted_at.elapsed() > CONNECT_TIMEOUT
    }
}

/// A datagram that a program on the host has sent.
#[derive(Debug)]
pub(crate) struct ReceivedDatagram {
    pub sender: SocketAddr,
    /// Address of the host's socket that received it.
    pub listener: SocketAddr,
    /// The guest's port that the socket stands for.
    pub guest_port: u16,
    /// Length of the payload, which is in the caller's buffer.
    pub length: usize,
}

/// All listeners on the host, and the lists of ports that they follow.
pub(crate) struct HostListeners {
    /// The machine's address on the host.
    address: Ipv4Addr,
    max_listeners: usize,
    guest: BTreeMap<(Transport, u16), GuestPort>,
    published: Vec<PublishedPort>,
    /// By the host's address, including those that could not be opened.
    listeners: HashMap<(Transport, SocketAddr), HostListener>,
    /// Open sockets that were taken over, until the guest's ports are known.
    taken_over: HashMap<(Transport, SocketAddr), HostSocket>,
    /// Whether nothing is accepted until the guest's ports are known.
    awaits_guest: bool,
    /// The listeners' states for [`crate::Network::ports`].
    statuses: Arc<Mutex<Vec<PortStatus>>>,
    /// Fires when failed listeners are to be retried; `None` when all are open.
    retry: Option<Pin<Box<Sleep>>>,
}

struct HostListener {
    guest_port: u16,
    is_published: bool,
    socket: Result<HostSocket, HostSocketError>,
}

impl HostListeners {
    /// Creates an empty set. Ports of the guest will be listened on at `address`.
    pub(crate) fn new(
        address: Ipv4Addr,
        max_listeners: usize,
        statuses: Arc<Mutex<Vec<PortStatus>>>,
    ) -> HostListeners {
        HostListeners {
            address,
            max_listeners,
            guest: BTreeMap::new(),
            published: Vec::new(),
            listeners: HashMap::new(),
            taken_over: HashMap::new(),
            awaits_guest: false,
            statuses,
            retry: None,
        }
    }

    /// Takes over the open sockets of a network that has ended. What waits there is accepted once
    /// the guest's ports are known.
    pub(crate) fn take_over(&mut self, sockets: Vec<((Transport, SocketAddr), OwnedFd)>) {
        self.awaits_guest = true;
        for ((transport, address), socket) in sockets {
            match HostSocket::from_open(transport, socket) {
                Ok(socket) => {
                    self.taken_over.insert((transport, address), socket);
                }
                Err(error) => tracing::warn!("cannot continue to listen on {address}: {error}"),
            }
        }
    }

    /// Adds the open sockets to `held`.
    pub(crate) fn hold(&self, held: &mut HeldSockets) -> io::Result<()> {
        for ((transport, address), listener) in &self.listeners {
            if let Ok(socket) = &listener.socket {
                held.add(Purpose::Listener(*transport, *address), socket.duplicate()?);
            }
        }
        Ok(())
    }

    /// Replaces the list of ports that the guest listens on.
    pub(crate) fn set_guest(&mut self, ports: Vec<GuestPort>) {
        let ports = ports.into_iter();
        self.guest = ports
            .map(|port| ((port.transport, port.port), port))
            .collect();
        self.awaits_guest = false;
        self.update();
        self.taken_over.clear();
    }

    /// Replaces the list of published ports.
    pub(crate) fn set_published(&mut self, ports: Vec<PublishedPort>) {
        self.published = ports;
        self.update();
    }

    /// Retries listeners that could not be opened, when it is time.
    pub(crate) fn poll_retry(&mut self, context: &mut Context<'_>) {
        while let Some(retry) = &mut self.retry
            && retry.as_mut().poll(context).is_ready()
        {
            self.update();
        }
    }

    /// Opens missing listeners and closes superfluous ones. Open listeners stay as they are; failed
    /// ones are retried.
    fn update(&mut self) {
        let mut previous = mem::take(&mut self.listeners);
        let published = self.published.iter();
        let published = published.map(|port| (port.transport, port.host, port.guest_port, true));
        let guest = self.guest.keys();
        let guest = guest.map(|(transport, port)| {
            let host = SocketAddr::from((self.address, *port));
            (*transport, host, *port, false)
        });
        // Published ports come first, so they win where both lists want the same address.
        for (transport, host, guest_port, is_published) in published.chain(guest) {
            let key = (transport, host);
            if self.listeners.contains_key(&key) {
                continue;
            }
            let open = previous.remove(&key).and_then(|it| it.socket.ok());
            let socket = match open.or_else(|| self.taken_over.remove(&key)) {
                Some(socket) => Ok(socket),
                _ if self.listeners.len() >= self.max_listeners => {
                    Err(HostSocketError::TooManyPorts)
                }
                _ => HostSocket::open(transport, host),
            };
            let listener = HostListener {
                guest_port,
                is_published,
                socket,
            };
            self.listeners.insert(key, listener);
        }
        let has_failed = self.listeners.values().any(|it| it.socket.is_err());
        self.retry = has_failed.then(|| Box::pin(sleep(RETRY_INTERVAL)));
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        *statuses = self.current_statuses();
    }

    fn current_statuses(&self) -> Vec<PortStatus> {
        let statuses = self.listeners.iter().map(|((transport, host), listener)| {
            let guest = self.guest.get(&(*transport, listener.guest_port));
            PortStatus {
                host: *host,
                port: listener.guest_port,
                problem: listener.socket.as_ref().err().map(ToString::to_string),
                process: guest.and_then(|guest| guest.process.clone()),
                published: listener.is_published,
                transport: *transport,
            }
        });
        let mut statuses: Vec<PortStatus> = statuses.collect();
        statuses.sort_by_key(|status| (status.port, status.transport, status.host));
        statuses
    }

    /// Whether a program in the guest was last known to listen on this port.
    pub(crate) fn has_listener(&self, transport: Transport, port: u16) -> bool {
        self.guest.contains_key(&(transport, port))
    }

    /// Returns how a port of the guest is reached; directly if no listener is known.
    pub(crate) fn reach(&self, transport: Transport, port: u16) -> Reach {
        let guest = self.guest.get(&(transport, port));
        guest.map_or(Reach::Direct, |guest| guest.reach)
    }

    /// Accepts the next connection.
    pub(crate) fn poll_accept(&self, context: &mut Context<'_>) -> Poll<AcceptedConnection> {
        if self.awaits_guest {
            return Poll::Pending;
        }
        for ((_, host), listener) in &self.listeners {
            let Ok(HostSocket::Tcp(socket)) = &listener.socket else {
                continue;
            };
            match socket.poll_accept(context) {
                Poll::Ready(Ok((stream, _))) => {
                    return Poll::Ready(AcceptedConnection {
                        stream,
                        guest_port: listener.guest_port,
                        accepted_at: Instant::now(),
                    });
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!("cannot accept a connection on {host}: {error}");
                }
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    /// Receives the next datagram into `buffer`.
    pub(crate) fn poll_datagram(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<ReceivedDatagram> {
        if self.awaits_guest {
            return Poll::Pending;
        }
        for ((_, host), listener) in &self.listeners {
            let Ok(HostSocket::Udp(socket)) = &listener.socket else {
                continue;
            };
            while let Poll::Ready(Ok(())) = socket.poll_recv_ready(context) {
                match socket.try_recv_from(buffer) {
                    Ok((length, sender)) => {
                        return Poll::Ready(ReceivedDatagram {
                            sender,
                            listener: *host,
                            guest_port: listener.guest_port,
                            length,
                        });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // The error belongs to an earlier reply, whose receiver is gone.
                    Err(error) => tracing::debug!("cannot receive on {host}: {error}"),
                }
            }
        }
        Poll::Pending
    }

    /// Sends a datagram of the guest to a program that has sent one to this listener.
    pub(crate) fn reply(&self, listener: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let listener = self.listeners.get(&(Transport::Udp, listener));
        if let Some(Ok(HostSocket::Udp(socket))) = listener.map(|listener| &listener.socket)
            && let Err(error) = socket.try_send_to(payload, to)
        {
            tracing::debug!("cannot send a datagram to {to}: {error}");
        }
    }
}
