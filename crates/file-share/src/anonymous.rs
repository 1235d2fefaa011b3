//! Files without a name (`O_TMPFILE`).
//!
//! The inner file system finds every file by a name, so these are served here. A file that is given
//! a name later is found by that name like any other.

use std::{
    collections::HashMap,
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, SeekFrom, StatxFlags, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, Uid, XattrFlags, chownat, copy_file_range, fallocate, fchmod, fgetxattr,
    flistxattr, fremovexattr, fsetxattr, ftruncate, futimens, linkat, openat, seek, statx,
};
use virtiofsd::{
    filesystem::{GetxattrReply, ListxattrReply, SetattrValid},
    fuse::{Attr, SetattrIn},
    oslib::ScopedUmask,
    soft_idmap::Id,
};

use crate::locks::descriptor::reopen_with;

/// Bit of the numbers of handles of these files. The inner file system counts from 0.
pub(crate) const HANDLE_BIT: u64 = 1 << 63;

/// The guest's files without a name.
#[derive(Debug, Default)]
pub(crate) struct AnonymousFiles {
    /// Number of files and handles: descriptors that are held.
    count: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<u64, Remembered>,
    handles: HashMap<u64, Arc<File>>,
    last_handle: u64,
}

/// A file that the guest remembers.
#[derive(Debug)]
struct Remembered {
    file: Arc<File>,
    lookups: u64,
}

/// The guest's request for a new file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Creation {
    pub flags: u32,
    pub mode: u32,
    pub umask: u32,
    /// Owner of the file, if it is to be another than this process.
    pub owner: Option<(u32, u32)>,
}

impl AnonymousFiles {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of descriptors that are held.
    pub(crate) fn descriptors(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn clear(&self) {
        let state = std::mem::take(&mut *self.state());
        self.count.store(0, Ordering::Relaxed);
        drop(state);
    }

    /// Returns a file without a name by its inode number.
    pub(crate) fn file(&self, inode: u64) -> Option<Arc<File>> {
        // The usual case needs no lock.
        if self.descriptors() == 0 {
            return None;
        }
        let state = self.state();
        state.files.get(&inode).map(|it| Arc::clone(&it.file))
    }

    /// Returns the file of a handle.
    pub(crate) fn handle(&self, handle: u64) -> io::Result<Arc<File>> {
        let file = self.state().handles.get(&handle).map(Arc::clone);
        file.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// Adds a file that the guest has open. Returns its handle.
    pub(crate) fn add(&self, inode: u64, file: File) -> u64 {
        let file = Arc::new(file);
        let remembered = Remembered {
            file: Arc::clone(&file),
            lookups: 1,
        };
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        state.files.insert(inode, remembered);
        self.add_handle(&mut state, file)
    }

    fn add_handle(&self, state: &mut State, file: Arc<File>) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed);
        state.last_handle += 1;
        let handle = state.last_handle | HANDLE_BIT;
        state.handles.insert(handle, file);
        handle
    }

    /// Opens a file again, by a descriptor of the guest.
    pub(crate) fn open(&self, file: &File, flags: u32) -> io::Result<u64> {
        let flags = OFlags::from_bits_retain(flags) & (OFlags::RWMODE | OFlags::TRUNC);
        let file = Arc::new(reopen_with(file, flags)?);
        Ok(self.add_handle(&mut self.state(), file))
    }

