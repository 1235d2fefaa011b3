//! Marks lookups that are part of listing a directory (READDIRPLUS).
//!
//! The guest's kernel asks for the attributes of all files while it lists a directory, although the
//! program may only want their names. A file system that is mounted in the directory, and whose
//! server does not answer, must not prevent that.

use std::{cell::Cell, ffi::CStr, fs::File};

use rustix::fs::{AtFlags, StatxFlags, statx};

thread_local! {
    static IS_LISTING: Cell<bool> = const { Cell::new(false) };
}

/// Calls `act`, which lists a directory.
pub(crate) fn while_listing<T>(act: impl FnOnce() -> T) -> T {
    IS_LISTING.set(true);
    let result = act();
    IS_LISTING.set(false);
    result
}

/// Returns whether this thread lists a directory.
pub(crate) fn is_listing() -> bool {
    IS_LISTING.get()
}

/// Returns the id of the mount of a file, or of the directory itself if the name is empty.
pub(crate) fn mount_id(directory: &File, name: &CStr) -> Option<u64> {
    let mut flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    if name.is_empty() {
        flags |= AtFlags::EMPTY_PATH;
    }
    let attributes = statx(directory, name, flags, StatxFlags::MNT_ID).ok()?;
    Some(attributes.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_have_ids() {
        let root = File::open("/").unwrap();
        let here = mount_id(&root, c"");
        assert!(here.is_some());
        assert_eq!(mount_id(&root, c"etc"), here);
        assert_ne!(mount_id(&root, c"proc"), here);
        assert_eq!(mount_id(&root, c"does not exist"), None);
    }
}
