//! Byte offsets, magic numbers and flags of ext4's on-disk structures, by the kernel's names
//! (`fs/ext4/ext4.h`, `ext4_extents.h`, `xattr.h`, `namei.c`; `include/linux/jbd2.h`).
//!
//! Offsets are relative to the start of the structure. Fields that neither the writer nor the
//! reader uses are omitted; the writer leaves them zero. All numbers are little-endian, except in
//! the journal. A 64-bit number is split into fields `_LO` and `_HI` (or `_HIGH`).

// struct ext4_super_block: 1024 bytes, 1024 bytes from the start of the image.
pub(crate) const S_INODES_COUNT: usize = 0x00;
pub(crate) const S_BLOCKS_COUNT_LO: usize = 0x04;
pub(crate) const S_R_BLOCKS_COUNT_LO: usize = 0x08;
pub(crate) const S_FREE_BLOCKS_COUNT_LO: usize = 0x0c;
pub(crate) const S_FREE_INODES_COUNT: usize = 0x10;
pub(crate) const S_LOG_BLOCK_SIZE: usize = 0x18;
pub(crate) const S_LOG_CLUSTER_SIZE: usize = 0x1c;
pub(crate) const S_BLOCKS_PER_GROUP: usize = 0x20;
pub(crate) const S_CLUSTERS_PER_GROUP: usize = 0x24;
pub(crate) const S_INODES_PER_GROUP: usize = 0x28;
pub(crate) const S_MAX_MNT_COUNT: usize = 0x36;
pub(crate) const S_MAGIC: usize = 0x38;
pub(crate) const S_STATE: usize = 0x3a;
pub(crate) const S_ERRORS: usize = 0x3c;
pub(crate) const S_REV_LEVEL: usize = 0x4c;
pub(crate) const S_FIRST_INO: usize = 0x54;
pub(crate) const S_INODE_SIZE: usize = 0x58;
pub(crate) const S_BLOCK_GROUP_NR: usize = 0x5a;
pub(crate) const S_FEATURE_COMPAT: usize = 0x5c;
pub(crate) const S_FEATURE_INCOMPAT: usize = 0x60;
pub(crate) const S_FEATURE_RO_COMPAT: usize = 0x64;
pub(crate) const S_UUID: usize = 0x68;
pub(crate) const S_RESERVED_GDT_BLOCKS: usize = 0xce;
pub(crate) const S_JOURNAL_INUM: usize = 0xe0;
pub(crate) const S_HASH_SEED: usize = 0xec;
pub(crate) const S_DEF_HASH_VERSION: usize = 0xfc;
pub(crate) const S_JNL_BACKUP_TYPE: usize = 0xfd;
pub(crate) const S_DESC_SIZE: usize = 0xfe;
pub(crate) const S_DEFAULT_MOUNT_OPTS: usize = 0x100;
/// 17 numbers: the journal inode's `i_block` (15), then its size, high half first.
pub(crate) const S_JNL_BLOCKS: usize = 0x10c;
pub(crate) const S_BLOCKS_COUNT_HI: usize = 0x150;
pub(crate) const S_FREE_BLOCKS_COUNT_HI: usize = 0x158;
pub(crate) const S_MIN_EXTRA_ISIZE: usize = 0x15c;
pub(crate) const S_WANT_EXTRA_ISIZE: usize = 0x15e;
pub(crate) const S_FLAGS: usize = 0x160;
pub(crate) const S_CHECKSUM_TYPE: usize = 0x175;
pub(crate) const S_OVERHEAD_CLUSTERS: usize = 0x248;
pub(crate) const S_CHECKSUM: usize = 0x3fc;

pub(crate) const EXT4_SUPER_MAGIC: u16 = 0xef53;
pub(crate) const EXT4_VALID_FS: u16 = 0x1;
pub(crate) const EXT4_ERRORS_RO: u16 = 2;
pub(crate) const EXT4_DYNAMIC_REV: u32 = 1;
pub(crate) const EXT4_CRC32C_CHKSUM: u8 = 1;
pub(crate) const EXT2_FLAGS_UNSIGNED_HASH: u32 = 0x2;
pub(crate) const EXT4_DEFM_XATTR_USER: u32 = 0x4;
pub(crate) const EXT4_DEFM_ACL: u32 = 0x8;
/// e2fsprogs' name: `s_jnl_blocks` contains the journal inode's map and size.
pub(crate) const EXT3_JNL_BACKUP_BLOCKS: u8 = 1;

