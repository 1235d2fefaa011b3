//! Inodes on disk (Documentation/filesystems/ext4/inodes.rst).

use crate::{
    Special, Timestamp,
    bytes::{crc, get_u32, high, high_half, low, low_half, put_u16, put_u32},
    geometry::{BLOCK, INODE},
    pages::Record,
    tree::{Kind, Shared},
    values::SharedValue,
    xattr::Placed,
};

/// The inode maps its blocks with extents.
pub const USES_EXTENTS: u32 = 0x8_0000;
/// The inode holds the value of an extended attribute.
pub const HOLDS_XATTR: u32 = 0x20_0000;
/// The directory has an index.
pub const IS_INDEXED: u32 = 0x1000;

/// Bytes of fields beyond the classic 128.
const EXTRA: u16 = 32;

/// An inode's type bits, and what directories say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileType {
    /// The high bits of the mode.
    pub mode: u16,
    /// The kind in a directory entry.
    pub kind: u8,
}

impl FileType {
    /// A regular file.
    pub const FILE: FileType = FileType {
        mode: 0o100_000,
        kind: 1,
    };
    /// A directory.
    pub const DIRECTORY: FileType = FileType {
        mode: 0o040_000,
        kind: 2,
    };
    /// A symbolic link.
    pub const SYMLINK: FileType = FileType {
        mode: 0o120_000,
        kind: 7,
    };

    /// The type of a node that is there.
    pub fn of(kind: &Kind) -> FileType {
        let special = |mode, kind| FileType { mode, kind };
        match kind {
            Kind::Directory { .. } => FileType::DIRECTORY,
            Kind::File { .. } | Kind::Removed => FileType::FILE,
            Kind::Symlink(_) => FileType::SYMLINK,
            Kind::Special(Special::CharDevice { .. }) => special(0o020_000, 3),
            Kind::Special(Special::BlockDevice { .. }) => special(0o060_000, 4),
            Kind::Special(Special::Fifo) => special(0o010_000, 5),
            Kind::Special(Special::Socket) => special(0o140_000, 6),
        }
    }
}

/// What an inode holds besides attributes.
#[derive(Debug)]
pub struct Contents {
    /// Its type.
    pub file_type: FileType,
    /// Bytes.
    pub size: u64,
    /// Blocks of 4 KiB that it takes, its own maps and attributes included.
    pub blocks: u64,
    /// The 60 bytes that lead to them.
    pub map: [u8; 60],
    /// How the map is to be read.
    pub flags: u32,
    /// The block with attributes; 0 for none.
    pub xattr_block: u64,
    /// What is known of the value, if this is one of an extended attribute.
    pub shared_value: Option<SharedValue>,
}

impl Contents {
    /// Something of this type that takes no blocks.
    pub fn empty(file_type: FileType) -> Contents {
        Contents {
            file_type,
            size: 0,
            blocks: 0,
            map: [0; 60],
            flags: 0,
            xattr_block: 0,
            shared_value: None,
        }
    }
}

/// The checksum seed of an inode and of the blocks that are its own. Generations are 0.
pub fn seed_of(inode: u32, seed: u32) -> u32 {
    crc(crc(seed, &inode.to_le_bytes()), &[0; 4])
}

