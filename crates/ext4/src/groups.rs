//! Block groups: their bitmaps and descriptors (fs/ext4/ext4.h, `struct ext4_group_desc`).

use crate::{
    WriteError,
    blocks::Blocks,
    bytes::{crc, high, high_half, low, low_half, put_u16, put_u32},
    geometry::{BLOCK, BLOCKS_PER_GROUP, DESCRIPTOR, Geometry, INODES_PER_GROUP},
    layout::{
        BG_BLOCK_BITMAP_CSUM_HI, BG_BLOCK_BITMAP_CSUM_LO, BG_BLOCK_BITMAP_HI, BG_BLOCK_BITMAP_LO,
        BG_CHECKSUM, BG_FLAGS, BG_FREE_BLOCKS_COUNT_HI, BG_FREE_BLOCKS_COUNT_LO,
        BG_FREE_INODES_COUNT_HI, BG_FREE_INODES_COUNT_LO, BG_INODE_BITMAP_CSUM_HI,
        BG_INODE_BITMAP_CSUM_LO, BG_INODE_BITMAP_HI, BG_INODE_BITMAP_LO, BG_INODE_TABLE_HI,
        BG_INODE_TABLE_LO, BG_ITABLE_UNUSED_HI, BG_ITABLE_UNUSED_LO, BG_USED_DIRS_COUNT_HI,
        BG_USED_DIRS_COUNT_LO, EXT4_BG_BLOCK_UNINIT, EXT4_BG_INODE_UNINIT, EXT4_BG_INODE_ZEROED,
    },
};

/// Descriptors of all groups, whose bitmaps are written.
pub(crate) struct Groups {
    /// Encoded descriptors, in whole blocks.
    pub descriptors: Vec<u8>,
    /// Free blocks of all groups.
    pub free_blocks: u64,
}

impl Groups {
    /// Writes the bitmaps, and encodes the descriptors. `last_inode` is the highest inode number in
    /// use; `directories` is the number of directories in each group.
    pub(crate) fn write(
        blocks: &mut Blocks,
        last_inode: u32,
        directories: &[u32],
        geometry: Geometry,
        seed: u32,
    ) -> Result<Groups, WriteError> {
        let mut groups = Groups {
            descriptors: vec![0; geometry.descriptor_blocks() as usize * BLOCK],
            free_blocks: 0,
        };
        for number in 0..geometry.groups() {
            let before = u64::from(number) * u64::from(INODES_PER_GROUP);
            let used_inodes = u64::from(last_inode)
                .saturating_sub(before)
                .min(u64::from(INODES_PER_GROUP)) as u32;
            let mut group = Group {
                number,
                used_inodes,
                directories: directories[number as usize],
                flags: EXT4_BG_INODE_ZEROED,
                free_blocks: 0,
                block_checksum: 0,
                inode_checksum: 0,
            };
            group.write_block_bitmap(blocks, geometry, seed)?;
            group.write_inode_bitmap(blocks, geometry, seed)?;
            let at = number as usize * DESCRIPTOR;
            let descriptor = group.encode_descriptor(geometry, seed);
            groups.descriptors[at..at + DESCRIPTOR].copy_from_slice(&descriptor);
            groups.free_blocks += u64::from(group.free_blocks);
        }
        Ok(groups)
    }
}

/// Numbers of one group's descriptor.
struct Group {
    number: u32,
    used_inodes: u32,
    directories: u32,
    flags: u16,
    free_blocks: u32,
    block_checksum: u32,
    inode_checksum: u32,
}

