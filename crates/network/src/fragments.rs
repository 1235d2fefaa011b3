//! IP fragments. The guest sends them for a container behind a smaller MTU than the card's, because
//! its kernel keeps the sizes that it has received; and the guest cannot make fragments of IPv6
//! packets that it forwards.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};

use crate::packet::Packet;

/// Limit of incomplete packets. Beyond it, the oldest is dropped. It also bounds the memory: 64 KiB
/// each.
const MAX_INCOMPLETE: usize = 64;

/// Time after which an incomplete packet is dropped (RFC 1122, 3.3.2; RFC 8200, 4.5).
const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Largest IP packet, and so the end of the last fragment.
const MAX_LENGTH: usize = 65535;

/// Length of the IPv6 header and of the fragment header (RFC 8200, 4.5).
const HEADER6: usize = 40;
const FRAGMENT_HEADER: usize = 8;

/// Largest IPv6 packet that is sent in one piece. Every usual link carries it, and the sender of a
/// larger one has let its packets be fragmented.
const USUAL_MTU: usize = 1500;

/// Size of fragments: every link carries them (RFC 8200, 5).
const MINIMUM_MTU: usize = 1280;

/// A fragment of a packet.
struct Fragment<'a> {
    key: Key,
    offset: usize,
    is_last: bool,
    /// The packet's header without that of the fragment, to precede the whole payload.
    header: Vec<u8>,
    data: &'a [u8],
}

/// Fields that all fragments of a packet have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    identification: u32,
}

/// A packet of which some fragments have arrived.
struct Incomplete {
    since: Instant,
    /// Header of the first fragment; absent until it has arrived.
    header: Option<Vec<u8>>,
    /// Length of the payload; absent until the last fragment has arrived.
    length: Option<usize>,
    /// Start and end of the fragments that have arrived.
    parts: Vec<(usize, usize)>,
    payload: Vec<u8>,
}

/// Packets that are being reassembled.
#[derive(Default)]
pub(crate) struct Reassembly {
    incomplete: HashMap<Key, Incomplete>,
}

/// Whether the packet is a fragment of another one.
pub(crate) fn is_fragment(packet: &Packet<'_>) -> bool {
    match packet.source {
        IpAddr::V4(_) => Ipv4Packet::new_checked(packet.bytes)
            .is_ok_and(|packet| packet.more_frags() || packet.frag_offset() > 0),
        IpAddr::V6(_) => packet.protocol == IpProtocol::Ipv6Frag,
    }
}

impl Reassembly {
    /// Adds a fragment. Returns the whole packet if it was the last one missing. Invalid fragments
    /// are dropped, and overlapping ones with all others of their packet (RFC 5722).
    pub(crate) fn add(&mut self, packet: &Packet<'_>) -> Option<Vec<u8>> {
        let fragment = Fragment::parse(packet)?;
        self.incomplete
            .retain(|_, it| it.since.elapsed() < REASSEMBLY_TIMEOUT);
        if self.incomplete.len() >= MAX_INCOMPLETE && !self.incomplete.contains_key(&fragment.key) {
            let oldest = self.incomplete.iter().min_by_key(|(_, it)| it.since);
            let oldest = oldest.map(|(key, _)| key.clone())?;
            self.incomplete.remove(&oldest);
        }
        let key = fragment.key.clone();
        let entry = self.incomplete.entry(key.clone());
        match entry.or_insert_with(Incomplete::new).add(fragment) {
            Some(false) => None,
            Some(true) => self.incomplete.remove(&key)?.into_packet(),
            None => {
                self.incomplete.remove(&key);
                None
            }
        }
    }
}

