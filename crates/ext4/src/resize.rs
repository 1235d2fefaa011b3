//! The inode that leads to the blocks kept for descriptors of a grown file system
//! (`resize_inode`). It has a map of the old kind, of which only the double indirect block is
//! there: that block leads to the kept blocks behind the first descriptors, and each of these to
//! its like behind the copies.

use crate::{
    Error,
    blocks::Blocks,
    bytes::{low, put_u32},
    geometry::{BLOCK, BLOCKS_PER_GROUP, Geometry},
    inode::{Contents, FileType},
};

/// Numbers of blocks in a block.
const IN_BLOCK: usize = BLOCK / 4;
/// Where in a map the double indirect block's number is.
const DOUBLE_INDIRECT: usize = 13 * 4;
/// Bytes that the direct, indirect and double indirect blocks of a map can lead to.
const SIZE: u64 = ((12 + IN_BLOCK + IN_BLOCK * IN_BLOCK) * BLOCK) as u64;

/// Writes the map; `double_indirect` is the block for its beginning.
pub fn write(
    blocks: &mut Blocks,
    geometry: Geometry,
    double_indirect: u64,
) -> Result<Contents, Error> {
    let copies: Vec<u32> = geometry.groups_with_superblock().skip(1).collect();
    let used = geometry.descriptor_blocks();
    let kept = geometry.reserved_descriptor_blocks();
    let mut first_level = vec![0; BLOCK];
    for number in used..used + kept {
        // All file systems of this size have fewer than 2^32 blocks.
        let kept_block = 1 + number;
        put_u32(&mut first_level, number as usize % IN_BLOCK * 4, kept_block);
        let mut second_level = vec![0; BLOCK];
        for (place, group) in copies.iter().enumerate() {
            put_u32(
                &mut second_level,
                place * 4,
                group * BLOCKS_PER_GROUP + kept_block,
            );
        }
        blocks.write(u64::from(kept_block), &second_level)?;
    }
    blocks.write(double_indirect, &first_level)?;
    let mut contents = Contents::empty(FileType::FILE);
    contents.size = SIZE;
    contents.blocks = 1 + u64::from(kept) * (1 + copies.len() as u64);
    put_u32(&mut contents.map, DOUBLE_INDIRECT, low(double_indirect));
    Ok(contents)
}
