//! Directories on disk (Documentation/filesystems/ext4/directory.rst): one block of entries, or
//! blocks in the order of their names' hashes under an index.

use std::ops::Range;

use crate::{
    Error,
    blocks::Blocks,
    bytes::{crc, put_u16, put_u32},
    extents::{Extents, Span},
    geometry::BLOCK,
    inode::FileType,
    tree::{Named, NodeId, Tree},
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

/// Bytes that entries of a large directory take in memory which are put in order at once.
const AT_ONCE: usize = 16 << 20;

/// One entry.
struct Entry<'a> {
    name: &'a [u8],
    inode: u32,
    kind: u8,
}

impl Entry<'_> {
    fn size(&self) -> usize {
        size_of_entry(self.name.len())
    }
}

fn size_of_entry(name: usize) -> usize {
    8 + name.next_multiple_of(4)
}

/// A directory that has been written.
#[derive(Debug)]
pub struct Written {
    /// Where its blocks are.
    pub stored: Span,
    /// How many.
    pub blocks: u32,
    /// Whether it has an index.
    pub is_indexed: bool,
}

/// What the directory's blocks depend on.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Its node.
    pub id: NodeId,
    /// Its own inode.
    pub inode: u32,
    /// The inode of the directory it is in.
    pub parent: u32,
    /// Its inode's checksum seed.
    pub seed: u32,
}

impl Identity {
    fn dots(&self) -> [Entry<'static>; 2] {
        [(&b"."[..], self.inode), (b"..", self.parent)].map(|(name, inode)| Entry {
            name,
            inode,
            kind: FileType::DIRECTORY.kind,
        })
    }
}

/// Writes a directory with its entries in the tree; none if there are too many.
pub fn write(
    blocks: &mut Blocks,
    extents: &mut Extents,
    tree: &mut Tree,
    identity: Identity,
) -> Result<Option<Written>, Error> {
    let mut size: usize = identity.dots().iter().map(Entry::size).sum();
    let (mut names, mut found) = (Vec::new(), Vec::new());
    let mut entries = tree.entries_of(identity.id)?;
    while size <= ROOM
        && let Some(named) = tree.next(&mut entries)?
    {
        size += size_of_entry(named.entry.name.length());
        found.push(Found::of(named, tree, &mut names)?);
    }
    let output = Output {
        stored: extents.begin(),
        count: 0,
        blocks,
        extents,
    };
    if size > ROOM {
        return indexed(output, tree, identity);
    }
    let mut leaf = Leaf::new();
    for dot in identity.dots() {
        leaf.add(&dot);
    }
    for one in found.iter().rev() {
        leaf.add(&one.entry(&names));
    }
    output.whole(&leaf.end(identity.seed)).map(Some)
}

/// Where a directory's blocks go.
struct Output<'a> {
    blocks: &'a mut Blocks,
    extents: &'a mut Extents,
    stored: Span,
    count: u32,
}

impl Output<'_> {
    /// Writes the next block; returns its place in the directory.
    fn append(&mut self, block: &[u8]) -> Result<u32, Error> {
        let (place, start) = self.take()?;
        self.blocks.write(start, block)?;
        Ok(place)
    }

    /// Takes the next block, which is yet to be written; returns its place in the directory and
    /// on the disk.
    fn take(&mut self) -> Result<(u32, u64), Error> {
        let place = self.count;
        let run = self.blocks.allocate(1)?;
        self.extents.push(&mut self.stored, place, run)?;
        self.count += 1;
        Ok((place, run.start))
    }

    /// A directory of this block alone.
    fn whole(mut self, block: &[u8]) -> Result<Written, Error> {
        self.append(block)?;
        Ok(self.written(false))
    }

    fn written(self, is_indexed: bool) -> Written {
        Written {
            stored: self.stored,
            blocks: self.count,
            is_indexed,
        }
    }
}

/// A block of entries.
struct Leaf {
    block: Vec<u8>,
    last: usize,
    end: usize,
}

impl Leaf {
    fn new() -> Leaf {
        Leaf {
            block: vec![0; BLOCK],
            last: 0,
            end: 0,
        }
    }

    fn has_room(&self, entry: &Entry<'_>) -> bool {
        self.end + entry.size() <= ROOM
    }

    fn add(&mut self, entry: &Entry<'_>) {
        put_entry(&mut self.block, self.end, entry, entry.size());
        self.last = self.end;
        self.end += entry.size();
    }

