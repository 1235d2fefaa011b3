//! The table of files that the guest remembers. It only keeps records; files are opened and closed
//! by the caller.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{CStr, CString, OsStr},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use container_protocol::OsText;
use serde::{Deserialize, Serialize};
use virtiofsd::{filesystem::ROOT_ID, fuse::Attr};

use crate::{
    attributes::{CachedAttributes, distinguish_modification, is_recent},
    error::{bad_handle, stale_handle},
    identity::FileIdentity,
    local_answers::{SHORT_VALIDITY, says_no_xattr},
};

/// The inode number that the guest uses for a file. It is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct GuestInode(pub u64);

/// The inode number that the inner file system uses for an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct InnerInode(pub u64);

/// The directory and name at which a file was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Location {
    pub directory: GuestInode,
    pub name: Box<CStr>,
}

/// A file that the guest remembers.
#[derive(Debug)]
pub(crate) struct Node {
    pub identity: FileIdentity,
    /// `None` after the guest has removed the name. The file must stay open then, because it could
    /// not be found again.
    pub location: Option<Location>,
    /// `None` while the file is closed in the inner file system.
    pub inner_inode: Option<InnerInode>,
    /// Type of the file (`S_IFMT`).
    pub file_type: u32,
    /// Whether the file is on a file system that is mounted below the shared directory.
    is_on_mount: bool,
    /// Number of the guest's references (FUSE lookups without the forgets).
    lookups: u64,
    /// Number of requests in progress and of open files.
    pins: u32,
    /// Whether the host watches the file for the guest. The record is needed to end that, and the
    /// guest may forget the file before it says so.
    is_watched: bool,
    /// Time of the last use, on the table's clock: the file's key in `idle`.
    last_use: u64,
    /// Attributes that the guest may still use. `None` for directories.
    cached: Option<CachedAttributes>,
    /// Change time at which the file had no extended attributes.
    no_xattr: Option<(u64, u32)>,
    /// Whether the guest has asked for a lock since it has looked the file up.
    is_locked: bool,
    /// Recent attempts to open the file that were refused because it has changed.
    refusals: Vec<Refusal>,
}

/// An attempt to open a file with outdated knowledge.
#[derive(Debug)]
struct Refusal {
    /// Thread of the guest.
    thread: libc::pid_t,
    time: Instant,
}

/// The records of a table.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SavedTable {
    pub nodes: Vec<SavedNode>,
    /// Inner handles and guest inode numbers of open files.
    handles: Vec<(u64, u64)>,
    last_number: u64,
}

/// The record of a file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedNode {
    pub number: u64,
    pub identity: FileIdentity,
    /// Number of the directory, and name in it.
    location: Option<(u64, OsText)>,
    /// The inner inode, while the file is open.
    pub inner: Option<u64>,
    file_type: u32,
    lookups: u64,
    is_locked: bool,
}

/// The next step on the way to an open file.
#[derive(Debug)]
pub(crate) enum Step {
    /// The file is open.
    Arrived(InnerInode),
    /// `child` is to be opened by its name in the open directory.
    Reopen {
        directory: (GuestInode, InnerInode),
        child: ClosedFile,
    },
}

/// A file that is closed in the inner file system.
#[derive(Debug)]
pub(crate) struct ClosedFile {
    pub guest_inode: GuestInode,
    pub name: Box<CStr>,
    pub identity: FileIdentity,
}

/// Who has reopened a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reopened {
    /// This request.
    Here,
    /// Another request, as this inode.
    Before(InnerInode),
}

/// What the guest knows of a file that it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Knowledge {
    Current,
    /// The guest can learn better by looking the path up again.
    Outdated,
    /// The guest opens the file without a path, and knows a wrong size.
    StillOutdated,
}

/// Limit of directories on the way to a file. The longest path in Linux has fewer.
const MAX_DEPTH: usize = 2048;

/// Time in which a thread of the guest tries again to open a file.
const RETRY_TIME: Duration = Duration::from_secs(1);

