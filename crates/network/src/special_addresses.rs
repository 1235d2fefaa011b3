//! Addresses that no public host has, by the registries of special-purpose addresses (RFC 6890,
//! kept at <https://www.iana.org/assignments/iana-ipv4-special-registry> and
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 networks that are not public, with their prefix lengths.
const SPECIAL: [(Ipv4Addr, u32); 15] = [
    // This network.
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    // Private use.
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    // Carrier-grade NAT.
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    // Loopback.
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // An address of Azure's metadata service, although others of the network are public.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    // Link-local.
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    // Private use.
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    // Protocol assignments.
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    // Documentation.
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Relays of 6to4, which lead to IPv6.
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    // Private use.
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    // Benchmarks, and the machines' network.
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    // Multicast, reserved and broadcast.
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// The only IPv6 network that public hosts are in (RFC 4291, section 2.4). It has neither the
/// unique local, link-local and multicast addresses nor most of those that embed an IPv4 address:
/// mapped, compatible and translated ones, and 64:ff9b::/96 of NAT64.
const PUBLIC6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Networks in it that are not public.
const SPECIAL6: [(Ipv6Addr, u32); 4] = [
    // Protocol assignments: Teredo, benchmarks and others.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    // Documentation.
    (Ipv6Addr::new(0x2001, 0x0db8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    // 6to4, which embeds an IPv4 address.
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

/// Whether the address can be that of a public host.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL.iter().any(|network| is_in(address, *network)),
        IpAddr::V6(address) => {
            is_in6(address, PUBLIC6) && !SPECIAL6.iter().any(|network| is_in6(address, *network))
        }
    }
}

fn is_in(address: Ipv4Addr, (network, prefix): (Ipv4Addr, u32)) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= prefix
}

fn is_in6(address: Ipv6Addr, (network, prefix): (Ipv6Addr, u32)) -> bool {
    (address.to_bits() ^ network.to_bits()).leading_zeros() >= prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for (address, expected) in [
            ("0.0.0.0", false),
            ("0.255.255.255", false),
            ("1.1.1.1", true),
            ("9.255.255.255", true),
            ("10.0.0.0", false),
            ("10.255.255.255", false),
            ("11.0.0.0", true),
            ("100.63.255.255", true),
            ("100.64.0.0", false),
            ("100.100.100.200", false),
            ("100.127.255.255", false),
            ("100.128.0.0", true),
            ("127.0.0.1", false),
            ("127.255.255.255", false),
            ("168.63.129.16", false),
            ("168.63.129.17", true),
            ("169.253.255.255", true),
            ("169.254.169.254", false),
            ("169.255.0.0", true),
            ("172.15.255.255", true),
            ("172.16.0.0", false),
            ("172.31.255.255", false),
            ("172.32.0.0", true),
            ("192.0.0.1", false),
            ("192.0.2.1", false),
            ("192.0.3.0", true),
            ("192.88.99.1", false),
            ("192.167.255.255", true),
            ("192.168.0.0", false),
            ("192.168.255.255", false),
            ("192.169.0.0", true),
            ("198.17.255.255", true),
            ("198.18.0.0", false),
            ("198.19.255.255", false),
            ("198.20.0.0", true),
            ("198.51.100.7", false),
            ("203.0.113.7", false),
            ("223.255.255.255", true),
            ("224.0.0.1", false),
            ("239.255.255.255", false),
            ("240.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::8.8.8.8", false),
            ("::ffff:8.8.8.8", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:0:8.8.8.8", false),
            ("64:ff9b::8.8.8.8", false),
            ("64:ff9b::10.0.0.1", false),
            ("64:ff9b:1::10.0.0.1", false),
            ("100::1", false),
            ("1fff:ffff::1", false),
            ("2001::1", false),
            ("2001:2::1", false),
            ("2001:10::1", false),
            ("2001:1ff:ffff::1", false),
            ("2001:200::1", true),
            ("2001:4860:4860::8888", true),
            ("2001:db7::1", true),
            ("2001:db8::1", false),
            ("2001:db9::1", true),
            ("2002:a00:1::1", false),
            ("2003::1", true),
            ("2606:4700::1111", true),
            ("3ffe::1", true),
            ("3fff::1", false),
            ("3fff:1000::1", true),
            ("4000::1", false),
            ("5f00::1", false),
            ("fc00::1", false),
            ("fd7e:41c9:b35a::c613:101", false),
            ("fd00:ec2::254", false),
            ("fe80::1", false),
            ("fec0::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
        }
    }
}
