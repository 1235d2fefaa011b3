//! The disk's file system fills the disk, which may have become larger since the last boot.
//!
//! The kernel grows it by some groups at a time and in its journal: cut off at any point, it is
//! whole, and the next boot grows it further.
#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::Path,
};

// EXT4_IOC_RESIZE_FS (fs/ext4/ext4.h): the number of blocks that the file system is to have.
nix::ioctl_write_ptr!(resize, b'f', 16, u64);

/// Grows the mounted ext4 file system to the size of the block device that it is on.
pub fn fill_disk(device: &Path, mounted_at: &Path) -> io::Result<()> {
    let mut superblock = [0; 1024];
    File::open(device)?.read_exact_at(&mut superblock, 1024)?;
    let size = Size::of(&superblock);
    let room = bytes_of(device)? / size.block;
    if room <= size.blocks {
        return Ok(());
    }
    let root = File::open(mounted_at)?;
    // SAFETY: the descriptor is open during the call, which reads the number and keeps nothing.
    unsafe { resize(root.as_raw_fd(), &room) }?;
    Ok(())
}

/// How large the kernel says the device is.
fn bytes_of(device: &Path) -> io::Result<u64> {
    let name = device.file_name().unwrap_or_default();
    let sectors = fs::read_to_string(Path::new("/sys/class/block").join(name).join("size"))?;
    let sectors: u64 = sectors.trim().parse().map_err(io::Error::other)?;
    Ok(sectors * 512)
}

/// How large a file system is.
#[derive(Debug, PartialEq, Eq)]
struct Size {
    /// Bytes of a block.
    block: u64,
    blocks: u64,
}

impl Size {
    /// As the superblock of a mounted file system has it (Documentation/filesystems/ext4/super.rst).
    fn of(superblock: &[u8; 1024]) -> Size {
        let number = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&superblock[at..at + 4]);
            u32::from_le_bytes(bytes)
        };
        // A mounted one has blocks of 64 KiB at most.
        let block = 1024 << number(0x18).min(6);
        let blocks = u64::from(number(0x150)) << 32 | u64::from(number(0x4));
        Size { block, blocks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_two_halves() {
        let mut superblock = [0; 1024];
        superblock[0x4..0x8].copy_from_slice(&7_u32.to_le_bytes());
        superblock[0x18] = 2;
        superblock[0x150] = 1;
        let size = Size {
            block: 4096,
            blocks: (1 << 32) + 7,
        };
        assert_eq!(Size::of(&superblock), size);
    }
}