/// Order in which open files are closed. Directories are kept longer than files, because the files
/// in them are found through them, and because a working directory that the host renames can only
/// be followed while it is open. Files without a name are closed last. Those of other file systems
/// are closed soon in any case, because the host cannot unmount these otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EvictionClass {
    OnMount,
    File,
    Directory,
    Nameless,
}

const EVICTION_CLASSES: usize = 4;

impl Node {
    fn eviction_class(&self) -> EvictionClass {
        match (&self.location, self.is_directory()) {
            (None, _) => EvictionClass::Nameless,
            (Some(_), _) if self.is_on_mount => EvictionClass::OnMount,
            (Some(_), true) => EvictionClass::Directory,
            (Some(_), false) => EvictionClass::File,
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.file_type == libc::S_IFDIR
    }

    fn is_idle(&self) -> bool {
        self.pins == 0 && self.inner_inode.is_some()
    }

    /// Returns whether a thread that opens the file is to look its path up again, unless it has
    /// just done so. One that tries again has found this file again, or it has no path, because it
    /// opens a descriptor (`/proc/self/fd`).
    fn refuse_once(&mut self, thread: libc::pid_t) -> bool {
        self.forget_old_refusals();
        let has_tried = self.refusals.iter().any(|refusal| refusal.thread == thread);
        if !has_tried {
            let time = Instant::now();
            self.refusals.push(Refusal { thread, time });
        }
        !has_tried
    }

    fn forget_old_refusals(&mut self) {
        self.refusals
            .retain(|refusal| refusal.time.elapsed() < RETRY_TIME);
    }
}

/// The files that the guest remembers.
#[derive(Debug)]
pub(crate) struct Table {
    nodes: HashMap<GuestInode, Node>,
    by_identity: HashMap<FileIdentity, GuestInode>,
    by_inner: HashMap<InnerInode, GuestInode>,
    /// The file that was last seen at a location, by the location's hash.
    by_location: HashMap<u64, GuestInode>,
    /// Open files that nothing uses, by class and last use.
    idle: [BTreeMap<u64, GuestInode>; EVICTION_CLASSES],
    clock: u64,
    /// The clock at the last call of [`Table::evict_unused`], by class.
    last_sweeps: [u64; EVICTION_CLASSES],
    last_number: u64,
    /// Files and directories that the guest has open, by the inner handle.
    open_files: HashMap<u64, GuestInode>,
    /// Number of answers with attributes of locked files.
    answers: u32,
}

pub(crate) const ROOT: GuestInode = GuestInode(ROOT_ID);

impl Table {
    /// Creates a table with the root only, which is never closed.
    pub(crate) fn new() -> Table {
        let root = Node {
            identity: FileIdentity::default(),
            location: None,
            inner_inode: Some(InnerInode(ROOT_ID)),
            file_type: libc::S_IFDIR,
            is_on_mount: false,
            lookups: 1,
            pins: 1,
            is_watched: false,
            last_use: 0,
            cached: None,
            no_xattr: None,
            is_locked: false,
            refusals: Vec::new(),
        };
        Table {
            nodes: HashMap::from([(ROOT, root)]),
            by_identity: HashMap::new(),
            by_inner: HashMap::from([(InnerInode(ROOT_ID), ROOT)]),
            by_location: HashMap::new(),
            idle: Default::default(),
            clock: 0,
            last_sweeps: Default::default(),
            last_number: ROOT_ID,
            open_files: HashMap::new(),
            answers: 0,
        }
    }

