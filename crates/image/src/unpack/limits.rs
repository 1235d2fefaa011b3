//! Limits on what an image unpacks to, against images made to fill the disk.

use std::io::{self, Read};

/// Limits on one image, all its layers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Size of the decompressed archives in bytes.
    pub most_bytes: u64,
    /// Number of the archives' members.
    pub most_entries: u64,
}

impl Default for Limits {
    /// Returns 100 GiB and 10 million members, far more than real images have.
    fn default() -> Limits {
        Limits {
            most_bytes: 100 << 30,
            most_entries: 10_000_000,
        }
    }
}

/// The image exceeds one of its [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    /// The archives are too large.
    #[error(
        "the image unpacks to more than {0} bytes; if you trust it, raise most-bytes of [image] in config.toml"
    )]
    Bytes(u64),
    /// The archives have too many members.
    #[error(
        "the image has more than {0} entries; if you trust it, raise most-entries of [image] in config.toml"
    )]
    Entries(u64),
}

/// Use of an image's limits so far.
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

    /// Returns a reader that fails at the limit on bytes, and the counter of members.
    pub(super) fn bound<R: Read>(&mut self, archive: R) -> (Bounded<'_, R>, MemberCounter<'_>) {
        let bytes = Bounded {
            archive,
            read: &mut self.bytes,
            most: self.limits.most_bytes,
        };
        let entries = MemberCounter {
            count: &mut self.entries,
            most: self.limits.most_entries,
        };
        (bytes, entries)
    }
}

/// Reader that fails when the image has too many bytes.
pub(super) struct Bounded<'a, R> {
    archive: R,
    read: &'a mut u64,
    most: u64,
}

impl<R> Bounded<'_, R> {
    /// Checks that `bytes` more bytes are within the limit, so that a member is refused by its
    /// stated size before it is read.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), LimitExceeded> {
        if self.read.saturating_add(bytes) > self.most {
            return Err(LimitExceeded::Bytes(self.most));
        }
        Ok(())
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.archive.read(buffer)?;
        *self.read += count as u64;
        if *self.read > self.most {
            return Err(io::Error::other(LimitExceeded::Bytes(self.most)));
        }
        Ok(count)
    }
}

/// Counts members up to the limit.
pub(super) struct MemberCounter<'a> {
    count: &'a mut u64,
    most: u64,
}

impl MemberCounter<'_> {
    pub(super) fn add_one(&mut self) -> Result<(), LimitExceeded> {
        *self.count += 1;
        if *self.count > self.most {
            return Err(LimitExceeded::Entries(self.most));
        }
        Ok(())
    }
}
