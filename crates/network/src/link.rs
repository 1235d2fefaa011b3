//! The link to the guest's network card: a socket with one Ethernet frame per datagram.

use std::{
    collections::VecDeque,
    io, mem,
    task::{Context, Poll},
};

use container_machine::MachineAddress;
use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};
use tokio::net::UnixDatagram;

use crate::{
    address::{GATEWAY, mac_address},
    frame::{ARP, HEADER_LENGTH, IPV4, IPV6},
    packet::MTU,
};

/// Limit of frames that wait for the card. It is reached only by senders that do not check
/// [`Link::is_blocked`]; their frames are dropped then.
const MAX_WAITING: usize = 512;

/// The link to the guest's card.
#[derive(Debug)]
pub(crate) struct Link {
    card: UnixDatagram,
    /// Destination and source address of sent frames.
    addresses: [u8; 12],
    /// Frames that the card had no space for.
    waiting: VecDeque<Vec<u8>>,
    /// The last sent frame, kept to reuse its allocation.
    spare: Vec<u8>,
}

impl Link {
    pub(crate) fn new(card: UnixDatagram, address: MachineAddress) -> Link {
        let mut addresses = [0; 12];
        addresses[..6].copy_from_slice(&mac_address(address.guest()));
        addresses[6..].copy_from_slice(&mac_address(GATEWAY));
        Link {
            card,
            addresses,
            waiting: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Receives the next frame from the guest, and returns its length.
    pub(crate) fn poll_receive(
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

    /// Sends waiting frames, as many as the card takes. The task is woken when it takes more.
    pub(crate) fn poll_send(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while let Some(frame) = self.waiting.front() {
            match self.card.poll_send_ready(context)? {
                Poll::Pending => return Ok(()),
                Poll::Ready(()) => match self.card.try_send(frame) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if is_out_of_buffers(&error) => return Ok(()),
                    Err(error) => return Err(error),
                    Ok(_) => {
                        self.waiting.pop_front();
                    }
                },
            }
        }
        Ok(())
    }

    /// Whether frames wait for the card.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends an IP packet to the guest. It is dropped if too many frames wait.
    pub(crate) fn send_packet(&mut self, packet: &[u8]) {
        self.send_with(packet.len(), |payload| payload.copy_from_slice(packet));
    }

    /// Sends an IP packet of `length` bytes that `fill` writes.
    fn send_with<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        self.send_frame(length, |frame| {
            let (ethertype, packet) = frame.split_at_mut(2);
            let result = fill(packet);
            let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
            ethertype.copy_from_slice(if is_v6 { &IPV6 } else { &IPV4 });
            result
        })
    }

    /// Sends an ARP reply.
    pub(crate) fn send_arp(&mut self, reply: &[u8]) {
        self.send_frame(reply.len(), |frame| {
            frame[..2].copy_from_slice(&ARP);
            frame[2..].copy_from_slice(reply);
        });
    }

    /// Sends a frame with `length` bytes of payload. `fill` writes the EtherType and the payload.
    fn send_frame<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut frame = mem::take(&mut self.spare);
        frame.resize(HEADER_LENGTH + length, 0);
        frame[..12].copy_from_slice(&self.addresses);
        let result = fill(&mut frame[12..]);
        if self.waiting.is_empty() && self.card.try_send(&frame).is_ok() {
            self.spare = frame;
        } else if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(frame);
        }
        result
    }
}

fn is_out_of_buffers(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

/// The link as smoltcp's device. It is created for one call of the stack.
pub(crate) struct StackDevice<'a> {
    pub link: &'a mut Link,
    /// The IP packet that the stack is to receive, if any.
    pub packet: Option<&'a [u8]>,
}

/// A packet that the stack receives.
pub(crate) struct ReceivedPacket<'a>(&'a [u8]);

impl RxToken for ReceivedPacket<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// Permission for the stack to send one packet.
pub(crate) struct SendPermit<'a>(&'a mut Link);

impl TxToken for SendPermit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        self.0.send_with(length, fill)
    }
}

impl Device for StackDevice<'_> {
    type RxToken<'b>
        = ReceivedPacket<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = SendPermit<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(ReceivedPacket<'_>, SendPermit<'_>)> {
        let packet = self.packet.take()?;
        Some((ReceivedPacket(packet), SendPermit(self.link)))
    }

    fn transmit(&mut self, _: Instant) -> Option<SendPermit<'_>> {
        (!self.link.is_blocked()).then_some(SendPermit(self.link))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU.into();
        // Checksums of received packets are not verified: a packet between two processes of one
        // host is not damaged.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}
