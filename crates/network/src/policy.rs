//! Destinations that the guest may reach, and users who may reach the guest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::address::{is_gateway, is_in_machine_network};

/// Access to and from the guest, beyond what every program of the host's user can reach elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether the gateway's address leads to the host's loopback.
    pub host_loopback: bool,
    /// Whether the metadata services of cloud providers can be reached.
    #[serde(default)]
    pub cloud_metadata: bool,
    /// Whether only programs of this process's user and of root may connect to the guest.
    pub same_user_only: bool,
}

impl Policy {
    /// Returns the address on the host's side that an address in the guest leads to.
    ///
    /// Returns `None` when the guest must not connect to: the host's loopback (which includes
    /// other machines' listeners), addresses that belong to no host, and the services that give a
    /// cloud provider's virtual machine its credentials.
    pub(crate) fn destination(self, wanted: SocketAddr) -> Option<SocketAddr> {
        let address = wanted.ip();
        if is_gateway(address) {
            let host: IpAddr = match address {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            let host = SocketAddr::new(host, wanted.port());
            return self.host_loopback.then_some(host);
        }
        let is_forbidden = address.is_loopback()
            || address.is_multicast()
            || is_in_machine_network(address)
            || self.hides(address)
            || match address {
                IpAddr::V4(address) => address.octets()[0] == 0 || address.is_broadcast(),
                IpAddr::V6(address) => {
                    address.is_unspecified()
                        // A link-local address has no meaning on another link.
                        || address.is_unicast_link_local()
                        // An embedded IPv4 address (RFC 4291, 2.5.5) would evade the rules for
                        // IPv4.
                        || address.to_ipv4().is_some()
                }
            };
        (!is_forbidden && wanted.port() != 0).then_some(wanted)
    }

    /// Whether this is the address of a metadata service that the guest must not connect to.
    pub(crate) fn hides(self, address: IpAddr) -> bool {
        !self.cloud_metadata && is_cloud_metadata(address)
    }
}

/// Whether a cloud provider answers at this address with what the virtual machine may know: its
/// credentials, among other things.
fn is_cloud_metadata(address: IpAddr) -> bool {
    match address {
        // Link-local addresses (RFC 3927): AWS, Azure, Google and most others use 169.254.169.254,
        // AWS also 169.254.170.2 and .23. The others are those of Alibaba, Oracle and Azure.
        IpAddr::V4(address) => {
            address.is_link_local()
                || [[100, 100, 100, 200], [192, 0, 0, 192], [168, 63, 129, 16]]
                    .contains(&address.octets())
        }
        // fd00:ec2::/32 of AWS, and fd20:ce::254 of Google.
        IpAddr::V6(address) => {
            address.segments()[..2] == [0xfd00, 0x0ec2]
                || address == Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_loopback_is_reachable_only_if_allowed_and_as_the_gateway() {
        let closed = Policy::default();
        let open = Policy {
            host_loopback: true,
            ..closed
        };
        let to = |policy: Policy, address: &str| policy.destination(address.parse().unwrap());
        for address in [
            "127.0.0.1:22",
            "127.19.4.4:80",
            "0.0.0.0:1",
            "198.19.7.7:1",
            "[::1]:1",
            "[::]:1",
            "[::ffff:127.0.0.1]:1",
            "[::127.0.0.1]:1",
            "[fe80::1]:1",
            "[ff02::1]:1",
            "[fd7e:41c9:b35a::c613:101]:1",
        ] {
            assert_eq!(to(closed, address), None, "{address}");
            assert_eq!(to(open, address), None, "{address}");
        }
        assert_eq!(to(closed, "198.19.0.1:80"), None);
        let host = Some("127.0.0.1:80".parse().unwrap());
        assert_eq!(to(open, "198.19.0.1:80"), host);
        let gateway = "[fd7e:41c9:b35a::c613:1]:80";
        assert_eq!(to(closed, gateway), None);
        assert_eq!(to(open, gateway), Some("[::1]:80".parse().unwrap()));
        for elsewhere in ["192.0.2.7:80", "[2001:db8::7]:80"] {
            assert_eq!(to(closed, elsewhere), Some(elsewhere.parse().unwrap()));
        }
    }

    #[test]
    fn cloud_metadata_is_reachable_only_if_allowed() {
        let closed = Policy::default();
        let open = Policy {
            cloud_metadata: true,
            ..closed
        };
        for address in [
            "169.254.169.254:80",
            "169.254.170.2:80",
            "100.100.100.200:80",
            "[fd00:ec2::254]:80",
            "[fd20:ce::254]:80",
        ] {
            let address = address.parse().unwrap();
            assert_eq!(closed.destination(address), None, "{address}");
            assert_eq!(open.destination(address), Some(address));
        }
    }
}
