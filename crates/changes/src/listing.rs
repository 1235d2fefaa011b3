//! What the base has, as it is told to the guest.
//!
//! A directory is the number of its entries and then these, in the order of their names; after
//! it come the directories in it, in that order too, each with all that is below. The first
//! one holds nothing but the root, without a name. Numbers are little-endian.

use std::{
    io::{self, Read, Write},
    vec,
};

/// The longest name (`EXT4_NAME_LEN`).
const LONGEST_NAME: usize = 255;

/// An entry of a directory in the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Its inode.
    pub inode: u64,
    /// When the inode last changed.
    pub changed: Time,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// Since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Writes the listing of a whole tree. `entries_of` gives a directory's entries, by its inode.
///
/// # Errors
/// Those of `entries_of` and of the writer.
pub fn write_listing(
    root: Entry,
    entries_of: &mut dyn FnMut(u64) -> io::Result<Vec<Entry>>,
    to: &mut dyn Write,
) -> io::Result<()> {
    // The directories of each level that are still to be listed.
    let mut left = vec![directories(vec![root], to)?];
    while let Some(directory) = left.last_mut().map(Iterator::next) {
        match directory {
            Some(inode) => left.push(directories(entries_of(inode)?, to)?),
            None => drop(left.pop()),
        }
    }
    Ok(())
}

/// Writes a directory. Returns the inodes of those in it.
fn directories(mut entries: Vec<Entry>, to: &mut dyn Write) -> io::Result<vec::IntoIter<u64>> {
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    write_directory(&entries, to)?;
    let directories = entries.iter().filter(|entry| entry.is_directory);
    let inodes: Vec<u64> = directories.map(|directory| directory.inode).collect();
    Ok(inodes.into_iter())
}

fn write_directory(entries: &[Entry], to: &mut dyn Write) -> io::Result<()> {
    let count = u32::try_from(entries.len()).map_err(io::Error::other)?;
    to.write_all(&count.to_le_bytes())?;
    for entry in entries {
        let length = u8::try_from(entry.name.len()).map_err(io::Error::other)?;
        to.write_all(&[length, u8::from(entry.is_directory)])?;
        to.write_all(&entry.inode.to_le_bytes())?;
        to.write_all(&entry.changed.seconds.to_le_bytes())?;
        to.write_all(&entry.changed.nanoseconds.to_le_bytes())?;
        to.write_all(&entry.name)?;
    }
    Ok(())
}

/// Reads one directory's entries.
pub(crate) fn read_directory(from: &mut dyn Read) -> io::Result<Vec<Entry>> {
    let count = u32::from_le_bytes(bytes(from)?);
    let mut entries = Vec::new();
    for _ in 0..count {
        let [length, is_directory] = bytes(from)?;
        let inode = u64::from_le_bytes(bytes(from)?);
        let seconds = i64::from_le_bytes(bytes(from)?);
        let nanoseconds = u32::from_le_bytes(bytes(from)?);
        let mut name = [0; LONGEST_NAME];
        let name = &mut name[..usize::from(length)];
        from.read_exact(name)?;
        entries.push(Entry {
            name: name.to_vec(),
            inode,
            changed: Time {
                seconds,
                nanoseconds,
            },
            is_directory: is_directory != 0,
        });
    }
    Ok(entries)
}

/// Reads all that is below a directory, and forgets it.
pub(crate) fn skip_directory(from: &mut dyn Read) -> io::Result<()> {
    // A number, not a recursion: nothing but how many are still to come is of interest.
    let mut left = 1u64;
    while left > 0 {
        let entries = read_directory(from)?;
        left -= 1;
        left += entries.iter().filter(|entry| entry.is_directory).count() as u64;
    }
    Ok(())
}

fn bytes<const COUNT: usize>(from: &mut dyn Read) -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
