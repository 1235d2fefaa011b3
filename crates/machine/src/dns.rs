//! Where the host's programs may ask for machines by name.

use std::{fmt, fs, net::SocketAddr, path::Path, str::FromStr};

/// Where systemd-resolved is told of name servers (resolved.conf(5)).
pub const NAME_SERVERS: &str = "/etc/systemd/resolved.conf.d";

/// A domain below which machines are known on the host: labels of lower-case letters, digits and hyphens
/// (RFC 1035, section 2.3.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DnsDomain(String);

/// A word that is no domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no domain: its labels have 1 to 63 lower-case letters, digits and hyphens, start and end with a letter or a digit, and have dots between them"
)]
pub struct InvalidDnsDomain(String);

impl FromStr for DnsDomain {
    type Err = InvalidDnsDomain;

    fn from_str(word: &str) -> Result<DnsDomain, InvalidDnsDomain> {
        let is_label = |label: &str| {
            let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            let bytes = label.as_bytes();
            (1..=63).contains(&bytes.len())
                && bytes.iter().all(|&byte| is_allowed(byte) || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        match word.len() <= 190 && word.split('.').all(is_label) {
            true => Ok(DnsDomain(word.to_owned())),
            false => Err(InvalidDnsDomain(word.to_owned())),
        }
    }
}

impl fmt::Display for DnsDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl DnsDomain {
    /// The name before the domain, if a host name in lower case is one label below it.
    pub fn label_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        let label = name.strip_suffix(&self.0)?.strip_suffix('.')?;
        (!label.contains('.')).then_some(label)
    }
}

/// The domains for which a directory's files (see [`NAME_SERVERS`]) name this server.
pub fn domains_of(server: SocketAddr, directory: &Path) -> Vec<DnsDomain> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    let ours = texts.filter(|text| text.lines().any(|line| line == format!("DNS={server}")));
    let domains = ours.flat_map(|text| {
        let domains = text
            .lines()
            .filter_map(|line| line.strip_prefix("Domains=~")?.parse().ok());
        domains.collect::<Vec<DnsDomain>>()
    });
    let mut domains: Vec<DnsDomain> = domains.collect();
    domains.sort();
    domains.dedup();
    domains
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_has_labels() {
        for word in ["machine", "dev.example", "x-1"] {
            assert_eq!(word.parse::<DnsDomain>().unwrap().to_string(), word);
        }
        for word in ["", ".", "machine.", "~x", "A", "a b", "-a", "a..b"] {
            assert!(word.parse::<DnsDomain>().is_err(), "{word}");
        }
        let domain: DnsDomain = "machine".parse().unwrap();
        assert_eq!(domain.label_of("dev.machine"), Some("dev"));
        for other in ["machine", "devmachine", "a.dev.machine", "dev.machine.x"] {
            assert_eq!(domain.label_of(other), None, "{other}");
        }
    }

    #[test]
    fn domains_are_those_of_the_files_that_name_the_server() {
        let directory = tempfile::tempdir().unwrap();
        let server: SocketAddr = "127.19.0.1:20000".parse().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write(
            "a.conf",
            "[Resolve]\nDNS=127.19.0.1:20000\nDomains=~machine\n",
        );
        write(
            "b.conf",
            "[Resolve]\nDNS=127.19.0.1:20001\nDomains=~other\n",
        );
        write("c.conf", "nonsense");
        let found = domains_of(server, directory.path());
        assert_eq!(found, ["machine".parse().unwrap()]);
        assert!(domains_of(server, Path::new("/nowhere")).is_empty());
    }
}
