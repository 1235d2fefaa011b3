//! The loop that all of it runs in.

use std::{
    collections::{HashMap, VecDeque},
    future::{Future, poll_fn},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::net::UnixDatagram,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use container_protocol::{RELAY_PORT, Transport, local::PortStatus};
use rustix::process::{Resource, getrlimit};
use smoltcp::{
    iface::{Config, Interface, PollResult, SocketHandle, SocketSet},
    socket::tcp::{self as stack_tcp},
    time::Instant,
    wire::{HardwareAddress, IpCidr, IpEndpoint, IpProtocol, TcpPacket},
};
use tokio::{
    net::{TcpStream, UnixDatagram as AsyncDatagram},
    sync::mpsc,
    time::{Sleep, sleep},
};

use crate::{
    Change, Settings, caller,
    echo::{Pinger, Question},
    host_names,
    inbound::{Accepted, Inbound, Reach, Received},
    link::{ARP, HEADER, IPV4, IPV6, Link, Port},
    names::{self, NameServer},
    packet::{Datagram, Packet, arp_answer, neighbour_answer},
    segment::{GATEWAY, GATEWAY6, PREFIX, PREFIX6, Segment, card, is_gateway, is_of_segment, v6},
    tcp::{self, Connection, Progress},
    udp::{Caller, Callers, Flows},
};

/// Frames that are taken from the card before the rest has its turn.
const BURST: usize = 64;

/// Packets for the guest that wait at most.
const WAITING: usize = 256;

/// Connections at most, where the process may have as many files open; beyond that none are taken.
const MOST_CONNECTIONS: usize = 4096;

/// The part of a process's files that connections, and that listeners may take, so that neither is in the
/// way of anything else.
const PART: usize = 3;

/// How long a guest may refuse connections to a port that it was known to listen on.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is asked until then.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How often what another program listens on is tried again: it may have ended.
const LISTEN_AGAIN: Duration = Duration::from_secs(2);

/// How often what the stack's clock is to do is looked after while that cannot be told.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How much faster than the world's the stack's clock is. What is lost it sends again after a second of
/// its own at the earliest (RFC 6298, 2.4); this makes it 200 ms, as Linux has it, since a guest whose
/// server is slow to accept drops what it has no room for.
const HASTE: u32 = 5;

/// Connections to one port of the guest's that may be on their way at once. A server with a short
/// queue has no room for more, and the others are better off waiting here than being dropped there.
const MOST_ASKED: usize = 8;

/// Ports from which the gateway connects to the guest: those that Linux uses for that.
const FIRST_PORT: u16 = 32768;
const LAST_PORT: u16 = 60999;

/// A connection's two ends: the guest's, and the one that it sees on the other side.
type Ends = (SocketAddr, SocketAddr);

/// Serves the card until its other end is closed, or nobody has the network any more.
pub async fn serve(
    card: UnixDatagram,
    settings: Settings,
    changes: mpsc::UnboundedReceiver<Change>,
    statuses: Arc<Mutex<Vec<PortStatus>>>,
) -> io::Result<()> {
    let name_server = settings.name_server;
    let mut stack = Stack::new(card, settings, changes, statuses)?;
    tokio::spawn(host_names::serve(name_server, Arc::clone(&stack.segment)));
    poll_fn(|context| stack.turn(context)).await
}

struct Stack {
    settings: Settings,
    link: Link,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: HashMap<Ends, (SocketHandle, Connection)>,
    most_connections: usize,
    next_port: u16,
    inbound: Inbound,
    callers: Callers,
    flows: Flows,
    pinger: Pinger,
    names: NameServer,
    segment: Arc<Segment>,
    peers: AsyncDatagram,
    packets: mpsc::Receiver<Vec<u8>>,
    changes: mpsc::UnboundedReceiver<Change>,
    statuses: Arc<Mutex<Vec<PortStatus>>>,
    /// Connections that wait until the guest can be asked, by its port, and how many it is asked for.
    waiting: HashMap<u16, VecDeque<Accepted>>,
    asked: HashMap<u16, usize>,
    /// Connections that the guest has refused, to be asked for again.
    refused: mpsc::UnboundedReceiver<Accepted>,
    again: mpsc::UnboundedSender<Accepted>,
    timer: Pin<Box<Sleep>>,
    /// When what could not be listened for is tried again.
    again_at: Option<Pin<Box<Sleep>>>,
    begin: std::time::Instant,
    /// Sockets that are over, as soon as they have said so.
    over: Vec<SocketHandle>,
    frame: Vec<u8>,
    buffer: Box<[u8]>,
}

impl Stack {
    fn new(
        card: UnixDatagram,
        settings: Settings,
        changes: mpsc::UnboundedReceiver<Change>,
        statuses: Arc<Mutex<Vec<PortStatus>>>,
    ) -> io::Result<Stack> {
        let address = settings.address;
        let mut link = Link::new(AsyncDatagram::from_std(card)?, address);
        let config = Config::new(HardwareAddress::Ip);
        let mut port = Port {
            link: &mut link,
            packet: None,
        };
        let mut interface = Interface::new(config, &mut port, Instant::ZERO);
        interface.update_ip_addrs(|own| {
            // It is empty, and has room for two.
            let _ = own.push(IpCidr::new(GATEWAY.into(), PREFIX));
            let _ = own.push(IpCidr::new(GATEWAY6.into(), PREFIX6));
        });
        // All the world's addresses are this stack's own.
        interface.set_any_ip(true);
        let (to_guest, packets) = mpsc::channel(WAITING);
        let (again, refused) = mpsc::unbounded_channel();
        let (segment, peers) = Segment::join(&settings.segment, &settings.id, address)?;
        let segment = Arc::new(segment);
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let mut inbound = Inbound::at(address.host(), files / PART);
        inbound.set_published(settings.published.clone());
        let mut stack = Stack {
            link,
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: HashMap::new(),
            most_connections: MOST_CONNECTIONS.min(files / PART),
            next_port: FIRST_PORT,
            inbound,
            callers: Callers::default(),
            flows: Flows::new(to_guest.clone()),
            pinger: Pinger::new(to_guest.clone()),
            names: NameServer::new(Arc::clone(&segment), to_guest),
            segment,
            peers,
            packets,
            changes,
            statuses,
            waiting: HashMap::new(),
            asked: HashMap::new(),
            refused,
            again,
            timer: Box::pin(sleep(Duration::ZERO)),
            again_at: None,
            begin: std::time::Instant::now(),
            over: Vec::new(),
            frame: vec![0; HEADER + 65536],
            buffer: vec![0; 65536].into_boxed_slice(),
            settings,
        };
        stack.tell_statuses();
        Ok(stack)
    }

    /// What time it is for the stack, whose clock is fast.
    fn now(&self) -> Instant {
        let elapsed = self.begin.elapsed() * HASTE;
        Instant::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
    }

    /// Does all that can be done now. Ready when there is nothing left to serve.
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Poll::Ready(change) = self.changes.poll_recv(context) {
            match change {
                None => return Poll::Ready(Ok(())),
                Some(Change::Guest(ports)) => self.inbound.set_guest(ports),
                Some(Change::Published(ports, done)) => {
                    self.inbound.set_published(ports);
                    self.tell_statuses();
                    // Whoever asked may have gone.
                    let _ = done.send(());
                }
            }
            self.tell_statuses();
        }
        while let Some(again_at) = &mut self.again_at
            && again_at.as_mut().poll(context).is_ready()
        {
            self.inbound.listen();
            self.tell_statuses();
        }
        if let Err(error) = self.link.poll_send(context) {
            return Poll::Ready(ended(error));
        }
        let mut frame = std::mem::take(&mut self.frame);
        let mut is_more = true;
        for _ in 0..BURST {
            match self.link.poll_receive(&mut frame, context) {
                Poll::Pending => {
                    is_more = false;
                    break;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(ended(error)),
                Poll::Ready(Ok(length)) => self.arrived(&frame[..length]),
            }
        }
        self.frame = frame;
        self.others(context);
        while let Poll::Ready(Some(refused)) = self.refused.poll_recv(context) {
            self.wait_for_guest(refused);
        }
        while self.connections.len() + self.waiting_count() < self.most_connections
            && let Poll::Ready(accepted) = self.inbound.poll_accept(context)
        {
            if self.may_connect(&accepted.stream) {
                self.wait_for_guest(accepted);
            } else {
                tcp::reset(&accepted.stream);
            }
        }
        self.carry(context);
        let now = self.now();
        while self.depart(now) == PollResult::SocketStateChanged {
            // Sent bytes make room for more.
            self.carry(context);
        }
        if let Err(error) = self.link.poll_send(context) {
            return Poll::Ready(ended(error));
        }
        if !self.link.is_blocked() {
            for handle in self.over.drain(..) {
                self.sockets.remove(handle);
            }
        }
        match self.interface.poll_delay(now, &self.sockets) {
            // The card's room is waited for.
            _ if self.link.is_blocked() => {}
            Some(delay) => {
                // All that can be sent has been sent. A socket that would and may not yet, as the host has
                // still to connect, is no reason to be busy.
                let delay = match Duration::from(delay) / HASTE {
                    Duration::ZERO => LOOK_AGAIN,
                    delay => delay,
                };
                let deadline = tokio::time::Instant::now() + delay;
                self.timer.as_mut().reset(deadline);
                is_more |= self.timer.as_mut().poll(context).is_ready();
            }
            None => {}
        }
        if is_more {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Tells how the listeners stand, after they have changed.
    fn tell_statuses(&mut self) {
        let is_lacking = self.inbound.is_lacking();
        self.again_at = is_lacking.then(|| Box::pin(sleep(LISTEN_AGAIN)));
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        *statuses = self.inbound.statuses();
    }

    /// Lets the stack send a packet for each socket that has one.
    fn depart(&mut self, now: Instant) -> PollResult {
        let mut port = Port {
            link: &mut self.link,
            packet: None,
        };
        self.interface
            .poll_egress(now, &mut port, &mut self.sockets)
    }

    /// Packets for the guest that do not come from the stack.
    fn others(&mut self, context: &mut Context<'_>) {
        while !self.link.is_blocked()
            && let Poll::Ready(Some(packet)) = self.packets.poll_recv(context)
        {
            self.link.send_packet(&packet);
        }
        while let Poll::Ready(received) = self.inbound.poll_datagram(context, &mut self.buffer) {
            let Received {
                from,
                at,
                port,
                length,
            } = received;
            let gateway_port = self.callers.port_for(Caller {
                address: from,
                at,
                guest_port: port,
            });
            let payload = &self.buffer[..length];
            let (guest_port, payload) = match self.inbound.reach(Transport::Udp, port) {
                Reach::Direct => (port, payload.to_vec()),
                Reach::Relay => (RELAY_PORT, [&port.to_be_bytes(), payload].concat()),
            };
            let datagram = Datagram {
                source: SocketAddr::from((GATEWAY, gateway_port)),
                destination: SocketAddr::from((self.settings.address.guest(), guest_port)),
                payload,
            };
            if let Some(packet) = datagram.packet() {
                self.link.send_packet(&packet);
            }
        }
        while !self.link.is_blocked()
            && let Poll::Ready(Ok(())) = self.peers.poll_recv_ready(context)
        {
            let Ok(length) = self.peers.try_recv(&mut self.buffer) else {
                continue;
            };
            if let Some(packet) = Packet::of(&self.buffer[..length])
                && self.is_own(packet.destination)
                && !self.is_own(packet.source)
                && !is_gateway(packet.source)
                && is_of_segment(packet.source)
            {
                self.link.send_packet(packet.bytes);
            }
        }
    }

    /// Whether this is one of the guest's addresses.
    fn is_own(&self, address: IpAddr) -> bool {
        let own = self.settings.address.guest();
        address == own || address == v6(own)
    }

    /// A frame from the guest.
    fn arrived(&mut self, frame: &[u8]) {
        let Some((header, payload)) = frame.split_at_checked(HEADER) else {
            return;
        };
        if header[12..] == ARP {
            let own = self.settings.address.guest();
            if let Some(answer) = arp_answer(payload, card(GATEWAY), own) {
                self.link.send_arp(&answer);
            }
            return;
        }
        let Some(packet) = Packet::of(payload) else {
            return;
        };
        if header[12..] != IPV4 && header[12..] != IPV6 {
            return;
        }
        if packet.protocol == IpProtocol::Icmpv6 {
            let is_here =
                |target: Ipv6Addr| is_of_segment(target.into()) && !self.is_own(target.into());
            if let Some(answer) = neighbour_answer(&packet, card(GATEWAY), is_here) {
                return self.link.send_packet(&answer);
            }
        }
        if !self.is_own(packet.source) {
            return;
        }
        let destination = packet.destination;
        if is_of_segment(destination) && !is_gateway(destination) {
            let sent = self.segment.send(&self.peers, destination, packet.bytes);
            if sent.is_err() {
                self.unreachable(&packet);
            }
            return;
        }
        match packet.protocol {
            IpProtocol::Tcp => self.segment_arrived(&packet),
            IpProtocol::Udp => self.datagram_arrived(&packet),
            IpProtocol::Icmp | IpProtocol::Icmpv6 => self.ping_arrived(&packet),
            _ => {}
        }
    }

    fn segment_arrived(&mut self, packet: &Packet<'_>) {
        let Ok(segment) = TcpPacket::new_checked(packet.payload) else {
            return;
        };
        let ends = (
            SocketAddr::new(packet.source, segment.src_port()),
            SocketAddr::new(packet.destination, segment.dst_port()),
        );
        let is_first = segment.syn() && !segment.ack();
        if is_first && !self.connections.contains_key(&ends) {
            self.guest_connects(ends, packet);
        }
        // What has no socket is answered with a reset.
        let now = self.now();
        let mut port = Port {
            link: &mut self.link,
            packet: Some(packet.bytes),
        };
        self.interface
            .poll_ingress_single(now, &mut port, &mut self.sockets);
    }

    /// The guest wants to connect: its first segment waits in a socket until the host has connected.
    fn guest_connects(&mut self, ends: Ends, first: &Packet<'_>) {
        let (_, wanted) = ends;
        let is_of_names = is_gateway(wanted.ip()) && wanted.port() == names::PORT;
        let connecting = match self.settings.policy.destination(wanted) {
            _ if is_of_names => self.names.connect(),
            Some(destination) => tcp::connect(destination),
            None => return,
        };
        if self.connections.len() >= self.most_connections {
            let most = self.most_connections;
            tracing::warn!("the machine has {most} connections, and gets no more");
            return;
        }
        let mut socket = tcp::socket();
        socket.pause_synack(true);
        if socket.listen(IpEndpoint::from(wanted)).is_ok() {
            let handle = self.sockets.add(socket);
            let connection = Connection::from_guest(connecting, first.bytes.to_vec());
            self.connections.insert(ends, (handle, connection));
        }
    }

    /// Connections that wait until the guest can be asked.
    fn waiting_count(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    fn wait_for_guest(&mut self, accepted: Accepted) {
        let waiting = self.waiting.entry(accepted.port).or_default();
        waiting.push_back(accepted);
    }

    /// Asks the guest for those whose turn it is.
    fn ask_waiting(&mut self) {
        let mut next = Vec::new();
        for (port, waiting) in &mut self.waiting {
            let asked = self.asked.entry(*port).or_default();
            while *asked < MOST_ASKED
                && let Some(accepted) = waiting.pop_front()
            {
                *asked += 1;
                next.push(accepted);
            }
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        for accepted in next {
            self.ask_guest(accepted);
        }
    }

    /// Someone on the host has connected: the guest is connected to from the gateway.
    fn ask_guest(&mut self, accepted: Accepted) {
        let Accepted {
            stream,
            port,
            since,
        } = accepted;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("a connection to port {port}: {error}");
        }
        let (guest_port, preface) = match self.inbound.reach(Transport::Tcp, port) {
            Reach::Direct => (port, Vec::new()),
            Reach::Relay => (RELAY_PORT, port.to_be_bytes().to_vec()),
        };
        let guest = SocketAddr::from((self.settings.address.guest(), guest_port));
        let Some(gateway) = self.free_end(guest) else {
            return;
        };
        let mut socket = tcp::socket();
        let context = self.interface.context();
        match socket.connect(context, IpEndpoint::from(guest), IpEndpoint::from(gateway)) {
            Ok(()) => {
                let handle = self.sockets.add(socket);
                let question = tcp::Question {
                    port,
                    since,
                    preface,
                };
                let connection = Connection::from_host(stream, question);
                self.connections
                    .insert((guest, gateway), (handle, connection));
            }
            Err(error) => tracing::warn!("connecting to the guest's port {guest_port}: {error}"),
        }
    }

    /// Whether whoever has connected may.
    fn may_connect(&self, stream: &TcpStream) -> bool {
        !self.settings.policy.same_user_only || caller::is_owner_or_root(stream)
    }

    /// Asks the guest again in a moment, if it was known to listen: a server that starts anew listens
    /// again at once, and nobody on the host could tell that it did not for a moment.
    fn ask_again(&self, refused: Accepted) {
        let is_known = self.inbound.is_listened_on(Transport::Tcp, refused.port);
        if !is_known || refused.since.elapsed() > PATIENCE {
            return tcp::reset(&refused.stream);
        }
        let again = self.again.clone();
        tokio::spawn(async move {
            sleep(ASK_AGAIN).await;
            // With the network gone the connection goes as well.
            let _ = again.send(refused);
        });
    }

    /// An address of the gateway's from which there is no connection to the guest's.
    fn free_end(&mut self, guest: SocketAddr) -> Option<SocketAddr> {
        for _ in FIRST_PORT..=LAST_PORT {
            let end = SocketAddr::from((GATEWAY, self.next_port));
            self.next_port = match self.next_port {
                LAST_PORT => FIRST_PORT,
                port => port + 1,
            };
            if !self.connections.contains_key(&(guest, end)) {
                return Some(end);
            }
        }
        None
    }

    fn datagram_arrived(&mut self, packet: &Packet<'_>) {
        let Some(datagram) = Datagram::of(packet) else {
            return;
        };
        let to = datagram.destination;
        if to.ip() == GATEWAY
            && let Some(caller) = self.callers.caller(to.port(), datagram.source.port())
        {
            let payload = &datagram.payload;
            return self.inbound.answer(caller.at, caller.address, payload);
        }
        if is_gateway(to.ip()) && to.port() == names::PORT {
            return self.names.ask(datagram);
        }
        match self.settings.policy.destination(to) {
            Some(destination) => self.flows.send(datagram, destination),
            None => self.unreachable(packet),
        }
    }

    fn ping_arrived(&mut self, packet: &Packet<'_>) {
        let Some(question) = Question::of(packet) else {
            return;
        };
        if is_gateway(question.asked) {
            if let Some(answer) = question.answer() {
                self.link.send_packet(&answer);
            }
            return;
        }
        // The port is of no account.
        match self.settings.policy.destination((question.asked, 7).into()) {
            Some(_) => self.pinger.ask(question),
            None => self.unreachable(packet),
        }
    }

    /// Tells the guest that a packet goes nowhere.
    fn unreachable(&mut self, packet: &Packet<'_>) {
        if let Some(answer) = packet.unreachable() {
            self.link.send_packet(&answer);
        }
    }

    /// Every connection's turn.
    fn carry(&mut self, context: &mut Context<'_>) {
        let mut refused = Vec::new();
        let link = &mut self.link;
        let (sockets, over) = (&mut self.sockets, &mut self.over);
        let asked = &mut self.asked;
        asked.clear();
        self.connections.retain(|_, (handle, connection)| {
            let socket = sockets.get_mut::<stack_tcp::Socket<'_>>(*handle);
            let progress = connection.turn(socket, context);
            if progress == Progress::Refused {
                refused.extend(connection.refused());
            }
            if progress == Progress::Unreachable {
                let first = connection.first_packet();
                if let Some(answer) = first.and_then(|first| first.unreachable()) {
                    link.send_packet(&answer);
                }
            }
            if progress != Progress::Open {
                over.push(*handle);
            } else if let Some(port) = connection.asked_port() {
                *asked.entry(port).or_default() += 1;
            }
            progress == Progress::Open
        });
        for refused in refused {
            self.ask_again(refused);
        }
        self.ask_waiting();
    }
}

/// The card's other end is gone, which is how a machine ends, or something else is wrong.
fn ended(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::NotConnected
        | io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    }
}
