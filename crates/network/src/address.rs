//! Addresses in the network that the machines of one user share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 address of the gateway, which is also the name server and stands for the host.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

/// Prefix length of the machines' IPv4 network.
pub const PREFIX: u8 = 16;

/// The same prefix as a mask.
pub(crate) const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 0, 0);

/// IPv6 address of the gateway.
pub const GATEWAY6: Ipv6Addr = ipv6_address(GATEWAY);

/// Link-local address of the gateway, from which it advertises itself as a router.
pub(crate) const GATEWAY_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xc613, 1);

/// The machines' IPv6 network.
pub(crate) const NETWORK6: Ipv6Addr = Ipv6Addr::new(0xfd7e, 0x41c9, 0xb35a, 0, 0, 0, 0, 0);

/// Prefix length of the machines' IPv6 network.
pub const PREFIX6: u8 = 64;

/// Returns the IPv6 address of the machine (or gateway) with this IPv4 address.
///
/// Its last four bytes are the IPv4 address. The network is one of unique local addresses (RFC
/// 4193), whose 40-bit global id was chosen at random.
pub const fn ipv6_address(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Ipv6Addr::new(0xfd7e, 0x41c9, 0xb35a, 0, 0, 0, high, low)
}

/// Returns the MAC address of the machine (or gateway) with this IPv4 address.
pub const fn mac_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    // Bit 1 of the first byte marks a locally administered address.
    [0x02, 0x00, a, b, c, d]
}

/// Whether the address belongs to the machines' networks (a machine or the gateway).
pub(crate) fn is_in_machine_network(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..2] == GATEWAY.octets()[..2],
        IpAddr::V6(address) => address.octets()[..8] == GATEWAY6.octets()[..8],
    }
}

/// Whether the address is one of the gateway's.
pub(crate) fn is_gateway(address: IpAddr) -> bool {
    address == GATEWAY || address == GATEWAY6
}
