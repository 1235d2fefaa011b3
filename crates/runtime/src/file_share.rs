//! The process that serves the machine's shared home, run from this very program as a child.

use std::{
    env,
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{ExitCode, Stdio},
    time::Duration,
};

use nix::sys::{
    prctl::set_pdeathsig,
    signal::{SigSet, SigmaskHow, Signal, sigprocmask},
};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use crate::{FILE_SHARE_ROLE, launch::HomeShare, log::Log};

/// Under this name the guest mounts the home.
pub const TAG: &str = "home";

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct FileShare {
    child: Child,
}

impl FileShare {
    /// Starts a server for `share`, whose complaints go to `log`; `scratch` is a directory for the
    /// moment of the start. Returns it and the connection that the engine takes over.
    pub fn start(share: &HomeShare, log: Log, scratch: &Path) -> io::Result<(FileShare, OwnedFd)> {
        let socket = tempfile::Builder::new()
            .prefix("share")
            .make_in(scratch, |path| UnixListener::bind(path))?;
        let connection = UnixStream::connect(socket.path())?;
        let listener: OwnedFd = socket.as_file().try_clone()?.into();
        let share = serde_json::to_string(&Served::of(share))?;
        let mut child = Command::new(env::current_exe()?)
            .arg(FILE_SHARE_ROLE)
            .arg(share)
            .stdin(listener)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(complaints) = child.stderr.take() {
            tokio::spawn(log.take(complaints, Duration::ZERO));
        }
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
            // Without its reader there is nobody to tell.
            let _ = writeln!(io::stderr(), "serving the shared home: {message}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    // It ends with the engine: a host that shuts down tells all processes to end, and the machine
    // still writes to its home.
    let end = SigSet::from(Signal::SIGTERM);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&end), None).map_err(|error| error.to_string())?;
    set_pdeathsig(Signal::SIGKILL).map_err(|error| error.to_string())?;
    let argument = env::args().nth(2).ok_or("nothing to serve was named")?;
    let served: Served = serde_json::from_str(&argument).map_err(|error| error.to_string())?;
    let listener = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| error.to_string())?;
    container_file_share::serve(&served.path, served.read_only, listener.into())
        .map_err(|error| error.to_string())
}
