//! Extended attributes (Documentation/filesystems/ext4/attributes.rst): in the inode as far as
//! they fit, then in one block, and values for which neither has room in inodes of their own
//! (`ea_inode`).

use crate::{
    Error,
    bytes::{crc, get_u16, get_u32, put_u16, put_u32},
    error::shown,
    geometry::BLOCK,
    values::ValueId,
};

const MAGIC: u32 = 0xea02_0000;
const ENTRY: usize = 16;
const BLOCK_HEADER: usize = 32;

/// The longest value that Linux lets a program set (`XATTR_SIZE_MAX`).
const LONGEST_VALUE: usize = 65536;

/// Bytes behind an inode's fields, for attributes.
pub const IN_INODE: usize = crate::geometry::INODE - 160;

/// One attribute.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    index: u8,
    name_length: u8,
    name: Box<[u8]>,
    value: Value,
}

/// An attribute's value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    /// Beside the name.
    Here(Box<[u8]>),
    /// In an inode of its own: which one, and how many bytes.
    Apart(ValueId, u32),
}

/// The attributes of an entry in the order of a block, and known to have a place.
#[derive(Debug, Default)]
pub struct Xattrs(Vec<Attribute>);

impl Xattrs {
    /// The attributes of the entry at `path`; fails if they cannot be kept. `put_apart` gets the
    /// values that need inodes of their own: the longest, and only as many as must.
    pub fn of(
        xattrs: &[(Vec<u8>, Vec<u8>)],
        path: &[u8],
        mut put_apart: impl FnMut(&[u8]) -> Result<ValueId, Error>,
    ) -> Result<Xattrs, Error> {
        let refuse = |reason| Error::Xattrs {
            path: shown(path),
            reason,
        };
        let attributes = xattrs
            .iter()
            .map(|(name, value)| Attribute::of(name, value));
        let mut attributes: Vec<Attribute> =
            attributes.collect::<Result<_, _>>().map_err(refuse)?;
        // The order in a block is by index, length, name; in an inode it is free.
        attributes.sort();
        let is_same =
            |pair: &[Attribute]| (pair[0].index, &pair[0].name) == (pair[1].index, &pair[1].name);
        if attributes.windows(2).any(is_same) {
            return Err(refuse("one is there twice"));
        }
        let names = attributes.iter().map(|one| padded(ENTRY + one.name.len()));
        let no_room = "their names take more than an inode and a block can hold";
        if names.sum::<usize>() > IN_INODE + BLOCK {
            return Err(refuse(no_room));
        }
        let mut by_length: Vec<usize> = (0..attributes.len()).collect();
        by_length.sort_by_key(|number| std::cmp::Reverse(attributes[*number].value.length()));
        let mut sizes: Vec<usize> = attributes.iter().map(Attribute::size).collect();
        let mut by_length = by_length.into_iter();
        while divide(&sizes).is_none() {
            let longest = by_length.next().ok_or_else(|| refuse(no_room))?;
            let attribute = &mut attributes[longest];
            if let Value::Here(bytes) = &attribute.value
                && !bytes.is_empty()
            {
                attribute.value = Value::Apart(put_apart(bytes)?, bytes.len() as u32);
            }
            sizes[longest] = attribute.size();
        }
        Ok(Xattrs(attributes))
    }

    /// The values that have inodes of their own.
    pub fn apart(&self) -> impl Iterator<Item = ValueId> {
        self.0.iter().filter_map(|attribute| match attribute.value {
            Value::Here(_) => None,
            Value::Apart(id, _) => Some(id),
        })
    }

