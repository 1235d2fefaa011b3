//! Encoding of directories (Documentation/filesystems/ext4/directory.rst): one block of entries, or
//! a hash tree of blocks whose entries are sorted by the hashes of their names.

use std::ops::Range;

use crate::{
    WriteError,
    blocks::Blocks,
    bytes::{crc, put_u16, put_u32},
    extents::{ExtentRange, Extents},
    geometry::BLOCK,
    inode::FileType,
    layout::{
        DE_FILE_TYPE, DE_INODE, DE_NAME, DE_NAME_LEN, DE_REC_LEN, DET_CHECKSUM, DET_REC_LEN,
        DET_RESERVED_FT, DIR_ENTRY_TAIL_SIZE, DT_CHECKSUM, DT_RESERVED, DX_COUNTLIMIT_COUNT,
        DX_COUNTLIMIT_LIMIT, DX_ENTRY_BLOCK, DX_ENTRY_HASH, DX_ENTRY_SIZE, DX_HASH_HALF_MD4,
        DX_NODE_ENTRIES, DX_NODE_FAKE_REC_LEN, DX_ROOT_DOTDOT, DX_ROOT_ENTRIES,
        DX_ROOT_HASH_VERSION, DX_ROOT_INDIRECT_LEVELS, DX_ROOT_INFO_LENGTH, DX_ROOT_INFO_SIZE,
        DX_TAIL_SIZE, EXT4_FT_DIR_CSUM,
    },
    node::NodeId,
    tree::{NamedEntry, Tree},
};

/// Bytes of a block for entries; the tail with the checksum follows.
const ENTRIES_SIZE: usize = BLOCK - DIR_ENTRY_TAIL_SIZE;
/// Maximum number of index entries in the root.
const ENTRIES_IN_ROOT: usize = (BLOCK - DX_ROOT_ENTRIES - DX_TAIL_SIZE) / DX_ENTRY_SIZE;
/// Maximum number of index entries in a node below the root.
const ENTRIES_IN_NODE: usize = (BLOCK - DX_NODE_ENTRIES - DX_TAIL_SIZE) / DX_ENTRY_SIZE;

/// Bytes of entries that are sorted in memory at once. A directory with more is sorted in parts.
const MAX_SORTED_BYTES: usize = 16 << 20;

/// Entry of a directory, to be encoded.
struct RawEntry<'a> {
    name: &'a [u8],
    inode: u32,
    entry_type: u8,
}

impl RawEntry<'_> {
    fn size(&self) -> usize {
        entry_size(self.name.len())
    }
}

fn entry_size(name_length: usize) -> usize {
    DE_NAME + name_length.next_multiple_of(4)
}

/// Directory whose blocks are written.
#[derive(Debug)]
pub(crate) struct WrittenDirectory {
    /// Extents of its blocks, in the order of the directory.
    pub stored: ExtentRange,
    /// Number of blocks with entries or index entries.
    pub blocks: u32,
    /// Whether it has a hash tree.
    pub is_indexed: bool,
}

/// Numbers of a directory that its blocks depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DirectoryInode {
    /// Node in the tree.
    pub id: NodeId,
    /// Inode number, for `.`.
    pub inode: u32,
    /// Inode number of the directory that contains it, for `..`.
    pub parent: u32,
    /// Checksum seed of the inode.
    pub seed: u32,
}

impl DirectoryInode {
    fn dots(&self) -> [RawEntry<'static>; 2] {
        [(&b"."[..], self.inode), (b"..", self.parent)].map(|(name, inode)| RawEntry {
            name,
            inode,
            entry_type: FileType::DIRECTORY.entry_type,
        })
    }
}

/// Writes the blocks of a directory. Returns `None` when it has too many entries for a hash tree of
/// two levels.
pub(crate) fn write(
    blocks: &mut Blocks,
    extents: &mut Extents,
    tree: &mut Tree,
    directory: DirectoryInode,
) -> Result<Option<WrittenDirectory>, WriteError> {
    let mut size: usize = directory.dots().iter().map(RawEntry::size).sum();
    // Collects entries until they exceed one block.
    let (mut names, mut collected) = (Vec::new(), Vec::new());
    let mut cursor = tree.entries_of(directory.id)?;
    while size <= ENTRIES_SIZE
        && let Some(named) = tree.next_entry(&mut cursor)?
    {
        size += entry_size(named.entry.name.length());
        collected.push(HashedEntry::read(named, tree, &mut names)?);
    }
    let output = BlockSequence {
        stored: extents.begin(),
        count: 0,
        blocks,
        extents,
    };
    if size > ENTRIES_SIZE {
        return write_indexed(output, tree, directory);
    }
    let mut leaf = Leaf::new();
    for dot in directory.dots() {
        leaf.add(&dot);
    }
    // The newest entry comes first in the list, and last in the block.
    for entry in collected.iter().rev() {
        leaf.add(&entry.with_name(&names));
    }
    output.finish_with(&leaf.finish(directory.seed)).map(Some)
}

