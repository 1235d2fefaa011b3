//! Encoding of inodes (Documentation/filesystems/ext4/inodes.rst).

use crate::{
    SpecialFile,
    bytes::{crc, high, high_half, low, low_half, put_u16, put_u32},
    geometry::{BLOCK, EXTRA_ISIZE, INODE},
    layout::{
        EXT4_FT_BLKDEV, EXT4_FT_CHRDEV, EXT4_FT_DIR, EXT4_FT_FIFO, EXT4_FT_REG_FILE, EXT4_FT_SOCK,
        EXT4_FT_SYMLINK, EXT4_GOOD_OLD_INODE_SIZE, I_ATIME, I_ATIME_EXTRA, I_BLOCK, I_BLOCK_SIZE,
        I_BLOCKS_LO, I_CHECKSUM_HI, I_CRTIME, I_CRTIME_EXTRA, I_CTIME, I_CTIME_EXTRA,
        I_EXTRA_ISIZE, I_FILE_ACL_LO, I_FLAGS, I_GID, I_LINKS_COUNT, I_MODE, I_MTIME,
        I_MTIME_EXTRA, I_SIZE_HIGH, I_SIZE_LO, I_UID, L_I_BLOCKS_HIGH, L_I_CHECKSUM_LO,
        L_I_FILE_ACL_HIGH, L_I_GID_HIGH, L_I_UID_HIGH, L_I_VERSION, S_IFBLK, S_IFCHR, S_IFDIR,
        S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK,
    },
    node::{NodeKind, SharedAttributes},
    time::InodeTime,
    xattr::XattrPlacement,
    xattr_values::XattrValue,
};

/// Type of an inode, in the inode and in directory entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileType {
    /// Type bits of `i_mode`.
    pub mode: u16,
    /// `file_type` of a directory entry.
    pub entry_type: u8,
}

impl FileType {
    /// Regular file.
    pub(crate) const FILE: FileType = FileType::new(S_IFREG, EXT4_FT_REG_FILE);
    /// Directory.
    pub(crate) const DIRECTORY: FileType = FileType::new(S_IFDIR, EXT4_FT_DIR);
    /// Symbolic link.
    pub(crate) const SYMLINK: FileType = FileType::new(S_IFLNK, EXT4_FT_SYMLINK);

    const fn new(mode: u16, entry_type: u8) -> FileType {
        FileType { mode, entry_type }
    }

    /// Returns the type of a node that was not removed.
    pub(crate) fn from_node(kind: &NodeKind) -> FileType {
        match kind {
            NodeKind::Directory { .. } => FileType::DIRECTORY,
            NodeKind::File { .. } | NodeKind::Removed => FileType::FILE,
            NodeKind::Symlink(_) => FileType::SYMLINK,
            NodeKind::Special(special) => FileType::from_special(*special),
        }
    }

    /// Returns the type of a special file.
    pub(crate) fn from_special(special: SpecialFile) -> FileType {
        match special {
            SpecialFile::CharDevice { .. } => FileType::new(S_IFCHR, EXT4_FT_CHRDEV),
            SpecialFile::BlockDevice { .. } => FileType::new(S_IFBLK, EXT4_FT_BLKDEV),
            SpecialFile::Fifo => FileType::new(S_IFIFO, EXT4_FT_FIFO),
            SpecialFile::Socket => FileType::new(S_IFSOCK, EXT4_FT_SOCK),
        }
    }
}

/// Fields of an inode that depend on its type and contents.
#[derive(Debug)]
pub(crate) struct InodeContents {
    /// Type.
    pub file_type: FileType,
    /// Size in bytes.
    pub size: u64,
    /// Number of 4 KiB blocks, including those of the extent tree and of extended attributes.
    pub blocks: u64,
    /// `i_block`.
    pub map: [u8; I_BLOCK_SIZE],
    /// `i_flags`.
    pub flags: u32,
    /// Block of extended attributes; 0 if there is none.
    pub xattr_block: u64,
    /// Value of an extended attribute, if the inode contains one.
    pub xattr_value: Option<XattrValue>,
}

