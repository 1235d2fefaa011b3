//! Ports of a machine at fixed places on the host.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::Transport;

/// A port of the machine that is reached at an address and port of the host, written
/// `[ADDRESS:]PORT:MACHINE_PORT[/udp]`. Without an address it is 127.0.0.1, where nobody beyond the host
/// reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublishedPort {
    /// How it is spoken to.
    pub transport: Transport,
    /// Where the host listens.
    pub host: SocketAddr,
    /// The machine's port.
    pub guest_port: u16,
}

/// What is no published port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{word:?} is no port to publish: {reason}; write [ADDRESS:]PORT:MACHINE_PORT[/tcp|/udp], 8080:80 or 0.0.0.0:53:53/udp or [::1]:8080:80"
)]
pub struct InvalidPublishedPort {
    word: String,
    reason: &'static str,
}

impl FromStr for PublishedPort {
    type Err = InvalidPublishedPort;

    fn from_str(word: &str) -> Result<PublishedPort, InvalidPublishedPort> {
        parse(word).map_err(|reason| InvalidPublishedPort {
            word: word.to_owned(),
            reason,
        })
    }
}

fn parse(word: &str) -> Result<PublishedPort, &'static str> {
    let (places, transport) = match word.rsplit_once('/') {
        None => (word, Transport::Tcp),
        Some((places, "tcp")) => (places, Transport::Tcp),
        Some((places, "udp")) => (places, Transport::Udp),
        Some(_) => return Err("it is spoken to by tcp or udp"),
    };
    let (host, guest_port) = places.rsplit_once(':').ok_or("it needs two ports")?;
    let (address, host_port) = match host.rsplit_once(':') {
        None => (IpAddr::V4(Ipv4Addr::LOCALHOST), host),
        Some((address, port)) => (parse_address(address)?, port),
    };
    Ok(PublishedPort {
        transport,
        host: SocketAddr::new(address, parse_port(host_port)?),
        guest_port: parse_port(guest_port)?,
    })
}

fn parse_address(word: &str) -> Result<IpAddr, &'static str> {
    let bare = word
        .strip_prefix('[')
        .and_then(|word| word.strip_suffix(']'));
    let address = match bare {
        Some(address) => address.parse().map(IpAddr::V6),
        None => word.parse().map(IpAddr::V4),
    };
    address.map_err(|_| "its address is none of IPv4, nor one of IPv6 in brackets")
}

fn parse_port(word: &str) -> Result<u16, &'static str> {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    match word.parse() {
        Ok(port) if is_number && port != 0 => Ok(port),
        _ => Err("a port is a number from 1 to 65535"),
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
    fn ports_are_read_and_written() {
        let written = |word: &str| word.parse::<PublishedPort>().unwrap().to_string();
        assert_eq!(written("8080:80"), "127.0.0.1:8080:80");
        assert_eq!(written("8080:80/tcp"), "127.0.0.1:8080:80");
        assert_eq!(written("0.0.0.0:53:5353/udp"), "0.0.0.0:53:5353/udp");
        assert_eq!(written("[::1]:8080:80"), "[::1]:8080:80");
    }

    #[test]
    fn what_is_none_is_refused_with_the_rule() {
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
