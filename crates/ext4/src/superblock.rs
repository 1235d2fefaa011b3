//! Encoding of the superblock (Documentation/filesystems/ext4/super.rst).

use uuid::Uuid;

use crate::{
    bytes::{crc, high, low, put_u16, put_u32},
    geometry::{
        BLOCK, BLOCKS_PER_GROUP, DESCRIPTOR, EXTRA_ISIZE, Geometry, INODE, INODES_PER_GROUP,
    },
    layout::{
        DX_HASH_HALF_MD4, EXT2_FLAGS_UNSIGNED_HASH, EXT3_JNL_BACKUP_BLOCKS, EXT4_CRC32C_CHKSUM,
        EXT4_DEFM_ACL, EXT4_DEFM_XATTR_USER, EXT4_DYNAMIC_REV, EXT4_ERRORS_RO,
        EXT4_FEATURE_COMPAT_DIR_INDEX, EXT4_FEATURE_COMPAT_EXT_ATTR,
        EXT4_FEATURE_COMPAT_HAS_JOURNAL, EXT4_FEATURE_COMPAT_RESIZE_INODE,
        EXT4_FEATURE_INCOMPAT_64BIT, EXT4_FEATURE_INCOMPAT_EA_INODE, EXT4_FEATURE_INCOMPAT_EXTENTS,
        EXT4_FEATURE_INCOMPAT_FILETYPE, EXT4_FEATURE_RO_COMPAT_DIR_NLINK,
        EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE, EXT4_FEATURE_RO_COMPAT_HUGE_FILE,
        EXT4_FEATURE_RO_COMPAT_LARGE_FILE, EXT4_FEATURE_RO_COMPAT_METADATA_CSUM,
        EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER, EXT4_GOOD_OLD_FIRST_INO, EXT4_JOURNAL_INO,
        EXT4_SUPER_MAGIC, EXT4_VALID_FS, I_BLOCK_SIZE, S_BLOCK_GROUP_NR, S_BLOCKS_COUNT_HI,
        S_BLOCKS_COUNT_LO, S_BLOCKS_PER_GROUP, S_CHECKSUM, S_CHECKSUM_TYPE, S_CLUSTERS_PER_GROUP,
        S_DEF_HASH_VERSION, S_DEFAULT_MOUNT_OPTS, S_DESC_SIZE, S_ERRORS, S_FEATURE_COMPAT,
        S_FEATURE_INCOMPAT, S_FEATURE_RO_COMPAT, S_FIRST_INO, S_FLAGS, S_FREE_BLOCKS_COUNT_HI,
        S_FREE_BLOCKS_COUNT_LO, S_FREE_INODES_COUNT, S_HASH_SEED, S_INODE_SIZE, S_INODES_COUNT,
        S_INODES_PER_GROUP, S_JNL_BACKUP_TYPE, S_JNL_BLOCKS, S_JOURNAL_INUM, S_LOG_BLOCK_SIZE,
        S_LOG_CLUSTER_SIZE, S_MAGIC, S_MAX_MNT_COUNT, S_MIN_EXTRA_ISIZE, S_OVERHEAD_CLUSTERS,
        S_R_BLOCKS_COUNT_LO, S_RESERVED_GDT_BLOCKS, S_REV_LEVEL, S_STATE, S_UUID,
        S_WANT_EXTRA_ISIZE,
    },
};

/// Bytes of a superblock.
pub(crate) const SIZE: usize = 1024;

/// `s_log_block_size` of blocks of 4 KiB, counted from 1 KiB.
pub(crate) const LOG_BLOCK_SIZE: u32 = 2;

const COMPAT: u32 =
    EXT4_FEATURE_COMPAT_HAS_JOURNAL | EXT4_FEATURE_COMPAT_EXT_ATTR | EXT4_FEATURE_COMPAT_DIR_INDEX;
const INCOMPAT: u32 =
    EXT4_FEATURE_INCOMPAT_FILETYPE | EXT4_FEATURE_INCOMPAT_EXTENTS | EXT4_FEATURE_INCOMPAT_64BIT;
const RO_COMPAT: u32 = EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER
    | EXT4_FEATURE_RO_COMPAT_LARGE_FILE
    | EXT4_FEATURE_RO_COMPAT_HUGE_FILE
    | EXT4_FEATURE_RO_COMPAT_DIR_NLINK
    | EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE
    | EXT4_FEATURE_RO_COMPAT_METADATA_CSUM;

/// Parts of a superblock that differ between file systems.
#[derive(Debug)]
pub(crate) struct Superblock<'a> {
    /// Size and block groups.
    pub geometry: Geometry,
    /// UUID of the file system, which is also the seed of checksums and of name hashes.
    pub uuid: Uuid,
    /// Number of blocks not in use.
    pub free_blocks: u64,
    /// Number of inodes not in use.
    pub free_inodes: u32,
    /// Whether any inode contains the value of an extended attribute. The feature is only set if
    /// necessary, because some programs do not support it.
    pub has_xattr_inodes: bool,
    /// `i_block` and size of the journal's inode, of which the superblock has a copy.
    pub journal: (&'a [u8; I_BLOCK_SIZE], u64),
}

/// Blocks that only root can use, so that the system keeps working on a disk that a user has
/// filled: 1 %, at most 128 MiB.
fn reserved_for_root(blocks: u64) -> u32 {
    const MAXIMUM: u64 = (128 << 20) / BLOCK as u64;
    (blocks / 100).min(MAXIMUM) as u32
}

