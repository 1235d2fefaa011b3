//! Egress rules: which destinations a machine may connect to.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Longest domain name in characters (RFC 1035, section 2.3.4, without the root's length byte).
const MAX_NAME: usize = 253;

/// Longest label of a domain name (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;

/// Which destinations a machine may connect to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Egress {
    /// Destinations that need no rule.
    pub mode: EgressMode,
    /// Rules that allow further destinations.
    pub allow: Vec<AllowRule>,
}

/// Destinations that a machine may connect to without a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressMode {
    /// What the host's user reaches, and the user's other machines.
    #[default]
    All,
    /// Public addresses.
    Public,
    /// Nothing.
    None,
}

/// A word that is not an egress mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid egress mode {0:?}: use all, public or none")]
pub struct InvalidEgressMode(String);

impl EgressMode {
    /// Whether every destination is allowed without a rule.
    pub fn is_all(&self) -> bool {
        *self == EgressMode::All
    }
}

impl FromStr for EgressMode {
    type Err = InvalidEgressMode;

    fn from_str(word: &str) -> Result<EgressMode, InvalidEgressMode> {
        match word {
            "all" => Ok(EgressMode::All),
            "public" => Ok(EgressMode::Public),
            "none" => Ok(EgressMode::None),
            _ => Err(InvalidEgressMode(word.to_owned())),
        }
    }
}

impl fmt::Display for EgressMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            EgressMode::All => "all",
            EgressMode::Public => "public",
            EgressMode::None => "none",
        })
    }
}

/// A rule that allows destinations, written `NAME[:PORT]`, `*.NAME[:PORT]`, `ADDRESS[:PORT]` or
/// `ADDRESS/PREFIX[:PORT]`. IPv6 addresses with a port are in brackets.
///
/// ```
/// use container_protocol::AllowRule;
///
/// let rule: AllowRule = "*.Example.com:443".parse().unwrap();
/// assert!(rule.allows_name("www.example.com") && !rule.allows_name("example.com"));
/// assert_eq!(rule.to_string(), "*.example.com:443");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllowRule {
    target: Target,
    /// The only allowed port; any port if absent.
    port: Option<NonZeroU16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Target {
    /// One domain name, in lower case, without the final dot.
    Name(String),
    /// All names below a domain name.
    Below(String),
    Network(Network),
}

/// The addresses with a common prefix. Bits beyond the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A word that is not an egress rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid rule {word:?}: {reason} (the format is NAME[:PORT] or ADDRESS[/PREFIX][:PORT], for \
     example example.com, *.example.com:443, 10.0.0.0/8 or [2001:db8::1]:443)"
)]
pub struct InvalidAllowRule {
    word: String,
    reason: &'static str,
}

impl AllowRule {
    /// Whether the rule allows addresses that were looked up as this name, which is in lower case
    /// and has no final dot.
    pub fn allows_name(&self, name: &str) -> bool {
        match &self.target {
            Target::Name(allowed) => allowed == name,
            Target::Below(domain) => name
                .strip_suffix(domain.as_str())
                .and_then(|labels| labels.strip_suffix('.'))
                .is_some_and(|labels| !labels.is_empty()),
            Target::Network(_) => false,
        }
    }

    /// Whether the rule allows this address, however it was found.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        match &self.target {
            Target::Network(network) => network.contains(address),
            Target::Name(_) | Target::Below(_) => false,
        }
    }

    /// Whether the rule allows this port; absent for messages without ports, such as those of
    /// `ping`.
    pub fn allows_port(&self, port: Option<u16>) -> bool {
        self.port.is_none() || self.port.map(NonZeroU16::get) == port
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

/// Returns the address with all bits beyond the prefix cleared.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

impl FromStr for AllowRule {
    type Err = InvalidAllowRule;

    fn from_str(word: &str) -> Result<AllowRule, InvalidAllowRule> {
        let checked = parse(word).and_then(|rule| match &rule.target {
            Target::Name(name) | Target::Below(name) if has_outer_hyphen(name) => {
                Err("no part of a name may begin or end with a hyphen")
            }
            Target::Name(name) | Target::Below(name) if ends_in_number(name) => {
                Err("an address has four decimal numbers")
            }
            _ => Ok(rule),
        });
        checked.map_err(invalid(word))
    }
}

fn invalid(word: &str) -> impl FnOnce(&'static str) -> InvalidAllowRule {
    move |reason| InvalidAllowRule {
        word: word.to_owned(),
        reason,
    }
}

/// Whether a label begins or ends with a hyphen, which no host name has (RFC 952; RFC 1123, section
/// 2.1).
fn has_outer_hyphen(name: &str) -> bool {
    name.split('.')
        .any(|label| label.starts_with('-') || label.ends_with('-'))
}

/// Whether the last label is a number, with which programs take a name for an IPv4 address (URL
/// Standard, "ends in a number"): `0x7f.1`.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let (digits, radix) = match last.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (last, 10),
    };
    digits.chars().all(|digit| digit.is_digit(radix))
}

