//! The guest's locks, held on the host.
//!
//! | guest | host |
//! |---|---|
//! | flock(2) | flock(2) of the handle's open file description |
//! | fcntl(2), of a process or an open file description | `F_OFD_SETLK` of an open file description of its own for each file and owner |
//!
//! The guest's kernel does not say which of the two an owner of bytes is. A process loses its locks
//! when it closes any descriptor of the file, and the guest sends a FLUSH then. An open file
//! description loses them with its handle. No process can have a lock that was set through a handle
//! that is released, so locks end with either.
//!
//! The guest may use the number of an owner again as soon as it has sent the RELEASE of a handle.
//! [`Locks::release_begins`] is therefore called in the order of the guest's requests.

pub(crate) mod descriptor;
mod held;
pub(crate) mod one_sided;
pub(crate) mod request;
mod waiters;

use std::{
    collections::HashMap,
    fs::File,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use self::{
    descriptor::{find_conflict, no_locks, permits, reopen, unlock_all},
    held::HeldRanges,
    one_sided::OneSidedLock,
    request::{ALL_BYTES, Access, ByteRange, Conflict, LockRequest, Scope},
};

pub use waiters::Waiters;
pub(crate) use waiters::{MAX_WAITERS, Waiting};

/// Timeout for the releases of other handles, which the guest has sent before a request.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// A file and the owner of locks in it, by the guest's numbers.
type Key = (u64, u64);

/// The locks of the guest.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    state: Mutex<State>,
    /// Notified when a handle has been released.
    released: Condvar,
    /// Number of open file descriptions that are held for locks.
    descriptors: Arc<AtomicU64>,
    pub waiters: Waiters,
}

#[derive(Debug, Default)]
struct State {
    owners: HashMap<Key, Owned>,
    /// Owners of bytes by the handle through which their description was opened.
    by_handle: HashMap<u64, Vec<Key>>,
    /// Handles that may have a lock of the whole file, with their file.
    file_locks: HashMap<u64, u64>,
    /// By file.
    one_sided: HashMap<u64, Arc<Mutex<OneSidedLock>>>,
    /// Handles whose release is in progress.
    releasing: HashMap<u64, Releasing>,
}

/// The locks of one owner in one file.
#[derive(Debug)]
struct Owned {
    description: Arc<Description>,
    handle: u64,
    held: HeldRanges,
    /// Process of the guest that has set the last lock.
    process: u32,
    /// Number of requests that wait for a lock.
    waiting: u32,
}

/// Locks that end when the release of a handle is done.
#[derive(Debug)]
struct Releasing {
    inode: u64,
    descriptions: Vec<Arc<Description>>,
}

/// An open file description that holds locks of bytes. They are unlocked on drop.
#[derive(Debug)]
pub(crate) struct Description {
    pub file: File,
    /// Whether it is also the handle's. Another owner must not use it then.
    is_of_handle: bool,
    counter: Arc<AtomicU64>,
}

impl Description {
    fn new(file: File, is_of_handle: bool, counter: &Arc<AtomicU64>) -> Description {
        counter.fetch_add(1, Ordering::Relaxed);
        Description {
            file,
            is_of_handle,
            counter: Arc::clone(counter),
        }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        unlock_all(&self.file);
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    fn add_owner(&mut self, key: Key, owned: Owned) {
        self.by_handle.entry(owned.handle).or_default().push(key);
        self.owners.insert(key, owned);
    }

    fn remove_owner(&mut self, key: Key) -> Option<Owned> {
        let owned = self.owners.remove(&key)?;
        if let Some(keys) = self.by_handle.get_mut(&owned.handle) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.by_handle.remove(&owned.handle);
            }
        }
        Some(owned)
    }

    /// Returns whether another owner locks bytes with a handle's own description.
    fn is_handle_taken(&self, handle: u64) -> bool {
        let keys = self.by_handle.get(&handle).into_iter().flatten();
        keys.filter_map(|key| self.owners.get(key))
            .any(|owned| owned.description.is_of_handle)
    }
}

impl Locks {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns the number of descriptors that are held for locks.
    pub(crate) fn descriptors(&self) -> u64 {
        self.descriptors.load(Ordering::Relaxed)
    }

    /// Removes all locks.
    pub(crate) fn clear(&self) {
        let state = std::mem::take(&mut *self.state());
        drop(state);
        self.released.notify_all();
    }

    /// Returns the description for locks of a request's owner, if there is one that permits the
    /// request.
    ///
    /// # Errors
    /// `ENOLCK` if the owner has locks with a description that does not permit this one.
    pub(crate) fn description(
        &self,
        request: &LockRequest,
    ) -> io::Result<Option<Arc<Description>>> {
        let mut state = self.state();
        let key = (request.inode, request.owner);
        let Some(owned) = state.owners.get(&key) else {
            return Ok(None);
        };
        let is_usable = request
            .access
            .is_none_or(|access| permits(&owned.description.file, access));
        if is_usable {
            return Ok(Some(Arc::clone(&owned.description)));
        }
        if !owned.held.is_empty() || owned.waiting > 0 {
            // Two descriptions of one owner would lock each other out.
            return Err(no_locks());
        }
        let removed = state.remove_owner(key);
        drop(state);
        drop(removed);
        Ok(None)
    }

