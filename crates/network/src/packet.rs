//! IP packets, and the protocols that smoltcp's stack does not handle here: UDP, ICMP errors, ARP
//! and neighbour discovery.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable,
        Icmpv6Packet, Icmpv6Repr, IpProtocol, IpRepr, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr,
        NdiscNeighborFlags, NdiscRepr, UdpPacket, UdpRepr,
    },
};

use crate::address::{GATEWAY, GATEWAY6};

/// Largest IP packet on a machine's card. Packets cost more than bytes on an emulated processor, so
/// it is close to the largest possible one.
pub const MTU: u16 = 65520;

/// Hop limit (TTL) of packets that are sent to the guest.
pub(crate) const HOP_LIMIT: u8 = 64;

/// Hop limit of neighbour discovery messages. Every router decrements it, so 255 proves that a
/// message comes from the same link (RFC 4861, 7.1).
pub(crate) const NEIGHBOR_HOP_LIMIT: u8 = 255;

/// Number of bytes of a packet's payload that an ICMP error quotes (RFC 792; 64 of RFC 4443's "as
/// much as possible" are enough for the transport's header).
const QUOTED: usize = 8;
const QUOTED6: usize = 64;

/// A parsed IP packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: IpProtocol,
    pub hop_limit: u8,
    pub payload: &'a [u8],
    /// The whole packet, without the padding of its frame.
    pub bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Parses the packet at the start of `bytes`. Returns `None` when it is truncated or invalid.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Packet<'a>> {
        match bytes.first()? >> 4 {
            4 => {
                let packet = Ipv4Packet::new_checked(bytes).ok()?;
                Some(Packet {
                    source: packet.src_addr().into(),
                    destination: packet.dst_addr().into(),
                    protocol: packet.next_header(),
                    hop_limit: packet.hop_limit(),
                    payload: packet.payload(),
                    bytes: &bytes[..packet.total_len().into()],
                })
            }
            6 => {
                let packet = Ipv6Packet::new_checked(bytes).ok()?;
                Some(Packet {
                    source: packet.src_addr().into(),
                    destination: packet.dst_addr().into(),
                    protocol: packet.next_header(),
                    hop_limit: packet.hop_limit(),
                    payload: packet.payload(),
                    bytes: &bytes[..packet.total_len()],
                })
            }
            _ => None,
        }
    }

    /// Returns the gateway's ICMP error for an unreachable destination (RFC 792; RFC 4443, 3.1).
    pub(crate) fn unreachable(&self) -> Option<Vec<u8>> {
        let reason = Icmpv4DstUnreachable::HostUnreachable;
        self.unreachable_because(reason, Icmpv6DstUnreachable::NoRoute)
    }

    /// Returns the gateway's ICMP error for a destination that is administratively prohibited (RFC
    /// 1812, 5.2.7.1; RFC 4443, 3.1).
    pub(crate) fn prohibited(&self) -> Option<Vec<u8>> {
        let reason = Icmpv4DstUnreachable::CommProhibited;
        self.unreachable_because(reason, Icmpv6DstUnreachable::AdminProhibit)
    }

    /// Returns the gateway's ICMPv6 error for a packet from a link-local address to one that is
    /// not, which no router forwards (RFC 4443, 3.1); `None` for other packets, and for ICMPv6,
    /// which may be an error itself.
    pub(crate) fn beyond_scope(&self) -> Option<Vec<u8>> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source, self.destination) else {
            return None;
        };
        let is_beyond = self.protocol != IpProtocol::Icmpv6
            && source.is_unicast_link_local()
            && !destination.is_unicast_link_local()
            && !destination.is_multicast();
        let reason = Icmpv4DstUnreachable::HostUnreachable;
        is_beyond.then(|| self.unreachable_because(reason, Icmpv6DstUnreachable::BeyondScope))?
    }

    fn unreachable_because(
        &self,
        reason4: Icmpv4DstUnreachable,
        reason6: Icmpv6DstUnreachable,
    ) -> Option<Vec<u8>> {
        let payload_len = self.payload.len();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let message = Icmpv4Repr::DstUnreachable {
                    reason: reason4,
                    header: Ipv4Repr {
                        src_addr: source,
                        dst_addr: destination,
                        next_header: self.protocol,
                        payload_len,
                        hop_limit: self.hop_limit,
                    },
                    data: &self.payload[..payload_len.min(QUOTED)],
                };
                icmp_packet(GATEWAY, source, &message)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let message = Icmpv6Repr::DstUnreachable {
                    reason: reason6,
                    header: Ipv6Repr {
                        src_addr: source,
                        dst_addr: destination,
                        next_header: self.protocol,
                        payload_len,
                        hop_limit: self.hop_limit,
                    },
                    data: &self.payload[..payload_len.min(QUOTED6)],
                };
                icmp6_packet(GATEWAY6, source, HOP_LIMIT, &message)
            }
            _ => None,
        }
    }
}

