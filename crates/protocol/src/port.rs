//! What a stream is for, said in its first frame.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One command run in the machine. Chosen at random by whoever asks for the command, so that
/// all of the command's streams can be opened without waiting for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CommandId(pub u64);

/// Where in the guest a stream that the host opens leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Port {
    /// The machine itself: its set-up, its stop. One stream in a machine's life.
    Control,
    /// What differs between the machine's disk and the image that it was made from.
    Changes,
    /// A command: the request, then its signals and its end.
    Command(CommandId),
    /// The command's standard input; the guest reads only.
    Stdin(CommandId),
    /// The command's standard output; the guest writes only.
    Stdout(CommandId),
    /// The command's standard error; the guest writes only.
    Stderr(CommandId),
    /// The command's terminal, both ways.
    Terminal(CommandId),
}

/// Where on the host a stream that the agent opens leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HostPort {
    /// What the machine's init prints: goes to the machine's stdio log.
    StdioLog,
    /// A connection to the host's SSH agent; closed at once where there is none.
    SshAgent,
    /// What in the machine listens on the network: a frame with all [`Listener`]s now, and
    /// another whenever that has changed.
    Listeners,
}

/// How a port is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A program in the machine that listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// How it is spoken to.
    pub transport: Transport,
    /// Where it listens; an unspecified address is every one of the machine's.
    pub address: SocketAddr,
    /// The program's name, if it could be found.
    pub process: Option<String>,
}

/// The socket in the machine that leads to the host's SSH agent.
pub const SSH_AUTH_SOCKET: &str = "/var/host-services/ssh-auth.sock";

/// Where in the machine the agent passes on what is for those who listen on the machine's loopback alone:
/// a port of TCP and one of UDP, which serve the gateway only. A stream, and each datagram, begins with
/// the number of the port that is meant, two bytes, the high one first. Answers come as they are.
pub const RELAY_PORT: u16 = 1;
