//! A connection of the guest that the gate watches: its server name, and changes of the rules.

use std::{io, net::SocketAddr, sync::Arc};

use crate::{
    first_bytes::{FirstBytes, FirstBytesReader},
    gate::{Gate, ServerName},
    pins::AddressUse,
};

/// Egress rules as they apply to one connection of the guest.
pub(crate) struct Outgoing {
    gate: Arc<Gate>,
    /// The address that the guest is connected to.
    to: SocketAddr,
    server_name: ServerName,
    /// Present until the first bytes are known, if the destination is only allowed by its name.
    reader: Option<FirstBytesReader>,
    _use: Option<AddressUse>,
}

impl Outgoing {
    /// Watches a connection that is allowed, whatever it sends.
    pub(crate) fn allowed(gate: Arc<Gate>, to: SocketAddr) -> Outgoing {
        Outgoing {
            gate,
            to,
            server_name: ServerName::Unread,
            reader: None,
            _use: None,
        }
    }

    /// Watches a connection whose TLS server name has to be allowed.
    pub(crate) fn if_named(
        gate: Arc<Gate>,
        to: SocketAddr,
        address_use: Option<AddressUse>,
    ) -> Outgoing {
        Outgoing {
            gate,
            to,
            server_name: ServerName::Unread,
            reader: Some(FirstBytesReader::new()),
            _use: address_use,
        }
    }

    /// Whether the guest's bytes have to wait because too few of them have arrived.
    pub(crate) fn is_reading(&self) -> bool {
        self.reader.is_some()
    }

    /// Reads all bytes that the guest has sent so far, none of which has been passed on.
    ///
    /// # Errors
    /// If the connection is not allowed.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(reader) = &mut self.reader else {
            return Ok(());
        };
        let is_allowed = match reader.read(bytes) {
            FirstBytes::Incomplete => return Ok(()),
            FirstBytes::NotTls | FirstBytes::Hello(None) => {
                self.server_name = ServerName::Absent;
                true
            }
            FirstBytes::Hello(Some(name)) => {
                let is_allowed = self.gate.allows_server_name(self.to, &name);
                self.server_name = ServerName::Named(name);
                is_allowed
            }
            FirstBytes::Invalid => self.gate.allows_invalid_hello(self.to),
        };
        self.reader.take();
        if is_allowed {
            Ok(())
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }

    /// Whether the rules, which have changed, allow the connection.
    pub(crate) fn is_still_allowed(&self) -> bool {
        // A name that is still to be read is compared with the new rules.
        let server_name = match &self.reader {
            Some(_) => &ServerName::Absent,
            None => &self.server_name,
        };
        self.gate.still_allows(self.to, server_name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use container_protocol::{Egress, EgressMode};

    use super::*;
    use crate::{first_bytes::tests::hello, gate::Verdict, policy::Policy};

    fn egress(allow: &[&str]) -> Egress {
        Egress {
            mode: EgressMode::None,
            allow: allow.iter().map(|rule| rule.parse().unwrap()).collect(),
        }
    }

    fn connect(gate: &Arc<Gate>) -> Outgoing {
        let to = "203.0.113.7:443".parse().unwrap();
        match gate.decide(crate::gate::Flow::Tcp(to)) {
            Verdict::IfNamed(_, address_use) => {
                Outgoing::if_named(Arc::clone(gate), to, address_use)
            }
            verdict => panic!("{verdict:?}"),
        }
    }

    #[test]
    fn bytes_wait_until_the_server_name_is_known() {
        let gate = Arc::new(Gate::new(Policy::default(), egress(&["a.test"])));
        let address = "203.0.113.7".parse().unwrap();
        gate.pin("a.test", address, Duration::ZERO);
        gate.pin("b.test", address, Duration::ZERO);
        let allowed = hello(&["A.test"]);
        let mut outgoing = connect(&gate);
        for end in 0..allowed.len() {
            outgoing.read(&allowed[..end]).unwrap();
            assert!(outgoing.is_reading());
        }
        outgoing.read(&allowed).unwrap();
        assert!(!outgoing.is_reading());
        assert!(connect(&gate).read(&hello(&["b.test"])).is_err());
        assert!(connect(&gate).read(&hello(&["a.test", "a.test"])).is_err());
        for other in [&hello(&[])[..], b"GET /"] {
            let mut outgoing = connect(&gate);
            outgoing.read(other).unwrap();
            assert!(!outgoing.is_reading());
        }
        assert_eq!(gate.blocked().total, 2);
    }

    #[test]
    fn a_change_of_the_rules_is_followed() {
        let gate = Arc::new(Gate::new(Policy::default(), egress(&["a.test", "b.test"])));
        let address = "203.0.113.7".parse().unwrap();
        gate.pin("a.test", address, Duration::ZERO);
        gate.pin("b.test", address, Duration::ZERO);
        let [mut to_a, mut to_b, mut reading] = [(); 3].map(|()| connect(&gate));
        to_a.read(&hello(&["a.test"])).unwrap();
        to_b.read(&hello(&["b.test"])).unwrap();
        gate.set_egress(egress(&["b.test"]));
        assert!(!to_a.is_still_allowed());
        assert!(to_b.is_still_allowed() && reading.is_still_allowed());
        assert!(reading.read(&hello(&["a.test"])).is_err());
        gate.set_egress(egress(&[]));
        assert!(!to_b.is_still_allowed());
    }
}
