//! Extended attributes (Documentation/filesystems/ext4/attributes.rst): in the inode as far as
//! they fit, then in one block, and values for which neither has room in inodes of their own
//! (`ea_inode`).

use crate::{
    Error,
    bytes::{crc, put_u16, put_u32},
    error::shown,
    geometry::BLOCK,
};

const MAGIC: u32 = 0xea02_0000;
const ENTRY: usize = 16;
const BLOCK_HEADER: usize = 32;

/// The longest value that Linux lets a program set (`XATTR_SIZE_MAX`).
const LONGEST_VALUE: usize = 65536;

/// Bytes behind an inode's fields, for attributes.
pub const IN_INODE: usize = crate::geometry::INODE - 160;

/// One attribute as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Attribute {
    index: u8,
    name_length: usize,
    name: Box<[u8]>,
    value: Box<[u8]>,
}

/// The attributes of an entry: at least one, in the order of a block, and known to have a place.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Xattrs(Box<[Attribute]>);

impl Xattrs {
    /// The attributes of the entry at `path`; fails if they cannot be kept.
    pub fn of(xattrs: &[(Vec<u8>, Vec<u8>)], path: &[u8]) -> Result<Option<Xattrs>, Error> {
        if xattrs.is_empty() {
            return Ok(None);
        }
        let refuse = |reason| Error::Xattrs {
            path: shown(path),
            reason,
        };
        let attributes = xattrs
            .iter()
            .map(|(name, value)| Attribute::of(name, value));
        let mut attributes: Box<[Attribute]> =
            attributes.collect::<Result<_, _>>().map_err(refuse)?;
        // The order in a block is by index, length, name; in an inode it is free.
        attributes.sort();
        let is_same =
            |pair: &[Attribute]| (pair[0].index, &pair[0].name) == (pair[1].index, &pair[1].name);
        if attributes.windows(2).any(is_same) {
            return Err(refuse("one is there twice"));
        }
        let xattrs = Xattrs(attributes);
        match xattrs.place() {
            Some(_) => Ok(Some(xattrs)),
            None => Err(refuse(
                "their names take more than an inode and a block can hold",
            )),
        }
    }

    /// Whether a value has to go into an inode of its own.
    pub fn needs_inode(&self) -> bool {
        self.place_with(&[]).is_none()
    }

    /// Bytes that they take in memory.
    pub fn memory(&self) -> u64 {
        let sizes = self.0.iter();
        let sizes = sizes.map(|one| size_of::<Attribute>() + one.name.len() + one.value.len());
        sizes.sum::<usize>() as u64
    }

    /// Divides them. The longest values go elsewhere, and only as many as must.
    fn place(&self) -> Option<Placed<'_>> {
        let names = self.0.iter().map(|one| padded(ENTRY + one.name.len()));
        if names.sum::<usize>() > IN_INODE + BLOCK {
            return None;
        }
        let mut by_length: Vec<usize> = (0..self.0.len()).collect();
        by_length.sort_by_key(|number| std::cmp::Reverse(self.0[*number].value.len()));
        (0..=by_length.len()).find_map(|apart| self.place_with(&by_length[..apart]))
    }

    /// Divides them, the values of those with these numbers apart; none if they do not fit.
    fn place_with(&self, apart: &[usize]) -> Option<Placed<'_>> {
        let mut placed = Placed::default();
        let mut left_in_inode = IN_INODE - 4 - 4;
        let mut left_in_block = BLOCK - BLOCK_HEADER - 4;
        for (number, attribute) in self.0.iter().enumerate() {
            let is_apart = apart.contains(&number) && !attribute.value.is_empty();
            let entry = PlacedEntry {
                attribute,
                value: if is_apart {
                    Value::Apart { inode: 0, hash: 0 }
                } else {
                    Value::Here
                },
            };
            let size = entry.size();
            if size <= left_in_inode {
                left_in_inode -= size;
                placed.in_inode.push(entry);
            } else if size <= left_in_block {
                left_in_block -= size;
                placed.in_block.push(entry);
            } else {
                return None;
            }
        }
        Some(placed)
    }

    /// Divides them between inode, block and inodes of their own.
    pub fn placed(&self) -> Placed<'_> {
        // It was found when the attributes were taken.
        self.place().unwrap_or_default()
    }
}

/// An entry's attributes, divided.
#[derive(Debug, Default)]
pub struct Placed<'a> {
    in_inode: Vec<PlacedEntry<'a>>,
    in_block: Vec<PlacedEntry<'a>>,
}

#[derive(Debug)]
struct PlacedEntry<'a> {
    attribute: &'a Attribute,
    value: Value,
}

/// Where a value is.
#[derive(Debug, Clone, Copy)]
enum Value {
    /// Beside its name.
    Here,
    /// In an inode of its own, which has this hash.
    Apart { inode: u32, hash: u32 },
}

