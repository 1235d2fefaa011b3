//! The inode tables of all groups, written from front to back.

use crate::{
    Error,
    blocks::Blocks,
    geometry::{BLOCK, Geometry, INODE, INODES_PER_GROUP},
};

const IN_BLOCK: u32 = (BLOCK / INODE) as u32;

/// Inodes that are gathered before they are written: 1 MiB.
const GATHERED: u32 = 256 * IN_BLOCK;

/// Takes inodes in the order of their numbers.
#[derive(Debug)]
pub struct InodeTables {
    geometry: Geometry,
    /// The inodes from number `first` on.
    gathered: Vec<u8>,
    first: u32,
}

impl InodeTables {
    /// Tables with nothing in them.
    pub fn new(geometry: Geometry) -> InodeTables {
        InodeTables {
            geometry,
            gathered: Vec::new(),
            first: 1,
        }
    }

    /// Puts the inode of this number, which is larger than all before it, into its place.
    pub fn put(&mut self, blocks: &Blocks, number: u32, inode: &[u8; INODE]) -> Result<(), Error> {
        // What is gathered begins at a multiple of this, and so never reaches into the next group.
        const { assert!(INODES_PER_GROUP.is_multiple_of(GATHERED)) };
        if number >= self.first + GATHERED {
            self.flush(blocks)?;
            self.first = (number - 1) / GATHERED * GATHERED + 1;
        }
        self.gathered
            .resize((number - self.first) as usize * INODE, 0);
        self.gathered.extend_from_slice(inode);
        Ok(())
    }

    /// Writes what is gathered.
    pub fn flush(&mut self, blocks: &Blocks) -> Result<(), Error> {
        let whole = self.gathered.len().next_multiple_of(BLOCK);
        self.gathered.resize(whole, 0);
        let group = (self.first - 1) / INODES_PER_GROUP;
        let within = (self.first - 1) % INODES_PER_GROUP / IN_BLOCK;
        let place = self.geometry.inode_table(group) + u64::from(within);
        blocks.write_now(place, &self.gathered)?;
        self.gathered.clear();
        Ok(())
    }
}
