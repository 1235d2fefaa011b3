//! Where a file's blocks lie (Documentation/filesystems/ext4/ifork.rst, "Extent Tree").

use std::path::PathBuf;

use crate::{
    Error,
    blocks::Blocks,
    bytes::{crc, get_u32, high, low, low_half, put_u16, put_u32},
    geometry::BLOCK,
    pages::{Record, Table},
};

const MAGIC: u16 = 0xf30a;
const ENTRY: usize = 12;
/// Entries in the inode itself.
const IN_INODE: usize = 4;
/// Entries in a block, whose last four bytes are its checksum.
const IN_BLOCK: usize = (BLOCK - ENTRY - 4) / ENTRY;
/// Blocks of one extent.
const LONGEST: u32 = 32768;
/// Pages of extents in memory: 2 MiB.
const IN_MEMORY: usize = 512;

/// Blocks that lie one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub start: u64,
    /// How many.
    pub count: u32,
}

/// Blocks of a file that lie one behind the other, in the file and on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    /// The first one's place in the file.
    logical: u32,
    /// How many.
    count: u32,
    /// The first.
    start: u64,
}

impl Record for Extent {
    const SIZE: usize = 16;

    fn write(&self, bytes: &mut [u8]) {
        put_u32(bytes, 0, self.logical);
        put_u32(bytes, 4, self.count);
        put_u32(bytes, 8, low(self.start));
        put_u32(bytes, 12, high(self.start));
    }

    fn read(bytes: &[u8]) -> Extent {
        Extent {
            logical: get_u32(bytes, 0),
            count: get_u32(bytes, 4),
            start: u64::from(get_u32(bytes, 8)) | (u64::from(get_u32(bytes, 12)) << 32),
        }
    }
}

/// All blocks of a file, in order, among [`Extents`]. What is between them is holes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    first: u32,
    count: u32,
}

impl Record for Span {
    const SIZE: usize = 8;

    fn write(&self, bytes: &mut [u8]) {
        put_u32(bytes, 0, self.first);
        put_u32(bytes, 4, self.count);
    }

    fn read(bytes: &[u8]) -> Span {
        Span {
            first: get_u32(bytes, 0),
            count: get_u32(bytes, 4),
        }
    }
}

/// What leads to a file's blocks.
#[derive(Debug)]
pub struct Map {
    /// The 60 bytes for the inode.
    pub root: [u8; 60],
    /// How many blocks there are, those of the map itself included.
    pub blocks: u64,
}

/// The blocks of all files, one file's behind the other's.
#[derive(Debug)]
pub struct Extents(Table<Extent>);

impl Extents {
    /// None yet; what has no room in memory will be in this directory.
    pub fn new(directory: PathBuf) -> Extents {
        Extents(Table::new(directory, IN_MEMORY))
    }

    /// A file with no blocks yet. Only the last one begun can be given any.
    pub fn begin(&self) -> Span {
        Span {
            first: self.0.length(),
            count: 0,
        }
    }

