//! Connections between a guest, which is a TCP/IP stack in the test, and the sockets of this host.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    thread,
    time::{Duration, Instant},
};

use container_machine::MachineAddress;
use container_network::{
    GATEWAY, GuestPort, HeldSockets, MTU, Network, PREFIX, Policy, Reach, Settings,
};
use container_protocol::{Egress, EgressMode, PublishedPort, Transport};
use futures::executor::block_on;
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant as StackInstant,
    wire::{EthernetAddress, HardwareAddress, IpCidr},
};
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The guest's network card, a frame per datagram.
struct Card(UnixDatagram);

struct Frame(Vec<u8>);

struct Sender<'a>(&'a UnixDatagram);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        // A full queue loses the frame, as on any link.
        let _ = self.0.send(&frame);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: StackInstant) -> Option<(Frame, Sender<'_>)> {
        let mut frame = vec![0; 1 << 17];
        let length = self.0.recv(&mut frame).ok()?;
        frame.truncate(length);
        Some((Frame(frame), Sender(&self.0)))
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Sender<'_>> {
        Some(Sender(&self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(MTU) + 14;
        capabilities
    }
}

/// A guest with its network.
struct Guest {
    network: Network,
    address: MachineAddress,
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    _directory: TempDir,
}

impl Guest {
    /// Starts a network that publishes these ports at the machine's address. The number must be
    /// unique to the test.
    fn start(number: u32, published: &[u16]) -> Guest {
        Guest::start_with(number, published, None)
    }

    /// Starts the network of a guest whose earlier network was held.
    fn resume(number: u32, published: &[u16], held: HeldSockets) -> Guest {
        Guest::start_with(number, published, Some(held))
    }

    fn start_with(number: u32, published: &[u16], held: Option<HeldSockets>) -> Guest {
        let address = MachineAddress::from_index(number);
        let published = published.iter().map(|port| PublishedPort {
            host: SocketAddr::from((address.host(), *port)),
            guest_port: *port,
            transport: Transport::Tcp,
        });
        let directory = tempfile::tempdir().unwrap();
        let (ours, guests) = UnixDatagram::pair().unwrap();
        guests.set_nonblocking(true).unwrap();
        let settings = Settings {
            id: format!("test{number}"),
            address,
            policy: Policy {
                host_loopback: true,
                same_user_only: true,
                ..Policy::default()
            },
            egress: Egress::default(),
            published: published.collect(),
            peer_directory: directory.path().to_owned(),
            name_server: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())),
        };
        let network = match held {
            Some(held) => Network::take_over(ours, settings, held),
            None => Network::start(ours, settings),
        };
        let network = network.unwrap();
        let mut card = Card(guests);
        let mac = container_network::mac_address(address.guest());
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        let mut interface = Interface::new(config, &mut card, StackInstant::now());
        interface.update_ip_addrs(|own| {
            own.push(IpCidr::new(address.guest().into(), PREFIX))
                .unwrap();
        });
        interface
            .routes_mut()
            .add_default_ipv4_route(GATEWAY)
            .unwrap();
        Guest {
            network,
            address,
            card,
            interface,
            sockets: SocketSet::new(Vec::new()),
            _directory: directory,
        }
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 65536]);
        self.sockets.add(Socket::new(buffer(), buffer()))
    }

    fn get(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn listen(&mut self, port: u16) -> SocketHandle {
        let handle = self.socket();
        self.get(handle).listen(port).unwrap();
        handle
    }

    fn connect(&mut self, to: SocketAddr, from: u16) -> SocketHandle {
        let handle = self.socket();
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.connect(self.interface.context(), to, from).unwrap();
        handle
    }

    /// Connects to a port of the machine from the host, as soon as the network listens.
    fn connect_from_host(&self, port: u16) -> TcpStream {
        let host = SocketAddr::from((self.address.host(), port));
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match TcpStream::connect(host) {
                Ok(stream) => return stream,
                Err(error) => assert!(Instant::now() < deadline, "{host}: {error}"),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs the guest's stack until the condition holds.
    fn run_until(&mut self, what: &str, mut holds: impl FnMut(&mut Guest) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !holds(self) {
            assert!(Instant::now() < deadline, "timed out waiting until {what}");
            let now = StackInstant::now();
            self.interface.poll(now, &mut self.card, &mut self.sockets);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends back what is received on this socket until the peer has sent all, then closes it.
    fn echo(&mut self, handle: SocketHandle) {
        self.run_until("the echo is complete", |guest| {
            let socket = guest.get(handle);
            while socket.can_recv() && socket.can_send() {
                let room = socket.send_capacity() - socket.send_queue();
                let received = socket.recv(|bytes| {
                    let length = bytes.len().min(room);
                    (length, bytes[..length].to_vec())
                });
                socket.send_slice(&received.unwrap()).unwrap();
            }
            if socket.state() == State::CloseWait && !socket.can_recv() {
                socket.close();
            }
            matches!(socket.state(), State::Closed | State::TimeWait)
        });
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn guest_port(port: u16) -> GuestPort {
    GuestPort {
        transport: Transport::Tcp,
        port,
        reach: Reach::Direct,
        process: None,
    }
}

/// Bytes that do not fit into the buffers of a connection.
fn payload() -> Vec<u8> {
    (0..3_000_000_u32).map(|it| (it % 251) as u8).collect()
}

/// Sends the payload over a stream and expects it back, on a thread.
fn exchange(mut stream: TcpStream) -> thread::JoinHandle<io::Result<bool>> {
    thread::spawn(move || {
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut writer = stream.try_clone()?;
        let sender = thread::spawn(move || -> io::Result<()> {
            writer.write_all(&payload())?;
            writer.shutdown(std::net::Shutdown::Write)
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received)?;
        sender.join().unwrap()?;
        Ok(received == payload())
    })
}

#[test]
fn a_program_on_the_host_connects_to_a_published_port() {
    let mut guest = Guest::start(40_001, &[8080]);
    let socket = guest.listen(8080);
    let client = exchange(guest.connect_from_host(8080));
    guest.echo(socket);
    assert!(client.join().unwrap().unwrap());
}

#[test]
fn more_connections_than_may_be_pending_are_all_served() {
    let mut guest = Guest::start(40_002, &[8080]);
    let mut clients: Vec<TcpStream> = (0..20).map(|_| guest.connect_from_host(8080)).collect();
    for client in &mut clients {
        client.write_all(b"x").unwrap();
    }
    let sockets: Vec<SocketHandle> = (0..20).map(|_| guest.listen(8080)).collect();
    guest.run_until("all connections have arrived", |guest| {
        sockets.iter().all(|handle| guest.get(*handle).can_recv())
    });
}

#[test]
fn a_refused_connection_is_retried_while_the_port_is_known() {
    let mut guest = Guest::start(40_003, &[]);
    block_on(guest.network.set_ports(vec![guest_port(8081)]));
    let client = exchange(guest.connect_from_host(8081));
    // The guest refuses for 300 ms and listens then.
    let begin = Instant::now();
    guest.run_until("the time has passed", |_| {
        begin.elapsed() > Duration::from_millis(300)
    });
    let socket = guest.listen(8081);
    guest.echo(socket);
    assert!(client.join().unwrap().unwrap());
}

#[test]
fn a_connection_to_a_port_without_listener_is_reset() {
    let mut guest = Guest::start(40_004, &[8080]);
    let mut client = guest.connect_from_host(8080);
    client.set_nonblocking(true).unwrap();
    let mut kind = io::ErrorKind::WouldBlock;
    guest.run_until("the connection is reset", |_| {
        if let Err(error) = client.read(&mut [0]) {
            kind = error.kind();
        }
        kind != io::ErrorKind::WouldBlock
    });
    assert_eq!(kind, io::ErrorKind::ConnectionReset);
}

#[test]
fn the_guest_connects_to_a_server_on_the_host() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let accepted = thread::spawn(move || exchange(server.accept().unwrap().0).join().unwrap());
    let mut guest = Guest::start(40_005, &[]);
    let socket = guest.connect(SocketAddr::new(IpAddr::V4(GATEWAY), port), 50_000);
    guest.run_until("the connection is established", |guest| {
        guest.get(socket).state() == State::Established
    });
    guest.echo(socket);
    assert!(accepted.join().unwrap().unwrap());
}

#[test]
fn a_server_on_the_host_that_refuses_is_refused_in_the_guest() {
    let port = free_port();
    let mut guest = Guest::start(40_006, &[]);
    let socket = guest.connect(SocketAddr::new(IpAddr::V4(GATEWAY), port), 50_000);
    guest.run_until("the connection is refused", |guest| {
        guest.get(socket).state() == State::Closed
    });
}

#[test]
fn connections_to_a_held_port_are_served_by_the_next_network() {
    let number = 40_007;
    let guest = Guest::start(number, &[8080]);
    let network = &guest.network;
    assert!(block_on(network.pause_if_idle(network.uses())));
    let held = block_on(network.hold()).unwrap();
    let waiting = guest.connect_from_host(8080);
    drop(guest);
    let further = TcpStream::connect(waiting.peer_addr().unwrap()).unwrap();
    let mut guest = Guest::resume(number, &[8080], held);
    let sockets = [guest.listen(8080), guest.listen(8080)];
    let clients = [exchange(waiting), exchange(further)];
    block_on(guest.network.set_ports(vec![guest_port(8080)]));
    for socket in sockets {
        guest.echo(socket);
    }
    for client in clients {
        assert!(client.join().unwrap().unwrap());
    }
}

#[test]
fn a_network_in_use_is_not_paused() {
    let mut guest = Guest::start(40_008, &[8080]);
    let uses = guest.network.uses();
    let socket = guest.listen(8080);
    let _client = guest.connect_from_host(8080);
    guest.run_until("it is connected", |guest| guest.get(socket).is_active());
    assert!(guest.network.has_connections() && guest.network.uses() > uses);
    let uses = guest.network.uses();
    assert!(!block_on(guest.network.pause_if_idle(uses)));
}

#[test]
fn a_connection_that_new_rules_do_not_allow_is_reset() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let to = SocketAddr::new(IpAddr::V4(GATEWAY), port);
    let mut guest = Guest::start(40_009, &[]);
    let socket = guest.connect(to, 50_000);
    guest.run_until("the connection is established", |guest| {
        guest.get(socket).state() == State::Established
    });
    let (mut accepted, _) = server.accept().unwrap();
    let nothing = Egress {
        mode: EgressMode::None,
        allow: Vec::new(),
    };
    block_on(guest.network.set_egress(nothing));
    guest.run_until("the connection is reset", |guest| {
        guest.get(socket).state() == State::Closed
    });
    let ended = accepted.read(&mut [0]).unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(guest.network.blocked().total, 0, "it was allowed");
    let socket = guest.connect(to, 50_001);
    guest.run_until("the connection is refused", |guest| {
        guest.get(socket).state() == State::Closed
    });
    let blocked = guest.network.blocked();
    assert_eq!(blocked.latest[0].destination, to.to_string());
}
