//! The superblock (Documentation/filesystems/ext4/super.rst).

use uuid::Uuid;

use crate::{
    bytes::{crc, high, low, put_u16, put_u32},
    directory::HASH_VERSION,
    geometry::{BLOCKS_PER_GROUP, DESCRIPTOR, Geometry, INODE, INODES_PER_GROUP},
};

/// Bytes of a superblock.
pub const SIZE: usize = 1024;
/// The first inode that is not reserved: lost+found.
pub const FIRST_INODE: u32 = 11;
/// The inode of the blocks that are kept for descriptors of a grown file system.
pub const RESIZE_INODE: u32 = 7;
/// The journal's inode.
pub const JOURNAL_INODE: u32 = 8;

/// has_journal, ext_attr, dir_index.
const COMPATIBLE: u32 = 0x4 | 0x8 | 0x20;
/// resize_inode.
const HAS_RESIZE_INODE: u32 = 0x10;
/// filetype, extents, 64bit.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80;
/// ea_inode.
const HAS_XATTR_INODES: u32 = 0x400;
/// sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;
/// Names are hashed as unsigned characters.
const UNSIGNED_HASH: u32 = 0x2;
/// user_xattr and acl.
const DEFAULT_MOUNT_OPTIONS: u32 = 0x4 | 0x8;

/// What a superblock says that is not the same in every file system.
#[derive(Debug)]
pub struct Superblock<'a> {
    /// What lies where.
    pub geometry: Geometry,
    /// The file system's id.
    pub uuid: Uuid,
    /// Blocks that nothing uses.
    pub free_blocks: u64,
    /// Inodes that nothing uses.
    pub free_inodes: u32,
    /// Whether values of extended attributes have inodes of their own. Only then is that said:
    /// there are programs that do not know it.
    pub has_xattr_inodes: bool,
    /// The journal inode's map and size, kept twice.
    pub journal: (&'a [u8; 60], u64),
}

impl Superblock<'_> {
    /// The superblock's bytes as they are in this group.
    pub fn encode(&self, group: u32) -> [u8; SIZE] {
        let mut block = [0; SIZE];
        let blocks = self.geometry.blocks();
        let reserved = self.geometry.reserved_descriptor_blocks();
        let when = |is_so, flag| if is_so { flag } else { 0 };
        let numbers: [(usize, u32); 22] = [
            (0x00, self.geometry.inodes()),
            (0x04, low(blocks)),
            (0x0c, low(self.free_blocks)),
            (0x10, self.free_inodes),
            // Blocks, and clusters, of 1024 << 2 bytes.
            (0x18, 2),
            (0x1c, 2),
            (0x20, BLOCKS_PER_GROUP),
            (0x24, BLOCKS_PER_GROUP),
            (0x28, INODES_PER_GROUP),
            // Revision 1: inode size and features are said.
            (0x4c, 1),
            (0x54, FIRST_INODE),
            (0x5c, COMPATIBLE | when(reserved > 0, HAS_RESIZE_INODE)),
            (
                0x60,
                INCOMPATIBLE | when(self.has_xattr_inodes, HAS_XATTR_INODES),
            ),
            (0x64, READ_ONLY_COMPATIBLE),
            (0xe0, JOURNAL_INODE),
            (0x100, DEFAULT_MOUNT_OPTIONS),
            (0x150, high(blocks)),
            (0x158, high(self.free_blocks)),
            (0x160, UNSIGNED_HASH),
            // The copy of the journal inode's size, high half first.
            (0x10c + 15 * 4, high(self.journal.1)),
            (0x10c + 16 * 4, low(self.journal.1)),
            (0x248, low(self.geometry.total_overhead())),
        ];
        for (offset, value) in numbers {
            put_u32(&mut block, offset, value);
        }
        let halves: [(usize, u16); 9] = [
            // Never checked for having been mounted often.
            (0x36, 0xffff),
            (0x38, 0xef53),
            // Unmounted cleanly; go on after errors.
            (0x3a, 1),
            (0x3c, 1),
            (0x58, INODE as u16),
            (0x5a, group as u16),
            (0xce, reserved as u16),
            (0xfe, DESCRIPTOR as u16),
            (0x15c, 32),
        ];
        for (offset, value) in halves {
            put_u16(&mut block, offset, value);
        }
        put_u16(&mut block, 0x15e, 32);
        block[0x68..0x78].copy_from_slice(self.uuid.as_bytes());
        block[0xec..0xfc].copy_from_slice(self.uuid.as_bytes());
        block[0xfc] = HASH_VERSION;
        // The journal's map is kept here too.
        block[0xfd] = 1;
        block[0x10c..0x10c + 60].copy_from_slice(self.journal.0);
        // Checksums are CRC-32C.
        block[0x175] = 1;
        let checksum = crc(!0, &block[..SIZE - 4]);
        put_u32(&mut block, SIZE - 4, checksum);
        block
    }
}

/// The seed of names' hashes, which the superblock holds.
pub fn hash_seed(uuid: Uuid) -> [u32; 4] {
    let bytes = uuid.as_bytes();
    std::array::from_fn(|number| {
        let at = number * 4;
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    })
}

/// The seed of all checksums.
pub fn checksum_seed(uuid: Uuid) -> u32 {
    crc(!0, uuid.as_bytes())
}
