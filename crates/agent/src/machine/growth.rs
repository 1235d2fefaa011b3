//! Grows the machine's file system after its disk was enlarged.
//!
//! The kernel adds a few block groups at a time, in journal transactions. An interrupted growth
//! leaves a consistent file system, which the next boot grows further.
#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::Path,
};

// EXT4_IOC_RESIZE_FS (fs/ext4/ext4.h). The argument is the new number of blocks.
nix::ioctl_write_ptr!(resize, b'f', 16, u64);

/// Offset of the superblock in the device, and its length, in bytes.
const SUPERBLOCK_OFFSET: u64 = 1024;
const SUPERBLOCK_LENGTH: usize = 1024;

/// Offsets of superblock fields (Documentation/filesystems/ext4/super.rst).
const S_BLOCKS_COUNT_LO: usize = 0x4;
const S_LOG_BLOCK_SIZE: usize = 0x18;
const S_BLOCKS_COUNT_HI: usize = 0x150;

/// Grows a mounted ext4 file system to the size of its block device.
pub(super) fn fill_disk(device: &Path, mounted_at: &Path) -> io::Result<()> {
    let mut superblock = [0; SUPERBLOCK_LENGTH];
    File::open(device)?.read_exact_at(&mut superblock, SUPERBLOCK_OFFSET)?;
    let size = FileSystemSize::parse(&superblock);
    let device_blocks = device_bytes(device)? / size.block_bytes;
    if device_blocks <= size.blocks {
        return Ok(());
    }
    let root = File::open(mounted_at)?;
    // SAFETY: the descriptor is open during the call, which reads the number and keeps no pointer.
    unsafe { resize(root.as_raw_fd(), &device_blocks) }?;
    Ok(())
}

/// Returns the size of a block device in bytes.
fn device_bytes(device: &Path) -> io::Result<u64> {
    let name = device.file_name().unwrap_or_default();
    let sectors = fs::read_to_string(Path::new("/sys/class/block").join(name).join("size"))?;
    let sectors: u64 = sectors.trim().parse().map_err(io::Error::other)?;
    // Always in units of 512 bytes, whatever the device's sector size.
    Ok(sectors * 512)
}

/// Size of a file system.
#[derive(Debug, PartialEq, Eq)]
struct FileSystemSize {
    block_bytes: u64,
    blocks: u64,
}

impl FileSystemSize {
    /// Parses the superblock of a mounted file system.
    fn parse(superblock: &[u8; SUPERBLOCK_LENGTH]) -> FileSystemSize {
        let field = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&superblock[at..at + 4]);
            u32::from_le_bytes(bytes)
        };
        // Linux mounts blocks of at most 64 KiB. The bound keeps the shift from overflowing.
        let block_bytes = 1024 << field(S_LOG_BLOCK_SIZE).min(6);
        let blocks =
            u64::from(field(S_BLOCKS_COUNT_HI)) << 32 | u64::from(field(S_BLOCKS_COUNT_LO));
        FileSystemSize {
            block_bytes,
            blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_blocks_has_two_halves() {
        let mut superblock = [0; 1024];
        superblock[0x4..0x8].copy_from_slice(&7_u32.to_le_bytes());
        superblock[0x18] = 2;
        superblock[0x150] = 1;
        let size = FileSystemSize {
            block_bytes: 4096,
            blocks: (1 << 32) + 7,
        };
        assert_eq!(FileSystemSize::parse(&superblock), size);
    }
}
