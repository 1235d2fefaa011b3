//! What a base has, as the machine is told.

use std::{
    io::{self, Write},
    path::Path,
};

use container_changes::{Entry, Time, write_listing};
use container_ext4::{Listed, Reader};

/// Writes the listing of a base: see [`container_changes`].
///
/// # Errors
/// Whatever keeps the base from being read, or the listing from being written.
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

fn entry(listed: Listed) -> Entry {
    Entry {
        name: listed.name,
        inode: listed.inode.into(),
        changed: Time {
            seconds: listed.changed.seconds,
            nanoseconds: listed.changed.nanoseconds,
        },
        is_directory: listed.is_directory,
    }
}
