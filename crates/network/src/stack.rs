//! The task that a network runs in.

use std::{
    future::{Future, poll_fn},
    io, mem,
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixDatagram,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant as HostInstant},
};

use container_machine::MachineAddress;
use container_protocol::{Egress, PublishedPort, RELAY_PORT, Transport, local::PortStatus, relay};
use rustix::process::{Resource, getrlimit};
use smoltcp::{time::Instant, wire::IpProtocol};
use tokio::{
    net::UnixDatagram as AsyncDatagram,
    sync::{mpsc, oneshot},
    time::{Interval, MissedTickBehavior, Sleep, interval, sleep},
};

use crate::{
    address::{
        GATEWAY, GATEWAY_LINK_LOCAL, ipv6_address, is_gateway, is_in_machine_network, mac_address,
    },
    connect_queue::ConnectQueue,
    connection::{HostConnect, connect_host, reset},
    connection_owner, dhcp, dhcp6,
    echo::{EchoRequest, Pinger},
    fragments::{self, Reassembly},
    frame::{Frame, HEADER_LENGTH},
    gate::{Flow, Gate, Verdict},
    held::{HeldSockets, Purpose},
    host_listeners::{AcceptedConnection, GuestPort, HostListeners, Reach, ReceivedDatagram},
    host_name_server,
    host_resolver::{self, HostResolver},
    host_senders::{HostSender, HostSenders},
    link::Link,
    name_server::NameServer,
    outgoing::Outgoing,
    packet::{Datagram, Packet, arp_reply, neighbor_advertisement},
    peer_flows::PeerFlows,
    peers::PeerNetwork,
    policy::Policy,
    refusals::{Refusals, RefusedPort},
    router,
    settings::Settings,
    tcp_stack::{FlowKey, TcpStack},
    udp::UdpFlows,
    usage::Usage,
};

/// Limit of frames read from the card before everything else is polled.
const MAX_BURST: usize = 64;

/// Interval at which the directory of the user's machines is looked at.
const PEER_CHECK_INTERVAL: Duration = Duration::from_secs(20);

/// Capacity of the queue of packets for the guest that other tasks make.
const INJECTED_CAPACITY: usize = 256;

/// Limit of connections, where the limit of open files allows as many.
const MAX_CONNECTIONS: usize = 4096;

/// Divisor of the limit of open files: connections get one part of it, and listeners another, so
/// that neither keeps the rest of the process from opening files.
const FILE_LIMIT_PARTS: usize = 3;

/// Largest IP packet, which is also the largest datagram.
const MAX_PACKET: usize = 65536;

/// Interval at which the stack is polled while a socket is overdue but must not send yet.
const OVERDUE_INTERVAL: Duration = Duration::from_millis(20);

/// A change of the network while it runs.
#[derive(Debug)]
pub(crate) enum Change {
    /// The ports that the guest listens on. The sender is used once the change has been made.
    Guest(Vec<GuestPort>, oneshot::Sender<()>),
    /// The published ports. The sender is used once the change has been made.
    Published(Vec<PublishedPort>, oneshot::Sender<()>),
    /// The egress rules. Connections that they do not allow are reset. The sender is used once the
    /// change has been made.
    Egress(Egress, oneshot::Sender<()>),
    /// Resets all connections, and passes nothing on until `Continue`. The sender is used once the
    /// guest's card has the resets.
    Pause(oneshot::Sender<()>),
    /// Passes nothing on until `Continue`, if there are no connections and the number of uses is
    /// still this one. The sender is used with the answer.
    PauseIfIdle(u64, oneshot::Sender<bool>),
    /// Passes everything on again.
    Continue,
    /// Ends, with the sockets of the host still open.
    Hold(oneshot::Sender<io::Result<HeldSockets>>),
}

