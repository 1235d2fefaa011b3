//! What the guest may reach.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::segment::{GATEWAY, is_of_segment};

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
        let IpAddr::V4(address) = wanted.ip() else {
            return None;
        };
        if address == GATEWAY {
            let host = SocketAddr::from((Ipv4Addr::LOCALHOST, wanted.port()));
            return self.host_loopback.then_some(host);
        }
        let is_nowhere = address.is_loopback()
            || address.octets()[0] == 0
            || address.is_multicast()
            || address.is_broadcast()
            || is_of_segment(address);
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
        ] {
            assert_eq!(to(closed, address), None, "{address}");
            assert_eq!(to(open, address), None, "{address}");
        }
        assert_eq!(to(closed, "198.19.0.1:80"), None);
        let host = Some("127.0.0.1:80".parse().unwrap());
        assert_eq!(to(open, "198.19.0.1:80"), host);
        let elsewhere = Some("192.0.2.7:80".parse().unwrap());
        assert_eq!(to(closed, "192.0.2.7:80"), elsewhere);
    }
}
