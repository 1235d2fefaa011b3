//! The guest's `ping`: ICMP echo requests, which are repeated from the host (icmp(7), "ICMP
//! sockets").

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, Ipv4Packet},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::packet::{HOP_LIMIT, Packet, icmp_packet, icmp6_packet};

/// Limit of requests that wait for a reply. More are dropped.
const MAX_PENDING: usize = 128;

/// Timeout of a reply. Most pings time out sooner.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pings on behalf of the guest.
pub(crate) struct Pinger {
    to_guest: mpsc::Sender<Vec<u8>>,
    permits: Arc<Semaphore>,
}

/// An echo request of the guest.
#[derive(Debug)]
pub(crate) struct EchoRequest {
    pub guest: IpAddr,
    pub destination: IpAddr,
    pub echo: Echo,
}

/// The fields of an echo request or reply, the same in ICMP and ICMPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Echo {
    pub ident: u16,
    pub sequence: u16,
    pub data: Vec<u8>,
}

impl Echo {
    fn new(ident: u16, sequence: u16, data: &[u8]) -> Echo {
        Echo {
            ident,
            sequence,
            data: data.to_vec(),
        }
    }
}

impl EchoRequest {
    /// Parses a packet. Returns `None` when it is not a valid echo request.
    pub(crate) fn parse(packet: &Packet<'_>) -> Option<EchoRequest> {
        let checksums = ChecksumCapabilities::default();
        let echo = match (packet.source, packet.destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                let message = Icmpv4Packet::new_checked(packet.payload).ok()?;
                match Icmpv4Repr::parse(&message, &checksums).ok()? {
                    Icmpv4Repr::EchoRequest {
                        ident,
                        seq_no,
                        data,
                    } => Echo::new(ident, seq_no, data),
                    _ => return None,
                }
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let message = Icmpv6Packet::new_checked(packet.payload).ok()?;
                match Icmpv6Repr::parse(&source, &destination, &message, &checksums).ok()? {
                    Icmpv6Repr::EchoRequest {
                        ident,
                        seq_no,
                        data,
                    } => Echo::new(ident, seq_no, data),
                    _ => return None,
                }
            }
            _ => return None,
        };
        Some(EchoRequest {
            guest: packet.source,
            destination: packet.destination,
            echo,
        })
    }

    /// Returns the packet that replies to this request.
    pub(crate) fn reply(&self) -> Option<Vec<u8>> {
        let Echo {
            ident,
            sequence: seq_no,
            ref data,
        } = self.echo;
        match (self.destination, self.guest) {
            (IpAddr::V4(destination), IpAddr::V4(guest)) => {
                let reply = Icmpv4Repr::EchoReply {
                    ident,
                    seq_no,
                    data,
                };
                icmp_packet(destination, guest, &reply)
            }
            (IpAddr::V6(destination), IpAddr::V6(guest)) => {
                let reply = Icmpv6Repr::EchoReply {
                    ident,
                    seq_no,
                    data,
                };
                icmp6_packet(destination, guest, HOP_LIMIT, &reply)
            }
            _ => None,
        }
    }

    /// Returns the ICMP message for a socket of the host. For ICMPv6 the kernel overwrites the
    /// checksum, which covers the host's address.
    fn message(&self) -> Vec<u8> {
        let Echo {
            ident,
            sequence: seq_no,
            ref data,
        } = self.echo;
        let checksums = ChecksumCapabilities::default();
        match (self.guest, self.destination) {
            (IpAddr::V6(guest), IpAddr::V6(destination)) => {
                let request = Icmpv6Repr::EchoRequest {
                    ident,
                    seq_no,
                    data,
                };
                let mut message = vec![0; request.buffer_len()];
                let mut packet = Icmpv6Packet::new_unchecked(&mut message[..]);
                request.emit(&guest, &destination, &mut packet, &checksums);
                message
            }
            _ => {
                let request = Icmpv4Repr::EchoRequest {
                    ident,
                    seq_no,
                    data,
                };
                let mut message = vec![0; request.buffer_len()];
                let mut packet = Icmpv4Packet::new_unchecked(&mut message[..]);
                request.emit(&mut packet, &checksums);
                message
            }
        }
    }
}

impl Pinger {
    /// Creates a pinger whose replies are sent to `to_guest`.
    pub(crate) fn new(to_guest: mpsc::Sender<Vec<u8>>) -> Pinger {
        Pinger {
            to_guest,
            permits: Arc::new(Semaphore::new(MAX_PENDING)),
        }
    }

    /// Pings from the host, and sends the guest a reply if one comes back in time.
    pub(crate) fn ping(&self, request: EchoRequest) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return;
        };
        let to_guest = self.to_guest.clone();
        tokio::spawn(async move {
            let replied = timeout(REPLY_TIMEOUT, ping_from_host(&request)).await;
            drop(permit);
            match replied {
                Ok(Ok(())) => {
                    if let Some(packet) = request.reply() {
                        let _ = to_guest.send(packet).await;
                    }
                }
                Ok(Err(error)) => tracing::debug!("cannot ping {}: {error}", request.destination),
                Err(_) => {}
            }
        });
    }
}

/// Sends the request from the host, and returns when the reply has arrived.
async fn ping_from_host(request: &EchoRequest) -> io::Result<()> {
    let is_v6 = request.destination.is_ipv6();
    let (domain, protocol) = if is_v6 {
        (Domain::IPV6, Protocol::ICMPV6)
    } else {
        (Domain::IPV4, Protocol::ICMPV4)
    };
    // A ping socket needs no privilege where net.ipv4.ping_group_range allows it; a raw one needs
    // root.
    let (socket, is_raw) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => (socket, false),
        Err(_) => (Socket::new(domain, Type::RAW, Some(protocol))?, true),
    };
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(request.destination, 0).into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(&request.message()).await?;
    let mut buffer = vec![0; 65536];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let mut message = &buffer[..length];
        // A raw IPv4 socket also returns the IP header (raw(7)).
        if is_raw && !is_v6 {
            let Ok(packet) = Ipv4Packet::new_checked(message) else {
                continue;
            };
            message = &message[usize::from(packet.header_len())..];
        }
        // A ping socket has an identifier of its own, and receives only its own replies. A raw
        // socket receives every reply from the destination.
        if parse_reply(message, request.guest, request.destination).is_some_and(|echo| {
            echo.sequence == request.echo.sequence
                && echo.data == request.echo.data
                && (!is_raw || echo.ident == request.echo.ident)
        }) {
            return Ok(());
        }
    }
}

/// Parses an echo reply. The kernel has verified its checksum.
fn parse_reply(message: &[u8], guest: IpAddr, destination: IpAddr) -> Option<Echo> {
    let checksums = ChecksumCapabilities::ignored();
    match (destination, guest) {
        (IpAddr::V6(destination), IpAddr::V6(guest)) => {
            let packet = Icmpv6Packet::new_checked(message).ok()?;
            match Icmpv6Repr::parse(&destination, &guest, &packet, &checksums).ok()? {
                Icmpv6Repr::EchoReply {
                    ident,
                    seq_no,
                    data,
                } => Some(Echo::new(ident, seq_no, data)),
                _ => None,
            }
        }
        _ => {
            let packet = Icmpv4Packet::new_checked(message).ok()?;
            match Icmpv4Repr::parse(&packet, &checksums).ok()? {
                Icmpv4Repr::EchoReply {
                    ident,
                    seq_no,
                    data,
                } => Some(Echo::new(ident, seq_no, data)),
                _ => None,
            }
        }
    }
}