    /// Removes everything but the root. Inode numbers are still not reused.
    pub(crate) fn clear(&mut self) {
        let last_number = self.last_number;
        *self = Table::new();
        self.last_number = last_number;
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns the number of descriptors that are held for the guest.
    pub(crate) fn open_descriptors(&self) -> u64 {
        (self.by_inner.len() + self.open_files.len()) as u64
    }

    /// Returns whether an open file is on a file system that is mounted below the shared directory.
    pub(crate) fn is_on_mount(&self, inner_inode: InnerInode) -> bool {
        let node = self.by_inner(inner_inode).and_then(|it| self.get(it));
        node.is_some_and(|node| node.is_on_mount)
    }

    /// Returns the id of the mount below the shared directory that a file is on.
    pub(crate) fn mount_below(&self, guest_inode: GuestInode) -> Option<u64> {
        let node = self.get(guest_inode)?;
        node.is_on_mount.then_some(node.identity.mount)
    }

    /// Returns where a file system is mounted, if the file is its root.
    pub(crate) fn mount_point(&self, guest_inode: GuestInode) -> Option<&Location> {
        let mount = self.mount_below(guest_inode)?;
        let location = self.get(guest_inode)?.location.as_ref()?;
        (self.mount_below(location.directory) != Some(mount)).then_some(location)
    }

    /// Returns the mount of which a file is the root; absent for other files.
    pub(crate) fn mounted_as(&self, guest_inode: GuestInode) -> Option<u64> {
        self.mount_point(guest_inode)?;
        self.mount_below(guest_inode)
    }

    pub(crate) fn get(&self, guest_inode: GuestInode) -> Option<&Node> {
        self.nodes.get(&guest_inode)
    }

    /// Returns all records but that of the root.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (GuestInode, &Node)> {
        let nodes = self.nodes.iter().filter(|(number, _)| **number != ROOT);
        nodes.map(|(number, node)| (*number, node))
    }

    pub(crate) fn by_inner(&self, inner_inode: InnerInode) -> Option<GuestInode> {
        self.by_inner.get(&inner_inode).copied()
    }

    pub(crate) fn by_identity(&self, identity: &FileIdentity) -> Option<GuestInode> {
        self.by_identity.get(identity).copied()
    }

    /// Returns the file that was last seen at a location, if it has not been seen elsewhere since.
    pub(crate) fn by_location(&self, location: &Location) -> Option<GuestInode> {
        let guest_inode = *self.by_location.get(&hash_of(location))?;
        let node = self.get(guest_inode)?;
        (node.location.as_ref() == Some(location)).then_some(guest_inode)
    }

    /// Returns the path at which a file was last seen; that of the root is empty.
    pub(crate) fn path(&self, guest_inode: GuestInode) -> Option<PathBuf> {
        let mut names = Vec::new();
        let mut at = guest_inode;
        while at != ROOT {
            // Directories that the host has moved may seem to contain each other.
            if names.len() > MAX_DEPTH {
                return None;
            }
            let location = self.get(at)?.location.as_ref()?;
            names.push(OsStr::from_bytes(location.name.to_bytes()));
            at = location.directory;
        }
        Some(names.into_iter().rev().collect())
    }

    /// Returns a number for a new file.
    pub(crate) fn next_number(&mut self) -> GuestInode {
        self.last_number += 1;
        GuestInode(self.last_number)
    }

    /// Adds a file that is open in the inner file system, with a number that no other file has.
    pub(crate) fn insert_as(
        &mut self,
        guest_inode: GuestInode,
        identity: FileIdentity,
        location: Location,
        inner_inode: InnerInode,
        (file_type, is_on_mount): (u32, bool),
    ) {
        self.by_location.insert(hash_of(&location), guest_inode);
        let node = Node {
            identity,
            location: Some(location),
            inner_inode: Some(inner_inode),
            file_type,
            is_on_mount,
            lookups: 0,
            pins: 0,
            is_watched: false,
            last_use: 0,
            cached: None,
            no_xattr: None,
            is_locked: false,
            refusals: Vec::new(),
        };
        self.nodes.insert(guest_inode, node);
        self.by_identity.insert(identity, guest_inode);
        self.by_inner.insert(inner_inode, guest_inode);
        self.add_idle(guest_inode);
    }

    /// Removes a file, also if the guest refers to it: its number belongs to another one now.
    /// Returns the inode to close.
    pub(crate) fn remove(&mut self, guest_inode: GuestInode) -> Option<InnerInode> {
        self.remove_idle(guest_inode);
        let node = self.nodes.remove(&guest_inode)?;
        if self.by_identity.get(&node.identity) == Some(&guest_inode) {
            self.by_identity.remove(&node.identity);
        }
        self.leave_location(guest_inode, node.location.as_ref());
        let inner_inode = node.inner_inode?;
        self.by_inner.remove(&inner_inode);
        Some(inner_inode)
    }

