//! Changes of the host that the agent repeats in the guest: which are under way.

use std::{
    collections::HashMap,
    ffi::CStr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use container_protocol::{HomeChange, REPLAY_DIRECTORY};
use virtiofsd::{
    filesystem::{Context, Entry},
    fuse::Attr,
    soft_idmap::{GuestGid, GuestUid},
};

use crate::table::{GuestInode, ROOT};

/// Handle of files that the thread opens. The inner file system counts from 0.
pub(crate) const REPLAY_HANDLE: u64 = 1 << 62;

/// Guest inode number of [`REPLAY_DIRECTORY`]. Other files never reach it.
pub(crate) const DIRECTORY_NUMBER: u64 = 1 << 61;

/// Returns whether a name is the one by which the thread announces changes.
pub(crate) fn is_replay_directory(parent: u64, name: &CStr) -> bool {
    parent == ROOT.0 && name.to_bytes() == REPLAY_DIRECTORY.as_bytes()
}

/// Changes that are being repeated.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Id of the guest's thread; 0 without one.
    thread: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub changes: Vec<HomeChange>,
    /// The change that was announced last.
    pub current: Option<Current>,
    /// Types (`S_IFMT`) of files that are made up.
    made_up: HashMap<u64, u32>,
}

#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub change: HomeChange,
    /// Whether the name was created, or, if it is to be removed, forgotten by the guest's kernel.
    pub is_prepared: bool,
    /// The file that the guest knows by the new name of a rename.
    pub replaced: Option<GuestInode>,
}

/// Returns the context of requests that this process makes itself.
pub(crate) fn own_context() -> Context {
    Context {
        uid: GuestUid::from(0),
        gid: GuestGid::from(0),
        pid: 0,
    }
}

impl Replay {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the guest's thread.
    pub(crate) fn set_thread(&self, id: u32) {
        self.thread.store(id, Ordering::Relaxed);
    }

    /// Returns whether a request is one of the replaying thread.
    pub(crate) fn is_replaying(&self, thread: u32) -> bool {
        thread != 0 && thread == self.thread.load(Ordering::Relaxed)
    }

    /// Prepares for the guest to repeat these changes.
    pub(crate) fn begin(&self, changes: &[HomeChange]) {
        *self.state() = State {
            changes: changes.to_vec(),
            ..State::default()
        };
    }

    pub(crate) fn made_up_type(&self, inode: u64) -> Option<u32> {
        self.state().made_up.get(&inode).copied()
    }

    /// Makes a file up.
    pub(crate) fn make_up(&self, inode: u64, file_type: u32) -> Entry {
        self.state().made_up.insert(inode, file_type);
        Entry {
            inode,
            generation: 0,
            attr: made_up_attributes(inode, file_type),
            attr_timeout: Duration::ZERO,
            entry_timeout: Duration::ZERO,
        }
    }
}

/// Returns the attributes of a file that is made up.
pub(crate) fn made_up_attributes(inode: u64, file_type: u32) -> Attr {
    Attr {
        ino: inode,
        mode: file_type | 0o700,
        nlink: 1,
        uid: GuestUid::from(0),
        gid: GuestGid::from(0),
        blksize: 4096,
        ..Attr::default()
    }
}