    /// Opens a description for the locks of a request's owner. `handle` is the file of the
    /// request's handle.
    pub(crate) fn open_description(
        &self,
        request: &LockRequest,
        handle: &File,
    ) -> io::Result<Arc<Description>> {
        let reopened = reopen(handle);
        let is_of_handle = reopened.is_err();
        let file = match reopened {
            Ok(file) => file,
            // The file's mode has changed since it was opened, or was never fit for its owner.
            Err(_) => handle.try_clone()?,
        };
        let description = Arc::new(Description::new(file, is_of_handle, &self.descriptors));
        let mut state = self.state();
        let key = (request.inode, request.owner);
        if let Some(owned) = state.owners.get(&key) {
            // Another thread of the owner was faster.
            let other = Arc::clone(&owned.description);
            drop(state);
            return Ok(other);
        }
        if is_of_handle && state.is_handle_taken(request.handle) {
            drop(state);
            return Err(no_locks());
        }
        let owned = Owned {
            description: Arc::clone(&description),
            handle: request.handle,
            held: HeldRanges::default(),
            process: request.process,
            waiting: 0,
        };
        state.add_owner(key, owned);
        Ok(description)
    }

    /// Returns the guest inode numbers of the files that are locked.
    pub(crate) fn locked_files(&self) -> Vec<u64> {
        let state = self.state();
        let owners = state.owners.iter();
        let held = owners.filter(|(_, owned)| !owned.held.is_empty() || owned.waiting > 0);
        let held = held.map(|((inode, _), _)| *inode);
        let files = held
            .chain(state.file_locks.values().copied())
            .chain(state.one_sided.keys().copied());
        files.collect()
    }

    /// Records that a request was carried out.
    pub(crate) fn note(&self, request: &LockRequest) {
        let mut state = self.state();
        match request.scope {
            Scope::File if request.access.is_none() => {
                state.file_locks.remove(&request.handle);
            }
            Scope::File => {
                state.file_locks.insert(request.handle, request.inode);
            }
            Scope::Bytes(range) => {
                if let Some(owned) = state.owners.get_mut(&(request.inode, request.owner)) {
                    owned.held.set(range, request.access);
                    owned.process = request.process;
                }
            }
        }
    }

    /// Returns whether the owner of a request has locked a part of a range.
    pub(crate) fn holds(&self, request: &LockRequest, range: ByteRange) -> bool {
        let state = self.state();
        let owned = state.owners.get(&(request.inode, request.owner));
        owned.is_some_and(|owned| owned.held.overlaps(&range))
    }

    /// Counts a request that waits, so that its owner's description is kept.
    pub(crate) fn waiting_begins(&self, request: &LockRequest) {
        if let Some(owned) = self.state().owners.get_mut(&(request.inode, request.owner)) {
            owned.waiting += 1;
        }
    }

    pub(crate) fn waiting_ends(&self, request: &LockRequest) {
        if let Some(owned) = self.state().owners.get_mut(&(request.inode, request.owner)) {
            owned.waiting = owned.waiting.saturating_sub(1);
        }
    }

    /// Returns a lock that prevents the requested lock of bytes. `file` is the owner's description,
    /// or that of the request's handle.
    pub(crate) fn find_conflict(
        &self,
        request: &LockRequest,
        range: ByteRange,
        access: Access,
        file: &File,
    ) -> io::Result<Option<Conflict>> {
        let Some(mut conflict) = find_conflict(file, range, access)? else {
            return Ok(None);
        };
        let state = self.state();
        let holder = state.owners.iter().find(|((inode, owner), owned)| {
            *inode == request.inode
                && *owner != request.owner
                && owned.held.overlaps(&conflict.range)
        });
        conflict.process = holder.map_or(0, |(_, owned)| owned.process);
        Ok(Some(conflict))
    }

    /// Sets a lock that the guest does not share with the host.
    pub(crate) fn set_one_sided(
        &self,
        request: &LockRequest,
        range: ByteRange,
        access: Access,
        file: &File,
    ) -> io::Result<()> {
        let new = || Arc::new(Mutex::new(OneSidedLock::new(range)));
        let one_sided = {
            let mut state = self.state();
            let one_sided = state.one_sided.entry(request.inode);
            Arc::clone(one_sided.or_insert_with(new))
        };
        let result = lock(&one_sided).set(request, access, file);
        self.forget_unused(request.inode, one_sided);
        result
    }

