//! The decision on everything that the guest sends out: the policy of all machines first, then the
//! machine's own egress rules.
//!
//! An address is allowed by itself (a rule for addresses, or `public`), or by a name that our own
//! DNS answers have given for it. Several names may share an address, so a TLS connection to an
//! address that only a name allows has to ask for such a name.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use container_protocol::{
    Egress, EgressMode,
    local::{Blocked, BlockedKind},
};

use crate::{
    address::is_gateway,
    blocked::BlockedAttempts,
    host_addresses::HostAddresses,
    pins::{AddressUse, Pins},
    policy::Policy,
    special_addresses::is_public,
};

/// Port of HTTPS, over UDP that of HTTP/3 (RFC 9114, section 3.1).
const HTTPS: u16 = 443;

/// Any port, for decisions about an address alone. The policy refuses port 0.
const ANY_PORT: u16 = 7;

/// Decides which destinations the guest may reach. It is shared by the tasks of a network.
#[derive(Debug)]
pub(crate) struct Gate {
    policy: Policy,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    egress: Egress,
    pins: Pins,
    blocked: BlockedAttempts,
    host_addresses: HostAddresses,
}

/// What the guest sends out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    /// `ping`, or another protocol without ports.
    Portless(IpAddr),
}

/// Decision about a flow.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The flow may pass to this address on the host's side.
    Allowed(SocketAddr),
    /// The same, as far as its TLS server name is allowed.
    IfNamed(SocketAddr, Option<AddressUse>),
    /// The guest must not reach this address, or no host has it.
    Unreachable,
    /// The rules do not allow the flow.
    Prohibited,
}

/// Decision about the lookup of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The name is answered.
    Allowed,
    /// The same, but only addresses of it, and not how to connect in a way that hides names.
    AddressesOnly,
    /// The name is not answered.
    Refused,
}

/// What is known of an established connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerName {
    /// Its first bytes were not read.
    Unread,
    /// It has none.
    Absent,
    /// The name in its ClientHello, in lower case.
    Named(String),
}

/// Why a destination is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    Address,
    Name,
    None,
}

impl Flow {
    fn address(self) -> IpAddr {
        match self {
            Flow::Tcp(to) | Flow::Udp(to) => to.ip(),
            Flow::Portless(to) => to,
        }
    }

    fn port(self) -> Option<u16> {
        match self {
            Flow::Tcp(to) | Flow::Udp(to) => Some(to.port()),
            Flow::Portless(_) => None,
        }
    }

    fn kind(self) -> BlockedKind {
        match self {
            Flow::Tcp(_) => BlockedKind::Tcp,
            Flow::Udp(_) => BlockedKind::Udp,
            Flow::Portless(_) => BlockedKind::Icmp,
        }
    }
}

impl Gate {
    pub(crate) fn new(policy: Policy, egress: Egress) -> Gate {
        Gate {
            policy,
            state: Mutex::new(State {
                egress,
                pins: Pins::default(),
                blocked: BlockedAttempts::default(),
                host_addresses: HostAddresses::default(),
            }),
        }
    }

    /// Replaces the rules.
    pub(crate) fn set_egress(&self, egress: Egress) {
        self.lock().egress = egress;
    }

