//! Amount of memory of a machine.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::size::{self, InvalidSize};

/// Amount of memory of a machine in bytes, at least 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Memory(u64);

/// The text or number is not an amount of memory for a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMemory {
    /// The text is not a size.
    #[error(transparent)]
    Size(#[from] InvalidSize),
    /// The amount in bytes is less than [`MIN`](Memory::MIN).
    #[error("memory of {} is too small (minimum: 1G)", size::format_bytes(*.0))]
    TooSmall(u64),
}

impl Memory {
    /// Smallest amount in bytes that a machine boots with.
    pub const MIN: u64 = 1 << 30;

    /// Returns half of the host's memory in whole MiB, and at least [`MIN`](Self::MIN).
    pub fn half_of(host_bytes: u64) -> Memory {
        let half = (host_bytes / 2).max(Self::MIN);
        Memory(half - half % (1 << 20))
    }

    /// Returns the amount in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Memory {
    type Error = InvalidMemory;

    fn try_from(bytes: u64) -> Result<Self, Self::Error> {
        if bytes < Self::MIN {
            return Err(InvalidMemory::TooSmall(bytes));
        }
        Ok(Memory(bytes))
    }
}

impl From<Memory> for u64 {
    fn from(memory: Memory) -> Self {
        memory.0
    }
}

impl FromStr for Memory {
    type Err = InvalidMemory;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        size::parse_bytes(text)?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_and_too_small_are_distinguished() {
        assert_eq!("2G".parse::<Memory>().unwrap().bytes(), 2 << 30);
        assert!(matches!(
            "2X".parse::<Memory>(),
            Err(InvalidMemory::Size(_))
        ));
        assert_eq!(
            "512M".parse::<Memory>(),
            Err(InvalidMemory::TooSmall(512 << 20))
        );
    }

    #[test]
    fn half_of_a_small_host_is_at_least_the_minimum() {
        assert_eq!(Memory::half_of(100).bytes(), Memory::MIN);
        assert_eq!(Memory::half_of(8 << 30).bytes(), 4 << 30);
    }
}
