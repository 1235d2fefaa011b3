//! The file system with a limit of open files: finding files again that were closed.

use std::{
    collections::{HashMap, HashSet},
    ffi::CStr,
    fs::File,
    io,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use virtiofsd::{
    filesystem::{Context, Entry, FileSystem, ROOT_ID, SerializableFileSystem, ZeroCopyWriter},
    oslib::ReadvFlags,
    soft_idmap::GuestGid,
};

use crate::{
    anonymous::AnonymousFiles,
    error::stale_handle,
    expiry::Expiry,
    identity::FileIdentity,
    listing::mount_id,
    local_answers::{LocalAnswers, SHORT_VALIDITY},
    locks::{Locks, Waiters},
    places::{Exclusions, Place, Places},
    replay::{Replay, own_context},
    table::{
        ClosedFile, EvictionClass, GuestInode, InnerInode, Location, Node, ROOT, Reopened, Step,
        Table,
    },
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
///
/// Clones are the same file system.
#[derive(Debug)]
pub struct BoundedFileSystem<F>(Arc<Parts<F>>);

impl<F> Clone for BoundedFileSystem<F> {
    fn clone(&self) -> BoundedFileSystem<F> {
        BoundedFileSystem(Arc::clone(&self.0))
    }
}

impl<F> Deref for BoundedFileSystem<F> {
    type Target = Parts<F>;

    fn deref(&self) -> &Parts<F> {
        &self.0
    }
}

/// A file system whose inodes and handles are numbers, which can be wrapped.
pub trait InnerFileSystem:
    FileSystem<Inode = u64, Handle = u64> + SerializableFileSystem + Send + Sync + 'static
{
}

impl<F> InnerFileSystem for F where
    F: FileSystem<Inode = u64, Handle = u64> + SerializableFileSystem + Send + Sync + 'static
{
}

/// What an inner file system cannot do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Restrictions {
    /// Group in whose name files are created, because the process may not act as another user than
    /// its own. Absent for that of the guest's process.
    pub creating_group: Option<GuestGid>,
    /// Whether nothing can be changed.
    pub read_only: bool,
}

/// The parts of a [`BoundedFileSystem`].
#[derive(Debug)]
#[doc(hidden)]
pub struct Parts<F> {
    pub(crate) inner: F,
    /// Limit of descriptors that are held for the guest.
    limit: u64,
    restrictions: Restrictions,
    pub(crate) places: Places,
    /// Device and inode number of hidden directories, which stay hidden if the host moves them.
    pub(crate) hidden: Mutex<HashMap<(u64, u64), Place>>,
    /// Names, by directory, at which a file system is mounted that does not answer.
    pub(crate) unanswered: Mutex<HashSet<Location>>,
    /// Id of the mount that the shared directory is on.
    root_mount: OnceLock<u64>,
    /// Never locked during a system call that may wait for the host's file systems.
    table: Mutex<Table>,
    /// The last directory in which a file was identified, while no request uses it.
    last_directory: Mutex<Option<OpenDirectory>>,
    pub(crate) locks: Locks,
    pub(crate) anonymous: AnonymousFiles,
    pub(crate) replay: Replay,
    pub(crate) local_answers: LocalAnswers,
    pub(crate) expiry: Expiry,
}

/// A directory that is open in the inner file system.
#[derive(Debug)]
struct OpenDirectory {
    directory: u64,
    handle: u64,
}

/// A file that stays open in the inner file system while a request uses it.
pub(crate) struct PinnedFile<'a, F: InnerFileSystem> {
    pub file_system: &'a BoundedFileSystem<F>,
    pub context: Context,
    pub guest_inode: GuestInode,
    pub inner_inode: u64,
}

impl<F: InnerFileSystem> Drop for PinnedFile<'_, F> {
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

impl<F: InnerFileSystem> BoundedFileSystem<F> {
    /// Wraps `inner`, which may hold up to `limit` descriptors for the guest.
    pub fn new(inner: F, limit: u64) -> BoundedFileSystem<F> {
        let (restrictions, places) = (Restrictions::default(), Places::default());
        let local_answers = LocalAnswers::default();
        BoundedFileSystem::with_places(inner, limit, restrictions, places, local_answers)
    }

