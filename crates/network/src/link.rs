//! The card's other end: Ethernet frames, a datagram each.

use std::{
    collections::VecDeque,
    io,
    task::{Context, Poll},
};

use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};
use tokio::net::UnixDatagram;

use container_machine::MachineAddress;

use crate::segment::{GATEWAY, MTU, card};

/// Bytes of an Ethernet header: destination, source, type.
pub const HEADER: usize = 14;

/// Frames that wait for the card at most, of those that were not asked whether they may come.
const MOST_WAITING: usize = 512;

/// Types of frames (IEEE 802 numbers).
pub const IPV4: [u8; 2] = [0x08, 0x00];
pub const ARP: [u8; 2] = [0x08, 0x06];
pub const IPV6: [u8; 2] = [0x86, 0xdd];

/// The link to the guest's card.
#[derive(Debug)]
pub struct Link {
    card: UnixDatagram,
    /// Destination and source of what is sent.
    header: [u8; 12],
    /// What the card had no room for.
    waiting: VecDeque<Vec<u8>>,
    /// The last frame that was sent, for its memory.
    frame: Vec<u8>,
}

impl Link {
    pub fn new(card_end: UnixDatagram, address: MachineAddress) -> Link {
        let mut header = [0; 12];
        header[..6].copy_from_slice(&card(address.guest()));
        header[6..].copy_from_slice(&card(GATEWAY));
        Link {
            card: card_end,
            header,
            waiting: VecDeque::new(),
            frame: Vec::new(),
        }
    }

    /// The next frame from the guest: how many bytes of `frame` it has.
    pub fn poll_receive(
        &self,
        frame: &mut [u8],
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.card.poll_recv_ready(context)?.is_pending() {
                return Poll::Pending;
            }
            match self.card.try_recv(frame) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }

    /// Sends what waits, as far as the card takes it.
    pub fn poll_send(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while let Some(frame) = self.waiting.front() {
            match self.card.poll_send_ready(context)? {
                Poll::Pending => return Ok(()),
                Poll::Ready(()) => match self.card.try_send(frame) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if is_full(&error) => return Ok(()),
                    Err(error) => return Err(error),
                    Ok(_) => {
                        self.waiting.pop_front();
                    }
                },
            }
        }
        Ok(())
    }

    /// Whether the card has no room.
    pub fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends an IP packet to the guest. Beyond what may wait it is lost, as on any link.
    pub fn send_packet(&mut self, packet: &[u8]) {
        self.send(packet.len(), |payload| payload.copy_from_slice(packet));
    }

    /// Sends an IP packet of this many bytes that is written by `fill`.
    pub fn send<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        self.send_frame(length, |frame| {
            let (kind, packet) = frame.split_at_mut(2);
            let result = fill(packet);
            let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
            kind.copy_from_slice(if is_v6 { &IPV6 } else { &IPV4 });
            result
        })
    }

    /// Sends an answer to a question of the address resolution protocol.
    pub fn send_arp(&mut self, answer: &[u8]) {
        self.send_frame(answer.len(), |frame| {
            frame[..2].copy_from_slice(&ARP);
            frame[2..].copy_from_slice(answer);
        });
    }

    /// Sends a frame with a payload of this many bytes; its type and payload are written by `fill`.
    fn send_frame<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut frame = std::mem::take(&mut self.frame);
        frame.resize(HEADER + length, 0);
        frame[..12].copy_from_slice(&self.header);
        let result = fill(&mut frame[12..]);
        if self.waiting.is_empty() && self.card.try_send(&frame).is_ok() {
            self.frame = frame;
        } else if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back(frame);
        }
        result
    }
}

fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

/// The link as the stack's device, with the IP packet that it is to read, if any.
pub struct Port<'a> {
    pub link: &'a mut Link,
    pub packet: Option<&'a [u8]>,
}

/// A packet for the stack.
pub struct Arrived<'a>(&'a [u8]);

impl RxToken for Arrived<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

/// Room for a packet of the stack's.
pub struct Departing<'a>(&'a mut Link);

impl TxToken for Departing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.0.send(length, fill)
    }
}

impl Device for Port<'_> {
    type RxToken<'b>
        = Arrived<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Departing<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Arrived<'_>, Departing<'_>)> {
        let packet = self.packet.take()?;
        Some((Arrived(packet), Departing(self.link)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Departing<'_>> {
        (!self.link.is_blocked()).then_some(Departing(self.link))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU.into();
        // Nothing is damaged between two processes.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}
