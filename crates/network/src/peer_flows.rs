//! Flows between the guest and the user's other machines, whose packets pass one by one. The egress
//! rules are about flows that the guest begins: what answers another machine passes.
//!
//! A TCP connection is of the machine that sends the SYN. A later segment does not begin a flow:
//! the connection may be one of the guest that the rules do not allow any more.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use smoltcp::wire::{Icmpv4Message, Icmpv6Message, IpProtocol, TcpPacket, UdpPacket};

use crate::{
    gate::{Flow, Gate, Verdict},
    packet::Packet,
    pins::AddressUse,
};

/// Limit of flows. Beyond it, half of them are forgotten: ended ones first, then those that have
/// been idle for longest, and refused ones last.
const MAX_FLOWS: usize = 4096;

/// Time after which an idle flow is forgotten: RFC 4787, REQ-5, and more than the two hours after
/// which TCP looks whether the other end is still there.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Time after which a connection that has ended is forgotten: TIME-WAIT (RFC 9293, section 3.4.2).
const ENDED_TIMEOUT: Duration = Duration::from_secs(240);

/// Types of ICMP and ICMPv6 errors (RFC 792; RFC 4443, section 2.1).
const ICMP_ERRORS: [u8; 3] = [3, 11, 12];
const ICMPV6_ERRORS: RangeInclusive<u8> = 1..=4;

/// Who has begun the flows, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct PeerFlows {
    flows: HashMap<FlowKey, KnownFlow>,
}

/// A flow, whose ports are zero for protocols that have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FlowKey {
    protocol: u8,
    peer: IpAddr,
    peer_port: u16,
    guest_port: u16,
}

/// Why the guest's packets of a flow pass, or do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The other machine has begun it.
    OfPeer,
    /// The guest has begun it, and the rules allowed it.
    Allowed,
    /// The guest has begun it, and the rules do not allow it any more.
    Refused,
}

#[derive(Debug)]
struct KnownFlow {
    standing: Standing,
    used_at: Instant,
    has_guest_ended: bool,
    has_peer_ended: bool,
    /// Keeps the name by which the flow is allowed.
    address_use: Option<AddressUse>,
}

/// What a packet does in its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It begins a flow, even if another with the same ports was known.
    Begin,
    /// It belongs to a connection that has begun before.
    Continue,
    /// The same, and it is its sender's last one with data.
    Finish,
    /// It begins a flow unless one is known.
    Other,
    /// It ends a connection, and carries no data.
    End,
    /// It reports an error in another flow.
    Error,
}

impl PeerFlows {
    /// Notes a packet of another machine, which is not a fragment.
    pub(crate) fn receive(&mut self, packet: &Packet<'_>, now: Instant) {
        let (guest_port, peer_port, step) = ports(packet);
        let key = key(packet.protocol, packet.source, peer_port, guest_port);
        if step.may_begin() {
            self.note(key, step, Standing::OfPeer, now);
        } else if let Some(flow) = self.get(key, now) {
            flow.used_at = now;
            flow.has_peer_ended |= step.is_last();
            flow.has_guest_ended |= step == Step::End;
        }
    }

    /// Returns whether a packet of the guest to another machine may pass: it answers the other
    /// machine, or the rules allow its flow. A fragment must have been reassembled.
    pub(crate) fn allows(&mut self, packet: &Packet<'_>, gate: &Gate, now: Instant) -> bool {
        let (peer_port, guest_port, step) = ports(packet);
        let peer = packet.destination;
        let key = key(packet.protocol, peer, peer_port, guest_port);
        if let Some(flow) = self.get(key, now) {
            flow.has_guest_ended |= step.is_last();
            flow.has_peer_ended |= step == Step::End;
            if flow.standing == Standing::OfPeer && step != Step::Begin {
                flow.used_at = now;
                return true;
            }
        }
        match step {
            Step::End => return true,
            Step::Error if self.has_flow_of(peer, now) => return true,
            _ => {}
        }
        let address_use = match gate.decide_machine(key.flow()) {
            Verdict::Allowed(_) => None,
            Verdict::IfNamed(_, address_use) => address_use,
            Verdict::Unreachable | Verdict::Prohibited => {
                // One that was never allowed takes no space from others.
                if self.get(key, now).is_some() {
                    let refused = Standing::Refused;
                    self.note(key, step, refused, now).standing = refused;
                }
                return false;
            }
        };
        let flow = self.note(key, step, Standing::Allowed, now);
        flow.standing = Standing::Allowed;
        flow.address_use = address_use;
        true
    }