pub(crate) const EXT4_FEATURE_COMPAT_HAS_JOURNAL: u32 = 0x4;
pub(crate) const EXT4_FEATURE_COMPAT_EXT_ATTR: u32 = 0x8;
pub(crate) const EXT4_FEATURE_COMPAT_RESIZE_INODE: u32 = 0x10;
pub(crate) const EXT4_FEATURE_COMPAT_DIR_INDEX: u32 = 0x20;
pub(crate) const EXT4_FEATURE_INCOMPAT_FILETYPE: u32 = 0x2;
pub(crate) const EXT4_FEATURE_INCOMPAT_EXTENTS: u32 = 0x40;
pub(crate) const EXT4_FEATURE_INCOMPAT_64BIT: u32 = 0x80;
pub(crate) const EXT4_FEATURE_INCOMPAT_EA_INODE: u32 = 0x400;
pub(crate) const EXT4_FEATURE_RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
pub(crate) const EXT4_FEATURE_RO_COMPAT_LARGE_FILE: u32 = 0x2;
pub(crate) const EXT4_FEATURE_RO_COMPAT_HUGE_FILE: u32 = 0x8;
pub(crate) const EXT4_FEATURE_RO_COMPAT_DIR_NLINK: u32 = 0x20;
pub(crate) const EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE: u32 = 0x40;
pub(crate) const EXT4_FEATURE_RO_COMPAT_METADATA_CSUM: u32 = 0x400;

// Reserved inodes.
pub(crate) const EXT4_ROOT_INO: u32 = 2;
pub(crate) const EXT4_RESIZE_INO: u32 = 7;
pub(crate) const EXT4_JOURNAL_INO: u32 = 8;
/// First inode that is not reserved; `lost+found` has it.
pub(crate) const EXT4_GOOD_OLD_FIRST_INO: u32 = 11;

// struct ext4_group_desc: 64 bytes, because of the feature 64BIT.
pub(crate) const BG_BLOCK_BITMAP_LO: usize = 0x00;
pub(crate) const BG_INODE_BITMAP_LO: usize = 0x04;
pub(crate) const BG_INODE_TABLE_LO: usize = 0x08;
pub(crate) const BG_FREE_BLOCKS_COUNT_LO: usize = 0x0c;
pub(crate) const BG_FREE_INODES_COUNT_LO: usize = 0x0e;
pub(crate) const BG_USED_DIRS_COUNT_LO: usize = 0x10;
pub(crate) const BG_FLAGS: usize = 0x12;
pub(crate) const BG_BLOCK_BITMAP_CSUM_LO: usize = 0x18;
pub(crate) const BG_INODE_BITMAP_CSUM_LO: usize = 0x1a;
pub(crate) const BG_ITABLE_UNUSED_LO: usize = 0x1c;
pub(crate) const BG_CHECKSUM: usize = 0x1e;
pub(crate) const BG_BLOCK_BITMAP_HI: usize = 0x20;
pub(crate) const BG_INODE_BITMAP_HI: usize = 0x24;
pub(crate) const BG_INODE_TABLE_HI: usize = 0x28;
pub(crate) const BG_FREE_BLOCKS_COUNT_HI: usize = 0x2c;
pub(crate) const BG_FREE_INODES_COUNT_HI: usize = 0x2e;
pub(crate) const BG_USED_DIRS_COUNT_HI: usize = 0x30;
pub(crate) const BG_ITABLE_UNUSED_HI: usize = 0x32;
pub(crate) const BG_BLOCK_BITMAP_CSUM_HI: usize = 0x38;
pub(crate) const BG_INODE_BITMAP_CSUM_HI: usize = 0x3a;

/// The inode bitmap and inode table are not initialized: no inode is in use.
pub(crate) const EXT4_BG_INODE_UNINIT: u16 = 0x1;
/// The block bitmap is not initialized: only the group's own metadata is in use.
pub(crate) const EXT4_BG_BLOCK_UNINIT: u16 = 0x2;
/// The unused part of the inode table is zero.
pub(crate) const EXT4_BG_INODE_ZEROED: u16 = 0x4;

// struct ext4_inode. L_I_… are the fields of osd1 and osd2 as Linux uses them.
pub(crate) const I_MODE: usize = 0x00;
pub(crate) const I_UID: usize = 0x02;
pub(crate) const I_SIZE_LO: usize = 0x04;
pub(crate) const I_ATIME: usize = 0x08;
pub(crate) const I_CTIME: usize = 0x0c;
pub(crate) const I_MTIME: usize = 0x10;
pub(crate) const I_GID: usize = 0x18;
pub(crate) const I_LINKS_COUNT: usize = 0x1a;
pub(crate) const I_BLOCKS_LO: usize = 0x1c;
pub(crate) const I_FLAGS: usize = 0x20;
pub(crate) const L_I_VERSION: usize = 0x24;
pub(crate) const I_BLOCK: usize = 0x28;
pub(crate) const I_FILE_ACL_LO: usize = 0x68;
pub(crate) const I_SIZE_HIGH: usize = 0x6c;
pub(crate) const L_I_BLOCKS_HIGH: usize = 0x74;
pub(crate) const L_I_FILE_ACL_HIGH: usize = 0x76;
pub(crate) const L_I_UID_HIGH: usize = 0x78;
pub(crate) const L_I_GID_HIGH: usize = 0x7a;
pub(crate) const L_I_CHECKSUM_LO: usize = 0x7c;
pub(crate) const I_EXTRA_ISIZE: usize = 0x80;
pub(crate) const I_CHECKSUM_HI: usize = 0x82;
pub(crate) const I_CTIME_EXTRA: usize = 0x84;
pub(crate) const I_MTIME_EXTRA: usize = 0x88;
pub(crate) const I_ATIME_EXTRA: usize = 0x8c;
pub(crate) const I_CRTIME: usize = 0x90;
pub(crate) const I_CRTIME_EXTRA: usize = 0x94;