    /// Finds the next step on the way to an open file, and pins the file or directory that is part
    /// of it.
    ///
    /// # Errors
    /// `EBADF` if the guest does not know the file, `ESTALE` if the way to it is lost.
    pub(crate) fn next_step_to(&mut self, guest_inode: GuestInode) -> io::Result<Step> {
        let mut child: Option<ClosedFile> = None;
        let mut at = guest_inode;
        // Directories that the host has moved may seem to contain each other.
        for _ in 0..=self.nodes.len() {
            let Some(node) = self.nodes.get(&at) else {
                return Err(if child.is_none() {
                    bad_handle()
                } else {
                    stale_handle()
                });
            };
            if let Some(inner_inode) = node.inner_inode {
                self.pin(at);
                return Ok(match child {
                    None => Step::Arrived(inner_inode),
                    Some(child) => Step::Reopen {
                        directory: (at, inner_inode),
                        child,
                    },
                });
            }
            let location = node.location.as_ref().ok_or_else(stale_handle)?;
            child = Some(ClosedFile {
                guest_inode: at,
                name: location.name.clone(),
                identity: node.identity,
            });
            at = location.directory;
        }
        Err(stale_handle())
    }

    /// Records that a closed file has been opened, and pins it. Fails with `ESTALE` if the guest
    /// has forgotten it, or if the inner file system knows the file as another one.
    pub(crate) fn reopened(
        &mut self,
        guest_inode: GuestInode,
        inner_inode: InnerInode,
    ) -> io::Result<Reopened> {
        let node = self.nodes.get(&guest_inode).ok_or_else(stale_handle)?;
        let reopened = match node.inner_inode {
            Some(other) => Reopened::Before(other),
            None if self.by_inner.contains_key(&inner_inode) => return Err(stale_handle()),
            None => {
                self.reopen(guest_inode, inner_inode);
                Reopened::Here
            }
        };
        self.pin(guest_inode);
        Ok(reopened)
    }

    /// Records that a file has been opened, unless it is open. Returns whether it was closed.
    pub(crate) fn reopen(&mut self, guest_inode: GuestInode, inner_inode: InnerInode) -> bool {
        let Some(node) = self.nodes.get_mut(&guest_inode) else {
            return false;
        };
        if node.inner_inode.is_some() {
            return false;
        }
        node.inner_inode = Some(inner_inode);
        self.by_inner.insert(inner_inode, guest_inode);
        self.add_idle(guest_inode);
        true
    }

    /// Records that the least recently used file is closed, and returns its inner inode for the
    /// caller to close. Returns `None` when all files are in use.
    pub(crate) fn evict(&mut self, limit: u64) -> Option<InnerInode> {
        let [on_mounts, files, directories, nameless] = &self.idle;
        // With most of the limit in directories, none would be left for files.
        let many_directories = directories.len() as u64 > limit / 2;
        let order = if many_directories {
            [on_mounts, directories, files, nameless]
        } else {
            [on_mounts, files, directories, nameless]
        };
        let (_, &guest_inode) = order.iter().find_map(|kind| kind.first_key_value())?;
        self.remove_idle(guest_inode);
        let inner_inode = self.nodes.get_mut(&guest_inode)?.inner_inode.take()?;
        self.by_inner.remove(&inner_inode);
        Some(inner_inode)
    }

    /// Records that the files of a class are closed that were not used since the last call, and
    /// returns their inner inodes for the caller to close.
    pub(crate) fn evict_unused(&mut self, class: EvictionClass) -> Vec<InnerInode> {
        let files = &mut self.idle[class as usize];
        let last_sweep = std::mem::replace(&mut self.last_sweeps[class as usize], self.clock);
        let used = files.split_off(&(last_sweep + 1));
        let unused = std::mem::replace(files, used);
        let nodes = &mut self.nodes;
        let inner_inodes: Vec<InnerInode> = unused
            .values()
            .filter_map(|guest_inode| nodes.get_mut(guest_inode)?.inner_inode.take())
            .collect();
        for inner_inode in &inner_inodes {
            self.by_inner.remove(inner_inode);
        }
        inner_inodes
    }