/// The ends of a network's channels that its task has.
pub(crate) struct Channels {
    pub changes: mpsc::UnboundedReceiver<Change>,
    pub statuses: Arc<Mutex<Vec<PortStatus>>>,
    pub refused: mpsc::UnboundedSender<RefusedPort>,
    pub usage: Arc<Usage>,
    pub gate: Arc<Gate>,
}

/// Serves the card until its other end is closed, or the [`crate::Network`] is dropped. With the
/// sockets of a network that was held, nothing is accepted until the guest's ports are known.
pub(crate) async fn serve(
    card: UnixDatagram,
    settings: Settings,
    held: Option<HeldSockets>,
    channels: Channels,
) -> io::Result<()> {
    let name_server = settings.name_server;
    let mut stack = Stack::new(card, settings, held, channels)?;
    tokio::spawn(host_name_server::serve(
        name_server,
        Arc::clone(&stack.peers),
    ));
    match poll_fn(|context| stack.poll(context)).await {
        Err(error) if is_disconnected(&error) => Ok(()),
        ended => ended,
    }
}

struct Stack {
    address: MachineAddress,
    policy: Policy,
    gate: Arc<Gate>,
    link: Link,
    tcp: TcpStack,
    connect_queue: ConnectQueue,
    listeners: HostListeners,
    host_senders: HostSenders,
    udp_flows: UdpFlows,
    pinger: Pinger,
    name_server: NameServer,
    peers: Arc<PeerNetwork>,
    /// Time to look at the directory of the machines.
    peer_check: Interval,
    peer_flows: PeerFlows,
    /// Packets for the guest from other tasks (UDP, ping, DNS).
    injected: mpsc::Receiver<Vec<u8>>,
    /// The other end of `injected`, for further tasks.
    to_guest: mpsc::Sender<Vec<u8>>,
    /// Whether the gateway advertises itself as a router, which it does once it has been asked to.
    is_router: bool,
    reassembly: Reassembly,
    refusals: Refusals,
    /// Whether nothing is passed on.
    is_paused: bool,
    /// Waits for the resets of a pause.
    pausing: Option<oneshot::Sender<()>>,
    changes: mpsc::UnboundedReceiver<Change>,
    usage: Arc<Usage>,
    /// Wakes the task for the stack's next timer.
    timer: Pin<Box<Sleep>>,
    /// Buffer for a frame of the guest.
    frame: Vec<u8>,
    /// Buffer for a datagram of the host or a packet of another machine.
    buffer: Box<[u8]>,
}

impl Stack {
    fn new(
        card: UnixDatagram,
        settings: Settings,
        held: Option<HeldSockets>,
        channels: Channels,
    ) -> io::Result<Stack> {
        let address = settings.address;
        let is_taken_over = held.is_some();
        let (mut held_listeners, mut held_peers) = (Vec::new(), None);
        for (purpose, socket) in held.unwrap_or_default().take_all() {
            match purpose {
                Purpose::Listener(transport, host) => {
                    held_listeners.push(((transport, host), socket));
                }
                Purpose::Peers => held_peers = Some(socket),
            }
        }
        let mut link = Link::new(AsyncDatagram::from_std(card)?, address);
        let (to_guest, injected) = mpsc::channel(INJECTED_CAPACITY);
        let peers = PeerNetwork::join(&settings.peer_directory, &settings.id, address, held_peers)?;
        let peers = Arc::new(peers);
        let mut peer_check = interval(PEER_CHECK_INTERVAL);
        peer_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let max_files = max_open_files() / FILE_LIMIT_PARTS;
        let mut listeners = HostListeners::new(address.host(), max_files, channels.statuses);
        if is_taken_over {
            listeners.take_over(held_listeners);
        }
        listeners.set_published(settings.published);
        Ok(Stack {
            address,
            policy: settings.policy,
            tcp: TcpStack::new(&mut link, MAX_CONNECTIONS.min(max_files)),
            link,
            connect_queue: ConnectQueue::new(),
            listeners,
            host_senders: HostSenders::default(),
            udp_flows: UdpFlows::new(to_guest.clone()),
            pinger: Pinger::new(to_guest.clone()),
            name_server: NameServer::new(
                Arc::clone(&peers),
                Arc::clone(&channels.gate),
                to_guest.clone(),
            ),
            gate: channels.gate,
            to_guest,
            is_router: false,
            reassembly: Reassembly::default(),
            refusals: Refusals::new(channels.refused),
            is_paused: false,
            pausing: None,
            peers,
            peer_check,
            peer_flows: PeerFlows::default(),
            injected,
            changes: channels.changes,
            usage: channels.usage,
            timer: Box::pin(sleep(Duration::ZERO)),
            frame: vec![0; HEADER_LENGTH + MAX_PACKET],
            buffer: vec![0; MAX_PACKET].into_boxed_slice(),
        })
    }