/// A UDP datagram from or to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub payload: Vec<u8>,
}

impl Datagram {
    /// Parses the payload of an IP packet.
    pub(crate) fn parse(packet: &Packet<'_>) -> Option<Datagram> {
        let udp = UdpPacket::new_checked(packet.payload).ok()?;
        Some(Datagram {
            source: SocketAddr::new(packet.source, udp.src_port()),
            destination: SocketAddr::new(packet.destination, udp.dst_port()),
            payload: udp.payload().to_vec(),
        })
    }

    /// Returns the IP packet with this datagram; `None` when it does not fit into one, or if one
    /// address is IPv4 and the other IPv6.
    pub(crate) fn to_packet(&self) -> Option<Vec<u8>> {
        let udp = UdpRepr {
            src_port: self.source.port(),
            dst_port: self.destination.port(),
        };
        let length = udp.header_len() + self.payload.len();
        let (source, destination) = (self.source.ip(), self.destination.ip());
        let ip = ip_header(source, destination, IpProtocol::Udp, length, HOP_LIMIT)?;
        ip_packet(ip, |payload| {
            let mut packet = UdpPacket::new_unchecked(payload);
            udp.emit(
                &mut packet,
                &source.into(),
                &destination.into(),
                self.payload.len(),
                |bytes| bytes.copy_from_slice(&self.payload),
                &ChecksumCapabilities::default(),
            );
        })
    }
}

/// Returns the IP packet with this ICMP message.
pub(crate) fn icmp_packet(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    message: &Icmpv4Repr<'_>,
) -> Option<Vec<u8>> {
    let (from, to) = (source.into(), destination.into());
    let length = message.buffer_len();
    let ip = ip_header(from, to, IpProtocol::Icmp, length, HOP_LIMIT)?;
    ip_packet(ip, |payload| {
        let mut packet = Icmpv4Packet::new_unchecked(payload);
        message.emit(&mut packet, &ChecksumCapabilities::default());
    })
}

/// Returns the IP packet with this ICMPv6 message.
pub(crate) fn icmp6_packet(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    message: &Icmpv6Repr<'_>,
) -> Option<Vec<u8>> {
    let (from, to) = (source.into(), destination.into());
    let length = message.buffer_len();
    let ip = ip_header(from, to, IpProtocol::Icmpv6, length, hop_limit)?;
    ip_packet(ip, |payload| {
        let mut packet = Icmpv6Packet::new_unchecked(payload);
        let checksums = ChecksumCapabilities::default();
        message.emit(&source, &destination, &mut packet, &checksums);
    })
}

/// Returns the header of a packet; `None` when one address is IPv4 and the other IPv6, or if the
/// packet would exceed the MTU.
fn ip_header(
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    length: usize,
    hop_limit: u8,
) -> Option<IpRepr> {
    if source.is_ipv4() != destination.is_ipv4() {
        return None;
    }
    let (source, destination) = (source.into(), destination.into());
    let ip = IpRepr::new(source, destination, protocol, length, hop_limit);
    (ip.buffer_len() <= usize::from(MTU)).then_some(ip)
}

