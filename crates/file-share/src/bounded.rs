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
    identity::Identity,
    table::{Inner, Outer, Place, Table},
};

/// Descriptors that the requests being answered may take beyond what is counted.
const IN_PASSING: u64 = 16;

/// How often a name is looked up anew when the host changes it at that very moment.
const ATTEMPTS: usize = 8;

/// A file system that holds no more than a number of files open below, however many the guest
/// remembers.
///
/// The file system below holds a descriptor for each file that it was asked about until it is
/// told to forget it. This one tells it to forget what was not used for longest, and finds the
/// file again, by directory and name, when the guest uses it. What is found must be the same
/// file: if the host has put another in its place, or has moved it, the answer is `ESTALE`, upon
/// which the guest's kernel walks the path anew.
#[derive(Debug)]
pub struct Bounded<F> {
    pub(crate) below: F,
    /// How many descriptors may be held.
    limit: u64,
    table: Mutex<Table>,
    /// The directory that was looked into last, open below. Locked after the table.
    looked_into: Mutex<Option<LookedInto>>,
}

#[derive(Debug)]
struct LookedInto {
    directory: u64,
    handle: u64,
}

/// A file that stays open below while a request works on it.
pub(crate) struct Used<'a, F: FileSystem<Inode = u64, Handle = u64>> {
    file_system: &'a Bounded<F>,
    context: Context,
    pub outer: Outer,
    pub inner: u64,
}

impl<F: FileSystem<Inode = u64, Handle = u64>> Drop for Used<'_, F> {
    fn drop(&mut self) {
        let closed = self.file_system.table().end_use(self.outer);
        self.file_system.close(self.context, closed);
    }
}

impl<F> Bounded<F> {
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looked_into(&self) -> MutexGuard<'_, Option<LookedInto>> {
        self.looked_into
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: FileSystem<Inode = u64, Handle = u64>> Bounded<F> {
    /// Puts a bound on `below`, which may itself hold `limit` descriptors for the guest.
    pub fn new(below: F, limit: u64) -> Bounded<F> {
        Bounded {
            below,
            limit: limit.saturating_sub(IN_PASSING),
            table: Mutex::new(Table::new()),
            looked_into: Mutex::new(None),
        }
    }

    /// Forgets everything, as the file system below is about to.
    pub(crate) fn clear(&self) {
        self.table().clear();
        *self.looked_into() = None;
    }

    /// How many descriptors are held for the guest.
    pub fn held(&self) -> u64 {
        self.table().held()
    }

    /// How many files the guest remembers, the root among them.
    pub fn known(&self) -> usize {
        self.table().len()
    }

    pub(crate) fn close(&self, context: Context, inner: Option<Inner>) {
        if let Some(Inner(inner)) = inner {
            self.below.forget(context, inner, 1);
        }
    }

    /// The file, held open until the answer is given.
    pub(crate) fn used(&self, context: Context, outer: u64) -> io::Result<Used<'_, F>> {
        let outer = Outer(outer);
        let mut table = self.table();
        self.make_room(context, &mut table);
        let Inner(inner) = self.held_open(context, &mut table, outer)?;
        table.begin_use(outer);
        Ok(Used {
            file_system: self,
            context,
            outer,
            inner,
        })
    }

    fn make_room(&self, context: Context, table: &mut Table) {
        while table.held() > self.limit {
            let coldest = table.close_coldest(self.limit);
            if coldest.is_none() {
                // All are in use. If that is too many, the file system below will say so.
                break;
            }
            self.close(context, coldest);
        }
    }

    /// The file's number below, where it is opened if it is not open.
    fn held_open(&self, context: Context, table: &mut Table, outer: Outer) -> io::Result<Inner> {
        let mut closed = Vec::new();
        let mut at = outer;
        let mut inner = loop {
            let Some(node) = table.get(at) else {
                return Err(if closed.is_empty() {
                    unknown()
                } else {
                    stale()
                });
            };
            if let Some(inner) = node.inner {
                break inner;
            }
            // What the host has moved about may look as if directories were in one another.
            if closed.len() > table.len() {
                return Err(stale());
            }
            closed.push(at);
            at = node.place.as_ref().ok_or_else(stale)?.directory;
        };
        for child in closed.into_iter().rev() {
            table.begin_use(at);
            self.make_room(context, table);
            let reopened = self.reopen(context, table, inner, child);
            let unknown = table.end_use(at);
            self.close(context, unknown);
            inner = reopened?;
            at = child;
        }
        Ok(inner)
    }

