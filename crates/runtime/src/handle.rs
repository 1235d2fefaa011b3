//! A running machine, as another process reaches it.

use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use container_machine::{IdleSuspend, ProcessLock};
use container_protocol::{
    Egress, InitProgram, MountProblem, MountReply, PublishedPort, SocketForward, SocketProblem,
    frame::{self, FrameError},
    local::{
        self, Blocked, BootKind, MachinePhase, MountShare, PortStatus, RuntimeReport,
        RuntimeRequest, SnapshotReply, SuspendReply,
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    time::{sleep, timeout},
};

/// Name of the socket in the runtime directory.
pub(crate) const SOCKET: &str = "runtime.sock";

/// Timeout for the answer of a running runtime.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout for a change of mounts, in which the guest may have to release many devices, and to find
/// others.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(300);

/// Timeout for a runtime that holds its lock to have a socket. One that was removed is created
/// again within seconds.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(6);

/// Interval between two attempts to find the socket.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Time that a stop may take after init's grace period. The runtime ends the engine after 30 s of
/// it, and the engine may take 20 s to write its disk back.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(60);

/// A machine's runtime, with its status when it was found.
#[derive(Debug, Clone)]
pub struct Runtime {
    socket: PathBuf,
    status: RuntimeStatus,
}

/// Status of a running machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// Name of this boot.
    pub container_id: String,
    /// Time at which the runtime started.
    pub started: jiff::Timestamp,
    /// The machine's address on the host; absent without a network.
    pub ip_address: Option<Ipv4Addr>,
    /// Process id of the runtime.
    pub pid: u32,
    /// Phase of the machine.
    pub phase: MachinePhase,
    /// How the machine was booted last; absent before that.
    pub boot: Option<BootKind>,
    /// Why the machine is paused, if the host cannot write its disk; absent otherwise.
    pub pause_reason: Option<String>,
    /// Whether the guest of a machine that is up does not answer.
    pub unresponsive: bool,
}

impl RuntimeStatus {
    /// Returns whether the machine is set up. That also holds while it shuts down.
    pub fn has_booted(&self) -> bool {
        self.init().is_some()
    }

    /// Returns what runs as init; absent unless the machine [has booted](Self::has_booted).
    pub fn init(&self) -> Option<&InitProgram> {
        self.phase.init()
    }
}

/// Error of finding a machine's runtime.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The socket cannot be connected to.
    #[error("cannot connect to the machine's runtime at {socket}: {cause}")]
    Connect {
        /// Socket of the runtime.
        socket: PathBuf,
        /// Error of the connection.
        cause: io::Error,
    },
    /// The runtime holds its lock, but has no socket.
    #[error(
        "the machine runs in process {pid}, which cannot be reached: socket {socket} not found \
         (`kill {pid}` shuts the machine down)"
    )]
    NoSocket {
        /// Process id of the runtime.
        pid: u32,
        /// Path of the missing socket.
        socket: PathBuf,
    },
    /// The runtime did not answer, or its answer is not valid.
    #[error("no valid answer from the machine's runtime at {socket}: {reason}")]
    Answer {
        /// Socket of the runtime.
        socket: PathBuf,
        /// Error of the request.
        reason: String,
    },
}

/// Error of stopping a machine.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The request did not reach the runtime.
    #[error("cannot ask the machine's runtime to stop it: {0}")]
    Request(FrameError),
    /// The machine has not stopped in time.
    #[error(
        "timed out after {} s waiting for the machine to stop (`kill {pid}` ends its runtime, and \
         the machine with it)",
        timeout.as_secs()
    )]
    TimedOut {
        /// The grace period, and the time to power off.
        timeout: Duration,
        /// Process id of the runtime.
        pid: u32,
    },
}

/// Error of suspending a machine.
#[derive(Debug, thiserror::Error)]
pub enum SuspendError {
    /// The request did not reach the runtime, or it ended before it answered. An older build of the
    /// program does not know the request.
    #[error(
        "its runtime does not answer ({0}); if it was started by an earlier version of this \
         program, restart it with: container machine restart"
    )]
    Request(FrameError),
    /// The machine cannot be suspended in this state.
    #[error("{0}")]
    Refused(String),
    /// The machine could not be suspended, and continues.
    #[error("{0}")]
    Failed(String),
}

/// Error of saving a machine that continues.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The request did not reach the runtime, or it ended before it answered. An older build of the
    /// program does not know the request.
    #[error(
        "its runtime does not answer ({0}); if it was started by an earlier version of this \
         program, restart it with: container machine restart"
    )]
    Request(FrameError),
    /// The machine cannot be saved in this state. Its disk is the same file.
    #[error("{0}")]
    Refused(String),
    /// The machine could not be saved, and continues.
    #[error("{0}")]
    Failed(String),
}

