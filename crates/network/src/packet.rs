//! Packets that the stack does not make itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable,
        Icmpv6Packet, Icmpv6Repr, IpProtocol, IpRepr, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr,
        NdiscNeighborFlags, NdiscRepr, UdpPacket, UdpRepr,
    },
};

use crate::segment::{GATEWAY, GATEWAY6, MTU};

/// What packets have at the beginning of their way.
pub const HOP_LIMIT: u8 = 64;

/// What a neighbour's messages must have, so that no router can have passed them on (RFC 4861, 7.1).
const HOP_LIMIT_OF_NEIGHBOURS: u8 = 255;

/// An IP packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: IpProtocol,
    pub hop_limit: u8,
    pub payload: &'a [u8],
    /// All of it, without what a card has padded it with.
    pub bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads the packet at the beginning of some bytes; none if there is none, or not all of it.
    pub fn of(bytes: &'a [u8]) -> Option<Packet<'a>> {
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

    /// The packet with which the gateway says that this one leads nowhere (RFC 792; RFC 4443, 3.1).
    pub fn unreachable(&self) -> Option<Vec<u8>> {
        let payload_len = self.payload.len();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let message = Icmpv4Repr::DstUnreachable {
                    reason: Icmpv4DstUnreachable::HostUnreachable,
                    header: Ipv4Repr {
                        src_addr: source,
                        dst_addr: destination,
                        next_header: self.protocol,
                        payload_len,
                        hop_limit: self.hop_limit,
                    },
                    data: &self.payload[..payload_len.min(8)],
                };
                icmp_packet(GATEWAY, source, &message)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let message = Icmpv6Repr::DstUnreachable {
                    reason: Icmpv6DstUnreachable::NoRoute,
                    header: Ipv6Repr {
                        src_addr: source,
                        dst_addr: destination,
                        next_header: self.protocol,
                        payload_len,
                        hop_limit: self.hop_limit,
                    },
                    data: &self.payload[..payload_len.min(64)],
                };
                icmp6_packet(GATEWAY6, source, HOP_LIMIT, &message)
            }
            _ => None,
        }
    }
}

/// A datagram from the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub payload: Vec<u8>,
}

impl Datagram {
    /// Reads an IP packet that holds a whole one.
    pub fn of(packet: &Packet<'_>) -> Option<Datagram> {
        let udp = UdpPacket::new_checked(packet.payload).ok()?;
        Some(Datagram {
            source: SocketAddr::new(packet.source, udp.src_port()),
            destination: SocketAddr::new(packet.destination, udp.dst_port()),
            payload: udp.payload().to_vec(),
        })
    }

    /// The IP packet that holds it; none if it is too long for one.
    pub fn packet(&self) -> Option<Vec<u8>> {
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

/// An ICMP message in an IP packet.
pub fn icmp_packet(
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

/// An ICMPv6 message in an IP packet.
pub fn icmp6_packet(
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

/// The header of a packet; none if the addresses are of two kinds, or the payload too long.
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
    fill(&mut bytes[ip.header_len()..]);
    Some(bytes)
}

/// Answers a neighbour's question for an address that `is_here` (RFC 4861, 7.2.4), with the gateway's
/// card. None if it is no such question.
pub fn neighbour_answer(
    packet: &Packet<'_>,
    gateway_card: [u8; 6],
    is_here: impl FnOnce(Ipv6Addr) -> bool,
) -> Option<Vec<u8>> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else {
        return None;
    };
    // What asks without an address of its own only wants to know that it is alone.
    if packet.hop_limit != HOP_LIMIT_OF_NEIGHBOURS || source.is_unspecified() {
        return None;
    }
    let message = Icmpv6Packet::new_checked(packet.payload).ok()?;
    let checksums = ChecksumCapabilities::default();
    let message = Icmpv6Repr::parse(&source, &destination, &message, &checksums).ok()?;
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }) = message else {
        return None;
    };
    if !is_here(target_addr) {
        return None;
    }
    let answer = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::SOLICITED,
        target_addr,
        lladdr: Some(EthernetAddress(gateway_card).into()),
    });
    icmp6_packet(target_addr, source, HOP_LIMIT_OF_NEIGHBOURS, &answer)
}