    /// Returns whether the guest reaches nothing without a rule.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().egress.mode == EgressMode::None
    }

    /// Whether every destination is allowed without a rule.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().egress.mode.is_all()
    }

    /// Returns the attempts that were prohibited.
    pub(crate) fn blocked(&self) -> Blocked {
        self.lock().blocked.get().clone()
    }

    /// Notes that a DNS answer gives the guest this address for a name, which is in lower case and
    /// has no final dot. To be called before the guest has the answer.
    pub(crate) fn pin(&self, name: &str, address: IpAddr, time_to_live: Duration) {
        let now = Instant::now();
        self.lock().pins.add(name, address, time_to_live, now);
    }

    /// Decides about a flow to anything but another machine, and counts it if it is prohibited.
    pub(crate) fn decide(&self, flow: Flow) -> Verdict {
        let wanted = SocketAddr::new(flow.address(), flow.port().unwrap_or(ANY_PORT));
        let mut state = self.lock();
        let Some(to) = self.policy.destination(wanted) else {
            if self.policy.hides(flow.address()) || is_gateway(flow.address()) {
                state.count(flow);
                return Verdict::Prohibited;
            }
            return Verdict::Unreachable;
        };
        state.verdict(flow, to)
    }

    /// Decides about a flow to another machine, and counts it if it is prohibited. A machine does
    /// not share its address, so server names are of no importance.
    pub(crate) fn decide_machine(&self, flow: Flow) -> Verdict {
        let to = SocketAddr::new(flow.address(), flow.port().unwrap_or(ANY_PORT));
        self.lock().verdict(flow, to)
    }

    /// Returns whether the rules allow a flow, whatever the policy says.
    pub(crate) fn permits(&self, flow: Flow) -> bool {
        self.lock().permission(flow) != Permission::None
    }

    /// Returns whether an established connection to an allowed destination is still allowed.
    pub(crate) fn still_allows(&self, to: SocketAddr, server_name: &ServerName) -> bool {
        let mut state = self.lock();
        if self.policy.destination(to).is_none() {
            return false;
        }
        match state.permission(Flow::Tcp(to)) {
            Permission::Address => true,
            Permission::Name => match server_name {
                ServerName::Unread => false,
                ServerName::Absent => true,
                ServerName::Named(name) => state.allows_server_name(to, name),
            },
            Permission::None => false,
        }
    }

    /// Returns whether a TLS connection to this address may ask for this server name, and counts it
    /// if it may not.
    pub(crate) fn allows_server_name(&self, to: SocketAddr, server_name: &str) -> bool {
        let mut state = self.lock();
        // The rules may have changed since the connection was opened.
        let is_allowed = state.permission(Flow::Tcp(to)) == Permission::Address
            || state.allows_server_name(to, server_name);
        if !is_allowed {
            let destination = format!("{server_name}:{}", to.port());
            state.blocked.add(BlockedKind::Tcp, destination);
        }
        is_allowed
    }

    /// Returns whether a connection to this address may begin as TLS does without being it, and
    /// counts it if it may not.
    pub(crate) fn allows_invalid_hello(&self, to: SocketAddr) -> bool {
        let mut state = self.lock();
        let is_allowed = state.permission(Flow::Tcp(to)) == Permission::Address;
        if !is_allowed {
            state.count(Flow::Tcp(to));
        }
        is_allowed
    }

    /// Decides about the lookup of a name, which is in lower case and has no final dot, and counts
    /// it if it is refused.
    pub(crate) fn lookup(&self, name: &str) -> Lookup {
        let mut state = self.lock();
        let Egress { mode, allow } = &state.egress;
        let is_named = allow.iter().any(|rule| rule.allows_name(name));
        match mode {
            EgressMode::All => Lookup::Allowed,
            _ if is_named => Lookup::AddressesOnly,
            EgressMode::Public => Lookup::Allowed,
            EgressMode::None => {
                state.blocked.add(BlockedKind::Dns, name.to_owned());
                Lookup::Refused
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn verdict(&mut self, flow: Flow, to: SocketAddr) -> Verdict {
        match self.permission(flow) {
            Permission::Address => Verdict::Allowed(to),
            Permission::Name => Verdict::IfNamed(to, self.pins.begin_use(flow.address())),
            Permission::None => {
                self.count(flow);
                Verdict::Prohibited
            }
        }
    }

    fn permission(&mut self, flow: Flow) -> Permission {
        let (address, port) = (flow.address(), flow.port());
        let allow = &self.egress.allow;
        let is_allowed_address = allow
            .iter()
            .any(|rule| rule.allows_address(address) && rule.allows_port(port));
        let is_free = match self.egress.mode {
            EgressMode::All => true,
            EgressMode::Public => is_public(address) && !self.host_addresses.contains(address),
            EgressMode::None => false,
        };
        if is_free || is_allowed_address {
            return Permission::Address;
        }
        // HTTP/3 encrypts the server name so that it cannot be checked. Clients use TCP instead.
        if matches!(flow, Flow::Udp(to) if to.port() == HTTPS) {
            return Permission::None;
        }
        let mut names = self.pins.names(address, Instant::now());
        let is_allowed_name = names.any(|name| {
            allow
                .iter()
                .any(|rule| rule.allows_name(name) && rule.allows_port(port))
        });
        if is_allowed_name {
            Permission::Name
        } else {
            Permission::None
        }
    }

    fn allows_server_name(&self, to: SocketAddr, server_name: &str) -> bool {
        let mut names = self.pins.names(to.ip(), Instant::now());
        names.any(|name| name == server_name)
            && self
                .egress
                .allow
                .iter()
                .any(|rule| rule.allows_name(server_name) && rule.allows_port(Some(to.port())))
    }

    fn count(&mut self, flow: Flow) {
        let address = flow.address();
        let destination = match (self.pins.latest_name(address), flow.port()) {
            (Some(name), Some(port)) => format!("{name}:{port}"),
            (Some(name), None) => name.to_owned(),
            (None, Some(port)) => SocketAddr::new(address, port).to_string(),
            (None, None) => address.to_string(),
        };
        self.blocked.add(flow.kind(), destination);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: &str = "203.0.113.7:443";

    fn gate(mode: EgressMode, allow: &[&str]) -> Gate {
        Gate::new(Policy::default(), egress(mode, allow))
    }

    fn egress(mode: EgressMode, allow: &[&str]) -> Egress {
        let allow = allow.iter().map(|rule| rule.parse().unwrap()).collect();
        Egress { mode, allow }
    }

    fn tcp(gate: &Gate, to: &str) -> &'static str {
        name_of(&gate.decide(Flow::Tcp(to.parse().unwrap())))
    }

    fn udp(gate: &Gate, to: &str) -> &'static str {
        name_of(&gate.decide(Flow::Udp(to.parse().unwrap())))
    }

    fn ping(gate: &Gate, to: &str) -> &'static str {
        name_of(&gate.decide(Flow::Portless(to.parse().unwrap())))
    }

    fn name_of(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Allowed(_) => "allowed",
            Verdict::IfNamed(..) => "if named",
            Verdict::Unreachable => "unreachable",
            Verdict::Prohibited => "prohibited",
        }
    }

    fn pin(gate: &Gate, name: &str, to: &str) {
        let to: SocketAddr = to.parse().unwrap();
        gate.pin(name, to.ip(), Duration::ZERO);
    }

    #[test]
    fn without_rules_only_the_policy_decides() {
        let gate = gate(EgressMode::All, &[]);
        for to in ["10.0.0.1:22", "203.0.113.7:443", "[fd00::1]:443"] {
            assert_eq!(tcp(&gate, to), "allowed", "{to}");
            assert_eq!(udp(&gate, to), "allowed", "{to}");
        }
        assert_eq!(gate.lookup("any.test"), Lookup::Allowed);
        assert_eq!(gate.blocked().total, 0);
        for to in ["127.0.0.1:22", "224.0.0.251:5353", "[ff02::fb]:5353"] {
            assert_eq!(udp(&gate, to), "unreachable", "{to}");
        }
        assert_eq!(gate.blocked().total, 0, "no host has these addresses");
        for (total, to) in [(1, "169.254.169.254:80"), (2, "198.19.0.1:8080")] {
            assert_eq!(tcp(&gate, to), "prohibited");
            assert_eq!(gate.blocked().total, total);
            let latest = &gate.blocked().latest;
            assert!(latest.iter().any(|it| it.destination == to), "{to}");
        }
    }

    #[test]
    fn public_allows_public_addresses_and_rules_more() {
        let gate = gate(EgressMode::Public, &["10.0.0.0/8:5432", "nas.corp.test"]);
        for (to, expected) in [
            ("1.1.1.1:443", "allowed"),
            ("[2606:4700::1111]:443", "allowed"),
            ("192.168.1.1:80", "prohibited"),
            ("100.64.0.1:80", "prohibited"),
            ("198.51.100.7:80", "prohibited"),
            ("[fd00::1]:80", "prohibited"),
            ("[64:ff9b::a00:1]:80", "prohibited"),
            ("[::ffff:10.0.0.1]:5432", "unreachable"),
            ("10.1.2.3:5432", "allowed"),
            ("10.1.2.3:80", "prohibited"),
        ] {
            assert_eq!(tcp(&gate, to), expected, "{to}");
        }
        assert_eq!(ping(&gate, "1.1.1.1"), "allowed");
        assert_eq!(ping(&gate, "10.1.2.3"), "prohibited");
        assert_eq!(tcp(&gate, "192.168.1.9:445"), "prohibited");
        pin(&gate, "nas.corp.test", "192.168.1.9:0");
        assert_eq!(tcp(&gate, "192.168.1.9:445"), "if named");
        assert_eq!(gate.lookup("any.test"), Lookup::Allowed);
        assert_eq!(gate.lookup("nas.corp.test"), Lookup::AddressesOnly);
    }

    #[test]
    fn none_allows_what_rules_name() {
        let gate = gate(
            EgressMode::None,
            &["*.example.com:443", "192.0.2.0/24", "db.test:5432"],
        );
        assert_eq!(tcp(&gate, "1.1.1.1:443"), "prohibited");
        assert_eq!(udp(&gate, "1.1.1.1:53"), "prohibited");
        assert_eq!(tcp(&gate, "192.0.2.9:22"), "allowed");
        assert_eq!(ping(&gate, "192.0.2.9"), "allowed");
        for (name, expected) in [
            ("www.example.com", Lookup::AddressesOnly),
            ("example.com", Lookup::Refused),
            ("secret.attacker.test", Lookup::Refused),
        ] {
            assert_eq!(gate.lookup(name), expected, "{name}");
        }
        assert_eq!(tcp(&gate, SHARED), "prohibited");
        pin(&gate, "other.test", SHARED);
        assert_eq!(tcp(&gate, SHARED), "prohibited");
        assert_eq!(gate.blocked().latest[0].destination, "other.test:443");
        pin(&gate, "www.example.com", SHARED);
        assert_eq!(tcp(&gate, SHARED), "if named");
        assert_eq!(tcp(&gate, "203.0.113.7:80"), "prohibited");
        assert_eq!(udp(&gate, SHARED), "prohibited", "HTTP/3");
        assert_eq!(ping(&gate, "203.0.113.7"), "prohibited");
        pin(&gate, "db.test", "203.0.113.8:0");
        assert_eq!(udp(&gate, "203.0.113.8:5432"), "if named");
    }

    #[test]
    fn a_server_name_has_to_be_allowed_and_pinned_to_the_address() {
        let gate = gate(EgressMode::None, &["a.test", "b.test:80", "c.test"]);
        let shared: SocketAddr = SHARED.parse().unwrap();
        for name in ["a.test", "b.test", "other.test"] {
            pin(&gate, name, SHARED);
        }
        pin(&gate, "c.test", "203.0.113.9:0");
        for (name, is_allowed) in [
            ("a.test", true),
            ("b.test", false),
            ("c.test", false),
            ("other.test", false),
            ("x.a.test", false),
        ] {
            assert_eq!(gate.allows_server_name(shared, name), is_allowed, "{name}");
        }
        assert_eq!(gate.blocked().total, 4);
        assert_eq!(gate.blocked().latest[0].destination, "x.a.test:443");
    }

    #[test]
    fn a_change_ends_what_is_no_longer_allowed() {
        let gate = gate(EgressMode::All, &[]);
        let shared: SocketAddr = SHARED.parse().unwrap();
        let named = |name: &str| ServerName::Named(name.to_owned());
        pin(&gate, "a.test", SHARED);
        assert!(gate.still_allows(shared, &ServerName::Unread));
        gate.set_egress(egress(EgressMode::None, &["a.test"]));
        assert!(!gate.still_allows(shared, &ServerName::Unread));
        assert!(gate.still_allows(shared, &ServerName::Absent));
        assert!(gate.still_allows(shared, &named("a.test")));
        assert!(!gate.still_allows(shared, &named("b.test")));
        gate.set_egress(egress(EgressMode::None, &["203.0.113.7"]));
        assert!(gate.still_allows(shared, &ServerName::Unread));
        gate.set_egress(egress(EgressMode::None, &[]));
        assert!(!gate.still_allows(shared, &named("a.test")));
    }

    #[test]
    fn rules_do_not_open_what_the_policy_closes() {
        let all = ["0.0.0.0/0", "::/0"];
        let gate = gate(EgressMode::None, &all);
        for (to, expected) in [
            ("127.0.0.1:22", "unreachable"),
            ("[::1]:22", "unreachable"),
            ("198.19.0.1:22", "prohibited"),
            ("169.254.169.254:80", "prohibited"),
            ("[fd00:ec2::254]:80", "prohibited"),
        ] {
            assert_eq!(tcp(&gate, to), expected, "{to}");
        }
        let policy = Policy {
            host_loopback: true,
            ..Policy::default()
        };
        let gate = Gate::new(policy, egress(EgressMode::Public, &[]));
        assert_eq!(tcp(&gate, "198.19.0.1:22"), "prohibited");
        gate.set_egress(egress(EgressMode::Public, &["host.container.internal:22"]));
        pin(&gate, "host.container.internal", "198.19.0.1:0");
        assert_eq!(tcp(&gate, "198.19.0.1:22"), "if named");
        assert_eq!(tcp(&gate, "198.19.0.1:80"), "prohibited");
    }

    #[test]
    fn other_machines_are_not_public() {
        let gate = gate(EgressMode::Public, &["db.machine:5432"]);
        let to = |port: u16| Flow::Tcp(SocketAddr::from(([198, 19, 3, 4], port)));
        let decide = |gate: &Gate, flow| name_of(&gate.decide_machine(flow));
        assert_eq!(decide(&gate, to(5432)), "prohibited");
        pin(&gate, "db.machine", "198.19.3.4:0");
        assert_eq!(decide(&gate, to(5432)), "if named");
        assert_eq!(decide(&gate, to(22)), "prohibited");
        let ping = Flow::Portless([198, 19, 3, 4].into());
        assert_eq!(decide(&gate, ping), "prohibited");
        gate.set_egress(Egress::default());
        assert_eq!(decide(&gate, to(22)), "allowed");
        assert_eq!(gate.blocked().total, 3);
    }
}
