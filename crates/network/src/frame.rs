//! Ethernet frames.

use crate::packet::Packet;

/// Length of an Ethernet header: destination, source and type.
pub(crate) const HEADER_LENGTH: usize = 14;

/// EtherTypes (IEEE 802 numbers).
pub(crate) const IPV4: [u8; 2] = [0x08, 0x00];
pub(crate) const ARP: [u8; 2] = [0x08, 0x06];
pub(crate) const IPV6: [u8; 2] = [0x86, 0xdd];

/// The payload of a frame, as far as it is supported.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    /// An ARP message, not checked yet.
    Arp(&'a [u8]),
    /// An IPv4 or IPv6 packet.
    Ip(Packet<'a>),
}

impl<'a> Frame<'a> {
    /// Parses a frame. Returns `None` when it is truncated or of another protocol.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let (header, payload) = bytes.split_at_checked(HEADER_LENGTH)?;
        match header[12..].try_into().ok()? {
            ARP => Some(Frame::Arp(payload)),
            IPV4 | IPV6 => Packet::parse(payload).map(Frame::Ip),
            _ => None,
        }
    }
}
