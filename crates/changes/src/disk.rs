//! Entries of the machine's disk: attributes, directories in order, and paths of any length.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom},
    io::Errno,
};

use crate::{
    BaseEntry, ChangesError, UnixTime,
    member::{MemberHeader, MemberType, Xattr},
};

/// Attributes of an entry, as far as a layer records them.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    pub(crate) file_type: FileType,
    pub(crate) inode: u64,
    /// `st_ctime`, which only the kernel sets.
    pub(crate) changed: UnixTime,
    pub(crate) modified: UnixTime,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u64,
    /// Device number of a device file.
    pub(crate) device: u64,
    pub(crate) size: u64,
}

impl Attributes {
    /// Whether the entry is unchanged from this one of the base.
    pub(crate) fn is_unchanged(&self, before: &BaseEntry) -> bool {
        self.inode == before.inode
            && self.changed == before.changed
            && (self.file_type == FileType::Directory) == before.is_directory
    }

    /// The tar header of this entry.
    pub(crate) fn member<'a>(
        &self,
        path: &'a [u8],
        kind: MemberType<'a>,
        xattrs: &'a [Xattr],
    ) -> MemberHeader<'a> {
        MemberHeader {
            path,
            kind,
            mode: self.mode & 0o7777,
            uid: self.uid,
            gid: self.gid,
            modified: self.modified,
            xattrs,
        }
    }
}

impl From<&rustix::fs::Stat> for Attributes {
    fn from(stat: &rustix::fs::Stat) -> Attributes {
        let time = |seconds, nanoseconds: u64| UnixTime {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or_default(),
        };
        Attributes {
            file_type: FileType::from_raw_mode(stat.st_mode),
            inode: stat.st_ino,
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: stat.st_nlink,
            device: stat.st_rdev,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
        }
    }
}

/// Name and attributes of a directory entry on the disk.
pub(crate) type DiskEntry = (Vec<u8>, Attributes);

/// Reads a directory's entries, sorted by name. Entries that disappear meanwhile are left out.
pub(crate) fn read_entries(directory: impl AsFd) -> rustix::io::Result<Vec<DiskEntry>> {
    let mut names: Vec<CString> = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW);
        if let Some(stat) = present(stat)? {
            entries.push((name.into_bytes(), Attributes::from(&stat)));
        }
    }
    Ok(entries)
}

/// Opens an entry below the root without following symbolic links. The walk opens by path and not
/// relative to its parent, so that it holds one descriptor at a time however deep the tree is.
pub(crate) fn open(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let open = |from: BorrowedFd<'_>, path: &[u8]| {
        rustix::fs::openat2(
            from,
            if path.is_empty() { b"." } else { path },
            flags | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    };
    // A path longer than PATH_MAX is opened in steps.
    let (step, mut rest) = split(path);
    let mut reached = open(root, step)?;
    while let Some(path) = rest {
        let (step, further) = split(path);
        reached = open(reached.as_fd(), step)?;
        rest = further;
    }
    Ok(reached)
}

/// Splits a path at a slash so that its beginning fits into `PATH_MAX`; the rest follows, if any.
fn split(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    const MOST: usize = 4095;
    if path.len() <= MOST {
        return (path, None);
    }
    // There is a slash, because names have at most 255 bytes.
    let slash = path[..=MOST].iter().rposition(|byte| *byte == b'/');
    let (step, rest) = path.split_at(slash.unwrap_or(MOST));
    (step, Some(rest.get(1..).unwrap_or_default()))
}

/// Turns errors that mean "removed or replaced since its name was read" into `None`.
pub(crate) fn present<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Offset of the next data or hole, or the end of the file.
pub(crate) fn seek_extent(file: &File, from: SeekFrom, size: u64) -> rustix::io::Result<u64> {
    match rustix::fs::seek(file, from) {
        Ok(at) => Ok(at.min(size)),
        Err(Errno::NXIO) => Ok(size),
        Err(error) => Err(error),
    }
}

/// The path of an entry, from the root without a leading slash.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, b"/", name].concat()
    }
}

/// The path as it is printed in messages.
pub(crate) fn display(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path).escape_debug())
}

pub(crate) fn file_error<E: Into<io::Error>>(
    path: &[u8],
) -> impl FnOnce(E) -> ChangesError + use<E> {
    let path = display(path);
    move |cause| ChangesError::File {
        path,
        cause: cause.into(),
    }
}