    pub(crate) fn release(&self, handle: u64) -> io::Result<()> {
        let file = self.state().handles.remove(&handle);
        if file.is_none() {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// Removes references of the guest.
    pub(crate) fn forget(&self, inode: u64, count: u64) {
        let mut state = self.state();
        let Some(remembered) = state.files.get_mut(&inode) else {
            return;
        };
        remembered.lookups = remembered.lookups.saturating_sub(count);
        if remembered.lookups == 0 {
            let removed = state.files.remove(&inode);
            self.count.fetch_sub(1, Ordering::Relaxed);
            drop(state);
            drop(removed);
        }
    }
}

/// Creates a file in a directory.
pub(crate) fn create(directory: &File, creation: Creation) -> io::Result<File> {
    let kept = OFlags::RWMODE | OFlags::EXCL;
    let flags = OFlags::from_bits_retain(creation.flags) & kept;
    let flags = flags | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(creation.mode & 0o7777);
    let file: File = {
        let _umask = ScopedUmask::new(creation.umask);
        openat(directory, c".", flags, mode)?.into()
    };
    if let Some((uid, gid)) = creation.owner {
        let of_directory = statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::MODE)?;
        let inherits_group = u32::from(of_directory.stx_mode) & libc::S_ISGID != 0;
        let gid = (!inherits_group).then(|| Gid::from_raw(gid));
        change_owner(&file, Some(Uid::from_raw(uid)), gid)?;
    }
    Ok(file)
}

/// Changes the owner of a file. (The server may not call fchown(2).)
fn change_owner(file: &File, uid: Option<Uid>, gid: Option<Gid>) -> io::Result<()> {
    Ok(chownat(file, c"", uid, gid, AtFlags::EMPTY_PATH)?)
}

/// Gives a file a name.
pub(crate) fn link(file: &File, directory: &File, name: &CStr) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, path, directory, name, AtFlags::SYMLINK_FOLLOW)?)
}

pub(crate) fn attributes(file: &File) -> io::Result<Attr> {
    let wanted = StatxFlags::BASIC_STATS;
    let it = statx(file, c"", AtFlags::EMPTY_PATH, wanted)?;
    Ok(Attr {
        ino: it.stx_ino,
        size: it.stx_size,
        blocks: it.stx_blocks,
        // FUSE transmits times before 1970 in this way.
        atime: it.stx_atime.tv_sec.cast_unsigned(),
        mtime: it.stx_mtime.tv_sec.cast_unsigned(),
        ctime: it.stx_ctime.tv_sec.cast_unsigned(),
        atimensec: it.stx_atime.tv_nsec,
        mtimensec: it.stx_mtime.tv_nsec,
        ctimensec: it.stx_ctime.tv_nsec,
        mode: it.stx_mode.into(),
        nlink: it.stx_nlink,
        uid: it.stx_uid.into(),
        gid: it.stx_gid.into(),
        rdev: 0,
        blksize: it.stx_blksize,
        flags: 0,
    })
}

/// Changes attributes. `may_change_owner` is whether the process may act as any user.
pub(crate) fn set_attributes(
    file: &File,
    attributes: &SetattrIn,
    valid: SetattrValid,
    may_change_owner: bool,
) -> io::Result<()> {
    if valid.contains(SetattrValid::MODE) {
        fchmod(file, Mode::from_raw_mode(attributes.mode & 0o7777))?;
    }
    if may_change_owner && valid.intersects(SetattrValid::UID | SetattrValid::GID) {
        let has = |flag| valid.contains(flag);
        let uid = has(SetattrValid::UID).then(|| Uid::from_raw(attributes.uid.into_inner()));
        let gid = has(SetattrValid::GID).then(|| Gid::from_raw(attributes.gid.into_inner()));
        change_owner(file, uid, gid)?;
    }
    if valid.contains(SetattrValid::SIZE) {
        ftruncate(file, attributes.size)?;
    }
    if valid.intersects(SetattrValid::ATIME | SetattrValid::MTIME) {
        let time = |is_set: bool, is_now: bool, seconds: u64, nanoseconds: u32| Timespec {
            tv_sec: seconds.cast_signed(),
            tv_nsec: match (is_set, is_now) {
                (_, true) => UTIME_NOW,
                (true, false) => nanoseconds.into(),
                (false, false) => UTIME_OMIT,
            },
        };
        let times = Timestamps {
            last_access: time(
                valid.contains(SetattrValid::ATIME),
                valid.contains(SetattrValid::ATIME_NOW),
                attributes.atime,
                attributes.atimensec,
            ),
            last_modification: time(
                valid.contains(SetattrValid::MTIME),
                valid.contains(SetattrValid::MTIME_NOW),
                attributes.mtime,
                attributes.mtimensec,
            ),
        };
        futimens(file, &times)?;
    }
    Ok(())
}

pub(crate) fn allocate(file: &File, mode: u32, offset: u64, length: u64) -> io::Result<()> {
    let mode = FallocateFlags::from_bits_retain(mode);
    Ok(fallocate(file, mode, offset, length)?)
}

