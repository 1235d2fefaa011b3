//! Extended attributes (Documentation/filesystems/ext4/attributes.rst). They are stored in the
//! inode as far as they fit, then in one block. Values that fit into neither are stored in inodes
//! of their own (feature `ea_inode`).

use crate::{
    WriteError,
    bytes::{crc, get_u16, get_u32, put_u16, put_u32},
    error::shown,
    geometry::{BLOCK, EXTRA_ISIZE, INODE},
    layout::{
        E_HASH, E_NAME, E_NAME_INDEX, E_NAME_LEN, E_VALUE_INUM, E_VALUE_OFFS, E_VALUE_SIZE,
        EXT4_GOOD_OLD_INODE_SIZE, EXT4_NAME_LEN, EXT4_XATTR_INDEX_POSIX_ACL_ACCESS,
        EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT, EXT4_XATTR_INDEX_SECURITY, EXT4_XATTR_INDEX_TRUSTED,
        EXT4_XATTR_INDEX_USER, EXT4_XATTR_MAGIC, H_BLOCKS, H_CHECKSUM, H_HASH, H_MAGIC, H_REFCOUNT,
        XATTR_HEADER_SIZE, XATTR_IBODY_HEADER_SIZE,
    },
    xattr_values::ValueId,
};

/// Size of the largest value that Linux accepts.
const XATTR_SIZE_MAX: usize = 65536;

/// Tags of access control list entries with an id.
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;

/// Bytes for attributes after an inode's fields.
const SIZE_IN_INODE: usize = INODE - EXT4_GOOD_OLD_INODE_SIZE - EXTRA_ISIZE as usize;

/// Bytes of zeroes after the last entry.
const END_SIZE: usize = 4;

/// One attribute. The derived order, by index, length and name, is that of a block.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    index: u8,
    name_length: u8,
    /// Name without its prefix.
    name: Box<[u8]>,
    value: Value,
}

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    /// In the inode or block that contains the name.
    Inline(Box<[u8]>),
    /// In an inode of its own, with the size in bytes.
    InInode(ValueId, u32),
}

/// Attributes of a node, in the order of a block. They are known to fit.
#[derive(Debug, Default)]
pub(crate) struct Xattrs(Vec<Attribute>);

impl Xattrs {
    /// Checks and encodes attributes. `path` is only used in errors. `store_value` is called for
    /// values that need inodes of their own: the largest ones, and no more than necessary.
    pub(crate) fn new(
        xattrs: &[(Vec<u8>, Vec<u8>)],
        path: &[u8],
        mut store_value: impl FnMut(&[u8]) -> Result<ValueId, WriteError>,
    ) -> Result<Xattrs, WriteError> {
        let error = |reason| WriteError::Xattrs {
            path: shown(path),
            reason,
        };
        let attributes = xattrs
            .iter()
            .map(|(name, value)| Attribute::new(name, value));
        let mut attributes: Vec<Attribute> = attributes.collect::<Result<_, _>>().map_err(error)?;
        // Required in a block, which the kernel searches in this order; not in an inode.
        attributes.sort();
        let is_same =
            |pair: &[Attribute]| (pair[0].index, &pair[0].name) == (pair[1].index, &pair[1].name);
        if attributes.windows(2).any(is_same) {
            return Err(error("an attribute is given twice"));
        }
        let names = attributes
            .iter()
            .map(|attribute| padded(E_NAME + attribute.name.len()));
        let too_large = "the names exceed the space in an inode and a block";
        // Bounds the work below: each round places all attributes again.
        if names.sum::<usize>() > SIZE_IN_INODE + BLOCK {
            return Err(error(too_large));
        }
        let mut by_length: Vec<usize> = (0..attributes.len()).collect();
        by_length.sort_by_key(|number| std::cmp::Reverse(attributes[*number].value.length()));
        let mut sizes: Vec<usize> = attributes.iter().map(Attribute::size).collect();
        let mut by_length = by_length.into_iter();
        while distribute(&sizes).is_none() {
            let longest = by_length.next().ok_or_else(|| error(too_large))?;
            let attribute = &mut attributes[longest];
            if let Value::Inline(bytes) = &attribute.value
                && !bytes.is_empty()
            {
                attribute.value = Value::InInode(store_value(bytes)?, bytes.len() as u32);
            }
            sizes[longest] = attribute.size();
        }
        Ok(Xattrs(attributes))
    }

    /// Returns the values that have inodes of their own.
    pub(crate) fn value_ids(&self) -> impl Iterator<Item = ValueId> {
        self.0.iter().filter_map(|attribute| match attribute.value {
            Value::Inline(_) => None,
            Value::InInode(id, _) => Some(id),
        })
    }

