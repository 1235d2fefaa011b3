//! The file system with a limit of open files: finding files again that were closed.

use std::{
    ffi::CStr,
    fs::File,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use virtiofsd::{
    filesystem::{Context, Entry, FileSystem, ZeroCopyWriter},
    oslib::ReadvFlags,
};

use crate::{
    identity::FileIdentity,
    table::{GuestInode, InnerInode, Location, Table},
};

/// Descriptors reserved for requests in progress, which open files that are not counted.
const TRANSIENT_DESCRIPTORS: u64 = 16;

/// Limit of lookups of one name while the host keeps changing it.
const MAX_ATTEMPTS: usize = 8;

/// A file system with a limit of open files, however many the guest remembers.
///
/// It wraps another file system, which holds a descriptor for each file that was looked up, until
/// that file is forgotten. This one makes the inner file system forget the least recently used
/// files, and finds a file again, by directory and name, when the guest uses it. The file found
/// must be the same: if the host has moved or replaced it, the request fails with `ESTALE`, and the
/// guest's kernel looks the path up again.
#[derive(Debug)]
pub struct BoundedFileSystem<F> {
    pub(crate) inner: F,
    /// Limit of descriptors that are held for the guest.
    limit: u64,
    table: Mutex<Table>,
    /// The last directory in which a file was identified. Lock order: the table first.
    last_directory: Mutex<Option<OpenDirectory>>,
}

/// A directory that is open in the inner file system.
#[derive(Debug)]
struct OpenDirectory {
    directory: u64,
    handle: u64,
}

/// A file that stays open in the inner file system while a request uses it.
pub(crate) struct PinnedFile<'a, F: FileSystem<Inode = u64, Handle = u64>> {
    file_system: &'a BoundedFileSystem<F>,
    context: Context,
    pub guest_inode: GuestInode,
    pub inner_inode: u64,
}

impl<F: FileSystem<Inode = u64, Handle = u64>> Drop for PinnedFile<'_, F> {
    fn drop(&mut self) {
        let closed = self.file_system.table().unpin(self.guest_inode);
        self.file_system.close(self.context, closed);
    }
}

impl<F> BoundedFileSystem<F> {
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_directory(&self) -> MutexGuard<'_, Option<OpenDirectory>> {
        self.last_directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: FileSystem<Inode = u64, Handle = u64>> BoundedFileSystem<F> {
    /// Wraps `inner`, which may hold up to `limit` descriptors for the guest.
    pub fn new(inner: F, limit: u64) -> BoundedFileSystem<F> {
        BoundedFileSystem {
            inner,
            limit: limit.saturating_sub(TRANSIENT_DESCRIPTORS),
            table: Mutex::new(Table::new()),
            last_directory: Mutex::new(None),
        }
    }

    /// Forgets everything, as the inner file system is about to do.
    pub(crate) fn clear(&self) {
        self.table().clear();
        *self.last_directory() = None;
    }

    /// Returns the number of descriptors that are held for the guest.
    pub fn open_descriptors(&self) -> u64 {
        self.table().open_descriptors()
    }

    /// Returns the number of files that the guest remembers, including the root.
    pub fn remembered_files(&self) -> usize {
        self.table().len()
    }

    pub(crate) fn close(&self, context: Context, inner_inode: Option<InnerInode>) {
        if let Some(InnerInode(inner_inode)) = inner_inode {
            self.inner.forget(context, inner_inode, 1);
        }
    }

    /// Returns the file, which stays open until the result is dropped.
    pub(crate) fn pin(&self, context: Context, guest_inode: u64) -> io::Result<PinnedFile<'_, F>> {
        let guest_inode = GuestInode(guest_inode);
        let mut table = self.table();
        self.evict_excess(context, &mut table);
        let InnerInode(inner_inode) = self.open_inner(context, &mut table, guest_inode)?;
        table.pin(guest_inode);
        Ok(PinnedFile {
            file_system: self,
            context,
            guest_inode,
            inner_inode,
        })
    }

    fn evict_excess(&self, context: Context, table: &mut Table) {
        while table.open_descriptors() > self.limit {
            let evicted = table.evict(self.limit);
            if evicted.is_none() {
                // All files are in use. The inner file system fails if they are too many.
                break;
            }
            self.close(context, evicted);
        }
    }

