//! Snapshots: states of a machine that it can be restored to.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{DiskFile, MemoryDirectory};

/// Maximum length of a snapshot's name.
const MAX_LENGTH: usize = 64;

/// Name of a snapshot, unique among those of a machine.
///
/// ```
/// use container_machine::SnapshotName;
///
/// assert!("before-upgrade".parse::<SnapshotName>().is_ok());
/// assert!("../disk".parse::<SnapshotName>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(String);

/// The text is not the name of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid snapshot name {0:?}: use 1 to {MAX_LENGTH} letters, digits, dots, hyphens and \
     underscores, with a letter or a digit first"
)]
pub struct InvalidSnapshotName(String);

impl SnapshotName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotName {
    type Err = InvalidSnapshotName;

    fn from_str(text: &str) -> Result<SnapshotName, InvalidSnapshotName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_valid = (1..=MAX_LENGTH).contains(&text.len())
            && text.bytes().all(is_allowed)
            && text.starts_with(|first: char| first.is_ascii_alphanumeric());
        if is_valid {
            Ok(SnapshotName(text.to_owned()))
        } else {
            Err(InvalidSnapshotName(text.to_owned()))
        }
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = InvalidSnapshotName;

    fn try_from(text: String) -> Result<SnapshotName, InvalidSnapshotName> {
        text.parse()
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> String {
        name.0
    }
}

/// The name in quotes, for error messages.
impl fmt::Debug for SnapshotName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A snapshot of a machine, as its bundle records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Its name.
    pub name: SnapshotName,
    /// Time at which it was created.
    pub created: Timestamp,
    /// Time from which it may be removed; absent to keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The file with the disk's contents. It does not change any more.
    pub layer: DiskFile,
    /// Whether the machine's user was set up.
    pub is_provisioned: bool,
    /// The machine's memory; absent if only the disk was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryDirectory>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for text in ["a", "1.2", "Before_upgrade-2", &"a".repeat(MAX_LENGTH)] {
            assert!(text.parse::<SnapshotName>().is_ok(), "{text}");
        }
        let too_long = "a".repeat(MAX_LENGTH + 1);
        for text in ["", ".a", "-a", "a/b", "a b", "ä", &too_long] {
            assert!(text.parse::<SnapshotName>().is_err(), "{text}");
        }
    }
}
