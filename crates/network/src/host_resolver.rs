//! The host's resolver configuration (resolv.conf(5)), which the guest's follows.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    path::Path,
};

use hickory_proto::rr::Name;
use resolv_conf::{Config, ScopedIp};
use rustix::net::netdevice::name_to_index;

/// Port of name servers (RFC 1035, section 4.2).
pub(crate) const PORT: u16 = 53;

/// The host's file.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Name servers, search domains and options of a resolver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostResolver {
    /// Name servers, in order.
    pub servers: Vec<SocketAddr>,
    /// Domains that are appended to short names, in order.
    pub search: Vec<String>,
    /// Options that are not the default, such as `ndots:2`.
    pub options: Vec<String>,
}

impl HostResolver {
    /// Reads the host's configuration. A missing file has none.
    pub fn read() -> HostResolver {
        HostResolver::read_from(Path::new(RESOLV_CONF))
    }

    pub(crate) fn read_from(path: &Path) -> HostResolver {
        HostResolver::parse(&fs::read(path).unwrap_or_default())
    }

    /// Parses a `resolv.conf`. What is invalid is ignored, as resolvers do.
    pub(crate) fn parse(text: &[u8]) -> HostResolver {
        let (config, _) = Config::parse_with_errors(text);
        let is_domain =
            |domain: &&String| *domain == "." || Name::from_ascii(domain.as_str()).is_ok();
        let options = config.to_string();
        let options = options.lines().filter_map(|it| it.strip_prefix("options "));
        HostResolver {
            servers: servers(text),
            search: config
                .get_last_search_or_domain()
                .filter(is_domain)
                .cloned()
                .collect(),
            options: options.map(str::to_owned).collect(),
        }
    }
}

/// Returns the name servers. The crate's parser of whole files refuses zones with punctuation
/// (`eth0.100`, `br-lan`), so only addresses are left to it.
fn servers(text: &[u8]) -> Vec<SocketAddr> {
    let text = String::from_utf8_lossy(text);
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then_some(())?;
        server(words.next()?)
    });
    servers.collect()
}

fn server(text: &str) -> Option<SocketAddr> {
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    match (address.parse::<ScopedIp>().ok()?, zone) {
        (ScopedIp::V6(address, _), Some(zone)) => {
            let scope = zone_index(address, zone)?;
            Some(SocketAddrV6::new(address, PORT, 0, scope).into())
        }
        (ScopedIp::V4(_), Some(_)) => None,
        (address, None) => Some(SocketAddr::new(IpAddr::from(address), PORT)),
    }
}

/// Returns the index of a zone, which is an interface's name or index (RFC 4007, 11).
fn zone_index(address: Ipv6Addr, zone: &str) -> Option<u32> {
    if !address.is_unicast_link_local() {
        // Only link-local addresses have zones.
        return Some(0);
    }
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET6,
        rustix::net::SocketType::DGRAM,
        None,
    );
    match zone.parse() {
        Ok(index) => Some(index),
        Err(_) => name_to_index(socket.ok()?, zone).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_domains_and_options_are_read() {
        let text = "# c\nnameserver 10.0.0.1\nsearch corp.test b.test\nnameserver ::1\n\
            nameserver nonsense\noptions ndots:2 edns0 unknown\noptions timeout:1 ; end\n";
        let resolver = HostResolver::parse(text.as_bytes());
        let expected: [SocketAddr; 2] =
            ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(resolver.servers, expected);
        assert_eq!(resolver.search, ["corp.test", "b.test"]);
        assert_eq!(resolver.options, ["ndots:2", "timeout:1", "edns0"]);
        // The last of the two kinds of line counts.
        let resolver = HostResolver::parse(b"search a.test\ndomain b.test\n");
        assert_eq!(resolver.search, ["b.test"]);
        assert_eq!(HostResolver::parse(b""), HostResolver::default());
        assert_eq!(HostResolver::parse(b"\xff\n"), HostResolver::default());
    }

    #[test]
    fn link_local_servers_keep_their_zone() {
        let server = |text: &str| {
            let text = format!("nameserver {text}\n");
            HostResolver::parse(text.as_bytes())
                .servers
                .first()
                .copied()
        };
        assert_eq!(server("fe80::1%7"), Some("[fe80::1%7]:53".parse().unwrap()));
        let loopback = server("fe80::1%lo").unwrap();
        let SocketAddr::V6(loopback) = loopback else {
            panic!("an IPv4 address");
        };
        assert_eq!(loopback.scope_id(), 1);
        assert_eq!(server("fe80::1%no-such.interface"), None);
        assert_eq!(server("10.0.0.1%lo"), None);
        assert_eq!(server("fd00::1%lo"), Some("[fd00::1]:53".parse().unwrap()));
    }
}
