use std::{io, os::unix::net::UnixListener, sync::Arc, time::Duration};

use nix::unistd::{getegid, geteuid};
use thiserror::Error;
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::{
    filesystem::FileSystem,
    limits::setup_rlimit_nofile,
    passthrough::{
        CachePolicy, Config, InodeFileHandlesMode, PassthroughFs, read_only::PassthroughFsRo,
    },
    seccomp::{self, SeccompAction, enable_seccomp},
    soft_idmap::cmdline::IdMap,
    vhost_user::{self, VhostUserFsBackendBuilder},
};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::Bounded;

/// For how long the guest may believe what it knows of a file: changes made on the host show
/// after this at the latest.
const BELIEF: Duration = Duration::from_secs(1);

/// Descriptors that the server keeps for itself, as the crate's own program reckons: its
/// memory slots and some more.
const OWN_DESCRIPTORS: u64 = 620;

/// Why a directory cannot be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The limit of open files cannot be read or raised.
    #[error("the limit of open files: {0}")]
    Limit(String),
    /// The limit of open files leaves none for the guest.
    #[error("the limit of {0} open files is too low (ulimit -n)")]
    TooFewDescriptors(u64),
    /// The process cannot confine itself.
    #[error("confining the process to what it needs: {0}")]
    Confine(#[from] seccomp::Error),
    /// The directory cannot be opened.
    #[error("opening it: {0}")]
    Open(#[from] io::Error),
    /// The device's back end cannot be made.
    #[error("making the device: {0}")]
    Device(#[from] vhost_user::Error),
    /// The engine does not speak as it should.
    #[error("speaking with the engine: {0}")]
    Engine(String),
}

/// Serves a directory to the engine that connects to `listener`, until it disconnects.
///
/// To be called in a process of its own, which is confined by it. Run by an ordinary user it
/// needs no privilege and nothing from `/etc/subuid`: everyone in the guest acts on the files as
/// that user, so what is written belongs to the user.
pub fn serve(directory: &str, read_only: bool, listener: UnixListener) -> Result<(), ServeError> {
    let descriptors = setup_rlimit_nofile(None).map_err(ServeError::Limit)?;
    let guest_fd_limit = descriptors
        .checked_sub(OWN_DESCRIPTORS)
        .ok_or(ServeError::TooFewDescriptors(descriptors))?;
    let config = config(directory, guest_fd_limit);
    enable_seccomp(SeccompAction::Kill, false)?;
    let listener = Listener::from(listener);
    if read_only {
        let file_system = Bounded::new(PassthroughFsRo::new(config)?, guest_fd_limit);
        serve_file_system(file_system, listener)
    } else {
        let file_system = Bounded::new(PassthroughFs::new(config)?, guest_fd_limit);
        serve_file_system(file_system, listener)
    }
}

fn config(path: &str, guest_fd_limit: u64) -> Config {
    let is_root = geteuid().is_root();
    Config {
        root_dir: path.to_owned(),
        entry_timeout: BELIEF,
        attr_timeout: BELIEF,
        cache_policy: CachePolicy::Auto,
        announce_submounts: true,
        // Handles in place of open descriptors take a capability that only root has.
        inode_file_handles: if is_root {
            InodeFileHandlesMode::Prefer
        } else {
            InodeFileHandlesMode::Never
        },
        uid_map: Some(translation(is_root, geteuid().as_raw())),
        gid_map: Some(translation(is_root, getegid().as_raw())),
        guest_fd_limit,
        ..Config::default()
    }
}

/// Everyone in the guest becomes `id` on the host; what the host has keeps its number in the
/// guest. Root needs no translation: it may act as anyone.
fn translation(is_root: bool, id: u32) -> Vec<IdMap> {
    if is_root {
        return Vec::new();
    }
    let mut map = vec![IdMap::Guest {
        from_guest: id,
        to_host: id,
        count: 1,
    }];
    if id > 0 {
        map.push(IdMap::SquashGuest {
            from_guest: 0,
            to_host: id,
            count: id,
        });
    }
    if id < u32::MAX - 1 {
        map.push(IdMap::SquashGuest {
            from_guest: id + 1,
            to_host: id,
            count: u32::MAX - 1 - id,
        });
    }
    map
}

fn serve_file_system<F>(file_system: Bounded<F>, mut listener: Listener) -> Result<(), ServeError>
where
    F: FileSystem<Inode = u64, Handle = u64> + Send + Sync + 'static,
{
    let backend = VhostUserFsBackendBuilder::default()
        .set_thread_pool_size(0)
        .build(file_system)?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let spoke = |error| ServeError::Engine(format!("{error:?}"));
    let mut daemon =
        VhostUserDaemon::new("file-share".to_owned(), Arc::new(backend), memory).map_err(spoke)?;
    daemon.start(&mut listener).map_err(spoke)?;
    // However the engine's connection ends, the machine has ended.
    let _ = daemon.wait();
    Ok(())
}
