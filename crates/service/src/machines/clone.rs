//! `clone`: a new machine with the disk and the settings of another.

use container_api::{CloneRequest, FailureKind};
use container_engine::disk::{self, DiskError};
use container_image::StoreError;
use container_machine::{
    BootConfiguration, BundleError, DiskFile, MachineConfiguration, MachineId,
};
use jiff::Timestamp;

use super::{
    layers::{LayerError, layers_below},
    snapshots::{SnapshotError, find_snapshot},
};
use crate::{failure::RequestError, service::Service, timestamp::whole_seconds};

/// A machine cannot be cloned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloneError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot read the set-up script of machine {id:?}: {cause}")]
    SetupScript {
        id: MachineId,
        cause: std::io::Error,
    },
}

impl RequestError for CloneError {
    fn kind(&self) -> FailureKind {
        match self {
            CloneError::Bundle(error) => error.kind(),
            CloneError::Layer(error) => error.kind(),
            CloneError::Snapshot(error) => error.kind(),
            CloneError::Disk(_) | CloneError::Store(_) | CloneError::SetupScript { .. } => {
                FailureKind::Failed
            }
        }
    }
}

impl Service {
    /// Creates a machine with the disk and the settings of machine `id`, which may be running. They
    /// share the contents until one of them changes its own, and either can be deleted. The new
    /// machine gets ids and keys of its own at its first boot. It publishes no ports, forwards
    /// no sockets and mounts no directories.
    pub(crate) async fn clone_machine(
        &self,
        id: &MachineId,
        request: &CloneRequest,
    ) -> Result<(), CloneError> {
        let to = &request.to;
        let _locks = self.locks.lock_both(id, to).await;
        let source = self.bundles.get(id)?;
        self.bundles.ensure_free(to)?;
        // Held until the new bundle exists: from then on it is a use of the image and its base.
        let _guard = self.images.lock_shared().await?;
        let (layer, is_provisioned) = match &request.snapshot {
            Some(name) => {
                let snapshot = find_snapshot(id, &source, name)?;
                (snapshot.layer, snapshot.is_provisioned)
            }
            None => (
                self.layer_of_disk(id, &source).await?,
                source.is_provisioned(),
            ),
        };
        let new = self.bundles.begin(to)?;
        let mut layers = layers_below(&source, &layer)?;
        layers.push(layer.clone());
        new.share_disk_files(&source, &layers)?;
        let overlay = DiskFile::random();
        let capacity = disk::read_capacity(&source.disk_file(&layer))?;
        disk::create_on_layer(layer.as_str(), &new.disk_file(&overlay), capacity)?;
        new.use_disk_file(&overlay)?;
        if let Some(script) = source.setup_script() {
            let script = std::fs::read(script).map_err(|cause| CloneError::SetupScript {
                id: id.clone(),
                cause,
            })?;
            new.set_setup_script(&script)?;
        }
        if is_provisioned {
            new.set_cloned()?;
        }
        let configuration = MachineConfiguration {
            created_date: whole_seconds(Timestamp::now()),
            id: to.clone(),
            ..source.configuration()?
        };
        let boot = BootConfiguration {
            mounts: Vec::new(),
            publish: Vec::new(),
            sockets: Vec::new(),
            ..source.boot_configuration()?
        };
        new.finish(&configuration, &boot)?;
        Ok(())
    }
}
