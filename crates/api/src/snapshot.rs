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

/// Request for a snapshot of a machine's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRequest {
    /// Name of the snapshot. The machine must not have one of this name.
    pub name: SnapshotName,
    /// Time from which the snapshot may be removed; absent to keep it.
    pub expires: Option<Timestamp>,
}

/// Request to restore a stopped machine's disk from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// Name of the snapshot.
    pub name: SnapshotName,
    /// Whether changes that are in no snapshot are given up. Otherwise the request fails with
    /// [`FailureKind::WouldLose`](crate::FailureKind::WouldLose) if there are any.
    pub force: bool,
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
    /// Name.
    pub name: SnapshotName,
    /// Size in bytes on the host of what was written since the snapshot or clone before.
    pub size: u64,
}