    /// Does everything that can be done now. Ready when the network is to stop.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_changes(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.listeners.poll_retry(context);
        self.poll_peer_check(context);
        self.link.poll_send(context)?;
        let has_more_frames = self.poll_frames(context)?;
        if !self.is_paused {
            self.poll_injected(context);
            self.poll_host_datagrams(context);
            self.poll_peers(context);
            self.poll_host_connections(context);
        }
        self.poll_connections(context);
        let now = self.tcp.now();
        self.poll_egress(now, context);
        self.link.poll_send(context)?;
        self.remove_closed();
        self.poll_pause(context);
        self.usage
            .set_connections(self.tcp.len() + self.connect_queue.len());
        let is_overdue = self.poll_timer(now, context);
        if has_more_frames || is_overdue {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Applies changes. Ready when the network is to end.
    fn poll_changes(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(change) = self.changes.poll_recv(context) {
            match change {
                None => return Poll::Ready(()),
                Some(Change::Guest(ports, done)) => {
                    self.listeners.set_guest(ports);
                    // The caller may have been cancelled.
                    let _ = done.send(());
                }
                Some(Change::Published(ports, done)) => {
                    self.listeners.set_published(ports);
                    // The caller may have been cancelled.
                    let _ = done.send(());
                }
                Some(Change::Egress(egress, done)) => {
                    self.gate.set_egress(egress);
                    self.tcp.abort_prohibited();
                    self.peer_flows.refuse_prohibited(&self.gate);
                    // Each datagram is decided on, but answers to earlier ones would still pass.
                    self.udp_flows.close_all();
                    // The caller may have been cancelled.
                    let _ = done.send(());
                }
                Some(Change::Pause(done)) => {
                    self.is_paused = true;
                    self.pausing = Some(done);
                    self.tcp.abort_all();
                }
                Some(Change::PauseIfIdle(uses, done)) => {
                    self.is_paused = self.tcp.is_idle() && self.usage.uses() == uses;
                    // The caller may have been cancelled.
                    let _ = done.send(self.is_paused);
                }
                Some(Change::Hold(done)) => {
                    let held = self.hold();
                    // Without a receiver the sockets are closed.
                    let _ = done.send(held);
                    return Poll::Ready(());
                }
                Some(Change::Continue) => self.is_paused = false,
            }
        }
        Poll::Pending
    }

    /// Returns the sockets of the host, which stay open.
    fn hold(&self) -> io::Result<HeldSockets> {
        let mut held = HeldSockets::default();
        self.listeners.hold(&mut held)?;
        held.add(Purpose::Peers, self.peers.hold()?);
        Ok(held)
    }

    /// Reports that a pause has begun once all connections have been reset.
    fn poll_pause(&mut self, context: &Context<'_>) {
        if self.pausing.is_none() || self.link.is_blocked() {
            return;
        }
        if self.tcp.is_idle() {
            // The caller may have been cancelled.
            let _ = self.pausing.take().map(|done| done.send(()));
        } else {
            context.waker().wake_by_ref();
        }
    }

    /// Handles frames of the guest. Returns whether there may be more.
    fn poll_frames(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let mut frame = mem::take(&mut self.frame);
        let mut has_more = true;
        for _ in 0..MAX_BURST {
            let Poll::Ready(length) = self.link.poll_receive(&mut frame, context) else {
                has_more = false;
                break;
            };
            let length = length?;
            if !self.is_paused {
                self.receive_frame(&frame[..length]);
            }
        }
        self.frame = frame;
        Ok(has_more)
    }

    /// Sends packets of other tasks to the guest.
    fn poll_injected(&mut self, context: &mut Context<'_>) {
        while !self.link.is_blocked()
            && let Poll::Ready(Some(packet)) = self.injected.poll_recv(context)
        {
            self.send_to_guest(packet);
        }
    }

    /// Sends datagrams of the host to the guest.
    fn poll_host_datagrams(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(received) = self.listeners.poll_datagram(context, &mut self.buffer) {
            let ReceivedDatagram {
                sender,
                listener,
                guest_port,
                length,
            } = received;
            self.usage.count();
            let gateway_port = self.host_senders.port_for(HostSender {
                address: sender,
                listener,
                guest_port,
            });
            let payload = &self.buffer[..length];
            let (port, payload) = match self.listeners.reach(Transport::Udp, guest_port) {
                Reach::Direct => (guest_port, payload.to_vec()),
                Reach::Relay => (RELAY_PORT, [&relay::preface(guest_port), payload].concat()),
            };
            let datagram = Datagram {
                source: SocketAddr::from((GATEWAY, gateway_port)),
                destination: SocketAddr::from((self.address.guest(), port)),
                payload,
            };
            if let Some(packet) = datagram.to_packet() {
                self.send_to_guest(packet);
            }
        }
    }

    /// Joins the other machines again if their directory was replaced.
    fn poll_peer_check(&mut self, context: &mut Context<'_>) {
        while self.peer_check.poll_tick(context).is_ready() {
            match self.peers.rejoin() {
                Ok(true) => tracing::info!("joined the machines in their new directory"),
                Ok(false) => {}
                Err(error) => tracing::debug!("cannot join the other machines again: {error}"),
            }
        }
    }

    /// Sends packets of other machines to the guest. They are checked, because any program of the
    /// user can send them.
    fn poll_peers(&mut self, context: &mut Context<'_>) {
        while !self.link.is_blocked()
            && let Poll::Ready(length) = self.peers.poll_receive(&mut self.buffer, context)
        {
            self.usage.count();
            if let Some(packet) = Packet::parse(&self.buffer[..length])
                && self.is_guest(packet.destination)
                && !self.is_guest(packet.source)
                && !is_gateway(packet.source)
                && is_in_machine_network(packet.source)
            {
                if !fragments::is_fragment(&packet) {
                    self.peer_flows.receive(&packet, HostInstant::now());
                }
                self.link.send_packet(packet.bytes);
            }
        }
    }

    /// Accepts connections of the host's programs, as long as there is space for more.
    fn poll_host_connections(&mut self, context: &mut Context<'_>) {
        self.connect_queue.poll_retries(context);
        while self.tcp.has_space(self.connect_queue.len())
            && let Poll::Ready(accepted) = self.listeners.poll_accept(context)
        {
            self.usage.count();
            if self.policy.same_user_only && !connection_owner::is_user_or_root(&accepted.stream) {
                reset(&accepted.stream);
            } else {
                self.connect_queue.push(accepted);
            }
        }
    }

    /// Moves data of all connections, and asks the guest for those that wait.
    fn poll_connections(&mut self, context: &mut Context<'_>) {
        let polled = self.tcp.poll_connections(&mut self.link, context);
        for overdue in self.connect_queue.take_overdue() {
            reset(&overdue.stream);
        }
        for refused in polled.refused {
            self.retry_or_reset(refused);
        }
        if self.is_paused {
            return;
        }
        for accepted in self.connect_queue.take_ready(polled.connecting) {
            self.connect_to_guest(accepted);
        }
    }

    /// Sends everything that the stack has for the guest.
    fn poll_egress(&mut self, now: Instant, context: &mut Context<'_>) {
        while self.tcp.egress(now, &mut self.link) {
            // Sent data leaves space in the send buffers for more.
            self.poll_connections(context);
        }
    }

    /// Removes the sockets of closed connections, unless the card still has to take their segments.
    fn remove_closed(&mut self) {
        if !self.link.is_blocked() {
            self.tcp.remove_closed();
        }
    }

    /// Schedules the stack's next timer. Returns whether it is due already.
    fn poll_timer(&mut self, now: Instant, context: &mut Context<'_>) -> bool {
        if self.link.is_blocked() {
            // The task is woken when the card can take more.
            return false;
        }
        let Some(delay) = self.tcp.next_timer(now) else {
            return false;
        };
        // Everything that may be sent has been sent. A socket that is overdue anyway waits for the
        // host to connect (its SYN-ACK is paused), so polling it at once would be a busy loop.
        let delay = if delay.is_zero() {
            OVERDUE_INTERVAL
        } else {
            delay
        };
        let deadline = tokio::time::Instant::now() + delay;
        self.timer.as_mut().reset(deadline);
        self.timer.as_mut().poll(context).is_ready()
    }

    /// Whether the address is one of the guest's.
    fn is_guest(&self, address: IpAddr) -> bool {
        let guest = self.address.guest();
        address == guest || address == ipv6_address(guest)
    }

    /// Handles one frame of the guest. Frames that are invalid, or whose source is not the guest,
    /// are dropped.
    fn receive_frame(&mut self, frame: &[u8]) {
        match Frame::parse(frame) {
            Some(Frame::Arp(request)) => {
                let guest = self.address.guest();
                if let Some(reply) = arp_reply(request, mac_address(GATEWAY), guest) {
                    self.link.send_arp(&reply);
                }
            }
            Some(Frame::Ip(packet)) => {
                // A container that is bridged to the card has a MAC address of its own, and the
                // machine's lease is not for it.
                let is_of_card = frame[6..12] == mac_address(self.address.guest());
                if !(is_of_card && self.configure_guest(&packet)) {
                    self.receive_packet(&packet);
                }
            }
            None => {}
        }
    }

    /// Answers a request for the guest's own configuration: DHCP, DHCPv6 or a router solicitation.
    /// Returns whether the packet was one.
    fn configure_guest(&mut self, packet: &Packet<'_>) -> bool {
        // Without a network, the guest has no use for them, and they say much about the host.
        let search = || {
            if self.gate.is_closed() {
                Vec::new()
            } else {
                HostResolver::read().search
            }
        };
        let reply = if let Some(advertisement) = router::answer(packet) {
            if !self.is_router {
                self.is_router = true;
                tokio::spawn(router::advertise(self.to_guest.clone()));
            }
            Some(advertisement)
        } else {
            dhcp::answer(packet, self.address, search)
                .or_else(|| dhcp6::answer(packet, self.address, search))
        };
        let is_answered = reply.is_some();
        if let Some(reply) = reply {
            self.link.send_packet(&reply);
        }
        is_answered
    }

    fn receive_packet(&mut self, packet: &Packet<'_>) {
        if packet.protocol == IpProtocol::Icmpv6 {
            // The gateway answers for every other machine, because it forwards to all of them.
            let is_forwarded = |target: IpAddr| {
                target == GATEWAY_LINK_LOCAL
                    || is_in_machine_network(target) && !self.is_guest(target)
            };
            let gateway = mac_address(GATEWAY);
            let reply = neighbor_advertisement(packet, gateway, |it| is_forwarded(it.into()));
            if let Some(reply) = reply {
                return self.link.send_packet(&reply);
            }
        }
        if !self.is_guest(packet.source) {
            // Without an answer, a connection from the link-local address would hang for minutes.
            if let Some(reply) = packet.beyond_scope() {
                self.link.send_packet(&reply);
            }
            return;
        }
        if fragments::is_fragment(packet) {
            // Only the rules have to know what the fragments are of.
            let destination = packet.destination;
            let is_for_machine = is_in_machine_network(destination) && !is_gateway(destination);
            if is_for_machine && self.gate.is_open() {
                return self.forward_to_machine(packet);
            }
            if let Some(whole) = self.reassembly.add(packet)
                && let Some(whole) = Packet::parse(&whole)
            {
                self.receive_whole(&whole);
            }
            return;
        }
        self.receive_whole(packet);
    }

    /// Handles a packet of the guest, which is no fragment.
    fn receive_whole(&mut self, packet: &Packet<'_>) {
        if is_in_machine_network(packet.destination) && !is_gateway(packet.destination) {
            return self.send_to_machine(packet);
        }
        match packet.protocol {
            IpProtocol::Tcp => self.receive_segment(packet),
            IpProtocol::Udp => self.receive_datagram(packet),
            IpProtocol::Icmp | IpProtocol::Icmpv6 => self.receive_ping(packet),
            _ => {}
        }
    }

    /// Sends a packet of the guest to another machine, if the rules allow it.
    fn send_to_machine(&mut self, packet: &Packet<'_>) {
        let is_allowed = self
            .peer_flows
            .allows(packet, &self.gate, HostInstant::now());
        if !is_allowed && packet.protocol == IpProtocol::Tcp {
            // No socket of the stack has this address, so it answers with a reset.
            return self.tcp.receive(packet, &mut self.link);
        }
        if !is_allowed {
            return self.send_prohibited(packet);
        }
        self.forward_to_machine(packet);
    }

    fn forward_to_machine(&mut self, packet: &Packet<'_>) {
        match self.peers.send(packet.destination, packet.bytes) {
            Ok(()) => self.usage.count(),
            Err(_) => self.send_unreachable(packet),
        }
    }

    /// Handles a TCP segment of the guest.
    fn receive_segment(&mut self, packet: &Packet<'_>) {
        let Some((key, is_first)) = FlowKey::parse(packet) else {
            return;
        };
        if is_first
            && !self.tcp.has_connection(&key)
            && let Some((connect, outgoing)) = self.connect_host(key.remote)
        {
            self.tcp.accept_from_guest(key, packet, connect, outgoing);
        }
        self.tcp.receive(packet, &mut self.link);
    }

    /// Starts to connect to the server that the guest wants. Returns `None` when that is not
    /// allowed.
    fn connect_host(&mut self, wanted: SocketAddr) -> Option<(HostConnect, Option<Outgoing>)> {
        if is_gateway(wanted.ip()) && wanted.port() == host_resolver::PORT {
            return Some((self.name_server.connect(), None));
        }
        if is_gateway(wanted.ip()) && !self.policy.host_loopback {
            self.refusals.note(RefusedPort {
                port: wanted.port(),
                allowed_by_rules: self.gate.permits(Flow::Tcp(wanted)),
            });
        }
        let gate = Arc::clone(&self.gate);
        let (to, outgoing) = match self.gate.decide(Flow::Tcp(wanted)) {
            Verdict::Allowed(to) => (to, Outgoing::allowed(gate, wanted)),
            Verdict::IfNamed(to, address_use) => {
                (to, Outgoing::if_named(gate, wanted, address_use))
            }
            Verdict::Unreachable | Verdict::Prohibited => return None,
        };
        Some((connect_host(to), Some(outgoing)))
    }

    /// Asks the guest to accept a connection of the host.
    fn connect_to_guest(&mut self, accepted: AcceptedConnection) {
        let port = accepted.guest_port;
        if let Err(error) = accepted.stream.set_nodelay(true) {
            tracing::debug!("cannot set TCP_NODELAY for port {port}: {error}");
        }
        // The agent's relay expects the wanted port ahead of the data.
        let (guest_port, preface) = match self.listeners.reach(Transport::Tcp, port) {
            Reach::Direct => (port, Vec::new()),
            Reach::Relay => (RELAY_PORT, relay::preface(port).to_vec()),
        };
        let guest = SocketAddr::from((self.address.guest(), guest_port));
        self.tcp.connect_to_guest(guest, accepted, preface);
    }

    /// Retries a refused connection if the guest is known to listen: a server that restarts listens
    /// again at once, but the host's side is connected already and cannot be refused any more.
    fn retry_or_reset(&self, refused: AcceptedConnection) {
        let has_listener = self
            .listeners
            .has_listener(Transport::Tcp, refused.guest_port);
        let refused = if has_listener {
            self.connect_queue.retry(refused)
        } else {
            Err(refused)
        };
        if let Err(refused) = refused {
            reset(&refused.stream);
        }
    }

    /// Handles a datagram of the guest.
    fn receive_datagram(&mut self, packet: &Packet<'_>) {
        let Some(datagram) = Datagram::parse(packet) else {
            return;
        };
        let to = datagram.destination;
        if to.ip() == GATEWAY
            && let Some(sender) = self.host_senders.get(to.port(), datagram.source.port())
        {
            let payload = &datagram.payload;
            return self
                .listeners
                .reply(sender.listener, sender.address, payload);
        }
        if is_gateway(to.ip()) && to.port() == host_resolver::PORT {
            return self.name_server.ask(datagram);
        }
        let is_answer = self
            .listeners
            .has_listener(Transport::Udp, datagram.source.port());
        if is_gateway(to.ip()) && !self.policy.host_loopback && is_answer {
            // The sender on the host is not known any more. This is no attempt of the guest.
            return self.send_unreachable(packet);
        }
        match self.gate.decide(Flow::Udp(to)) {
            Verdict::Allowed(to) | Verdict::IfNamed(to, _) => self.udp_flows.send(datagram, to),
            Verdict::Unreachable => self.send_unreachable(packet),
            Verdict::Prohibited => self.send_prohibited(packet),
        }
    }

    /// Handles an ICMP message of the guest. Only echo requests are supported.
    fn receive_ping(&mut self, packet: &Packet<'_>) {
        let Some(request) = EchoRequest::parse(packet) else {
            return;
        };
        if is_gateway(request.destination) {
            if let Some(reply) = request.reply() {
                self.send_to_guest(reply);
            }
            return;
        }
        match self.gate.decide(Flow::Portless(request.destination)) {
            Verdict::Allowed(_) | Verdict::IfNamed(..) => self.pinger.ping(request),
            Verdict::Unreachable => self.send_unreachable(packet),
            Verdict::Prohibited => self.send_prohibited(packet),
        }
    }

    /// Sends a packet that this process has made to the guest.
    fn send_to_guest(&mut self, packet: Vec<u8>) {
        for packet in fragments::for_any_link(packet) {
            self.link.send_packet(&packet);
        }
    }

    /// Notifies the guest that its packet cannot be delivered.
    fn send_unreachable(&mut self, packet: &Packet<'_>) {
        if let Some(reply) = packet.unreachable() {
            self.link.send_packet(&reply);
        }
    }

    /// Notifies the guest that the rules do not allow its packet.
    fn send_prohibited(&mut self, packet: &Packet<'_>) {
        if let Some(reply) = packet.prohibited() {
            self.link.send_packet(&reply);
        }
    }
}

/// Returns the limit of open files of this process.
fn max_open_files() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Whether the card's other end has been closed, which is how a machine ends.
fn is_disconnected(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::BrokenPipe
    )
}