fn ip_packet(ip: IpRepr, fill: impl FnOnce(&mut [u8])) -> Option<Vec<u8>> {
    let mut bytes = vec![0; ip.buffer_len()];
    ip.emit(&mut bytes[..], &ChecksumCapabilities::default());
    if matches!(ip, IpRepr::Ipv4(_)) {
        // smoltcp sets "don't fragment". The guest's kernel may forward the packet to a container
        // behind a smaller MTU, and must be able to fragment it.
        static IDENTIFICATION: AtomicU16 = AtomicU16::new(1);
        let mut header = Ipv4Packet::new_unchecked(&mut bytes[..]);
        header.set_dont_frag(false);
        header.set_ident(IDENTIFICATION.fetch_add(1, Ordering::Relaxed));
        header.fill_checksum();
    }
    fill(&mut bytes[ip.header_len()..]);
    Some(bytes)
}

/// Answers a neighbour solicitation (RFC 4861, 7.2.4) for an address that the gateway forwards to,
/// with the gateway's MAC address. Returns `None` for other packets and addresses.
pub(crate) fn neighbor_advertisement(
    packet: &Packet<'_>,
    gateway: [u8; 6],
    is_forwarded: impl FnOnce(Ipv6Addr) -> bool,
) -> Option<Vec<u8>> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else {
        return None;
    };
    // An unspecified source means duplicate address detection: an answer would claim the address.
    if packet.hop_limit != NEIGHBOR_HOP_LIMIT || source.is_unspecified() {
        return None;
    }
    let message = Icmpv6Packet::new_checked(packet.payload).ok()?;
    let checksums = ChecksumCapabilities::default();
    let message = Icmpv6Repr::parse(&source, &destination, &message, &checksums).ok()?;
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }) = message else {
        return None;
    };
    if !is_forwarded(target_addr) {
        return None;
    }
    let advertisement = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::SOLICITED,
        target_addr,
        lladdr: Some(EthernetAddress(gateway).into()),
    });
    icmp6_packet(target_addr, source, NEIGHBOR_HOP_LIMIT, &advertisement)
}

