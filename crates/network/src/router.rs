//! The gateway as an IPv6 router (RFC 4861). Clients such as systemd-networkd and NetworkManager
//! use DHCPv6 only if a router advertises it, and wait for an advertisement.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use smoltcp::{
    phy::ChecksumCapabilities,
    time::Duration as WireDuration,
    wire::{
        EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, NdiscPrefixInfoFlags,
        NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags,
    },
};
use tokio::{sync::mpsc, time::sleep};

use crate::{
    address::{GATEWAY, GATEWAY_LINK_LOCAL, NETWORK6, PREFIX6, mac_address},
    packet::{HOP_LIMIT, NEIGHBOR_HOP_LIMIT, Packet, icmp6_packet},
};

/// Multicast address of all nodes on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Time in seconds for which a guest uses the router after an advertisement, and the interval of
/// advertisements: the largest values of RFC 4861, 6.2.1.
const LIFETIME: u64 = 9000;
const INTERVAL: Duration = Duration::from_secs(1800);

/// Value of a prefix's lifetime that never ends.
const INFINITE: u64 = u32::MAX as u64;

/// Returns the advertisement that answers a router solicitation; `None` for other packets.
pub(crate) fn answer(packet: &Packet<'_>) -> Option<Vec<u8>> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else {
        return None;
    };
    if packet.protocol != IpProtocol::Icmpv6 || packet.hop_limit != NEIGHBOR_HOP_LIMIT {
        return None;
    }
    let message = Icmpv6Packet::new_checked(packet.payload).ok()?;
    let checksums = ChecksumCapabilities::default();
    match Icmpv6Repr::parse(&source, &destination, &message, &checksums).ok()? {
        Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { .. }) => advertisement(),
        _ => None,
    }
}

/// Advertises the router to all nodes at an interval, until the network ends.
pub(crate) async fn advertise(to_guest: mpsc::Sender<Vec<u8>>) {
    loop {
        sleep(INTERVAL).await;
        let Some(packet) = advertisement() else {
            return;
        };
        if to_guest.send(packet).await.is_err() {
            return;
        }
    }
}

/// Returns the advertisement: a default router, and addresses by DHCPv6. A guest must not choose
/// addresses of its own, because packets from other addresses than the machine's are dropped.
fn advertisement() -> Option<Vec<u8>> {
    let infinite = WireDuration::from_secs(INFINITE);
    let advertisement = Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        hop_limit: HOP_LIMIT,
        flags: NdiscRouterFlags::MANAGED | NdiscRouterFlags::OTHER,
        router_lifetime: WireDuration::from_secs(LIFETIME),
        reachable_time: WireDuration::ZERO,
        retrans_time: WireDuration::ZERO,
        lladdr: Some(EthernetAddress(mac_address(GATEWAY)).into()),
        mtu: None,
        prefix_info: Some(NdiscPrefixInformation {
            prefix_len: PREFIX6,
            flags: NdiscPrefixInfoFlags::ON_LINK,
            valid_lifetime: infinite,
            preferred_lifetime: infinite,
            prefix: NETWORK6,
        }),
    });
    icmp6_packet(
        GATEWAY_LINK_LOCAL,
        ALL_NODES,
        NEIGHBOR_HOP_LIMIT,
        &advertisement,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solicitation_is_answered_with_the_managed_flag() {
        let solicitation = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: None });
        let all_routers = "ff02::2".parse().unwrap();
        for source in ["::", "fe80::7"] {
            let source = source.parse().unwrap();
            let packet =
                icmp6_packet(source, all_routers, NEIGHBOR_HOP_LIMIT, &solicitation).unwrap();
            let reply = answer(&Packet::parse(&packet).unwrap()).unwrap();
            let reply = Packet::parse(&reply).unwrap();
            assert_eq!(reply.source, GATEWAY_LINK_LOCAL);
            // Type, and the flags "managed" and "other".
            assert_eq!((reply.payload[0], reply.payload[5]), (134, 0xc0));
            assert_eq!(reply.payload[6..8], 9000u16.to_be_bytes());
        }
        let routed = icmp6_packet("fe80::7".parse().unwrap(), all_routers, 64, &solicitation);
        let routed = routed.unwrap();
        assert_eq!(answer(&Packet::parse(&routed).unwrap()), None);
    }
}
