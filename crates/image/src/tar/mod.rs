//! Tar archives, read as a stream: ustar, GNU and PAX (POSIX.1-2017, pax, "ustar Interchange
//! Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format", "Storing Sparse
//! Files"), as image layers use them.
//!
//! The reader is our own because the crate `tar` reads headers of any length into memory, cuts
//! attribute values at line feeds (file capabilities have such bytes), and falls back to the
//! plain header without a word when it cannot read a PAX one, so that two readers of one archive
//! can see two different trees.

mod header;
mod pax;
mod reader;
mod sparse;

pub(crate) use reader::Archive;

/// One member of an archive, all its headers taken together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// As it stands in the archive: hostile until proven otherwise.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits, 0–0o7777.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// Of that many bytes, holes included.
    File(u64),
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// Since 1970, UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    /// Below 1,000,000,000.
    pub(crate) nanoseconds: u32,
}

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Its bytes do not come.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// It ends in the middle.
    #[error("it ends in the middle of {0}")]
    Truncated(&'static str),
    /// Its bytes make no sense.
    #[error("{0}")]
    Malformed(&'static str),
    /// A header that describes the next one is larger than any honest one.
    #[error("a header in it has {0} bytes, which no honest archive needs")]
    HeaderTooLarge(u64),
    /// It has what we do not know.
    #[error("{path} in it is of the unknown kind {kind:?}")]
    UnknownKind {
        /// Which member.
        path: String,
        /// Tar's letter for it.
        kind: char,
    },
}
