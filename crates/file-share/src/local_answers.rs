//! Requests that our kernel for guests (`guest/patches`) need not make, because the file share has
//! answered them before. Other kernels make them.
//!
//! | request | answered by |
//! |---|---|
//! | GETXATTR and LISTXATTR | [`NO_XATTR`] in attributes, as long as these are valid |
//! | FLUSH | [`NOFLUSH`](virtiofsd::filesystem::OpenOptions::NOFLUSH), until a program asks for a POSIX lock of the file |
//! | LOOKUP and GETATTR | names and attributes, until the host changes them ([`crate::expiry`]) |
//!
//! This applies to file systems of the host's own disks. In others, closing a file may report an
//! error, and attributes may exist that are not listed.

use std::{
    fs::File,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::fs::fstatfs;
use virtiofsd::fuse::{Attr, InHeader};

/// Time for which the guest may cache names and attributes without being asked to expire them.
pub(crate) const SHORT_VALIDITY: Duration = Duration::from_secs(1);

/// Flag of attributes (`FUSE_ATTR_NO_XATTR`): the file has no extended attributes.
pub(crate) const NO_XATTR: u32 = 1 << 31;

/// Bit of INIT's `flags2` (`FUSE_LOCAL_ANSWERS`): the kernel knows the first two answers.
pub(crate) const LOCAL_ANSWERS: u32 = 1 << 30;

/// Bit of INIT's `flags2` (`FUSE_EXPIRE`): the kernel expires on request what it has cached.
pub(crate) const EXPIRE: u32 = 1 << 29;

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
        let is_capable = flags2(init) & LOCAL_ANSWERS != 0;
        self.is_capable.store(is_capable, Ordering::Relaxed);
    }

    /// Returns whether a guest whose session has begun with this INIT request may cache names and
    /// attributes of the shared directory's own file system until it is asked to expire them.
    pub(crate) fn end_on_request(&self, init: &[u8]) -> bool {
        self.is_local && flags2(init) & EXPIRE != 0
    }

    /// Returns whether the guest may answer requests about files of the shared directory's own file
    /// system.
    pub(crate) fn are_possible(&self) -> bool {
        self.is_local && self.is_capable.load(Ordering::Relaxed)
    }
}

fn flags2(init: &[u8]) -> u32 {
    let flags2 = init.get(FLAGS2..).and_then(|bytes| bytes.first_chunk());
    u32::from_ne_bytes(flags2.copied().unwrap_or_default())
}

/// Returns whether the attributes say that the file has no extended ones.
pub(crate) fn says_no_xattr(attributes: &Attr) -> bool {
    attributes.flags & NO_XATTR != 0
}
