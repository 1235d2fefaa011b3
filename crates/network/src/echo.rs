//! ICMP echo: the guest's `ping`, by the host's own (icmp(7), "ICMP sockets").

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

/// How many may be on their way.
const MOST: usize = 128;

/// How long an answer is waited for.
const LATEST: Duration = Duration::from_secs(10);

/// Asks on behalf of the guest.
pub struct Pinger {
    to_guest: mpsc::Sender<Vec<u8>>,
    free: Arc<Semaphore>,
}

/// A question of the guest's.
pub struct Question {
    pub guest: IpAddr,
    pub asked: IpAddr,
    pub echo: Echo,
}

/// What an echo message carries, in IPv4 and in IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    pub ident: u16,
    pub sequence: u16,
    pub data: Vec<u8>,
}

impl Echo {
    fn of(ident: u16, sequence: u16, data: &[u8]) -> Echo {
        Echo {
            ident,
            sequence,
            data: data.to_vec(),
        }
    }
}

impl Question {
    pub fn of(packet: &Packet<'_>) -> Option<Question> {
        let checksums = ChecksumCapabilities::default();
        let echo = match (packet.source, packet.destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                let message = Icmpv4Packet::new_checked(packet.payload).ok()?;
                match Icmpv4Repr::parse(&message, &checksums).ok()? {
                    Icmpv4Repr::EchoRequest {
                        ident,
                        seq_no,
                        data,
                    } => Echo::of(ident, seq_no, data),
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
                    } => Echo::of(ident, seq_no, data),
                    _ => return None,
                }
            }
            _ => return None,
        };
        Some(Question {
            guest: packet.source,
            asked: packet.destination,
            echo,
        })
    }

    /// The packet that answers it.
    pub fn answer(&self) -> Option<Vec<u8>> {
        let Echo {
            ident,
            sequence: seq_no,
            ref data,
        } = self.echo;
        match (self.asked, self.guest) {
            (IpAddr::V4(asked), IpAddr::V4(guest)) => {
                let answer = Icmpv4Repr::EchoReply {
                    ident,
                    seq_no,
                    data,
                };
                icmp_packet(asked, guest, &answer)
            }
            (IpAddr::V6(asked), IpAddr::V6(guest)) => {
                let answer = Icmpv6Repr::EchoReply {
                    ident,
                    seq_no,
                    data,
                };
                icmp6_packet(asked, guest, HOP_LIMIT, &answer)
            }
            _ => None,
        }
    }

    /// The message that asks, as a socket of the host's takes it. In IPv6 the kernel makes the checksum.
    fn message(&self) -> Vec<u8> {
        let Echo {
            ident,
            sequence: seq_no,
            ref data,
        } = self.echo;
        let checksums = ChecksumCapabilities::default();
        match (self.guest, self.asked) {
            (IpAddr::V6(guest), IpAddr::V6(asked)) => {
                let request = Icmpv6Repr::EchoRequest {
                    ident,
                    seq_no,
                    data,
                };
                let mut message = vec![0; request.buffer_len()];
                let mut packet = Icmpv6Packet::new_unchecked(&mut message[..]);
                request.emit(&guest, &asked, &mut packet, &checksums);
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
    /// Packets for the guest go to `to_guest`.
    pub fn new(to_guest: mpsc::Sender<Vec<u8>>) -> Pinger {
        Pinger {
            to_guest,
            free: Arc::new(Semaphore::new(MOST)),
        }
    }

    /// Asks from the host, and answers the guest if there is an answer.
    pub fn ask(&self, question: Question) {
        let Ok(free) = Arc::clone(&self.free).try_acquire_owned() else {
            return;
        };
        let to_guest = self.to_guest.clone();
        tokio::spawn(async move {
            let asked = timeout(LATEST, ask(&question)).await;
            drop(free);
            match asked {
                Ok(Ok(())) => {
                    if let Some(packet) = question.answer() {
                        let _ = to_guest.send(packet).await;
                    }
                }
                Ok(Err(error)) => tracing::debug!("a ping of {}: {error}", question.asked),
                Err(_) => {}
            }
        });
    }
}

/// Returns when the answer has come.
async fn ask(question: &Question) -> io::Result<()> {
    let is_v6 = question.asked.is_ipv6();
    let (domain, protocol) = match is_v6 {
        true => (Domain::IPV6, Protocol::ICMPV6),
        false => (Domain::IPV4, Protocol::ICMPV4),
    };
    // What the host's users may do in general, or what root may.
    let (socket, is_raw) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => (socket, false),
        Err(_) => (Socket::new(domain, Type::RAW, Some(protocol))?, true),
    };
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(question.asked, 0).into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(&question.message()).await?;
    let mut buffer = vec![0; 65536];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let mut message = &buffer[..length];
        // In IPv4 such a socket gives the packet's header too (raw(7)).
        if is_raw && !is_v6 {
            let Ok(packet) = Ipv4Packet::new_checked(message) else {
                continue;
            };
            message = &message[usize::from(packet.header_len())..];
        }
        // A socket for ICMP has an identifier of its own, and hears what is for it alone.
        if reply(message, question.guest, question.asked).is_some_and(|echo| {
            echo.sequence == question.echo.sequence
                && echo.data == question.echo.data
                && (!is_raw || echo.ident == question.echo.ident)
        }) {
            return Ok(());
        }
    }
}

/// What is in a message, if it is a reply; the kernel has looked at its checksum.
fn reply(message: &[u8], guest: IpAddr, asked: IpAddr) -> Option<Echo> {
    let checksums = ChecksumCapabilities::ignored();
    match (asked, guest) {
        (IpAddr::V6(asked), IpAddr::V6(guest)) => {
            let packet = Icmpv6Packet::new_checked(message).ok()?;
            match Icmpv6Repr::parse(&asked, &guest, &packet, &checksums).ok()? {
                Icmpv6Repr::EchoReply {
                    ident,
                    seq_no,
                    data,
                } => Some(Echo::of(ident, seq_no, data)),
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
                } => Some(Echo::of(ident, seq_no, data)),
                _ => None,
            }
        }
    }
}
