//! Watches on the host what programs of the guest watch, and has the agent repeat the host's
//! changes.
//!
//! | step | where |
//! |---|---|
//! | the agent reports which files are watched; they get marks | [`HostEvents::change_watches`] |
//! | the kernel reports changes; those of the guest, which this process made, are ignored | [`HostEvents::read`], [`mod@records`] |
//! | changes that follow each other closely are merged | [`pending`] |
//! | the agent repeats them in the guest | [`HostEvents::repeat`], [`crate::replaying`] |
//!
//! Only one request to repeat changes is under way at a time, so a slow guest only makes more of
//! them merge. If too many wait, they are dropped, and watchers get an event that the attributes of
//! each watched file have changed.

mod group;
mod pending;
mod records;

pub(crate) use group::Group;
pub(crate) use records::{EventFile, Record, records};

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{CStr, CString, OsString},
    fs::File,
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use container_protocol::{
    HomeChange, HomeEntry, HomeFile, HomeNode, HomeRequest, HomeTouch, MAX_HOME_WATCHES,
    MAX_REPLAYED,
};
use libc::{
    FAN_ATTRIB, FAN_CLOSE_WRITE, FAN_CREATE, FAN_DELETE, FAN_DELETE_SELF, FAN_MODIFY,
    FAN_MOVE_SELF, FAN_MOVED_FROM, FAN_MOVED_TO, FAN_ONDIR, FAN_Q_OVERFLOW, FAN_RENAME,
};
use rustix::fs::{AtFlags, FileType, StatxFlags, statx};

use crate::{
    agent::Agent,
    bounded::{BoundedFileSystem, InnerFileSystem},
    replay::own_context,
    table::{GuestInode, Location},
};
use pending::{Change, Pending, What};
use records::EventEntry;

/// Time in which changes are merged.
const COALESCING_TIME: Duration = Duration::from_millis(30);

/// Number of changes that a change of [`Pending`] becomes, at most.
const MAX_STEPS: usize = 3;

/// Size of the buffer for the kernel's events in bytes.
const BUFFER_SIZE: usize = 64 << 10;

/// Checks that this user can watch files.
///
/// # Errors
/// If the kernel does not support it (before Linux 5.13), or there are too many groups of fanotify.
pub fn check_events() -> io::Result<()> {
    Group::new().map(drop)
}

/// Events of the host's files for the guest.
pub(crate) struct HostEvents<F: InnerFileSystem> {
    file_system: BoundedFileSystem<F>,
    agent: Arc<Agent>,
    group: Group,
    state: Mutex<State>,
    state_changed: Condvar,
}

#[derive(Default)]
struct State {
    watches: HashMap<GuestInode, EventFile>,
    nodes: HashMap<EventFile, GuestInode>,
    pending: Pending,
    is_repeating: bool,
    /// Whether a failure was logged. The next ones are like it.
    has_failed: bool,
}

