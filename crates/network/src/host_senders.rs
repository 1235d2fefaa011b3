//! UDP from the host to the guest: each sender gets a port of the gateway, which the guest sees as
//! the sender's and to which it replies.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    time::Instant,
};

use container_protocol::RELAY_PORT;

/// Limit of senders. Beyond it, the least recently used one is closed.
const MAX_SENDERS: usize = 512;

/// First port of the gateway that stands for a sender.
const FIRST_PORT: u16 = 32768;

/// A program on the host that has sent a datagram to a port of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostSender {
    /// The address that it sends from.
    pub address: SocketAddr,
    /// The host's listener that it sends to, and expects replies from.
    pub listener: SocketAddr,
    /// The guest's port that the listener stands for.
    pub guest_port: u16,
}

/// The known senders, by the gateway's port.
#[derive(Debug, Default)]
pub(crate) struct HostSenders {
    /// With the time of the last datagram.
    senders: HashMap<u16, (HostSender, Instant)>,
    next: u16,
}

impl HostSenders {
    /// Returns the gateway's port that stands for this sender.
    pub(crate) fn port_for(&mut self, sender: HostSender) -> u16 {
        let now = Instant::now();
        let known = self.senders.iter_mut().find(|(_, (it, _))| *it == sender);
        if let Some((port, (_, used_at))) = known {
            *used_at = now;
            return *port;
        }
        if self.senders.len() >= MAX_SENDERS {
            let oldest = self.senders.iter().min_by_key(|(_, (_, used_at))| *used_at);
            if let Some(oldest) = oldest.map(|(port, _)| *port) {
                self.senders.remove(&oldest);
            }
        }
        loop {
            let port = FIRST_PORT + self.next % (u16::MAX - FIRST_PORT);
            self.next = self.next.wrapping_add(1);
            if let Entry::Vacant(free) = self.senders.entry(port) {
                free.insert((sender, now));
                return port;
            }
        }
    }

    /// Returns the sender that a datagram of the guest replies to: one from `guest_port`, or from
    /// the agent's relay, to this port of the gateway.
    pub(crate) fn get(&self, port: u16, guest_port: u16) -> Option<HostSender> {
        let (sender, _) = self.senders.get(&port)?;
        let is_reply = guest_port == sender.guest_port || guest_port == RELAY_PORT;
        is_reply.then_some(*sender)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn senders_have_distinct_ports_and_a_limit() {
        let mut senders = HostSenders::default();
        let sender = |port: u16, guest_port: u16| HostSender {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            listener: SocketAddr::from((Ipv4Addr::LOCALHOST, guest_port)),
            guest_port,
        };
        let first = senders.port_for(sender(1, 53));
        assert_eq!(senders.port_for(sender(1, 53)), first);
        assert_ne!(senders.port_for(sender(1, 54)), first);
        assert_eq!(senders.get(first, 53), Some(sender(1, 53)));
        assert_eq!(senders.get(first, 54), None);
        for port in 2..2000 {
            senders.port_for(sender(port, 53));
        }
        assert_eq!(senders.senders.len(), MAX_SENDERS);
        assert_eq!(senders.get(first, 53), None);
    }
}
