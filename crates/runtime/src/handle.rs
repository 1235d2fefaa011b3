//! A running machine, seen from another process.

use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use container_protocol::{
    InitProgram, PublishedPort,
    frame::{self, FrameError},
    local::{self, PortStatus, RuntimeReport, RuntimeRequest},
};
use serde::de::DeserializeOwned;
use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    time::{sleep, timeout},
};

use crate::lock;

/// The runtime's socket in its directory.
pub(crate) const SOCKET: &str = "runtime.sock";

/// How long a living runtime may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a runtime may live without a socket: it makes one anew within seconds.
const HIDDEN: Duration = Duration::from_secs(6);

/// How often it is asked for until then.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// How much longer than init's own time a stop may take.
const UNMOUNT: Duration = Duration::from_secs(60);

/// A machine's runtime, and what it told when it was found.
#[derive(Debug, Clone)]
pub struct Runtime {
    socket: PathBuf,
    status: RuntimeStatus,
}

/// What a runtime tells of its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// This boot's name.
    pub container_id: String,
    /// When this boot began.
    pub started: jiff::Timestamp,
    /// The machine's own address, where it has one.
    pub ip_address: Option<Ipv4Addr>,
    /// The runtime's process.
    pub pid: u32,
    /// Whether it was booted to have its disk read; then it never comes up.
    pub reads_disk: bool,
    /// What runs as init; none while the machine boots.
    pub init: Option<InitProgram>,
}

impl RuntimeStatus {
    /// Whether commands are served; not yet while the machine boots.
    pub fn is_up(&self) -> bool {
        self.init.is_some()
    }
}

/// Why it is not known whether a machine runs.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The socket cannot be reached.
    #[error("reaching the machine's runtime at {socket}: {source}")]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It lives, and cannot be reached.
    #[error(
        "the machine runs in process {pid}, which cannot be reached: {socket} is gone; `kill {pid}` stops it in order"
    )]
    Hidden {
        /// The runtime's process.
        pid: u32,
        /// Where its socket was.
        socket: PathBuf,
    },
    /// It does not answer as a runtime does.
    #[error("asking the machine's runtime at {socket}: {reason}")]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// What it did.
        reason: String,
    },
}

/// Why a machine could not be stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The request did not reach the runtime.
    #[error("asking the machine's runtime to stop it: {0}")]
    Ask(#[source] FrameError),
    /// It goes on.
    #[error(
        "the machine did not stop in {0:?}: its runtime is process {1}, which `kill` ends together with the machine"
    )]
    Late(Duration, u32),
}

impl Runtime {
    /// Finds the runtime that works in this directory and holds this lock; none if there is none.
    pub async fn find(runtime_directory: &Path, lock: &Path) -> Result<Option<Runtime>, FindError> {
        let deadline = Instant::now() + HIDDEN;
        loop {
            if let Some(runtime) = Runtime::at(runtime_directory).await? {
                return Ok(Some(runtime));
            }
            // It may be about to listen, or to end.
            match lock::holder(lock) {
                None => return Ok(None),
                Some(_) if Instant::now() < deadline => sleep(ASK_AGAIN).await,
                Some(pid) => {
                    let socket = runtime_directory.join(SOCKET);
                    return Err(FindError::Hidden { pid, socket });
                }
            }
        }
    }

    /// The runtime that answers in this directory.
    async fn at(runtime_directory: &Path) -> Result<Option<Runtime>, FindError> {
        let socket = runtime_directory.join(SOCKET);
        let mut stream = match local::connect(&socket).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(source) => return Err(FindError::Connect { socket, source }),
        };
        match timeout(ANSWER, ask_for_report(&mut stream)).await {
            Ok(Ok(report)) => Ok(Some(Runtime {
                socket,
                status: report.into(),
            })),
            // It ended between the connection and the answer.
            Ok(Err(FrameError::Ended | FrameError::Io(_))) => Ok(None),
            Ok(Err(error)) => Err(FindError::Answer {
                socket,
                reason: error.to_string(),
            }),
            Err(_) => Err(FindError::Answer {
                socket,
                reason: format!("no answer in {ANSWER:?}"),
            }),
        }
    }

    /// What it told when it was found.
    pub fn status(&self) -> &RuntimeStatus {
        &self.status
    }

    /// Where commands are run through: see [`container_protocol::local`].
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its machine's ports, and where on the host they are reached.
    ///
    /// # Errors
    /// If the runtime does not answer.
    pub async fn ports(&self) -> Result<Vec<PortStatus>, FindError> {
        self.ask(RuntimeRequest::Ports).await
    }

    /// Publishes these ports from now on, and no others. Returns all, as [`ports`](Self::ports) does.
    ///
    /// # Errors
    /// If the runtime does not answer.
    pub async fn publish(&self, ports: Vec<PublishedPort>) -> Result<Vec<PortStatus>, FindError> {
        self.ask(RuntimeRequest::Publish(ports)).await
    }

    async fn ask<T: DeserializeOwned>(&self, request: RuntimeRequest) -> Result<T, FindError> {
        let answered = timeout(ANSWER, async {
            let mut stream = local::connect(&self.socket).await?;
            frame::write(&mut stream, &request).await?;
            frame::read(&mut stream).await
        });
        let failed = |reason| FindError::Answer {
            socket: self.socket.clone(),
            reason,
        };
        match answered.await {
            Ok(answer) => answer.map_err(|error: FrameError| failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer in {ANSWER:?}"))),
        }
    }

    /// Stops the machine in order and waits until all of its processes have ended.
    pub async fn stop(&self, grace: Duration) -> Result<(), StopError> {
        let mut stream = match local::connect(&self.socket).await {
            Ok(stream) => stream,
            // It has ended by itself.
            Err(_) => return Ok(()),
        };
        let grace_seconds = u32::try_from(grace.as_secs()).unwrap_or(u32::MAX);
        let request = RuntimeRequest::Stop { grace_seconds };
        frame::write(&mut stream, &request)
            .await
            .map_err(StopError::Ask)?;
        let patience = grace + UNMOUNT;
        match timeout(patience, stream.read_u8()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StopError::Late(patience, self.status.pid)),
        }
    }
}

async fn ask_for_report(stream: &mut UnixStream) -> Result<RuntimeReport, FrameError> {
    frame::write(stream, &RuntimeRequest::Report).await?;
    frame::read(stream).await
}

impl From<RuntimeReport> for RuntimeStatus {
    fn from(report: RuntimeReport) -> Self {
        let started = jiff::Timestamp::from_nanosecond(report.started_nanoseconds.into());
        RuntimeStatus {
            container_id: report.container_id,
            started: started.unwrap_or_default(),
            ip_address: report.ip_address,
            pid: report.pid,
            reads_disk: report.reads_disk,
            init: report.init,
        }
    }
}
