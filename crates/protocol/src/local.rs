//! Messages between programs on the host and a machine's runtime process, over its Unix socket.
//!
//! A connection starts with one [`RuntimeRequest`] frame. After [`RuntimeRequest::Connect`] the
//! connection *is* a stream to the guest agent: the client sends a [`Port`](crate::Port) frame
//! next.
//!
//! A service also talks to runtimes that an older build of the program started, so the serialized
//! form of the messages must stay compatible.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Mode, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with},
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{UnixListener, UnixStream},
    time::sleep,
};

use crate::{
    egress::Egress, machine::InitProgram, port::Transport, published::PublishedPort,
    socket::SocketForward,
};

/// Attempts to connect to a process whose queue of connections is full, besides the last.
const BUSY_ATTEMPTS: u32 = 1000;

/// Delay between them.
const BUSY_DELAY: Duration = Duration::from_millis(20);

/// Clients of a listener that have not been accepted yet. Linux allows 4,096 (listen(2)).
const QUEUED_CLIENTS: i32 = 1024;

/// The first frame on a connection to a runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RuntimeRequest {
    /// Returns one [`RuntimeReport`].
    Report,
    /// Shuts the machine down. The runtime closes the connection when the machine's processes have
    /// ended.
    Stop {
        /// Grace period in seconds after which init is killed.
        grace_seconds: u32,
        /// Whether the machine is powered off at once, without shutting down.
        #[serde(default)]
        power_cut: bool,
    },
    /// Makes the SSH agent that listens on this socket of the host the machine's until it stops.
    /// The runtime closes the connection when this is done.
    UseSshAgent {
        /// Absolute path of the socket.
        socket: PathBuf,
    },
    /// Makes the SSH agent that listens on this socket of the host the machine's until the client
    /// closes the connection. Returns `()` in a frame.
    LendSshAgent {
        /// Absolute path of the socket.
        socket: PathBuf,
    },
    /// Returns all [`PortStatus`]es of the machine, in one frame.
    Ports,
    /// Replaces the published ports. Returns the same as `Ports`.
    Publish(Vec<PublishedPort>),
    /// Replaces the egress rules, and ends the connections that they do not allow. Returns `()` in
    /// a frame.
    SetEgress(Egress),
    /// Returns the [`Blocked`] attempts of the machine, in one frame.
    Blocked,
    /// Returns a list of [`SocketProblem`](crate::SocketProblem)s of the host, in one frame.
    SocketProblems,
    /// Replaces the forwarded sockets. Returns the same as `SocketProblems`.
    ForwardSockets(Vec<SocketForward>),
    /// Returns a list of [`MountProblem`](crate::MountProblem)s, in one frame.
    MountProblems,
    /// Replaces the directories that are mounted besides the home. Returns a
    /// [`MountReply`](crate::MountReply).
    SetMounts(Vec<MountShare>),
    /// Suspends the machine after this idle time, or not by itself. Returns `()` in a frame.
    SuspendWhenIdle {
        /// Idle time in seconds.
        after_seconds: Option<u64>,
    },
    /// Returns the notes for the user that no client has taken yet, sentences, in one frame.
    TakeNotes,
    /// Writes to another file in place of the disk's, which does not change any more. The file is
    /// an empty overlay of it. Returns an [`OverlayReply`].
    PutOverlay {
        /// Absolute path of the file.
        overlay: PathBuf,
    },
    /// Suspends the machine: saves it, and ends. Returns a [`SuspendReply`]. If the client closes
    /// the connection before, the machine continues.
    Suspend {
        /// Whether commands that run for clients are ended.
        force: bool,
    },
    /// Saves the machine, which continues. Its disk is another file afterwards, as for
    /// `PutOverlay`. Returns a [`SnapshotReply`]. If the client closes the connection before,
    /// nothing is saved.
    Snapshot {
        /// Absolute path of the file to write to.
        overlay: PathBuf,
        /// Absolute path of the directory for the memory, which does not exist yet.
        memory: PathBuf,
    },
    /// Joins this connection to a new stream to the guest agent.
    Connect,
}

/// A directory of the host that a machine mounts besides the home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountShare {
    /// Path on the host.
    pub source: PathBuf,
    /// Absolute path in the machine.
    pub target: String,
    /// Whether the machine mounts it read-only.
    pub read_only: bool,
    /// Directories that the machine sees as empty, relative to the source.
    #[serde(default)]
    pub hidden: Vec<PathBuf>,
}

/// Answer to [`RuntimeRequest::Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SnapshotReply {
    /// The machine is saved, and continues.
    Saved,
    /// The machine cannot be saved in this state; a message with the reason. Its disk is the same
    /// file.
    Refused(String),
    /// The machine could not be saved, and continues; a message with the error. Its disk may be
    /// either file.
    Failed(String),
}

