//! ICMP echo: the guest's `ping`, by the host's own (icmp(7), "ICMP sockets").

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{Icmpv4Packet, Icmpv4Repr, Ipv4Packet},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::packet::icmp_packet;

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
    pub guest: Ipv4Addr,
    pub asked: Ipv4Addr,
    pub ident: u16,
    pub sequence: u16,
    pub data: Vec<u8>,
}

impl Question {
    pub fn of(packet: &Ipv4Packet<&[u8]>) -> Option<Question> {
        let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
        match Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()).ok()? {
            Icmpv4Repr::EchoRequest {
                ident,
                seq_no,
                data,
            } => Some(Question {
                guest: packet.src_addr(),
                asked: packet.dst_addr(),
                ident,
                sequence: seq_no,
                data: data.to_vec(),
            }),
            _ => None,
        }
    }

    /// The packet that answers it.
    pub fn answer(&self) -> Option<Vec<u8>> {
        let answer = Icmpv4Repr::EchoReply {
            ident: self.ident,
            seq_no: self.sequence,
            data: &self.data,
        };
        icmp_packet(self.asked, self.guest, &answer)
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
    // What the host's users may do in general, or what root may.
    let (socket, is_raw) = match Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)) {
        Ok(socket) => (socket, false),
        Err(_) => (
            Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?,
            true,
        ),
    };
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddrV4::new(question.asked, 0).into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let request = Icmpv4Repr::EchoRequest {
        ident: question.ident,
        seq_no: question.sequence,
        data: &question.data,
    };
    let mut message = vec![0; request.buffer_len()];
    let mut packet = Icmpv4Packet::new_unchecked(&mut message[..]);
    request.emit(&mut packet, &ChecksumCapabilities::default());
    socket.send(&message).await?;
    let mut buffer = vec![0; 65536];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let mut answer = &buffer[..length];
        if is_raw {
            let Ok(packet) = Ipv4Packet::new_checked(answer) else {
                continue;
            };
            answer = &answer[usize::from(packet.header_len())..];
        }
        let Ok(icmp) = Icmpv4Packet::new_checked(answer) else {
            continue;
        };
        // A socket for ICMP has an identifier of its own, and hears what is for it alone.
        match Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()) {
            Ok(Icmpv4Repr::EchoReply {
                ident,
                seq_no,
                data,
            }) if seq_no == question.sequence
                && data == question.data
                && (!is_raw || ident == question.ident) =>
            {
                return Ok(());
            }
            _ => {}
        }
    }
}
