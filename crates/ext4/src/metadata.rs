//! What is known of an entry besides its name and contents.

/// An entry's attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits, 0–0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the contents changed.
    pub mtime: Timestamp,
    /// Extended attributes: full name (`user.x`, `security.capability`) and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    /// Root's, of the first moment of 1970, with these permission bits.
    pub fn file(mode: u16) -> Metadata {
        Metadata {
            mode,
            ..Metadata::default()
        }
    }
}

/// A moment, in seconds since 1970 UTC and nanoseconds beyond them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// 0–999,999,999.
    pub nanoseconds: u32,
}

/// What a file is to hold, with holes that need not be read.
pub trait Contents: std::io::Read {
    /// Goes over zeroes that come next, as many units of this many bytes as there are without
    /// reading any; returns how many bytes that was.
    fn skip_hole(&mut self, unit: u64) -> u64;
}

/// What is neither file, directory nor link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}
