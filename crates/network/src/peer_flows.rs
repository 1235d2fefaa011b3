//! Flows between the guest and the user's other machines, whose packets pass one by one. The egress
//! rules are about flows that the guest begins: what answers another machine passes.

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

/// Limit of flows. Beyond it, those that have been idle for longest are forgotten.
const MAX_FLOWS: usize = 4096;

/// Time after which an idle flow is forgotten: RFC 4787, REQ-5, and more than the two hours after
/// which TCP looks whether the other end is still there.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

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

#[derive(Debug)]
struct KnownFlow {
    is_of_peer: bool,
    used_at: Instant,
    /// Keeps the name by which the flow is allowed.
    address_use: Option<AddressUse>,
}

/// What a packet does in its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It begins a flow, even if another with the same ports was known.
    Begin,
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
        self.note(key, step, true, now);
    }

    /// Returns whether a packet of the guest to another machine may pass: it answers the other
    /// machine, or the rules allow its flow. A fragment must have been reassembled.
    pub(crate) fn allows(&mut self, packet: &Packet<'_>, gate: &Gate, now: Instant) -> bool {
        let (peer_port, guest_port, step) = ports(packet);
        let peer = packet.destination;
        match step {
            Step::End => return true,
            Step::Error if self.has_flow_of(peer, now) => return true,
            _ => {}
        }
        let key = key(packet.protocol, peer, peer_port, guest_port);
        let flow = self.note(key, step, false, now);
        if flow.is_of_peer {
            return true;
        }
        let to = SocketAddr::new(peer, peer_port);
        let verdict = gate.decide_machine(match packet.protocol {
            IpProtocol::Tcp => Flow::Tcp(to),
            IpProtocol::Udp => Flow::Udp(to),
            _ => Flow::Portless(peer),
        });
        match verdict {
            Verdict::Allowed(_) => true,
            Verdict::IfNamed(_, address_use) => {
                flow.address_use = address_use;
                true
            }
            Verdict::Unreachable | Verdict::Prohibited => false,
        }
    }

    /// Whether another machine has begun a flow.
    fn has_flow_of(&self, peer: IpAddr, now: Instant) -> bool {
        self.flows
            .iter()
            .any(|(key, flow)| key.peer == peer && flow.is_of_peer && !flow.is_expired(*key, now))
    }

    /// Notes a packet of a flow.
    fn note(&mut self, key: FlowKey, step: Step, is_of_peer: bool, now: Instant) -> &mut KnownFlow {
        if self.flows.len() >= MAX_FLOWS && !self.flows.contains_key(&key) {
            self.make_space(now);
        }
        let begin = || KnownFlow {
            is_of_peer,
            used_at: now,
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
        let mut uses: Vec<Instant> = self.flows.values().map(|flow| flow.used_at).collect();
        uses.sort_unstable();
        let median = uses[uses.len() / 2];
        self.flows.retain(|_, flow| flow.used_at > median);
    }
}

impl KnownFlow {
    fn is_expired(&self, key: FlowKey, now: Instant) -> bool {
        let timeout = if key.protocol == u8::from(IpProtocol::Tcp) {
            TCP_IDLE_TIMEOUT
        } else {
            IDLE_TIMEOUT
        };
        now.duration_since(self.used_at) > timeout
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
                } else {
                    Step::Other
                };
                (segment.dst_port(), segment.src_port(), step)
            }
            Err(_) => (0, 0, Step::Other),
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
        return Step::Other;
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
        _ => Step::Other,
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
        world.gate.set_egress(none(&[]));
        assert!(
            !world.allows(&data),
            "the answer does not make it the peer's"
        );
        assert!(!world.allows(&datagram(GUEST, 6000, PEER, 53)));
        assert!(world.allows(&datagram(GUEST, 5000, PEER, 53)));
        world.gate.set_egress(none(&["198.19.2.2:80"]));
        assert!(world.allows(&syn) && world.allows(&data));
        assert!(!world.allows(&segment(GUEST, PEER, (40_000, 81), "syn", b"")));
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