impl InodeContents {
    /// Returns the fields of an inode without blocks.
    pub(crate) fn empty(file_type: FileType) -> InodeContents {
        InodeContents {
            file_type,
            size: 0,
            blocks: 0,
            map: [0; I_BLOCK_SIZE],
            flags: 0,
            xattr_block: 0,
            xattr_value: None,
        }
    }
}

/// Returns the checksum seed of an inode, its directory blocks and its extent tree.
pub(crate) fn checksum_seed(inode: u32, seed: u32) -> u32 {
    let generation = [0; 4];
    crc(crc(seed, &inode.to_le_bytes()), &generation)
}

/// Encodes an inode. `seed` is its [`checksum_seed`]. `mtime` is used for all four timestamps.
pub(crate) fn encode(
    contents: &InodeContents,
    mtime: InodeTime,
    shared: &SharedAttributes,
    links: u16,
    xattrs: &XattrPlacement<'_>,
    seed: u32,
) -> [u8; INODE] {
    let mut inode = [0; INODE];
    let mode = contents.file_type.mode | (shared.mode & 0o7777);
    put_u16(&mut inode, I_MODE, mode);
    put_u16(&mut inode, I_UID, low_half(shared.uid));
    put_u32(&mut inode, I_SIZE_LO, low(contents.size));
    put_u16(&mut inode, I_GID, low_half(shared.gid));
    put_u16(&mut inode, I_LINKS_COUNT, links);
    // i_blocks counts sectors of 512 bytes.
    let sectors = contents.blocks * (BLOCK as u64 / 512);
    put_u32(&mut inode, I_BLOCKS_LO, low(sectors));
    put_u32(&mut inode, I_FLAGS, contents.flags);
    inode[I_BLOCK..][..I_BLOCK_SIZE].copy_from_slice(&contents.map);
    put_u32(&mut inode, I_FILE_ACL_LO, low(contents.xattr_block));
    put_u32(&mut inode, I_SIZE_HIGH, high(contents.size));
    put_u16(&mut inode, L_I_BLOCKS_HIGH, low_half(high(sectors)));
    let xattr_block_high = low_half(high(contents.xattr_block));
    put_u16(&mut inode, L_I_FILE_ACL_HIGH, xattr_block_high);
    put_u16(&mut inode, L_I_UID_HIGH, high_half(shared.uid));
    put_u16(&mut inode, L_I_GID_HIGH, high_half(shared.gid));
    put_u16(&mut inode, I_EXTRA_ISIZE, EXTRA_ISIZE);
    for (seconds, extra) in [
        (I_ATIME, I_ATIME_EXTRA),
        (I_CTIME, I_CTIME_EXTRA),
        (I_MTIME, I_MTIME_EXTRA),
        (I_CRTIME, I_CRTIME_EXTRA),
    ] {
        put_u32(&mut inode, seconds, mtime.seconds);
        put_u32(&mut inode, extra, mtime.extra);
    }
    if let Some(value) = contents.xattr_value {
        // An inode with an attribute's value has its hash as access time, and a reference count
        // whose low half is the version and whose high half is the change time, here 0.
        put_u32(&mut inode, I_ATIME, value.hash);
        put_u32(&mut inode, L_I_VERSION, value.references);
    }
    xattrs.put_in_inode(&mut inode[EXT4_GOOD_OLD_INODE_SIZE + usize::from(EXTRA_ISIZE)..]);
    let checksum = crc(seed, &inode);
    put_u16(&mut inode, L_I_CHECKSUM_LO, low_half(checksum));
    put_u16(&mut inode, I_CHECKSUM_HI, high_half(checksum));
    inode
}

/// Returns the `i_block` of a special file: a device number in the old 16-bit form if it fits, else
/// in the 32-bit form.
pub(crate) fn device_map(special: SpecialFile) -> [u8; I_BLOCK_SIZE] {
    let mut map = [0; I_BLOCK_SIZE];
    if let SpecialFile::CharDevice { major, minor } | SpecialFile::BlockDevice { major, minor } =
        special
    {
        if major < 256 && minor < 256 {
            put_u32(&mut map, 0, (major << 8) | minor);
        } else {
            put_u32(
                &mut map,
                4,
                (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
            );
        }
    }
    map
}