    /// Counts a reference of the guest, which has looked the file up by this name.
    pub(crate) fn add_lookup(&mut self, guest_inode: GuestInode, location: Location) {
        if let Some(node) = self.nodes.get_mut(&guest_inode) {
            node.lookups += 1;
        }
        self.set_name(guest_inode, location);
    }

    /// Records attributes that are sent to the guest, and changes what it may do with them.
    pub(crate) fn send_attributes(
        &mut self,
        guest_inode: GuestInode,
        attributes: &mut Attr,
        validity: &mut Duration,
    ) {
        let Some(node) = self.nodes.get_mut(&guest_inode) else {
            return;
        };
        let changed = (attributes.ctime, attributes.ctimensec);
        // It may be changed again without another change time.
        let is_known = says_no_xattr(attributes) && !is_recent(changed);
        node.no_xattr = is_known.then_some(changed);
        if node.is_directory() {
            return;
        }
        if attributes.nlink > 1 {
            // It may be changed by a name in a directory that has no mark.
            *validity = (*validity).min(SHORT_VALIDITY);
        }
        if node.is_locked {
            *validity = Duration::ZERO;
            self.answers = self.answers.wrapping_add(1);
            distinguish_modification(attributes, self.answers);
            node.cached = None;
            return;
        }
        node.forget_old_refusals();
        if node.refusals.is_empty() {
            node.cached = Some(CachedAttributes::new(attributes, *validity));
        } else {
            // The host may change the file again before the guest opens it.
            *validity = Duration::ZERO;
            node.cached = None;
        }
    }

    /// Returns whether an open file is known to have no extended attributes.
    pub(crate) fn knows_no_xattr(&self, inner_inode: InnerInode, current: &Attr) -> bool {
        let node = self.by_inner(inner_inode).and_then(|it| self.get(it));
        node.is_some_and(|node| node.no_xattr == Some((current.ctime, current.ctimensec)))
    }

    /// Records that the guest no longer uses the attributes it has, because it has changed the file
    /// itself.
    pub(crate) fn forget_attributes(&mut self, guest_inode: GuestInode) {
        if let Some(node) = self.nodes.get_mut(&guest_inode) {
            node.cached = None;
        }
    }

    /// Records that the guest locks a file. Returns the attributes that it may still use.
    pub(crate) fn lock(&mut self, guest_inode: GuestInode) -> Option<CachedAttributes> {
        let node = self.nodes.get_mut(&guest_inode)?;
        node.is_locked = true;
        node.cached
    }

    /// Returns whether the guest knows a file's current size when one of its threads opens it.
    pub(crate) fn knowledge(
        &mut self,
        guest_inode: GuestInode,
        thread: libc::pid_t,
        current: &Attr,
    ) -> Knowledge {
        let Some(node) = self.nodes.get_mut(&guest_inode) else {
            return Knowledge::Current;
        };
        if !node.cached.is_some_and(|it| it.has_other_size(current)) {
            Knowledge::Current
        } else if node.refuse_once(thread) {
            Knowledge::Outdated
        } else {
            Knowledge::StillOutdated
        }
    }

    /// Returns whether a thread that opens a file is to look its path up again.
    pub(crate) fn refuse_once(&mut self, guest_inode: GuestInode, thread: libc::pid_t) -> bool {
        let node = self.nodes.get_mut(&guest_inode);
        node.is_some_and(|node| node.refuse_once(thread))
    }

    /// Records a file's current name.
    pub(crate) fn set_name(&mut self, guest_inode: GuestInode, location: Location) {
        if guest_inode != ROOT {
            self.set_location(guest_inode, Some(location));
        }
    }

    /// Records that a name has been removed. It matters only if the file is known by that name.
    pub(crate) fn remove_name(&mut self, guest_inode: GuestInode, location: &Location) {
        let known = self
            .get(guest_inode)
            .and_then(|node| node.location.as_ref());
        if known == Some(location) {
            self.set_location(guest_inode, None);
        }
    }

