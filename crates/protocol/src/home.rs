//! Messages between the process that serves the shared home and the agent, on [`HostPort::Home`].
//!
//! [`HostPort::Home`]: crate::HostPort::Home

use serde::{Deserialize, Serialize};

use crate::OsText;

/// Name in the root of the home of a directory that only the agent's replaying thread sees. It is
/// the other side of a rename of which the machine watches one directory.
///
/// Looking up a decimal number in it announces that the change with this index, in the current
/// [`HomeRequest::Replay`], is repeated next.
pub const REPLAY_DIRECTORY: &str = ".container-replay";

/// Names in [`REPLAY_DIRECTORY`] of a file that is renamed from an unwatched directory, and to one.
/// They differ, because the kernel still knows the latter afterwards.
pub const REPLAY_SOURCE: &str = "from";
/// See [`REPLAY_SOURCE`].
pub const REPLAY_TARGET: &str = "to";

/// Maximum number of changes in a [`HomeRequest::Replay`].
pub const MAX_REPLAYED: usize = 512;

/// Maximum number of files and directories that are watched on the host for one machine.
pub const MAX_HOME_WATCHES: usize = 1 << 16;

/// A message to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HomeRequest {
    /// Which of these threads, which wait for a lock in the home, have received a signal? Ids are
    /// those of the agent's PID namespace. Answered by [`HomeReport::Signalled`] before the next
    /// such request.
    FindSignalled {
        /// Ids of the threads.
        threads: Vec<u32>,
    },
    /// Repeat these changes, which were made on the host, so that the machine's watchers see them.
    /// The file share recognizes the system calls of the replaying thread and changes nothing.
    /// Answered by [`HomeReport::Replayed`] before the next such request.
    Replay {
        /// The changes in order, at most [`MAX_REPLAYED`].
        changes: Vec<HomeChange>,
        /// Where the files and directories in the changes were last seen.
        nodes: Vec<HomeNode>,
    },
    /// Have the kernel expire what it has cached of these files and directories, and of the files
    /// in the directories. Only kernels get this that have announced `FUSE_EXPIRE`
    /// (`guest/patches`). Answered by [`HomeReport::Expired`] before the next such request.
    Expire {
        /// FUSE node ids.
        nodes: Vec<u64>,
    },
    /// Answer to [`HomeReport::Sync`], which the runtime keeps for itself.
    Synced,
}

/// A message of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HomeReport {
    /// Answer to [`HomeRequest::FindSignalled`].
    Signalled {
        /// Ids of the threads.
        threads: Vec<u32>,
    },
    /// The thread that will repeat changes. Sent once, first of all.
    ReplayingThread {
        /// Id of the thread, which the kernel puts into its requests to the file share.
        id: u32,
    },
    /// Files and directories whose changes the machine begins and ceases to watch, by their FUSE
    /// node ids.
    Watches {
        /// Files that are watched from now on.
        added: Vec<u64>,
        /// Files that are no longer watched.
        removed: Vec<u64>,
    },
    /// Answer to [`HomeRequest::Replay`].
    Replayed,
    /// Answer to [`HomeRequest::Expire`].
    Expired,
    /// Sent by the runtime before it lets a program be started: have everything expired that the
    /// host has changed until now. Answered by [`HomeRequest::Synced`], in order.
    Sync,
}

/// A name in a directory of the home.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HomeEntry {
    /// FUSE node id of the directory.
    pub directory: u64,
    /// The name.
    pub name: OsText,
}

/// A file that the machine knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeNode {
    /// FUSE node id of the file.
    pub node: u64,
    /// Path of the file in the home, empty for the home itself.
    pub path: OsText,
}

/// A file that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HomeFile {
    /// By its name in a watched directory.
    Entry(HomeEntry),
    /// By its FUSE node id: it is watched itself.
    Node(u64),
}

/// A change that was made on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HomeChange {
    /// A file was created.
    Created {
        /// Its name.
        at: HomeEntry,
        /// Its type, as in `st_mode` (`S_IFMT`).
        file_type: u32,
    },
    /// A name was removed.
    Removed {
        /// The name.
        at: HomeEntry,
        /// Whether it was a directory's.
        is_directory: bool,
    },
    /// A file was renamed. One of the names is absent if the machine does not watch the directory.
    Renamed {
        /// The old name.
        from: Option<HomeEntry>,
        /// The new name.
        to: Option<HomeEntry>,
        /// Whether it is a directory.
        is_directory: bool,
    },
    /// A file was written or its attributes were changed.
    Touched {
        /// The file.
        file: HomeFile,
        /// How it was touched.
        how: HomeTouch,
        /// Whether it is a directory.
        is_directory: bool,
    },
}

/// The ways in which a file was touched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HomeTouch {
    /// Its contents were changed.
    pub is_modified: bool,
    /// Its attributes were changed.
    pub has_new_attributes: bool,
    /// It was closed after it had been opened for writing.
    pub is_closed: bool,
}

impl HomeChange {
    /// Returns the FUSE node ids of the files and directories in the change.
    pub fn nodes(&self) -> impl Iterator<Item = u64> {
        let directory = |entry: &HomeEntry| entry.directory;
        let (one, other) = match self {
            HomeChange::Created { at, .. } | HomeChange::Removed { at, .. } => {
                (Some(directory(at)), None)
            }
            HomeChange::Renamed { from, to, .. } => {
                (from.as_ref().map(directory), to.as_ref().map(directory))
            }
            HomeChange::Touched { file, .. } => match file {
                HomeFile::Entry(entry) => (Some(directory(entry)), None),
                HomeFile::Node(node) => (Some(*node), None),
            },
        };
        one.into_iter().chain(other)
    }
}

impl HomeTouch {
    /// Returns whether the file was not touched.
    pub fn is_nothing(self) -> bool {
        self == HomeTouch::default()
    }

    /// Adds what happened later.
    pub fn add(&mut self, later: HomeTouch) {
        self.is_modified |= later.is_modified;
        self.has_new_attributes |= later.has_new_attributes;
        self.is_closed |= later.is_closed;
    }
}