    /// Notes which flows the rules do not allow any more.
    pub(crate) fn refuse_prohibited(&mut self, gate: &Gate) {
        for (key, flow) in &mut self.flows {
            if flow.standing == Standing::Allowed && !gate.permits(key.flow()) {
                flow.standing = Standing::Refused;
            }
        }
    }

    /// Returns a flow that is known.
    fn get(&mut self, key: FlowKey, now: Instant) -> Option<&mut KnownFlow> {
        let flow = self.flows.get_mut(&key)?;
        (!flow.is_expired(key, now)).then_some(flow)
    }

    /// Whether another machine has begun a flow.
    fn has_flow_of(&self, peer: IpAddr, now: Instant) -> bool {
        self.flows.iter().any(|(key, flow)| {
            let is_of_peer = key.peer == peer && flow.standing == Standing::OfPeer;
            is_of_peer && !flow.is_expired(*key, now)
        })
    }

    /// Notes a packet of a flow, whose standing it has if it begins the flow.
    fn note(
        &mut self,
        key: FlowKey,
        step: Step,
        standing: Standing,
        now: Instant,
    ) -> &mut KnownFlow {
        if self.flows.len() >= MAX_FLOWS && !self.flows.contains_key(&key) {
            self.make_space(now);
        }
        let begin = || KnownFlow {
            standing,
            used_at: now,
            has_guest_ended: false,
            has_peer_ended: false,
            address_use: None,
        };
        let known = self.flows.entry(key).or_insert_with(begin);
        if step == Step::Begin || known.is_expired(key, now) {
            *known = begin();
        }
        known.used_at = now;
        known
    }

    fn make_space(&mut self, now: Instant) {
        self.flows.retain(|key, flow| !flow.is_expired(*key, now));
        if self.flows.len() < MAX_FLOWS {
            return;
        }
        let mut worths: Vec<_> = self.flows.values().map(KnownFlow::worth).collect();
        worths.sort_unstable();
        let median = worths[worths.len() / 2];
        self.flows.retain(|_, flow| flow.worth() > median);
    }
}

impl FlowKey {
    /// Returns the flow as the rules see it.
    fn flow(self) -> Flow {
        let to = SocketAddr::new(self.peer, self.peer_port);
        match IpProtocol::from(self.protocol) {
            IpProtocol::Tcp => Flow::Tcp(to),
            IpProtocol::Udp => Flow::Udp(to),
            _ => Flow::Portless(self.peer),
        }
    }
}

impl KnownFlow {
    fn has_ended(&self) -> bool {
        self.has_guest_ended && self.has_peer_ended
    }

    /// Returns the order in which flows are forgotten.
    fn worth(&self) -> (bool, bool, Instant) {
        let is_refused = self.standing == Standing::Refused;
        (is_refused, !self.has_ended(), self.used_at)
    }

    fn is_expired(&self, key: FlowKey, now: Instant) -> bool {
        let timeout = if self.has_ended() {
            ENDED_TIMEOUT
        } else if key.protocol == u8::from(IpProtocol::Tcp) {
            TCP_IDLE_TIMEOUT
        } else {
            IDLE_TIMEOUT
        };
        now.duration_since(self.used_at) > timeout
    }
}

impl Step {
    /// Whether a packet of another machine may begin a flow.
    fn may_begin(self) -> bool {
        matches!(self, Step::Begin | Step::Other)
    }

