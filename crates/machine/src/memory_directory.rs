//! Names of the directories with the memory of snapshots.

use std::fmt;

use serde::{Deserialize, Serialize};

const PREFIX: &str = "memory-";

/// Name of a directory in a bundle: the saved memory of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemoryDirectory(String);

/// The text is not the name of a directory with the memory of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid name of a directory with memory: {0:?}")]
pub struct InvalidMemoryDirectoryName(String);

impl MemoryDirectory {
    /// Returns a new name.
    pub fn random() -> MemoryDirectory {
        MemoryDirectory(format!("{PREFIX}{}", uuid::Uuid::new_v4().simple()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MemoryDirectory {
    type Error = InvalidMemoryDirectoryName;

    fn try_from(text: String) -> Result<MemoryDirectory, InvalidMemoryDirectoryName> {
        let random = text.strip_prefix(PREFIX);
        let is_valid = random.is_some_and(|random| {
            !random.is_empty() && random.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if is_valid {
            Ok(MemoryDirectory(text))
        } else {
            Err(InvalidMemoryDirectoryName(text))
        }
    }
}

impl From<MemoryDirectory> for String {
    fn from(name: MemoryDirectory) -> String {
        name.0
    }
}

impl fmt::Display for MemoryDirectory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_directories_are_not_of_a_snapshot() {
        let name = MemoryDirectory::random();
        assert_eq!(MemoryDirectory::try_from(name.to_string()), Ok(name));
        for other in ["memory", "memory-", "memory-../a", ".memory-0a.new"] {
            assert!(
                MemoryDirectory::try_from(other.to_owned()).is_err(),
                "{other}"
            );
        }
    }
}
