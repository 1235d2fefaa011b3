//! The file system with a limit of open files: finding files again that were closed.

use std::{
    collections::HashMap,
    ffi::CStr,
    fs::File,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use virtiofsd::{
    filesystem::{Context, Entry, Extensions, FileSystem, ZeroCopyWriter},
    oslib::ReadvFlags,
    soft_idmap::GuestGid,
};

use crate::{
    identity::FileIdentity,
    places::{Exclusions, Place, PlaceKind, Places},
    table::{GuestInode, InnerInode, Location, Table},
};

/// Descriptors reserved for requests in progress, which open files that are not counted.
const TRANSIENT_DESCRIPTORS: u64 = 16;

/// Time for which the guest may cache an excluded directory. It is looked up again to notice that
/// the host has made what was missing.
pub(crate) const EXCLUDED_TIMEOUT: Duration = Duration::from_secs(1);

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
    pub(crate) places: Places,
    /// Device and inode number of hidden directories, which stay hidden if the host moves them.
    hidden: Mutex<HashMap<(u64, u64), Place>>,
    /// Group in whose name files are created; absent for that of the guest's process.
    pub(crate) creating_group: Option<GuestGid>,
}

/// A file that the guest's request is about.
pub(crate) enum Located<'a, F: FileSystem<Inode = u64, Handle = u64>> {
    /// A file of the host.
    Host(PinnedFile<'a, F>),
    /// An excluded directory, or an ancestor that the host lacks.
    Empty(Place),
}

/// A directory that is open in the inner file system.
#[derive(Debug)]
struct OpenDirectory {
    directory: u64,
    handle: u64,
}

/// A directory that was looked up and is open in the inner file system.
struct FoundDirectory {
    identity: FileIdentity,
    location: Location,
    inner_inode: InnerInode,
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