impl<'a> Placed<'a> {
    /// Asks for the inode of each value that is to have one, and for its hash; returns how many
    /// blocks these inodes have, which count as the entry's own.
    pub fn put_apart(&mut self, mut inode_of: impl FnMut(&'a [u8]) -> (u32, u32)) -> u64 {
        let mut blocks = 0;
        for entry in self.in_inode.iter_mut().chain(&mut self.in_block) {
            if let Value::Apart { inode, hash } = &mut entry.value {
                let value = &entry.attribute.value;
                (*inode, *hash) = inode_of(value);
                blocks += value.len().div_ceil(BLOCK) as u64;
            }
        }
        blocks
    }

    /// Whether a block is needed.
    pub fn needs_block(&self) -> bool {
        !self.in_block.is_empty()
    }

    /// Writes what is in the inode to the end of its bytes.
    pub fn write_in_inode(&self, area: &mut [u8]) {
        if self.in_inode.is_empty() {
            return;
        }
        put_u32(area, 0, MAGIC);
        // Values are counted from the first entry.
        write_entries(&mut area[4..], 0, &self.in_inode);
    }

    /// The block, which will lie at `place`. `seed` is the file system's checksum seed.
    pub fn block(&self, place: u64, seed: u32) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        put_u32(&mut block, 0, MAGIC);
        put_u32(&mut block, 4, 1);
        put_u32(&mut block, 8, 1);
        put_u32(&mut block, 12, hash_of_block(&self.in_block));
        write_entries(&mut block, BLOCK_HEADER, &self.in_block);
        let checksum = crc(crc(seed, &place.to_le_bytes()), &block);
        put_u32(&mut block, 16, checksum);
        block
    }
}

/// Blocks of one hash may be shared; one of 0 never is, nor is one with an entry of hash 0.
fn hash_of_block(entries: &[PlacedEntry<'_>]) -> u32 {
    let hashes = entries.iter().map(PlacedEntry::hash);
    hashes
        .clone()
        .try_fold(0u32, |sum, hash| {
            (hash != 0).then(|| sum.rotate_left(16) ^ hash)
        })
        .unwrap_or(0)
}

/// Entries from the front, values from the back. Four zero bytes end the entries.
fn write_entries(area: &mut [u8], first: usize, entries: &[PlacedEntry<'_>]) {
    let (mut at, mut end) = (first, area.len());
    for entry in entries {
        let Attribute { name, value, .. } = entry.attribute;
        area[at] = name.len() as u8;
        area[at + 1] = entry.attribute.index;
        match entry.value {
            Value::Here if value.is_empty() => {}
            Value::Here => {
                end -= padded(value.len());
                area[end..end + value.len()].copy_from_slice(value);
                put_u16(area, at + 2, end as u16);
            }
            Value::Apart { inode, .. } => put_u32(area, at + 4, inode),
        }
        put_u32(area, at + 8, value.len() as u32);
        put_u32(area, at + 12, entry.hash());
        area[at + ENTRY..at + ENTRY + name.len()].copy_from_slice(name);
        at += padded(ENTRY + name.len());
    }
}

impl PlacedEntry<'_> {
    fn size(&self) -> usize {
        let name = padded(ENTRY + self.attribute.name.len());
        match self.value {
            Value::Here => name + padded(self.attribute.value.len()),
            Value::Apart { .. } => name,
        }
    }

    /// Over the name and the value, or the hash of the value's inode.
    fn hash(&self) -> u32 {
        let name = |hash: u32, byte: &u8| hash.rotate_left(5) ^ u32::from(*byte);
        let value = |hash: u32, chunk: &[u8]| {
            let mut number = [0; 4];
            number[..chunk.len()].copy_from_slice(chunk);
            hash.rotate_left(16) ^ u32::from_le_bytes(number)
        };
        let of_name = self.attribute.name.iter().fold(0, name);
        match self.value {
            Value::Here => self.attribute.value.chunks(4).fold(of_name, value),
            Value::Apart { hash, .. } => value(of_name, &hash.to_le_bytes()),
        }
    }
}

impl Attribute {
    fn of(name: &[u8], value: &[u8]) -> Result<Attribute, &'static str> {
        let (index, rest) =
            split_name(name).ok_or("the kernel knows no attribute of such a name")?;
        if rest.len() > 255 {
            return Err("a name is too long");
        }
        if value.len() > LONGEST_VALUE {
            return Err("a value has more than 64 KiB");
        }
        let is_list = matches!(index, 2 | 3);
        let value = if is_list {
            access_list(value)?
        } else {
            value.to_owned()
        };
        Ok(Attribute {
            index,
            name_length: rest.len(),
            name: rest.into(),
            value: value.into(),
        })
    }
}

/// Whether Linux has attributes of this name on ext4. Others come from other systems, as
/// `com.apple.provenance` does.
pub fn is_known_xattr(name: &[u8]) -> bool {
    split_name(name).is_some()
}

/// The number of a name's prefix, and the rest of the name.
fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((2, b"")),
        b"system.posix_acl_default" => return Some((3, b"")),
        _ => {}
    }
    let prefixes: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
    let found = prefixes
        .into_iter()
        .find_map(|(index, prefix)| Some((index, name.strip_prefix(prefix)?)));
    found.filter(|(_, rest)| !rest.is_empty())
}

/// An access control list as the disk has it (version 1, numbers only where one is meant), from
/// how programs see it (version 2, a number in every entry).
fn access_list(seen: &[u8]) -> Result<Vec<u8>, &'static str> {
    let entries = seen
        .strip_prefix(&2u32.to_le_bytes())
        .filter(|rest| rest.len().is_multiple_of(8));
    let entries = entries.ok_or("an access control list is malformed")?;
    let mut kept = 1u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let names_somebody = matches!(u16::from_le_bytes([entry[0], entry[1]]), 0x02 | 0x08);
        kept.extend_from_slice(if names_somebody { entry } else { &entry[..4] });
    }
    Ok(kept)
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}
