//! An ext4 file system written as a stream.
//!
//! A [`Writer`] takes entries one after the other, in any order, as the layers of an image bring
//! them: file contents go to their final blocks at once, names and attributes are kept, and
//! [`Writer::finish`] writes the rest. It takes some 80 MiB of memory at most: what is kept beyond that
//! is in a file without a name. Nothing is mounted and nobody needs to be root. The
//! image is a sparse file: blocks that hold nothing take nothing.
//!
//! The result has a journal, extents, hashed directories and metadata checksums; `e2fsck -fn`
//! finds nothing to say. The format is the kernel's, Documentation/filesystems/ext4; sections
//! are named where they are kept to. It is sized in whole block groups of 128 MiB, each with its
//! bitmaps and its part of the inode table at its start; what no one has used yet is marked as
//! such, so that a kernel that mounts it writes nothing on its own.
//!
//! ```
//! use container_ext4::{Metadata, Options, Writer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let mut writer = Writer::create(&directory.path().join("disk.ext4"), &Options::default())?;
//! writer.file(b"etc/hostname", &Metadata::file(0o644), &mut &b"dev\n"[..])?;
//! writer.symlink(b"etc/alias", &Metadata::file(0o777), b"hostname")?;
//! writer.finish()?;
//! # Ok(())
//! # }
//! ```

mod blocks;
mod bytes;
mod directory;
mod error;
mod extents;
mod finish;
mod geometry;
mod hash;
mod inode;
mod inode_table;
mod journal;
mod metadata;
mod pages;
mod reader;
mod resize;
mod superblock;
mod tree;
mod values;
mod writer;
mod xattr;

pub use error::Error;
pub use metadata::{Contents, Metadata, Special, Timestamp};
pub use reader::{Listed, ReadError, Reader};
pub use writer::{Options, Writer};
pub use xattr::is_known_xattr;
