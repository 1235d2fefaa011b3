//! Serving a directory in a process of its own.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::net::UnixListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use container_protocol::{HomeReport, HomeRequest, frame::FrameError};
use landlock::{RulesetError, RulesetStatus};
use nix::unistd::{Gid, getegid, geteuid, getgroups};
use thiserror::Error;
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::{
    limits::setup_rlimit_nofile,
    passthrough::{
        CachePolicy, Config, InodeFileHandlesMode, MigrationOnError, NegotiationMode,
        PassthroughFs, read_only::PassthroughFsRo,
    },
    soft_idmap::{GuestGid, cmdline::IdMap},
};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use crate::{
    BoundedFileSystem, Exclusions, Restrictions, Waiters,
    agent::Agent,
    backend::{Backend, WAKE},
    bounded::InnerFileSystem,
    confinement::confine,
    control,
    events::{Group, HostEvents},
    local_answers::SHORT_VALIDITY,
    locks::MAX_WAITERS,
    mounts::Mounts,
    pool, system_calls,
};

/// Descriptors that are reserved for the server, mostly for its memory slots. The number is that of
/// virtiofsd's own program.
const OWN_DESCRIPTORS: u64 = 620;

/// Descriptors that a request opens for itself, at most.
const DESCRIPTORS_PER_REQUEST: u64 = 4;

/// Limit of requests that are served at once, if there are descriptors enough. They are many,
/// because each may wait for a file system of the host that does not answer.
const MAX_THREADS: u64 = 256;

/// Interval at which files are closed that the guest remembers but does not use, on file systems
/// that are mounted below the shared directory.
const MOUNT_SWEEP_INTERVAL: Duration = Duration::from_secs(2);

/// Number of such intervals after which this is done for all other files.
const SWEEP_INTERVALS: usize = 30;

/// Interval at which the guest is asked about its processes that wait for a lock.
const WAITERS_INTERVAL: Duration = Duration::from_millis(300);

/// Error of serving a directory.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The limit of open files cannot be read or raised.
    #[error("cannot raise the limit of open files: {0}")]
    Limit(String),
    /// The limit of open files is lower than what the server reserves.
    #[error("the limit of {0} open files is too low (ulimit -n)")]
    TooFewDescriptors(u64),
    /// The process cannot restrict the files that it opens.
    #[error("cannot enable Landlock: {0}")]
    Landlock(RulesetError),
    /// The process cannot restrict its system calls.
    #[error("cannot enable seccomp: {0}")]
    Seccomp(io::Error),
    /// The directory cannot be opened.
    #[error("cannot open the directory: {0}")]
    Open(io::Error),
    /// The signal that ends waiting for a lock cannot be set up.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The connection to the engine failed, or the engine broke the protocol.
    #[error("vhost-user connection to the engine failed: {0}")]
    Engine(String),
}

/// The connections of a server. Except for the listener they are files, because the process may not
/// call recvfrom(2).
#[derive(Debug)]
pub struct Connections {
    /// The engine connects to it.
    pub listener: UnixListener,
    /// The guest's agent ([`HostPort::Home`](container_protocol::HostPort::Home)).
    pub agent: Option<File>,
    /// The runtime, which sends [`ShareRequest`](crate::ShareRequest)s.
    pub runtime: Option<File>,
}