    /// Adds them to bytes from which [`read`](Self::read) makes them again.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        for attribute in &self.0 {
            bytes.extend_from_slice(&[attribute.index, attribute.name_length]);
            bytes.extend_from_slice(&attribute.name);
            match &attribute.value {
                Value::Here(value) => {
                    bytes.push(0);
                    bytes.extend_from_slice(&(value.len() as u16).to_le_bytes());
                    bytes.extend_from_slice(value);
                }
                Value::Apart(id, length) => {
                    bytes.push(1);
                    bytes.extend_from_slice(&id.to_le_bytes());
                    bytes.extend_from_slice(&length.to_le_bytes());
                }
            }
        }
    }

    /// Reads all of what was written.
    pub fn read(mut bytes: &[u8]) -> Xattrs {
        let mut attributes = Vec::new();
        while let [index, name_length, rest @ ..] = bytes {
            let (name, rest) = rest.split_at(usize::from(*name_length));
            let (is_apart, rest) = (rest[0] == 1, &rest[1..]);
            let value = if is_apart {
                bytes = &rest[8..];
                Value::Apart(get_u32(rest, 0), get_u32(rest, 4))
            } else {
                let (value, after) = rest[2..].split_at(usize::from(get_u16(rest, 0)));
                bytes = after;
                Value::Here(value.into())
            };
            attributes.push(Attribute {
                index: *index,
                name_length: *name_length,
                name: name.into(),
                value,
            });
        }
        Xattrs(attributes)
    }

    /// Divides them between inode and block. `place` tells the inode and the hash of a value that
    /// is apart.
    pub fn placed<E>(
        &self,
        mut place: impl FnMut(ValueId) -> Result<(u32, u32), E>,
    ) -> Result<Placed<'_>, E> {
        let sizes: Vec<usize> = self.0.iter().map(Attribute::size).collect();
        // It was seen when the attributes were taken that there is room.
        let are_in_inode = divide(&sizes).unwrap_or_default();
        let mut placed = Placed::default();
        for (attribute, is_in_inode) in self.0.iter().zip(are_in_inode) {
            let apart = match attribute.value {
                Value::Here(_) => None,
                Value::Apart(id, length) => {
                    placed.blocks_apart += u64::from(length).div_ceil(BLOCK as u64);
                    Some(place(id)?)
                }
            };
            let entry = PlacedEntry { attribute, apart };
            if is_in_inode {
                placed.in_inode.push(entry);
            } else {
                placed.in_block.push(entry);
            }
        }
        Ok(placed)
    }
}

/// Whether each of attributes with these sizes is in the inode, or else in the block; none if
/// there is not room for all of them.
fn divide(sizes: &[usize]) -> Option<Vec<bool>> {
    let mut left_in_inode = IN_INODE - 4 - 4;
    let mut left_in_block = BLOCK - BLOCK_HEADER - 4;
    let mut is_in_inode = |size: &usize| {
        if *size <= left_in_inode {
            left_in_inode -= size;
            Some(true)
        } else {
            left_in_block = left_in_block.checked_sub(*size)?;
            Some(false)
        }
    };
    sizes.iter().map(&mut is_in_inode).collect()
}

/// An entry's attributes, divided.
#[derive(Debug, Default)]
pub struct Placed<'a> {
    in_inode: Vec<PlacedEntry<'a>>,
    in_block: Vec<PlacedEntry<'a>>,
    /// How many blocks the inodes of values have, which count as the entry's own.
    pub blocks_apart: u64,
}

#[derive(Debug)]
struct PlacedEntry<'a> {
    attribute: &'a Attribute,
    /// The inode and the hash of a value that is apart.
    apart: Option<(u32, u32)>,
}

impl Placed<'_> {
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
        match value {
            Value::Here(value) if value.is_empty() => {}
            Value::Here(value) => {
                end -= padded(value.len());
                area[end..end + value.len()].copy_from_slice(value);
                put_u16(area, at + 2, end as u16);
            }
            Value::Apart(..) => {
                let inode = entry.apart.map_or(0, |(inode, _)| inode);
                put_u32(area, at + 4, inode);
            }
        }
        put_u32(area, at + 8, value.length());
        put_u32(area, at + 12, entry.hash());
        area[at + ENTRY..at + ENTRY + name.len()].copy_from_slice(name);
        at += padded(ENTRY + name.len());
    }
}

impl PlacedEntry<'_> {
    /// Over the name and the value, or the hash of the value's inode.
    fn hash(&self) -> u32 {
        let name = |hash: u32, byte: &u8| hash.rotate_left(5) ^ u32::from(*byte);
        let value = |hash: u32, chunk: &[u8]| {
            let mut number = [0; 4];
            number[..chunk.len()].copy_from_slice(chunk);
            hash.rotate_left(16) ^ u32::from_le_bytes(number)
        };
        let of_name = self.attribute.name.iter().fold(0, name);
        match (&self.attribute.value, self.apart) {
            (_, Some((_, hash))) => value(of_name, &hash.to_le_bytes()),
            (Value::Here(bytes), None) => bytes.chunks(4).fold(of_name, value),
            (Value::Apart(..), None) => of_name,
        }
    }
}

impl Value {
    fn length(&self) -> u32 {
        match self {
            Value::Here(value) => value.len() as u32,
            Value::Apart(_, length) => *length,
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
            name_length: rest.len() as u8,
            name: rest.into(),
            value: Value::Here(value.into()),
        })
    }

    /// Bytes that it takes in an inode or a block.
    fn size(&self) -> usize {
        let name = padded(ENTRY + self.name.len());
        match &self.value {
            Value::Here(value) => name + padded(value.len()),
            Value::Apart(..) => name,
        }
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
