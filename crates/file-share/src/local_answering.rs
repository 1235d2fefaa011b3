//! Answers that save the guest's kernel [requests](crate::local_answers).

use std::{fs::File, io, os::fd::AsRawFd};

use rustix::{fs::listxattr, io::Errno};
use virtiofsd::{
    filesystem::{Context, OpenOptions},
    fuse::Attr,
};

use crate::{
    bounded::{BoundedFileSystem, InnerFileSystem},
    local_answers::NO_XATTR,
    table::{GuestInode, InnerInode},
};

/// Flag of attributes (`FUSE_ATTR_SUBMOUNT`): another file system is mounted here.
const SUBMOUNT: u32 = 1 << 0;

impl<F: InnerFileSystem> BoundedFileSystem<F> {
    /// Returns whether the guest may answer requests about a file.
    fn has_local_answers(&self, context: Context, guest_inode: GuestInode) -> bool {
        self.local_answers.are_possible() && !self.is_below_mount(context, guest_inode)
    }

    /// Returns options for a file that the guest opens.
    pub(crate) fn closing_options(&self, context: Context, guest_inode: GuestInode) -> OpenOptions {
        if self.has_local_answers(context, guest_inode) {
            OpenOptions::NOFLUSH
        } else {
            OpenOptions::empty()
        }
    }

    /// Sets [`NO_XATTR`] in attributes that were just read from a file. `near` is the file or its
    /// directory.
    pub(crate) fn note_no_xattr(
        &self,
        context: Context,
        near: GuestInode,
        inner_inode: u64,
        attributes: &mut Attr,
    ) {
        if attributes.flags & SUBMOUNT != 0 || !self.has_local_answers(context, near) {
            return;
        }
        let is_known = self
            .table()
            .knows_no_xattr(InnerInode(inner_inode), attributes);
        let has_none = || self.with_descriptor(context, inner_inode, has_no_xattr);
        if is_known || has_none().unwrap_or(false) {
            attributes.flags |= NO_XATTR;
        }
    }
}

/// Returns whether a file has no extended attributes.
fn has_no_xattr(file: &File) -> io::Result<bool> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // No list but the empty one fits.
    match listxattr(path, &mut [0_u8; 1][..]) {
        Ok(length) => Ok(length == 0),
        Err(Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{XattrFlags, removexattr, setxattr};
    use tempfile::TempDir;
    use virtiofsd::{
        filesystem::{FileSystem, FsOptions, ROOT_ID},
        fuse::InHeader,
        passthrough::{Config, PassthroughFs},
    };

    use super::*;
    use crate::{
        Exclusions, Restrictions,
        local_answers::{FLAGS2, LOCAL_ANSWERS, says_no_xattr},
        replay::own_context,
        table::ROOT,
    };

    fn file_system(home: &TempDir) -> BoundedFileSystem<PassthroughFs> {
        let config = Config {
            root_dir: home.path().to_str().unwrap().to_owned(),
            xattr: true,
            ..Config::default()
        };
        let inner = PassthroughFs::new(config).unwrap();
        let root = File::open(home.path()).unwrap();
        let (restrictions, exclusions) = (Restrictions::default(), Exclusions::default());
        let file_system =
            BoundedFileSystem::excluding(inner, 1000, restrictions, (&root, &exclusions));
        file_system.init(FsOptions::empty()).unwrap();
        file_system
    }

    fn init(flags2: u32) -> Vec<u8> {
        let mut init = vec![0; size_of::<InHeader>() + 64];
        init[FLAGS2..FLAGS2 + 4].copy_from_slice(&flags2.to_ne_bytes());
        init
    }

    #[test]
    fn only_our_kernel_answers_itself() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("file"), "").unwrap();
        let file_system = file_system(&home);
        for (flags2, expected) in [(0, false), (LOCAL_ANSWERS, true), (!LOCAL_ANSWERS, false)] {
            file_system.local_answers.begin(&init(flags2));
            let entry = file_system.lookup(own_context(), ROOT_ID, c"file").unwrap();
            assert_eq!(says_no_xattr(&entry.attr), expected);
            let (handle, options) = file_system
                .open(own_context(), entry.inode, false, 0)
                .unwrap();
            assert_eq!(options.contains(OpenOptions::NOFLUSH), expected);
            file_system
                .release(
                    own_context(),
                    entry.inode,
                    0,
                    handle.unwrap(),
                    false,
                    false,
                    None,
                )
                .unwrap();
        }
        // A request without the field.
        file_system.local_answers.begin(&init(LOCAL_ANSWERS)[..56]);
        assert!(!file_system.has_local_answers(own_context(), ROOT));
    }

    #[test]
    fn extended_attributes_of_the_host_are_noticed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        std::fs::write(&path, "").unwrap();
        let file_system = file_system(&home);
        file_system.local_answers.begin(&init(LOCAL_ANSWERS));
        let has_none = || {
            let entry = file_system.lookup(own_context(), ROOT_ID, c"file").unwrap();
            let (attributes, _) = file_system
                .getattr(own_context(), entry.inode, None)
                .unwrap();
            assert_eq!(attributes.flags, entry.attr.flags);
            says_no_xattr(&attributes)
        };
        assert!(has_none());
        // Also when the file share remembers that it has none.
        std::thread::sleep(std::time::Duration::from_millis(50));
        for _ in 0..2 {
            assert!(has_none());
        }
        setxattr(&path, "user.a", b"1", XattrFlags::empty()).unwrap();
        assert!(!has_none());
        removexattr(&path, "user.a").unwrap();
        assert!(has_none());
    }
}