/// Blocks of a directory, allocated one by one.
struct BlockSequence<'a> {
    blocks: &'a mut Blocks,
    extents: &'a mut Extents,
    stored: ExtentRange,
    count: u32,
}

impl BlockSequence<'_> {
    /// Writes the next block; returns its position in the directory.
    fn append(&mut self, block: &[u8]) -> Result<u32, WriteError> {
        let (position, start) = self.allocate()?;
        self.blocks.write(start, block)?;
        Ok(position)
    }

    /// Allocates the next block without writing it; returns its position in the directory and in
    /// the image.
    fn allocate(&mut self) -> Result<(u32, u64), WriteError> {
        let position = self.count;
        let run = self.blocks.allocate(1)?;
        self.extents.push(&mut self.stored, position, run)?;
        self.count += 1;
        Ok((position, run.start))
    }

    /// Writes the only block of a directory.
    fn finish_with(mut self, block: &[u8]) -> Result<WrittenDirectory, WriteError> {
        self.append(block)?;
        Ok(self.finish(false))
    }

    fn finish(self, is_indexed: bool) -> WrittenDirectory {
        WrittenDirectory {
            stored: self.stored,
            blocks: self.count,
            is_indexed,
        }
    }
}

/// Block of entries.
struct Leaf {
    block: Vec<u8>,
    /// Offset of the last entry.
    last: usize,
    /// Offset of the end of the last entry.
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

    fn has_room(&self, entry: &RawEntry<'_>) -> bool {
        self.end + entry.size() <= ENTRIES_SIZE
    }

    fn add(&mut self, entry: &RawEntry<'_>) {
        put_entry(&mut self.block, self.end, entry, entry.size());
        self.last = self.end;
        self.end += entry.size();
    }

    /// Returns the block with its tail. The last entry extends to the tail.
    fn finish(mut self, seed: u32) -> Vec<u8> {
        put_u16(
            &mut self.block,
            self.last + DE_REC_LEN,
            (ENTRIES_SIZE - self.last) as u16,
        );
        put_u16(
            &mut self.block,
            ENTRIES_SIZE + DET_REC_LEN,
            DIR_ENTRY_TAIL_SIZE as u16,
        );
        self.block[ENTRIES_SIZE + DET_RESERVED_FT] = EXT4_FT_DIR_CSUM;
        let checksum = crc(seed, &self.block[..ENTRIES_SIZE]);
        put_u32(&mut self.block, ENTRIES_SIZE + DET_CHECKSUM, checksum);
        self.block
    }
}

fn put_entry(block: &mut [u8], at: usize, entry: &RawEntry<'_>, length: usize) {
    put_u32(block, at + DE_INODE, entry.inode);
    put_u16(block, at + DE_REC_LEN, length as u16);
    block[at + DE_NAME_LEN] = entry.name.len() as u8;
    block[at + DE_FILE_TYPE] = entry.entry_type;
    block[at + DE_NAME..][..entry.name.len()].copy_from_slice(entry.name);
}

/// Entry of the index: names with this hash or a greater one are in this block.
#[derive(Debug, Clone, Copy)]
struct IndexEntry {
    hash: u32,
    block: u32,
}

/// Writes the root of the hash tree, the leaves, and, if the root cannot refer to all of them, a
/// level of nodes in between. Returns `None` when two levels are not sufficient.
fn write_indexed(
    mut output: BlockSequence<'_>,
    tree: &mut Tree,
    directory: DirectoryInode,
) -> Result<Option<WrittenDirectory>, WriteError> {
    // The root is the first block, but is written last, when all leaves are known.
    let (_, root_at) = output.allocate()?;
    let mut index = Vec::new();
    // The current leaf, with the hash for its index entry.
    let mut leaf: Option<(u32, Leaf)> = None;
    let mut previous = None;
    let parts = sort_parts(tree, directory.id)?;
    for part in 0..parts {
        let (names, sorted) = sorted_part(tree, directory.id, part, parts)?;
        for hashed in sorted {
            let entry = hashed.with_name(&names);
            if let Some((hash, full)) = leaf.take_if(|(_, leaf)| !leaf.has_room(&entry)) {
                let block = output.append(&full.finish(directory.seed))?;
                index.push(IndexEntry { hash, block });
            }
            if index.len() == ENTRIES_IN_ROOT * ENTRIES_IN_NODE {
                return Ok(None);
            }
            // The lowest bit means that the previous block, too, has names with this hash.
            let continues = u32::from(previous == Some(hashed.hash));
            let (_, leaf) = leaf.get_or_insert_with(|| (hashed.hash | continues, Leaf::new()));
            leaf.add(&entry);
            previous = Some(hashed.hash);
        }
    }
    if let Some((hash, last)) = leaf {
        let block = output.append(&last.finish(directory.seed))?;
        index.push(IndexEntry { hash, block });
    }
    let has_nodes = index.len() > ENTRIES_IN_ROOT;
    if has_nodes {
        let mut above = Vec::new();
        for entries in index.chunks(ENTRIES_IN_NODE) {
            above.push(IndexEntry {
                hash: entries[0].hash,
                block: output.append(&encode_node(directory.seed, entries))?,
            });
        }
        index = above;
    }
    let root = encode_root(directory, &index, u8::from(has_nodes));
    output.blocks.write(root_at, &root)?;
    Ok(Some(output.finish(true)))
}

