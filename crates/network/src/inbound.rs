//! What the guest listens on, listened for on the host.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    task::{Context, Poll},
    time::Instant,
};

use container_protocol::{PublishedPort, Transport, local::PortStatus};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// How a listener in the guest is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It listens on the machine's address.
    Direct,
    /// It listens on the guest's loopback alone, so the agent passes on what is for it.
    Relay,
}

/// A port that something in the guest listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPort {
    /// How it is spoken to.
    pub transport: Transport,
    /// Its number.
    pub port: u16,
    /// How it is reached.
    pub reach: Reach,
    /// The name of the program that listens, if it is known.
    pub process: Option<String>,
}

/// A connection that someone on the host has made.
pub struct Accepted {
    pub stream: TcpStream,
    /// The guest's port that is meant.
    pub port: u16,
    /// When it came.
    pub since: Instant,
}

/// A datagram that someone on the host has sent.
pub struct Received {
    pub from: SocketAddr,
    /// Where it came to.
    pub at: SocketAddr,
    pub port: u16,
    pub length: usize,
}

/// All listeners on the host.
pub struct Inbound {
    address: Ipv4Addr,
    /// How many there may be.
    most: usize,
    guest: BTreeMap<(Transport, u16), GuestPort>,
    published: Vec<PublishedPort>,
    open: HashMap<(Transport, SocketAddr), Entry>,
}

struct Entry {
    guest_port: u16,
    is_published: bool,
    opened: Result<Opened, String>,
}

enum Opened {
    Stream(TcpListener),
    Datagrams(UdpSocket),
}

impl Inbound {
    /// What the guest listens on is reached at this address, by this many listeners at most.
    pub fn at(address: Ipv4Addr, most: usize) -> Inbound {
        Inbound {
            address,
            most,
            guest: BTreeMap::new(),
            published: Vec::new(),
            open: HashMap::new(),
        }
    }

    /// The guest listens on these and nothing else.
    pub fn set_guest(&mut self, ports: Vec<GuestPort>) {
        let ports = ports.into_iter();
        self.guest = ports
            .map(|port| ((port.transport, port.port), port))
            .collect();
        self.listen();
    }

    /// These are published and nothing else.
    pub fn set_published(&mut self, ports: Vec<PublishedPort>) {
        self.published = ports;
        self.listen();
    }

    /// Listens for what is wanted and nothing else. What is there already stays as it is; what could
    /// not be had is tried again.
    pub fn listen(&mut self) {
        let mut before = std::mem::take(&mut self.open);
        let published = self.published.iter();
        let published = published.map(|port| (port.transport, port.host, port.guest_port, true));
        let guest = self.guest.keys();
        let guest = guest.map(|(transport, port)| {
            let host = SocketAddr::from((self.address, *port));
            (*transport, host, *port, false)
        });
        let wanted: Vec<_> = published.chain(guest).collect();
        for (transport, host, guest_port, is_published) in wanted {
            let key = (transport, host);
            if self.open.contains_key(&key) {
                continue;
            }
            let opened = match before.remove(&key).map(|entry| entry.opened) {
                Some(Ok(opened)) => Ok(opened),
                _ if self.open.len() >= self.most => Err(
                    "the machine's ports are too many for the files that may be open".to_owned(),
                ),
                _ => open(transport, host).map_err(|error| explained(host, &error)),
            };
            let entry = Entry {
                guest_port,
                is_published,
                opened,
            };
            self.open.insert(key, entry);
        }
    }

    /// Whether some of what is wanted is not listened for.
    pub fn is_lacking(&self) -> bool {
        self.open.values().any(|entry| entry.opened.is_err())
    }

    /// How all of them stand.
    pub fn statuses(&self) -> Vec<PortStatus> {
        let statuses = self.open.iter().map(|((transport, host), entry)| {
            let guest = self.guest.get(&(*transport, entry.guest_port));
            PortStatus {
                host: *host,
                port: entry.guest_port,
                problem: entry.opened.as_ref().err().cloned(),
                process: guest.and_then(|guest| guest.process.clone()),
                published: entry.is_published,
                transport: *transport,
            }
        });
        let mut statuses: Vec<PortStatus> = statuses.collect();
        statuses.sort_by_key(|status| (status.port, status.transport, status.host));
        statuses
    }

    /// Whether somebody in the guest was last known to listen on this port.
    pub fn is_listened_on(&self, transport: Transport, port: u16) -> bool {
        self.guest.contains_key(&(transport, port))
    }

    /// How a port of the guest's is reached; as if it listened on the machine's address where nothing is
    /// known to listen.
    pub fn reach(&self, transport: Transport, port: u16) -> Reach {
        let guest = self.guest.get(&(transport, port));
        guest.map_or(Reach::Direct, |guest| guest.reach)
    }

    /// The next connection that someone has made.
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<Accepted> {
        for ((_, host), entry) in &self.open {
            let Ok(Opened::Stream(listener)) = &entry.opened else {
                continue;
            };
            match listener.poll_accept(context) {
                Poll::Ready(Ok((stream, _))) => {
                    return Poll::Ready(Accepted {
                        stream,
                        port: entry.guest_port,
                        since: Instant::now(),
                    });
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!("accepting connections at {host}: {error}");
                }
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    /// The next datagram that someone has sent.
    pub fn poll_datagram(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Received> {
        for ((_, at), entry) in &self.open {
            let Ok(Opened::Datagrams(socket)) = &entry.opened else {
                continue;
            };
            while let Poll::Ready(Ok(())) = socket.poll_recv_ready(context) {
                match socket.try_recv_from(buffer) {
                    Ok((length, from)) => {
                        return Poll::Ready(Received {
                            from,
                            at: *at,
                            port: entry.guest_port,
                            length,
                        });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // An earlier answer has come back.
                    Err(error) => tracing::debug!("datagrams at {at}: {error}"),
                }
            }
        }
        Poll::Pending
    }

    /// Sends a datagram of the guest's to someone who has sent one to this address.
    pub fn answer(&self, at: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let entry = self.open.get(&(Transport::Udp, at));
        if let Some(Ok(Opened::Datagrams(socket))) = entry.map(|entry| &entry.opened)
            && let Err(error) = socket.try_send_to(payload, to)
        {
            tracing::debug!("a datagram to {to}: {error}");
        }
    }
}

fn open(transport: Transport, host: SocketAddr) -> io::Result<Opened> {
    Ok(match transport {
        Transport::Tcp => {
            let listener = std::net::TcpListener::bind(host)?;
            listener.set_nonblocking(true)?;
            Opened::Stream(TcpListener::from_std(listener)?)
        }
        Transport::Udp => {
            let socket = std::net::UdpSocket::bind(host)?;
            socket.set_nonblocking(true)?;
            Opened::Datagrams(UdpSocket::from_std(socket)?)
        }
    })
}

fn explained(host: SocketAddr, error: &io::Error) -> String {
    let port = host.port();
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "this host lets only root listen on ports below {}: lower net.ipv4.ip_unprivileged_port_start, or use a higher port",
            first_free_port().unwrap_or(1024)
        ),
        io::ErrorKind::AddrInUse => format!(
            "another program on this host listens on {host}, or on port {port} of every address"
        ),
        io::ErrorKind::AddrNotAvailable => format!("this host has no address {}", host.ip()),
        _ => format!("listening on {host}: {error}"),
    }
}

/// The first port that everyone may listen on (ip(7)).
fn first_free_port() -> Option<u16> {
    let setting = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    setting.ok()?.trim().parse().ok()
}
