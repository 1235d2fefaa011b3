//! Listing of a base, which the agent compares with the machine's disk.

use std::{
    io::{self, Write},
    path::Path,
};

use container_changes::{BaseEntry, UnixTime, write_listing};
use container_ext4::{DirEntry, Reader};

/// Writes the listing of a base in the format of [`container_changes`].
///
/// # Errors
/// [`io::Error`] if the base cannot be read or the listing cannot be written.
pub fn write_listing_of_base(base: &Path, to: &mut dyn Write) -> io::Result<()> {
    let reader = Reader::open(base).map_err(io::Error::other)?;
    let root = reader.root().map_err(io::Error::other)?;
    let mut entries_of = |inode: u64| {
        let inode = u32::try_from(inode).map_err(io::Error::other)?;
        let entries = reader.entries(inode).map_err(io::Error::other)?;
        Ok(entries.into_iter().map(entry).collect())
    };
    write_listing(entry(root), &mut entries_of, to)
}

fn entry(listed: DirEntry) -> BaseEntry {
    BaseEntry {
        name: listed.name,
        inode: listed.inode.into(),
        changed: UnixTime {
            seconds: listed.changed.seconds,
            nanoseconds: listed.changed.nanoseconds,
        },
        is_directory: listed.is_directory,
    }
}