    fn set_location(&mut self, guest_inode: GuestInode, location: Option<Location>) {
        self.remove_idle(guest_inode);
        if let Some(node) = self.nodes.get_mut(&guest_inode) {
            let old = std::mem::replace(&mut node.location, location);
            let new = node.location.as_ref().map(hash_of);
            self.leave_location(guest_inode, old.as_ref());
            if let Some(new) = new {
                self.by_location.insert(new, guest_inode);
            }
        }
        self.add_idle(guest_inode);
    }

    fn leave_location(&mut self, guest_inode: GuestInode, location: Option<&Location>) {
        let Some(hash) = location.map(hash_of) else {
            return;
        };
        if self.by_location.get(&hash) == Some(&guest_inode) {
            self.by_location.remove(&hash);
        }
    }

    /// Removes references of the guest. Returns the file to close, if it was the last use.
    pub(crate) fn forget_lookups(
        &mut self,
        guest_inode: GuestInode,
        count: u64,
    ) -> Option<InnerInode> {
        let node = self
            .nodes
            .get_mut(&guest_inode)
            .filter(|_| guest_inode != ROOT)?;
        node.lookups = node.lookups.saturating_sub(count);
        self.remove_if_unused(guest_inode)
    }

    /// Keeps a file open until [`Table::unpin`].
    pub(crate) fn pin(&mut self, guest_inode: GuestInode) {
        self.remove_idle(guest_inode);
        if let Some(node) = self.nodes.get_mut(&guest_inode) {
            node.pins += 1;
        }
    }

    /// Reverts one [`Table::pin`]. Returns the file to close, if it was the last use.
    pub(crate) fn unpin(&mut self, guest_inode: GuestInode) -> Option<InnerInode> {
        let node = self.nodes.get_mut(&guest_inode)?;
        node.pins = node.pins.saturating_sub(1);
        self.add_idle(guest_inode);
        self.remove_if_unused(guest_inode)
    }

    /// Keeps the record of a file until [`Table::unwatch`].
    pub(crate) fn watch(&mut self, guest_inode: GuestInode) {
        if let Some(node) = self.nodes.get_mut(&guest_inode) {
            node.is_watched = true;
        }
    }

    /// Reverts [`Table::watch`]. Returns the file to close, if it was the last use.
    pub(crate) fn unwatch(&mut self, guest_inode: GuestInode) -> Option<InnerInode> {
        self.nodes.get_mut(&guest_inode)?.is_watched = false;
        self.remove_if_unused(guest_inode)
    }

    /// Records that the guest has opened a file.
    pub(crate) fn opened(&mut self, guest_inode: GuestInode, handle: u64) {
        self.pin(guest_inode);
        self.open_files.insert(handle, guest_inode);
    }

    /// Records that the guest has closed a file. Returns the file to close, if it was the last use.
    pub(crate) fn closed(&mut self, guest_inode: GuestInode, handle: u64) -> Option<InnerInode> {
        self.open_files.remove(&handle);
        self.unpin(guest_inode)
    }

    /// Returns the files and directories that the guest has open, with their inner handles.
    pub(crate) fn open_files(&self) -> impl Iterator<Item = (u64, GuestInode)> {
        let files = self.open_files.iter();
        files.map(|(handle, guest_inode)| (*handle, *guest_inode))
    }

    /// Returns all records but that of the root, to be [restored](Table::restore).
    pub(crate) fn save(&self) -> SavedTable {
        let nodes = self.nodes().map(|(number, node)| SavedNode {
            number: number.0,
            identity: node.identity,
            location: node.location.as_ref().map(|location| {
                let name = OsStr::from_bytes(location.name.to_bytes());
                (location.directory.0, name.into())
            }),
            inner: node.inner_inode.map(|inner| inner.0),
            file_type: node.file_type,
            lookups: node.lookups,
            is_locked: node.is_locked,
        });
        let handles = self.open_files();
        SavedTable {
            nodes: nodes.collect(),
            handles: handles.map(|(handle, inode)| (handle, inode.0)).collect(),
            last_number: self.last_number,
        }
    }

