//! How much an image may unpack to: some are made to fill a disk.

use std::io::{self, Read};

/// Bounds on one image. The defaults are beyond any honest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all layers' archives, decompressed.
    pub most_bytes: u64,
    /// Entries of all layers' archives.
    pub most_entries: u64,
}

impl Default for Limits {
    /// 100 GiB and 10 million.
    fn default() -> Limits {
        Limits {
            most_bytes: 100 << 30,
            most_entries: 10_000_000,
        }
    }
}

/// An image is larger than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Its archives are.
    #[error(
        "the image unpacks to more than {0} bytes; if you trust it, raise most-bytes of [image] in config.toml"
    )]
    Bytes(u64),
    /// It has more entries.
    #[error(
        "the image has more than {0} entries; if you trust it, raise most-entries of [image] in config.toml"
    )]
    Entries(u64),
}

/// What is left of an image's limits.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    bytes: u64,
    entries: u64,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Budget {
        Budget {
            limits,
            bytes: 0,
            entries: 0,
        }
    }

    /// An archive that can be read as far as the budget goes, and what entries are taken from.
    pub(super) fn bound<R: Read>(&mut self, archive: R) -> (Bounded<'_, R>, Entries<'_>) {
        let bytes = Bounded {
            archive,
            read: &mut self.bytes,
            most: self.limits.most_bytes,
        };
        let entries = Entries {
            taken: &mut self.entries,
            most: self.limits.most_entries,
        };
        (bytes, entries)
    }
}

/// An archive with an end.
pub(super) struct Bounded<'a, R> {
    archive: R,
    read: &'a mut u64,
    most: u64,
}

impl<R> Bounded<'_, R> {
    /// Fails if so many more bytes are too many: what is said of a file is refused before any of
    /// it is read.
    pub(super) fn ensure_room(&self, bytes: u64) -> Result<(), TooMuch> {
        match self.read.saturating_add(bytes) > self.most {
            true => Err(TooMuch::Bytes(self.most)),
            false => Ok(()),
        }
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.archive.read(buffer)?;
        *self.read += count as u64;
        if *self.read > self.most {
            return Err(io::Error::other(TooMuch::Bytes(self.most)));
        }
        Ok(count)
    }
}

/// Counts entries.
pub(super) struct Entries<'a> {
    taken: &'a mut u64,
    most: u64,
}

impl Entries<'_> {
    /// Takes one more.
    pub(super) fn take(&mut self) -> Result<(), TooMuch> {
        *self.taken += 1;
        if *self.taken > self.most {
            return Err(TooMuch::Entries(self.most));
        }
        Ok(())
    }
}
