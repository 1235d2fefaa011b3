//! The guest's side of all TCP connections: smoltcp's interface and sockets.

use std::{
    collections::HashMap,
    net::SocketAddr,
    task::Context,
    time::{Duration, Instant as HostInstant},
};

use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    socket::{self, tcp::Socket},
    time::Instant,
    wire::{HardwareAddress, IpCidr, IpEndpoint, TcpPacket},
};

use crate::{
    address::{GATEWAY, GATEWAY6, PREFIX, PREFIX6},
    buffer_budget::BufferBudget,
    connect_queue::ConnectingCounts,
    connection::{Connection, HostConnect, Progress, stack_socket},
    host_listeners::AcceptedConnection,
    link::{Link, StackDevice},
    outgoing::Outgoing,
    packet::Packet,
    throttle::Throttle,
};

/// Speed-up of the clock given to smoltcp. RFC 6298 (2.4) sets a minimum retransmission timeout of
/// 1 s; a clock five times as fast makes it 200 ms, as on Linux. It matters because a guest with a
/// full accept queue drops the SYN.
const CLOCK_SPEEDUP: u32 = 5;

/// First and last port from which the gateway connects to the guest: Linux' ephemeral ports.
const FIRST_GATEWAY_PORT: u16 = 32768;
const LAST_GATEWAY_PORT: u16 = 60999;

/// The two endpoints of a connection, as the guest sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    /// The guest's address.
    pub guest: SocketAddr,
    /// The address that the guest is connected to: any address on the host's side.
    pub remote: SocketAddr,
}

impl FlowKey {
    /// Parses the endpoints of a packet from the guest. Also returns whether its segment opens a
    /// connection.
    pub(crate) fn parse(packet: &Packet<'_>) -> Option<(FlowKey, bool)> {
        let segment = TcpPacket::new_checked(packet.payload).ok()?;
        let key = FlowKey {
            guest: SocketAddr::new(packet.source, segment.src_port()),
            remote: SocketAddr::new(packet.destination, segment.dst_port()),
        };
        Some((key, segment.syn() && !segment.ack()))
    }
}

/// All TCP connections of the guest.
pub(crate) struct TcpStack {
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: HashMap<FlowKey, (SocketHandle, Connection)>,
    max_connections: usize,
    buffers: BufferBudget,
    /// Connections of the guest that were one too many.
    refused: Throttle,
    next_gateway_port: u16,
    started_at: HostInstant,
    /// Sockets of closed connections. They are kept until their last segment has been sent.
    closed: Vec<SocketHandle>,
}

/// The result of polling all connections.
#[derive(Debug, Default)]
pub(crate) struct PolledConnections {
    /// Connections of the host that the guest has refused.
    pub refused: Vec<AcceptedConnection>,
    /// Connections that wait for the guest's answer.
    pub connecting: ConnectingCounts,
}