    /// Appends the attributes to `bytes` in a form of the writer's own, which is not ext4's.
    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        for attribute in &self.0 {
            bytes.extend_from_slice(&[attribute.index, attribute.name_length]);
            bytes.extend_from_slice(&attribute.name);
            match &attribute.value {
                Value::Inline(value) => {
                    bytes.push(0);
                    bytes.extend_from_slice(&(value.len() as u16).to_le_bytes());
                    bytes.extend_from_slice(value);
                }
                Value::InInode(id, length) => {
                    bytes.push(1);
                    bytes.extend_from_slice(&id.to_le_bytes());
                    bytes.extend_from_slice(&length.to_le_bytes());
                }
            }
        }
    }

    /// Decodes the bytes that [`write`](Self::write) appended.
    pub(crate) fn read(mut bytes: &[u8]) -> Xattrs {
        let mut attributes = Vec::new();
        while let [index, name_length, rest @ ..] = bytes {
            let (name, rest) = rest.split_at(usize::from(*name_length));
            let (is_in_inode, rest) = (rest[0] == 1, &rest[1..]);
            let value = if is_in_inode {
                bytes = &rest[8..];
                Value::InInode(get_u32(rest, 0), get_u32(rest, 4))
            } else {
                let (value, after) = rest[2..].split_at(usize::from(get_u16(rest, 0)));
                bytes = after;
                Value::Inline(value.into())
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

    /// Distributes the attributes over inode and block. `inode_and_hash` returns both for a value
    /// that has an inode of its own.
    pub(crate) fn place<E>(
        &self,
        mut inode_and_hash: impl FnMut(ValueId) -> Result<(u32, u32), E>,
    ) -> Result<XattrPlacement<'_>, E> {
        let sizes: Vec<usize> = self.0.iter().map(Attribute::size).collect();
        // Never absent: `new` checked that they fit.
        let are_in_inode = distribute(&sizes).unwrap_or_default();
        let mut placement = XattrPlacement::default();
        for (attribute, is_in_inode) in self.0.iter().zip(are_in_inode) {
            let value_inode = match attribute.value {
                Value::Inline(_) => None,
                Value::InInode(id, length) => {
                    placement.value_blocks += u64::from(length).div_ceil(BLOCK as u64);
                    Some(inode_and_hash(id)?)
                }
            };
            let entry = PlacedXattr {
                attribute,
                value_inode,
            };
            if is_in_inode {
                placement.in_inode.push(entry);
            } else {
                placement.in_block.push(entry);
            }
        }
        Ok(placement)
    }
}

/// Returns for each attribute size whether the attribute is in the inode (`true`) or in the block.
/// Returns `None` when they do not fit.
fn distribute(sizes: &[usize]) -> Option<Vec<bool>> {
    let mut left_in_inode = SIZE_IN_INODE - XATTR_IBODY_HEADER_SIZE - END_SIZE;
    let mut left_in_block = BLOCK - XATTR_HEADER_SIZE - END_SIZE;
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

/// Attributes of a node, distributed over inode and block.
#[derive(Debug, Default)]
pub(crate) struct XattrPlacement<'a> {
    in_inode: Vec<PlacedXattr<'a>>,
    in_block: Vec<PlacedXattr<'a>>,
    /// Number of blocks of the values that have inodes of their own.
    pub value_blocks: u64,
}

#[derive(Debug)]
struct PlacedXattr<'a> {
    attribute: &'a Attribute,
    /// Inode and hash of the value, if it has an inode of its own.
    value_inode: Option<(u32, u32)>,
}

impl XattrPlacement<'_> {
    /// Returns whether some attributes do not fit into the inode.
    pub(crate) fn needs_block(&self) -> bool {
        !self.in_block.is_empty()
    }

    /// Writes the attributes in the inode. `area` is the part of the inode after its fields.
    pub(crate) fn put_in_inode(&self, area: &mut [u8]) {
        if self.in_inode.is_empty() {
            return;
        }
        put_u32(area, H_MAGIC, EXT4_XATTR_MAGIC);
        // Offsets of values are relative to the first entry, here after the header.
        put_entries(&mut area[XATTR_IBODY_HEADER_SIZE..], 0, &self.in_inode);
    }

    /// Encodes the block, whose number is part of its checksum. `seed` is the file system's
    /// checksum seed.
    pub(crate) fn encode_block(&self, number: u64, seed: u32) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        put_u32(&mut block, H_MAGIC, EXT4_XATTR_MAGIC);
        put_u32(&mut block, H_REFCOUNT, 1);
        put_u32(&mut block, H_BLOCKS, 1);
        put_u32(&mut block, H_HASH, hash_of_block(&self.in_block));
        put_entries(&mut block, XATTR_HEADER_SIZE, &self.in_block);
        let checksum = crc(crc(seed, &number.to_le_bytes()), &block);
        put_u32(&mut block, H_CHECKSUM, checksum);
        block
    }
}