/// The inode's bytes. `seed` is [`seed_of`] it; `links` is how many names it has.
pub fn encode(
    contents: &Contents,
    mtime: InodeTime,
    shared: &Shared,
    links: u16,
    placed: &Placed<'_>,
    seed: u32,
) -> [u8; INODE] {
    let mut inode = [0; INODE];
    put_u16(
        &mut inode,
        0x00,
        contents.file_type.mode | (shared.mode & 0o7777),
    );
    put_u16(&mut inode, 0x02, low_half(shared.uid));
    put_u32(&mut inode, 0x04, low(contents.size));
    put_u16(&mut inode, 0x18, low_half(shared.gid));
    put_u16(&mut inode, 0x1a, links);
    // Counted in 512 bytes.
    let sectors = contents.blocks * (BLOCK as u64 / 512);
    put_u32(&mut inode, 0x1c, low(sectors));
    put_u32(&mut inode, 0x20, contents.flags);
    inode[0x28..0x64].copy_from_slice(&contents.map);
    put_u32(&mut inode, 0x68, low(contents.xattr_block));
    put_u32(&mut inode, 0x6c, high(contents.size));
    put_u16(&mut inode, 0x74, low_half(high(sectors)));
    put_u16(&mut inode, 0x76, low_half(high(contents.xattr_block)));
    put_u16(&mut inode, 0x78, high_half(shared.uid));
    put_u16(&mut inode, 0x7a, high_half(shared.gid));
    put_u16(&mut inode, 0x80, EXTRA);
    for (at, at_beyond) in [(0x08, 0x8c), (0x0c, 0x84), (0x10, 0x88), (0x90, 0x94)] {
        put_u32(&mut inode, at, mtime.seconds);
        put_u32(&mut inode, at_beyond, mtime.beyond);
    }
    if let Some(SharedValue {
        hash, references, ..
    }) = contents.shared_value
    {
        // Where others have a time of access and the low half of a version.
        put_u32(&mut inode, 0x08, hash);
        put_u32(&mut inode, 0x24, references);
    }
    placed.write_in_inode(&mut inode[128 + EXTRA as usize..]);
    let checksum = crc(seed, &inode);
    put_u16(&mut inode, 0x7c, low_half(checksum));
    put_u16(&mut inode, 0x82, high_half(checksum));
    inode
}

/// A moment as an inode has it: 34 bits of seconds and 30 of nanoseconds, from 1901 to 2446
/// (Documentation/filesystems/ext4/inodes.rst, "Inode Timestamps").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InodeTime {
    /// The low 32 bits of the seconds.
    seconds: u32,
    /// The nanoseconds, then the seconds' upper 2 bits.
    beyond: u32,
}

impl InodeTime {
    /// The first moment of 1970.
    pub const EPOCH: InodeTime = InodeTime {
        seconds: 0,
        beyond: 0,
    };
}

impl Record for InodeTime {
    const SIZE: usize = 8;

    fn write(&self, bytes: &mut [u8]) {
        put_u32(bytes, 0, self.seconds);
        put_u32(bytes, 4, self.beyond);
    }

    fn read(bytes: &[u8]) -> InodeTime {
        InodeTime {
            seconds: get_u32(bytes, 0),
            beyond: get_u32(bytes, 4),
        }
    }
}

impl From<Timestamp> for InodeTime {
    /// What is beyond the edge is brought to it.
    fn from(time: Timestamp) -> InodeTime {
        let first = i64::from(i32::MIN);
        let last = i64::from(i32::MAX) + 3 * (1 << 32);
        let seconds = time.seconds.clamp(first, last);
        let low_bits = (seconds & 0xffff_ffff) as u32;
        let epoch = ((seconds - i64::from(low_bits.cast_signed())) >> 32) as u32 & 3;
        InodeTime {
            seconds: low_bits,
            beyond: (time.nanoseconds.min(999_999_999) << 2) | epoch,
        }
    }
}

/// A device's number, where an inode's map would be: the old form where it fits, else the new.
pub fn device_map(special: Special) -> [u8; 60] {
    let mut map = [0; 60];
    if let Special::CharDevice { major, minor } | Special::BlockDevice { major, minor } = special {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_beyond_2038_and_before_1970() {
        let of = |seconds| {
            let time = InodeTime::from(Timestamp {
                seconds,
                nanoseconds: 5,
            });
            (time.seconds, time.beyond)
        };
        assert_eq!(of(0), (0, 5 << 2));
        assert_eq!(of(-1), (u32::MAX, 5 << 2));
        assert_eq!(of(1 << 31), (1 << 31, (5 << 2) | 1));
        assert_eq!(of(1 << 32), (0, (5 << 2) | 1));
        assert_eq!(of(i64::MAX).1 & 3, 3);
    }
}
