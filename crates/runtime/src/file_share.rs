//! The process that serves the machine's shared home: the `virtiofsd` crate's file system, run
//! from this very program as a child.
//!
//! Run by an ordinary user it needs no privilege and nothing from `/etc/subuid`: everyone in
//! the guest acts on the files as that user, so what is written belongs to the user.

use std::{
    env, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::{getegid, geteuid},
};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::{
    filesystem::{FileSystem, SerializableFileSystem},
    limits::setup_rlimit_nofile,
    passthrough::{
        CachePolicy, Config, InodeFileHandlesMode, PassthroughFs, read_only::PassthroughFsRo,
    },
    seccomp::{SeccompAction, enable_seccomp},
    soft_idmap::cmdline::IdMap,
    vhost_user::VhostUserFsBackendBuilder,
};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::{FILE_SHARE_ROLE, launch::HomeShare};

/// Under this name the guest mounts the home.
pub const TAG: &str = "home";

/// For how long the guest may believe what it knows of a file: changes made on the host show
/// after this at the latest.
const BELIEF: Duration = Duration::from_secs(1);

/// Descriptors that the server keeps for itself, as the crate's own program reckons: its
/// memory slots and some more.
const OWN_DESCRIPTORS: u64 = 620;

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct FileShare {
    child: Child,
}

impl FileShare {
    /// Starts a server for `share`; `scratch` is a directory for the moment of the start.
    /// Returns it and the connection that the engine takes over.
    pub fn start(share: &HomeShare, scratch: &Path) -> io::Result<(FileShare, OwnedFd)> {
        let socket = tempfile::Builder::new()
            .prefix("share")
            .make_in(scratch, |path| UnixListener::bind(path))?;
        let connection = UnixStream::connect(socket.path())?;
        let listener: OwnedFd = socket.as_file().try_clone()?.into();
        let share = serde_json::to_string(&Served::of(share))?;
        let child = Command::new(env::current_exe()?)
            .arg(FILE_SHARE_ROLE)
            .arg(share)
            .stdin(listener)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok((FileShare { child }, connection.into()))
    }

    /// Waits for the server's end, which comes with the engine's. Safe to drop and call again.
    pub async fn ended(&mut self) -> io::Result<std::process::ExitStatus> {
        self.child.wait().await
    }
}

/// What the child is told.
#[derive(Debug, Serialize, Deserialize)]
struct Served {
    path: String,
    read_only: bool,
}

impl Served {
    fn of(share: &HomeShare) -> Served {
        Served {
            path: share.path.to_string_lossy().into_owned(),
            read_only: share.read_only,
        }
    }
}

/// The role [`FILE_SHARE_ROLE`]: serves until the engine disconnects.
pub fn file_share_main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tracing::error!("serving the shared home: {message}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    set_pdeathsig(Signal::SIGKILL).map_err(|error| error.to_string())?;
    let argument = env::args().nth(2).ok_or("nothing to serve was named")?;
    let served: Served = serde_json::from_str(&argument).map_err(|error| error.to_string())?;
    let listener = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| error.to_string())?;
    let listener = Listener::from(UnixListener::from(listener));
    let descriptors = setup_rlimit_nofile(None)?;
    let guest_fd_limit = descriptors
        .checked_sub(OWN_DESCRIPTORS)
        .ok_or_else(|| format!("the limit of {descriptors} open files is too low (ulimit -n)"))?;
    let config = config(&served.path, guest_fd_limit);
    enable_seccomp(SeccompAction::Kill, false).map_err(|error| error.to_string())?;
    if served.read_only {
        serve_file_system(PassthroughFsRo::new(config), listener)
    } else {
        serve_file_system(PassthroughFs::new(config), listener)
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

fn serve_file_system<F>(file_system: io::Result<F>, mut listener: Listener) -> Result<(), String>
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    let file_system = file_system.map_err(|error| error.to_string())?;
    let backend = VhostUserFsBackendBuilder::default()
        .set_thread_pool_size(0)
        .build(file_system)
        .map_err(|error| error.to_string())?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("file-share".to_owned(), Arc::new(backend), memory)
        .map_err(|error| format!("{error:?}"))?;
    daemon
        .start(&mut listener)
        .map_err(|error| format!("{error:?}"))?;
    // However the engine's connection ends, the machine has ended.
    let _ = daemon.wait();
    Ok(())
}
