//! Entry points for fuzz targets, one for each parser of bytes from outside. Each panics if the
//! parser breaks a promise.

#![allow(clippy::expect_used, reason = "a panic is how a fuzz target fails")]

use container_machine::{DnsDomain, MachineAddress};
use hickory_proto::op::{Message, MessageType};

use crate::{
    address::GATEWAY,
    dhcp, dhcp6,
    echo::EchoRequest,
    fragments::{self, Reassembly},
    frame::Frame,
    host_name_server,
    host_resolver::HostResolver,
    mac_address,
    name_server::{parse_hosts, reverse_address},
    packet::{Datagram, MTU, Packet, arp_reply, neighbor_advertisement},
    router,
    tcp_stack::FlowKey,
};

/// Handles a frame from the guest.
pub fn frame(bytes: &[u8]) {
    match Frame::parse(bytes) {
        Some(Frame::Arp(request)) => {
            let guest = MachineAddress::from_index(7).guest();
            let reply = arp_reply(request, mac_address(GATEWAY), guest);
            assert!(reply.is_none_or(|reply| reply[14..18] != guest.octets()));
        }
        Some(Frame::Ip(read)) => {
            assert!(read.bytes.len() <= bytes.len());
            packet(read.bytes);
        }
        None => {}
    }
}

/// Handles an IP packet from the guest or from another machine: TCP, UDP, echo requests and
/// neighbour solicitations in it, and the ICMP error for it.
pub fn packet(bytes: &[u8]) {
    let Some(packet) = Packet::parse(bytes) else {
        return;
    };
    assert!(packet.bytes.len() <= bytes.len());
    assert!(packet.payload.len() <= packet.bytes.len());
    assert_eq!(packet.source.is_ipv4(), packet.destination.is_ipv4());
    if let Some(error) = packet.unreachable() {
        let error = Packet::parse(&error).expect("an ICMP error is a packet");
        assert_eq!(error.destination, packet.source);
        assert!(error.bytes.len() <= usize::from(MTU));
    }
    if let Some((key, _)) = FlowKey::parse(&packet) {
        assert_eq!(key.guest.ip(), packet.source);
        assert_eq!(key.remote.ip(), packet.destination);
    }
    if let Some(datagram) = Datagram::parse(&packet) {
        assert!(datagram.payload.len() < packet.payload.len());
        if let Some(written) = datagram.to_packet() {
            let written = Packet::parse(&written).expect("a written datagram is a packet");
            assert_eq!(Datagram::parse(&written), Some(datagram));
        }
    }
    if let Some(request) = EchoRequest::parse(&packet)
        && let Some(reply) = request.reply()
    {
        let reply = Packet::parse(&reply).expect("an echo reply is a packet");
        assert_eq!(reply.destination, packet.source);
    }
    let own = MachineAddress::from_index(7);
    let search = || vec!["corp.test".to_owned()];
    let replies = [
        dhcp::answer(&packet, own, search),
        dhcp6::answer(&packet, own, search),
        router::answer(&packet),
    ];
    for reply in replies.into_iter().flatten() {
        Packet::parse(&reply).expect("a reply is a packet");
    }
    if fragments::is_fragment(&packet) {
        let mut reassembly = Reassembly::default();
        if let Some(whole) = reassembly.add(&packet) {
            Packet::parse(&whole).expect("a reassembled packet is a packet");
        }
    }
    if let Some(reply) = neighbor_advertisement(&packet, mac_address(GATEWAY), |_| true) {
        let reply = Packet::parse(&reply).expect("a neighbour advertisement is a packet");
        assert_eq!(reply.destination, packet.source);
    }
}

/// Answers a DNS message of the host's programs.
pub fn dns_message(bytes: &[u8]) {
    let domain: DnsDomain = "machine".parse().expect("a domain");
    let machine = |id: &str| (id == "web").then(|| MachineAddress::from_index(7));
    let Some(reply) = host_name_server::answer(bytes, &[domain], machine) else {
        return;
    };
    let query = Message::from_vec(bytes).expect("an answered message is valid");
    let reply = Message::from_vec(&reply).expect("a reply is valid");
    assert_eq!(reply.metadata.id, query.metadata.id);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    for question in &query.queries {
        let _ = reverse_address(&question.name().to_string());
    }
}

/// Parses `/etc/hosts` and `/etc/resolv.conf`.
pub fn host_files(bytes: &[u8]) {
    for domain in HostResolver::parse(bytes).search {
        assert!(!domain.contains(char::is_whitespace));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for address in parse_hosts(text, "db") {
        assert!(!address.is_loopback());
    }
}