/// Serves a directory without `exclusions` to the engine that connects to the listener, until the
/// engine disconnects. What is at the directory's path meanwhile does not matter.
///
/// It must be called in a process of its own, because it restricts the process' system calls and
/// the files that it can open. It needs no privilege and nothing from `/etc/subuid`: for an
/// ordinary user, all users of the guest act on the files as that user, and new files belong to
/// that user. Without a connection to the guest's agent, a process of the guest that waits for a
/// lock cannot be killed, and its watchers do not see changes of the host.
///
/// # Errors
/// If the directory cannot be opened or the limit of open files is too low, or if the process
/// cannot be restricted or the device cannot be created.
pub fn serve(
    directory: &File,
    read_only: bool,
    exclusions: &Exclusions,
    connections: Connections,
) -> Result<(), ServeError> {
    let descriptors = setup_rlimit_nofile(None).map_err(ServeError::Limit)?;
    let threads = MAX_THREADS.min(descriptors / 32);
    let own_descriptors =
        OWN_DESCRIPTORS + threads * DESCRIPTORS_PER_REQUEST + (MAX_WAITERS as u64).min(threads);
    let guest_fd_limit = descriptors
        .checked_sub(own_descriptors)
        .ok_or(ServeError::TooFewDescriptors(descriptors))?;
    // The inner file system does not follow a link in the last component.
    let path = format!("/proc/self/fd/{}/.", directory.as_raw_fd());
    let mounts = Mounts::new(&path);
    let confined = confine(&path, read_only).map_err(ServeError::Landlock)?;
    if confined == RulesetStatus::NotEnforced {
        log::info!("the host's kernel has no Landlock, which would confine this process further");
    }
    Waiters::prepare_process().map_err(ServeError::Signals)?;
    let restrictions = Restrictions {
        creating_group: creating_group(),
        read_only,
    };
    let guest = connections.agent.map(|agent| Guest {
        agent: Arc::new(Agent::new(agent)),
        watching: mounts
            .and_then(Watching::new)
            .inspect_err(|error| {
                log::warn!(
                    "cannot watch the shared home ({error}); the machine's watchers do not see \
                     changes of the host"
                );
            })
            .ok(),
    });
    system_calls::restrict().map_err(ServeError::Seccomp)?;
    let listener = Listener::from(connections.listener);
    let runtime = connections.runtime;
    let config = config(path, guest_fd_limit);
    if read_only {
        let file_system = BoundedFileSystem::excluding(
            PassthroughFsRo::new(config).map_err(ServeError::Open)?,
            guest_fd_limit,
            restrictions,
            (directory, exclusions),
        );
        serve_file_system(file_system, threads, listener, guest, runtime)
    } else {
        let file_system = BoundedFileSystem::excluding(
            PassthroughFs::new(config).map_err(ServeError::Open)?,
            guest_fd_limit,
            restrictions,
            (directory, exclusions),
        );
        serve_file_system(file_system, threads, listener, guest, runtime)
    }
}

fn config(path: String, guest_fd_limit: u64) -> Config {
    Config {
        root_dir: path,
        entry_timeout: SHORT_VALIDITY,
        attr_timeout: SHORT_VALIDITY,
        cache_policy: CachePolicy::Auto,
        announce_submounts: true,
        xattr: true,
        posix_acl: NegotiationMode::Auto,
        // Spares the guest's kernel to look for file capabilities before each write.
        killpriv_v2: true,
        // Only root may open files by handle. It takes longer, and fails with ENOMEM while the host
        // reuses the inode number of a removed file.
        inode_file_handles: InodeFileHandlesMode::Never,
        uid_map: Some(user_map()),
        gid_map: Some(group_map()),
        guest_fd_limit,
        // A file that cannot be found after a suspension must not keep the machine from resuming.
        migration_on_error: MigrationOnError::GuestError,
        ..Config::default()
    }
}

/// Returns the map of user ids: every id of the guest becomes this user's on the host, and ids of
/// the host are unchanged in the guest. For root it is empty, because root may act as any user.
fn user_map() -> Vec<IdMap> {
    let user = geteuid();
    if user.is_root() {
        return Vec::new();
    }
    id_map(user.as_raw(), &[user.as_raw()])
}

/// Returns the map of group ids: the user's groups are unchanged, every other id of the guest
/// becomes the user's primary group.
fn group_map() -> Vec<IdMap> {
    if geteuid().is_root() {
        return Vec::new();
    }
    let own = getegid().as_raw();
    let mut kept = vec![own];
    // Without them a guest's `chgrp` sets the primary group.
    kept.extend(getgroups().into_iter().flatten().map(Gid::as_raw));
    id_map(own, &kept)
}