impl<'a> Fragment<'a> {
    fn parse(packet: &Packet<'a>) -> Option<Fragment<'a>> {
        let fragment = match packet.source {
            IpAddr::V4(_) => Fragment::parse_v4(packet),
            IpAddr::V6(_) => Fragment::parse_v6(packet),
        }?;
        let end = fragment.header.len() + fragment.offset + fragment.data.len();
        // All but the last have a multiple of eight bytes.
        let is_valid = fragment.is_last || fragment.data.len().is_multiple_of(8);
        (is_valid && !fragment.data.is_empty() && end <= MAX_LENGTH).then_some(fragment)
    }

    fn parse_v4(packet: &Packet<'a>) -> Option<Fragment<'a>> {
        let ip = Ipv4Packet::new_checked(packet.bytes).ok()?;
        Some(Fragment {
            key: Key {
                source: packet.source,
                destination: packet.destination,
                protocol: packet.protocol,
                identification: ip.ident().into(),
            },
            // smoltcp returns bytes, not units of eight.
            offset: ip.frag_offset().into(),
            is_last: !ip.more_frags(),
            header: packet.bytes[..usize::from(ip.header_len())].to_vec(),
            data: packet.payload,
        })
    }

    fn parse_v6(packet: &Packet<'a>) -> Option<Fragment<'a>> {
        let (header, data) = packet.payload.split_at_checked(FRAGMENT_HEADER)?;
        let position = u16::from_be_bytes([header[2], header[3]]);
        let mut whole = packet.bytes[..HEADER6].to_vec();
        // The next header's number is in the fragment header.
        whole[6] = header[0];
        Some(Fragment {
            key: Key {
                source: packet.source,
                destination: packet.destination,
                protocol: header[0].into(),
                identification: u32::from_be_bytes(header[4..8].try_into().ok()?),
            },
            offset: usize::from(position & !7),
            is_last: position & 1 == 0,
            header: whole,
            data,
        })
    }
}

impl Incomplete {
    fn new() -> Incomplete {
        Incomplete {
            since: Instant::now(),
            header: None,
            length: None,
            parts: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Adds a fragment. Returns whether the packet is complete; `None` if the fragments do not
    /// belong together.
    fn add(&mut self, fragment: Fragment<'_>) -> Option<bool> {
        let (start, end) = (fragment.offset, fragment.offset + fragment.data.len());
        if self.parts.contains(&(start, end)) {
            return Some(false);
        }
        let overlaps =
            |&(other_start, other_end): &(usize, usize)| start < other_end && other_start < end;
        if self.parts.iter().any(overlaps) {
            return None;
        }
        if fragment.is_last && self.length.replace(end).is_some() {
            return None;
        }
        if start == 0 {
            self.header = Some(fragment.header);
        }
        if self.payload.len() < end {
            self.payload.resize(end, 0);
        }
        self.payload[start..end].copy_from_slice(fragment.data);
        self.parts.push((start, end));
        let Some(length) = self.length else {
            return Some(false);
        };
        if self.payload.len() > length {
            return None;
        }
        let received: usize = self.parts.iter().map(|(start, end)| end - start).sum();
        Some(received == length)
    }

    fn into_packet(self) -> Option<Vec<u8>> {
        let mut bytes = self.header?;
        let header_length = bytes.len();
        bytes.extend(&self.payload);
        if bytes.len() > MAX_LENGTH {
            return None;
        }
        let length = u16::try_from(bytes.len()).ok()?;
        if bytes[0] >> 4 == 4 {
            let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
            packet.set_total_len(length);
            packet.set_more_frags(false);
            packet.set_frag_offset(0);
            packet.fill_checksum();
        } else {
            let payload = length.checked_sub(u16::try_from(header_length).ok()?)?;
            Ipv6Packet::new_unchecked(&mut bytes[..]).set_payload_len(payload);
        }
        Some(bytes)
    }
}

/// Returns the packets that carry `packet`, which this process has made: an IPv6 packet beyond the
/// usual MTU is fragmented, because no router does that. (IPv4 packets are sent without "don't
/// fragment", so that the guest's kernel fragments what it forwards.)
pub(crate) fn for_any_link(packet: Vec<u8>) -> Vec<Vec<u8>> {
    if packet.len() <= USUAL_MTU || packet[0] >> 4 != 6 {
        return vec![packet];
    }
    static IDENTIFICATION: AtomicU32 = AtomicU32::new(1);
    let identification = IDENTIFICATION.fetch_add(1, Ordering::Relaxed);
    let (header, payload) = packet.split_at(HEADER6);
    let size = (MINIMUM_MTU - HEADER6 - FRAGMENT_HEADER) & !7;
    let chunks = payload.chunks(size).enumerate();
    let fragments = chunks.map(|(number, chunk)| {
        let offset = number * size;
        let has_more = offset + chunk.len() < payload.len();
        // At most 65535, and the low three bits are zero.
        let position = u16::try_from(offset).unwrap_or_default() | u16::from(has_more);
        let mut bytes = header.to_vec();
        bytes[6] = IpProtocol::Ipv6Frag.into();
        bytes.extend([header[6], 0]);
        bytes.extend(position.to_be_bytes());
        bytes.extend(identification.to_be_bytes());
        bytes.extend(chunk);
        let length = u16::try_from(FRAGMENT_HEADER + chunk.len()).unwrap_or_default();
        Ipv6Packet::new_unchecked(&mut bytes[..]).set_payload_len(length);
        bytes
    });
    fragments.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Datagram;

    fn datagram(source: &str, destination: &str, length: usize) -> Datagram {
        Datagram {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            payload: (0..length).map(|at| at as u8).collect(),
        }
    }

    /// Splits an IPv4 packet as a router does (RFC 791, 3.2).
    fn split_v4(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
        let payload = &packet[20..];
        let chunks = payload.chunks(size).enumerate();
        let fragments = chunks.map(|(number, chunk)| {
            let mut bytes = [&packet[..20], chunk].concat();
            let length = bytes.len() as u16;
            let mut fragment = Ipv4Packet::new_unchecked(&mut bytes[..]);
            fragment.set_total_len(length);
            fragment.set_more_frags(number * size + chunk.len() < payload.len());
            fragment.set_frag_offset((number * size) as u16);
            fragment.fill_checksum();
            bytes
        });
        fragments.collect()
    }

    fn add(reassembly: &mut Reassembly, bytes: &[u8]) -> Option<Vec<u8>> {
        let packet = Packet::parse(bytes).unwrap();
        assert!(is_fragment(&packet));
        reassembly.add(&packet)
    }

    #[test]
    fn fragments_are_reassembled_in_any_order() {
        let v4 = datagram("198.19.1.2:4000", "192.0.2.1:53", 4000);
        let whole = v4.to_packet().unwrap();
        assert!(!is_fragment(&Packet::parse(&whole).unwrap()));
        let v6 = datagram("[fd00::1]:4000", "[2001:db8::1]:53", 4000);
        let whole_v6 = v6.to_packet().unwrap();
        for (datagram, mut fragments) in
            [(v4, split_v4(&whole, 1480)), (v6, for_any_link(whole_v6))]
        {
            assert!(fragments.len() > 2);
            assert!(fragments.iter().all(|it| it.len() <= 1500));
            let mut reassembly = Reassembly::default();
            fragments.rotate_left(1);
            let last = fragments.pop().unwrap();
            for fragment in &fragments {
                assert_eq!(add(&mut reassembly, fragment), None);
                // A repeated fragment changes nothing.
                assert_eq!(add(&mut reassembly, fragment), None);
            }
            let packet = add(&mut reassembly, &last).unwrap();
            let packet = Packet::parse(&packet).unwrap();
            assert_eq!(Datagram::parse(&packet), Some(datagram));
            assert!(reassembly.incomplete.is_empty());
        }
    }

    #[test]
    fn overlapping_fragments_are_dropped_and_memory_is_bounded() {
        let whole = datagram("198.19.1.2:4000", "192.0.2.1:53", 4000);
        let whole = whole.to_packet().unwrap();
        let mut reassembly = Reassembly::default();
        add(&mut reassembly, &split_v4(&whole, 1480)[0]);
        assert_eq!(reassembly.incomplete.len(), 1);
        add(&mut reassembly, &split_v4(&whole, 800)[1]);
        assert!(reassembly.incomplete.is_empty());
        for identification in 0..200 {
            let mut first = split_v4(&whole, 1480).swap_remove(0);
            let mut packet = Ipv4Packet::new_unchecked(&mut first[..]);
            packet.set_ident(identification);
            add(&mut reassembly, &first);
        }
        assert_eq!(reassembly.incomplete.len(), MAX_INCOMPLETE);
    }

    #[test]
    fn usual_packets_are_sent_whole() {
        for (source, destination, length) in [
            ("[fd00::1]:4000", "[2001:db8::1]:53", 1400),
            ("198.19.1.2:4000", "192.0.2.1:53", 40_000),
        ] {
            let packet = datagram(source, destination, length).to_packet().unwrap();
            assert_eq!(for_any_link(packet.clone()), [packet]);
        }
    }
}
