//! Addresses that the guest knows from our own DNS answers, with the names that it asked for.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// Limit of addresses. Beyond it, those that expire first are forgotten.
const MAX_ADDRESSES: usize = 4096;

/// Limit of names of one address.
const MAX_NAMES: usize = 64;

/// Shortest time for which an address belongs to its name. Programs keep addresses for longer than
/// a short TTL.
const MIN_LIFETIME: Duration = Duration::from_secs(300);

/// Names of addresses. All names are in lower case and have no final dot.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    addresses: HashMap<IpAddr, PinnedAddress>,
}

#[derive(Debug, Default)]
struct PinnedAddress {
    /// The names, and when they expire.
    names: HashMap<String, Instant>,
    use_count: Arc<()>,
}

/// Use of an address by a connection, while which its names do not expire.
#[derive(Debug, Clone)]
pub(crate) struct AddressUse(#[expect(dead_code, reason = "only counted")] Arc<()>);

impl PinnedAddress {
    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.use_count) > 1
    }

    /// Returns when the last name expires.
    fn end(&self) -> Option<Instant> {
        self.names.values().max().copied()
    }
}

impl Pins {
    /// Notes that a DNS answer has given the guest this address for a name.
    pub(crate) fn add(
        &mut self,
        name: &str,
        address: IpAddr,
        time_to_live: Duration,
        now: Instant,
    ) {
        if !self.addresses.contains_key(&address) && self.addresses.len() >= MAX_ADDRESSES {
            self.make_space(now);
        }
        let pinned = self.addresses.entry(address).or_default();
        if !pinned.is_in_use() {
            pinned.names.retain(|_, end| *end > now);
        }
        if !pinned.names.contains_key(name) && pinned.names.len() >= MAX_NAMES {
            let first = pinned.names.iter().min_by_key(|(_, end)| **end);
            if let Some(first) = first.map(|(name, _)| name.clone()) {
                pinned.names.remove(&first);
            }
        }
        let end = now + time_to_live.max(MIN_LIFETIME);
        let known = pinned.names.entry(name.to_owned()).or_insert(end);
        *known = end.max(*known);
    }

    /// Removes what has expired, or else the half of the addresses that expires first.
    fn make_space(&mut self, now: Instant) {
        self.addresses
            .retain(|_, pinned| pinned.is_in_use() || pinned.end().is_some_and(|end| end > now));
        if self.addresses.len() < MAX_ADDRESSES {
            return;
        }
        let mut unused: Vec<_> = self
            .addresses
            .iter()
            .filter(|(_, pinned)| !pinned.is_in_use())
            .map(|(address, pinned)| (pinned.end(), *address))
            .collect();
        unused.sort_unstable();
        for (_, address) in &unused[..unused.len().div_ceil(2)] {
            self.addresses.remove(address);
        }
    }

    /// Returns the names of an address that have not expired.
    pub(crate) fn names(&self, address: IpAddr, now: Instant) -> impl Iterator<Item = &str> {
        let pinned = self.addresses.get(&address);
        let is_valid = move |end: Instant| end > now || pinned.is_some_and(|it| it.is_in_use());
        pinned
            .into_iter()
            .flat_map(|pinned| &pinned.names)
            .filter(move |(_, end)| is_valid(**end))
            .map(|(name, _)| name.as_str())
    }

    /// Returns the name of an address that expires last, or has.
    pub(crate) fn latest_name(&self, address: IpAddr) -> Option<&str> {
        let names = &self.addresses.get(&address)?.names;
        let latest = names.iter().max_by_key(|(_, end)| **end)?;
        Some(latest.0)
    }

    /// Keeps the names of an address while a connection uses it.
    pub(crate) fn begin_use(&self, address: IpAddr) -> Option<AddressUse> {
        let pinned = self.addresses.get(&address)?;
        Some(AddressUse(Arc::clone(&pinned.use_count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn names(pins: &Pins, address: IpAddr, now: Instant) -> Vec<String> {
        let mut names: Vec<String> = pins.names(address, now).map(str::to_owned).collect();
        names.sort();
        names
    }

    #[test]
    fn a_name_expires_unless_its_address_is_in_use() {
        let (mut pins, begin) = (Pins::default(), Instant::now());
        let address = "192.0.2.7".parse().unwrap();
        pins.add("a.test", address, Duration::ZERO, begin);
        pins.add("b.test", address, 60 * MINUTE, begin);
        assert_eq!(names(&pins, address, begin), ["a.test", "b.test"]);
        assert_eq!(
            names(&pins, address, begin + 4 * MINUTE),
            ["a.test", "b.test"]
        );
        assert_eq!(names(&pins, address, begin + 6 * MINUTE), ["b.test"]);
        let late = begin + 61 * MINUTE;
        assert!(names(&pins, address, late).is_empty());
        let connection = pins.begin_use(address).unwrap();
        assert_eq!(names(&pins, address, late), ["a.test", "b.test"]);
        drop(connection);
        assert!(names(&pins, address, late).is_empty());
        assert_eq!(pins.latest_name(address), Some("b.test"));
        assert!(pins.begin_use("192.0.2.8".parse().unwrap()).is_none());
    }

    #[test]
    fn a_later_answer_does_not_shorten_the_time() {
        let (mut pins, begin) = (Pins::default(), Instant::now());
        let address = "192.0.2.7".parse().unwrap();
        pins.add("a.test", address, 60 * MINUTE, begin);
        pins.add("a.test", address, Duration::ZERO, begin + MINUTE);
        assert_eq!(names(&pins, address, begin + 59 * MINUTE), ["a.test"]);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_is_in_use() {
        let (mut pins, now) = (Pins::default(), Instant::now());
        let address = |number: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(number));
        pins.add("first.test", address(0), Duration::ZERO, now);
        let _connection = pins.begin_use(address(0)).unwrap();
        for number in 1..20_000 {
            pins.add("a.test", address(number), MINUTE * number, now);
            assert!(pins.addresses.len() <= MAX_ADDRESSES);
        }
        assert_eq!(names(&pins, address(0), now), ["first.test"]);
        assert_eq!(names(&pins, address(19_999), now), ["a.test"]);
        for number in 0..200 {
            pins.add(&format!("{number}.test"), address(1), MINUTE * number, now);
        }
        assert_eq!(pins.addresses[&address(1)].names.len(), MAX_NAMES);
        assert_eq!(pins.latest_name(address(1)), Some("199.test"));
    }
}