fn parse(word: &str) -> Result<AllowRule, &'static str> {
    let (target, port) = split_port(word)?;
    let is_address = target.contains(['/', ':'])
        || target
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let target = if is_address {
        Target::Network(parse_network(target)?)
    } else if let Some(domain) = target.strip_prefix("*.") {
        Target::Below(parse_name(domain)?)
    } else {
        Target::Name(parse_name(target)?)
    };
    let port = port.map(parse_port).transpose()?;
    Ok(AllowRule { target, port })
}

/// Splits the port off. An IPv6 address without brackets has none.
fn split_port(word: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = word.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or("the bracket is not closed")?;
        if !address.contains(':') {
            return Err("only IPv6 addresses are in brackets");
        }
        if rest.is_empty() {
            return Ok((address, None));
        }
        let port = rest.strip_prefix(':');
        let port = port.ok_or("only a port may follow the bracket")?;
        return Ok((address, Some(port)));
    }
    match word.split_once(':') {
        Some((target, port)) if !port.contains(':') => Ok((target, Some(port))),
        _ => Ok((word, None)),
    }
}

fn parse_network(word: &str) -> Result<Network, &'static str> {
    let (address, prefix) = match word.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (word, None),
    };
    let address: IpAddr = address.parse().map_err(|_| "the address is invalid")?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        Some(prefix) if prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
            prefix.parse().ok().filter(|prefix| *prefix <= bits)
        }
        Some(_) => None,
        None => Some(bits),
    };
    let prefix = prefix.ok_or("the prefix length is invalid")?;
    if masked(address, prefix) != address {
        return Err("the address has bits beyond the prefix");
    }
    Ok(Network { address, prefix })
}

fn parse_name(word: &str) -> Result<String, &'static str> {
    let name = word.strip_suffix('.').unwrap_or(word).to_ascii_lowercase();
    if name.contains('*') {
        return Err("a * can only stand for the first labels of a name, as in *.example.com");
    }
    if !name.is_ascii() {
        return Err("a name with other than ASCII characters has to be in its ASCII form (xn--…)");
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| {
        !label.is_empty() && label.len() <= MAX_LABEL && label.bytes().all(is_allowed)
    };
    if name.len() > MAX_NAME || !name.split('.').all(is_label) {
        return Err("this is neither a domain name nor an address");
    }
    Ok(name)
}

fn parse_port(word: &str) -> Result<NonZeroU16, &'static str> {
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    match word.parse() {
        Ok(port) if is_number => Ok(port),
        _ => Err("a port must be a number from 1 to 65535"),
    }
}

