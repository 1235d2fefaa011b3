//! Commands in a running machine, over the socket of the machine's runtime process.
//!
//! A command has one connection for control and one for each of its streams; the runtime forwards
//! each to the guest agent. The service is not involved, so a command keeps running if the service
//! ends.

use std::{
    io,
    os::unix::net::UnixStream as StdUnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use container_protocol::{
    CommandControl, CommandEvent, CommandId, CommandRequest, ExitStatus, Port, StartFailure, Stdio,
    TerminalSize,
    frame::{self, FrameError},
    local::{self, MachinePhase, RuntimeReport, RuntimeRequest},
};
use tokio::{
    io::{AsyncReadExt, ReadHalf, WriteHalf},
    net::UnixStream,
    time::{sleep, timeout},
};

/// Error of starting a command, or of losing it while it runs.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The runtime's socket cannot be connected to.
    #[error("cannot connect to the machine at {socket}: {cause}")]
    Connect {
        /// Socket of the machine's runtime.
        socket: PathBuf,
        /// Error of the system call.
        cause: io::Error,
    },
    /// The guest agent cannot start the command.
    #[error("{message}")]
    Failed {
        /// The agent's message.
        message: String,
        /// Kind of the failure.
        reason: StartFailure,
    },
    /// The request exceeds what the protocol transfers, which is more than Linux allows.
    #[error(
        "cannot start the command: its arguments and environment variables are too long (Linux \
         allows 2 MiB)"
    )]
    TooLong,
    /// The connection ended before the command did.
    #[error("the machine was stopped or suspended before the command ended")]
    Lost,
    /// A message from the machine is invalid.
    #[error("invalid message from the machine: {0}")]
    Frame(FrameError),
}

impl ExecError {
    /// Returns whether the machine has stopped, or is stopping.
    pub fn is_machine_stopped(&self) -> bool {
        matches!(self, ExecError::Lost | ExecError::Connect { .. })
    }
}

impl From<FrameError> for ExecError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Ended | FrameError::Io(_) => ExecError::Lost,
            other => ExecError::Frame(other),
        }
    }
}

/// Streams of a command, for blocking reads and writes.
#[derive(Debug)]
pub enum Streams {
    /// One stream for each standard stream, each used in one direction.
    Pipes {
        /// Written to. Shutting down the writing side ends the command's input.
        stdin: StdUnixStream,
        /// Read from.
        stdout: StdUnixStream,
        /// Read from.
        stderr: StdUnixStream,
    },
    /// The command's terminal, in both directions.
    Terminal(StdUnixStream),
    /// The command's standard streams are `/dev/null`.
    Detached,
}

/// Lets the machine use the SSH agent at `agent` until it stops, in place of an earlier one.
pub async fn give_ssh_agent(socket: &Path, agent: PathBuf) -> Result<(), ExecError> {
    let mut stream = connect(socket).await?;
    let request = RuntimeRequest::UseSshAgent { socket: agent };
    frame::write(&mut stream, &request).await?;
    // The runtime closes the connection when the new agent is in use.
    let _ = stream.read_u8().await;
    Ok(())
}