/// Returns `h_hash`, by which the kernel finds equal blocks to share. 0 means that the block is not
/// shared; it must be 0 if an entry's hash is 0.
fn hash_of_block(entries: &[PlacedXattr<'_>]) -> u32 {
    let hashes = entries.iter().map(PlacedXattr::hash);
    hashes
        .clone()
        .try_fold(0u32, |sum, hash| {
            (hash != 0).then(|| sum.rotate_left(16) ^ hash)
        })
        .unwrap_or(0)
}

/// Writes entries from `first` on, and their values from the end of `area` backwards.
fn put_entries(area: &mut [u8], first: usize, entries: &[PlacedXattr<'_>]) {
    let (mut at, mut end) = (first, area.len());
    for entry in entries {
        let Attribute { name, value, .. } = entry.attribute;
        area[at + E_NAME_LEN] = name.len() as u8;
        area[at + E_NAME_INDEX] = entry.attribute.index;
        match value {
            Value::Inline(value) if value.is_empty() => {}
            Value::Inline(value) => {
                end -= padded(value.len());
                area[end..end + value.len()].copy_from_slice(value);
                put_u16(area, at + E_VALUE_OFFS, end as u16);
            }
            Value::InInode(..) => {
                let inode = entry.value_inode.map_or(0, |(inode, _)| inode);
                put_u32(area, at + E_VALUE_INUM, inode);
            }
        }
        put_u32(area, at + E_VALUE_SIZE, value.length());
        put_u32(area, at + E_HASH, entry.hash());
        area[at + E_NAME..][..name.len()].copy_from_slice(name);
        at += padded(E_NAME + name.len());
    }
}

impl PlacedXattr<'_> {
    /// Returns `e_hash`, the hash of the name and the value. For a value with an inode of its own,
    /// that inode's hash takes the place of the value.
    fn hash(&self) -> u32 {
        let name = |hash: u32, byte: &u8| hash.rotate_left(5) ^ u32::from(*byte);
        let value = |hash: u32, chunk: &[u8]| {
            let mut number = [0; 4];
            number[..chunk.len()].copy_from_slice(chunk);
            hash.rotate_left(16) ^ u32::from_le_bytes(number)
        };
        let name_hash = self.attribute.name.iter().fold(0, name);
        match (&self.attribute.value, self.value_inode) {
            (_, Some((_, hash))) => value(name_hash, &hash.to_le_bytes()),
            (Value::Inline(bytes), None) => bytes.chunks(4).fold(name_hash, value),
            (Value::InInode(..), None) => name_hash,
        }
    }
}

impl Value {
    fn length(&self) -> u32 {
        match self {
            Value::Inline(value) => value.len() as u32,
            Value::InInode(_, length) => *length,
        }
    }
}

impl Attribute {
    fn new(name: &[u8], value: &[u8]) -> Result<Attribute, &'static str> {
        let (index, rest) =
            split_name(name).ok_or("a name has no prefix that Linux supports on ext4")?;
        if rest.len() > EXT4_NAME_LEN {
            return Err("a name is longer than 255 bytes");
        }
        if value.len() > XATTR_SIZE_MAX {
            return Err("a value is larger than 64 KiB");
        }
        let is_acl = matches!(
            index,
            EXT4_XATTR_INDEX_POSIX_ACL_ACCESS | EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT
        );
        let value = if is_acl {
            encode_acl(value)?
        } else {
            value.to_owned()
        };
        Ok(Attribute {
            index,
            name_length: rest.len() as u8,
            name: rest.into(),
            value: Value::Inline(value.into()),
        })
    }

    /// Returns the number of bytes in an inode or block.
    fn size(&self) -> usize {
        let name = padded(E_NAME + self.name.len());
        match &self.value {
            Value::Inline(value) => name + padded(value.len()),
            Value::InInode(..) => name,
        }
    }
}

/// Returns whether Linux supports extended attributes of this name on ext4. Image layers may
/// contain others, from other systems, such as `com.apple.provenance`.
pub fn is_known_xattr(name: &[u8]) -> bool {
    split_name(name).is_some()
}

/// Returns `e_name_index` of a name's prefix, and the rest of the name.
fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((EXT4_XATTR_INDEX_POSIX_ACL_ACCESS, b"")),
        b"system.posix_acl_default" => return Some((EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT, b"")),
        _ => {}
    }
    let prefixes: [(u8, &[u8]); 3] = [
        (EXT4_XATTR_INDEX_USER, b"user."),
        (EXT4_XATTR_INDEX_TRUSTED, b"trusted."),
        (EXT4_XATTR_INDEX_SECURITY, b"security."),
    ];
    let found = prefixes
        .into_iter()
        .find_map(|(index, prefix)| Some((index, name.strip_prefix(prefix)?)));
    found.filter(|(_, rest)| !rest.is_empty())
}

/// Converts a POSIX access control list from the form of the system call (version 2, an id in every
/// entry) to the form on disk (version 1, ids only of named users and groups).
fn encode_acl(acl: &[u8]) -> Result<Vec<u8>, &'static str> {
    let entries = acl
        .strip_prefix(&2u32.to_le_bytes())
        .filter(|rest| rest.len().is_multiple_of(8));
    let entries = entries.ok_or("an access control list is malformed")?;
    let mut encoded = 1u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let has_id = matches!(tag, ACL_USER | ACL_GROUP);
        encoded.extend_from_slice(if has_id { entry } else { &entry[..4] });
    }
    Ok(encoded)
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}
