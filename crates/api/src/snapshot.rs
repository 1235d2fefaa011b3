//! Snapshots and clones: requests and replies.

use container_machine::{MachineId, SnapshotName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Request for a new machine with the disk and the settings of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneRequest {
    /// Id of the new machine. It must not be in use.
    pub to: MachineId,
    /// Snapshot with the disk's contents; the current ones if absent.
    pub snapshot: Option<SnapshotName>,
}

/// Request for a snapshot of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRequest {
    /// Name of the snapshot. The machine must not have one of this name.
    pub name: SnapshotName,
    /// Time from which the snapshot may be removed; absent to keep it.
    pub expires: Option<Timestamp>,
    /// Whether the memory of a machine that runs or is suspended is left out.
    #[serde(default)]
    pub disk_only: bool,
}

/// Request to restore a machine that does not run from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreRequest {
    /// Name of the snapshot.
    pub name: SnapshotName,
    /// Whether changes that are in no snapshot are given up. Otherwise the request fails with
    /// [`FailureKind::WouldLose`](crate::FailureKind::WouldLose) if there are any.
    pub force: bool,
    /// Whether the snapshot's memory is left out. The machine is stopped then, and not suspended.
    #[serde(default)]
    pub disk_only: bool,
}

/// Request to remove a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveSnapshotRequest {
    /// Name of the snapshot.
    pub name: SnapshotName,
}

/// Snapshots of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshots {
    /// The snapshots, the oldest first.
    pub snapshots: Vec<SnapshotState>,
}

/// A snapshot. The fields are in alphabetical order; absent ones are omitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotState {
    /// Time of creation.
    pub created_date: Timestamp,
    /// Time from which it may be removed; absent if it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_date: Option<Timestamp>,
    /// Size in bytes of the memory on the host; absent if only the disk was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_size: Option<u64>,
    /// Name.
    pub name: SnapshotName,
    /// Size in bytes on the host of the memory, and of what was written to the disk since the
    /// snapshot or clone before.
    pub size: u64,
}