/// Answers a question for an address of the machines' network with the gateway's card, which passes
/// all of them on (RFC 826; RFC 1027, "proxy ARP"). None if it is no such question.
pub fn arp_answer(request: &[u8], gateway_card: [u8; 6], own: Ipv4Addr) -> Option<[u8; 28]> {
    // Ethernet, IPv4, lengths 6 and 4, a request.
    let request: &[u8; 28] = request.get(..28)?.try_into().ok()?;
    if request[..8] != [0, 1, 8, 0, 6, 4, 0, 1] {
        return None;
    }
    let (sender, target) = (&request[8..18], &request[24..28]);
    // What asks for its own address only wants to know that it is alone.
    if target == own.octets() {
        return None;
    }
    let mut answer = [0; 28];
    answer[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
    answer[8..14].copy_from_slice(&gateway_card);
    answer[14..18].copy_from_slice(target);
    answer[18..28].copy_from_slice(sender);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_goes_there_and_back() {
        let datagram = Datagram {
            source: "198.19.1.2:4000".parse().unwrap(),
            destination: "192.0.2.1:53".parse().unwrap(),
            payload: b"question".to_vec(),
        };
        let packet = datagram.packet().unwrap();
        let read = Packet::of(&packet).unwrap();
        assert_eq!(Datagram::of(&read), Some(datagram.clone()));
        assert!(
            Ipv4Packet::new_checked(&packet[..])
                .unwrap()
                .verify_checksum()
        );
        let too_long = Datagram {
            payload: vec![0; 65_535],
            ..datagram
        };
        assert_eq!(too_long.packet(), None);
        let of_the_other_kind = Datagram {
            source: "[fd00::1]:4000".parse().unwrap(),
            destination: "[2001:db8::1]:53".parse().unwrap(),
            payload: b"question".to_vec(),
        };
        let packet = of_the_other_kind.packet().unwrap();
        let read = Packet::of(&packet).unwrap();
        assert_eq!(Datagram::of(&read), Some(of_the_other_kind.clone()));
        let of_both = Datagram {
            source: "192.0.2.1:53".parse().unwrap(),
            ..of_the_other_kind
        };
        assert_eq!(of_both.packet(), None);
    }

    #[test]
    fn bytes_that_are_no_packet_are_not_read() {
        for bytes in [&[][..], &[0x45], &[0x60; 39], &[0x45; 19], &[0xff; 60]] {
            assert!(Packet::of(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn what_leads_nowhere_is_quoted() {
        for (source, destination, quoted) in [
            ("198.19.1.2:4000", "192.0.2.1:53", 20 + 8 + 20 + 8),
            ("[fd00::2]:4000", "[2001:db8::1]:53", 40 + 8 + 40 + 16),
        ] {
            let datagram = Datagram {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                payload: b"question".to_vec(),
            };
            let packet = datagram.packet().unwrap();
            let packet = Packet::of(&packet).unwrap();
            let answer = packet.unreachable().unwrap();
            let answer = Packet::of(&answer).unwrap();
            assert_eq!(answer.destination, packet.source);
            assert_eq!(answer.bytes.len(), quoted, "{source}");
        }
    }

    #[test]
    fn the_gateway_is_everyones_neighbour() {
        let guest: Ipv6Addr = "fd00::2".parse().unwrap();
        let target: Ipv6Addr = "fd00::1".parse().unwrap();
        let question = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
            target_addr: target,
            lladdr: None,
        });
        let to = "ff02::1:ff00:1".parse().unwrap();
        let packet = icmp6_packet(guest, to, 255, &question).unwrap();
        let packet = Packet::of(&packet).unwrap();
        let answer = neighbour_answer(&packet, [9; 6], |it| it == target).unwrap();
        let answer = Packet::of(&answer).unwrap();
        assert_eq!(answer.destination, guest);
        assert_eq!(answer.payload[0], 136);
        assert_eq!(answer.payload[24..], [2, 1, 9, 9, 9, 9, 9, 9]);
        assert_eq!(neighbour_answer(&packet, [9; 6], |_| false), None);
        // From beyond a router.
        let packet = icmp6_packet(guest, to, 64, &question).unwrap();
        let packet = Packet::of(&packet).unwrap();
        assert_eq!(neighbour_answer(&packet, [9; 6], |_| true), None);
    }

    #[test]
    fn the_gateway_answers_for_everyone_but_the_machine() {
        let own = Ipv4Addr::new(198, 19, 1, 2);
        let mut request = [0; 28];
        request[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        request[8..18].copy_from_slice(&[2, 0, 198, 19, 1, 2, 198, 19, 1, 2]);
        request[24..].copy_from_slice(&[198, 19, 0, 1]);
        let answer = arp_answer(&request, [9; 6], own).unwrap();
        assert_eq!(answer[6..18], [0, 2, 9, 9, 9, 9, 9, 9, 198, 19, 0, 1]);
        assert_eq!(answer[18..], [2, 0, 198, 19, 1, 2, 198, 19, 1, 2]);
        request[24..].copy_from_slice(&own.octets());
        assert_eq!(arp_answer(&request, [9; 6], own), None);
        assert_eq!(arp_answer(&request[..20], [9; 6], own), None);
    }
}
