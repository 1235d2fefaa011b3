//! What lies where (Documentation/filesystems/ext4/blockgroup.rst).

use crate::Error;

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Blocks of a group: as many as one bitmap block has bits.
pub const BLOCKS_PER_GROUP: u32 = 32768;
/// Bytes of an inode.
pub const INODE: usize = 256;
/// Inodes of a group: one for 16 KiB, as mke2fs has it.
pub const INODES_PER_GROUP: u32 = 8192;
/// Blocks of a group's part of the inode table.
pub const INODE_TABLE: u32 = INODES_PER_GROUP * INODE as u32 / BLOCK as u32;
/// Bytes of a group descriptor.
pub const DESCRIPTOR: usize = 64;

/// Groups that a file system has at most when it is written, and may grow to: 8 TiB.
const MOST_GROUPS: u32 = 65536;
/// How many times its size a file system may grow to, as mke2fs has it.
const GROWTH: u32 = 1024;

const GROUP_BYTES: u64 = BLOCKS_PER_GROUP as u64 * BLOCK as u64;

/// How many groups there are, and what each starts with.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    groups: u32,
}

impl Geometry {
    /// The geometry of a file system of this many bytes, rounded down to whole groups.
    pub fn of(size: u64) -> Result<Geometry, Error> {
        match u32::try_from(size / GROUP_BYTES) {
            Ok(groups @ 2..=MOST_GROUPS) => Ok(Geometry { groups }),
            _ => Err(Error::Size(size)),
        }
    }

    /// The number of groups.
    pub fn groups(self) -> u32 {
        self.groups
    }

    /// The number of blocks.
    pub fn blocks(self) -> u64 {
        u64::from(self.groups) * u64::from(BLOCKS_PER_GROUP)
    }

    /// The number of inodes.
    pub fn inodes(self) -> u32 {
        self.groups * INODES_PER_GROUP
    }

    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.groups) * GROUP_BYTES
    }

    /// The first block of a group.
    pub fn start(self, group: u32) -> u64 {
        u64::from(group) * u64::from(BLOCKS_PER_GROUP)
    }

    /// Blocks of the group descriptors.
    pub fn descriptor_blocks(self) -> u32 {
        self.groups.div_ceil((BLOCK / DESCRIPTOR) as u32)
    }

    /// Blocks behind the descriptors that are kept for more of them, so that nothing has to move
    /// when the file system grows (`resize_inode`).
    pub fn reserved_descriptor_blocks(self) -> u32 {
        let grown = Geometry {
            groups: self.groups.saturating_mul(GROWTH).min(MOST_GROUPS),
        };
        grown.descriptor_blocks() - self.descriptor_blocks()
    }

    /// The groups with copies of superblock and descriptors, in order.
    pub fn groups_with_superblock(self) -> impl Iterator<Item = u32> {
        (0..self.groups).filter(move |group| self.has_superblock(*group))
    }

    /// Whether the group keeps copies of superblock and descriptors: 0, 1, and the powers of 3, 5
    /// and 7 (`sparse_super`).
    pub fn has_superblock(self, group: u32) -> bool {
        let is_power_of = |base: u32| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        group <= 1 || [3, 5, 7].into_iter().any(is_power_of)
    }

    fn copies(self, group: u32) -> u32 {
        if self.has_superblock(group) {
            1 + self.descriptor_blocks() + self.reserved_descriptor_blocks()
        } else {
            0
        }
    }

    /// The block of the group's block bitmap.
    pub fn block_bitmap(self, group: u32) -> u64 {
        self.start(group) + u64::from(self.copies(group))
    }

    /// The block of the group's inode bitmap.
    pub fn inode_bitmap(self, group: u32) -> u64 {
        self.block_bitmap(group) + 1
    }

    /// The first block of the group's part of the inode table.
    pub fn inode_table(self, group: u32) -> u64 {
        self.block_bitmap(group) + 2
    }

    /// How many blocks at the group's start are taken by all of these.
    pub fn overhead(self, group: u32) -> u32 {
        self.copies(group) + 2 + INODE_TABLE
    }

    /// Overhead of all groups together.
    pub fn total_overhead(self) -> u64 {
        (0..self.groups)
            .map(|group| u64::from(self.overhead(group)))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_in_the_groups_that_mke2fs_puts_them() {
        let geometry = Geometry::of(64 << 30).unwrap();
        let with: Vec<u32> = geometry.groups_with_superblock().take(9).collect();
        assert_eq!(with, [0, 1, 3, 5, 7, 9, 25, 27, 49]);
    }

    #[test]
    fn there_is_room_to_grow_a_thousandfold_or_to_8_tib() {
        let reserved = |size| Geometry::of(size).unwrap().reserved_descriptor_blocks();
        assert_eq!(reserved(1 << 30), 127);
        assert_eq!(reserved(512 << 30), 1024 - 64);
        assert_eq!(reserved(8 << 40), 0);
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        assert!(Geometry::of(128 << 20).is_err());
        assert!(Geometry::of(u64::MAX).is_err());
        assert_eq!(Geometry::of((1 << 30) + 5).unwrap().bytes(), 1 << 30);
    }
}
