//! Free space on the host's disk.

use std::{fmt, path::Path, str::FromStr};

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use crate::size::{self, InvalidSize};

/// Free space in bytes on the host's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FreeSpace(u64);

impl FreeSpace {
    /// Returns the space that is free on the file system of a path; absent if the file system does
    /// not report it.
    pub fn at(path: &Path) -> Option<FreeSpace> {
        let statistics = statvfs(path).ok()?;
        let blocks = statistics.blocks_available();
        Some(FreeSpace(blocks.saturating_mul(statistics.fragment_size())))
    }

    /// Returns the size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Returns a warning for the user of a machine if less than `least` is free.
    pub fn warning(self, least: FreeSpace) -> Option<String> {
        (self < least).then(|| {
            format!(
                "{self} are free on the host for the machine's disk; when they are used up, the \
                 machine is paused until there is space"
            )
        })
    }
}

impl Default for FreeSpace {
    /// Returns 2 GiB, below which users are warned.
    fn default() -> Self {
        FreeSpace(2 << 30)
    }
}

impl fmt::Display for FreeSpace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} MiB", self.0 >> 20)
    }
}

impl From<u64> for FreeSpace {
    fn from(bytes: u64) -> Self {
        FreeSpace(bytes)
    }
}

impl FromStr for FreeSpace {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        size::parse_bytes(text).map(FreeSpace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_the_least_space_is_warned_of() {
        let least: FreeSpace = "1G".parse().unwrap();
        let warning = FreeSpace::from(700 << 20).warning(least).unwrap();
        assert!(warning.starts_with("700 MiB are free"), "{warning}");
        assert_eq!(least.warning(least), None);
        assert_eq!(FreeSpace::from(0).warning("0".parse().unwrap()), None);
    }

    #[test]
    fn space_of_a_file_system_is_read() {
        assert!(FreeSpace::at(Path::new("/")).is_some());
        assert_eq!(FreeSpace::at(Path::new("/nonexistent")), None);
    }
}