impl Runtime {
    /// Finds the runtime with this directory and lock file; absent if the lock is free.
    ///
    /// # Errors
    /// [`FindError`], if the lock is held by a runtime that does not answer.
    pub async fn find(runtime_directory: &Path, lock: &Path) -> Result<Option<Runtime>, FindError> {
        let deadline = Instant::now() + SOCKET_TIMEOUT;
        loop {
            if let Some(runtime) = Runtime::connect(runtime_directory).await? {
                return Ok(Some(runtime));
            }
            // A runtime without a socket may be about to listen, or to end.
            match ProcessLock::holder(lock) {
                None => return Ok(None),
                Some(_) if Instant::now() < deadline => sleep(RETRY_INTERVAL).await,
                Some(pid) => {
                    let socket = runtime_directory.join(SOCKET);
                    return Err(FindError::NoSocket { pid, socket });
                }
            }
        }
    }

    /// Asks the runtime that listens in this directory for its report; absent if none listens.
    async fn connect(runtime_directory: &Path) -> Result<Option<Runtime>, FindError> {
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
            Err(cause) => return Err(FindError::Connect { socket, cause }),
        };
        match timeout(ANSWER_TIMEOUT, read_report(&mut stream)).await {
            Ok(Ok(report)) => Ok(Some(Runtime {
                socket,
                status: report.into(),
            })),
            // The runtime ended between the connection and the answer.
            Ok(Err(FrameError::Ended | FrameError::Io(_))) => Ok(None),
            Ok(Err(error)) => Err(FindError::Answer {
                socket,
                reason: error.to_string(),
            }),
            Err(_) => Err(FindError::Answer {
                socket,
                reason: timed_out(ANSWER_TIMEOUT),
            }),
        }
    }

    /// Returns the status at the time when the runtime was found.
    pub fn status(&self) -> &RuntimeStatus {
        &self.status
    }

    /// Returns the runtime's socket, over which commands are run: see
    /// [`container_protocol::local`].
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the machine's ports, with their addresses on the host.
    ///
    /// # Errors
    /// If the runtime does not answer.
    pub async fn ports(&self) -> Result<Vec<PortStatus>, FindError> {
        self.request(RuntimeRequest::Ports).await
    }

    /// Replaces the published ports. Returns the same as [`ports`](Self::ports).
    ///
    /// # Errors
    /// If the runtime does not answer.
    pub async fn publish(&self, ports: Vec<PublishedPort>) -> Result<Vec<PortStatus>, FindError> {
        self.request(RuntimeRequest::Publish(ports)).await
    }

    /// Replaces the egress rules. Connections that they do not allow are ended.
    ///
    /// # Errors
    /// If the runtime does not answer. One of an older build does not.
    pub async fn set_egress(&self, egress: Egress) -> Result<(), FindError> {
        self.request(RuntimeRequest::SetEgress(egress)).await
    }

    /// Returns the machine's attempts to reach what its egress rules do not allow.
    ///
    /// # Errors
    /// If the runtime does not answer. One of an older build does not.
    pub async fn blocked(&self) -> Result<Blocked, FindError> {
        self.request(RuntimeRequest::Blocked).await
    }

    /// Returns the forwarded sockets that cannot be used.
    ///
    /// # Errors
    /// If the runtime does not answer. One of an older build does not.
    pub async fn socket_problems(&self) -> Result<Vec<SocketProblem>, FindError> {
        self.request(RuntimeRequest::SocketProblems).await
    }

    /// Replaces the forwarded sockets. Returns those that cannot be used.
    ///
    /// # Errors
    /// If the runtime does not answer. One of an older build does not.
    pub async fn forward_sockets(
        &self,
        sockets: Vec<SocketForward>,
    ) -> Result<Vec<SocketProblem>, FindError> {
        self.request(RuntimeRequest::ForwardSockets(sockets)).await
    }

    /// Sets the idle time after which the machine is suspended.
    ///
    /// # Errors
    /// If the runtime does not answer. One of an older build does not.
    pub async fn suspend_when_idle(&self, idle: IdleSuspend) -> Result<(), FindError> {
        let after_seconds = idle.after().map(|after| after.as_secs());
        self.request(RuntimeRequest::SuspendWhenIdle { after_seconds })
            .await
    }

    /// Returns the directories that are not mounted, though they should be.
    ///
    /// # Errors
    /// If the runtime does not answer. One of an older build does not.
    pub async fn mount_problems(&self) -> Result<Vec<MountProblem>, FindError> {
        self.request(RuntimeRequest::MountProblems).await
    }

    /// Replaces the directories that are mounted besides the home.
    ///
    /// # Errors
    /// If the runtime does not answer. One of an older build does not.
    pub async fn set_mounts(&self, mounts: Vec<MountShare>) -> Result<MountReply, FindError> {
        self.request_within(MOUNT_TIMEOUT, RuntimeRequest::SetMounts(mounts))
            .await
    }

    async fn request<T: DeserializeOwned>(&self, request: RuntimeRequest) -> Result<T, FindError> {
        self.request_within(ANSWER_TIMEOUT, request).await
    }

    async fn request_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
        request: RuntimeRequest,
    ) -> Result<T, FindError> {
        let answer = timeout(limit, async {
            let mut stream = local::connect(&self.socket).await?;
            frame::write(&mut stream, &request).await?;
            frame::read(&mut stream).await
        });
        let failed = |reason| FindError::Answer {
            socket: self.socket.clone(),
            reason,
        };
        match answer.await {
            Ok(answer) => answer.map_err(|error: FrameError| failed(error.to_string())),
            Err(_) => Err(failed(timed_out(limit))),
        }
    }

    /// Suspends the machine, and waits until its processes have ended. Commands that run for
    /// clients are only ended with `force`. If the future is dropped early, the machine continues.
    ///
    /// # Errors
    /// [`SuspendError`].
    pub async fn suspend(&self, force: bool) -> Result<(), SuspendError> {
        let asked = async {
            let mut stream = local::connect(&self.socket).await?;
            frame::write(&mut stream, &RuntimeRequest::Suspend { force }).await?;
            let reply = frame::read(&mut stream).await?;
            Ok((stream, reply))
        };
        let (mut stream, reply) = asked.await.map_err(SuspendError::Request)?;
        match reply {
            SuspendReply::Suspended => {
                // The runtime sends nothing more, and closes the connection at its end.
                let _ = stream.read_u8().await;
                Ok(())
            }
            SuspendReply::Refused(reason) => Err(SuspendError::Refused(reason)),
            SuspendReply::Failed(reason) => Err(SuspendError::Failed(reason)),
        }
    }

    /// Saves the machine, which continues with `overlay` as its disk: an empty overlay of it. Its
    /// memory is in the directory `memory` then. If the future is dropped early, nothing is saved,
    /// but the disk may be the overlay.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub async fn snapshot(&self, overlay: &Path, memory: &Path) -> Result<(), SnapshotError> {
        let request = RuntimeRequest::Snapshot {
            overlay: overlay.to_owned(),
            memory: memory.to_owned(),
        };
        let asked = async {
            let mut stream = local::connect(&self.socket).await?;
            frame::write(&mut stream, &request).await?;
            frame::read(&mut stream).await
        };
        match asked.await.map_err(SnapshotError::Request)? {
            SnapshotReply::Saved => Ok(()),
            SnapshotReply::Refused(reason) => Err(SnapshotError::Refused(reason)),
            SnapshotReply::Failed(reason) => Err(SnapshotError::Failed(reason)),
        }
    }

    /// Shuts the machine down, and waits until its processes have ended. Init is killed after the
    /// grace period. A machine that has ended already counts as stopped.
    ///
    /// # Errors
    /// [`StopError`].
    pub async fn stop(&self, grace: Duration) -> Result<(), StopError> {
        self.order_stop(grace, false).await
    }

    /// Powers the machine off at once, and waits until its processes have ended.
    ///
    /// # Errors
    /// [`StopError`].
    pub async fn cut_power(&self) -> Result<(), StopError> {
        self.order_stop(Duration::ZERO, true).await
    }

    async fn order_stop(&self, grace: Duration, power_cut: bool) -> Result<(), StopError> {
        let Ok(mut stream) = local::connect(&self.socket).await else {
            return Ok(());
        };
        let grace_seconds = u32::try_from(grace.as_secs()).unwrap_or(u32::MAX);
        let request = RuntimeRequest::Stop {
            grace_seconds,
            power_cut,
        };
        frame::write(&mut stream, &request)
            .await
            .map_err(StopError::Request)?;
        let limit = grace + UNMOUNT_TIMEOUT;
        match timeout(limit, stream.read_u8()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StopError::TimedOut {
                timeout: limit,
                pid: self.status.pid,
            }),
        }
    }
}

fn timed_out(limit: Duration) -> String {
    format!("timed out after {} s", limit.as_secs())
}

async fn read_report(stream: &mut UnixStream) -> Result<RuntimeReport, FrameError> {
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
            phase: report.phase,
            boot: report.boot,
            pause_reason: report.pause_reason,
            unresponsive: report.unresponsive,
        }
    }
}