impl TcpStack {
    pub(crate) fn new(link: &mut Link, max_connections: usize) -> TcpStack {
        let config = Config::new(HardwareAddress::Ip);
        let mut device = StackDevice { link, packet: None };
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|own| {
            // The list is empty, and has space for two.
            let _ = own.push(IpCidr::new(GATEWAY.into(), PREFIX));
            let _ = own.push(IpCidr::new(GATEWAY6.into(), PREFIX6));
        });
        // The stack answers for every address that the guest connects to.
        interface.set_any_ip(true);
        TcpStack {
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: HashMap::new(),
            max_connections,
            buffers: BufferBudget::new(max_connections),
            refused: Throttle::default(),
            next_gateway_port: FIRST_GATEWAY_PORT,
            started_at: HostInstant::now(),
            closed: Vec::new(),
        }
    }

    /// Returns the time on the stack's clock.
    pub(crate) fn now(&self) -> Instant {
        let elapsed = self.started_at.elapsed() * CLOCK_SPEEDUP;
        Instant::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
    }

    /// Whether one more connection is allowed when `waiting` others are about to be opened.
    pub(crate) fn has_space(&self, waiting: usize) -> bool {
        // The guest decides when closed ones have sent their last segment.
        self.connections.len() + self.closed.len() + waiting < self.max_connections
    }

    pub(crate) fn has_connection(&self, key: &FlowKey) -> bool {
        self.connections.contains_key(key)
    }

    /// Opens a socket for a connection of the guest. The guest's SYN, to be passed to
    /// [`TcpStack::receive`] next, is answered once `connect` has succeeded.
    pub(crate) fn accept_from_guest(
        &mut self,
        key: FlowKey,
        first_packet: &Packet<'_>,
        connect: HostConnect,
        outgoing: Option<Outgoing>,
    ) {
        if !self.has_space(0) {
            if let Some(more) = self.refused.admit() {
                tracing::warn!(
                    "connection of the guest refused: the limit of {} connections is reached \
                     ({more} more refused before)",
                    self.max_connections
                );
            }
            return;
        }
        let size = self.buffers.take();
        let mut socket = stack_socket(size);
        socket.pause_synack(true);
        if socket.listen(IpEndpoint::from(key.remote)).is_ok() {
            let handle = self.sockets.add(socket);
            let connection = Connection::from_guest(connect, outgoing, first_packet.bytes.to_vec());
            self.connections.insert(key, (handle, connection));
        } else {
            self.buffers.give_back(size);
        }
    }

    /// Connects to the guest from a free port of the gateway, for a connection of the host.
    pub(crate) fn connect_to_guest(
        &mut self,
        guest: SocketAddr,
        accepted: AcceptedConnection,
        preface: Vec<u8>,
    ) {
        let Some(key) = self.free_key(guest) else {
            return;
        };
        let size = self.buffers.take();
        let mut socket = stack_socket(size);
        let (to, from) = (IpEndpoint::from(key.guest), IpEndpoint::from(key.remote));
        match socket.connect(self.interface.context(), to, from) {
            Ok(()) => {
                let handle = self.sockets.add(socket);
                let connection = Connection::from_host(accepted, preface);
                self.connections.insert(key, (handle, connection));
            }
            Err(error) => {
                self.buffers.give_back(size);
                tracing::warn!("cannot connect to the guest's {guest}: {error}");
            }
        }
    }

    /// Returns endpoints of an unused connection from the gateway to the guest.
    fn free_key(&mut self, guest: SocketAddr) -> Option<FlowKey> {
        for _ in FIRST_GATEWAY_PORT..=LAST_GATEWAY_PORT {
            let remote = SocketAddr::from((GATEWAY, self.next_gateway_port));
            self.next_gateway_port = match self.next_gateway_port {
                LAST_GATEWAY_PORT => FIRST_GATEWAY_PORT,
                port => port + 1,
            };
            let key = FlowKey { guest, remote };
            if !self.connections.contains_key(&key) {
                return Some(key);
            }
        }
        None
    }

    /// Passes a packet of the guest to its socket. A packet without a socket is answered with a
    /// reset.
    pub(crate) fn receive(&mut self, packet: &Packet<'_>, link: &mut Link) {
        let now = self.now();
        let mut device = StackDevice {
            link,
            packet: Some(packet.bytes),
        };
        self.interface
            .poll_ingress_single(now, &mut device, &mut self.sockets);
    }

    /// Moves data of every connection, and removes closed connections.
    pub(crate) fn poll_connections(
        &mut self,
        link: &mut Link,
        context: &mut Context<'_>,
    ) -> PolledConnections {
        let mut polled = PolledConnections::default();
        let (sockets, closed) = (&mut self.sockets, &mut self.closed);
        self.connections.retain(|_, (handle, connection)| {
            let socket = sockets.get_mut::<Socket<'_>>(*handle);
            match connection.poll(socket, context) {
                Progress::Open => {
                    if let Some(port) = connection.connecting_port() {
                        *polled.connecting.entry(port).or_default() += 1;
                    }
                    return true;
                }
                Progress::Closed => {}
                Progress::Refused(accepted) => polled.refused.push(accepted),
                Progress::Unreachable(first_packet) => {
                    let first_packet = Packet::parse(&first_packet);
                    if let Some(reply) = first_packet.and_then(|packet| packet.unreachable()) {
                        link.send_packet(&reply);
                    }
                }
            }
            closed.push(*handle);
            false
        });
        polled
    }

    /// Lets every socket send at most one packet. Returns whether sockets may have more to do.
    pub(crate) fn egress(&mut self, now: Instant, link: &mut Link) -> bool {
        let mut device = StackDevice { link, packet: None };
        let result = self
            .interface
            .poll_egress(now, &mut device, &mut self.sockets);
        result == PollResult::SocketStateChanged
    }

    /// Resets all connections.
    pub(crate) fn abort_all(&mut self) {
        for (handle, _) in self.connections.values() {
            self.sockets.get_mut::<Socket<'_>>(*handle).abort();
        }
    }

    /// Resets the connections that the egress rules, which have changed, do not allow.
    pub(crate) fn abort_prohibited(&mut self) {
        for (handle, connection) in self.connections.values() {
            if !connection.is_still_allowed() {
                self.sockets.get_mut::<Socket<'_>>(*handle).abort();
            }
        }
    }

    /// Returns the number of open connections.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Returns whether there are no connections, and all their segments have been sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.closed.is_empty()
    }

    /// Removes the sockets of closed connections. To be called when all packets have been sent.
    pub(crate) fn remove_closed(&mut self) {
        for handle in self.closed.drain(..) {
            let socket::Socket::Tcp(socket) = self.sockets.remove(handle);
            self.buffers.give_back(socket.recv_capacity());
        }
    }

    /// Returns the host's time until a socket has a timer to handle, if one has.
    pub(crate) fn next_timer(&mut self, now: Instant) -> Option<Duration> {
        let delay = self.interface.poll_delay(now, &self.sockets)?;
        Some(Duration::from(delay) / CLOCK_SPEEDUP)
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixDatagram, task::Waker};

    use container_machine::MachineAddress;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn connections_that_a_hanging_guest_does_not_accept_end() {
        let (card, _guest) = UnixDatagram::pair().unwrap();
        card.set_nonblocking(true).unwrap();
        let card = tokio::net::UnixDatagram::from_std(card).unwrap();
        let address = MachineAddress::from_index(0);
        let mut link = Link::new(card, address);
        let mut tcp = TcpStack::new(&mut link, 10);
        let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut clients = Vec::new();
        for seconds in [1, 3600] {
            clients.push(
                TcpStream::connect(host.local_addr().unwrap())
                    .await
                    .unwrap(),
            );
            let accepted = AcceptedConnection {
                stream: host.accept().await.unwrap().0,
                guest_port: 80,
                accepted_at: HostInstant::now() - Duration::from_secs(seconds),
            };
            tcp.connect_to_guest((address.guest(), 80).into(), accepted, Vec::new());
        }
        assert_eq!(tcp.len(), 2);
        let mut context = Context::from_waker(Waker::noop());
        let polled = tcp.poll_connections(&mut link, &mut context);
        assert_eq!(polled.refused.len(), 1);
        assert!(polled.refused[0].is_overdue());
        assert_eq!(polled.connecting.get(&80), Some(&1));
        assert_eq!(tcp.len(), 1);
    }
}
