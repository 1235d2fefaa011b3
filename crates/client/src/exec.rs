//! A command in a running machine, over its runtime's socket.
//!
//! The service has no part in this: a command goes on when the service ends.

use std::{
    io,
    os::unix::net::UnixStream as StdUnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use container_protocol::{
    CommandControl, CommandEvent, CommandId, CommandRequest, ExitStatus, Port, Stdio, TerminalSize,
    frame::{self, FrameError},
    local::{self, RuntimeReport, RuntimeRequest},
};
use tokio::{
    io::{AsyncReadExt, ReadHalf, WriteHalf},
    net::UnixStream,
    time::{sleep, timeout},
};

/// Why a command could not be run, or how it was lost.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The machine's runtime cannot be reached.
    #[error("reaching the machine at {socket}: {source}")]
    Connect {
        /// Its runtime's socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The guest could not start it.
    #[error("{0}")]
    Failed(String),
    /// The machine ended before the command did.
    #[error("the machine ended before the command did")]
    Lost,
    /// The guest does not answer as expected.
    #[error("talking to the machine: {0}")]
    Frame(#[source] FrameError),
}

impl ExecError {
    /// Whether the machine went down before the command began.
    pub fn is_of_machine_that_ended(&self) -> bool {
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

/// The command's own streams, for blocking reads and writes.
#[derive(Debug)]
pub enum Streams {
    /// Three pipes, one way each.
    Pipes {
        /// Write to it; closing the writing side is the end of the command's input.
        stdin: StdUnixStream,
        /// Read from it.
        stdout: StdUnixStream,
        /// Read from it.
        stderr: StdUnixStream,
    },
    /// A terminal, both ways.
    Terminal(StdUnixStream),
    /// None.
    Detached,
}

/// Makes the SSH agent that listens on `agent` the machine's.
pub async fn use_ssh_agent(socket: &Path, agent: PathBuf) -> Result<(), ExecError> {
    let mut stream = connect(socket).await?;
    let request = RuntimeRequest::UseSshAgent { socket: agent };
    frame::write(&mut stream, &request).await?;
    // It holds from the end of the connection on.
    let _ = stream.read_u8().await;
    Ok(())
}

/// How long a machine may take to go down.
const DOWN: Duration = Duration::from_secs(90);

/// How often it is asked until then.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Waits until the machine is down. Returns whether it is.
pub async fn is_down(socket: &Path) -> bool {
    let down = async {
        while goes_on(socket).await {
            sleep(ASK_AGAIN).await;
        }
    };
    timeout(DOWN, down).await.is_ok()
}

/// Whether the machine goes on: it is up, and nobody stops it.
pub async fn goes_on(socket: &Path) -> bool {
    let asked = async {
        let mut stream = connect(socket).await.ok()?;
        frame::write(&mut stream, &RuntimeRequest::Report)
            .await
            .ok()?;
        frame::read::<RuntimeReport>(&mut stream).await.ok()
    };
    let report = asked.await;
    report.is_some_and(|report| report.init.is_some() && !report.stopping)
}

/// Starts a command in the machine behind `socket` and waits until it runs.
pub async fn start(
    socket: &Path,
    request: &CommandRequest,
) -> Result<(RunningCommand, Streams), ExecError> {
    // Its environment stays untold: there may be secrets in it.
    tracing::debug!(
        "over {}: {:?} as {:?} in {:?}",
        socket.display(),
        request.command,
        request.identity,
        request.working_directory
    );
    let id = CommandId(uuid::Uuid::new_v4().as_u64_pair().0);
    let mut control = open(socket, Port::Command(id)).await?;
    frame::write(&mut control, request).await?;
    let streams = match request.stdio {
        Stdio::Pipes => Streams::Pipes {
            stdin: blocking(open(socket, Port::Stdin(id)).await?)?,
            stdout: blocking(open(socket, Port::Stdout(id)).await?)?,
            stderr: blocking(open(socket, Port::Stderr(id)).await?)?,
        },
        Stdio::Terminal(_) => Streams::Terminal(blocking(open(socket, Port::Terminal(id)).await?)?),
        Stdio::Detached => Streams::Detached,
    };
    match frame::read(&mut control).await? {
        CommandEvent::Started => {
            let (events, requests) = tokio::io::split(control);
            let control = CommandControls { requests };
            Ok((RunningCommand { events, control }, streams))
        }
        CommandEvent::Failed { message } => Err(ExecError::Failed(message)),
        CommandEvent::Exited(_) => Err(ExecError::Lost),
    }
}

async fn open(socket: &Path, port: Port) -> Result<UnixStream, ExecError> {
    let mut stream = connect(socket).await?;
    frame::write(&mut stream, &RuntimeRequest::Connect).await?;
    frame::write(&mut stream, &port).await?;
    Ok(stream)
}

async fn connect(socket: &Path) -> Result<UnixStream, ExecError> {
    let connected = local::connect(socket).await;
    connected.map_err(|source| ExecError::Connect {
        socket: socket.to_owned(),
        source,
    })
}

fn blocking(stream: UnixStream) -> Result<StdUnixStream, ExecError> {
    let stream = stream.into_std().map_err(FrameError::Io)?;
    stream.set_nonblocking(false).map_err(FrameError::Io)?;
    Ok(stream)
}

/// A command that runs.
#[derive(Debug)]
pub struct RunningCommand {
    events: ReadHalf<UnixStream>,
    control: CommandControls,
}

impl RunningCommand {
    /// Apart: what waits for the command's end, and what acts on it meanwhile.
    pub fn into_parts(self) -> (CommandEnd, CommandControls) {
        (
            CommandEnd {
                events: self.events,
            },
            self.control,
        )
    }
}

/// Waits for a command's end.
#[derive(Debug)]
pub struct CommandEnd {
    events: ReadHalf<UnixStream>,
}

impl CommandEnd {
    /// Waits for the end. All that the command wrote is on its streams by then.
    pub async fn wait(mut self) -> Result<ExitStatus, ExecError> {
        match frame::read(&mut self.events).await? {
            CommandEvent::Exited(status) => Ok(status),
            CommandEvent::Failed { message } => Err(ExecError::Failed(message)),
            CommandEvent::Started => Err(ExecError::Lost),
        }
    }
}

/// Acts on a running command. Dropping it counts as a hang-up: the command gets SIGHUP.
#[derive(Debug)]
pub struct CommandControls {
    requests: WriteHalf<UnixStream>,
}

impl CommandControls {
    /// Sends a Linux signal to the command's process group.
    pub async fn signal(&mut self, number: i32) -> Result<(), ExecError> {
        Ok(frame::write(&mut self.requests, &CommandControl::Signal(number)).await?)
    }

    /// Tells the command's terminal its new size.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), ExecError> {
        Ok(frame::write(&mut self.requests, &CommandControl::Resize(size)).await?)
    }
}
