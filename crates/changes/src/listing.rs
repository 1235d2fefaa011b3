//! The listing of the base, as it is sent to the guest.
//!
//! A directory is the number of its entries, the entries sorted by name, and then its
//! subdirectories in the same order, each with everything below it. The first directory holds only
//! the root, whose name is empty. Numbers are little-endian.
//!
//! | bytes | of an entry |
//! |---|---|
//! | 1 | length of the name |
//! | 1 | 1 for a directory, else 0 |
//! | 8 | inode number |
//! | 8, 4 | change time: seconds, nanoseconds |
//! | … | name |

use std::{
    io::{self, Read, Write},
    vec,
};

/// Length of the longest name (`EXT4_NAME_LEN`).
const LONGEST_NAME: usize = 255;

/// An entry of a directory in the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseEntry {
    /// The name, empty for the root.
    pub name: Vec<u8>,
    /// Inode number.
    pub inode: u64,
    /// Time of the inode's last change (`st_ctime`).
    pub changed: UnixTime,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// Time since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixTime {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Writes the listing of a whole tree. `entries_of` returns the entries of the directory with the
/// given inode number.
///
/// # Errors
/// Those of `entries_of` and of the writer.
pub fn write_listing(
    root: BaseEntry,
    entries_of: &mut dyn FnMut(u64) -> io::Result<Vec<BaseEntry>>,
    to: &mut dyn Write,
) -> io::Result<()> {
    // The directories still to be listed, per level.
    let mut levels = vec![write_sorted(vec![root], to)?];
    while let Some(directory) = levels.last_mut().map(Iterator::next) {
        match directory {
            Some(inode) => levels.push(write_sorted(entries_of(inode)?, to)?),
            None => drop(levels.pop()),
        }
    }
    Ok(())
}

/// Writes a directory. Returns the inode numbers of its subdirectories.
fn write_sorted(mut entries: Vec<BaseEntry>, to: &mut dyn Write) -> io::Result<vec::IntoIter<u64>> {
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    write_directory(&entries, to)?;
    let directories = entries.iter().filter(|entry| entry.is_directory);
    let inodes: Vec<u64> = directories.map(|directory| directory.inode).collect();
    Ok(inodes.into_iter())
}

fn write_directory(entries: &[BaseEntry], to: &mut dyn Write) -> io::Result<()> {
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

/// Reads the entries of one directory.
pub(crate) fn read_directory(from: &mut dyn Read) -> io::Result<Vec<BaseEntry>> {
    let count = u32::from_le_bytes(read_bytes(from)?);
    let mut entries = Vec::new();
    for _ in 0..count {
        let [length, is_directory] = read_bytes(from)?;
        let inode = u64::from_le_bytes(read_bytes(from)?);
        let seconds = i64::from_le_bytes(read_bytes(from)?);
        let nanoseconds = u32::from_le_bytes(read_bytes(from)?);
        let mut name = [0; LONGEST_NAME];
        let name = &mut name[..usize::from(length)];
        from.read_exact(name)?;
        entries.push(BaseEntry {
            name: name.to_vec(),
            inode,
            changed: UnixTime {
                seconds,
                nanoseconds,
            },
            is_directory: is_directory != 0,
        });
    }
    Ok(entries)
}

/// Reads and discards a directory with everything below it.
pub(crate) fn skip_directory(from: &mut dyn Read) -> io::Result<()> {
    // Only the number of outstanding directories matters, so a count replaces recursion.
    let mut outstanding = 1u64;
    while outstanding > 0 {
        let entries = read_directory(from)?;
        outstanding -= 1;
        outstanding += entries.iter().filter(|entry| entry.is_directory).count() as u64;
    }
    Ok(())
}

fn read_bytes<const COUNT: usize>(from: &mut dyn Read) -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
