//! Checks of machines' disks.

use container_machine::SnapshotName;
use container_protocol::FileSystemState;
use serde::{Deserialize, Serialize};

/// Request to check the disk of a machine that is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckMachineRequest {
    /// Whether errors are repaired. They are only reported otherwise.
    pub repair: bool,
}

/// Reply to a [`CheckMachineRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckedMachine {
    /// State of the disk and of the file system on it.
    pub state: FileSystemState,
    /// What the programs that checked them have printed, lines.
    pub output: String,
    /// Snapshot of the disk before the repair; absent if nothing was repaired.
    pub snapshot: Option<SnapshotName>,
}
