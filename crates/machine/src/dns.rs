//! Domains below which the host's programs can resolve the names of machines.

use std::{fmt, fs, net::SocketAddr, path::Path, str::FromStr};

/// Directory of drop-in files that configure name servers of systemd-resolved (resolved.conf(5)).
pub const RESOLVED_DIRECTORY: &str = "/etc/systemd/resolved.conf.d";

/// Maximum length in bytes. A name has 253 (RFC 1035, section 2.3.4), of which up to 63 are the
/// machine's label and its dot.
const MAX_LENGTH: usize = 190;

/// A domain below which the host resolves the names of machines: labels of lower-case letters,
/// digits and hyphens (RFC 1035, section 2.3.1), separated by dots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DnsDomain(String);

/// The text is not a domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid domain {0:?}: use labels of 1 to 63 lower-case letters, digits and hyphens, with a letter or a digit at both ends, separated by dots"
)]
pub struct InvalidDnsDomain(String);

impl FromStr for DnsDomain {
    type Err = InvalidDnsDomain;

    fn from_str(text: &str) -> Result<DnsDomain, InvalidDnsDomain> {
        let is_label = |label: &str| {
            let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            let bytes = label.as_bytes();
            (1..=63).contains(&bytes.len())
                && bytes.iter().all(|&byte| is_allowed(byte) || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= MAX_LENGTH && text.split('.').all(is_label) {
            Ok(DnsDomain(text.to_owned()))
        } else {
            Err(InvalidDnsDomain(text.to_owned()))
        }
    }
}

impl fmt::Display for DnsDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl DnsDomain {
    /// Returns the label before the domain, if the name is exactly one label below it. The name is
    /// in lower case.
    pub fn label_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        let label = name.strip_suffix(&self.0)?.strip_suffix('.')?;
        (!label.contains('.')).then_some(label)
    }
}

/// Returns the domains for which the drop-in files of a directory (see [`RESOLVED_DIRECTORY`]) name
/// this server, sorted.
pub fn domains_of_server(server: SocketAddr, directory: &Path) -> Vec<DnsDomain> {
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
    fn a_domain_consists_of_labels() {
        for text in ["machine", "dev.example", "x-1"] {
            assert_eq!(text.parse::<DnsDomain>().unwrap().to_string(), text);
        }
        for text in ["", ".", "machine.", "~x", "A", "a b", "-a", "a..b"] {
            assert!(text.parse::<DnsDomain>().is_err(), "{text}");
        }
        let domain: DnsDomain = "machine".parse().unwrap();
        assert_eq!(domain.label_of("dev.machine"), Some("dev"));
        for other in ["machine", "devmachine", "a.dev.machine", "dev.machine.x"] {
            assert_eq!(domain.label_of(other), None, "{other}");
        }
    }

    #[test]
    fn domains_come_from_the_files_that_name_the_server() {
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
        let found = domains_of_server(server, directory.path());
        assert_eq!(found, ["machine".parse().unwrap()]);
        assert!(domains_of_server(server, Path::new("/nowhere")).is_empty());
    }
}
