//! The inode tables of all groups, written front to back.

use crate::{
    WriteError,
    blocks::Blocks,
    geometry::{BLOCK, Geometry, INODE, INODES_PER_GROUP},
};

const INODES_IN_BLOCK: u32 = (BLOCK / INODE) as u32;

/// Number of inodes that are buffered: 1 MiB.
const INODES_IN_BUFFER: u32 = 256 * INODES_IN_BLOCK;

/// Buffered writer of inodes, which must be put in ascending order of their numbers.
#[derive(Debug)]
pub(crate) struct InodeTables {
    geometry: Geometry,
    /// Inodes from number `first` on.
    buffer: Vec<u8>,
    first: u32,
}

impl InodeTables {
    /// Returns a writer of empty tables.
    pub(crate) fn new(geometry: Geometry) -> InodeTables {
        InodeTables {
            geometry,
            buffer: Vec::new(),
            first: 1,
        }
    }

    /// Adds an inode, whose number must be greater than all previous ones. Numbers that are skipped
    /// get zeroes.
    pub(crate) fn put(
        &mut self,
        blocks: &Blocks,
        number: u32,
        inode: &[u8; INODE],
    ) -> Result<(), WriteError> {
        // A buffer never extends into the next group, whose table is elsewhere.
        const { assert!(INODES_PER_GROUP.is_multiple_of(INODES_IN_BUFFER)) };
        if number >= self.first + INODES_IN_BUFFER {
            self.flush(blocks)?;
            self.first = (number - 1) / INODES_IN_BUFFER * INODES_IN_BUFFER + 1;
        }
        self.buffer
            .resize((number - self.first) as usize * INODE, 0);
        self.buffer.extend_from_slice(inode);
        Ok(())
    }

    /// Writes the buffer.
    pub(crate) fn flush(&mut self, blocks: &Blocks) -> Result<(), WriteError> {
        let size = self.buffer.len().next_multiple_of(BLOCK);
        self.buffer.resize(size, 0);
        let group = (self.first - 1) / INODES_PER_GROUP;
        let within = (self.first - 1) % INODES_PER_GROUP / INODES_IN_BLOCK;
        let at = self.geometry.inode_table(group) + u64::from(within);
        blocks.write_unbuffered(at, &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}