/// Answer to [`RuntimeRequest::Suspend`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SuspendReply {
    /// The machine is saved. The runtime closes the connection when the machine's processes have
    /// ended.
    Suspended,
    /// The machine is running; a message with the reason why it cannot be suspended in this state.
    Refused(String),
    /// The machine is running; a message with the error.
    Failed(String),
}

/// Answer to [`RuntimeRequest::PutOverlay`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OverlayReply {
    /// The overlay is written to.
    Done,
    /// The disk is as before; a message with the reason.
    Refused(String),
    /// The disk may be either file; a message with the error.
    Failed(String),
}

/// State of a running machine, reported by its runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FlatReport", into = "FlatReport")]
pub struct RuntimeReport {
    /// Name of this boot, `<id>-<6 characters>`. A reboot from inside keeps it.
    pub container_id: String,
    /// Start of the runtime in nanoseconds since 1970 UTC.
    pub started_nanoseconds: i64,
    /// The machine's address on the host; absent without a network.
    pub ip_address: Option<Ipv4Addr>,
    /// Process id of the runtime.
    pub pid: u32,
    /// Phase of the machine.
    pub phase: MachinePhase,
    /// How the machine was booted last; absent before that, and if only its disk is read.
    pub boot: Option<BootKind>,
    /// Why the machine is paused, if the host cannot write its disk; absent otherwise.
    pub pause_reason: Option<String>,
    /// Whether the guest of a machine that is up does not answer.
    pub unresponsive: bool,
}

/// How a machine was booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum BootKind {
    /// By restoring a virtual machine that had been saved after its kernel had booted.
    Template,
    /// By booting the kernel.
    Cold {
        /// Why no template was used.
        reason: String,
    },
    /// By restoring the machine itself, which had been suspended.
    Resumed,
}

/// Phase of a running machine. A machine without a runtime is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachinePhase {
    /// The machine boots or reboots; commands are not served yet.
    Booting,
    /// The machine is set up, and commands are served.
    Up {
        /// Program that runs as the machine's init.
        init: InitProgram,
    },
    /// The machine shuts down, and its runtime ends afterwards.
    Stopping {
        /// Program that runs as the machine's init; absent if it was stopped before it had booted.
        init: Option<InitProgram>,
    },
    /// The machine is being saved; no commands are served meanwhile. Its runtime ends afterwards.
    Suspending,
    /// The machine was booted to have its disk read or checked. It never boots completely.
    ReadingDisk,
}

impl MachinePhase {
    /// Returns what runs as the machine's init; absent unless the machine has booted.
    pub fn init(&self) -> Option<&InitProgram> {
        match self {
            MachinePhase::Up { init } => Some(init),
            MachinePhase::Stopping { init } => init.as_ref(),
            MachinePhase::Booting | MachinePhase::Suspending | MachinePhase::ReadingDisk => None,
        }
    }
}

/// Serialized form of a [`RuntimeReport`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FlatReport {
    container_id: String,
    started_nanoseconds: i64,
    ip_address: Option<Ipv4Addr>,
    pid: u32,
    stopping: bool,
    reads_disk: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    suspending: bool,
    init: Option<InitProgram>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<BootKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pause_reason: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unresponsive: bool,
}

impl From<RuntimeReport> for FlatReport {
    fn from(report: RuntimeReport) -> FlatReport {
        FlatReport {
            container_id: report.container_id,
            started_nanoseconds: report.started_nanoseconds,
            ip_address: report.ip_address,
            pid: report.pid,
            stopping: matches!(report.phase, MachinePhase::Stopping { .. }),
            reads_disk: report.phase == MachinePhase::ReadingDisk,
            suspending: report.phase == MachinePhase::Suspending,
            init: report.phase.init().cloned(),
            boot: report.boot,
            pause_reason: report.pause_reason,
            unresponsive: report.unresponsive,
        }
    }
}

impl From<FlatReport> for RuntimeReport {
    fn from(flat: FlatReport) -> RuntimeReport {
        let phase = match (flat.stopping, flat.reads_disk, flat.init) {
            (true, _, init) => MachinePhase::Stopping { init },
            (false, true, _) => MachinePhase::ReadingDisk,
            (false, false, Some(init)) => MachinePhase::Up { init },
            (false, false, None) if flat.suspending => MachinePhase::Suspending,
            (false, false, None) => MachinePhase::Booting,
        };
        RuntimeReport {
            container_id: flat.container_id,
            started_nanoseconds: flat.started_nanoseconds,
            ip_address: flat.ip_address,
            pid: flat.pid,
            phase,
            boot: flat.boot,
            pause_reason: flat.pause_reason,
            unresponsive: flat.unresponsive,
        }
    }
}