    /// Finds a file again in its directory.
    fn reopen(
        &self,
        context: Context,
        table: &mut Table,
        directory: Inner,
        outer: Outer,
    ) -> io::Result<Inner> {
        let node = table.get(outer).ok_or_else(stale)?;
        let name = &node.place.as_ref().ok_or_else(stale)?.name;
        let entry = self
            .below
            .lookup(context, directory.0, name)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => stale(),
                _ => error,
            })?;
        let inner = Inner(entry.inode);
        let is_the_same = match table.by_inner(inner) {
            Some(_) => Ok(false),
            None => self
                .identity(context, directory.0, name, &entry)
                .map(|identity| identity == Some(node.identity)),
        };
        match is_the_same {
            Ok(true) => {
                table.opened_below(outer, inner);
                Ok(inner)
            }
            Ok(false) => {
                self.close(context, Some(inner));
                Err(stale())
            }
            Err(error) => {
                self.close(context, Some(inner));
                Err(error)
            }
        }
    }

    /// The identity of the file that was just looked up, none if the name is another's by now.
    ///
    /// The file below is open, so its inode number is no other's.
    fn identity(
        &self,
        context: Context,
        directory: u64,
        name: &CStr,
        entry: &Entry,
    ) -> io::Result<Option<Identity>> {
        let identity = self.within(context, directory, |directory| {
            Identity::of(directory, name)
        });
        match identity {
            Ok(identity) => Ok((identity.inode == entry.attr.ino).then_some(identity)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Does something with a directory's descriptor, which the file system below shows to none
    /// but those who read. It is kept, because what is looked up next is mostly beside it.
    fn within<T>(
        &self,
        context: Context,
        directory: u64,
        act: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut looked_into = self.looked_into();
        let last = match looked_into.take() {
            Some(last) if last.directory == directory => last,
            other => {
                if let Some(LookedInto { directory, handle }) = other {
                    self.below
                        .release(context, directory, 0, handle, false, false, None)?;
                }
                let (handle, _) =
                    self.below
                        .open(context, directory, false, libc::O_PATH as u32)?;
                let handle = handle.ok_or_else(stale)?;
                LookedInto { directory, handle }
            }
        };
        let mut glance = Glance {
            act: Some(act),
            result: None,
        };
        self.below
            .read(context, directory, last.handle, &mut glance, 0, 0, None, 0)?;
        *looked_into = Some(last);
        glance.result.unwrap_or_else(|| Err(stale()))
    }

    /// The guest's number for what was just looked up below, which must be `name` in `directory`;
    /// none if the host has changed that meanwhile.
    fn outer(
        &self,
        context: Context,
        table: &mut Table,
        directory: &Used<'_, F>,
        name: &CStr,
        entry: &Entry,
    ) -> io::Result<Option<Outer>> {
        let inner = Inner(entry.inode);
        if let Some(outer) = table.by_inner(inner) {
            // One reference below is enough.
            self.close(context, Some(inner));
            return Ok(Some(outer));
        }
        let identity = match self.identity(context, directory.inner, name, entry) {
            Ok(Some(identity)) => identity,
            other => {
                self.close(context, Some(inner));
                return other.map(|_| None);
            }
        };
        if let Some(outer) = table.by_identity(&identity) {
            match table.get(outer).and_then(|node| node.inner) {
                Some(_) => self.close(context, Some(inner)),
                None => table.opened_below(outer, inner),
            }
            return Ok(Some(outer));
        }
        let place = place(directory, name);
        let is_directory = entry.attr.mode & libc::S_IFMT == libc::S_IFDIR;
        Ok(Some(table.insert(identity, place, inner, is_directory)))
    }

    /// Translates what was looked up below and counts that the guest is told of it; none if the
    /// host has changed the name meanwhile.
    pub(crate) fn told(
        &self,
        context: Context,
        directory: &Used<'_, F>,
        name: &CStr,
        mut entry: Entry,
    ) -> io::Result<Option<Entry>> {
        let mut table = self.table();
        let Some(outer) = self.outer(context, &mut table, directory, name, &entry)? else {
            return Ok(None);
        };
        table.told(outer, place(directory, name));
        entry.inode = outer.0;
        Ok(Some(entry))
    }

    /// Looks a name up for the guest.
    pub(crate) fn look_up(
        &self,
        context: Context,
        directory: &Used<'_, F>,
        name: &CStr,
    ) -> io::Result<Entry> {
        for _ in 0..ATTEMPTS {
            let entry = self.below.lookup(context, directory.inner, name)?;
            if let Some(entry) = self.told(context, directory, name, entry)? {
                return Ok(entry);
            }
        }
        Err(stale())
    }

    /// What has this name now, held open and without telling the guest; none if there is nothing
    /// or if it cannot be told.
    pub(crate) fn named(
        &self,
        context: Context,
        directory: &Used<'_, F>,
        name: &CStr,
    ) -> Option<Used<'_, F>> {
        let entry = self.below.lookup(context, directory.inner, name).ok()?;
        let mut table = self.table();
        let outer = self
            .outer(context, &mut table, directory, name, &entry)
            .ok()??;
        let Inner(inner) = table.get(outer)?.inner?;
        table.begin_use(outer);
        Some(Used {
            file_system: self,
            context,
            outer,
            inner,
        })
    }
}

pub(crate) fn place<F: FileSystem<Inode = u64, Handle = u64>>(
    directory: &Used<'_, F>,
    name: &CStr,
) -> Place {
    Place {
        directory: directory.outer,
        name: name.into(),
    }
}

/// A name that is one step down. The guest's kernel sends no others; a guest that does is not
/// let anywhere by it.
pub(crate) fn check_name(name: &CStr) -> io::Result<()> {
    let bytes = name.to_bytes();
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(())
}

/// The answer upon which the guest walks the path anew.
pub(crate) fn stale() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}

fn unknown() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

/// Is shown the descriptor that it would read from.
struct Glance<T, A: FnOnce(&File) -> io::Result<T>> {
    act: Option<A>,
    result: Option<io::Result<T>>,
}

impl<T, A: FnOnce(&File) -> io::Result<T>> ZeroCopyWriter for Glance<T, A> {
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
