//! Types of the writer's interface: attributes, contents with holes, and special files.

/// Attributes of a file of any type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits, 0–0o7777.
    pub mode: u16,
    /// User id of the owner.
    pub uid: u32,
    /// Group id of the owner.
    pub gid: u32,
    /// Modification time. The writer uses it for access, change and creation time, too.
    pub mtime: Timestamp,
    /// Extended attributes: full name (`user.x`, `security.capability`) and value. Access control
    /// lists have the form of the system call.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    /// Returns attributes with these permission bits, owned by root, with the time 0.
    pub fn file(mode: u16) -> Metadata {
        Metadata {
            mode,
            ..Metadata::default()
        }
    }
}

/// Time since the start of 1970, UTC. A negative one is the sum of its fields, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// Nanoseconds, 0–999,999,999.
    pub nanoseconds: u32,
}

/// Contents of a file, with holes that need not be read.
pub trait SparseRead: std::io::Read {
    /// Skips a hole at the current position, in whole units of `unit` bytes. Returns the number of
    /// bytes skipped, which is 0 if there is no hole.
    fn skip_hole(&mut self, unit: u64) -> u64;
}

/// Device, pipe or socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialFile {
    /// Character device.
    CharDevice {
        /// Major number, below 4096.
        major: u32,
        /// Minor number, below 1048576.
        minor: u32,
    },
    /// Block device.
    BlockDevice {
        /// Major number, below 4096.
        major: u32,
        /// Minor number, below 1048576.
        minor: u32,
    },
    /// Named pipe.
    Fifo,
    /// Unix domain socket.
    Socket,
}
