//! Locks that host and guest cannot share: those of SQLite databases in WAL mode.
//!
//! In WAL mode all connections to a database map the file `NAME-shm`, which indexes the log. Host
//! and guest have different memory, so their maps of one file are never the same, and connections
//! of both would corrupt the database. Each connection holds two shared locks for as long as it is
//! open: of a range of the database ([`DATABASE`]), and of one byte of the index ([`INDEX`]). While
//! processes of the guest hold such a lock, the host's lock is exclusive. SQLite on the host, or in
//! another machine, reports that the database is locked, and the other way round.

use std::{collections::HashMap, fs::File, io};

use rustix::fs::OFlags;

use super::{
    descriptor::{Patience, find_conflict, lock_bytes, reopen_with, would_block},
    request::{Access, ByteRange, Conflict, LockRequest},
};

/// `SHARED_FIRST` and `SHARED_SIZE` of SQLite's `os.h`. A connection holds this lock during a
/// transaction, and in WAL mode always.
pub(crate) const DATABASE: ByteRange = ByteRange {
    first: 0x4000_0002,
    last: 0x4000_0002 + 509,
};

/// `UNIX_SHM_DMS` of SQLite's `os_unix.c`, the "deadman switch": `UNIX_SHM_BASE` (120) and
/// `SQLITE_SHM_NLOCK` (8) bytes.
pub(crate) const INDEX: ByteRange = ByteRange {
    first: 128,
    last: 128,
};

/// The guest's locks of one range of one file.
#[derive(Debug)]
pub(crate) struct OneSidedLock {
    range: ByteRange,
    holders: HashMap<u64, Holder>,
    /// Holds the exclusive lock on the host. Present while there are holders.
    host: Option<File>,
}

/// A lock of the guest.
#[derive(Debug, Clone, Copy)]
struct Holder {
    access: Access,
    handle: u64,
    process: u32,
}

impl OneSidedLock {
    pub(crate) fn new(range: ByteRange) -> OneSidedLock {
        OneSidedLock {
            range,
            holders: HashMap::new(),
            host: None,
        }
    }

    /// Sets a lock of the guest. `file` is the file that the request names.
    pub(crate) fn set(
        &mut self,
        request: &LockRequest,
        access: Access,
        file: &File,
    ) -> io::Result<()> {
        if self.conflict(request.owner, access).is_some() {
            return Err(would_block());
        }
        if self.host.is_none() {
            let host = reopen_with(file, OFlags::RDWR)?;
            let exclusive = Some(Access::Exclusive);
            lock_bytes(&host, self.range, exclusive, Patience::Fail)?;
            self.host = Some(host);
        }
        let holder = Holder {
            access,
            handle: request.handle,
            process: request.process,
        };
        self.holders.insert(request.owner, holder);
        Ok(())
    }

    /// Returns a lock of guest or host that prevents the requested one. The host's locks are
    /// reported as exclusive, because the guest cannot share them.
    pub(crate) fn find_conflict(
        &self,
        request: &LockRequest,
        access: Access,
        file: &File,
    ) -> io::Result<Option<Conflict>> {
        let of_guest = self.conflict(request.owner, access);
        if of_guest.is_some() || self.host.is_some() {
            return Ok(of_guest);
        }
        let of_host = find_conflict(file, self.range, Access::Exclusive)?;
        Ok(of_host.map(|conflict| Conflict {
            access: Access::Exclusive,
            ..conflict
        }))
    }

    fn conflict(&self, owner: u64, access: Access) -> Option<Conflict> {
        let mut others = self.holders.iter().filter(|(other, _)| **other != owner);
        let conflict = others
            .find(|(_, holder)| access == Access::Exclusive || holder.access == Access::Exclusive);
        conflict.map(|(_, holder)| Conflict {
            range: self.range,
            access: holder.access,
            process: holder.process,
        })
    }

    pub(crate) fn has_owner(&self, owner: u64) -> bool {
        self.holders.contains_key(&owner)
    }

    /// Removes the lock of an owner, if it is in `range`.
    pub(crate) fn remove_owner(&mut self, owner: u64, range: ByteRange) {
        if self.range.overlaps(&range) {
            self.remove(|holder, _| holder == owner);
        }
    }

    /// Removes the locks that were set through a handle.
    pub(crate) fn remove_handle(&mut self, handle: u64) {
        self.remove(|_, holder| holder.handle == handle);
    }

    fn remove(&mut self, is_removed: impl Fn(u64, &Holder) -> bool) {
        self.holders
            .retain(|owner, holder| !is_removed(*owner, holder));
        if self.holders.is_empty() {
            // Closing the only descriptor of the open file description unlocks it.
            self.host = None;
        }
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.holders.is_empty()
    }
}
