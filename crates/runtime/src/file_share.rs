//! The process that serves the machine's shared home: this program in another role, as a child of
//! the runtime.

use std::{
    env,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use container_file_share::{Exclusions, ShareReply, ShareRequest};
use container_protocol::frame::{self, FrameError};
use nix::sys::{
    prctl::set_pdeathsig,
    signal::{SigSet, SigmaskHow, Signal, sigprocmask},
};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::{
    net::UnixStream as TokioUnixStream,
    process::{Child, Command},
};

use crate::{
    launch::HomeShare,
    log::Log,
    role::{FILE_SHARE_ROLE, own_program},
};

/// virtio-fs tag by which the guest mounts the home.
pub(crate) const TAG: &str = "home";

/// Process that serves a shared directory to the engine. It is killed on drop.
#[derive(Debug)]
pub(crate) struct FileShareProcess {
    child: Child,
    control: TokioUnixStream,
}

/// The runtime's connections of a file share.
#[derive(Debug)]
pub(crate) struct Connections {
    /// For the engine (vhost-user).
    pub engine: OwnedFd,
    /// For the agent ([`HostPort::Home`](container_protocol::HostPort::Home)).
    pub agent: UnixStream,
}

impl FileShareProcess {
    /// Starts a server for `share`, which is the open `directory`, with its standard error to
    /// `log`. Its socket exists in `scratch` only during the start.
    pub(crate) fn start(
        share: &HomeShare,
        directory: BorrowedFd<'_>,
        log: Log,
        scratch: &Path,
    ) -> io::Result<(FileShareProcess, Connections)> {
        let socket = tempfile::Builder::new()
            .prefix("share")
            .make_in(scratch, |path| UnixListener::bind(path))?;
        // The first connection is the runtime's own.
        let control = UnixStream::connect(socket.path())?;
        control.set_nonblocking(true)?;
        let connection = UnixStream::connect(socket.path())?;
        let listener: OwnedFd = socket.as_file().try_clone()?.into();
        let (agent, of_child) = UnixStream::pair()?;
        let arguments = Arguments {
            path: share.path.clone(),
            read_only: share.read_only,
            hidden: share.hidden.clone(),
            private: share.private.clone(),
        };
        let mut child = Command::new(own_program())
            .arg(FILE_SHARE_ROLE)
            .arg(serde_json::to_string(&arguments)?)
            .current_dir(path_of(directory))
            .stdin(listener)
            .stdout(OwnedFd::from(of_child))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(errors) = child.stderr.take() {
            tokio::spawn(log.write_from(errors, Duration::ZERO));
        }
        let connections = Connections {
            engine: connection.into(),
            agent,
        };
        let control = TokioUnixStream::from_std(control)?;
        Ok((FileShareProcess { child, control }, connections))
    }

    /// Sends a request about the share as a whole.
    pub(crate) async fn request(
        &mut self,
        request: ShareRequest,
    ) -> Result<ShareReply, FrameError> {
        frame::write(&mut self.control, &request).await?;
        frame::read(&mut self.control).await
    }

    /// Waits until the server has ended, which it does when the engine disconnects. Cancel safe,
    /// and may be called again after the end.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}

/// Opens a directory that is to be served.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Returns a path that leads to an open directory, in this process and in one that it starts.
pub(crate) fn path_of(directory: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", directory.as_raw_fd()).into()
}

/// The role's second argument, as JSON. The directory is the process' working directory.
#[derive(Debug, Serialize, Deserialize)]
struct Arguments {
    /// For messages only: another directory may be there now.
    path: PathBuf,
    read_only: bool,
    hidden: Vec<PathBuf>,
    private: Vec<PathBuf>,
}

/// Error of the file-share server.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("cannot set up signals: {0}")]
    Signals(nix::Error),
    #[error("the argument with the directory is missing")]
    NoArguments,
    #[error("invalid argument: {0}")]
    InvalidArguments(serde_json::Error),
    #[error("cannot take the connections from standard input and output: {0}")]
    Connections(io::Error),
    #[error("cannot open the working directory: {0}")]
    Directory(io::Error),
    #[error("{}: {cause}", .path.display())]
    Serve {
        path: PathBuf,
        cause: container_file_share::ServeError,
    },
}

/// Runs the role [`FILE_SHARE_ROLE`]: serves the directory until the engine disconnects.
pub fn file_share_main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Fails if the runtime has ended.
            let _ = writeln!(io::stderr(), "cannot serve a shared directory: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), ServeError> {
    // A host that shuts down sends SIGTERM to all processes. The machine still writes to its home
    // then, so this process ends only with the engine.
    let blocked = SigSet::from(Signal::SIGTERM);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None).map_err(ServeError::Signals)?;
    set_pdeathsig(Signal::SIGKILL).map_err(ServeError::Signals)?;
    let arguments = env::args().nth(2).ok_or(ServeError::NoArguments)?;
    let arguments: Arguments =
        serde_json::from_str(&arguments).map_err(ServeError::InvalidArguments)?;
    let listener = io::stdin().as_fd().try_clone_to_owned();
    let listener = UnixListener::from(listener.map_err(ServeError::Connections)?);
    let (runtime, _) = listener.accept().map_err(ServeError::Connections)?;
    let exclusions = Exclusions {
        hidden: arguments.hidden,
        private: arguments.private,
    };
    let agent = io::stdout().as_fd().try_clone_to_owned();
    let agent = agent.map_err(ServeError::Connections)?;
    let connections = container_file_share::Connections {
        listener,
        agent: Some(agent.into()),
        runtime: Some(OwnedFd::from(runtime).into()),
    };
    let directory = open_directory(Path::new(".")).map_err(ServeError::Directory)?;
    // A crash must not write its core file there.
    std::env::set_current_dir("/").map_err(ServeError::Directory)?;
    container_file_share::serve(
        &File::from(directory),
        arguments.read_only,
        &exclusions,
        connections,
    )
    .map_err(|cause| ServeError::Serve {
        path: arguments.path,
        cause,
    })
}