    /// Adds saved records to a table that has only the root, which is on `root_mount`.
    pub(crate) fn restore(&mut self, saved: SavedTable, root_mount: Option<u64>) {
        for node in saved.nodes {
            let number = GuestInode(node.number);
            let location = node.location.and_then(|(directory, name)| {
                Some(Location {
                    directory: GuestInode(directory),
                    name: CString::new(name.as_os_str().as_bytes()).ok()?.into(),
                })
            });
            if let Some(location) = &location {
                self.by_location.insert(hash_of(location), number);
            }
            self.by_identity.insert(node.identity, number);
            let inner_inode = node.inner.map(InnerInode);
            if let Some(inner_inode) = inner_inode {
                self.by_inner.insert(inner_inode, number);
            }
            let restored = Node {
                identity: node.identity,
                location,
                inner_inode,
                file_type: node.file_type,
                is_on_mount: root_mount.is_some_and(|root| root != node.identity.mount),
                lookups: node.lookups,
                pins: 0,
                is_watched: false,
                last_use: 0,
                cached: None,
                no_xattr: None,
                is_locked: node.is_locked,
                refusals: Vec::new(),
            };
            self.nodes.insert(number, restored);
            self.add_idle(number);
        }
        for (handle, guest_inode) in saved.handles {
            self.opened(GuestInode(guest_inode), handle);
        }
        self.last_number = self.last_number.max(saved.last_number);
    }

    /// Records that an open file is another one in the inner file system. Returns the handles and
    /// the inode to close.
    pub(crate) fn lose(&mut self, guest_inode: GuestInode) -> Option<(Vec<u64>, InnerInode)> {
        self.remove_idle(guest_inode);
        let inner_inode = self.nodes.get_mut(&guest_inode)?.inner_inode.take()?;
        self.by_inner.remove(&inner_inode);
        let files = self.open_files();
        let handles = files.filter(|(_, file)| *file == guest_inode);
        let handles: Vec<u64> = handles.map(|(handle, _)| handle).collect();
        for handle in &handles {
            self.closed(guest_inode, *handle);
        }
        Some((handles, inner_inode))
    }

    fn remove_if_unused(&mut self, guest_inode: GuestInode) -> Option<InnerInode> {
        let node = self.nodes.get(&guest_inode)?;
        if guest_inode == ROOT || node.lookups > 0 || node.pins > 0 || node.is_watched {
            return None;
        }
        self.remove(guest_inode)
    }

    fn add_idle(&mut self, guest_inode: GuestInode) {
        if let Some(node) = self.nodes.get_mut(&guest_inode)
            && node.is_idle()
            && guest_inode != ROOT
        {
            self.clock += 1;
            node.last_use = self.clock;
            self.idle[node.eviction_class() as usize].insert(node.last_use, guest_inode);
        }
    }

    fn remove_idle(&mut self, guest_inode: GuestInode) {
        if let Some(node) = self.nodes.get(&guest_inode) {
            self.idle[node.eviction_class() as usize].remove(&node.last_use);
        }
    }
}

fn hash_of(location: &Location) -> u64 {
    let mut hasher = DefaultHasher::new();
    location.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_root_of_a_mount_is_mounted() {
        let mut table = Table::new();
        let at = |directory, name: &CStr| Location {
            directory,
            name: name.into(),
        };
        let identity = |mount| {
            let mut identity = FileIdentity::default();
            identity.mount = mount;
            identity
        };
        let (root, below) = (GuestInode(7), GuestInode(8));
        for (inode, mount, location) in [
            (root, 30, at(ROOT, c"mount")),
            (below, 30, at(root, c"directory")),
            (GuestInode(9), 0, at(ROOT, c"other")),
        ] {
            let kind = (libc::S_IFDIR, mount != 0);
            table.insert_as(inode, identity(mount), location, InnerInode(inode.0), kind);
        }
        let found = |location| table.mounted_as(table.by_location(&location)?);
        assert_eq!(found(at(ROOT, c"mount")), Some(30));
        assert_eq!(found(at(root, c"directory")), None);
        assert_eq!(found(at(ROOT, c"other")), None);
        assert_eq!(found(at(ROOT, c"missing")), None);
        assert_eq!(table.mounted_as(ROOT), None);
    }
}