/// Returns a map that keeps some ids and turns all others of the guest into `id`. The last id means
/// "unchanged" and has no entry.
fn id_map(id: u32, kept: &[u32]) -> Vec<IdMap> {
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    kept.dedup();
    let mut map = Vec::new();
    let mut squash = |from_guest: u32, end: u32| {
        if from_guest < end {
            map.push(IdMap::SquashGuest {
                from_guest,
                to_host: id,
                count: end - from_guest,
            });
        }
    };
    let mut next = 0;
    for kept in &kept {
        squash(next, *kept);
        next = kept.saturating_add(1);
    }
    squash(next, u32::MAX);
    map.extend(kept.iter().map(|kept| IdMap::Guest {
        from_guest: *kept,
        to_host: *kept,
        count: 1,
    }));
    map
}

/// Returns the group of files that an ordinary user creates: the primary one, as on the host unless
/// the directory has the set-group-id bit. Only root may create them in the name of others.
fn creating_group() -> Option<GuestGid> {
    (!geteuid().is_root()).then(|| GuestGid::from(getegid().as_raw()))
}

fn serve_file_system<F>(
    file_system: BoundedFileSystem<F>,
    threads: u64,
    mut listener: Listener,
    guest: Option<Guest>,
    runtime: Option<File>,
) -> Result<(), ServeError>
where
    F: InnerFileSystem,
{
    if let Some(guest) = guest {
        guest.serve(&file_system).map_err(ServeError::Thread)?;
    }
    pool::spawn("file-share-sweep", {
        let file_system = file_system.clone();
        move || {
            for interval in (1..=SWEEP_INTERVALS).cycle() {
                thread::sleep(MOUNT_SWEEP_INTERVAL);
                file_system.close_unused_on_mounts();
                if interval == SWEEP_INTERVALS {
                    file_system.close_unused();
                }
            }
        }
    })
    .map_err(ServeError::Thread)?;
    let threads = usize::try_from(threads).unwrap_or(1);
    let backend = Backend::new(file_system, threads.max(1)).map_err(ServeError::Thread)?;
    let backend = Arc::new(backend);
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let engine_error = |error| ServeError::Engine(format!("{error:?}"));
    let mut daemon = VhostUserDaemon::new("file-share".to_owned(), Arc::clone(&backend), memory)
        .map_err(engine_error)?;
    for handler in daemon.get_epoll_handlers() {
        let registered = handler.register_listener(backend.wake_descriptor(), EventSet::IN, WAKE);
        registered.map_err(ServeError::Thread)?;
    }
    if let Some(runtime) = runtime {
        pool::spawn("file-share-control", move || {
            control::serve(&backend, &runtime);
        })
        .map_err(ServeError::Thread)?;
    }
    daemon.start(&mut listener).map_err(engine_error)?;
    // Any end of the connection means that the machine has ended.
    let _ = daemon.wait();
    Ok(())
}

/// Connection to the guest, and what it needs.
struct Guest {
    agent: Arc<Agent>,
    /// Absent without support of the host's kernel.
    watching: Option<Watching>,
}

/// What reports changes of the host.
struct Watching {
    /// For the guest's watchers.
    for_watchers: Group,
    /// For what the guest caches.
    for_expiry: Group,
    mounts: Mounts,
}

impl Watching {
    /// Must be called before the system calls are restricted.
    fn new(mounts: Mounts) -> io::Result<Watching> {
        Ok(Watching {
            for_watchers: Group::new()?,
            for_expiry: Group::new()?,
            mounts,
        })
    }
}

impl Guest {
    /// Starts threads that serve the agent.
    fn serve<F: InnerFileSystem>(self, file_system: &BoundedFileSystem<F>) -> io::Result<()> {
        let Guest { agent, watching } = self;
        let events = watching
            .map(|watching| {
                let expiring = file_system.clone();
                expiring.expiry.set_group(watching.for_expiry);
                pool::spawn("file-share-changes", move || expiring.expiry.read())?;
                let expiring = file_system.clone();
                pool::spawn("file-share-mounts", move || {
                    expiring.expiry.read_mounts(watching.mounts);
                })?;
                let (file_system, agent) = (file_system.clone(), Arc::clone(&agent));
                let events = HostEvents::new(file_system, agent, watching.for_watchers);
                io::Result::Ok(Arc::new(events))
            })
            .transpose()?;
        pool::spawn("file-share-expiry", {
            let (file_system, agent) = (file_system.clone(), Arc::clone(&agent));
            move || file_system.expiry.send(&agent)
        })?;
        if let Some(events) = events.clone() {
            pool::spawn("file-share-events", move || events.read())?;
        }
        if let Some(events) = events.clone() {
            pool::spawn("file-share-repeat", move || events.repeat())?;
        }
        let (answers, signalled) = channel();
        let is_asking = Arc::new(AtomicBool::new(false));
        pool::spawn("file-share-signals", {
            let (file_system, agent) = (file_system.clone(), Arc::clone(&agent));
            let is_asking = Arc::clone(&is_asking);
            move || interrupt_waiters(file_system.waiters(), &agent, &is_asking, &signalled)
        })?;
        let file_system = file_system.clone();
        pool::spawn("file-share-agent", move || {
            receive(
                &file_system,
                &agent,
                events.as_deref(),
                &is_asking,
                &answers,
            );
        })
    }
}