impl fmt::Display for AllowRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.target, self.port) {
            (Target::Name(name), _) => formatter.write_str(name)?,
            (Target::Below(domain), _) => write!(formatter, "*.{domain}")?,
            (Target::Network(network), Some(_)) if network.address.is_ipv6() => {
                write!(formatter, "[{network}]")?;
            }
            (Target::Network(network), _) => network.fmt(formatter)?,
        }
        match self.port {
            Some(port) => write!(formatter, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        if self.prefix == bits {
            return self.address.fmt(formatter);
        }
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for AllowRule {
    type Error = InvalidAllowRule;

    /// Accepts outer hyphens and numbers as names, which settings of earlier versions may have.
    fn try_from(word: String) -> Result<AllowRule, InvalidAllowRule> {
        parse(&word).map_err(invalid(&word))
    }
}

impl From<AllowRule> for String {
    fn from(rule: AllowRule) -> String {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(word: &str) -> AllowRule {
        word.parse().unwrap()
    }

    #[test]
    fn rules_are_parsed_and_written() {
        for (word, written) in [
            ("example.com", "example.com"),
            ("Example.COM.", "example.com"),
            ("example.com:443", "example.com:443"),
            ("*.example.com", "*.example.com"),
            ("*.example.com:8443", "*.example.com:8443"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_a-b_.example.com", "_a-b_.example.com"),
            ("db", "db"),
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("192.0.2.7:5432", "192.0.2.7:5432"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/8:22", "10.0.0.0/8:22"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
        ] {
            assert_eq!(rule(word).to_string(), written, "{word}");
            assert_eq!(rule(written), rule(word), "{word}");
        }
    }

    #[test]
    fn other_words_are_refused_with_the_format() {
        for word in [
            "",
            "*",
            "*.",
            "*.*.example.com",
            "www.*.com",
            "w*.example.com",
            "a..b",
            ".example.com",
            "exa mple.com",
            "bücher.example",
            "-x",
            "x-:443",
            "*.-x.example",
            "*.x-.example",
            "a.-.example",
            "example.com:0",
            "example.com:65536",
            "example.com:",
            "example.com:+1",
            "example.com:http",
            "https://example.com",
            "example.com/path",
            "1.2.3",
            "0x7f.1",
            "0x7F000001:80",
            "*.1",
            "300.1.2.3",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "2001:db8::1:443:",
            "[2001:db8::1",
            "[2001:db8::1]443",
            "[example.com]:443",
            "2001:db8::/129",
            &"a".repeat(64),
            &"a.".repeat(128),
        ] {
            let error = word.parse::<AllowRule>().unwrap_err().to_string();
            assert!(error.contains("NAME[:PORT]"), "{word}: {error}");
        }
    }

    #[test]
    fn rules_of_earlier_versions_are_read() {
        assert!("-x".parse::<AllowRule>().is_err());
        assert!(serde_json::from_str::<AllowRule>(r#""-x""#).is_ok());
        assert!(serde_json::from_str::<AllowRule>(r#""x y""#).is_err());
    }

    #[test]
    fn names_match_whole_labels() {
        let (one, below) = (rule("example.com"), rule("*.example.com"));
        for (name, is_one, is_below) in [
            ("example.com", true, false),
            ("www.example.com", false, true),
            ("a.b.example.com", false, true),
            ("notexample.com", false, false),
            (".example.com", false, false),
            ("example.com.evil.test", false, false),
            ("com", false, false),
            ("", false, false),
        ] {
            assert_eq!(one.allows_name(name), is_one, "{name}");
            assert_eq!(below.allows_name(name), is_below, "{name}");
        }
        assert!(!rule("192.0.2.7").allows_name("192.0.2.7"));
    }

    #[test]
    fn addresses_match_by_their_prefix() {
        for (word, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
        ] {
            assert!(rule(word).allows_address(inside.parse().unwrap()), "{word}");
            assert!(
                !rule(word).allows_address(outside.parse().unwrap()),
                "{word}"
            );
        }
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert!(!rule("10.0.0.0/8").allows_address(mapped));
        assert!(!rule("example.com").allows_address("192.0.2.7".parse().unwrap()));
    }

    #[test]
    fn a_rule_with_a_port_allows_no_other() {
        for (word, port, is_allowed) in [
            ("example.com", Some(80), true),
            ("example.com", None, true),
            ("example.com:443", Some(443), true),
            ("example.com:443", Some(80), false),
            ("example.com:443", None, false),
        ] {
            assert_eq!(rule(word).allows_port(port), is_allowed, "{word} {port:?}");
        }
    }

    #[test]
    fn modes_are_written_as_they_are_read() {
        for word in ["all", "public", "none"] {
            let mode: EgressMode = word.parse().unwrap();
            assert_eq!(mode.to_string(), word);
            assert_eq!(serde_json::to_string(&mode).unwrap(), format!("\"{word}\""));
        }
        let error = "private".parse::<EgressMode>().unwrap_err().to_string();
        assert!(error.contains("public"), "{error}");
    }
}
