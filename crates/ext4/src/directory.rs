//! Directories on disk (Documentation/filesystems/ext4/directory.rst): one block of entries, or
//! blocks in the order of their names' hashes under an index.

use crate::{
    Error,
    blocks::Blocks,
    bytes::{crc, put_u16, put_u32},
    extents::{Extents, Run},
    geometry::BLOCK,
    hash::name_hash,
};

/// Bytes of a block that entries may take: a false entry with the checksum is at its end.
const ROOM: usize = BLOCK - TAIL;
const TAIL: usize = 12;
/// Index entries in the root: behind `.`, `..` and the index's own fields; the last is the
/// checksum's.
const IN_ROOT: usize = (BLOCK - ROOT_FIRST) / INDEX_ENTRY - 1;
const ROOT_FIRST: usize = 32;
/// Index entries in a node below the root.
const IN_NODE: usize = (BLOCK - NODE_FIRST) / INDEX_ENTRY - 1;
const NODE_FIRST: usize = 8;
const INDEX_ENTRY: usize = 8;
/// Half MD4; the superblock says that its characters are unsigned.
pub const HASH_VERSION: u8 = 1;
const KIND_DIRECTORY: u8 = 2;

/// One entry.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its inode.
    pub inode: u32,
    /// What it is, as directories say it.
    pub kind: u8,
}

/// A directory that has been written.
#[derive(Debug)]
pub struct Written {
    /// Where its blocks are.
    pub extents: Extents,
    /// How many.
    pub blocks: u32,
    /// Whether it has an index.
    pub is_indexed: bool,
}

/// What the directory's blocks depend on.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Its own inode.
    pub inode: u32,
    /// The inode of the directory it is in.
    pub parent: u32,
    /// Its inode's checksum seed.
    pub seed: u32,
    /// The file system's hash seed.
    pub hash_seed: &'a [u32; 4],
}

/// Writes a directory with these entries; none if there are too many.
pub fn write(
    blocks: &mut Blocks,
    identity: Identity<'_>,
    entries: &[Entry<'_>],
) -> Result<Option<Written>, Error> {
    let dots = [(&b"."[..], identity.inode), (b"..", identity.parent)];
    let dots = dots.map(|(name, inode)| Entry {
        name,
        inode,
        kind: KIND_DIRECTORY,
    });
    let size: usize = dots.iter().chain(entries).map(size_of_entry).sum();
    let contents = if size <= ROOM {
        vec![leaf(dots.iter().chain(entries), identity.seed)]
    } else {
        match indexed(identity, entries) {
            Some(contents) => contents,
            None => return Ok(None),
        }
    };
    let mut extents = Extents::default();
    for (logical, block) in contents.iter().enumerate() {
        let start = blocks.append(block)?;
        extents.push(logical as u32, Run { start, count: 1 });
    }
    Ok(Some(Written {
        extents,
        blocks: contents.len() as u32,
        is_indexed: size > ROOM,
    }))
}

fn size_of_entry(entry: &Entry<'_>) -> usize {
    8 + entry.name.len().next_multiple_of(4)
}

/// A block of entries; the last one takes what is left.
fn leaf<'a>(entries: impl Iterator<Item = &'a Entry<'a>>, seed: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let (mut at, mut last) = (0, 0);
    for entry in entries {
        put_entry(&mut block, at, entry, size_of_entry(entry));
        last = at;
        at += size_of_entry(entry);
    }
    put_u16(&mut block, last + 4, (ROOM - last) as u16);
    // The false entry: no inode, a kind that does not exist.
    put_u16(&mut block, ROOM + 4, TAIL as u16);
    block[ROOM + 7] = 0xde;
    let checksum = crc(seed, &block[..ROOM]);
    put_u32(&mut block, ROOM + 8, checksum);
    block
}

