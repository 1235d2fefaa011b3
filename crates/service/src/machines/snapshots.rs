//! `snapshot`: keeps states of a machine's disk and memory, and restores them.

use container_api::{FailureKind, RestoreRequest, SnapshotRequest, SnapshotState, Snapshots};
use container_engine::disk::{self, DiskError};
use container_machine::{Bundle, BundleError, MachineId, Snapshot, SnapshotName};
use jiff::Timestamp;

use super::{
    layers::{self, LayerError, create_on_layer, layer_below},
    memory::MemoryError,
};
use crate::{
    failure::RequestError, runtime::RuntimeError, service::Service, stream_client::StreamClient,
    timestamp::whole_seconds,
};

/// A snapshot cannot be created, restored or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(
        "machine {id:?} has no snapshot {name:?} (list them with: container machine snapshot ls -n {id})"
    )]
    NotFound { id: MachineId, name: SnapshotName },
    #[error(
        "machine {id:?} already has a snapshot {name:?} (remove it with: container machine snapshot rm -n {id} {name})"
    )]
    Exists { id: MachineId, name: SnapshotName },
    #[error("machine {0:?} is running (stop it first with: container machine stop {0})")]
    Running(MachineId),
    #[error(
        "machine {id:?} has changes that are in no snapshot (keep them with: container machine \
         snapshot create -n {id} NAME, or give them up with --force)"
    )]
    WouldLose { id: MachineId },
}

