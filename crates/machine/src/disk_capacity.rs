//! Capacity of a machine's disk.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::size::{self, InvalidSize};

/// Capacity of a machine's disk in bytes, 1 GiB to 8 TiB in steps of 128 MiB. Other values are
/// rounded up. The disk occupies less on the host: only the blocks that were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct DiskCapacity(u64);

/// The text or number is not a disk capacity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDiskCapacity {
    /// The text is not a size.
    #[error(transparent)]
    Size(#[from] InvalidSize),
    /// The capacity in bytes is less than [`MIN`](DiskCapacity::MIN).
    #[error("a disk of {} is too small (minimum: 1G)", size::format_bytes(*.0))]
    TooSmall(u64),
    /// The capacity in bytes is more than [`MAX`](DiskCapacity::MAX).
    #[error("a disk of {} is too large (maximum: 8T)", size::format_bytes(*.0))]
    TooLarge(u64),
}

impl DiskCapacity {
    /// Smallest capacity of a disk in bytes.
    pub const MIN: u64 = 1 << 30;
    /// Largest capacity in bytes that the ext4 writer supports.
    pub const MAX: u64 = 8 << 40;
    /// Size of an ext4 block group (with blocks of 4 KiB): the file system has complete groups
    /// only.
    const STEP: u64 = 128 << 20;

    /// Returns the capacity in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl Default for DiskCapacity {
    /// Returns 512 GiB.
    fn default() -> Self {
        DiskCapacity(512 << 30)
    }
}

impl TryFrom<u64> for DiskCapacity {
    type Error = InvalidDiskCapacity;

    fn try_from(bytes: u64) -> Result<Self, Self::Error> {
        match bytes {
            ..Self::MIN => Err(InvalidDiskCapacity::TooSmall(bytes)),
            Self::MIN..=Self::MAX => Ok(DiskCapacity(bytes.next_multiple_of(Self::STEP))),
            _ => Err(InvalidDiskCapacity::TooLarge(bytes)),
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

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        size::parse_bytes(text)?.try_into()
    }
}

impl fmt::Display for DiskCapacity {
    /// Writes the capacity in the largest unit of which it is a whole number. The text can be
    /// parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&size::format_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<DiskCapacity, InvalidDiskCapacity> {
        text.parse()
    }

    #[test]
    fn a_capacity_is_rounded_up_and_can_be_parsed_again() {
        for (text, written) in [
            ("1G", "1G"),
            ("3000M", "3G"),
            ("1153433600", "1152M"),
            ("512GiB", "512G"),
            ("8192G", "8T"),
        ] {
            assert_eq!(read(text).unwrap().to_string(), written);
        }
        assert_eq!(DiskCapacity::default().to_string(), "512G");
    }

    #[test]
    fn invalid_too_small_and_too_large_are_distinguished() {
        use InvalidDiskCapacity::{Size, TooLarge, TooSmall};
        assert!(matches!(read("much"), Err(Size(_))));
        assert_eq!(read("1023M"), Err(TooSmall(1023 << 20)));
        assert_eq!(read("8193G"), Err(TooLarge(8193 << 30)));
        assert_eq!(
            read("1").unwrap_err().to_string(),
            "a disk of 1 byte is too small (minimum: 1G)"
        );
        assert_eq!(
            read("18446744073709551615"),
            Err(TooLarge(u64::MAX)),
            "rounding up overflows"
        );
    }
}