fn put_entry(block: &mut [u8], at: usize, entry: &Entry<'_>, length: usize) {
    put_u32(block, at, entry.inode);
    put_u16(block, at + 4, length as u16);
    block[at + 6] = entry.name.len() as u8;
    block[at + 7] = entry.kind;
    block[at + 8..at + 8 + entry.name.len()].copy_from_slice(entry.name);
}

/// An entry of the index: names from this hash on are in this block.
#[derive(Debug, Clone, Copy)]
struct IndexEntry {
    hash: u32,
    block: u32,
}

/// The root of the index, the leaves, and, where the root has no room for all of them, nodes
/// between; none if these are too many as well.
fn indexed(identity: Identity<'_>, entries: &[Entry<'_>]) -> Option<Vec<Vec<u8>>> {
    let mut hashed: Vec<_> = entries
        .iter()
        .map(|entry| (name_hash(entry.name, identity.hash_seed), entry))
        .collect();
    hashed.sort_by(|(hash, entry), (other_hash, other)| {
        (hash, entry.name).cmp(&(other_hash, other.name))
    });

    // The root is written last and comes first.
    let mut contents = vec![Vec::new()];
    let mut index = Vec::new();
    let mut rest = &hashed[..];
    let mut previous = None;
    while let Some((first, _)) = rest.first() {
        let mut room = ROOM;
        let fits = |(_, entry): &&(_, &Entry<'_>)| {
            let size = size_of_entry(entry);
            let has_room = size <= room;
            room = room.saturating_sub(size);
            has_room
        };
        let count = rest.iter().take_while(fits).count();
        let (now, later) = rest.split_at(count);
        // The lowest bit says that names of this hash are in the block before, too.
        let continues = u32::from(previous == Some(first.major));
        index.push(IndexEntry {
            hash: first.major | continues,
            block: contents.len() as u32,
        });
        previous = now.last().map(|(hash, _)| hash.major);
        contents.push(leaf(now.iter().map(|(_, entry)| *entry), identity.seed));
        rest = later;
    }
    let has_nodes = index.len() > IN_ROOT;
    if has_nodes {
        let mut above = Vec::new();
        for entries in index.chunks(IN_NODE) {
            above.push(IndexEntry {
                hash: entries[0].hash,
                block: contents.len() as u32,
            });
            contents.push(node(identity.seed, entries));
        }
        index = above;
    }
    if index.len() > IN_ROOT {
        return None;
    }
    contents[0] = root(identity, &index, u8::from(has_nodes));
    Some(contents)
}

fn root(identity: Identity<'_>, index: &[IndexEntry], levels: u8) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let dot = |name, inode| Entry {
        name,
        inode,
        kind: KIND_DIRECTORY,
    };
    put_entry(&mut block, 0, &dot(b".", identity.inode), 12);
    put_entry(&mut block, 12, &dot(b"..", identity.parent), BLOCK - 12);
    block[28] = HASH_VERSION;
    block[29] = 8;
    block[30] = levels;
    put_index(&mut block, ROOT_FIRST, IN_ROOT, index, identity.seed);
    block
}

fn node(seed: u32, index: &[IndexEntry]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    put_u16(&mut block, 4, BLOCK as u16);
    put_index(&mut block, NODE_FIRST, IN_NODE, index, seed);
    block
}

/// Index entries from `first` on; the first one's hash is where limit and count are.
fn put_index(block: &mut [u8], first: usize, most: usize, index: &[IndexEntry], seed: u32) {
    for (number, entry) in index.iter().enumerate() {
        let at = first + number * INDEX_ENTRY;
        put_u32(block, at, entry.hash);
        put_u32(block, at + 4, entry.block);
    }
    put_u16(block, first, most as u16);
    put_u16(block, first + 2, index.len() as u16);
    let used = first + index.len() * INDEX_ENTRY;
    let tail = first + most * INDEX_ENTRY;
    let checksum = crc(
        crc(crc(seed, &block[..used]), &block[tail..tail + 4]),
        &[0; 4],
    );
    put_u32(block, tail + 4, checksum);
}
