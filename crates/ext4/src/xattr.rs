//! Extended attributes (Documentation/filesystems/ext4/attributes.rst): in the inode as far as
//! they fit, the rest in one block.

use crate::{
    Error,
    bytes::{crc, put_u16, put_u32},
    error::shown,
    geometry::BLOCK,
};

const MAGIC: u32 = 0xea02_0000;
const ENTRY: usize = 16;
const BLOCK_HEADER: usize = 32;

/// Bytes behind an inode's fields, for attributes.
pub const IN_INODE: usize = crate::geometry::INODE - 160;

/// One attribute as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    index: u8,
    name_length: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// An entry's attributes, divided between inode and block.
#[derive(Debug, Default)]
pub struct Placed {
    in_inode: Vec<Attribute>,
    in_block: Vec<Attribute>,
}

impl Placed {
    /// Divides the attributes of the entry at `path`; fails if they do not fit.
    pub fn of(xattrs: &[(Vec<u8>, Vec<u8>)], path: &[u8]) -> Result<Placed, Error> {
        let refuse = |reason| Error::Xattrs {
            path: shown(path),
            reason,
        };
        let mut attributes = Vec::new();
        for (name, value) in xattrs {
            attributes.push(Attribute::of(name, value).map_err(refuse)?);
        }
        // The order in a block is by index, length, name; in an inode it is free.
        attributes.sort();
        let mut placed = Placed::default();
        let mut left_in_inode = IN_INODE - 4 - 4;
        let mut left_in_block = BLOCK - BLOCK_HEADER - 4;
        for attribute in attributes {
            let size = attribute.size();
            if size <= left_in_inode {
                left_in_inode -= size;
                placed.in_inode.push(attribute);
            } else if size <= left_in_block {
                left_in_block -= size;
                placed.in_block.push(attribute);
            } else {
                return Err(refuse("they take more than an inode and a block can hold"));
            }
        }
        Ok(placed)
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
        let rotate = |hash: u32, attribute: &Attribute| hash.rotate_left(16) ^ attribute.hash();
        put_u32(&mut block, 12, self.in_block.iter().fold(0, rotate));
        write_entries(&mut block, BLOCK_HEADER, &self.in_block);
        let checksum = crc(crc(seed, &place.to_le_bytes()), &block);
        put_u32(&mut block, 16, checksum);
        block
    }
}

/// Entries from the front, values from the back. Four zero bytes end the entries.
fn write_entries(area: &mut [u8], first: usize, attributes: &[Attribute]) {
    let (mut entry, mut value) = (first, area.len());
    for attribute in attributes {
        value -= padded(attribute.value.len());
        area[value..value + attribute.value.len()].copy_from_slice(&attribute.value);
        area[entry] = attribute.name.len() as u8;
        area[entry + 1] = attribute.index;
        let offset = if attribute.value.is_empty() { 0 } else { value };
        put_u16(area, entry + 2, offset as u16);
        put_u32(area, entry + 8, attribute.value.len() as u32);
        put_u32(area, entry + 12, attribute.hash());
        area[entry + ENTRY..entry + ENTRY + attribute.name.len()].copy_from_slice(&attribute.name);
        entry += padded(ENTRY + attribute.name.len());
    }
}

impl Attribute {
    fn of(name: &[u8], value: &[u8]) -> Result<Attribute, &'static str> {
        let (index, rest) =
            split_name(name).ok_or("the kernel knows no attribute of such a name")?;
        if rest.len() > 255 {
            return Err("a name is too long");
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
            name: rest.to_owned(),
            value,
        })
    }

    fn size(&self) -> usize {
        padded(ENTRY + self.name.len()) + padded(self.value.len())
    }

    fn hash(&self) -> u32 {
        let name = |hash: u32, byte: &u8| hash.rotate_left(5) ^ u32::from(*byte);
        let value = |hash: u32, chunk: &[u8]| {
            let mut number = [0; 4];
            number[..chunk.len()].copy_from_slice(chunk);
            hash.rotate_left(16) ^ u32::from_le_bytes(number)
        };
        self.value
            .chunks(4)
            .fold(self.name.iter().fold(0, name), value)
    }
}

/// The number of a name's prefix, and the rest of the name.
fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((2, b"")),
        b"system.posix_acl_default" => return Some((3, b"")),
        _ => {}
    }
    let prefixes: [(u8, &[u8]); 4] = [
        (1, b"user."),
        (4, b"trusted."),
        (6, b"security."),
        (7, b"system."),
    ];
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
