//! Published ports: ports of a machine at fixed addresses of the host.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::Transport;

/// A published port, written `[ADDRESS:]PORT:MACHINE_PORT[/tcp|/udp]`. Without an address the host
/// listens on 127.0.0.1 only, which other hosts cannot reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublishedPort {
    /// TCP or UDP.
    pub transport: Transport,
    /// Address and port on which the host listens.
    pub host: SocketAddr,
    /// The machine's port.
    pub guest_port: u16,
}

/// A word that is not a published port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid published port {word:?}: {reason} (the format is \
     [ADDRESS:]PORT:MACHINE_PORT[/tcp|/udp], for example 8080:80, 8000-8009:8000-8009, \
     0.0.0.0:53:53/udp or [::1]:8080:80)"
)]
pub struct InvalidPublishedPort {
    word: String,
    reason: &'static str,
}

impl FromStr for PublishedPort {
    type Err = InvalidPublishedPort;

    fn from_str(word: &str) -> Result<PublishedPort, InvalidPublishedPort> {
        let invalid = |reason| InvalidPublishedPort {
            word: word.to_owned(),
            reason,
        };
        match parse(word).map_err(invalid)?[..] {
            [port] => Ok(port),
            _ => Err(invalid("a single port is expected, not a range")),
        }
    }
}

/// Consecutive published ports, written with ranges: `8000-8009:8000-8009`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPorts(pub Vec<PublishedPort>);

impl FromStr for PublishedPorts {
    type Err = InvalidPublishedPort;

    fn from_str(word: &str) -> Result<PublishedPorts, InvalidPublishedPort> {
        let ports = parse(word).map_err(|reason| InvalidPublishedPort {
            word: word.to_owned(),
            reason,
        })?;
        Ok(PublishedPorts(ports))
    }
}

/// Parses a port or a range. Returns at least one port.
fn parse(word: &str) -> Result<Vec<PublishedPort>, &'static str> {
    let (addresses, transport) = match word.rsplit_once('/') {
        None => (word, Transport::Tcp),
        Some((addresses, "tcp")) => (addresses, Transport::Tcp),
        Some((addresses, "udp")) => (addresses, Transport::Udp),
        Some(_) => return Err("the protocol must be tcp or udp"),
    };
    let (host, guest_ports) = addresses.rsplit_once(':').ok_or("two ports are required")?;
    let (address, host_ports) = match host.rsplit_once(':') {
        None => (IpAddr::V4(Ipv4Addr::LOCALHOST), host),
        Some((address, ports)) => (parse_address(address)?, ports),
    };
    let (host_ports, guest_ports) = (parse_ports(host_ports)?, parse_ports(guest_ports)?);
    if host_ports.len() != guest_ports.len() {
        return Err("the two ranges differ in length");
    }
    let pairs = host_ports.zip(guest_ports);
    let ports = pairs.map(|(host_port, guest_port)| PublishedPort {
        transport,
        host: SocketAddr::new(address, host_port),
        guest_port,
    });
    Ok(ports.collect())
}

fn parse_address(word: &str) -> Result<IpAddr, &'static str> {
    let bare = word
        .strip_prefix('[')
        .and_then(|word| word.strip_suffix(']'));
    let address = match bare {
        Some(address) => address.parse().map(IpAddr::V6),
        None => word.parse().map(IpAddr::V4),
    };
    address.map_err(|_| "the address must be an IPv4 address, or an IPv6 address in brackets")
}

/// Parses a port, or the first and the last port of a range.
fn parse_ports(word: &str) -> Result<RangeInclusive<u16>, &'static str> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let range = parse_port(first)?..=parse_port(last)?;
    if range.is_empty() {
        return Err("the range ends before it starts");
    }
    Ok(range)
}

fn parse_port(word: &str) -> Result<u16, &'static str> {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    match word.parse() {
        Ok(port) if is_number && port != 0 => Ok(port),
        _ => Err("a port must be a number from 1 to 65535"),
    }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "",
            Transport::Udp => "/udp",
        };
        write!(formatter, "{}:{}{transport}", self.host, self.guest_port)
    }
}

impl TryFrom<String> for PublishedPort {
    type Error = InvalidPublishedPort;

    fn try_from(word: String) -> Result<PublishedPort, InvalidPublishedPort> {
        word.parse()
    }
}

impl From<PublishedPort> for String {
    fn from(port: PublishedPort) -> String {
        port.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_parsed_and_written() {
        let written = |word: &str| word.parse::<PublishedPort>().unwrap().to_string();
        assert_eq!(written("8080:80"), "127.0.0.1:8080:80");
        assert_eq!(written("8080:80/tcp"), "127.0.0.1:8080:80");
        assert_eq!(written("0.0.0.0:53:5353/udp"), "0.0.0.0:53:5353/udp");
        assert_eq!(written("[::1]:8080:80"), "[::1]:8080:80");
    }

    #[test]
    fn a_range_equals_its_single_ports() {
        let PublishedPorts(range) = "0.0.0.0:8000-8002:80-82/udp".parse().unwrap();
        let each = ["8000:80", "8001:81", "8002:82"];
        let each = each.map(|ports| format!("0.0.0.0:{ports}/udp").parse().unwrap());
        assert_eq!(range, each);
        let PublishedPorts(one) = "8080:80".parse().unwrap();
        assert_eq!(one, ["8080:80".parse().unwrap()]);
        for wrong in [
            "80-82:80-81",
            "80-82:80",
            "82-80:82-80",
            "80-:80-",
            "1-2-3:1-2-3",
        ] {
            assert!(wrong.parse::<PublishedPorts>().is_err(), "{wrong}");
        }
        assert!("80-81:80-81".parse::<PublishedPort>().is_err());
    }

    #[test]
    fn an_invalid_word_is_refused_with_the_format() {
        for word in [
            "",
            "80",
            "80:",
            ":80",
            "0:80",
            "80:70000",
            "a:80",
            "+1:80",
            "host:80:80",
            "::1:80:80",
            "80:80/sctp",
            "1.2.3:80:80",
            "80:80/",
        ] {
            let error = word.parse::<PublishedPort>().unwrap_err().to_string();
            assert!(error.contains("MACHINE_PORT"), "{word}: {error}");
        }
    }
}
