//! Positions of metadata in the image (Documentation/filesystems/ext4/blockgroup.rst). Each group
//! of 128 MiB starts with copies of superblock and descriptors (some groups), block bitmap, inode
//! bitmap and inode table; feature `flex_bg` is not used.

use crate::WriteError;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;
/// Blocks of a group: the number of bits in one bitmap block.
pub(crate) const BLOCKS_PER_GROUP: u32 = 32768;
/// Bytes of an inode.
pub(crate) const INODE: usize = 256;
/// `i_extra_isize`: bytes of an inode's fields after the original 128.
pub(crate) const EXTRA_ISIZE: u16 = 32;
/// Inodes of a group: one per 16 KiB, the default of mke2fs.
pub(crate) const INODES_PER_GROUP: u32 = 8192;
/// Blocks of a group's inode table.
pub(crate) const INODE_TABLE: u32 = INODES_PER_GROUP * INODE as u32 / BLOCK as u32;
/// Bytes of a group descriptor.
pub(crate) const DESCRIPTOR: usize = 64;

/// Maximum number of groups, both of a new file system and after growth: 8 TiB.
const MAX_GROUPS: u32 = 65536;
/// Factor by which a file system can grow, the default of mke2fs.
const MAX_GROWTH: u32 = 1024;

const GROUP_BYTES: u64 = BLOCKS_PER_GROUP as u64 * BLOCK as u64;

/// Size of a file system, from which the positions of all metadata follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    groups: u32,
}

impl Geometry {
    /// Returns the geometry of a file system with this size in bytes, rounded down to whole groups.
    pub(crate) fn from_size(size: u64) -> Result<Geometry, WriteError> {
        match u32::try_from(size / GROUP_BYTES) {
            Ok(groups @ 2..=MAX_GROUPS) => Ok(Geometry { groups }),
            _ => Err(WriteError::Size(size)),
        }
    }

    /// Returns the number of groups.
    pub(crate) fn groups(self) -> u32 {
        self.groups
    }

    /// Returns the number of blocks.
    pub(crate) fn blocks(self) -> u64 {
        u64::from(self.groups) * u64::from(BLOCKS_PER_GROUP)
    }

    /// Returns the number of inodes.
    pub(crate) fn inodes(self) -> u32 {
        self.groups * INODES_PER_GROUP
    }

    /// Returns the size in bytes.
    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.groups) * GROUP_BYTES
    }

    /// Returns the first block of a group.
    pub(crate) fn start(self, group: u32) -> u64 {
        u64::from(group) * u64::from(BLOCKS_PER_GROUP)
    }

    /// Returns the number of blocks of the group descriptors.
    pub(crate) fn descriptor_blocks(self) -> u32 {
        self.groups.div_ceil((BLOCK / DESCRIPTOR) as u32)
    }

    /// Returns the number of blocks reserved after the descriptors. With them, no other metadata
    /// has to be moved when the file system grows (feature `resize_inode`).
    pub(crate) fn reserved_descriptor_blocks(self) -> u32 {
        let grown = Geometry {
            groups: self.groups.saturating_mul(MAX_GROWTH).min(MAX_GROUPS),
        };
        grown.descriptor_blocks() - self.descriptor_blocks()
    }

    /// Returns the groups with copies of superblock and descriptors, in ascending order.
    pub(crate) fn groups_with_superblock(self) -> impl Iterator<Item = u32> {
        (0..self.groups).filter(move |group| self.has_superblock(*group))
    }

    /// Returns whether a group has copies of superblock and descriptors: 0, 1, and the powers of 3,
    /// 5 and 7 (feature `sparse_super`).
    fn has_superblock(self, group: u32) -> bool {
        let is_power_of = |base: u32| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        group <= 1 || [3, 5, 7].into_iter().any(is_power_of)
    }

    /// Returns the number of blocks of superblock, descriptors and reserved descriptors.
    fn copies(self, group: u32) -> u32 {
        if self.has_superblock(group) {
            1 + self.descriptor_blocks() + self.reserved_descriptor_blocks()
        } else {
            0
        }
    }

    /// Returns the block with the group's block bitmap.
    pub(crate) fn block_bitmap(self, group: u32) -> u64 {
        self.start(group) + u64::from(self.copies(group))
    }

    /// Returns the block with the group's inode bitmap.
    pub(crate) fn inode_bitmap(self, group: u32) -> u64 {
        self.block_bitmap(group) + 1
    }

    /// Returns the first block of the group's inode table.
    pub(crate) fn inode_table(self, group: u32) -> u64 {
        self.block_bitmap(group) + 2
    }

    /// Returns the number of blocks of all metadata at the start of a group.
    pub(crate) fn overhead(self, group: u32) -> u32 {
        self.copies(group) + 2 + INODE_TABLE
    }

    /// Returns the overhead of all groups.
    pub(crate) fn total_overhead(self) -> u64 {
        (0..self.groups)
            .map(|group| u64::from(self.overhead(group)))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblock_copies_are_in_the_same_groups_as_with_mke2fs() {
        let geometry = Geometry::from_size(64 << 30).unwrap();
        let with: Vec<u32> = geometry.groups_with_superblock().take(9).collect();
        assert_eq!(with, [0, 1, 3, 5, 7, 9, 25, 27, 49]);
    }

    #[test]
    fn blocks_are_reserved_for_1024_times_the_size_up_to_8_tib() {
        let reserved = |size| {
            Geometry::from_size(size)
                .unwrap()
                .reserved_descriptor_blocks()
        };
        assert_eq!(reserved(1 << 30), 127);
        assert_eq!(reserved(512 << 30), 1024 - 64);
        assert_eq!(reserved(8 << 40), 0);
    }

    #[test]
    fn sizes_outside_the_range_are_refused() {
        assert!(Geometry::from_size(128 << 20).is_err());
        assert!(Geometry::from_size(u64::MAX).is_err());
        assert_eq!(Geometry::from_size((1 << 30) + 5).unwrap().bytes(), 1 << 30);
    }
}