/// Finds data or a hole (lseek(2)).
pub(crate) fn find(file: &File, offset: u64, whence: u32) -> io::Result<u64> {
    let from = match i32::try_from(whence) {
        Ok(libc::SEEK_DATA) => SeekFrom::Data(offset),
        Ok(libc::SEEK_HOLE) => SeekFrom::Hole(offset),
        _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    Ok(seek(file, from)?)
}

pub(crate) fn copy(
    from: impl AsFd,
    mut offset_from: u64,
    to: impl AsFd,
    mut offset_to: u64,
    length: u64,
) -> io::Result<usize> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (offset_from, offset_to) = (&mut offset_from, &mut offset_to);
    Ok(copy_file_range(
        from,
        Some(offset_from),
        to,
        Some(offset_to),
        length,
    )?)
}

pub(crate) fn set_attribute(file: &File, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
    let flags = XattrFlags::from_bits_retain(flags);
    Ok(fsetxattr(file, name, value, flags)?)
}

pub(crate) fn attribute(file: &File, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
    let mut value = vec![0; size as usize];
    let length = fgetxattr(file, name, &mut value[..])?;
    if size == 0 {
        return Ok(GetxattrReply::Count(
            u32::try_from(length).unwrap_or(u32::MAX),
        ));
    }
    value.truncate(length);
    Ok(GetxattrReply::Value(value))
}

pub(crate) fn attribute_names(file: &File, size: u32) -> io::Result<ListxattrReply> {
    let mut names = vec![0; size as usize];
    let length = flistxattr(file, &mut names[..])?;
    if size == 0 {
        return Ok(ListxattrReply::Count(
            u32::try_from(length).unwrap_or(u32::MAX),
        ));
    }
    names.truncate(length);
    Ok(ListxattrReply::Names(names))
}

pub(crate) fn remove_attribute(file: &File, name: &CStr) -> io::Result<()> {
    Ok(fremovexattr(file, name)?)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt};

    use virtiofsd::{
        filesystem::{Context, FileSystem, FsOptions, ROOT_ID},
        fuse::CreateIn,
        passthrough::{Config, PassthroughFs},
    };

    use crate::BoundedFileSystem;

    fn context() -> Context {
        Context {
            uid: 0.into(),
            gid: 0.into(),
            pid: 1,
        }
    }

    #[test]
    fn a_file_without_a_name_is_changed_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let inner = PassthroughFs::new(Config {
            root_dir: directory.path().to_str().unwrap().to_owned(),
            guest_fd_limit: 100,
            ..Config::default()
        });
        let share = BoundedFileSystem::new(inner.unwrap(), 100);
        share.init(FsOptions::empty()).unwrap();
        let before = share.open_descriptors();
        let request = CreateIn {
            flags: libc::O_RDWR as u32,
            mode: 0o100_666,
            umask: 0o027,
            open_flags: 0,
        };
        let (entry, handle) = share
            .create_anonymous(context(), ROOT_ID, &request)
            .unwrap();
        assert_eq!((entry.attr.mode, entry.attr.nlink), (0o100_640, 0));
        let file = share.anonymous.handle(handle).unwrap();
        file.write_all_at(b"contents", 0).unwrap();
        let (attributes, _) = share.getattr(context(), entry.inode, None).unwrap();
        assert_eq!(attributes.size, 8);
        // Again, as by /proc/self/fd.
        let again = share
            .open(context(), entry.inode, false, 0)
            .unwrap()
            .0
            .unwrap();
        assert_ne!(again, handle);
        let linked = share
            .link(context(), entry.inode, ROOT_ID, c"named")
            .unwrap();
        assert_ne!(linked.inode, entry.inode);
        let read = fs::read_to_string(directory.path().join("named")).unwrap();
        assert_eq!(read, "contents");
        drop(file);
        for handle in [handle, again] {
            share
                .release(context(), entry.inode, 0, handle, false, false, None)
                .unwrap();
        }
        share.forget(context(), entry.inode, 1);
        share.forget(context(), linked.inode, 1);
        assert_eq!(share.open_descriptors(), before);
        assert!(share.getattr(context(), entry.inode, None).is_err());
    }
}
