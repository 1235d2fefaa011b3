//! An amount of memory.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::size::{self, NotASize};

/// An amount of memory in bytes, at least one GiB: what a machine gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Memory(u64);

/// Why something is not an amount of memory for a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMemory {
    /// It is not a size.
    #[error(transparent)]
    NotASize(#[from] NotASize),
    /// It is too little.
    #[error("{0} bytes of memory are too little: a machine needs 1G at least")]
    TooLittle(u64),
}

impl Memory {
    /// The least that a machine works with.
    pub const LEAST: u64 = 1 << 30;

    /// Half of what the host has, and at least [`LEAST`](Self::LEAST).
    pub fn half_of(host_bytes: u64) -> Memory {
        let half = (host_bytes / 2).max(Self::LEAST);
        Memory(half - half % (1 << 20))
    }

    /// The amount in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Memory {
    type Error = InvalidMemory;

    fn try_from(bytes: u64) -> Result<Self, Self::Error> {
        if bytes < Self::LEAST {
            return Err(InvalidMemory::TooLittle(bytes));
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

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        size::bytes(word)?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_and_too_little_are_told_apart() {
        assert_eq!("2G".parse::<Memory>().unwrap().bytes(), 2 << 30);
        assert!(matches!(
            "2X".parse::<Memory>(),
            Err(InvalidMemory::NotASize(_))
        ));
        assert_eq!(
            "512M".parse::<Memory>(),
            Err(InvalidMemory::TooLittle(512 << 20))
        );
    }

    #[test]
    fn half_of_a_small_host_is_enough_for_a_machine() {
        assert_eq!(Memory::half_of(100).bytes(), Memory::LEAST);
        assert_eq!(Memory::half_of(8 << 30).bytes(), 4 << 30);
    }
}