/// Receives the agent's reports.
fn receive<F: InnerFileSystem>(
    file_system: &BoundedFileSystem<F>,
    agent: &Agent,
    events: Option<&HostEvents<F>>,
    is_asking: &AtomicBool,
    answers: &Sender<Vec<u32>>,
) {
    let answer = |threads| {
        if is_asking.swap(false, Ordering::Relaxed) {
            // Fails if nobody asks any more.
            let _ = answers.send(threads);
        }
    };
    loop {
        match (agent.receive(), events) {
            (Ok(HomeReport::Signalled { threads }), _) => answer(threads),
            (Ok(HomeReport::ReplayingThread { id }), _) => {
                file_system.replay.set_thread(id);
                file_system.agent_begins();
                // The agent begins to serve. One that was asked before never answers.
                answer(Vec::new());
                if let Some(events) = events {
                    events.repeated();
                }
            }
            (Ok(HomeReport::Watches { added, removed }), Some(events)) => {
                events.change_watches(&added, &removed);
            }
            (Ok(HomeReport::Replayed), Some(events)) => events.repeated(),
            (Ok(HomeReport::Expired), _) => file_system.expiry.expired(),
            (Ok(HomeReport::Sync), _) => file_system.expiry.sync(),
            (Ok(HomeReport::Watches { .. } | HomeReport::Replayed), None) => {}
            (Err(FrameError::Ended), _) => return,
            (Err(error), _) => {
                return log::warn!("cannot receive reports of the guest's agent: {error}");
            }
        }
    }
}

/// Ends the waiting of the guest's threads that have received a signal. The guest's kernel does not
/// report that over virtio-fs.
fn interrupt_waiters(
    waiters: &Waiters,
    agent: &Agent,
    is_asking: &AtomicBool,
    signalled: &Receiver<Vec<u32>>,
) {
    loop {
        let threads = waiters.guest_threads(WAITERS_INTERVAL);
        if threads.is_empty() {
            continue;
        }
        is_asking.store(true, Ordering::Relaxed);
        if let Err(error) = agent.send(&HomeRequest::FindSignalled { threads }) {
            return log::warn!("cannot ask the guest about signals: {error}");
        }
        match signalled.recv() {
            Ok(signalled) => waiters.interrupt(&signalled),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the id that a map turns an id of the guest into.
    fn mapped(map: &[IdMap], id: u32) -> Option<u32> {
        map.iter().find_map(|entry| match entry {
            IdMap::Guest {
                from_guest,
                to_host,
                count,
            } => (*from_guest..from_guest + count)
                .contains(&id)
                .then(|| to_host + (id - from_guest)),
            IdMap::SquashGuest {
                from_guest,
                to_host,
                count,
            } => (*from_guest..from_guest + count)
                .contains(&id)
                .then_some(*to_host),
            _ => None,
        })
    }

    #[test]
    fn groups_of_the_user_are_kept_and_others_squashed() {
        let map = id_map(1000, &[1000, 27, 27, 0, u32::MAX - 1]);
        for kept in [0, 27, 1000, u32::MAX - 1] {
            assert_eq!(mapped(&map, kept), Some(kept));
        }
        for other in [1, 26, 28, 999, 1001, u32::MAX - 2] {
            assert_eq!(mapped(&map, other), Some(1000), "{other}");
        }
    }
}
