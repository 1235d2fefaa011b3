//! What a program on the host says to a running machine's runtime process, over its Unix socket.
//!
//! A connection starts with one [`RuntimeRequest`] frame. After [`RuntimeRequest::Connect`]
//! the connection *is* a stream to the guest agent: the caller names the
//! [`Port`](crate::Port) next.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The first frame on a connection to a runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RuntimeRequest {
    /// Answered with one [`RuntimeReport`].
    Report,
    /// Stop the machine in order; answered by the end of the connection, once the machine's
    /// processes have ended.
    Stop {
        /// How long init may take before it is killed, in seconds.
        grace_seconds: u32,
    },
    /// Join this connection to a new stream to the guest agent.
    Connect,
}

/// A running machine, as its runtime knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeReport {
    /// `<id>-<6 characters>`, new at each boot.
    pub container_id: String,
    /// When this boot began, nanoseconds since 1970 UTC.
    pub started_nanoseconds: i64,
    /// The machine's address, where it has one of its own.
    pub ip_address: Option<Ipv4Addr>,
    /// The runtime's process id.
    pub pid: u32,
    /// Whether the machine is up: commands are served.
    pub up: bool,
}
