//! Repeats changes of the host in the machine, so that its kernel reports them to watchers.
//!
//! A thread of its own makes the system calls. The file share recognizes it and changes nothing on
//! the host, while the machine's kernel sends its inotify events and updates its caches. The file
//! share also controls what the thread finds: a file that was created is missing until the thread
//! creates it, and one that was removed exists until the thread removes it.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use container_protocol::{
    HomeChange, HomeEntry, HomeFile, HomeNode, HomeReport, HomeTouch, OsText, REPLAY_DIRECTORY,
    REPLAY_SOURCE, REPLAY_TARGET,
};
use nix::libc;
use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
        fstat, mkdirat, mknodat, open, openat, openat2, renameat, statat, symlinkat, unlinkat,
        utimensat,
    },
    io::Errno,
    thread::gettid,
};
use tokio::sync::mpsc::{self, UnboundedSender};

use super::node_handle;
use crate::machine::{GuestRoot, descriptor_path};

/// The change of a directory in place of one that cannot be repeated.
const ATTRIBUTES_CHANGED: HomeTouch = HomeTouch {
    is_modified: false,
    has_new_attributes: true,
    is_closed: false,
};

/// The thread that repeats changes. It ends when `batches` is dropped.
pub(super) struct Replayer {
    /// Id of the thread.
    pub(super) thread: u32,
    /// Changes to repeat, in the order of the host's requests.
    pub(super) batches: Sender<Batch>,
}

/// Changes to repeat, and where the files in them were last seen.
pub(super) struct Batch {
    pub changes: Vec<HomeChange>,
    pub nodes: Vec<HomeNode>,
}

impl Replayer {
    /// Starts the thread for the home at `path`. It reports each request that it has carried out.
    ///
    /// It has `alive` while it runs, which may be longer than `batches` exists.
    pub(super) fn start(
        path: String,
        reports: UnboundedSender<HomeReport>,
        alive: mpsc::Sender<()>,
    ) -> io::Result<Replayer> {
        let (batches, requests) = channel();
        let (tell_id, id) = channel();
        thread::Builder::new()
            .name("home-replay".to_owned())
            .spawn(move || {
                let _ = tell_id.send(gettid());
                serve(&path, &requests, &reports);
                drop(alive);
            })?;
        let thread = id.recv().map_err(io::Error::other)?;
        Ok(Replayer {
            thread: thread.as_raw_nonzero().get().cast_unsigned(),
            batches,
        })
    }
}

fn serve(path: &str, batches: &Receiver<Batch>, reports: &UnboundedSender<HomeReport>) {
    for batch in batches {
        // Nobody knows this thread any more, so its changes would be made on the host.
        if reports.is_closed() {
            return;
        }
        // The home is closed in between, so that it can be unmounted. Watchers miss the changes if
        // it cannot be opened.
        if let Ok(mut home) = Home::open(path, &batch.nodes) {
            for (index, change) in batch.changes.iter().enumerate() {
                if home.replay(index, change).is_err() {
                    home.report_directories(change);
                }
            }
        }
        if reports.send(HomeReport::Replayed).is_err() {
            return;
        }
    }
}

/// The home, as the replaying thread sees it.
struct Home {
    root: OwnedFd,
    /// [`REPLAY_DIRECTORY`].
    outside: OwnedFd,
    /// Where files were last seen, by their node ids.
    paths: HashMap<u64, OsText>,
    /// Files and directories in the changes, by their node ids (`O_PATH`).
    nodes: HashMap<u64, OwnedFd>,
}

impl Home {
    fn open(path: &str, nodes: &[HomeNode]) -> io::Result<Home> {
        let root = GuestRoot::open()?.directory(path)?;
        // A handle (O_PATH) does not serve for opening others.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(descriptor_path(root.as_fd()), flags, Mode::empty())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let outside = openat(&root, REPLAY_DIRECTORY, flags, Mode::empty())?;
        let paths = nodes.iter().map(|node| (node.node, node.path.clone()));
        Ok(Home {
            root,
            outside,
            paths: paths.collect(),
            nodes: HashMap::new(),
        })
    }

    /// Opens all files and directories in a change.
    fn open_nodes(&mut self, change: &HomeChange) -> io::Result<()> {
        for node in change.nodes() {
            if !self.nodes.contains_key(&node) {
                let opened = node_handle::open(&self.root, node);
                let opened = opened.or_else(|error| self.open_by_path(node).ok_or(error))?;
                self.nodes.insert(node, opened);
            }
        }
        Ok(())
    }

    /// Opens a file by its path: the kernel finds no directory by its handle that it has no name
    /// for, and forgets names after a while. Returns `None` if another file is there.
    fn open_by_path(&self, node: u64) -> Option<OwnedFd> {
        let path = self.paths.get(&node)?.as_os_str();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = openat2(&self.root, path, flags, Mode::empty(), resolve).ok()?;
        (node_handle::of(&file).ok()? == node).then_some(file)
    }