    /// Whether its sender sends nothing more in the flow.
    fn is_last(self) -> bool {
        matches!(self, Step::Finish | Step::End)
    }
}

fn key(protocol: IpProtocol, peer: IpAddr, peer_port: u16, guest_port: u16) -> FlowKey {
    FlowKey {
        protocol: protocol.into(),
        peer,
        peer_port,
        guest_port,
    }
}

/// Returns destination and source port of a packet, and what it does.
fn ports(packet: &Packet<'_>) -> (u16, u16, Step) {
    match packet.protocol {
        IpProtocol::Tcp => match TcpPacket::new_checked(packet.payload) {
            Ok(segment) => {
                let step = if segment.syn() && !segment.ack() {
                    Step::Begin
                } else if segment.rst() && segment.payload().is_empty() {
                    Step::End
                } else if segment.fin() {
                    Step::Finish
                } else {
                    Step::Continue
                };
                (segment.dst_port(), segment.src_port(), step)
            }
            Err(_) => (0, 0, Step::Continue),
        },
        IpProtocol::Udp => match UdpPacket::new_checked(packet.payload) {
            Ok(datagram) => (datagram.dst_port(), datagram.src_port(), Step::Other),
            Err(_) => (0, 0, Step::Other),
        },
        IpProtocol::Icmp | IpProtocol::Icmpv6 => (0, 0, icmp_step(packet)),
        _ => (0, 0, Step::Other),
    }
}

fn icmp_step(packet: &Packet<'_>) -> Step {
    let Some(kind) = packet.payload.first() else {
        return Step::Continue;
    };
    let (request, is_error): (u8, bool) = match packet.protocol {
        IpProtocol::Icmp => (
            Icmpv4Message::EchoRequest.into(),
            ICMP_ERRORS.contains(kind),
        ),
        _ => (
            Icmpv6Message::EchoRequest.into(),
            ICMPV6_ERRORS.contains(kind),
        ),
    };
    match (*kind == request, is_error) {
        (true, _) => Step::Begin,
        (_, true) => Step::Error,
        _ => Step::Continue,
    }
}

#[cfg(test)]
mod tests {
    use container_protocol::{Egress, EgressMode};
    use smoltcp::{
        phy::ChecksumCapabilities,
        wire::{Icmpv4Repr, IpRepr, TcpControl, TcpRepr, TcpSeqNumber},
    };

    use super::*;
    use crate::{
        packet::{Datagram, icmp_packet},
        policy::Policy,
    };

    const GUEST: &str = "198.19.1.1";
    const PEER: &str = "198.19.2.2";

    fn none(allow: &[&str]) -> Egress {
        Egress {
            mode: EgressMode::None,
            allow: allow.iter().map(|rule| rule.parse().unwrap()).collect(),
        }
    }

    fn datagram(from: &str, from_port: u16, to: &str, to_port: u16) -> Vec<u8> {
        let datagram = Datagram {
            source: SocketAddr::new(from.parse().unwrap(), from_port),
            destination: SocketAddr::new(to.parse().unwrap(), to_port),
            payload: b"x".to_vec(),
        };
        datagram.to_packet().unwrap()
    }

    fn segment(from: &str, to: &str, ports: (u16, u16), flags: &str, data: &[u8]) -> Vec<u8> {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let segment = TcpRepr {
            src_port: ports.0,
            dst_port: ports.1,
            control: match flags {
                "syn" | "syn-ack" => TcpControl::Syn,
                "rst" => TcpControl::Rst,
                "fin" => TcpControl::Fin,
                _ => TcpControl::None,
            },
            seq_number: TcpSeqNumber(1),
            ack_number: (flags != "syn").then_some(TcpSeqNumber(1)),
            window_len: 1000,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: data,
        };
        let ip = IpRepr::new(
            from.into(),
            to.into(),
            IpProtocol::Tcp,
            segment.buffer_len(),
            64,
        );
        let mut bytes = vec![0; ip.buffer_len() + segment.buffer_len()];
        let checksums = ChecksumCapabilities::default();
        ip.emit(&mut bytes[..], &checksums);
        let mut packet = TcpPacket::new_unchecked(&mut bytes[ip.header_len()..]);
        segment.emit(&mut packet, &from.into(), &to.into(), &checksums);
        bytes
    }

