//! A streaming writer and a reader of ext4 file systems.
//!
//! A [`Writer`] accepts entries in any order, as image layers contain them. Contents of files are
//! written to their final blocks immediately. Names and attributes are kept in at most about 80 MiB
//! of memory, and beyond that in unnamed temporary files. [`Writer::finish`] writes the metadata.
//! Nothing is mounted, and root is not required. The image is a sparse file: blocks that are not in
//! use occupy no space.
//!
//! The file system has a journal, extents, hashed directories and metadata checksums, and `e2fsck
//! -fn` accepts it. Its size is a multiple of 128 MiB, the size of a block group; each group starts
//! with its bitmaps and its inode table. Unused groups and inodes are marked as such, so the kernel
//! initializes nothing in the background after mounting.
//!
//! A [`Reader`] lists directories with inode numbers and change times.
//!
//! # Modules
//!
//! | step | modules |
//! |---|---|
//! | interface | `writer`, `reader`, `metadata`, `error` |
//! | names, in bounded memory | `tree`, `entry_table`, `resolve`, `node`, `pages` |
//! | contents, while entries are added | `blocks`, `extents`, `xattr_values` |
//! | metadata, at the end | `finish`, `directory`, `hash`, `inode`, `inode_table`, `xattr` |
//! | metadata without names, at the end | `groups`, `journal`, `resize`, `superblock` |
//! | on-disk format | `layout` (offsets by the kernel's names), `geometry`, `time`, `bytes` |
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
mod entry_table;
mod error;
mod extents;
mod finish;
mod geometry;
mod groups;
mod hash;
mod inode;
mod inode_table;
mod journal;
mod layout;
mod metadata;
mod node;
mod pages;
mod reader;
mod resize;
mod resolve;
mod superblock;
mod time;
mod tree;
mod writer;
mod xattr;
mod xattr_values;

pub use error::WriteError;
pub use metadata::{Metadata, SparseRead, SpecialFile, Timestamp};
pub use reader::{DirEntry, ReadError, Reader};
pub use writer::{Options, Writer};
pub use xattr::is_known_xattr;
