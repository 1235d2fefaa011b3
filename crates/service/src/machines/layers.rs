//! The layers of a machine's disk: what it was at the time of a snapshot or a clone.

use std::{collections::HashSet, path::Path};

use container_api::FailureKind;
use container_engine::disk::{self, Backing, DiskError};
use container_machine::{Bundle, BundleError, DiskFile, MachineId};
use tokio::task::spawn_blocking;

use crate::{
    failure::{RequestError, TaskPanicked},
    runtime::RuntimeError,
    service::Service,
};

/// A layer cannot be created or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(
        "machine {0:?} was started by a version of this program without snapshots (restart it \
         with: container machine restart {0})"
    )]
    OldDisk(MachineId),
    #[error("cannot keep the current contents of the disk of machine {id:?}: {cause}")]
    Running {
        id: MachineId,
        cause: container_runtime::LayerError,
    },
    #[error(transparent)]
    TaskPanicked(#[from] TaskPanicked),
}

impl RequestError for LayerError {
    fn kind(&self) -> FailureKind {
        match self {
            LayerError::Bundle(error) => error.kind(),
            LayerError::Runtime(error) => error.kind(),
            LayerError::OldDisk(_) => FailureKind::Invalid,
            LayerError::Disk(_) | LayerError::Running { .. } | LayerError::TaskPanicked(_) => {
                FailureKind::Failed
            }
        }
    }
}

impl Service {
    /// Returns a layer with the current contents of a machine's disk. The caller holds the
    /// machine's lock.
    ///
    /// The disk's file becomes the layer, and an empty overlay of it the disk, so this takes the
    /// same time for every size. A crash at any moment loses nothing: the overlay becomes the disk
    /// before the engine writes to it, and while the engine still writes to the layer, the disk is
    /// on what it writes.
    pub(super) async fn layer_of_disk(
        &self,
        id: &MachineId,
        bundle: &Bundle,
    ) -> Result<DiskFile, LayerError> {
        let runtime = self.booted_runtime(id).await?;
        if runtime.is_some() && bundle.has_old_disk() {
            return Err(LayerError::OldDisk(id.clone()));
        }
        let layer = bundle.current_disk_file()?;
        if runtime.is_none()
            && let Some(below) = layer_below(bundle)?
            && disk::is_unwritten(&bundle.disk())?
        {
            return Ok(below);
        }
        // What a snapshot that failed or was killed has left.
        remove_unused(bundle)?;
        let overlay = create_on_layer(bundle, &layer, &bundle.disk())?;
        let Some(runtime) = runtime else {
            bundle.use_disk_file(&overlay)?;
            return Ok(layer);
        };
        let failed = |cause| LayerError::Running {
            id: id.clone(),
            cause,
        };
        let frozen = runtime.freeze_disk().await.map_err(&failed)?;
        bundle.use_disk_file(&overlay)?;
        let put = runtime.put_overlay(&bundle.disk_file(&overlay)).await;
        drop(frozen);
        if let Err(container_runtime::LayerError::Refused(_)) = put {
            take_back(bundle, &layer, &overlay)?;
        }
        put.map_err(failed)?;
        Ok(layer)
    }
}

/// Makes a layer the disk again, because the engine did not change to its overlay.
pub(super) fn take_back(
    bundle: &Bundle,
    layer: &DiskFile,
    overlay: &DiskFile,
) -> Result<(), BundleError> {
    bundle.use_disk_file(layer)?;
    bundle.remove_disk_file(overlay)
}

/// Creates an empty overlay of a layer, with the capacity of `like`.
pub(super) fn create_on_layer(
    bundle: &Bundle,
    layer: &DiskFile,
    like: &Path,
) -> Result<DiskFile, DiskError> {
    let overlay = DiskFile::random();
    let capacity = disk::read_capacity(like)?;
    disk::create_on_layer(layer.as_str(), &bundle.disk_file(&overlay), capacity)?;
    Ok(overlay)
}

/// Returns the layer that a machine's disk is on; absent if it is on the base image.
pub(super) fn layer_below(bundle: &Bundle) -> Result<Option<DiskFile>, LayerError> {
    let current = bundle.current_disk_file()?;
    Ok(layers_below(bundle, &current)?.into_iter().next())
}

/// Returns the layers that a file of a disk is on, from the top to the base.
pub(super) fn layers_below(bundle: &Bundle, file: &DiskFile) -> Result<Vec<DiskFile>, DiskError> {
    let layers = disk::read_layers(&bundle.disk_file(file))?;
    let names = layers
        .iter()
        .filter_map(|layer| layer.file_name()?.to_str());
    Ok(names
        .filter_map(|name| DiskFile::try_from(name.to_owned()).ok())
        .collect())
}

/// Removes the files that are neither the disk or a snapshot, nor layers of one, and the memory
/// that is of no snapshot.
pub(super) fn remove_unused(bundle: &Bundle) -> Result<(), LayerError> {
    let mut used = HashSet::new();
    let snapshots = bundle.snapshots()?.into_iter().map(|it| it.layer);
    for file in snapshots.chain([bundle.current_disk_file()?]) {
        used.extend(layers_below(bundle, &file)?);
        used.insert(file);
    }
    for file in bundle.disk_files()? {
        if !used.contains(&file) {
            bundle.remove_disk_file(&file)?;
        }
    }
    Ok(bundle.remove_unused_memory()?)
}

/// Merges the layers that are of no snapshot, and that only one file is on, into that. So blocks
/// that were overwritten since are freed. Files that a clone has too remain, as do those on which a
/// snapshot with memory is: its disk must be the file that it was saved with. The machine must be
/// stopped.
pub(super) async fn merge_unnamed(bundle: &Bundle) -> Result<(), LayerError> {
    while let Some((layer, on_top)) = find_mergeable(bundle)? {
        let on_top = bundle.disk_file(&on_top);
        spawn_blocking(move || disk::merge_layer(&on_top))
            .await
            .map_err(|_| TaskPanicked)??;
        bundle.remove_disk_file(&layer)?;
    }
    Ok(())
}

/// Returns a layer that can be merged, and the file on top of it.
fn find_mergeable(bundle: &Bundle) -> Result<Option<(DiskFile, DiskFile)>, LayerError> {
    let (snapshots, current) = (bundle.snapshots()?, bundle.current_disk_file()?);
    let files = bundle.disk_files()?;
    for layer in &files {
        let is_named = snapshots.iter().any(|it| it.layer == *layer);
        if is_named || *layer == current || bundle.shares_disk_file(layer)? {
            continue;
        }
        let below = Backing::Layer(bundle.disk_file(layer));
        let mut on_top = Vec::new();
        for file in &files {
            if disk::read_backing(&bundle.disk_file(file))? == below {
                on_top.push(file);
            }
        }
        let has_memory = |file: &DiskFile| {
            snapshots
                .iter()
                .any(|it| it.layer == *file && it.memory.is_some())
        };
        if let [on_top] = on_top[..]
            && !bundle.shares_disk_file(on_top)?
            && !has_memory(on_top)
        {
            return Ok(Some((layer.clone(), on_top.clone())));
        }
    }
    Ok(None)
}