/// Bytes of `i_block`: the root of the extent tree, a short symlink's target or a device number.
pub(crate) const I_BLOCK_SIZE: usize = 60;
pub(crate) const EXT4_GOOD_OLD_INODE_SIZE: usize = 128;
/// `i_block` has this many block numbers in the map without extents; 13 is the double indirect one.
pub(crate) const EXT4_NDIR_BLOCKS: usize = 12;
pub(crate) const EXT4_DIND_BLOCK: usize = 13;

/// The directory has a hash tree.
pub(crate) const EXT4_INDEX_FL: u32 = 0x1000;
/// The blocks are mapped by extents.
pub(crate) const EXT4_EXTENTS_FL: u32 = 0x8_0000;
/// The inode contains the value of an extended attribute.
pub(crate) const EXT4_EA_INODE_FL: u32 = 0x20_0000;

// i_mode.
pub(crate) const S_IFMT: u16 = 0o170_000;
pub(crate) const S_IFSOCK: u16 = 0o140_000;
pub(crate) const S_IFLNK: u16 = 0o120_000;
pub(crate) const S_IFREG: u16 = 0o100_000;
pub(crate) const S_IFBLK: u16 = 0o060_000;
pub(crate) const S_IFDIR: u16 = 0o040_000;
pub(crate) const S_IFCHR: u16 = 0o020_000;
pub(crate) const S_IFIFO: u16 = 0o010_000;

/// Maximum link count. A directory with more has 1 (feature DIR_NLINK).
pub(crate) const EXT4_LINK_MAX: u16 = 65000;

// struct ext4_extent_header, at the start of each node of an extent tree.
pub(crate) const EH_MAGIC: usize = 0x00;
pub(crate) const EH_ENTRIES: usize = 0x02;
pub(crate) const EH_MAX: usize = 0x04;
pub(crate) const EH_DEPTH: usize = 0x06;
pub(crate) const EXT4_EXT_MAGIC: u16 = 0xf30a;
/// Bytes of a header, of an index entry and of a leaf entry alike.
pub(crate) const EXTENT_ENTRY_SIZE: usize = 12;
// struct ext4_extent_idx, an entry of an inner node.
pub(crate) const EI_BLOCK: usize = 0x00;
pub(crate) const EI_LEAF_LO: usize = 0x04;
pub(crate) const EI_LEAF_HI: usize = 0x08;
// struct ext4_extent, an entry of a leaf.
pub(crate) const EE_BLOCK: usize = 0x00;
pub(crate) const EE_LEN: usize = 0x04;
pub(crate) const EE_START_HI: usize = 0x06;
pub(crate) const EE_START_LO: usize = 0x08;
/// Blocks of the longest extent; a larger `ee_len` marks an unwritten one.
pub(crate) const EXT_INIT_MAX_LEN: u32 = 1 << 15;

// struct ext4_dir_entry_2, whose fields have no prefix in the kernel.
pub(crate) const DE_INODE: usize = 0x00;
pub(crate) const DE_REC_LEN: usize = 0x04;
pub(crate) const DE_NAME_LEN: usize = 0x06;
pub(crate) const DE_FILE_TYPE: usize = 0x07;
pub(crate) const DE_NAME: usize = 0x08;
pub(crate) const EXT4_NAME_LEN: usize = 255;
pub(crate) const EXT4_FT_REG_FILE: u8 = 1;
pub(crate) const EXT4_FT_DIR: u8 = 2;
pub(crate) const EXT4_FT_CHRDEV: u8 = 3;
pub(crate) const EXT4_FT_BLKDEV: u8 = 4;
pub(crate) const EXT4_FT_FIFO: u8 = 5;
pub(crate) const EXT4_FT_SOCK: u8 = 6;
pub(crate) const EXT4_FT_SYMLINK: u8 = 7;
// struct ext4_dir_entry_tail, at the end of each block of entries. To a reader without metadata
// checksums it is an unused entry.
pub(crate) const DET_REC_LEN: usize = 0x04;
pub(crate) const DET_RESERVED_FT: usize = 0x07;
pub(crate) const DET_CHECKSUM: usize = 0x08;
pub(crate) const DIR_ENTRY_TAIL_SIZE: usize = 12;
pub(crate) const EXT4_FT_DIR_CSUM: u8 = 0xde;