impl Group {
    /// Writes the block bitmap, unless only the group's own metadata is in use. The last group
    /// always has one, as with mke2fs.
    fn write_block_bitmap(
        &mut self,
        blocks: &mut Blocks,
        geometry: Geometry,
        seed: u32,
    ) -> Result<(), WriteError> {
        let is_last = self.number + 1 == geometry.groups();
        if !blocks.is_touched(self.number) && !is_last {
            self.flags |= EXT4_BG_BLOCK_UNINIT;
            self.free_blocks = BLOCKS_PER_GROUP - geometry.overhead(self.number);
            return Ok(());
        }
        let bitmap = blocks.bitmap(self.number);
        self.free_blocks = bitmap.free();
        self.block_checksum = crc(seed, bitmap.bytes());
        blocks.write(geometry.block_bitmap(self.number), bitmap.bytes())
    }

    /// Writes the inode bitmap, unless no inode is in use.
    fn write_inode_bitmap(
        &mut self,
        blocks: &mut Blocks,
        geometry: Geometry,
        seed: u32,
    ) -> Result<(), WriteError> {
        if self.used_inodes == 0 {
            self.flags |= EXT4_BG_INODE_UNINIT;
            return Ok(());
        }
        let bitmap = inode_bitmap(self.used_inodes);
        self.inode_checksum = crc(seed, &bitmap[..(INODES_PER_GROUP / 8) as usize]);
        blocks.write(geometry.inode_bitmap(self.number), &bitmap)
    }

    fn encode_descriptor(&self, geometry: Geometry, seed: u32) -> [u8; DESCRIPTOR] {
        let mut bytes = [0; DESCRIPTOR];
        let block_bitmap = geometry.block_bitmap(self.number);
        let inode_bitmap = geometry.inode_bitmap(self.number);
        let inode_table = geometry.inode_table(self.number);
        for (lo, hi, block) in [
            (BG_BLOCK_BITMAP_LO, BG_BLOCK_BITMAP_HI, block_bitmap),
            (BG_INODE_BITMAP_LO, BG_INODE_BITMAP_HI, inode_bitmap),
            (BG_INODE_TABLE_LO, BG_INODE_TABLE_HI, inode_table),
        ] {
            put_u32(&mut bytes, lo, low(block));
            put_u32(&mut bytes, hi, high(block));
        }
        let free_blocks = self.free_blocks;
        // Inodes are assigned in order, so all free ones are at the end and never used.
        let unused = INODES_PER_GROUP - self.used_inodes;
        let directories = self.directories;
        let (block_csum, inode_csum) = (self.block_checksum, self.inode_checksum);
        for (lo, hi, number) in [
            (
                BG_FREE_BLOCKS_COUNT_LO,
                BG_FREE_BLOCKS_COUNT_HI,
                free_blocks,
            ),
            (BG_FREE_INODES_COUNT_LO, BG_FREE_INODES_COUNT_HI, unused),
            (BG_USED_DIRS_COUNT_LO, BG_USED_DIRS_COUNT_HI, directories),
            (BG_ITABLE_UNUSED_LO, BG_ITABLE_UNUSED_HI, unused),
            (BG_BLOCK_BITMAP_CSUM_LO, BG_BLOCK_BITMAP_CSUM_HI, block_csum),
            (BG_INODE_BITMAP_CSUM_LO, BG_INODE_BITMAP_CSUM_HI, inode_csum),
        ] {
            put_u16(&mut bytes, lo, low_half(number));
            put_u16(&mut bytes, hi, high_half(number));
        }
        put_u16(&mut bytes, BG_FLAGS, self.flags);
        let checksum = crc(crc(seed, &self.number.to_le_bytes()), &bytes);
        put_u16(&mut bytes, BG_CHECKSUM, low_half(checksum));
        bytes
    }
}

/// Returns a bitmap whose first `used` bits are set, and all bits that have no inode.
fn inode_bitmap(used: u32) -> Vec<u8> {
    let is_set = |bit: u32| bit < used || bit >= INODES_PER_GROUP;
    let byte = |byte: u32| {
        (0..8).fold(0, |bits, bit| {
            bits | (u8::from(is_set(byte * 8 + bit)) << bit)
        })
    };
    (0..BLOCK as u32).map(byte).collect()
}
