//! An empty journal (Documentation/filesystems/ext4/journal.rst). Its numbers are big-endian.

use uuid::Uuid;

use crate::geometry::BLOCK;

/// The journal's first block: there is nothing to replay.
pub fn superblock(blocks: u32, uuid: Uuid) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let fields: [(usize, u32); 7] = [
        (0x00, 0xc03b_3998),
        // A superblock of version 2.
        (0x04, 4),
        (0x0c, BLOCK as u32),
        (0x10, blocks),
        // The first block of the log, and the first transaction's number.
        (0x14, 1),
        (0x18, 1),
        // File systems that use it.
        (0x40, 1),
    ];
    for (offset, value) in fields {
        block[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
    }
    block[0x30..0x40].copy_from_slice(uuid.as_bytes());
    block
}
