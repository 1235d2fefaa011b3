//! Reader of tar archives as a stream, in the formats of image layers: ustar, GNU and PAX
//! (POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic
//! Tar Format", "Storing Sparse Files").
//!
//! The crate `tar` is not used for reading untrusted archives for three reasons. It reads headers
//! of any length into memory. It cuts attribute values at line feeds, which file capabilities
//! contain. And it silently falls back to the plain header if it cannot parse a PAX one, so that
//! two programs can read two different trees from one archive.

mod header;
mod pax;
mod reader;
mod sparse;

pub(crate) use reader::TarReader;

/// A member of an archive, with all its headers applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Path as written in the archive: untrusted, possibly absolute or with `..`.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: MemberKind,
    /// Permission bits, 0–0o7777.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: MemberTime,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Type of a member, with the data that only this type has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberKind {
    Directory,
    /// A file of this size in bytes, holes included.
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

/// Timestamp, relative to 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MemberTime {
    pub(crate) seconds: i64,
    /// Below 1,000,000,000.
    pub(crate) nanoseconds: u32,
}

/// Error of reading an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The archive's source cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// The archive ends inside a header or member.
    #[error("it ends in the middle of {0}")]
    Truncated(&'static str),
    /// The archive is invalid.
    #[error("{0}")]
    Malformed(&'static str),
    /// The extended headers of one member exceed the limit of 1 MiB.
    #[error("extended headers of {0} bytes are not supported (limit: 1 MiB)")]
    HeaderTooLarge(u64),
    /// A member has an unknown type.
    #[error("{path} has the type {kind:?}, which is not supported")]
    UnknownKind {
        /// The member's path.
        path: String,
        /// The header's type flag.
        kind: char,
    },
}
