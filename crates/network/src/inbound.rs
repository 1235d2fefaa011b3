//! What the guest listens on, listened for on the host.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    task::{Context, Poll},
};

use container_protocol::Transport;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// How a listener in the guest is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reach {
    /// It listens on the machine's address.
    Direct,
    /// It listens on the guest's loopback alone, so the agent passes on what is for it.
    Relay,
}

/// A port that something in the guest listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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

/// A port of the guest's, and where on the host it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// The guest's port.
    #[serde(flatten)]
    pub guest: GuestPort,
    /// Where it is reached, or would be.
    pub host: SocketAddrV4,
    /// Why it is not, a sentence; none if it is.
    pub problem: Option<String>,
}

/// A connection that someone on the host has made.
pub struct Accepted {
    pub stream: TcpStream,
    pub port: u16,
    pub reach: Reach,
}

/// All listeners on the host.
pub struct Inbound {
    address: Ipv4Addr,
    open: HashMap<(Transport, u16), (GuestPort, Result<Opened, String>)>,
}

enum Opened {
    Stream(TcpListener),
    Datagrams(UdpSocket),
}

impl Inbound {
    pub fn at(address: Ipv4Addr) -> Inbound {
        Inbound {
            address,
            open: HashMap::new(),
        }
    }

    /// Listens for these and nothing else. What is there already stays as it is; what could not be
    /// had is tried again. Returns how they stand.
    pub fn set(&mut self, ports: Vec<GuestPort>) -> Vec<PortStatus> {
        let mut before = std::mem::take(&mut self.open);
        for port in ports {
            let key = (port.transport, port.port);
            let opened = match before.remove(&key) {
                Some((_, Ok(opened))) => Ok(opened),
                _ => self
                    .open(key)
                    .map_err(|error| self.explained(key.1, &error)),
            };
            self.open.entry(key).or_insert((port, opened));
        }
        let mut statuses: Vec<_> = self.open.values().map(|one| self.status(one)).collect();
        statuses.sort_by_key(|status| (status.guest.port, status.guest.transport));
        statuses
    }

    fn status(&self, (guest, opened): &(GuestPort, Result<Opened, String>)) -> PortStatus {
        PortStatus {
            guest: guest.clone(),
            host: SocketAddrV4::new(self.address, guest.port),
            problem: opened.as_ref().err().cloned(),
        }
    }

    fn open(&self, (transport, port): (Transport, u16)) -> io::Result<Opened> {
        let address = SocketAddr::from((self.address, port));
        Ok(match transport {
            Transport::Tcp => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Opened::Stream(TcpListener::from_std(listener)?)
            }
            Transport::Udp => {
                let socket = std::net::UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                Opened::Datagrams(UdpSocket::from_std(socket)?)
            }
        })
    }

    fn explained(&self, port: u16, error: &io::Error) -> String {
        let address = self.address;
        match error.kind() {
            io::ErrorKind::PermissionDenied => format!(
                "this host lets only root listen on ports below {}: lower net.ipv4.ip_unprivileged_port_start, or use a higher port",
                first_free_port().unwrap_or(1024)
            ),
            io::ErrorKind::AddrInUse => {
                format!(
                    "another program on this host listens on {address}:{port}, or on {port} at every address"
                )
            }
            _ => format!("listening on {address}:{port}: {error}"),
        }
    }

    /// The next connection that someone has made.
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<Accepted> {
        for (guest, opened) in self.open.values() {
            let Ok(Opened::Stream(listener)) = opened else {
                continue;
            };
            match listener.poll_accept(context) {
                Poll::Ready(Ok((stream, _))) => {
                    return Poll::Ready(Accepted {
                        stream,
                        port: guest.port,
                        reach: guest.reach,
                    });
                }
                Poll::Ready(Err(error)) => {
                    tracing::warn!("accepting connections to port {}: {error}", guest.port);
                }
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    /// The next datagram that someone has sent: for which port, from whom, and what.
    pub fn poll_datagram(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<(u16, SocketAddr, usize)> {
        for (guest, opened) in self.open.values() {
            let Ok(Opened::Datagrams(socket)) = opened else {
                continue;
            };
            while let Poll::Ready(Ok(())) = socket.poll_recv_ready(context) {
                match socket.try_recv_from(buffer) {
                    Ok((length, from)) => return Poll::Ready((guest.port, from, length)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // An earlier answer has come back.
                    Err(error) => tracing::debug!("port {}: {error}", guest.port),
                }
            }
        }
        Poll::Pending
    }

    /// Sends a datagram of the guest's from its port to someone who has sent one there.
    pub fn answer(&self, port: u16, to: SocketAddr, payload: &[u8]) {
        if let Some((_, Ok(Opened::Datagrams(socket)))) = self.open.get(&(Transport::Udp, port))
            && let Err(error) = socket.try_send_to(payload, to)
        {
            tracing::debug!("a datagram to {to}: {error}");
        }
    }
}

/// The first port that everyone may listen on (ip(7)).
fn first_free_port() -> Option<u16> {
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    setting.ok()?.trim().parse().ok()
}
