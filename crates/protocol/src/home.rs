//! Questions of the process that serves the shared home to the agent, on [`HostPort::Home`].
//!
//! [`HostPort::Home`]: crate::HostPort::Home

use serde::{Deserialize, Serialize};

/// A question to the agent. Each is answered before the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HomeRequest {
    /// Which of these threads, which wait for a lock in the home, have received a signal? Ids are
    /// those of the agent's PID namespace.
    FindSignalled {
        /// Ids of the threads.
        threads: Vec<u32>,
    },
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HomeReply {
    /// Answer to [`HomeRequest::FindSignalled`].
    Signalled {
        /// Ids of the threads.
        threads: Vec<u32>,
    },
}