/// An SSH agent that a machine may use until this is dropped.
#[derive(Debug)]
pub struct LentSshAgent(#[expect(dead_code, reason = "only kept open")] UnixStream);

/// Lets the machine use the SSH agent at `agent`. Returns nothing if its runtime is of an older
/// build.
pub async fn lend_ssh_agent(
    socket: &Path,
    agent: PathBuf,
) -> Result<Option<LentSshAgent>, ExecError> {
    let mut stream = connect(socket).await?;
    let request = RuntimeRequest::LendSshAgent { socket: agent };
    frame::write(&mut stream, &request).await?;
    let reply = frame::read::<()>(&mut stream).await;
    Ok(reply.is_ok().then_some(LentSshAgent(stream)))
}

/// Timeout for a machine that is stopping.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

/// Interval between checks whether it has stopped.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Waits until nothing of this boot runs any more, also if the machine reboots. Returns false after
/// a timeout.
pub async fn wait_until_stopped(socket: &Path) -> bool {
    let stopped = async {
        // A machine that shuts down has booted too. The service would return it as running.
        while phase(socket).await.is_some_and(|it| it.init().is_some()) {
            sleep(STOP_CHECK_INTERVAL).await;
        }
    };
    timeout(STOP_TIMEOUT, stopped).await.is_ok()
}

/// Returns whether the machine has booted and is not stopping.
pub async fn is_running(socket: &Path) -> bool {
    matches!(phase(socket).await, Some(MachinePhase::Up { .. }))
}

/// Returns the machine's phase, or nothing if its runtime has ended.
async fn phase(socket: &Path) -> Option<MachinePhase> {
    let mut stream = connect(socket).await.ok()?;
    frame::write(&mut stream, &RuntimeRequest::Report)
        .await
        .ok()?;
    let report: RuntimeReport = frame::read(&mut stream).await.ok()?;
    Some(report.phase)
}

/// Returns notes of the machine for its user, each of which is returned once. Empty if the machine
/// has stopped, or its runtime is of an older build.
pub async fn take_notes(socket: &Path) -> Vec<String> {
    let asked = async {
        let mut stream = connect(socket).await.ok()?;
        frame::write(&mut stream, &RuntimeRequest::TakeNotes)
            .await
            .ok()?;
        frame::read(&mut stream).await.ok()
    };
    asked.await.unwrap_or_default()
}

/// Starts a command in the machine with this runtime socket, and waits until it runs. Calls `note`
/// with each sentence that the user should read.
pub async fn start(
    socket: &Path,
    request: &CommandRequest,
    note: impl Fn(&str),
) -> Result<(RunningCommand, Streams), ExecError> {
    // Not logged: the environment, which may contain secrets.
    tracing::debug!(
        "run over {}: {:?} as {:?} in {:?}",
        socket.display(),
        request.command,
        request.identity,
        request.working_directory
    );
    let id = CommandId(uuid::Uuid::new_v4().as_u64_pair().0);
    let mut control = open(socket, Port::Command(id)).await?;
    let sent = frame::write(&mut control, request).await;
    sent.map_err(|error| match error {
        FrameError::TooLong { .. } => ExecError::TooLong,
        other => other.into(),
    })?;
    let streams = match request.stdio {
        Stdio::Pipes => Streams::Pipes {
            stdin: blocking(open(socket, Port::Stdin(id)).await?)?,
            stdout: blocking(open(socket, Port::Stdout(id)).await?)?,
            stderr: blocking(open(socket, Port::Stderr(id)).await?)?,
        },
        Stdio::Terminal(_) => Streams::Terminal(blocking(open(socket, Port::Terminal(id)).await?)?),
        Stdio::Detached => Streams::Detached,
    };
    loop {
        match frame::read(&mut control).await? {
            CommandEvent::Note { message } => note(&message),
            CommandEvent::Started => break,
            CommandEvent::Failed { message, reason } => {
                return Err(ExecError::Failed { message, reason });
            }
            CommandEvent::Exited(_) => return Err(ExecError::Lost),
        }
    }
    let (events, requests) = tokio::io::split(control);
    let control = CommandControls { requests };
    Ok((RunningCommand { events, control }, streams))
}

pub(crate) async fn open(socket: &Path, port: Port) -> Result<UnixStream, ExecError> {
    let mut stream = connect(socket).await?;
    frame::write(&mut stream, &RuntimeRequest::Connect).await?;
    frame::write(&mut stream, &port).await?;
    Ok(stream)
}

async fn connect(socket: &Path) -> Result<UnixStream, ExecError> {
    let connected = local::connect(socket).await;
    connected.map_err(|cause| ExecError::Connect {
        socket: socket.to_owned(),
        cause,
    })
}

fn blocking(stream: UnixStream) -> Result<StdUnixStream, ExecError> {
    let stream = stream.into_std().map_err(FrameError::Io)?;
    stream.set_nonblocking(false).map_err(FrameError::Io)?;
    Ok(stream)
}

/// Running command.
#[derive(Debug)]
pub struct RunningCommand {
    events: ReadHalf<UnixStream>,
    control: CommandControls,
}

impl RunningCommand {
    /// Splits it into the part that waits for the command's end and the part that controls it, so
    /// that both can be used at the same time.
    pub fn into_parts(self) -> (CommandEnd, CommandControls) {
        (
            CommandEnd {
                events: self.events,
            },
            self.control,
        )
    }
}

/// Part of a [`RunningCommand`] that waits for its end.
#[derive(Debug)]
pub struct CommandEnd {
    events: ReadHalf<UnixStream>,
}

impl CommandEnd {
    /// Waits for the end, and returns the exit status. All output has been sent on the streams by
    /// then.
    pub async fn wait(mut self) -> Result<ExitStatus, ExecError> {
        match frame::read(&mut self.events).await? {
            CommandEvent::Exited(status) => Ok(status),
            CommandEvent::Failed { message, reason } => Err(ExecError::Failed { message, reason }),
            CommandEvent::Note { .. } | CommandEvent::Started => Err(ExecError::Lost),
        }
    }
}

/// Part of a [`RunningCommand`] that controls it. Dropping it sends the command SIGHUP.
#[derive(Debug)]
pub struct CommandControls {
    requests: WriteHalf<UnixStream>,
}

impl CommandControls {
    /// Sends a Linux signal to the command's process group.
    pub async fn signal(&mut self, number: i32) -> Result<(), ExecError> {
        Ok(frame::write(&mut self.requests, &CommandControl::Signal(number)).await?)
    }

    /// Sets the size of the command's terminal.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), ExecError> {
        Ok(frame::write(&mut self.requests, &CommandControl::Resize(size)).await?)
    }
}