// struct dx_root, the first block of an indexed directory: `.`, `..`, dx_root_info, entries.
pub(crate) const DX_ROOT_DOTDOT: usize = 0x0c;
pub(crate) const DX_ROOT_HASH_VERSION: usize = 0x1c;
pub(crate) const DX_ROOT_INFO_LENGTH: usize = 0x1d;
pub(crate) const DX_ROOT_INDIRECT_LEVELS: usize = 0x1e;
pub(crate) const DX_ROOT_ENTRIES: usize = 0x20;
pub(crate) const DX_ROOT_INFO_SIZE: u8 = 8;
pub(crate) const DX_HASH_HALF_MD4: u8 = 1;
// struct dx_node, an inner block: one unused entry that spans the block, then the index entries.
pub(crate) const DX_NODE_FAKE_REC_LEN: usize = 0x04;
pub(crate) const DX_NODE_ENTRIES: usize = 0x08;
// struct dx_entry. In the first one of a block, struct dx_countlimit takes the place of the hash.
pub(crate) const DX_ENTRY_HASH: usize = 0x00;
pub(crate) const DX_ENTRY_BLOCK: usize = 0x04;
pub(crate) const DX_ENTRY_SIZE: usize = 8;
pub(crate) const DX_COUNTLIMIT_LIMIT: usize = 0x00;
pub(crate) const DX_COUNTLIMIT_COUNT: usize = 0x02;
// struct dx_tail, after the last index entry that a block can contain.
pub(crate) const DT_RESERVED: usize = 0x00;
pub(crate) const DT_CHECKSUM: usize = 0x04;
pub(crate) const DX_TAIL_SIZE: usize = 8;

// struct ext4_xattr_ibody_header: h_magic alone, after an inode's fields.
// struct ext4_xattr_header, at the start of a block of extended attributes.
pub(crate) const H_MAGIC: usize = 0x00;
pub(crate) const H_REFCOUNT: usize = 0x04;
pub(crate) const H_BLOCKS: usize = 0x08;
pub(crate) const H_HASH: usize = 0x0c;
pub(crate) const H_CHECKSUM: usize = 0x10;
pub(crate) const XATTR_IBODY_HEADER_SIZE: usize = 4;
pub(crate) const XATTR_HEADER_SIZE: usize = 32;
pub(crate) const EXT4_XATTR_MAGIC: u32 = 0xea02_0000;
// struct ext4_xattr_entry, followed by the name without its prefix.
pub(crate) const E_NAME_LEN: usize = 0x00;
pub(crate) const E_NAME_INDEX: usize = 0x01;
pub(crate) const E_VALUE_OFFS: usize = 0x02;
pub(crate) const E_VALUE_INUM: usize = 0x04;
pub(crate) const E_VALUE_SIZE: usize = 0x08;
pub(crate) const E_HASH: usize = 0x0c;
pub(crate) const E_NAME: usize = 0x10;
/// `e_name_index`, which replaces a name's prefix.
pub(crate) const EXT4_XATTR_INDEX_USER: u8 = 1;
pub(crate) const EXT4_XATTR_INDEX_POSIX_ACL_ACCESS: u8 = 2;
pub(crate) const EXT4_XATTR_INDEX_POSIX_ACL_DEFAULT: u8 = 3;
pub(crate) const EXT4_XATTR_INDEX_TRUSTED: u8 = 4;
pub(crate) const EXT4_XATTR_INDEX_SECURITY: u8 = 6;

// struct journal_superblock_s and the journal_header_s at its start, big-endian. The prefix JBD2
// distinguishes them from ext4's own fields of the same name.
pub(crate) const JBD2_H_MAGIC: usize = 0x00;
pub(crate) const JBD2_H_BLOCKTYPE: usize = 0x04;
pub(crate) const JBD2_S_BLOCKSIZE: usize = 0x0c;
pub(crate) const JBD2_S_MAXLEN: usize = 0x10;
pub(crate) const JBD2_S_FIRST: usize = 0x14;
pub(crate) const JBD2_S_SEQUENCE: usize = 0x18;
pub(crate) const JBD2_S_UUID: usize = 0x30;
pub(crate) const JBD2_S_NR_USERS: usize = 0x40;
pub(crate) const JBD2_MAGIC_NUMBER: u32 = 0xc03b_3998;
pub(crate) const JBD2_SUPERBLOCK_V2: u32 = 4;
