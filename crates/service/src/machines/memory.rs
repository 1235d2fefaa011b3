//! The memory of snapshots: saves it, and makes it a machine's again.

use container_api::{FailureKind, Progress};
use container_machine::{Bundle, BundleError, DiskFile, MachineId, MemoryDirectory};
use container_runtime::{Runtime, SnapshotError as Cause};

use super::layers::{LayerError, create_on_layer, remove_unused, take_back};
use crate::{
    failure::RequestError, runtime::RuntimeError, service::Service, stream_client::StreamClient,
};

/// The memory of a machine cannot be kept or restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(
        "cannot save the memory of machine {id:?}: {cause} (to keep its disk alone, use \
         --disk-only)"
    )]
    Save { id: MachineId, cause: Cause },
    #[error("cancelled: the client has disconnected, and machine {0:?} continues")]
    Cancelled(MachineId),
    #[error("cannot keep the memory of the suspended machine {id:?}: {cause}")]
    Keep {
        id: MachineId,
        cause: container_runtime::MemoryError,
    },
    #[error("cannot restore the memory of machine {id:?}: {cause}")]
    Restore {
        id: MachineId,
        cause: container_runtime::MemoryError,
    },
}

impl RequestError for MemoryError {
    fn kind(&self) -> FailureKind {
        match self {
            MemoryError::Bundle(error) => error.kind(),
            MemoryError::Layer(error) => error.kind(),
            MemoryError::Runtime(error) => error.kind(),
            MemoryError::Save {
                cause: Cause::Refused(_),
                ..
            }
            | MemoryError::Restore {
                cause: container_runtime::MemoryError::Renamed(_),
                ..
            } => FailureKind::Invalid,
            MemoryError::Save { .. }
            | MemoryError::Cancelled(_)
            | MemoryError::Keep { .. }
            | MemoryError::Restore { .. } => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Returns a layer with the current contents of a machine's disk, and its memory if it has one.
    /// The caller holds the machine's lock.
    pub(super) async fn layer_and_memory(
        &self,
        id: &MachineId,
        bundle: &Bundle,
        client: &StreamClient,
    ) -> Result<(DiskFile, Option<MemoryDirectory>), MemoryError> {
        let memory = MemoryDirectory::random();
        if let Some(runtime) = self.booted_runtime(id).await? {
            client.report(Progress::step("saving memory"));
            let layer = save(id, bundle, &runtime, &memory, client).await?;
            return Ok((layer, Some(memory)));
        }
        if !bundle.is_suspended() {
            return Ok((self.layer_of_disk(id, bundle).await?, None));
        }
        let disk = bundle.disk_file(&bundle.current_disk_file()?);
        let layer = self.layer_of_disk(id, bundle).await?;
        let kept = container_runtime::keep_memory(
            &bundle.suspended(),
            &disk,
            &bundle.disk_file(&layer),
            &bundle.memory(&memory),
        );
        kept.map_err(|cause| MemoryError::Keep {
            id: id.clone(),
            cause,
        })?;
        Ok((layer, Some(memory)))
    }

    /// Suspends a machine that does not run, with the memory of a snapshot and the disk that
    /// belongs to it. A crash leaves the machine as it was, or restored.
    pub(super) fn restore_memory(
        &self,
        id: &MachineId,
        bundle: &Bundle,
        memory: &MemoryDirectory,
        disk: &DiskFile,
    ) -> Result<(), MemoryError> {
        let (memory, suspended) = (bundle.memory(memory), bundle.suspended());
        let restored = container_runtime::restore_memory(&memory, id, disk, &suspended);
        restored.map_err(|cause| MemoryError::Restore {
            id: id.clone(),
            cause,
        })?;
        bundle.current_disk_file()?;
        Ok(())
    }

    /// Gives the memory of a suspended machine up, and makes another file its disk. A crash leaves
    /// the machine as it was, or stopped with that disk.
    pub(super) async fn replace_memory_by_disk(
        &self,
        id: &MachineId,
        bundle: &Bundle,
        disk: &DiskFile,
    ) -> Result<(), MemoryError> {
        let replaced = container_runtime::replace_by_disk(&bundle.suspended(), disk);
        replaced.map_err(|cause| MemoryError::Restore {
            id: id.clone(),
            cause,
        })?;
        bundle.current_disk_file()?;
        container_runtime::end_stand_in(&self.runtime_directory(id, bundle)?).await;
        Ok(())
    }
}

/// Saves a running machine, which continues. Returns the layer with its disk. As for a snapshot of
/// the disk alone, the overlay becomes the disk before the engine writes to it.
async fn save(
    id: &MachineId,
    bundle: &Bundle,
    runtime: &Runtime,
    memory: &MemoryDirectory,
    client: &StreamClient,
) -> Result<DiskFile, MemoryError> {
    if bundle.has_old_disk() {
        return Err(LayerError::OldDisk(id.clone()).into());
    }
    let layer = bundle.current_disk_file()?;
    remove_unused(bundle)?;
    let overlay = create_on_layer(bundle, &layer, &bundle.disk()).map_err(LayerError::from)?;
    bundle.use_disk_file(&overlay)?;
    let (path, directory) = (bundle.disk_file(&overlay), bundle.memory(memory));
    let saved = tokio::select! {
        saved = runtime.snapshot(&path, &directory) => saved,
        () = client.disconnected() => return Err(MemoryError::Cancelled(id.clone())),
    };
    if let Err(Cause::Refused(_)) = saved {
        take_back(bundle, &layer, &overlay)?;
    }
    saved.map_err(|cause| MemoryError::Save {
        id: id.clone(),
        cause,
    })?;
    Ok(layer)
}
