//! Errors of the writer.

use std::io;

/// Reason why the writer cannot take an entry or finish the image.
///
/// Paths are those of the entry, with bytes that are not UTF-8 replaced.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The image file, or the temporary file beside it, cannot be read or written.
    #[error("cannot write the file system image: {0}")]
    Io(io::Error),
    /// The contents of a file cannot be read from their source.
    #[error("cannot read the contents of {path}: {cause}")]
    Contents {
        /// Path of the file.
        path: String,
        /// Error of the [`SparseRead`](crate::SparseRead) or [`Read`](io::Read) given.
        cause: io::Error,
    },
    /// The requested size in bytes is outside the supported range.
    #[error("invalid file system size {0}: must be between 256 MiB and 8 TiB")]
    Size(u64),
    /// All blocks are in use.
    #[error("the file system is full")]
    Full,
    /// All inodes are in use. Their number follows from the size: one per 16 KiB.
    #[error("the file system has no inodes left")]
    NoInodes,
    /// A name in the path is empty, too long or contains a zero byte, or the path is the root
    /// directory where another name is required.
    #[error("invalid path {path}: a name must have 1 to 255 bytes and no zero byte")]
    Name {
        /// Path in the file system, as the caller gave it.
        path: String,
    },
    /// A component of the path, other than the last, is not a directory.
    #[error("cannot resolve {path}: a component is not a directory")]
    NotADirectory {
        /// Path in the file system, as the caller gave it.
        path: String,
    },
    /// The path leads through more than 40 symbolic links, as on Linux.
    #[error("cannot resolve {path}: too many symbolic links")]
    Loop {
        /// Path in the file system, as the caller gave it.
        path: String,
    },
    /// The target of a hard link does not exist, is a directory, or would be removed by the link.
    #[error("cannot create hard link {path}: target {target} not found or not a file")]
    HardLink {
        /// Path of the link.
        path: String,
        /// Path of the existing file.
        target: String,
    },
    /// The file already has as many names as an inode can count.
    #[error("cannot create hard link {path}: the file already has 65000 names")]
    Links {
        /// Path of the link.
        path: String,
    },
    /// The target of a symbolic link is empty, too long or contains a zero byte.
    #[error("invalid target of symbolic link {path}: must have 1 to 4095 bytes and no zero byte")]
    Target {
        /// Path of the link.
        path: String,
    },
    /// A device number exceeds what Linux supports.
    #[error("invalid device number of {path}: major must be below 4096, minor below 1048576")]
    Device {
        /// Path of the device.
        path: String,
    },
    /// The extended attributes are invalid or too large.
    #[error("cannot store the extended attributes of {path}: {reason}")]
    Xattrs {
        /// Path of the entry.
        path: String,
        /// Reason, as the last part of the message.
        reason: &'static str,
    },
    /// The directory needs more blocks than a two-level hash tree can reference.
    #[error("directory {path} has too many entries")]
    DirectoryTooLarge {
        /// Path of the directory.
        path: String,
    },
    /// The entries need more memory and temporary storage than is allowed.
    #[error("too many entries: their names and attributes exceed 8 GiB")]
    TooManyEntries,
    /// A file exceeds what 32-bit block numbers can address.
    #[error("file {path} is too large: the limit is 16 TiB")]
    TooLarge {
        /// Path of the file.
        path: String,
    },
}

impl WriteError {
    /// Returns the I/O error that caused this one, for callers that look for a full disk or for an
    /// error of their own in it.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            WriteError::Io(cause) | WriteError::Contents { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// Formats a path for an error message.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
