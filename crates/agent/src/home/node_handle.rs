//! File handles of FUSE (`fuse_encode_fh` in Linux's fs/fuse/inode.c).
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use nix::libc;

/// Type of a handle with a node id and a generation (`FILEID_INO64_GEN`), and of one that also
/// contains those of the parent directory.
const FILEID_INO64_GEN: i32 = 0x81;
const FILEID_INO64_GEN_PARENT: i32 = 0x82;

/// Length of a handle without a parent: three words.
const LENGTH: usize = 12;

/// Returns the node id in a handle.
pub(super) fn node(kind: i32, handle: &[u8]) -> Option<u64> {
    if kind != FILEID_INO64_GEN && kind != FILEID_INO64_GEN_PARENT {
        return None;
    }
    let (high, rest) = handle.split_first_chunk()?;
    let (low, _generation) = rest.split_first_chunk()?;
    let (high, low) = (u32::from_ne_bytes(*high), u32::from_ne_bytes(*low));
    Some(u64::from(high) << 32 | u64::from(low))
}

/// Returns the handle of a node. The file share gives all nodes the generation 0.
fn handle(node: u64) -> [u8; LENGTH] {
    let mut handle = [0; LENGTH];
    handle[..4].copy_from_slice(&((node >> 32) as u32).to_ne_bytes());
    handle[4..8].copy_from_slice(&(node as u32).to_ne_bytes());
    handle
}

/// `struct file_handle` of linux/fs.h.
#[repr(C)]
struct FileHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; LENGTH],
}

/// Returns the node id of an open file.
pub(super) fn of(file: &impl AsFd) -> io::Result<u64> {
    let mut handle = FileHandle {
        handle_bytes: LENGTH as u32,
        handle_type: 0,
        f_handle: [0; LENGTH],
    };
    let mut mount = 0;
    // SAFETY: the kernel writes a handle of at most the length that is in it, and a number.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_fd().as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let _: i32 = mount;
    let node = node(handle.handle_type, &handle.f_handle);
    node.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Opens a node (`O_PATH`) of the file system that a directory is on.
///
/// # Errors
/// `ESTALE` if the kernel does not remember the node.
pub(super) fn open(directory: &impl AsFd, node: u64) -> io::Result<OwnedFd> {
    let handle = FileHandle {
        handle_bytes: LENGTH as u32,
        handle_type: FILEID_INO64_GEN,
        f_handle: handle(node),
    };
    // SAFETY: the kernel reads the handle, whose length is in it.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            directory.as_fd().as_raw_fd(),
            &raw const handle,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    match i32::try_from(descriptor) {
        // SAFETY: the kernel has just created this descriptor, so nothing else owns it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_are_those_that_were_encoded() {
        for id in [1, 77, 0x1234_5678_9abc_def0] {
            assert_eq!(node(FILEID_INO64_GEN, &handle(id)), Some(id));
        }
        assert_eq!(node(1, &handle(1)), None);
        assert_eq!(node(FILEID_INO64_GEN, &[0; 7]), None);
    }
}