/// Returns the number of parts in which the entries of a directory are sorted.
fn sort_parts(tree: &mut Tree, directory: NodeId) -> Result<u64, WriteError> {
    let mut bytes = 0;
    let mut cursor = tree.entries_of(directory)?;
    while let Some(named) = tree.next_entry(&mut cursor)? {
        bytes += size_of::<HashedEntry>() + named.entry.name.length();
    }
    Ok(bytes.div_ceil(MAX_SORTED_BYTES) as u64)
}

/// Returns the entries in one of `parts` equal ranges of hashes, sorted by hash, and their names.
/// All entries of the directory are read for each part.
fn sorted_part(
    tree: &mut Tree,
    directory: NodeId,
    part: u64,
    parts: u64,
) -> Result<(Vec<u8>, Vec<HashedEntry>), WriteError> {
    let (mut names, mut sorted) = (Vec::new(), Vec::new());
    let mut cursor = tree.entries_of(directory)?;
    while let Some(named) = tree.next_entry(&mut cursor)? {
        if (u64::from(named.entry.hash) * parts) >> 32 == part {
            sorted.push(HashedEntry::read(named, tree, &mut names)?);
        }
    }
    sorted.sort_unstable_by_key(|entry| entry.hash);
    Ok((names, sorted))
}

/// Entry with a hash. Its name is in a buffer with others, which saves an allocation for each.
struct HashedEntry {
    name: Range<usize>,
    hash: u32,
    inode: u32,
    entry_type: u8,
}

impl HashedEntry {
    /// Reads an entry from the tree and appends its name to `names`.
    fn read(
        NamedEntry { entry, node, .. }: NamedEntry,
        tree: &mut Tree,
        names: &mut Vec<u8>,
    ) -> Result<HashedEntry, WriteError> {
        let node = tree.node(node)?;
        let at = names.len();
        names.extend(tree.bytes(entry.name)?);
        Ok(HashedEntry {
            name: at..names.len(),
            hash: entry.hash,
            inode: node.inode,
            entry_type: FileType::from_node(&node.kind).entry_type,
        })
    }

    fn with_name<'a>(&self, names: &'a [u8]) -> RawEntry<'a> {
        RawEntry {
            name: &names[self.name.clone()],
            inode: self.inode,
            entry_type: self.entry_type,
        }
    }
}

fn encode_root(directory: DirectoryInode, index: &[IndexEntry], levels: u8) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let [dot, dots] = directory.dots();
    put_entry(&mut block, 0, &dot, DX_ROOT_DOTDOT);
    put_entry(&mut block, DX_ROOT_DOTDOT, &dots, BLOCK - DX_ROOT_DOTDOT);
    block[DX_ROOT_HASH_VERSION] = DX_HASH_HALF_MD4;
    block[DX_ROOT_INFO_LENGTH] = DX_ROOT_INFO_SIZE;
    block[DX_ROOT_INDIRECT_LEVELS] = levels;
    put_index(
        &mut block,
        DX_ROOT_ENTRIES,
        ENTRIES_IN_ROOT,
        index,
        directory.seed,
    );
    block
}

fn encode_node(seed: u32, index: &[IndexEntry]) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    put_u16(&mut block, DX_NODE_FAKE_REC_LEN, BLOCK as u16);
    put_index(&mut block, DX_NODE_ENTRIES, ENTRIES_IN_NODE, index, seed);
    block
}

/// Writes index entries and the tail. The first entry has no hash of its own: limit and count take
/// its place.
fn put_index(block: &mut [u8], first: usize, max: usize, index: &[IndexEntry], seed: u32) {
    for (number, entry) in index.iter().enumerate() {
        let at = first + number * DX_ENTRY_SIZE;
        put_u32(block, at + DX_ENTRY_HASH, entry.hash);
        put_u32(block, at + DX_ENTRY_BLOCK, entry.block);
    }
    put_u16(block, first + DX_COUNTLIMIT_LIMIT, max as u16);
    put_u16(block, first + DX_COUNTLIMIT_COUNT, index.len() as u16);
    let used = first + index.len() * DX_ENTRY_SIZE;
    let tail = first + max * DX_ENTRY_SIZE;
    let checksum = crc(
        crc(crc(seed, &block[..used]), &block[tail + DT_RESERVED..][..4]),
        // dt_checksum itself.
        &[0; 4],
    );
    put_u32(block, tail + DT_CHECKSUM, checksum);
}
