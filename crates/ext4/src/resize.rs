//! The resize inode (feature `resize_inode`), which owns the blocks that are reserved for group
//! descriptors of a larger file system. It has a block map of the kind before extents, of which
//! only the double indirect block is used: that block refers to the reserved blocks of group 0, and
//! each of these to its counterparts in the groups with copies of the descriptors.

use crate::{
    WriteError,
    blocks::Blocks,
    bytes::{low, put_u32},
    geometry::{BLOCK, BLOCKS_PER_GROUP, Geometry},
    inode::{FileType, InodeContents},
    layout::{EXT4_DIND_BLOCK, EXT4_NDIR_BLOCKS},
};

/// Block numbers in a block.
const NUMBERS_IN_BLOCK: usize = BLOCK / 4;
/// Bytes that direct, indirect and double indirect blocks can map: the inode's size, as mke2fs sets
/// it.
const SIZE: u64 =
    ((EXT4_NDIR_BLOCKS + NUMBERS_IN_BLOCK + NUMBERS_IN_BLOCK * NUMBERS_IN_BLOCK) * BLOCK) as u64;

/// Writes the block map and returns the inode. `double_indirect` is a block allocated for it.
pub(crate) fn write(
    blocks: &mut Blocks,
    geometry: Geometry,
    double_indirect: u64,
) -> Result<InodeContents, WriteError> {
    let copies: Vec<u32> = geometry.groups_with_superblock().skip(1).collect();
    let used = geometry.descriptor_blocks();
    let reserved = geometry.reserved_descriptor_blocks();
    let mut first_level = vec![0; BLOCK];
    for number in used..used + reserved {
        // Fits into 32 bits: no supported size has 2^32 blocks.
        let reserved_block = 1 + number;
        let slot = number as usize % NUMBERS_IN_BLOCK * 4;
        put_u32(&mut first_level, slot, reserved_block);
        let mut second_level = vec![0; BLOCK];
        for (slot, group) in copies.iter().enumerate() {
            let copy = group * BLOCKS_PER_GROUP + reserved_block;
            put_u32(&mut second_level, slot * 4, copy);
        }
        blocks.write(u64::from(reserved_block), &second_level)?;
    }
    blocks.write(double_indirect, &first_level)?;
    let mut contents = InodeContents::empty(FileType::FILE);
    contents.size = SIZE;
    contents.blocks = 1 + u64::from(reserved) * (1 + copies.len() as u64);
    put_u32(&mut contents.map, EXT4_DIND_BLOCK * 4, low(double_indirect));
    Ok(contents)
}
