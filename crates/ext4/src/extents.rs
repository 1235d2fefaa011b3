//! Where a file's blocks lie (Documentation/filesystems/ext4/ifork.rst, "Extent Tree").

use crate::{
    Error,
    blocks::Blocks,
    bytes::{crc, high, low, low_half, put_u16, put_u32},
    geometry::BLOCK,
};

const MAGIC: u16 = 0xf30a;
const ENTRY: usize = 12;
/// Entries in the inode itself.
const IN_INODE: usize = 4;
/// Entries in a block, whose last four bytes are its checksum.
const IN_BLOCK: usize = (BLOCK - ENTRY - 4) / ENTRY;
/// Blocks of one extent.
const LONGEST: u32 = 32768;

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
pub struct Extent {
    /// The first one's place in the file.
    pub logical: u32,
    /// How many.
    pub count: u32,
    /// The first.
    pub start: u64,
}

/// All blocks of a file, in order. What is between them is holes. Most files have one extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extents {
    /// One.
    One(Extent),
    /// None, or several.
    Many(Vec<Extent>),
}

impl Default for Extents {
    fn default() -> Extents {
        Extents::Many(Vec::new())
    }
}

impl Extents {
    /// Adds a run that lies behind all others in the file.
    pub fn push(&mut self, logical: u32, Run { start, count }: Run) {
        if let Some(last) = self.last_mut()
            && last.logical + last.count == logical
            && last.start + u64::from(last.count) == start
            && last.count + count <= LONGEST
        {
            last.count += count;
            return;
        }
        let extent = Extent {
            logical,
            count,
            start,
        };
        match self {
            Extents::Many(extents) if extents.is_empty() => *self = Extents::One(extent),
            Extents::Many(extents) => extents.push(extent),
            Extents::One(first) => *self = Extents::Many(vec![*first, extent]),
        }
    }

    fn as_slice(&self) -> &[Extent] {
        match self {
            Extents::One(extent) => std::slice::from_ref(extent),
            Extents::Many(extents) => extents,
        }
    }

    fn last_mut(&mut self) -> Option<&mut Extent> {
        match self {
            Extents::One(extent) => Some(extent),
            Extents::Many(extents) => extents.last_mut(),
        }
    }

    /// The blocks.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        let extents = self.as_slice().iter();
        extents.map(|&Extent { start, count, .. }| Run { start, count })
    }

    /// How many blocks.
    pub fn count(&self) -> u64 {
        self.runs().map(|run| u64::from(run.count)).sum()
    }

    /// Bytes that are kept outside the value itself.
    pub fn memory(&self) -> u64 {
        match self {
            Extents::One(_) => 0,
            Extents::Many(extents) => (extents.len() * size_of::<Extent>()) as u64,
        }
    }

    /// The 60 bytes for the inode, and how many blocks the tree itself took. `seed` is the
    /// inode's checksum seed.
    pub fn write(&self, blocks: &mut Blocks, seed: u32) -> Result<([u8; 60], u64), Error> {
        let extents = self.as_slice().iter();
        let mut entries: Vec<[u8; ENTRY]> = extents.clone().map(leaf_entry).collect();
        let mut firsts: Vec<u32> = extents.map(|extent| extent.logical).collect();
        let (mut depth, mut taken) = (0, 0);
        while entries.len() > IN_INODE {
            let mut above = Vec::new();
            let mut firsts_above = Vec::new();
            for (node, firsts) in entries.chunks(IN_BLOCK).zip(firsts.chunks(IN_BLOCK)) {
                let mut block = vec![0; BLOCK];
                write_node(&mut block, node, IN_BLOCK, depth);
                let tail = ENTRY + IN_BLOCK * ENTRY;
                let checksum = crc(seed, &block[..tail]);
                put_u32(&mut block, tail, checksum);
                let place = blocks.append(&block)?;
                taken += 1;
                above.push(index_entry(firsts[0], place));
                firsts_above.push(firsts[0]);
            }
            (entries, firsts) = (above, firsts_above);
            depth += 1;
        }
        let mut root = [0; 60];
        write_node(&mut root, &entries, IN_INODE, depth);
        Ok((root, taken))
    }
}

fn write_node(node: &mut [u8], entries: &[[u8; ENTRY]], most: usize, depth: u16) {
    put_u16(node, 0, MAGIC);
    put_u16(node, 2, entries.len() as u16);
    put_u16(node, 4, most as u16);
    put_u16(node, 6, depth);
    for (place, entry) in node[ENTRY..].chunks_exact_mut(ENTRY).zip(entries) {
        place.copy_from_slice(entry);
    }
}

fn leaf_entry(extent: &Extent) -> [u8; ENTRY] {
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
        let mut extents = Extents::default();
        extents.push(
            0,
            Run {
                start: 100,
                count: 2,
            },
        );
        extents.push(
            2,
            Run {
                start: 102,
                count: 3,
            },
        );
        extents.push(
            9,
            Run {
                start: 105,
                count: 1,
            },
        );
        assert_eq!(extents.as_slice().len(), 2);
        assert_eq!(extents.count(), 6);
        extents.push(
            10,
            Run {
                start: 106,
                count: LONGEST,
            },
        );
        assert_eq!(extents.as_slice().len(), 3);
    }
}
