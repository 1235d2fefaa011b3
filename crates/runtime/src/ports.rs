//! The guest's listeners as ports that the host forwards.

use std::{collections::BTreeMap, net::IpAddr};

use container_network::{GuestPort, Reach};
use container_protocol::{Listener, Transport};

/// Returns each port once. One with a listener at the machine's own address, `guest`, is reached
/// there; one that only listens on the machine's loopback is reached over the agent's relay.
pub(crate) fn guest_ports(listeners: Vec<Listener>, guest: IpAddr) -> Vec<GuestPort> {
    let mut ports: BTreeMap<(Transport, u16), GuestPort> = BTreeMap::new();
    for listener in listeners {
        let (address, port) = (listener.address.ip(), listener.address.port());
        let reach = if address.is_unspecified() || address == guest {
            Reach::Direct
        } else {
            Reach::Relay
        };
        let key = (listener.transport, port);
        let known = ports.get(&key);
        if known.is_none() || reach == Reach::Direct {
            let process = listener.process;
            let process = process.or_else(|| known.and_then(|known| known.process.clone()));
            ports.insert(
                key,
                GuestPort {
                    transport: listener.transport,
                    port,
                    reach,
                    process,
                },
            );
        }
    }
    ports.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_listener_is_preferred() {
        let listener = |address: &str, process: Option<&str>| Listener {
            transport: Transport::Tcp,
            address: address.parse().unwrap(),
            process: process.map(str::to_owned),
        };
        let guest = IpAddr::from([198, 19, 1, 2]);
        let listeners = vec![
            listener("127.0.0.1:80", Some("web")),
            listener("[::]:80", None),
            listener("[::1]:25", Some("mail")),
            listener("198.19.1.2:22", Some("sshd")),
        ];
        let ports = guest_ports(listeners, guest);
        let found: Vec<_> = ports
            .iter()
            .map(|port| (port.port, port.reach, port.process.as_deref().unwrap()))
            .collect();
        assert_eq!(
            found,
            [
                (22, Reach::Direct, "sshd"),
                (25, Reach::Relay, "mail"),
                (80, Reach::Direct, "web")
            ]
        );
    }
}
