//! The purpose of a stream, sent as its first frame.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::socket::SocketPath;

/// Id of a command in the machine. The client chooses it at random, so that it can open all of the
/// command's streams without waiting for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CommandId(pub u64);

/// Purpose of a stream that the host opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Port {
    /// Set-up and stop of the machine. One stream per boot.
    Control,
    /// Differences between the machine's disk and its image.
    Changes,
    /// A check of the file system on the machine's disk: one
    /// [`CheckRequest`](crate::CheckRequest), and one [`CheckReply`](crate::CheckReply) at its end.
    Check,
    /// A freeze of the machine's disk: nothing is written to it from the agent's first frame, a
    /// [`FreezeReply`](crate::FreezeReply), until the host closes the stream.
    Freeze,
    /// One frame with changed [`ResolverSettings`](crate::ResolverSettings).
    Resolver,
    /// The paths of the sockets that lead from the machine to the host. They replace those of the
    /// last such stream.
    HostSockets,
    /// A change of the directories that are mounted besides the home.
    Mounts,
    /// A connection to a socket in the machine. If none is there, the agent waits until init has
    /// started its services.
    Socket,
    /// A command: the request, then signals and the exit status.
    Command(CommandId),
    /// The command's standard input; the guest only reads.
    Stdin(CommandId),
    /// The command's standard output; the guest only writes.
    Stdout(CommandId),
    /// The command's standard error; the guest only writes.
    Stderr(CommandId),
    /// The command's terminal, both directions.
    Terminal(CommandId),
}

/// Purpose of a stream that the agent opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HostPort {
    /// Output of the machine's init, for the stdio log.
    StdioLog,
    /// A connection to the host's SSH agent; closed at once if there is none.
    SshAgent,
    /// A connection to the host's socket that this path in the machine leads to; closed at once if
    /// it cannot be reached.
    Socket(SocketPath),
    /// The machine's listening sockets: a frame with all [`Listener`]s, and another after every
    /// change.
    Listeners,
    /// The process that serves the shared home: [`HomeRequest`](crate::HomeRequest) frames to the
    /// agent, [`HomeReport`](crate::HomeReport) frames from it.
    Home,
    /// The same for the process that serves the mount with this virtio-fs tag.
    Mount(String),
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    /// The Transmission Control Protocol.
    Tcp,
    /// The User Datagram Protocol.
    Udp,
}

/// A listening socket in the machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// TCP or UDP.
    pub transport: Transport,
    /// Address and port; an unspecified address stands for all of the machine's addresses.
    pub address: SocketAddr,
    /// Name of the program; absent if it could not be determined.
    pub process: Option<String>,
}

/// Path of the socket in the machine that leads to the host's SSH agent.
pub const SSH_AUTH_SOCKET: &str = "/var/host-services/ssh-auth.sock";

/// TCP and UDP port of the agent's relay, which forwards to programs that only listen on the
/// machine's loopback. It serves the gateway only. A TCP stream, and every datagram to the guest,
/// starts with the destination port as two bytes, big-endian. Answers are unchanged.
pub const RELAY_PORT: u16 = 1;