    /// Wraps `inner`, which has these restrictions, without some directories of `root`, the shared
    /// directory.
    pub fn excluding(
        inner: F,
        limit: u64,
        restrictions: Restrictions,
        (root, exclusions): (&File, &Exclusions),
    ) -> BoundedFileSystem<F> {
        let places = Places::new(exclusions);
        let local_answers = LocalAnswers::new(root);
        let file_system =
            BoundedFileSystem::with_places(inner, limit, restrictions, places, local_answers);
        file_system.find_all_hidden(root);
        file_system
    }

    fn with_places(
        inner: F,
        limit: u64,
        restrictions: Restrictions,
        places: Places,
        local_answers: LocalAnswers,
    ) -> BoundedFileSystem<F> {
        BoundedFileSystem(Arc::new(Parts {
            inner,
            restrictions,
            places,
            hidden: Mutex::default(),
            unanswered: Mutex::default(),
            root_mount: OnceLock::new(),
            limit: limit.saturating_sub(TRANSIENT_DESCRIPTORS),
            table: Mutex::new(Table::new()),
            last_directory: Mutex::new(None),
            locks: Locks::default(),
            anonymous: AnonymousFiles::default(),
            replay: Replay::default(),
            local_answers,
            expiry: Expiry::default(),
        }))
    }

    /// Forgets everything, as the inner file system is about to do.
    pub(crate) fn clear(&self) {
        self.locks.clear();
        self.anonymous.clear();
        self.table().clear();
        *self.last_directory() = None;
    }

    /// Notes with which INIT request the guest's session has begun.
    pub(crate) fn begin_session(&self, init: &[u8]) {
        self.local_answers.begin(init);
        self.expiry.begin(self.local_answers.end_on_request(init));
    }

    /// Records that the guest's agent begins to serve.
    pub(crate) fn agent_begins(&self) {
        let known: Vec<GuestInode> = self.table().nodes().map(|(number, _)| number).collect();
        self.expiry.agent_begins([ROOT].into_iter().chain(known));
    }

    /// Returns the number of descriptors that are held for the guest.
    pub fn open_descriptors(&self) -> u64 {
        self.table().open_descriptors() + self.other_descriptors()
    }

    /// Returns whether another descriptor may be held for the guest.
    pub(crate) fn has_descriptors_left(&self) -> bool {
        self.open_descriptors() < self.limit
    }

    pub(crate) fn restrictions(&self) -> Restrictions {
        self.restrictions
    }

    /// Returns the number of descriptors that are held for the guest, and that the inner file
    /// system does not know.
    fn other_descriptors(&self) -> u64 {
        self.locks.descriptors() + self.anonymous.descriptors()
    }

    /// Closes the files that were not used since the last call. The host's file system keeps a file
    /// that the host has removed while it is open, and its disk space.
    pub fn close_unused(&self) {
        self.close_unused_of(EvictionClass::File);
    }

    /// Closes the files and directories on file systems mounted below the shared directory that
    /// were not used since the last call. The host cannot unmount these file systems before.
    pub fn close_unused_on_mounts(&self) {
        self.close_unused_of(EvictionClass::OnMount);
        let last = self.last_directory().take();
        let is_closed = last.as_ref().is_some_and(|last| {
            let (table, directory) = (self.table(), InnerInode(last.directory));
            table.is_on_mount(directory) || table.by_inner(directory).is_none()
        });
        let closed = if is_closed {
            last
        } else {
            // Another request may have left its directory meanwhile.
            std::mem::replace(&mut *self.last_directory(), last)
        };
        if let Err(error) = self.close_directory(own_context(), closed) {
            log::warn!("cannot close a directory: {error}");
        }
    }

    fn close_unused_of(&self, class: EvictionClass) {
        let unused = self.table().evict_unused(class);
        for inner_inode in unused {
            self.close(own_context(), Some(inner_inode));
        }
    }

    /// Returns the number of files that the guest remembers, including the root.
    pub fn remembered_files(&self) -> usize {
        self.table().len()
    }

    /// Returns the guest's processes that wait for a lock.
    pub fn waiters(&self) -> &Waiters {
        &self.locks.waiters
    }

    pub(crate) fn close(&self, context: Context, inner_inode: Option<InnerInode>) {
        if let Some(InnerInode(inner_inode)) = inner_inode {
            self.inner.forget(context, inner_inode, 1);
        }
    }

