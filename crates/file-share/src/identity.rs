//! Identities of the host's files.

use std::{
    ffi::CStr,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io,
};

use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags, openat, statx};
use serde::{Deserialize, Serialize};
use virtiofsd::oslib::{CFileHandle, name_to_handle_at};

fn device(attributes: &Statx) -> u64 {
    u64::from(attributes.stx_dev_major) << 32 | u64::from(attributes.stx_dev_minor)
}

/// The identity of a file of the host, whatever its names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct FileIdentity {
    pub device: u64,
    /// The mount's id. A directory that is mounted twice counts as two.
    pub mount: u64,
    pub inode: u64,
    /// Distinguishes files that have the same inode number one after the other.
    generation: u64,
}

impl FileIdentity {
    /// Reads the identity of the file that `name` in `directory` is at this moment.
    pub(crate) fn read(directory: &File, name: &CStr) -> io::Result<FileIdentity> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        FileIdentity::of(&openat(directory, name, flags, Mode::empty())?.into())
    }

    /// Returns whether `name` in `directory` is this file, which is open.
    pub(crate) fn is_at(&self, directory: &File, name: &CStr) -> io::Result<bool> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
        let found = statx(directory, name, flags, StatxFlags::INO)?;
        Ok((device(&found), found.stx_ino) == (self.device, self.inode))
    }

    /// Reads the identity of an open file.
    pub(crate) fn of(file: &File) -> io::Result<FileIdentity> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME | StatxFlags::MNT_ID;
        // Known to the kernel while the file is open, so a server that hangs is not asked.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let attributes = statx(file, c"", flags, wanted)?;
        let mut generation = DefaultHasher::new();
        let mut handle = CFileHandle::default();
        let mut mount = 0;
        if name_to_handle_at(file, c"", &mut handle, &mut mount, libc::AT_EMPTY_PATH).is_ok() {
            handle.as_bytes().hash(&mut generation);
        } else {
            // This file system has no file handles; the creation time is the next best.
            let birth = attributes.stx_btime;
            (birth.tv_sec, birth.tv_nsec).hash(&mut generation);
        }
        Ok(FileIdentity {
            device: device(&attributes),
            mount: attributes.stx_mnt_id,
            inode: attributes.stx_ino,
            generation: generation.finish(),
        })
    }
}