    /// Returns the inner inode of a file, reopening the file if it was closed.
    fn open_inner(
        &self,
        context: Context,
        table: &mut Table,
        guest_inode: GuestInode,
    ) -> io::Result<InnerInode> {
        let mut closed = Vec::new();
        let mut at = guest_inode;
        let mut inner_inode = loop {
            let Some(node) = table.get(at) else {
                return Err(if closed.is_empty() {
                    bad_handle()
                } else {
                    stale_handle()
                });
            };
            if let Some(inner_inode) = node.inner_inode {
                break inner_inode;
            }
            // Directories that the host has moved may seem to contain each other.
            if closed.len() > table.len() {
                return Err(stale_handle());
            }
            closed.push(at);
            at = node.location.as_ref().ok_or_else(stale_handle)?.directory;
        };
        for child in closed.into_iter().rev() {
            table.pin(at);
            self.evict_excess(context, table);
            let reopened = self.reopen(context, table, inner_inode, child);
            let unknown = table.unpin(at);
            self.close(context, unknown);
            inner_inode = reopened?;
            at = child;
        }
        Ok(inner_inode)
    }

    /// Opens a closed file by looking up its name. Fails with `ESTALE` if it is another file now.
    fn reopen(
        &self,
        context: Context,
        table: &mut Table,
        directory: InnerInode,
        guest_inode: GuestInode,
    ) -> io::Result<InnerInode> {
        let node = table.get(guest_inode).ok_or_else(stale_handle)?;
        let name = &node.location.as_ref().ok_or_else(stale_handle)?.name;
        let entry = self
            .inner
            .lookup(context, directory.0, name)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => stale_handle(),
                _ => error,
            })?;
        let inner_inode = InnerInode(entry.inode);
        let is_same = match table.by_inner(inner_inode) {
            // The inner file system knows it as another file that the guest remembers.
            Some(_) => Ok(false),
            None => self
                .identity(context, directory.0, name, &entry)
                .map(|identity| identity == Some(node.identity)),
        };
        match is_same {
            Ok(true) => {
                table.set_inner_inode(guest_inode, inner_inode);
                Ok(inner_inode)
            }
            Ok(false) => {
                self.close(context, Some(inner_inode));
                Err(stale_handle())
            }
            Err(error) => {
                self.close(context, Some(inner_inode));
                Err(error)
            }
        }
    }

    /// Returns the identity of a file that was just looked up; `None` when the name belongs to
    /// another file by now.
    ///
    /// The inode number is enough to notice that: the inner file system has the file open, so the
    /// number is not reused.
    fn identity(
        &self,
        context: Context,
        directory: u64,
        name: &CStr,
        entry: &Entry,
    ) -> io::Result<Option<FileIdentity>> {
        let identity = self.with_directory(context, directory, |directory| {
            FileIdentity::read(directory, name)
        });
        match identity {
            Ok(identity) => Ok((identity.inode == entry.attr.ino).then_some(identity)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Calls `act` with a descriptor of a directory. The inner file system exposes descriptors only
    /// to readers, so one is opened and "read" from. It is kept open, because the next lookup is
    /// usually in the same directory.
    fn with_directory<T>(
        &self,
        context: Context,
        directory: u64,
        act: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut last_directory = self.last_directory();
        let last = match last_directory.take() {
            Some(last) if last.directory == directory => last,
            other => {
                if let Some(OpenDirectory { directory, handle }) = other {
                    self.inner
                        .release(context, directory, 0, handle, false, false, None)?;
                }
                let (handle, _) =
                    self.inner
                        .open(context, directory, false, libc::O_PATH as u32)?;
                let handle = handle.ok_or_else(stale_handle)?;
                OpenDirectory { directory, handle }
            }
        };
        let mut probe = DescriptorProbe {
            act: Some(act),
            result: None,
        };
        self.inner
            .read(context, directory, last.handle, &mut probe, 0, 0, None, 0)?;
        *last_directory = Some(last);
        probe.result.unwrap_or_else(|| Err(stale_handle()))
    }

    /// Returns the guest's inode for a file that was just looked up as `name` in `directory`,
    /// adding the file if it is new. Returns `None` when the host has changed the name meanwhile.
    fn find_or_insert(
        &self,
        context: Context,
        table: &mut Table,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
        entry: &Entry,
    ) -> io::Result<Option<GuestInode>> {
        let inner_inode = InnerInode(entry.inode);
        if let Some(guest_inode) = table.by_inner(inner_inode) {
            // The lookup has added a second reference in the inner file system.
            self.close(context, Some(inner_inode));
            return Ok(Some(guest_inode));
        }
        let identity = match self.identity(context, directory.inner_inode, name, entry) {
            Ok(Some(identity)) => identity,
            other => {
                self.close(context, Some(inner_inode));
                return other.map(|_| None);
            }
        };
        if let Some(guest_inode) = table.by_identity(&identity) {
            match table.get(guest_inode).and_then(|node| node.inner_inode) {
                Some(_) => self.close(context, Some(inner_inode)),
                None => table.set_inner_inode(guest_inode, inner_inode),
            }
            return Ok(Some(guest_inode));
        }
        let location = entry_location(directory, name);
        let is_directory = entry.attr.mode & libc::S_IFMT == libc::S_IFDIR;
        Ok(Some(table.insert(
            identity,
            location,
            inner_inode,
            is_directory,
        )))
    }

    /// Translates the result of a lookup for the guest, and counts the guest's new reference.
    /// Returns `None` when the host has changed the name meanwhile.
    pub(crate) fn to_guest_entry(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
        mut entry: Entry,
    ) -> io::Result<Option<Entry>> {
        let mut table = self.table();
        let Some(guest_inode) =
            self.find_or_insert(context, &mut table, directory, name, &entry)?
        else {
            return Ok(None);
        };
        table.add_lookup(guest_inode, entry_location(directory, name));
        entry.inode = guest_inode.0;
        Ok(Some(entry))
    }

    /// Looks a name up for the guest.
    pub(crate) fn look_up(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
    ) -> io::Result<Entry> {
        for _ in 0..MAX_ATTEMPTS {
            let entry = self.inner.lookup(context, directory.inner_inode, name)?;
            if let Some(entry) = self.to_guest_entry(context, directory, name, entry)? {
                return Ok(entry);
            }
        }
        Err(stale_handle())
    }

    /// Returns the file that has this name now, without a reference of the guest. Returns `None`
    /// when no file has the name, or when it cannot be determined.
    pub(crate) fn pin_by_name(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
    ) -> Option<PinnedFile<'_, F>> {
        let entry = self
            .inner
            .lookup(context, directory.inner_inode, name)
            .ok()?;
        let mut table = self.table();
        let guest_inode = self
            .find_or_insert(context, &mut table, directory, name, &entry)
            .ok()??;
        let InnerInode(inner_inode) = table.get(guest_inode)?.inner_inode?;
        table.pin(guest_inode);
        Some(PinnedFile {
            file_system: self,
            context,
            guest_inode,
            inner_inode,
        })
    }
}

/// Returns the location `name` in `directory`.
pub(crate) fn entry_location<F: FileSystem<Inode = u64, Handle = u64>>(
    directory: &PinnedFile<'_, F>,
    name: &CStr,
) -> Location {
    Location {
        directory: directory.guest_inode,
        name: name.into(),
    }
}

/// Checks that a name leads one level down. The guest's kernel sends no others; a malicious guest
/// could escape the shared directory with them.
pub(crate) fn check_name(name: &CStr) -> io::Result<()> {
    let bytes = name.to_bytes();
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(())
}

/// The error on which the guest's kernel looks the path up again.
pub(crate) fn stale_handle() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}

fn bad_handle() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

/// A reader that reads nothing, and calls `act` with the descriptor it is given.
struct DescriptorProbe<T, A: FnOnce(&File) -> io::Result<T>> {
    act: Option<A>,
    result: Option<io::Result<T>>,
}

impl<T, A: FnOnce(&File) -> io::Result<T>> ZeroCopyWriter for DescriptorProbe<T, A> {
    fn read_from_file_at(
        &mut self,
        file: &File,
        _count: usize,
        _offset: u64,
        _flags: Option<ReadvFlags>,
    ) -> io::Result<usize> {
        self.result = self.act.take().map(|act| act(file));
        Ok(0)
    }
}
