//! SSH clients of the host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Files with which `ssh` reaches the machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshClientFiles {
    /// The private key that logs in, which exists.
    pub identity: PathBuf,
    /// The machines' public host keys. A machine's is there after a request for its server.
    pub known_hosts: PathBuf,
}