impl RequestError for SnapshotError {
    fn kind(&self) -> FailureKind {
        match self {
            SnapshotError::Bundle(error) => error.kind(),
            SnapshotError::Layer(error) => error.kind(),
            SnapshotError::Memory(error) => error.kind(),
            SnapshotError::Runtime(error) => error.kind(),
            SnapshotError::NotFound { .. } => FailureKind::NotFound,
            SnapshotError::Exists { .. } => FailureKind::Exists,
            SnapshotError::Running(_) => FailureKind::Invalid,
            SnapshotError::WouldLose { .. } => FailureKind::WouldLose,
            SnapshotError::Disk(_) => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Keeps the current contents of the machine's disk as a snapshot, and of its memory if it runs
    /// or is suspended. A machine that runs continues. If the client disconnects while the memory
    /// is saved, there is no snapshot.
    pub(crate) async fn create_snapshot(
        &self,
        id: &MachineId,
        request: SnapshotRequest,
        client: &StreamClient,
    ) -> Result<(), SnapshotError> {
        let _lock = self.locks.lock_for(client, id).await;
        let bundle = self.bundles.get(id)?;
        remove_expired(&bundle)?;
        let mut snapshots = bundle.snapshots()?;
        let SnapshotRequest {
            name,
            expires,
            disk_only,
        } = request;
        if snapshots.iter().any(|it| it.name == name) {
            let id = id.clone();
            return Err(SnapshotError::Exists { id, name });
        }
        let (layer, memory) = if disk_only {
            (self.layer_of_disk(id, &bundle).await?, None)
        } else {
            self.layer_and_memory(id, &bundle, client).await?
        };
        snapshots.push(Snapshot {
            layer,
            name,
            created: whole_seconds(Timestamp::now()),
            expires: expires.map(whole_seconds),
            is_provisioned: bundle.is_provisioned(),
            memory,
        });
        Ok(bundle.set_snapshots(&snapshots)?)
    }

    /// Returns the machine's snapshots.
    pub(crate) async fn snapshots(&self, id: &MachineId) -> Result<Snapshots, SnapshotError> {
        let _lock = self.locks.lock(id).await;
        let bundle = self.bundles.get(id)?;
        remove_expired(&bundle)?;
        let mut snapshots = Vec::new();
        for snapshot in bundle.snapshots()? {
            let memory = snapshot.memory.as_ref();
            let memory_size = memory.map(|it| bundle.memory_size(it)).transpose()?;
            snapshots.push(SnapshotState {
                created_date: snapshot.created,
                expires_date: snapshot.expires,
                size: bundle.disk_file_size(&snapshot.layer)? + memory_size.unwrap_or_default(),
                memory_size,
                name: snapshot.name,
            });
        }
        Ok(Snapshots { snapshots })
    }

    /// Restores the machine's disk from a snapshot, and its memory, with which it is suspended
    /// then. Changes that are in no snapshot are lost, and refused without `force`.
    pub(crate) async fn restore(
        &self,
        id: &MachineId,
        request: &RestoreRequest,
    ) -> Result<(), SnapshotError> {
        let _lock = self.locks.lock(id).await;
        let bundle = self.bundles.get(id)?;
        let snapshot = find_snapshot(id, &bundle, &request.name)?;
        if self.booted_runtime(id).await?.is_some() {
            return Err(SnapshotError::Running(id.clone()));
        }
        let memory = snapshot.memory.as_ref().filter(|_| !request.disk_only);
        if !request.force && has_unsaved_changes(&bundle)? {
            return Err(SnapshotError::WouldLose { id: id.clone() });
        }
        let layer = &snapshot.layer;
        let restored = create_on_layer(&bundle, layer, &bundle.disk_file(layer))?;
        // In this order: a crash in between may cause the user to be set up again, and never leaves
        // a machine without its user.
        if !snapshot.is_provisioned {
            bundle.set_provisioned(false)?;
        }
        match memory {
            Some(memory) => self.restore_memory(id, &bundle, memory, &restored)?,
            None if bundle.is_suspended() => {
                self.replace_memory_by_disk(id, &bundle, &restored).await?;
            }
            None => bundle.use_disk_file(&restored)?,
        }
        if snapshot.is_provisioned {
            bundle.set_provisioned(true)?;
        }
        Ok(layers::remove_unused(&bundle)?)
    }

    /// Removes a snapshot, and frees the space that only it used. While the machine runs or is
    /// suspended, blocks that were overwritten since the snapshot remain.
    pub(crate) async fn remove_snapshot(
        &self,
        id: &MachineId,
        name: &SnapshotName,
    ) -> Result<(), SnapshotError> {
        let _lock = self.locks.lock(id).await;
        self.remove_snapshot_of_locked(id, name).await
    }

    /// Removes a snapshot of a machine whose lock the caller holds.
    pub(super) async fn remove_snapshot_of_locked(
        &self,
        id: &MachineId,
        name: &SnapshotName,
    ) -> Result<(), SnapshotError> {
        let bundle = self.bundles.get(id)?;
        find_snapshot(id, &bundle, name)?;
        let mut snapshots = bundle.snapshots()?;
        snapshots.retain(|it| it.name != *name);
        let space = self.reserve.release();
        bundle.set_snapshots(&snapshots)?;
        layers::remove_unused(&bundle)?;
        drop(space);
        if self.booted_runtime(id).await?.is_none() && !bundle.is_suspended() {
            layers::merge_unnamed(&bundle).await?;
        }
        Ok(())
    }
}

/// Returns a snapshot of the machine.
pub(super) fn find_snapshot(
    id: &MachineId,
    bundle: &Bundle,
    name: &SnapshotName,
) -> Result<Snapshot, SnapshotError> {
    let snapshots = bundle.snapshots()?;
    let found = snapshots.into_iter().find(|it| it.name == *name);
    found.ok_or_else(|| SnapshotError::NotFound {
        id: id.clone(),
        name: name.clone(),
    })
}

/// Removes the snapshots whose time has come, and the layers that nothing is on any more.
pub(crate) fn remove_expired(bundle: &Bundle) -> Result<(), LayerError> {
    let now = Timestamp::now();
    let mut snapshots = bundle.snapshots()?;
    let all = snapshots.len();
    snapshots.retain(|it| it.expires.is_none_or(|expires| expires > now));
    if snapshots.len() == all {
        return Ok(());
    }
    bundle.set_snapshots(&snapshots)?;
    layers::remove_unused(bundle)
}

/// Returns whether a machine that does not run has a disk or a memory that is in none of its
/// snapshots.
fn has_unsaved_changes(bundle: &Bundle) -> Result<bool, SnapshotError> {
    let layer = layer_below(bundle)?;
    let snapshots = bundle.snapshots()?;
    let is_suspended = bundle.is_suspended();
    let has_memory_of = |snapshot: &Snapshot| {
        let memory = snapshot.memory.as_ref().map(|it| bundle.memory(it));
        memory.is_some_and(|it| container_runtime::is_same_memory(&it, &bundle.suspended()))
    };
    let is_snapshot = snapshots
        .iter()
        .any(|it| Some(&it.layer) == layer.as_ref() && (!is_suspended || has_memory_of(it)));
    Ok(!is_snapshot || !disk::is_unwritten(&bundle.disk())?)
}
