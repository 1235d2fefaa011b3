//! A machine's name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest id: with a hyphen and the six characters that name a boot it still fits into a
/// DNS label (RFC 1035, section 2.3.4: 63 octets).
pub const LONGEST: usize = 63 - 7;

/// The id of a machine: its host name, and the name of its bundle.
///
/// ```
/// use container_machine::MachineId;
///
/// assert!("dev-2".parse::<MachineId>().is_ok());
/// assert!("Dev".parse::<MachineId>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId(String);

/// A word that is no machine id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{word:?} cannot name a machine: a name has 1 to {LONGEST} lower-case letters, digits and \
     hyphens, and starts and ends with a letter or a digit"
)]
pub struct InvalidMachineId {
    word: String,
}

impl MachineId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id that a machine gets when nobody names it: the last part of the image's
    /// repository, and a hyphen and the tag if it has one, with every character that an id cannot
    /// have turned into a hyphen.
    pub fn from_image(repository: &str, tag: Option<&str>) -> Result<MachineId, InvalidMachineId> {
        let last = repository.rsplit('/').next().unwrap_or(repository);
        let tagged = tag.map(|tag| format!("{last}-{tag}"));
        let word: String = tagged
            .unwrap_or_else(|| last.to_owned())
            .to_lowercase()
            .chars()
            .map(|letter| if is_allowed(letter) { letter } else { '-' })
            .take(LONGEST)
            .collect();
        word.trim_matches('-').parse()
    }
}

fn is_allowed(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-'
}

impl FromStr for MachineId {
    type Err = InvalidMachineId;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let is_valid = (1..=LONGEST).contains(&word.len())
            && word.chars().all(is_allowed)
            && !word.starts_with('-')
            && !word.ends_with('-');
        if is_valid {
            Ok(MachineId(word.to_owned()))
        } else {
            Err(InvalidMachineId {
                word: word.to_owned(),
            })
        }
    }
}

impl TryFrom<String> for MachineId {
    type Error = InvalidMachineId;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        word.parse()
    }
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> Self {
        id.0
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
    fn names_follow_the_rule_and_the_error_names_it() {
        for word in ["a", "0", "alpine-3", &"a".repeat(LONGEST)] {
            assert!(word.parse::<MachineId>().is_ok(), "{word}");
        }
        for word in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "a/b",
            "ä",
            &"a".repeat(LONGEST + 1),
        ] {
            let error = word.parse::<MachineId>().unwrap_err().to_string();
            assert!(
                error.contains("lower-case letters, digits and hyphens"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_image_gives_a_name() {
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
        assert_eq!(name(&"a".repeat(80), Some("t")).len(), LONGEST);
    }
}
