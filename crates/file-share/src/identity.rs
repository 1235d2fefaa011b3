use std::{
    ffi::CStr,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io,
};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};
use virtiofsd::oslib::{CFileHandle, name_to_handle_at};

/// What makes a file of the host the one that it is, whatever its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    device: u64,
    /// A directory that is mounted at two places is two directories.
    mount: u64,
    pub inode: u64,
    /// Tells one file from the next that is given its inode number.
    generation: u64,
}

impl Identity {
    /// The identity of what `name` in `directory` is at this moment.
    pub fn of(directory: &File, name: &CStr) -> io::Result<Identity> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(directory, name, flags, Mode::empty())?);
        let wanted = StatxFlags::INO | StatxFlags::BTIME | StatxFlags::MNT_ID;
        let about = statx(&file, c"", AtFlags::EMPTY_PATH, wanted)?;
        let mut generation = DefaultHasher::new();
        let mut handle = CFileHandle::default();
        let mut mount = 0;
        if name_to_handle_at(&file, c"", &mut handle, &mut mount, libc::AT_EMPTY_PATH).is_ok() {
            handle.as_bytes().hash(&mut generation);
        } else {
            // This file system has no handles: the time of birth is the next best.
            let birth = about.stx_btime;
            (birth.tv_sec, birth.tv_nsec).hash(&mut generation);
        }
        Ok(Identity {
            device: u64::from(about.stx_dev_major) << 32 | u64::from(about.stx_dev_minor),
            mount: about.stx_mnt_id,
            inode: about.stx_ino,
            generation: generation.finish(),
        })
    }
}
