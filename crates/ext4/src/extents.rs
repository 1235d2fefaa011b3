//! Blocks of files (Documentation/filesystems/ext4/ifork.rst, "Extent Tree"): a table of all files'
//! extents while the image is written, and an extent tree for each inode at the end.

use std::path::PathBuf;

use crate::{
    WriteError,
    blocks::{Blocks, Run},
    bytes::{crc, get_u32, get_u64, high, low, low_half, put_u16, put_u32, put_u64},
    geometry::BLOCK,
    layout::{
        EE_BLOCK, EE_LEN, EE_START_HI, EE_START_LO, EH_DEPTH, EH_ENTRIES, EH_MAGIC, EH_MAX,
        EI_BLOCK, EI_LEAF_HI, EI_LEAF_LO, EXT_INIT_MAX_LEN, EXT4_EXT_MAGIC, EXTENT_ENTRY_SIZE,
        I_BLOCK_SIZE,
    },
    pages::{Record, Table},
};

/// Bytes of the checksum after the entries of a block (`struct ext4_extent_tail`).
const TAIL: usize = 4;
/// Maximum number of entries in an inode.
const ENTRIES_IN_INODE: usize = (I_BLOCK_SIZE - EXTENT_ENTRY_SIZE) / EXTENT_ENTRY_SIZE;
/// Maximum number of entries in a block.
const ENTRIES_IN_BLOCK: usize = (BLOCK - EXTENT_ENTRY_SIZE - TAIL) / EXTENT_ENTRY_SIZE;
/// Pages of extents in memory: 2 MiB.
const PAGES_IN_MEMORY: usize = 512;

/// Blocks that are contiguous both in a file and in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    /// Position of the first block in the file, in blocks.
    logical: u32,
    /// Number of blocks.
    count: u32,
    /// Position of the first block in the image.
    start: u64,
}

impl Record for Extent {
    const SIZE: usize = 16;

    fn write(&self, bytes: &mut [u8]) {
        put_u32(bytes, 0, self.logical);
        put_u32(bytes, 4, self.count);
        put_u64(bytes, 8, self.start);
    }

    fn read(bytes: &[u8]) -> Extent {
        Extent {
            logical: get_u32(bytes, 0),
            count: get_u32(bytes, 4),
            start: get_u64(bytes, 8),
        }
    }
}

/// Extents of one file in [`Extents`], in order. Blocks that no extent contains are holes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ExtentRange {
    first: u32,
    count: u32,
}

impl Record for ExtentRange {
    const SIZE: usize = 8;

    fn write(&self, bytes: &mut [u8]) {
        put_u32(bytes, 0, self.first);
        put_u32(bytes, 4, self.count);
    }

    fn read(bytes: &[u8]) -> ExtentRange {
        ExtentRange {
            first: get_u32(bytes, 0),
            count: get_u32(bytes, 4),
        }
    }
}

/// Extent tree of an inode.
#[derive(Debug)]
pub(crate) struct ExtentMap {
    /// `i_block`, which contains the root.
    pub root: [u8; I_BLOCK_SIZE],
    /// Number of blocks of the file, including those of the tree.
    pub blocks: u64,
}

/// Extents of all files, one file after another.
#[derive(Debug)]
pub(crate) struct Extents(Table<Extent>);

impl Extents {
    /// Creates an empty table. Pages that exceed the memory limit are swapped to a temporary file
    /// in `directory`.
    pub(crate) fn new(directory: PathBuf) -> Extents {
        Extents(Table::new(directory, PAGES_IN_MEMORY))
    }

    /// Starts a file without blocks. Only the file that was started last can get more extents.
    pub(crate) fn begin(&self) -> ExtentRange {
        ExtentRange {
            first: self.0.length(),
            count: 0,
        }
    }

    /// Adds blocks after all others of the file. `logical` is their position in it.
    pub(crate) fn push(
        &mut self,
        file: &mut ExtentRange,
        logical: u32,
        Run { start, count }: Run,
    ) -> Result<(), WriteError> {
        if file.count > 0 {
            let number = file.first + file.count - 1;
            let mut last = self.0.get(number)?;
            if last.logical + last.count == logical
                && last.start + u64::from(last.count) == start
                && last.count + count <= EXT_INIT_MAX_LEN
            {
                last.count += count;
                return self.0.set(number, &last);
            }
        }
        self.0.push(&Extent {
            logical,
            count,
            start,
        })?;
        file.count += 1;
        Ok(())
    }

    /// Stores bytes in newly allocated blocks.
    pub(crate) fn store(
        &mut self,
        bytes: &[u8],
        blocks: &mut Blocks,
    ) -> Result<ExtentRange, WriteError> {
        let mut stored = self.begin();
        for (logical, part) in (0..).zip(bytes.chunks(BLOCK)) {
            let mut block = [0; BLOCK];
            block[..part.len()].copy_from_slice(part);
            let start = blocks.append(&block)?;
            self.push(&mut stored, logical, Run { start, count: 1 })?;
        }
        Ok(stored)
    }

    /// Frees the blocks of a file.
    pub(crate) fn free(
        &mut self,
        file: ExtentRange,
        blocks: &mut Blocks,
    ) -> Result<(), WriteError> {
        for run in self.runs(file) {
            blocks.free(run?)?;
        }
        if file.first + file.count == self.0.length() {
            self.0.truncate(file.first);
        }
        Ok(())
    }