    fn echo(from: &str, to: &str, is_request: bool) -> Vec<u8> {
        let (ident, seq_no, data) = (1, 1, &b"x"[..]);
        let message = if is_request {
            Icmpv4Repr::EchoRequest {
                ident,
                seq_no,
                data,
            }
        } else {
            Icmpv4Repr::EchoReply {
                ident,
                seq_no,
                data,
            }
        };
        icmp_packet(from.parse().unwrap(), to.parse().unwrap(), &message).unwrap()
    }

    struct Fixture {
        flows: PeerFlows,
        gate: Gate,
        now: Instant,
    }

    impl Fixture {
        fn new(egress: Egress) -> Fixture {
            Fixture {
                flows: PeerFlows::default(),
                gate: Gate::new(Policy::default(), egress),
                now: Instant::now(),
            }
        }

        fn allows(&mut self, packet: &[u8]) -> bool {
            let packet = Packet::parse(packet).unwrap();
            self.flows.allows(&packet, &self.gate, self.now)
        }

        fn set_egress(&mut self, egress: Egress) {
            self.gate.set_egress(egress);
            self.flows.refuse_prohibited(&self.gate);
        }

        fn receive(&mut self, packet: &[u8]) {
            let packet = Packet::parse(packet).unwrap();
            self.flows.receive(&packet, self.now);
        }
    }

    #[test]
    fn only_answers_pass_without_a_rule() {
        let mut world = Fixture::new(none(&[]));
        let answer = |flags: &str, data: &[u8]| segment(GUEST, PEER, (80, 40_000), flags, data);
        assert!(!world.allows(&answer("syn-ack", b"")));
        world.receive(&segment(PEER, GUEST, (40_000, 80), "syn", b""));
        assert!(world.allows(&answer("syn-ack", b"")));
        assert!(world.allows(&answer("", b"data")));
        assert!(!world.allows(&segment(GUEST, PEER, (81, 40_000), "", b"data")));
        assert!(!world.allows(&answer("syn", b"")), "one of its own");
        assert!(!world.allows(&answer("", b"data")));
        // The end of a connection passes, but nothing with it.
        assert!(world.allows(&segment(GUEST, PEER, (9, 9), "rst", b"")));
        assert!(!world.allows(&segment(GUEST, PEER, (9, 9), "rst", b"data")));

        assert!(!world.allows(&datagram(GUEST, 53, PEER, 5000)));
        world.now += 2 * IDLE_TIMEOUT;
        world.receive(&datagram(PEER, 5000, GUEST, 53));
        assert!(world.allows(&datagram(GUEST, 53, PEER, 5000)));
        world.now += 2 * IDLE_TIMEOUT;
        assert!(!world.allows(&datagram(GUEST, 53, PEER, 5000)));

        assert!(!world.allows(&echo(GUEST, PEER, false)));
        assert!(!world.allows(&echo(GUEST, PEER, true)));
        world.receive(&echo(PEER, GUEST, true));
        assert!(world.allows(&echo(GUEST, PEER, false)));
        assert!(!world.allows(&echo(GUEST, PEER, true)));
    }

