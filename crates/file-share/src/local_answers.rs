//! Requests that our kernel for guests (`guest/patches`) need not make, because the file share has
//! answered them before. Other kernels make them.
//!
//! | request | answered by |
//! |---|---|
//! | GETXATTR and LISTXATTR | [`NO_XATTR`] in attributes, as long as these are valid |
//! | FLUSH | [`NOFLUSH`](virtiofsd::filesystem::OpenOptions::NOFLUSH), until a program asks for a POSIX lock of the file |
//!
//! This applies to file systems of the host's own disks. In others, closing a file may report an
//! error, and attributes may exist that are not listed.

use std::{
    fs::File,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::fstatfs;
use virtiofsd::fuse::{Attr, InHeader};

/// Flag of attributes (`FUSE_ATTR_NO_XATTR`): the file has no extended attributes.
pub(crate) const NO_XATTR: u32 = 1 << 31;

/// Bit of INIT's `flags2` (`FUSE_LOCAL_ANSWERS`): the kernel knows both answers.
pub(crate) const LOCAL_ANSWERS: u32 = 1 << 30;

/// Offset of `flags2` in an INIT request.
pub(crate) const FLAGS2: usize = size_of::<InHeader>() + 16;

/// File systems of disks, and those that behave like them (`f_type` of statfs(2)).
const LOCAL_FILE_SYSTEMS: [i64; 6] = [
    libc::EXT4_SUPER_MAGIC,
    libc::XFS_SUPER_MAGIC,
    libc::BTRFS_SUPER_MAGIC,
    libc::F2FS_SUPER_MAGIC,
    libc::TMPFS_MAGIC,
    libc::OVERLAYFS_SUPER_MAGIC,
];

/// Whether the guest may answer requests itself.
#[derive(Debug, Default)]
pub(crate) struct LocalAnswers {
    /// Whether the shared directory is on a [local file system](LOCAL_FILE_SYSTEMS).
    is_local: bool,
    /// Whether the guest's kernel is ours.
    is_capable: AtomicBool,
}

impl LocalAnswers {
    pub(crate) fn new(root: &File) -> LocalAnswers {
        let is_local = fstatfs(root).is_ok_and(|it| LOCAL_FILE_SYSTEMS.contains(&it.f_type));
        LocalAnswers {
            is_local,
            is_capable: AtomicBool::new(false),
        }
    }

    /// Notes with which INIT request the guest's session has begun.
    pub(crate) fn begin(&self, init: &[u8]) {
        let flags2 = init.get(FLAGS2..).and_then(|bytes| bytes.first_chunk());
        let flags2 = u32::from_ne_bytes(flags2.copied().unwrap_or_default());
        let is_capable = flags2 & LOCAL_ANSWERS != 0;
        self.is_capable.store(is_capable, Ordering::Relaxed);
    }

    /// Returns whether the guest may answer requests about files of the shared directory's own file
    /// system.
    pub(crate) fn are_possible(&self) -> bool {
        self.is_local && self.is_capable.load(Ordering::Relaxed)
    }
}

/// Returns whether the attributes say that the file has no extended ones.
pub(crate) fn says_no_xattr(attributes: &Attr) -> bool {
    attributes.flags & NO_XATTR != 0
}
