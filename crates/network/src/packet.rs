//! Packets that the stack does not make itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr},
};

const HOP_LIMIT: u8 = 64;

/// A datagram from the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub payload: Vec<u8>,
}

impl Datagram {
    /// Reads an IP packet that holds a whole one.
    pub fn of(packet: &Ipv4Packet<&[u8]>) -> Option<Datagram> {
        let udp = UdpPacket::new_checked(packet.payload()).ok()?;
        Some(Datagram {
            source: SocketAddrV4::new(packet.src_addr(), udp.src_port()),
            destination: SocketAddrV4::new(packet.dst_addr(), udp.dst_port()),
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
        let (source, destination) = (*self.source.ip(), *self.destination.ip());
        ip_packet(source, destination, IpProtocol::Udp, length, |payload| {
            let mut packet = UdpPacket::new_unchecked(payload);
            udp.emit(
                &mut packet,
                &IpAddr::V4(source).into(),
                &IpAddr::V4(destination).into(),
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
    let length = message.buffer_len();
    ip_packet(source, destination, IpProtocol::Icmp, length, |payload| {
        let mut packet = Icmpv4Packet::new_unchecked(payload);
        message.emit(&mut packet, &ChecksumCapabilities::default());
    })
}

fn ip_packet(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    next_header: IpProtocol,
    payload_len: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Option<Vec<u8>> {
    let ip = Ipv4Repr {
        src_addr: source,
        dst_addr: destination,
        next_header,
        payload_len,
        hop_limit: HOP_LIMIT,
    };
    let length = ip.buffer_len() + payload_len;
    if length > usize::from(crate::MTU) {
        return None;
    }
    let mut bytes = vec![0; length];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
    ip.emit(&mut packet, &ChecksumCapabilities::default());
    fill(packet.payload_mut());
    Some(bytes)
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
        let packet = Ipv4Packet::new_checked(&packet[..]).unwrap();
        assert!(packet.verify_checksum());
        assert_eq!(Datagram::of(&packet), Some(datagram.clone()));
        let too_long = Datagram {
            payload: vec![0; 65_535],
            ..datagram
        };
        assert_eq!(too_long.packet(), None);
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
