//! An amount of memory.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An amount of memory in bytes, at least one GiB: what a machine gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Memory(u64);

/// Why something is not an amount of memory for a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMemory {
    /// It is not a size.
    #[error("{0:?} is not a size: give bytes, or a number with K, M, G or T (2G, 512MiB)")]
    NotASize(String),
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

/// Sizes are binary whatever their suffix: `2G`, `2gb` and `2GiB` are the same. A bare number is
/// bytes.
impl FromStr for Memory {
    type Err = InvalidMemory;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let not_a_size = || InvalidMemory::NotASize(word.to_owned());
        let trimmed = word.trim();
        let digits = trimmed
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let number: u64 = trimmed[..digits].parse().map_err(|_| not_a_size())?;
        let shift = match trimmed[digits..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(not_a_size()),
        };
        number
            .checked_mul(1 << shift)
            .ok_or_else(not_a_size)?
            .try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suffix_is_binary() {
        for word in ["2G", "2g", "2gb", "2GiB", "2048M", " 2 GB ", "2147483648"] {
            assert_eq!(word.parse::<Memory>().unwrap().bytes(), 2 << 30, "{word}");
        }
    }

    #[test]
    fn nonsense_and_too_little_are_told_apart() {
        for word in ["", "G", "-1G", "2.5G", "2X", "99999999999T"] {
            assert!(
                matches!(word.parse::<Memory>(), Err(InvalidMemory::NotASize(_))),
                "{word}"
            );
        }
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