impl<F: InnerFileSystem> HostEvents<F> {
    pub(crate) fn new(
        file_system: BoundedFileSystem<F>,
        agent: Arc<Agent>,
        group: Group,
    ) -> HostEvents<F> {
        HostEvents {
            file_system,
            agent,
            group,
            state: Mutex::default(),
            state_changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins and ceases to watch files of the guest.
    pub(crate) fn change_watches(&self, added: &[u64], removed: &[u64]) {
        for node in removed {
            self.unwatch(GuestInode(*node));
        }
        for node in added {
            if let Err(error) = self.watch(GuestInode(*node)) {
                self.log_failure(&error);
            }
        }
    }

    fn watch(&self, node: GuestInode) -> io::Result<()> {
        if self.state().watches.len() >= MAX_HOME_WATCHES {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.with_file(node, |file| {
            let watched = EventFile::of(file)?;
            let is_directory = file_type(file, c"")? == FileType::Directory;
            // Events may arrive before the call returns.
            let mut state = self.state();
            state.watches.insert(node, watched.clone());
            state.nodes.insert(watched, node);
            drop(state);
            self.group.watch(file, is_directory).inspect_err(|_| {
                self.state().remove_watch(node);
            })?;
            self.file_system.table().watch(node);
            Ok(())
        })
    }

    fn unwatch(&self, node: GuestInode) {
        if !self.state().remove_watch(node) {
            return;
        }
        // A mark that cannot be found again ends with the file. Its events are ignored.
        let _ = self.with_file(node, |file| {
            let is_directory = file_type(file, c"")? == FileType::Directory;
            self.group.unwatch(file, is_directory)
        });
        let unused = self.file_system.table().unwatch(node);
        self.file_system.close(own_context(), unused);
    }

    fn log_failure(&self, error: &io::Error) {
        let has_failed = std::mem::replace(&mut self.state().has_failed, true);
        if !has_failed {
            log::warn!(
                "cannot watch a file of the shared home for the machine: {error}; the machine's \
                 watchers do not see all changes of the host (further errors are not logged)"
            );
        }
    }

    /// Calls `act` with a handle (`O_PATH`) on a file.
    fn with_file<T>(
        &self,
        node: GuestInode,
        act: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let context = own_context();
        let file = self.file_system.pin_on_host(context, node.0)?;
        // It is not kept open, because the kernel removes the mark of a deleted file only then.
        self.file_system
            .with_descriptor(context, file.inner_inode, act)
    }

    /// Reads the kernel's events until it fails.
    pub(crate) fn read(&self) {
        let own_process = std::process::id().cast_signed();
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            let waited = self.group.wait();
            let length = match waited.and_then(|()| self.group.read(&mut buffer)) {
                Ok(length) => length,
                Err(error) => return self.log_failure(&error),
            };
            let records = records(buffer.get(..length).unwrap_or_default());
            let mut state = self.state();
            for record in records {
                if record.mask & FAN_Q_OVERFLOW != 0 {
                    state.pending.overflow();
                } else if record.process != own_process {
                    self.add(&mut state, record);
                }
            }
            drop(state);
            self.state_changed.notify_all();
        }
    }

    /// Adds what a record says to the pending changes.
    fn add(&self, state: &mut State, record: Record) {
        let has = |flags: u64| record.mask & flags != 0;
        let is_directory = has(FAN_ONDIR);
        if has(FAN_RENAME) {
            let from = self.guest_entry(state, record.old_entry);
            let to = self.guest_entry(state, record.new_entry);
            if from.is_some() || to.is_some() {
                state.pending.add(Change::Renamed {
                    from,
                    to,
                    is_directory,
                });
            }
            return;
        }
        let node = record.file.and_then(|file| state.nodes.get(&file).copied());
        let itself = record
            .entry
            .as_ref()
            .filter(|(_, name)| name.as_c_str() == c".")
            .and_then(|(directory, _)| state.nodes.get(directory).copied());
        let entry = self.guest_entry(state, record.entry);
        if let Some(node) = node.or(itself)
            && has(FAN_DELETE_SELF | FAN_MOVE_SELF)
        {
            self.add_end(state, node, has(FAN_MOVE_SELF), is_directory);
        }
        if has(FAN_MOVED_FROM | FAN_MOVED_TO) {
            let (from, to) = if has(FAN_MOVED_FROM) {
                (entry, None)
            } else {
                (None, entry)
            };
            if from.is_some() || to.is_some() {
                state.pending.add(Change::Renamed {
                    from,
                    to,
                    is_directory,
                });
            }
            return;
        }
        let what = What {
            is_created: has(FAN_CREATE),
            is_removed: has(FAN_DELETE),
            touch: HomeTouch {
                is_modified: has(FAN_MODIFY),
                has_new_attributes: has(FAN_ATTRIB),
                is_closed: has(FAN_CLOSE_WRITE),
            },
        };
        let file = match (entry, node.or(itself)) {
            (Some(entry), _) => HomeFile::Entry(entry),
            (None, Some(node)) => HomeFile::Node(node.0),
            (None, None) => return,
        };
        if what != What::default() {
            state.pending.add(Change::File {
                file,
                what,
                is_directory,
            });
        }
    }

    /// Adds the removal or the move of a watched file. If its directory is watched too, another
    /// event says it better.
    fn add_end(&self, state: &mut State, node: GuestInode, is_moved: bool, is_directory: bool) {
        let location = {
            let table = self.file_system.table();
            table.get(node).and_then(|node| node.location.clone())
        };
        let Some(Location { directory, name }) = location else {
            return;
        };
        if state.watches.contains_key(&directory) {
            return;
        }
        let entry = HomeEntry {
            directory: directory.0,
            name: OsString::from_vec(name.into_c_string().into_bytes()).into(),
        };
        state.pending.add(if is_moved {
            Change::Renamed {
                from: Some(entry),
                to: None,
                is_directory,
            }
        } else {
            Change::File {
                file: HomeFile::Entry(entry),
                what: What {
                    is_removed: true,
                    ..What::default()
                },
                is_directory,
            }
        });
    }

    /// Translates a name in a directory that the guest watches. Names of directories that the guest
    /// does not see as they are have no events.
    fn guest_entry(&self, state: &State, entry: Option<EventEntry>) -> Option<HomeEntry> {
        let (directory, name) = entry?;
        let directory = *state.nodes.get(&directory)?;
        let is_itself = name.as_c_str() == c".";
        if is_itself || self.file_system.places.child(directory, &name).is_some() {
            return None;
        }
        Some(HomeEntry {
            directory: directory.0,
            name: OsString::from_vec(name.into_bytes()).into(),
        })
    }

    /// Records that the agent has repeated the last changes.
    pub(crate) fn repeated(&self) {
        self.state().is_repeating = false;
        self.state_changed.notify_all();
    }

    /// Has pending changes repeated, until the agent cannot be reached.
    pub(crate) fn repeat(&self) {
        loop {
            let is_waiting = |state: &mut State| state.is_repeating || state.pending.is_empty();
            let state = self.state_changed.wait_while(self.state(), is_waiting);
            drop(state.unwrap_or_else(PoisonError::into_inner));
            let locks = &self.file_system.locks;
            locks.pause_until(Instant::now() + COALESCING_TIME);
            let changes = self.next_changes();
            if changes.is_empty() {
                continue;
            }
            self.file_system.replay.begin(&changes);
            let nodes = self.nodes(&changes);
            self.state().is_repeating = true;
            if let Err(error) = self.agent.send(&HomeRequest::Replay { changes, nodes }) {
                return log::debug!("the agent does not repeat changes: {error}");
            }
        }
    }

    /// Returns where the files and directories in changes were last seen.
    fn nodes(&self, changes: &[HomeChange]) -> Vec<HomeNode> {
        let nodes: BTreeSet<u64> = changes.iter().flat_map(HomeChange::nodes).collect();
        let table = self.file_system.table();
        let located = |node: u64| {
            let path = table.path(GuestInode(node))?.into();
            Some(HomeNode { node, path })
        };
        nodes.into_iter().filter_map(located).collect()
    }

    fn next_changes(&self) -> Vec<HomeChange> {
        let mut state = self.state();
        let Some(changes) = state.pending.take(MAX_REPLAYED / MAX_STEPS) else {
            let watches: Vec<GuestInode> = state.watches.keys().copied().collect();
            state.pending.replace_lost(watches.into_iter().map(lost));
            drop(state);
            log::warn!("too many changes of the shared home at once; watchers do not see them all");
            return Vec::new();
        };
        drop(state);
        changes
            .into_iter()
            .flat_map(|change| self.steps(change))
            .collect()
    }

    /// Returns the changes of the guest that a change of the host becomes. The kernel does not say
    /// in which order it has merged events.
    fn steps(&self, change: Change) -> Vec<HomeChange> {
        let (file, what, is_directory) = match change {
            Change::Renamed {
                from,
                to,
                is_directory,
            } => {
                return vec![HomeChange::Renamed {
                    from,
                    to,
                    is_directory,
                }];
            }
            Change::File {
                file,
                what,
                is_directory,
            } => (file, what, is_directory),
        };
        let touched = (!what.touch.is_nothing()).then(|| HomeChange::Touched {
            file: file.clone(),
            how: what.touch,
            is_directory,
        });
        let HomeFile::Entry(at) = file else {
            return touched.into_iter().collect();
        };
        let current_type = self.current_type(&at);
        let default_type = if is_directory {
            libc::S_IFDIR
        } else {
            libc::S_IFREG
        };
        let created = what.is_created.then(|| HomeChange::Created {
            at: at.clone(),
            file_type: match current_type {
                Some(current) if (current == libc::S_IFDIR) == is_directory => current,
                _ => default_type,
            },
        });
        let removed = what
            .is_removed
            .then_some(HomeChange::Removed { at, is_directory });
        let steps = if current_type.is_some() {
            [removed, created, touched]
        } else {
            [created, touched, removed]
        };
        steps.into_iter().flatten().collect()
    }

    /// Returns the type (`S_IFMT`) of the file that has a name now.
    fn current_type(&self, entry: &HomeEntry) -> Option<u32> {
        let name = CString::new(entry.name.as_os_str().as_bytes()).ok()?;
        let directory = GuestInode(entry.directory);
        let found = self.with_file(directory, |directory| file_type(directory, &name));
        found.ok().map(FileType::as_raw_mode)
    }
}

/// Returns the change of a watched file in place of changes that were lost.
fn lost(node: GuestInode) -> Change {
    Change::File {
        file: HomeFile::Node(node.0),
        what: What {
            touch: HomeTouch {
                has_new_attributes: true,
                ..HomeTouch::default()
            },
            ..What::default()
        },
        is_directory: true,
    }
}

/// Returns the type of a file in a directory, or of the directory itself if the name is empty. Does
/// not wait for file systems that are mounted there.
fn file_type(directory: &File, name: &CStr) -> io::Result<FileType> {
    let mut flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    if name.is_empty() {
        flags |= AtFlags::EMPTY_PATH;
    }
    let attributes = statx(directory, name, flags, StatxFlags::TYPE)?;
    Ok(FileType::from_raw_mode(attributes.stx_mode.into()))
}

impl State {
    /// Removes a watch. Returns whether it existed.
    fn remove_watch(&mut self, node: GuestInode) -> bool {
        let Some(file) = self.watches.remove(&node) else {
            return false;
        };
        if self.nodes.get(&file) == Some(&node) {
            self.nodes.remove(&file);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use virtiofsd::{
        filesystem::{FileSystem, FsOptions, ROOT_ID},
        passthrough::{Config, PassthroughFs},
    };

    use super::*;

    #[test]
    fn forgotten_files_are_not_watched_for_ever() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("watched")).unwrap();
        let config = Config {
            root_dir: home.path().to_str().unwrap().to_owned(),
            ..Config::default()
        };
        let file_system = BoundedFileSystem::new(PassthroughFs::new(config).unwrap(), 1000);
        file_system.init(FsOptions::empty()).unwrap();
        let agent = Arc::new(Agent::new(File::open("/dev/null").unwrap()));
        let events = HostEvents::new(file_system.clone(), agent, Group::new().unwrap());
        let context = own_context();
        let entry = file_system.lookup(context, ROOT_ID, c"watched").unwrap();
        events.change_watches(&[entry.inode], &[]);
        assert!(events.group.has_marks());
        file_system.forget(context, entry.inode, 1);
        events.change_watches(&[], &[entry.inode]);
        assert!(!events.group.has_marks());
        assert_eq!(file_system.remembered_files(), 1);
    }
}
