//! Connections of the guest to the host's loopback that the policy refuses. The user may not know
//! that a setting allows them, so the first one to a port where the host listens is reported.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::sync::mpsc;

use crate::connection_owner::has_listener;

/// Limit of reported ports. A guest that tries them all must not fill a log.
const MAX_REPORTS: usize = 32;

/// A port of the host's loopback where a program listens, and to which the policy has refused the
/// guest a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedPort {
    /// The port.
    pub port: u16,
    /// Whether the machine's egress rules would allow the connection.
    pub allowed_by_rules: bool,
}

/// The ports that have been reported, and the receiver of the reports.
#[derive(Debug)]
pub(crate) struct Refusals {
    reported: HashSet<u16>,
    reports: mpsc::UnboundedSender<RefusedPort>,
}

impl Refusals {
    pub(crate) fn new(reports: mpsc::UnboundedSender<RefusedPort>) -> Refusals {
        Refusals {
            reported: HashSet::new(),
            reports,
        }
    }

    /// Notes that a connection to this port of the gateway was refused.
    pub(crate) fn note(&mut self, refused: RefusedPort) {
        let port = refused.port;
        if self.reported.len() >= MAX_REPORTS || self.reported.contains(&port) {
            return;
        }
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        if loopback
            .into_iter()
            .any(|address| has_listener(SocketAddr::new(address, port)))
        {
            self.reported.insert(port);
            // Fails if nobody reads them.
            let _ = self.reports.send(refused);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_ports_where_the_host_listens_are_reported_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (reports, mut received) = mpsc::unbounded_channel();
        let mut refusals = Refusals::new(reports);
        let refused = |port| RefusedPort {
            port,
            allowed_by_rules: false,
        };
        refusals.note(refused(port));
        refusals.note(refused(port));
        drop(listener);
        let unused = TcpListener::bind("127.0.0.1:0").unwrap();
        let unused_port = unused.local_addr().unwrap().port();
        drop(unused);
        refusals.note(refused(unused_port));
        assert_eq!(received.try_recv(), Ok(refused(port)));
        assert!(received.try_recv().is_err());
    }
}
