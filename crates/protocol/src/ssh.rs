//! The SSH server of a machine.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Server of one SSH connection, whose bytes are the command's standard input and output. `Debug`
/// does not write the keys.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SshServer {
    /// Private host key of the machine, in OpenSSH's format.
    pub host_key: String,
    /// Public keys that may log in, in the format of `authorized_keys` (sshd(8)).
    pub authorized_keys: String,
    /// Whether the machine is isolated: the client forwards neither its SSH agent nor variables.
    #[serde(default)]
    pub is_isolated: bool,
}

impl fmt::Debug for SshServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SshServer").finish_non_exhaustive()
    }
}