    /// Adds a run that lies behind all others in the file.
    pub fn push(
        &mut self,
        file: &mut Span,
        logical: u32,
        Run { start, count }: Run,
    ) -> Result<(), Error> {
        if file.count > 0 {
            let number = file.first + file.count - 1;
            let mut last = self.0.get(number)?;
            if last.logical + last.count == logical
                && last.start + u64::from(last.count) == start
                && last.count + count <= LONGEST
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

    /// Gives the blocks of a file back.
    pub fn free(&mut self, file: Span, blocks: &mut Blocks) -> Result<(), Error> {
        for run in self.runs(file) {
            blocks.free(run?)?;
        }
        if file.first + file.count == self.0.length() {
            self.0.truncate(file.first);
        }
        Ok(())
    }

    /// The blocks.
    pub fn runs(&mut self, file: Span) -> impl Iterator<Item = Result<Run, Error>> {
        let extents = self.all(file);
        extents.map(|extent| extent.map(|Extent { start, count, .. }| Run { start, count }))
    }

    fn all(&mut self, file: Span) -> impl Iterator<Item = Result<Extent, Error>> {
        (file.first..file.first + file.count).map(|number| self.0.get(number))
    }

    /// Writes what leads to the blocks. `seed` is the inode's checksum seed.
    pub fn map(&mut self, file: Span, blocks: &mut Blocks, seed: u32) -> Result<Map, Error> {
        let (mut counted, mut depth) = (0, 0);
        let mut leaves = self.all(file).map(|extent| {
            extent.map(|extent| {
                counted += u64::from(extent.count);
                Node {
                    logical: extent.logical,
                    entry: leaf_entry(extent),
                }
            })
        });
        let mut above: Vec<Node>;
        if file.count as usize <= IN_INODE {
            above = leaves.collect::<Result<_, _>>()?;
        } else {
            above = Vec::new();
            loop {
                let leaf: Vec<Node> = leaves.by_ref().take(IN_BLOCK).collect::<Result<_, _>>()?;
                if leaf.is_empty() {
                    break;
                }
                above.push(write_block(&leaf, depth, blocks, seed)?);
            }
            drop(leaves);
            counted += above.len() as u64;
            depth += 1;
        }
        while above.len() > IN_INODE {
            let nodes = above.chunks(IN_BLOCK);
            above = nodes
                .map(|node| write_block(node, depth, blocks, seed))
                .collect::<Result<_, _>>()?;
            counted += above.len() as u64;
            depth += 1;
        }
        let mut root = [0; 60];
        write_node(&mut root, &above, IN_INODE, depth);
        Ok(Map {
            root,
            blocks: counted,
        })
    }
}

/// An entry of a node in the tree, and the place in the file from which on it leads.
struct Node {
    logical: u32,
    entry: [u8; ENTRY],
}

/// Writes a node of the tree; returns the entry for the one above it.
fn write_block(
    entries: &[Node],
    depth: u16,
    blocks: &mut Blocks,
    seed: u32,
) -> Result<Node, Error> {
    let mut block = vec![0; BLOCK];
    write_node(&mut block, entries, IN_BLOCK, depth);
    let tail = ENTRY + IN_BLOCK * ENTRY;
    let checksum = crc(seed, &block[..tail]);
    put_u32(&mut block, tail, checksum);
    let place = blocks.append(&block)?;
    let logical = entries[0].logical;
    Ok(Node {
        logical,
        entry: index_entry(logical, place),
    })
}

fn write_node(node: &mut [u8], entries: &[Node], most: usize, depth: u16) {
    put_u16(node, 0, MAGIC);
    put_u16(node, 2, entries.len() as u16);
    put_u16(node, 4, most as u16);
    put_u16(node, 6, depth);
    for (place, Node { entry, .. }) in node[ENTRY..].chunks_exact_mut(ENTRY).zip(entries) {
        place.copy_from_slice(entry);
    }
}

fn leaf_entry(extent: Extent) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    put_u32(&mut entry, 0, extent.logical);
    put_u16(&mut entry, 4, extent.count as u16);
    put_u16(&mut entry, 6, low_half(high(extent.start)));
    put_u32(&mut entry, 8, low(extent.start));
    entry
}

fn index_entry(logical: u32, place: u64) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    put_u32(&mut entry, 0, logical);
    put_u32(&mut entry, 4, low(place));
    put_u16(&mut entry, 8, low_half(high(place)));
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_touch_become_one_extent() {
        let directory = tempfile::tempdir().unwrap();
        let mut extents = Extents::new(directory.path().to_owned());
        let mut file = extents.begin();
        let runs = [(0, 100, 2), (2, 102, 3), (9, 105, 1), (10, 106, LONGEST)];
        for (logical, start, count) in runs {
            let run = Run { start, count };
            extents.push(&mut file, logical, run).unwrap();
        }
        let found: Vec<_> = extents.runs(file).map(Result::unwrap).collect();
        let run = |start, count| Run { start, count };
        assert_eq!(found, [run(100, 5), run(105, 1), run(106, LONGEST)]);
    }
}