    fn replay(&mut self, index: usize, change: &HomeChange) -> io::Result<()> {
        self.open_nodes(change)?;
        // Announces the change. The name does not exist.
        let _ = statat(&self.outside, index.to_string(), AtFlags::SYMLINK_NOFOLLOW);
        match change {
            HomeChange::Created { at, file_type } => {
                create(self.directory(at)?, name(at), *file_type)
            }
            HomeChange::Removed { at, is_directory } => {
                let directory = self.directory(at)?;
                forget(directory, name(at))?;
                let flags = if *is_directory {
                    AtFlags::REMOVEDIR
                } else {
                    AtFlags::empty()
                };
                Ok(unlinkat(directory, name(at), flags)?)
            }
            HomeChange::Renamed { from, to, .. } => {
                let (old, old_name) = self.side(from.as_ref(), REPLAY_SOURCE)?;
                let (new, new_name) = self.side(to.as_ref(), REPLAY_TARGET)?;
                Ok(renameat(old, old_name, new, new_name)?)
            }
            HomeChange::Touched { file, how, .. } => match file {
                HomeFile::Node(node) => touch(self.node(*node)?, *how),
                HomeFile::Entry(entry) => {
                    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let directory = self.directory(entry)?;
                    let file = openat(directory, name(entry), flags, Mode::empty())?;
                    touch(&file, *how)
                }
            },
        }
    }

    /// Sends an event, that the attributes of the directories have changed, for a change that no
    /// longer fits: the machine has changed the same names. The kernel learns of the current state
    /// when the caches expire.
    fn report_directories(&self, change: &HomeChange) {
        for directory in change.nodes().filter_map(|node| self.nodes.get(&node)) {
            // Fails if it is gone, which its watchers learn from another change.
            let _ = touch(directory, ATTRIBUTES_CHANGED);
        }
    }

    /// Returns one side of a rename, which has the name `outside` if it is not watched.
    fn side<'a>(
        &'a self,
        entry: Option<&'a HomeEntry>,
        outside: &'static str,
    ) -> io::Result<(&'a OwnedFd, &'a OsStr)> {
        Ok(match entry {
            Some(entry) => (self.directory(entry)?, name(entry)),
            None => (&self.outside, OsStr::new(outside)),
        })
    }

    fn directory(&self, entry: &HomeEntry) -> io::Result<&OwnedFd> {
        self.node(entry.directory)
    }

    fn node(&self, node: u64) -> io::Result<&OwnedFd> {
        let opened = self.nodes.get(&node);
        opened.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn name(entry: &HomeEntry) -> &OsStr {
    entry.name.as_os_str()
}

fn create(directory: &OwnedFd, name: &OsStr, file_type: u32) -> io::Result<()> {
    let (mode, kind) = (Mode::RWXU, FileType::from_raw_mode(file_type));
    Ok(match kind {
        FileType::Directory => mkdirat(directory, name, mode),
        FileType::Symlink => symlinkat("target", directory, name),
        kind => mknodat(directory, name, kind, mode, 0),
    }?)
}

/// Makes the kernel forget a name, which it may have looked up again since it was removed. The file
/// share refuses to create it.
fn forget(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match mknodat(directory, name, FileType::RegularFile, Mode::RWXU, 0) {
        Err(Errno::EXIST) => Ok(()),
        Ok(()) => Err(io::ErrorKind::Other.into()),
        Err(error) => Err(error.into()),
    }
}

/// Sends the events of a file that was touched.
fn touch(file: &OwnedFd, how: HomeTouch) -> io::Result<()> {
    // Setting the modification time alone counts as a modification (`fsnotify_change` in Linux's
    // include/linux/fsnotify.h), and needs no open file.
    if how.is_modified {
        set_times(file, UTIME_OMIT, UTIME_NOW)?;
    }
    if how.has_new_attributes {
        set_times(file, UTIME_NOW, UTIME_NOW)?;
    }
    let kind = FileType::from_raw_mode(fstat(file)?.st_mode);
    if how.is_closed && kind == FileType::RegularFile {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        drop(open(descriptor_path(file.as_fd()), flags, Mode::empty())?);
    }
    Ok(())
}

fn set_times(file: &OwnedFd, access: i64, modification: i64) -> io::Result<()> {
    let time = |nanoseconds: i64| Timespec {
        tv_sec: 0,
        tv_nsec: nanoseconds as libc::c_long,
    };
    let times = Timestamps {
        last_access: time(access),
        last_modification: time(modification),
    };
    Ok(utimensat(file, c"", &times, AtFlags::EMPTY_PATH)?)
}