    fn hidden(&self) -> MutexGuard<'_, HashMap<(u64, u64), Place>> {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner)
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
            places: Places::new(&Exclusions::default()),
            hidden: Mutex::default(),
            creating_group: None,
        }
    }

    /// Sets the group in whose name files are created, for a process that may not act as others.
    #[must_use]
    pub fn with_creating_group(mut self, creating_group: Option<GuestGid>) -> BoundedFileSystem<F> {
        self.creating_group = creating_group;
        self
    }

    /// Leaves directories of `root`, the shared directory, out.
    #[must_use]
    pub fn excluding(mut self, root: &File, exclusions: &Exclusions) -> BoundedFileSystem<F> {
        self.places = Places::new(exclusions);
        for (place, path) in self.places.hidden() {
            if let Ok(identity) = FileIdentity::read(root, &path) {
                self.hidden()
                    .insert((identity.device, identity.inode), place);
            }
        }
        self
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

    /// Returns the file that a request is about. An ancestor of places is found by its name, also
    /// if the host has replaced it.
    pub(crate) fn locate(&self, context: Context, inode: u64) -> io::Result<Located<'_, F>> {
        let Some(place) = self.places.of(GuestInode(inode)) else {
            return Ok(Located::Host(self.pin(context, inode)?));
        };
        let PlaceKind::Ancestor { is_required } = self.places.kind(place) else {
            return Ok(Located::Empty(place));
        };
        if let Ok(file) = self.pin(context, inode) {
            return Ok(Located::Host(file));
        }
        let (parent, name) = self.places.location(place);
        if let Located::Host(directory) = self.locate(context, parent.0)?
            && let Some(file) = self.pin_by_name(context, &directory, name)
            && file.guest_inode == place.inode()
        {
            return Ok(Located::Host(file));
        }
        if is_required {
            Ok(Located::Empty(place))
        } else {
            Err(stale_handle())
        }
    }

    /// Returns a file of the host, which stays open until the result is dropped. Fails for an
    /// excluded directory.
    pub(crate) fn pin_on_host(
        &self,
        context: Context,
        inode: u64,
    ) -> io::Result<PinnedFile<'_, F>> {
        match self.locate(context, inode)? {
            Located::Host(file) => Ok(file),
            Located::Empty(_) => Err(excluded()),
        }
    }

    /// Returns a file of the host to be changed. An ancestor of places that the host lacks is
    /// created: the guest has seen it. Fails for an excluded directory.
    pub(crate) fn pin_for_change(
        &self,
        context: Context,
        inode: u64,
    ) -> io::Result<PinnedFile<'_, F>> {
        let place = match self.locate(context, inode)? {
            Located::Host(file) => return Ok(file),
            Located::Empty(place) => place,
        };
        if !matches!(self.places.kind(place), PlaceKind::Ancestor { .. }) {
            return Err(excluded());
        }
        let (parent, name) = self.places.location(place);
        let directory = self.pin_for_change(context, parent.0)?;
        let mode = self.places.attributes(place).mode & 0o777;
        let made = self.inner.mkdir(
            context,
            directory.inner_inode,
            name,
            mode,
            0,
            Extensions::default(),
        );
        match made {
            Ok(entry) => self.close(context, Some(InnerInode(entry.inode))),
            // The host has just created it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let file = self.pin_by_name(context, &directory, name);
        file.ok_or_else(stale_handle)
    }

    /// Looks up a name that is a place.
    pub(crate) fn look_up_place(
        &self,
        context: Context,
        parent: u64,
        place: Place,
    ) -> io::Result<Entry> {
        let empty = || Ok(self.places.entry(place, EXCLUDED_TIMEOUT));
        let kind = self.places.kind(place);
        if kind == PlaceKind::Private {
            return empty();
        }
        let (_, name) = self.places.location(place);
        let found = match self.locate(context, parent)? {
            Located::Host(directory) if kind == PlaceKind::Hidden => {
                self.find_hidden(context, &directory, name, place)
            }
            Located::Host(directory) => self.look_up(context, &directory, name),
            Located::Empty(_) => Err(not_found()),
        };
        match found {
            Err(error)
                if kind == PlaceKind::Ancestor { is_required: true }
                    && error.raw_os_error() == Some(libc::ENOENT) =>
            {
                empty()
            }
            found => found,
        }
    }

    /// Looks up a hidden directory, and notes which it is.
    fn find_hidden(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
        place: Place,
    ) -> io::Result<Entry> {
        let entry = self.inner.lookup(context, directory.inner_inode, name)?;
        let identity = self.identity(context, directory.inner_inode, name, &entry);
        self.close(context, Some(InnerInode(entry.inode)));
        if let Some(identity) = identity? {
            self.hidden()
                .insert((identity.device, identity.inode), place);
        }
        Ok(self.places.entry(place, EXCLUDED_TIMEOUT))
    }

    /// Returns the hidden directory that has this identity.
    fn hidden_place(&self, identity: &FileIdentity) -> Option<Place> {
        let hidden = self.hidden();
        hidden.get(&(identity.device, identity.inode)).copied()
    }

    /// Gives the file its place's number, which another file may have had.
    fn assign_place(
        &self,
        context: Context,
        table: &mut Table,
        place: Place,
        found: FoundDirectory,
    ) -> GuestInode {
        let number = place.inode();
        let FoundDirectory {
            identity,
            location,
            inner_inode,
        } = found;
        if table.get(number).is_some_and(|it| it.identity == identity) {
            match table.get(number).and_then(|it| it.inner_inode) {
                Some(_) => self.close(context, Some(inner_inode)),
                None => table.set_inner_inode(number, inner_inode),
            }
            return number;
        }
        for other in [Some(number), table.by_identity(&identity)] {
            let replaced = other.and_then(|other| table.remove(other));
            self.close(context, replaced);
        }
        table.insert_as(number, identity, location, inner_inode, true);
        number
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
        let is_directory = entry.attr.mode & libc::S_IFMT == libc::S_IFDIR;
        let place = self
            .places
            .child(directory.guest_inode, name)
            .filter(|_| is_directory);
        let number = place.map(Place::inode);
        // A file that the guest knows by the number of a place has it only at that place.
        let keeps_number = |guest_inode| match number {
            Some(number) => number == guest_inode,
            None => self.places.of(guest_inode).is_none(),
        };
        if let Some(guest_inode) = table.by_inner(inner_inode)
            && keeps_number(guest_inode)
        {
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
        if let Some(hidden) = self.hidden_place(&identity) {
            self.close(context, Some(inner_inode));
            return Ok(Some(hidden.inode()));
        }
        let location = entry_location(directory, name);
        if let Some(place) = place {
            let found = FoundDirectory {
                identity,
                location,
                inner_inode,
            };
            return Ok(Some(self.assign_place(context, table, place, found)));
        }
        if let Some(guest_inode) = table.by_identity(&identity)
            && !keeps_number(guest_inode)
        {
            let replaced = table.remove(guest_inode);
            self.close(context, replaced);
        }
        if let Some(guest_inode) = table.by_identity(&identity) {
            match table.get(guest_inode).and_then(|node| node.inner_inode) {
                Some(_) => self.close(context, Some(inner_inode)),
                None => table.set_inner_inode(guest_inode, inner_inode),
            }
            return Ok(Some(guest_inode));
        }
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
        if let Some(place) = self.places.of(guest_inode)
            && self.places.kind(place) == PlaceKind::Hidden
        {
            // The host has moved it, or something above it.
            return Ok(Some(self.places.entry(place, EXCLUDED_TIMEOUT)));
        }
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

/// The error for an access to an excluded directory.
fn excluded() -> io::Error {
    io::Error::from_raw_os_error(libc::EACCES)
}

fn not_found() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
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