    /// Returns a lock that prevents a lock that the guest would not share with the host.
    pub(crate) fn find_one_sided_conflict(
        &self,
        request: &LockRequest,
        range: ByteRange,
        access: Access,
        file: &File,
    ) -> io::Result<Option<Conflict>> {
        match self.one_sided(request.inode) {
            Some(one_sided) => lock(&one_sided).find_conflict(request, access, file),
            None => OneSidedLock::new(range).find_conflict(request, access, file),
        }
    }

    /// Returns whether the owner of a request has a lock that it does not share with the host.
    pub(crate) fn has_one_sided(&self, request: &LockRequest) -> bool {
        let one_sided = self.one_sided(request.inode);
        one_sided.is_some_and(|it| lock(&it).has_owner(request.owner))
    }

    fn one_sided(&self, inode: u64) -> Option<Arc<Mutex<OneSidedLock>>> {
        self.state().one_sided.get(&inode).cloned()
    }

    /// Removes an owner's lock in a range that it does not share with the host.
    pub(crate) fn remove_one_sided(&self, inode: u64, owner: u64, range: ByteRange) {
        self.change_one_sided(inode, |one_sided| one_sided.remove_owner(owner, range));
    }

    fn change_one_sided(&self, inode: u64, change: impl FnOnce(&mut OneSidedLock)) {
        if let Some(one_sided) = self.one_sided(inode) {
            change(&mut lock(&one_sided));
            self.forget_unused(inode, one_sided);
        }
    }

    /// Forgets a lock without holders that no other request uses.
    fn forget_unused(&self, inode: u64, one_sided: Arc<Mutex<OneSidedLock>>) {
        let mut state = self.state();
        // Only the table and this function have it, and no other can get it while the table is
        // locked.
        if Arc::strong_count(&one_sided) == 2 && lock(&one_sided).is_unused() {
            state.one_sided.remove(&inode);
        }
    }

    /// Removes the locks that a process has in a file, because it has closed a descriptor of it.
    pub(crate) fn flushed(&self, inode: u64, owner: u64) {
        let key = (inode, owner);
        self.remove_one_sided(inode, owner, ALL_BYTES);
        let mut state = self.state();
        let Some(owned) = state.owners.get_mut(&key) else {
            return;
        };
        if owned.waiting > 0 {
            owned.held.clear();
            let description = Arc::clone(&owned.description);
            drop(state);
            unlock_all(&description.file);
        } else {
            let removed = state.remove_owner(key);
            drop(state);
            drop(removed);
        }
    }

    /// Notes that the guest has sent the RELEASE of a handle, after which it may use the number of
    /// an owner for another. It does not block.
    pub(crate) fn release_begins(&self, inode: u64, handle: u64) {
        let mut state = self.state();
        let keys = state.by_handle.get(&handle).cloned().unwrap_or_default();
        let has_file_lock = state.file_locks.remove(&handle).is_some();
        if keys.is_empty() && !has_file_lock {
            return;
        }
        let removed = keys.into_iter().filter_map(|key| state.remove_owner(key));
        let descriptions = removed.map(|owned| owned.description).collect();
        let releasing = Releasing {
            inode,
            descriptions,
        };
        state.releasing.insert(handle, releasing);
    }

    /// Removes the locks of a handle that is closed.
    pub(crate) fn release_ends(&self, inode: u64, handle: u64) {
        self.change_one_sided(inode, |one_sided| one_sided.remove_handle(handle));
        let Some(mut releasing) = self.state().releasing.get_mut(&handle).map(|it| Releasing {
            inode: it.inode,
            descriptions: std::mem::take(&mut it.descriptions),
        }) else {
            return;
        };
        releasing.descriptions.clear();
        self.state().releasing.remove(&handle);
        self.released.notify_all();
    }

    /// Waits until a point in time.
    pub(crate) fn pause_until(&self, end: Instant) {
        let state = self.state();
        let time = end.saturating_duration_since(Instant::now());
        // The result says only that the time is over. (The server may not call nanosleep(2).)
        let _ = self.released.wait_timeout_while(state, time, |_| true);
    }

    /// Waits until the handles of a file that the guest has closed before are released. Their locks
    /// count no more for the guest. Returns whether there were any.
    pub(crate) fn await_releases(&self, inode: u64) -> bool {
        let state = self.state();
        let handles: Vec<u64> = state
            .releasing
            .iter()
            .filter(|(_, releasing)| releasing.inode == inode)
            .map(|(handle, _)| *handle)
            .collect();
        if handles.is_empty() {
            return false;
        }
        let is_pending = |state: &mut State| {
            let mut handles = handles.iter();
            handles.any(|handle| state.releasing.contains_key(handle))
        };
        let waited = self
            .released
            .wait_timeout_while(state, RELEASE_TIMEOUT, is_pending);
        drop(waited);
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
