//! The superblock of an empty journal (Documentation/filesystems/ext4/journal.rst).

use uuid::Uuid;

use crate::{
    geometry::BLOCK,
    layout::{
        JBD2_H_BLOCKTYPE, JBD2_H_MAGIC, JBD2_MAGIC_NUMBER, JBD2_S_BLOCKSIZE, JBD2_S_FIRST,
        JBD2_S_MAXLEN, JBD2_S_NR_USERS, JBD2_S_SEQUENCE, JBD2_S_UUID, JBD2_SUPERBLOCK_V2,
    },
};

/// Returns the first block of a journal of `blocks` blocks without transactions.
pub(crate) fn superblock(blocks: u32, uuid: Uuid) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    // s_start stays 0, which means that there is nothing to replay.
    let fields: [(usize, u32); 7] = [
        (JBD2_H_MAGIC, JBD2_MAGIC_NUMBER),
        (JBD2_H_BLOCKTYPE, JBD2_SUPERBLOCK_V2),
        (JBD2_S_BLOCKSIZE, BLOCK as u32),
        (JBD2_S_MAXLEN, blocks),
        // The log starts in the block after this one, with transaction 1.
        (JBD2_S_FIRST, 1),
        (JBD2_S_SEQUENCE, 1),
        (JBD2_S_NR_USERS, 1),
    ];
    for (offset, value) in fields {
        block[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
    }
    block[JBD2_S_UUID..][..16].copy_from_slice(uuid.as_bytes());
    block
}
