//! The addresses of the host's own interfaces.

use std::{
    collections::HashSet,
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use nix::ifaddrs::getifaddrs;

/// Time for which the addresses are not read again. A guest may send any number of datagrams.
const LIFETIME: Duration = Duration::from_secs(1);

/// The host's addresses, read when they are needed.
#[derive(Debug, Default)]
pub(crate) struct HostAddresses {
    known: Option<(Instant, HashSet<IpAddr>)>,
}

impl HostAddresses {
    /// Whether the host has this address. If that cannot be determined, it counts as the host's.
    pub(crate) fn contains(&mut self, address: IpAddr) -> bool {
        let is_known = |(read_at, _): &(Instant, _)| read_at.elapsed() < LIFETIME;
        let known = match self.known.take().filter(is_known) {
            Some((read_at, known)) => Ok((read_at, known)),
            None => read().map(|read| (Instant::now(), read)),
        };
        match known {
            Ok(known) => self.known.insert(known).1.contains(&address),
            Err(error) => {
                tracing::warn!("cannot read the addresses of this host: {error}");
                true
            }
        }
    }
}

fn read() -> io::Result<HashSet<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::from(it.ip())))
    });
    Ok(addresses.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_addresses_are_found() {
        let mut addresses = HostAddresses::default();
        for _ in 0..2 {
            assert!(addresses.contains("127.0.0.1".parse().unwrap()));
            assert!(!addresses.contains("192.0.2.7".parse().unwrap()));
        }
    }
}
