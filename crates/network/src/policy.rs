//! What the guest may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::segment::{is_gateway, is_of_segment};

/// What the guest may reach beyond what every program of the host's user reaches elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether the gateway's address stands for the host's loopback.
    pub host_loopback: bool,
    /// Whether only the owner of this process and root may connect to the guest.
    pub same_user_only: bool,
}

impl Policy {
    /// Where on the host's side an address of the guest's leads; none where the guest may not go:
    /// the host's loopback, other machines' listeners among it, and what is no one's address.
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
        let is_nowhere = address.is_loopback()
            || address.is_multicast()
            || is_of_segment(address)
            || match address {
                IpAddr::V4(address) => address.octets()[0] == 0 || address.is_broadcast(),
                // One of one link means nothing on another; one that stands for an IPv4 address (RFC 4291,
                // 2.5.5) would lead around what is said of that.
                IpAddr::V6(address) => {
                    address.is_unspecified()
                        || address.is_unicast_link_local()
                        || address.to_ipv4().is_some()
                }
            };
        (!is_nowhere && wanted.port() != 0).then_some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_loopback_is_reached_by_name_and_leave_only() {
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
}
