//! Ids of machines.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Maximum length of an id. With the hyphen and the six characters of a boot's name it fits into a
/// DNS label (RFC 1035, section 2.3.4: 63 octets).
const MAX_LENGTH: usize = 63 - 7;

/// Id of a machine: its name for users, its host name, and the name of its bundle.
///
/// ```
/// use container_machine::MachineId;
///
/// assert!("dev-2".parse::<MachineId>().is_ok());
/// assert!("Dev".parse::<MachineId>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId(String);

/// The text is not a machine id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid machine name {text:?}: use 1 to {MAX_LENGTH} lower-case letters, digits and hyphens, \
     with a letter or a digit at both ends"
)]
pub struct InvalidMachineId {
    text: String,
}

impl MachineId {
    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the default id of a machine: the last component of the image's repository, and the
    /// tag if there is one, joined by a hyphen. Other characters than those of an id become
    /// hyphens.
    pub fn from_image(repository: &str, tag: Option<&str>) -> Result<MachineId, InvalidMachineId> {
        let last = repository.rsplit('/').next().unwrap_or(repository);
        let name = match tag {
            Some(tag) => format!("{last}-{tag}"),
            None => last.to_owned(),
        };
        let id: String = name
            .to_lowercase()
            .chars()
            .map(|letter| if is_allowed(letter) { letter } else { '-' })
            .take(MAX_LENGTH)
            .collect();
        id.trim_matches('-').parse()
    }
}

fn is_allowed(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-'
}

impl FromStr for MachineId {
    type Err = InvalidMachineId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_valid = (1..=MAX_LENGTH).contains(&text.len())
            && text.chars().all(is_allowed)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if is_valid {
            Ok(MachineId(text.to_owned()))
        } else {
            Err(InvalidMachineId {
                text: text.to_owned(),
            })
        }
    }
}

impl TryFrom<String> for MachineId {
    type Error = InvalidMachineId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> Self {
        id.0
    }
}

/// The id in quotes, for error messages.
impl fmt::Debug for MachineId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_rule_and_the_error_states_it() {
        for text in ["a", "0", "alpine-3", &"a".repeat(MAX_LENGTH)] {
            assert!(text.parse::<MachineId>().is_ok(), "{text}");
        }
        for text in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "a/b",
            "ä",
            &"a".repeat(MAX_LENGTH + 1),
        ] {
            let error = text.parse::<MachineId>().unwrap_err().to_string();
            assert!(
                error.contains("lower-case letters, digits and hyphens"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_default_id_comes_from_the_image() {
        let name = |repository, tag| MachineId::from_image(repository, tag).unwrap().to_string();
        assert_eq!(
            name("docker.io/library/alpine", Some("3.22")),
            "alpine-3-22"
        );
        assert_eq!(name("docker.io/library/alpine", None), "alpine");
        assert_eq!(
            name("x/Debian_Systemd", Some("latest")),
            "debian-systemd-latest"
        );
        assert_eq!(name(&"a".repeat(80), Some("t")).len(), MAX_LENGTH);
    }
}