    /// The block. The last entry takes what is left.
    fn end(mut self, seed: u32) -> Vec<u8> {
        put_u16(&mut self.block, self.last + 4, (ROOM - self.last) as u16);
        // The false entry: no inode, a kind that does not exist.
        put_u16(&mut self.block, ROOM + 4, TAIL as u16);
        self.block[ROOM + 7] = 0xde;
        let checksum = crc(seed, &self.block[..ROOM]);
        put_u32(&mut self.block, ROOM + 8, checksum);
        self.block
    }
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

/// Writes the root of the index, the leaves, and, where the root has no room for all of them,
/// nodes between; none if these are too many as well.
fn indexed(
    mut output: Output<'_>,
    tree: &mut Tree,
    identity: Identity,
) -> Result<Option<Written>, Error> {
    // It comes first and is written last.
    let (_, root_at) = output.take()?;
    let mut index = Vec::new();
    // A leaf, and from which hash on it has the names.
    let mut leaf: Option<(u32, Leaf)> = None;
    let mut previous = None;
    let parts = parts(tree, identity.id)?;
    for part in 0..parts {
        let (names, found) = in_order(tree, identity.id, part, parts)?;
        for one in found {
            let entry = one.entry(&names);
            if let Some((hash, full)) = leaf.take_if(|(_, leaf)| !leaf.has_room(&entry)) {
                let block = output.append(&full.end(identity.seed))?;
                index.push(IndexEntry { hash, block });
            }
            if index.len() == IN_ROOT * IN_NODE {
                return Ok(None);
            }
            // The lowest bit says that names of this hash are in the block before, too.
            let continues = u32::from(previous == Some(one.hash));
            let (_, leaf) = leaf.get_or_insert_with(|| (one.hash | continues, Leaf::new()));
            leaf.add(&entry);
            previous = Some(one.hash);
        }
    }
    if let Some((hash, last)) = leaf {
        let block = output.append(&last.end(identity.seed))?;
        index.push(IndexEntry { hash, block });
    }
    let has_nodes = index.len() > IN_ROOT;
    if has_nodes {
        let mut above = Vec::new();
        for entries in index.chunks(IN_NODE) {
            above.push(IndexEntry {
                hash: entries[0].hash,
                block: output.append(&node(identity.seed, entries))?,
            });
        }
        index = above;
    }
    let root = root(identity, &index, u8::from(has_nodes));
    output.blocks.write(root_at, &root)?;
    Ok(Some(output.written(true)))
}

/// In how many parts a directory's entries are put in order.
fn parts(tree: &mut Tree, directory: NodeId) -> Result<u64, Error> {
    let mut bytes = 0;
    let mut entries = tree.entries_of(directory)?;
    while let Some(named) = tree.next(&mut entries)? {
        bytes += size_of::<Found>() + named.entry.name.length();
    }
    Ok(bytes.div_ceil(AT_ONCE) as u64)
}

/// The entries of one of so many parts, in the order of their names' hashes, and the names.
fn in_order(
    tree: &mut Tree,
    directory: NodeId,
    part: u64,
    parts: u64,
) -> Result<(Vec<u8>, Vec<Found>), Error> {
    let (mut names, mut found) = (Vec::new(), Vec::new());
    let mut entries = tree.entries_of(directory)?;
    while let Some(named) = tree.next(&mut entries)? {
        if (u64::from(named.entry.hash) * parts) >> 32 == part {
            found.push(Found::of(named, tree, &mut names)?);
        }
    }
    found.sort_unstable_by_key(|found| found.hash);
    Ok((names, found))
}

/// An entry whose name is among others.
struct Found {
    name: Range<usize>,
    hash: u32,
    inode: u32,
    kind: u8,
}

impl Found {
    /// Adds its name to `names`.
    fn of(
        Named { entry, node, .. }: Named,
        tree: &mut Tree,
        names: &mut Vec<u8>,
    ) -> Result<Found, Error> {
        let node = tree.node(node)?;
        let at = names.len();
        names.extend(tree.bytes(entry.name)?);
        Ok(Found {
            name: at..names.len(),
            hash: entry.hash,
            inode: node.inode,
            kind: FileType::of(&node.kind).kind,
        })
    }

    fn entry<'a>(&self, names: &'a [u8]) -> Entry<'a> {
        Entry {
            name: &names[self.name.clone()],
            inode: self.inode,
            kind: self.kind,
        }
    }
}

fn root(identity: Identity, index: &[IndexEntry], levels: u8) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let [dot, dots] = identity.dots();
    put_entry(&mut block, 0, &dot, 12);
    put_entry(&mut block, 12, &dots, BLOCK - 12);
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
