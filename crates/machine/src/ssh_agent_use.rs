//! When machines may use the caller's SSH agent.

use serde::{Deserialize, Serialize};

/// When machines may use the SSH agent of a client on the host, with which they can log in wherever
/// its keys allow it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SshAgentUse {
    /// Only for a command that is started with `--ssh-agent`.
    Never,
    /// As long as a client with an agent has a command in the machine.
    #[default]
    Run,
    /// From the first command of a client with an agent until the machine stops.
    Always,
}