/// Answers an ARP request (RFC 826) with the gateway's MAC address, whatever the address: the
/// gateway forwards to all of them ("proxy ARP", RFC 1027). Returns `None` for other messages.
pub(crate) fn arp_reply(request: &[u8], gateway: [u8; 6], guest: Ipv4Addr) -> Option<[u8; 28]> {
    // Ethernet, IPv4, address lengths 6 and 4, operation: request.
    const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    const REPLY: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 2];
    let request: &[u8; 28] = request.get(..28)?.try_into().ok()?;
    if request[..8] != REQUEST {
        return None;
    }
    let (sender, target) = (&request[8..18], &request[24..28]);
    // A request for the guest's own address is duplicate address detection.
    if target == guest.octets() {
        return None;
    }
    let mut reply = [0; 28];
    reply[..8].copy_from_slice(&REPLY);
    reply[8..14].copy_from_slice(&gateway);
    reply[14..18].copy_from_slice(target);
    reply[18..28].copy_from_slice(sender);
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_datagram_is_parsed_again() {
        let datagram = Datagram {
            source: "198.19.1.2:4000".parse().unwrap(),
            destination: "192.0.2.1:53".parse().unwrap(),
            payload: b"question".to_vec(),
        };
        let packet = datagram.to_packet().unwrap();
        let read = Packet::parse(&packet).unwrap();
        assert_eq!(Datagram::parse(&read), Some(datagram.clone()));
        assert!(
            Ipv4Packet::new_checked(&packet[..])
                .unwrap()
                .verify_checksum()
        );
        let too_long = Datagram {
            payload: vec![0; 65_535],
            ..datagram
        };
        assert_eq!(too_long.to_packet(), None);
        let ipv6 = Datagram {
            source: "[fd00::1]:4000".parse().unwrap(),
            destination: "[2001:db8::1]:53".parse().unwrap(),
            payload: b"question".to_vec(),
        };
        let packet = ipv6.to_packet().unwrap();
        let read = Packet::parse(&packet).unwrap();
        assert_eq!(Datagram::parse(&read), Some(ipv6.clone()));
        let mixed = Datagram {
            source: "192.0.2.1:53".parse().unwrap(),
            ..ipv6
        };
        assert_eq!(mixed.to_packet(), None);
    }

    #[test]
    fn invalid_packets_are_not_parsed() {
        for bytes in [&[][..], &[0x45], &[0x60; 39], &[0x45; 19], &[0xff; 60]] {
            assert!(Packet::parse(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn an_icmp_error_quotes_the_packet() {
        for (source, destination, quoted) in [
            ("198.19.1.2:4000", "192.0.2.1:53", 20 + 8 + 20 + 8),
            ("[fd00::2]:4000", "[2001:db8::1]:53", 40 + 8 + 40 + 16),
        ] {
            let datagram = Datagram {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                payload: b"question".to_vec(),
            };
            let packet = datagram.to_packet().unwrap();
            let packet = Packet::parse(&packet).unwrap();
            let answer = packet.unreachable().unwrap();
            let answer = Packet::parse(&answer).unwrap();
            assert_eq!(answer.destination, packet.source);
            assert_eq!(answer.bytes.len(), quoted, "{source}");
        }
    }

    #[test]
    fn only_packets_that_leave_the_scope_of_their_source_are_answered() {
        let answer = |source: &str, destination: &str| {
            let datagram = Datagram {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                payload: b"question".to_vec(),
            };
            let packet = datagram.to_packet().unwrap();
            Packet::parse(&packet).unwrap().beyond_scope()
        };
        let answered = answer("[fe80::7]:4000", "[2001:db8::1]:53").unwrap();
        let answered = Packet::parse(&answered).unwrap();
        assert_eq!(answered.destination, "fe80::7".parse::<IpAddr>().unwrap());
        // Destination unreachable, beyond scope of source address.
        assert_eq!(answered.payload[..2], [1, 2]);
        for (source, destination) in [
            ("[fe80::7]:4000", "[fe80::1]:53"),
            ("[fe80::7]:4000", "[ff02::1]:53"),
            ("[fd00::7]:4000", "[2001:db8::1]:53"),
            ("169.254.0.7:4000", "192.0.2.1:53"),
        ] {
            assert_eq!(answer(source, destination), None, "{source} {destination}");
        }
    }

    #[test]
    fn the_gateway_answers_neighbor_solicitations() {
        let guest: Ipv6Addr = "fd00::2".parse().unwrap();
        let target: Ipv6Addr = "fd00::1".parse().unwrap();
        let question = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
            target_addr: target,
            lladdr: None,
        });
        let to = "ff02::1:ff00:1".parse().unwrap();
        let packet = icmp6_packet(guest, to, 255, &question).unwrap();
        let packet = Packet::parse(&packet).unwrap();
        let answer = neighbor_advertisement(&packet, [9; 6], |it| it == target).unwrap();
        let answer = Packet::parse(&answer).unwrap();
        assert_eq!(answer.destination, guest);
        assert_eq!(answer.payload[0], 136);
        assert_eq!(answer.payload[24..], [2, 1, 9, 9, 9, 9, 9, 9]);
        assert_eq!(neighbor_advertisement(&packet, [9; 6], |_| false), None);
        // The hop limit shows that a router has forwarded it.
        let packet = icmp6_packet(guest, to, 64, &question).unwrap();
        let packet = Packet::parse(&packet).unwrap();
        assert_eq!(neighbor_advertisement(&packet, [9; 6], |_| true), None);
    }

    #[test]
    fn the_gateway_answers_arp_requests_for_all_but_the_guest() {
        let own = Ipv4Addr::new(198, 19, 1, 2);
        let mut request = [0; 28];
        request[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        request[8..18].copy_from_slice(&[2, 0, 198, 19, 1, 2, 198, 19, 1, 2]);
        request[24..].copy_from_slice(&[198, 19, 0, 1]);
        let answer = arp_reply(&request, [9; 6], own).unwrap();
        assert_eq!(answer[6..18], [0, 2, 9, 9, 9, 9, 9, 9, 198, 19, 0, 1]);
        assert_eq!(answer[18..], [2, 0, 198, 19, 1, 2, 198, 19, 1, 2]);
        request[24..].copy_from_slice(&own.octets());
        assert_eq!(arp_reply(&request, [9; 6], own), None);
        assert_eq!(arp_reply(&request[..20], [9; 6], own), None);
    }
}
