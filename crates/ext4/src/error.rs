//! What can go wrong.

use std::io;

/// Anything that can go wrong. Paths are shown with what is not UTF-8 replaced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image file failed.
    #[error("writing the file system image: {0}")]
    Io(#[source] io::Error),
    /// What a file is to hold could not be read.
    #[error("reading the contents of {path}: {source}")]
    Contents {
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The size is none that can be written.
    #[error("a file system of {0} bytes cannot be written: at least 256 MiB and at most 8 TiB can")]
    Size(u64),
    /// There is no room for more.
    #[error("the file system is full")]
    Full,
    /// There are no inodes for more.
    #[error("the file system has no inodes left")]
    NoInodes,
    /// A name that no directory can hold.
    #[error("{path}: a name has 1 to 255 bytes and no zero byte")]
    Name {
        /// The path that it is in.
        path: String,
    },
    /// A path leads through something that is no directory.
    #[error("{path}: it leads through something that is not a directory")]
    NotADirectory {
        /// The path.
        path: String,
    },
    /// Symlinks lead to one another.
    #[error("{path}: it leads through too many symbolic links")]
    Loop {
        /// The path.
        path: String,
    },
    /// A hard link to what is not there, or to a directory.
    #[error("{path}: a hard link to {target}, which is not a file that is there")]
    HardLink {
        /// The link.
        path: String,
        /// What it is to name.
        target: String,
    },
    /// More hard links than an inode counts.
    #[error("{path}: its file has 65000 names already")]
    Links {
        /// The link.
        path: String,
    },
    /// A symlink whose target no inode can hold.
    #[error("{path}: a symbolic link's target has 1 to 4095 bytes")]
    Target {
        /// The symlink.
        path: String,
    },
    /// A device with numbers that Linux does not have.
    #[error("{path}: a device has a major number below 4096 and a minor one below 1048576")]
    Device {
        /// The device.
        path: String,
    },
    /// Extended attributes that no inode can hold.
    #[error("{path}: its extended attributes cannot be kept: {reason}")]
    Xattrs {
        /// What has them.
        path: String,
        /// Why not.
        reason: &'static str,
    },
    /// A directory with more names than its index can lead to.
    #[error("{path}: a directory cannot hold so many names of that length")]
    DirectoryTooLarge {
        /// The directory.
        path: String,
    },
    /// There is more to be kept of the entries until the end than is allowed for.
    #[error("there are too many files, or too much is to be kept of them: more than 8 GiB")]
    TooManyEntries,
    /// A file that is larger than a file can be.
    #[error("{path}: a file can have 16 TiB at most")]
    TooLarge {
        /// The file.
        path: String,
    },
}

/// A path for people.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