/// A port of a machine, with the address on the host that leads to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// Address on the host, also if the host does not listen there because of a problem.
    pub host: SocketAddr,
    /// The machine's port.
    pub port: u16,
    /// Sentence that explains why the port cannot be reached; absent if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Name of the program in the machine that listens; absent if nothing listens, or its name is
    /// unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// Whether the user published the port. Otherwise it is forwarded while something listens.
    pub published: bool,
    /// TCP or UDP.
    pub transport: Transport,
}

/// Attempts of a machine to reach what it may not reach, since its network was started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocked {
    /// Number of all attempts.
    pub total: u64,
    /// The latest destinations, the last one first.
    pub latest: Vec<BlockedDestination>,
}

/// A destination that a machine may not reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockedDestination {
    /// Number of attempts.
    pub count: u64,
    /// Name or address, with the port if there is one.
    pub destination: String,
    /// Kind of the attempts.
    pub kind: BlockedKind,
    /// Seconds from 1970 UTC to the last attempt.
    pub last_seconds: u64,
}

/// Kind of an attempt to reach a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockedKind {
    /// A TCP connection.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// A message without ports, mostly of `ping`.
    Icmp,
    /// The lookup of a name.
    Dns,
}

/// Connects to the socket of a runtime or the service. Its path may be longer than the 107 bytes
/// that the kernel accepts.
///
/// # Errors
/// As connect(2).
pub async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let (_directory, short) = short_path(socket)?;
    for _ in 0..BUSY_ATTEMPTS {
        match UnixStream::connect(&short).await {
            // Its queue of connections is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BUSY_DELAY).await,
            connected => return connected,
        }
    }
    UnixStream::connect(short).await
}

/// Listens on a socket with mode 0600. Its path may be longer than the 107 bytes that the kernel
/// accepts.
///
/// An existing socket is replaced, so the caller must hold the lock of the process that listens
/// there.
///
/// # Errors
/// As bind(2) and listen(2), or if an existing socket cannot be removed.
pub fn listen(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_directory, short) = short_path(socket)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file is created with this mode. Another file may be at the path as soon as it exists.
    fchmod(&listener, Mode::RUSR | Mode::WUSR)?;
    bind(&listener, &SocketAddrUnix::new(&short)?)?;
    rustix::net::listen(&listener, QUEUED_CLIENTS)?;
    UnixListener::from_std(listener.into())
}

/// Returns a short path to the same socket, valid while the returned directory is open. The kernel
/// accepts at most 107 bytes (unix(7), `sun_path`).
fn short_path(socket: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidFilename));
    };
    let directory = File::open(directory)?;
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    Ok((directory, short))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_phase_keeps_its_serialized_form() {
        let init = || InitProgram::BuiltIn;
        for (phase, stopping, reads_disk, has_init) in [
            (MachinePhase::Booting, false, false, false),
            (MachinePhase::Up { init: init() }, false, false, true),
            (MachinePhase::Stopping { init: None }, true, false, false),
            (
                MachinePhase::Stopping { init: Some(init()) },
                true,
                false,
                true,
            ),
            (MachinePhase::Suspending, false, false, false),
            (MachinePhase::ReadingDisk, false, true, false),
        ] {
            let suspending = phase == MachinePhase::Suspending;
            let report = RuntimeReport {
                container_id: "dev-123456".to_owned(),
                started_nanoseconds: 7,
                ip_address: None,
                pid: 9,
                phase,
                boot: None,
                pause_reason: None,
                unresponsive: false,
            };
            let written = serde_json::to_value(&report).unwrap();
            let mut expected = json!({
                "containerId": "dev-123456",
                "startedNanoseconds": 7,
                "ipAddress": null,
                "pid": 9,
                "stopping": stopping,
                "readsDisk": reads_disk,
                "init": has_init.then_some("builtIn"),
            });
            if suspending {
                expected["suspending"] = json!(true);
            }
            assert_eq!(written, expected);
            let read: RuntimeReport = serde_json::from_value(written).unwrap();
            assert_eq!(read, report);
        }
    }

    #[tokio::test]
    async fn a_socket_path_may_exceed_the_kernels_limit() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let socket = deep.join("a.sock");
        let listener = listen(&socket).unwrap();
        let (connected, accepted) = tokio::join!(connect(&socket), listener.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        let mode = std::fs::metadata(&socket).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
        assert_eq!(
            connect(&socket).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert!(listen(&socket).is_ok());
    }
}