    /// Returns the file, which stays open until the result is dropped. It is reopened if it was
    /// closed, and so are the directories on the way to it.
    pub(crate) fn pin(&self, context: Context, guest_inode: u64) -> io::Result<PinnedFile<'_, F>> {
        let guest_inode = GuestInode(guest_inode);
        self.evict_excess(context);
        // The last directory that was reopened must not be closed before the next step.
        let mut _directory = None;
        loop {
            let step = self.table().next_step_to(guest_inode)?;
            match step {
                Step::Arrived(inner_inode) => {
                    return Ok(PinnedFile {
                        file_system: self,
                        context,
                        guest_inode,
                        inner_inode: inner_inode.0,
                    });
                }
                Step::Reopen {
                    directory: (directory, inner_directory),
                    child,
                } => {
                    let directory = PinnedFile {
                        file_system: self,
                        context,
                        guest_inode: directory,
                        inner_inode: inner_directory.0,
                    };
                    self.evict_excess(context);
                    _directory = Some(self.reopen(context, &directory, &child)?);
                }
            }
        }
    }

    fn evict_excess(&self, context: Context) {
        self.evict_beyond(context, self.limit.saturating_sub(self.other_descriptors()));
    }

    /// Closes everything that the guest does not have open.
    pub(crate) fn evict_all(&self, context: Context) -> io::Result<()> {
        let directory = self.last_directory().take();
        self.close_directory(context, directory)?;
        self.evict_beyond(context, 0);
        Ok(())
    }

    fn evict_beyond(&self, context: Context, limit: u64) {
        loop {
            let evicted = {
                let mut table = self.table();
                if table.open_descriptors() <= limit {
                    return;
                }
                table.evict(limit)
            };
            if evicted.is_none() {
                // All files are in use. The inner file system fails if they are too many.
                return;
            }
            self.close(context, evicted);
        }
    }

    /// Opens a closed file by looking up its name. Fails with `ESTALE` if it is another file now.
    fn reopen(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        child: &ClosedFile,
    ) -> io::Result<PinnedFile<'_, F>> {
        let entry =
            self.inner_lookup(context, directory, &child.name)
                .map_err(|error| match error.raw_os_error() {
                    Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => stale_handle(),
                    _ => error,
                })?;
        let found = InnerInode(entry.inode);
        let identity = self.identity(context, directory.inner_inode, &child.name, &entry);
        let reopened = match identity {
            Ok(Some(identity)) if identity == child.identity => {
                self.table().reopened(child.guest_inode, found)
            }
            Ok(_) => Err(stale_handle()),
            Err(error) => Err(error),
        };
        if !matches!(reopened, Ok(Reopened::Here)) {
            self.close(context, Some(found));
        }
        let InnerInode(inner_inode) = match reopened? {
            Reopened::Here => found,
            Reopened::Before(inner_inode) => inner_inode,
        };
        Ok(PinnedFile {
            file_system: self,
            context,
            guest_inode: child.guest_inode,
            inner_inode,
        })
    }

    /// Returns the identity of a file that was just looked up; `None` when the name belongs to
    /// another file by now.
    ///
    /// The inode number is enough to notice that: the inner file system has the file open, so the
    /// number is not reused.
    pub(crate) fn identity(
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

    /// Calls `act` with a descriptor of a directory. It is kept open, because the next lookup is
    /// usually in the same directory.
    pub(crate) fn with_directory<T>(
        &self,
        context: Context,
        directory: u64,
        act: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let last = self.last_directory().take();
        let last = match last {
            Some(last) if last.directory == directory => last,
            other => {
                self.close_directory(context, other)?;
                let (handle, _) =
                    self.inner
                        .open(context, directory, false, libc::O_PATH as u32)?;
                let handle = handle.ok_or_else(stale_handle)?;
                OpenDirectory { directory, handle }
            }
        };
        let result = self.probe(context, directory, last.handle, act);
        // Another request may have left its directory meanwhile.
        let other = self.last_directory().replace(last);
        self.close_directory(context, other)?;
        result
    }

    /// Calls `act` with a descriptor (`O_PATH`) of a file, which is closed afterwards.
    pub(crate) fn with_descriptor<T>(
        &self,
        context: Context,
        inner_inode: u64,
        act: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let (handle, _) = self
            .inner
            .open(context, inner_inode, false, libc::O_PATH as u32)?;
        let handle = handle.ok_or_else(stale_handle)?;
        let result = self.probe(context, inner_inode, handle, act);
        self.inner
            .release(context, inner_inode, 0, handle, false, false, None)?;
        result
    }

    fn close_directory(
        &self,
        context: Context,
        directory: Option<OpenDirectory>,
    ) -> io::Result<()> {
        match directory {
            Some(OpenDirectory { directory, handle }) => self
                .inner
                .release(context, directory, 0, handle, false, false, None),
            None => Ok(()),
        }
    }

    /// Returns the id of the mount that a file is on.
    pub(crate) fn mount(&self, context: Context, guest_inode: GuestInode) -> Option<u64> {
        if guest_inode != ROOT {
            let table = self.table();
            return Some(table.get(guest_inode)?.identity.mount);
        }
        if let Some(mount) = self.root_mount.get() {
            return Some(*mount);
        }
        let mount = self.with_directory(context, ROOT_ID, |root| Ok(mount_id(root, c"")));
        let mount = mount.ok()??;
        Some(*self.root_mount.get_or_init(|| mount))
    }

    /// Returns whether a file is on a file system that is mounted below the shared directory.
    pub(crate) fn is_below_mount(&self, context: Context, guest_inode: GuestInode) -> bool {
        let mounts = (self.mount(context, ROOT), self.mount(context, guest_inode));
        matches!(mounts, (Some(root), Some(mount)) if root != mount)
    }

    /// Calls `act` with the file of an inner handle. The inner file system exposes descriptors only
    /// to readers, so this "reads" from it.
    pub(crate) fn probe<T>(
        &self,
        context: Context,
        inner_inode: u64,
        handle: u64,
        act: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut probe = DescriptorProbe {
            act: Some(act),
            result: None,
        };
        self.inner
            .read(context, inner_inode, handle, &mut probe, 0, 0, None, 0)?;
        probe.result.unwrap_or_else(|| Err(stale_handle()))
    }

    /// Finds the file that was just looked up as `name` in `directory` in the table, adding it if
    /// it is new, and calls `act`. Returns `None` when the host has changed the name meanwhile.
    fn with_node<T>(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
        entry: &Entry,
        act: impl FnOnce(&mut Table, GuestInode) -> T,
    ) -> io::Result<Option<T>> {
        let found = InnerInode(entry.inode);
        let file_type = entry.attr.mode & libc::S_IFMT;
        let place = self
            .places
            .child(directory.guest_inode, name)
            .filter(|_| file_type == libc::S_IFDIR);
        // A file that the guest knows by the number of a place has it only at that place.
        let keeps_number = |guest_inode: &GuestInode| match place {
            Some(place) => place.inode() == *guest_inode,
            None => self.places.of(*guest_inode).is_none(),
        };
        let known = |table: &Table| table.by_inner(found).filter(keeps_number);
        {
            let mut table = self.table();
            if let Some(guest_inode) = known(&table) {
                let result = act(&mut table, guest_inode);
                drop(table);
                // The lookup has added a second reference in the inner file system.
                self.close(context, Some(found));
                return Ok(Some(result));
            }
        }
        let identity = match self.identity(context, directory.inner_inode, name, entry) {
            Ok(Some(identity)) => identity,
            other => {
                self.close(context, Some(found));
                return other.map(|_| None);
            }
        };
        let hidden = self.hidden_place(&identity);
        let root_mount = self.mount(context, ROOT);
        let is_on_mount = root_mount.is_some_and(|root| root != identity.mount);
        let mut closed = Vec::new();
        let mut table = self.table();
        let guest_inode = match (hidden, known(&table)) {
            (Some(hidden), _) => {
                closed.push(found);
                hidden.inode()
            }
            // Another request was faster.
            (None, Some(guest_inode)) => {
                closed.push(found);
                guest_inode
            }
            (None, None) => {
                let number = place.map(Place::inode);
                // Another file may have had the place's number.
                for other in [number, table.by_identity(&identity)].into_iter().flatten() {
                    let is_this = table.get(other).is_some_and(|it| it.identity == identity);
                    if !is_this || !keeps_number(&other) {
                        closed.extend(table.remove(other));
                    }
                }
                match table.by_identity(&identity) {
                    Some(guest_inode) => {
                        if !table.reopen(guest_inode, found) {
                            closed.push(found);
                        }
                        guest_inode
                    }
                    None => {
                        let number = number.unwrap_or_else(|| table.next_number());
                        let location = entry_location(directory, name);
                        let kind = (file_type, is_on_mount);
                        table.insert_as(number, identity, location, found, kind);
                        number
                    }
                }
            }
        };
        let result = act(&mut table, guest_inode);
        drop(table);
        for inner_inode in closed {
            self.close(context, Some(inner_inode));
        }
        Ok(Some(result))
    }

    /// Translates the result of a lookup for the guest, and counts the guest's new reference.
    /// `entry_timeout` is the directory's [validity](Self::validity) before the lookup. Returns
    /// `None` when the host has changed the name meanwhile.
    pub(crate) fn to_guest_entry(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
        entry: Entry,
        entry_timeout: Duration,
    ) -> io::Result<Option<Entry>> {
        let (mut attributes, mut validity) = (entry.attr, entry_timeout);
        self.note_no_xattr(context, directory.guest_inode, entry.inode, &mut attributes);
        let guest_inode =
            self.with_node(context, directory, name, &entry, |table, guest_inode| {
                if self.hidden_number(guest_inode).is_none() {
                    // The host's changes of names in a directory change its attributes.
                    if table.get(guest_inode).is_some_and(Node::is_directory) {
                        validity = validity.min(self.expiry.known_validity(guest_inode));
                    }
                    table.add_lookup(guest_inode, entry_location(directory, name));
                    table.send_attributes(guest_inode, &mut attributes, &mut validity);
                }
                guest_inode
            })?;
        Ok(
            guest_inode.map(|guest_inode| match self.hidden_number(guest_inode) {
                // The host has moved it, or something above it.
                Some(place) => self.places.entry(place, EXCLUDED_TIMEOUT),
                None => Entry {
                    inode: guest_inode.0,
                    attr: attributes,
                    attr_timeout: validity,
                    entry_timeout,
                    ..entry
                },
            }),
        )
    }

    /// Looks a name up for the guest.
    pub(crate) fn look_up(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
    ) -> io::Result<Entry> {
        for _ in 0..MAX_ATTEMPTS {
            let validity = self.validity(context, directory);
            let entry = self.inner_lookup(context, directory, name)?;
            let entry = self.to_guest_entry(context, directory, name, entry, validity)?;
            if let Some(entry) = entry {
                return Ok(entry);
            }
        }
        Err(stale_handle())
    }

    /// Returns how long the guest may cache names in a directory, and attributes of the files that
    /// they belong to. Must be called before these are read.
    pub(crate) fn validity(&self, context: Context, directory: &PinnedFile<'_, F>) -> Duration {
        let number = directory.guest_inode;
        if !self.expiry.is_possible() || self.is_below_mount(context, number) {
            return SHORT_VALIDITY;
        }
        self.expiry.validity(number, |mark| {
            self.with_descriptor(context, directory.inner_inode, mark)
        })
    }

    /// Returns how long the guest may cache attributes of a file. Must be called before these are
    /// read.
    pub(crate) fn attributes_validity(&self, file: GuestInode) -> Duration {
        if !self.expiry.is_possible() {
            return SHORT_VALIDITY;
        }
        let table = self.table();
        let Some(node) = table.get(file) else {
            return SHORT_VALIDITY;
        };
        let Some(location) = &node.location else {
            return SHORT_VALIDITY;
        };
        let validity = self.expiry.known_validity(location.directory);
        if node.is_directory() {
            validity.min(self.expiry.known_validity(file))
        } else {
            validity
        }
    }

    /// Returns the file that has this name now, without a reference of the guest. Returns `None`
    /// when no file has the name, or when it cannot be determined.
    pub(crate) fn pin_by_name(
        &self,
        context: Context,
        directory: &PinnedFile<'_, F>,
        name: &CStr,
    ) -> Option<PinnedFile<'_, F>> {
        let entry = self.inner_lookup(context, directory, name).ok()?;
        self.with_node(context, directory, name, &entry, |table, guest_inode| {
            let InnerInode(inner_inode) = table.get(guest_inode)?.inner_inode?;
            table.pin(guest_inode);
            Some(PinnedFile {
                file_system: self,
                context,
                guest_inode,
                inner_inode,
            })
        })
        .ok()??
    }
}

/// Returns the location `name` in `directory`.
pub(crate) fn entry_location<F: InnerFileSystem>(
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