    /// Returns the blocks of a file, in order.
    pub(crate) fn runs(
        &mut self,
        file: ExtentRange,
    ) -> impl Iterator<Item = Result<Run, WriteError>> {
        let extents = self.extents(file);
        extents.map(|extent| extent.map(|Extent { start, count, .. }| Run { start, count }))
    }

    fn extents(&mut self, file: ExtentRange) -> impl Iterator<Item = Result<Extent, WriteError>> {
        (file.first..file.first + file.count).map(|number| self.0.get(number))
    }

    /// Writes the blocks of a file's extent tree and returns its root. `seed` is the inode's
    /// checksum seed.
    pub(crate) fn write_map(
        &mut self,
        file: ExtentRange,
        blocks: &mut Blocks,
        seed: u32,
    ) -> Result<ExtentMap, WriteError> {
        let (mut counted, mut depth) = (0, 0);
        let mut leaves = self.extents(file).map(|extent| {
            extent.map(|extent| {
                counted += u64::from(extent.count);
                NodeEntry {
                    logical: extent.logical,
                    bytes: leaf_entry(extent),
                }
            })
        });
        // Entries of the level that is to be written next.
        let mut level: Vec<NodeEntry> = Vec::new();
        if file.count as usize <= ENTRIES_IN_INODE {
            level = leaves.collect::<Result<_, _>>()?;
        } else {
            // The lowest level is written block by block, so that a file's extents need not fit
            // into memory.
            loop {
                let leaf: Vec<NodeEntry> = leaves
                    .by_ref()
                    .take(ENTRIES_IN_BLOCK)
                    .collect::<Result<_, _>>()?;
                if leaf.is_empty() {
                    break;
                }
                level.push(write_block(&leaf, depth, blocks, seed)?);
            }
            drop(leaves);
            counted += level.len() as u64;
            depth += 1;
        }
        while level.len() > ENTRIES_IN_INODE {
            let nodes = level.chunks(ENTRIES_IN_BLOCK);
            level = nodes
                .map(|node| write_block(node, depth, blocks, seed))
                .collect::<Result<_, _>>()?;
            counted += level.len() as u64;
            depth += 1;
        }
        let mut root = [0; I_BLOCK_SIZE];
        put_node(&mut root, &level, ENTRIES_IN_INODE, depth);
        Ok(ExtentMap {
            root,
            blocks: counted,
        })
    }
}

/// Entry of a node of the extent tree.
struct NodeEntry {
    /// First block in the file that it covers.
    logical: u32,
    bytes: [u8; EXTENT_ENTRY_SIZE],
}

/// Writes a node of the tree to a new block; returns the entry that refers to it.
fn write_block(
    entries: &[NodeEntry],
    depth: u16,
    blocks: &mut Blocks,
    seed: u32,
) -> Result<NodeEntry, WriteError> {
    let mut block = vec![0; BLOCK];
    put_node(&mut block, entries, ENTRIES_IN_BLOCK, depth);
    let tail = EXTENT_ENTRY_SIZE + ENTRIES_IN_BLOCK * EXTENT_ENTRY_SIZE;
    let checksum = crc(seed, &block[..tail]);
    put_u32(&mut block, tail, checksum);
    let number = blocks.append(&block)?;
    let logical = entries[0].logical;
    Ok(NodeEntry {
        logical,
        bytes: index_entry(logical, number),
    })
}

fn put_node(node: &mut [u8], entries: &[NodeEntry], max: usize, depth: u16) {
    put_u16(node, EH_MAGIC, EXT4_EXT_MAGIC);
    put_u16(node, EH_ENTRIES, entries.len() as u16);
    put_u16(node, EH_MAX, max as u16);
    put_u16(node, EH_DEPTH, depth);
    let targets = node[EXTENT_ENTRY_SIZE..].chunks_exact_mut(EXTENT_ENTRY_SIZE);
    for (target, entry) in targets.zip(entries) {
        target.copy_from_slice(&entry.bytes);
    }
}

fn leaf_entry(extent: Extent) -> [u8; EXTENT_ENTRY_SIZE] {
    let mut entry = [0; EXTENT_ENTRY_SIZE];
    put_u32(&mut entry, EE_BLOCK, extent.logical);
    put_u16(&mut entry, EE_LEN, extent.count as u16);
    put_u16(&mut entry, EE_START_HI, low_half(high(extent.start)));
    put_u32(&mut entry, EE_START_LO, low(extent.start));
    entry
}

fn index_entry(logical: u32, block: u64) -> [u8; EXTENT_ENTRY_SIZE] {
    let mut entry = [0; EXTENT_ENTRY_SIZE];
    put_u32(&mut entry, EI_BLOCK, logical);
    put_u32(&mut entry, EI_LEAF_LO, low(block));
    put_u16(&mut entry, EI_LEAF_HI, low_half(high(block)));
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_runs_become_one_extent() {
        let directory = tempfile::tempdir().unwrap();
        let mut extents = Extents::new(directory.path().to_owned());
        let mut file = extents.begin();
        let runs = [
            (0, 100, 2),
            (2, 102, 3),
            (9, 105, 1),
            (10, 106, EXT_INIT_MAX_LEN),
        ];
        for (logical, start, count) in runs {
            let run = Run { start, count };
            extents.push(&mut file, logical, run).unwrap();
        }
        let found: Vec<_> = extents.runs(file).map(Result::unwrap).collect();
        let run = |start, count| Run { start, count };
        assert_eq!(
            found,
            [run(100, 5), run(105, 1), run(106, EXT_INIT_MAX_LEN)]
        );
    }
}
