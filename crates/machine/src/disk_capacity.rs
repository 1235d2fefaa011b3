//! The capacity of a machine's disk.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::size::{self, NotASize};

/// How many bytes a machine's disk can hold, whatever it takes on the host: 1 GiB to 8 TiB, in
/// steps of 128 MiB. Sizes in between are rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct DiskCapacity(u64);

/// Why something is not the capacity of a machine's disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDiskCapacity {
    /// It is not a size.
    #[error(transparent)]
    NotASize(#[from] NotASize),
    /// It is too little.
    #[error("{0} bytes are too little for a disk: a machine's has 1G at least")]
    TooLittle(u64),
    /// It is too much.
    #[error("{0} bytes are too much for a disk: a machine's has 8T at most")]
    TooMuch(u64),
}

impl DiskCapacity {
    /// The least that a machine works with.
    pub const LEAST: u64 = 1 << 30;
    /// The most that the file system is written for.
    pub const MOST: u64 = 8 << 40;
    /// A block group of the file system, which consists of whole ones.
    const STEP: u64 = 128 << 20;

    /// The capacity in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

/// 512 GiB: what machines have of which nothing is said.
impl Default for DiskCapacity {
    fn default() -> Self {
        DiskCapacity(512 << 30)
    }
}

impl TryFrom<u64> for DiskCapacity {
    type Error = InvalidDiskCapacity;

    fn try_from(bytes: u64) -> Result<Self, Self::Error> {
        match bytes {
            ..Self::LEAST => Err(InvalidDiskCapacity::TooLittle(bytes)),
            Self::LEAST..=Self::MOST => Ok(DiskCapacity(bytes.next_multiple_of(Self::STEP))),
            _ => Err(InvalidDiskCapacity::TooMuch(bytes)),
        }
    }
}

impl From<DiskCapacity> for u64 {
    fn from(capacity: DiskCapacity) -> Self {
        capacity.0
    }
}

impl FromStr for DiskCapacity {
    type Err = InvalidDiskCapacity;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        size::bytes(word)?.try_into()
    }
}

/// As it is written, in the largest unit of which it is a whole number.
impl fmt::Display for DiskCapacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = match self.0 {
            bytes if bytes.is_multiple_of(1 << 40) => (bytes >> 40, 'T'),
            bytes if bytes.is_multiple_of(1 << 30) => (bytes >> 30, 'G'),
            bytes => (bytes >> 20, 'M'),
        };
        write!(f, "{number}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(word: &str) -> Result<DiskCapacity, InvalidDiskCapacity> {
        word.parse()
    }

    #[test]
    fn a_capacity_is_whole_steps_and_written_as_it_is_read() {
        for (word, written) in [
            ("1G", "1G"),
            ("3000M", "3G"),
            ("1153433600", "1152M"),
            ("512GiB", "512G"),
            ("8192G", "8T"),
        ] {
            assert_eq!(read(word).unwrap().to_string(), written);
        }
        assert_eq!(DiskCapacity::default().to_string(), "512G");
    }

    #[test]
    fn nonsense_too_little_and_too_much_are_told_apart() {
        use InvalidDiskCapacity::{NotASize, TooLittle, TooMuch};
        assert!(matches!(read("much"), Err(NotASize(_))));
        assert_eq!(read("1023M"), Err(TooLittle(1023 << 20)));
        assert_eq!(read("8193G"), Err(TooMuch(8193 << 30)));
        assert_eq!(
            read("18446744073709551615"),
            Err(TooMuch(u64::MAX)),
            "nothing overflows"
        );
    }
}