    #[test]
    fn flows_of_the_guest_end_with_their_rule() {
        let mut world = Fixture::new(Egress::default());
        let (syn, data) = (
            segment(GUEST, PEER, (40_000, 80), "syn", b""),
            segment(GUEST, PEER, (40_000, 80), "", b"data"),
        );
        assert!(world.allows(&syn));
        world.receive(&segment(PEER, GUEST, (80, 40_000), "syn-ack", b""));
        world.receive(&datagram(PEER, 53, GUEST, 5000));
        assert!(world.allows(&data) && world.allows(&datagram(GUEST, 6000, PEER, 53)));
        world.receive(&datagram(PEER, 53, GUEST, 6000));
        world.set_egress(none(&[]));
        assert!(
            !world.allows(&data),
            "the answer does not make it the peer's"
        );
        assert!(!world.allows(&datagram(GUEST, 6000, PEER, 53)));
        assert!(world.allows(&datagram(GUEST, 5000, PEER, 53)));
        world.set_egress(none(&["198.19.2.2:80"]));
        assert!(world.allows(&syn) && world.allows(&data));
        assert!(!world.allows(&segment(GUEST, PEER, (40_000, 81), "syn", b"")));
    }

    #[test]
    fn a_revoked_connection_does_not_come_back() {
        let mut world = Fixture::new(none(&["198.19.2.2"]));
        let data = segment(GUEST, PEER, (40_000, 80), "", b"data");
        let from_peer = segment(PEER, GUEST, (80, 40_000), "", b"data");
        let stream = datagram(GUEST, 6000, PEER, 53);
        let stream_from_peer = datagram(PEER, 53, GUEST, 6000);
        let begin = |world: &mut Fixture| {
            assert!(world.allows(&segment(GUEST, PEER, (40_000, 80), "syn", b"")));
            assert!(world.allows(&data) && world.allows(&stream));
        };
        let is_refused = |world: &mut Fixture| {
            world.receive(&from_peer);
            world.receive(&stream_from_peer);
            !world.allows(&data) && !world.allows(&stream)
        };
        begin(&mut world);
        world.set_egress(none(&["198.19.2.2:22"]));
        assert!(is_refused(&mut world));
        // The guest tries to have them forgotten.
        for port in 1..10_000 {
            assert!(!world.allows(&datagram(GUEST, port, PEER, 54)));
            world.allows(&segment(GUEST, PEER, (port, 22), "syn", b""));
            world.receive(&from_peer);
            world.receive(&stream_from_peer);
        }
        assert!(is_refused(&mut world));
        world.now += 2 * TCP_IDLE_TIMEOUT;
        world.receive(&from_peer);
        assert!(!world.allows(&data));
        // As after a resume, when all flows are unknown.
        world.flows = PeerFlows::default();
        world.receive(&from_peer);
        assert!(!world.allows(&data));

        world.set_egress(none(&["198.19.2.2"]));
        assert!(world.allows(&data));
        world.set_egress(none(&[]));
        assert!(!world.allows(&data));
        world.receive(&segment(PEER, GUEST, (80, 40_000), "syn", b""));
        assert!(world.allows(&data), "the other machine's own connection");
    }

    #[test]
    fn connections_that_have_ended_are_forgotten_first() {
        let mut world = Fixture::new(none(&[]));
        world.receive(&segment(PEER, GUEST, (1, 80), "syn", b""));
        for port in 2..10_000 {
            world.now += Duration::from_millis(1);
            world.receive(&segment(PEER, GUEST, (port, 80), "syn", b""));
            assert!(world.allows(&segment(GUEST, PEER, (80, port), "fin", b"")));
            world.receive(&segment(PEER, GUEST, (port, 80), "fin", b""));
            assert!(world.allows(&segment(GUEST, PEER, (80, port), "", b"")));
        }
        assert!(world.allows(&segment(GUEST, PEER, (80, 1), "", b"data")));
        assert!(world.flows.flows.len() <= MAX_FLOWS);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut world = Fixture::new(none(&[]));
        for port in 1..10_000 {
            world.now += Duration::from_millis(1);
            world.receive(&datagram(PEER, port, GUEST, 53));
            assert!(world.flows.flows.len() <= MAX_FLOWS);
        }
        assert!(world.allows(&datagram(GUEST, 53, PEER, 9999)));
    }
}