impl Superblock<'_> {
    /// Returns the superblock, or the copy of it in another group than 0.
    pub(crate) fn encode(&self, group: u32) -> [u8; SIZE] {
        let mut block = [0; SIZE];
        self.put_sizes(&mut block);
        self.put_features(&mut block);
        self.put_state(&mut block, group);
        self.put_journal(&mut block);
        let checksum = crc(!0, &block[..S_CHECKSUM]);
        put_u32(&mut block, S_CHECKSUM, checksum);
        block
    }

    fn put_sizes(&self, block: &mut [u8; SIZE]) {
        let blocks = self.geometry.blocks();
        let fields: [(usize, u32); 13] = [
            (S_INODES_COUNT, self.geometry.inodes()),
            (S_BLOCKS_COUNT_LO, low(blocks)),
            (S_BLOCKS_COUNT_HI, high(blocks)),
            (S_R_BLOCKS_COUNT_LO, reserved_for_root(blocks)),
            (S_FREE_BLOCKS_COUNT_LO, low(self.free_blocks)),
            (S_FREE_BLOCKS_COUNT_HI, high(self.free_blocks)),
            (S_FREE_INODES_COUNT, self.free_inodes),
            (S_LOG_BLOCK_SIZE, LOG_BLOCK_SIZE),
            (S_LOG_CLUSTER_SIZE, LOG_BLOCK_SIZE),
            (S_BLOCKS_PER_GROUP, BLOCKS_PER_GROUP),
            (S_CLUSTERS_PER_GROUP, BLOCKS_PER_GROUP),
            (S_INODES_PER_GROUP, INODES_PER_GROUP),
            (S_OVERHEAD_CLUSTERS, low(self.geometry.total_overhead())),
        ];
        for (offset, value) in fields {
            put_u32(block, offset, value);
        }
        let reserved = self.geometry.reserved_descriptor_blocks();
        put_u16(block, S_RESERVED_GDT_BLOCKS, reserved as u16);
        put_u16(block, S_DESC_SIZE, DESCRIPTOR as u16);
        put_u16(block, S_INODE_SIZE, INODE as u16);
        put_u16(block, S_MIN_EXTRA_ISIZE, EXTRA_ISIZE);
        put_u16(block, S_WANT_EXTRA_ISIZE, EXTRA_ISIZE);
    }

    fn put_features(&self, block: &mut [u8; SIZE]) {
        let (mut compat, mut incompat) = (COMPAT, INCOMPAT);
        if self.geometry.reserved_descriptor_blocks() > 0 {
            compat |= EXT4_FEATURE_COMPAT_RESIZE_INODE;
        }
        if self.has_xattr_inodes {
            incompat |= EXT4_FEATURE_INCOMPAT_EA_INODE;
        }
        put_u32(block, S_FEATURE_COMPAT, compat);
        put_u32(block, S_FEATURE_INCOMPAT, incompat);
        put_u32(block, S_FEATURE_RO_COMPAT, RO_COMPAT);
        block[S_CHECKSUM_TYPE] = EXT4_CRC32C_CHKSUM;
        block[S_DEF_HASH_VERSION] = DX_HASH_HALF_MD4;
        block[S_HASH_SEED..][..16].copy_from_slice(self.uuid.as_bytes());
        put_u32(block, S_FLAGS, EXT2_FLAGS_UNSIGNED_HASH);
    }

    fn put_state(&self, block: &mut [u8; SIZE], group: u32) {
        block[S_UUID..][..16].copy_from_slice(self.uuid.as_bytes());
        put_u16(block, S_MAGIC, EXT4_SUPER_MAGIC);
        put_u16(block, S_STATE, EXT4_VALID_FS);
        put_u16(block, S_ERRORS, EXT4_ERRORS_RO);
        // -1: no check after a number of mounts.
        put_u16(block, S_MAX_MNT_COUNT, 0xffff);
        put_u16(block, S_BLOCK_GROUP_NR, group as u16);
        // Older revisions have neither features nor a size of inodes.
        put_u32(block, S_REV_LEVEL, EXT4_DYNAMIC_REV);
        put_u32(block, S_FIRST_INO, EXT4_GOOD_OLD_FIRST_INO);
        let mount_options = EXT4_DEFM_XATTR_USER | EXT4_DEFM_ACL;
        put_u32(block, S_DEFAULT_MOUNT_OPTS, mount_options);
    }

    fn put_journal(&self, block: &mut [u8; SIZE]) {
        let (map, size) = self.journal;
        put_u32(block, S_JOURNAL_INUM, EXT4_JOURNAL_INO);
        block[S_JNL_BACKUP_TYPE] = EXT3_JNL_BACKUP_BLOCKS;
        block[S_JNL_BLOCKS..][..I_BLOCK_SIZE].copy_from_slice(map);
        put_u32(block, S_JNL_BLOCKS + I_BLOCK_SIZE, high(size));
        put_u32(block, S_JNL_BLOCKS + I_BLOCK_SIZE + 4, low(size));
    }
}

/// Returns the seed of name hashes: the UUID, as `s_hash_seed`.
pub(crate) fn hash_seed(uuid: Uuid) -> [u32; 4] {
    let bytes = uuid.as_bytes();
    std::array::from_fn(|number| {
        let at = number * 4;
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    })
}

/// Returns the seed of all metadata checksums except the superblock's own.
pub(crate) fn checksum_seed(uuid: Uuid) -> u32 {
    crc(!0, uuid.as_bytes())
}
