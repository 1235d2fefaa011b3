//! `export`: writes a machine to an archive, which is the body of the reply.

use std::path::{Path, PathBuf};

use axum::body::Body;
use container_api::{ExportRequest, FailureKind};
use container_engine::disk::{self, DiskError};
use container_image::{
    ArchiveFormat, ImageArchive, ImageError, ImageToSave, SaveError, StoreError,
};
use container_machine::{
    Bundle, BundleError, DiskFile, MachineConfiguration, MachineId, NewBundle, Snapshot,
};

use super::{
    layers::{LayerError, layers_below, merge_unnamed},
    snapshots::remove_expired,
};
use crate::{
    archive_stream::archive_body,
    failure::RequestError,
    images::image_of,
    machine_archive::{Description, DiskLayer, MachineArchive},
    runtime::RuntimeError,
    service::Service,
};

/// A machine cannot be exported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("cannot read the set-up script of machine {id:?}: {cause}")]
    SetupScript {
        id: MachineId,
        cause: std::io::Error,
    },
}

impl RequestError for ExportError {
    fn kind(&self) -> FailureKind {
        match self {
            ExportError::Bundle(error) => error.kind(),
            ExportError::Layer(error) => error.kind(),
            ExportError::Runtime(error) => error.kind(),
            ExportError::Image(error) => error.kind(),
            ExportError::Disk(_) | ExportError::Store(_) | ExportError::SetupScript { .. } => {
                FailureKind::Failed
            }
        }
    }
}

impl Service {
    /// Returns the archive of a machine, which may be running. The archive has the disk as it is
    /// now, whatever the machine does while the archive is written. An error after the first byte
    /// is sent in the trailer [`FAILURE_TRAILER`](container_api::FAILURE_TRAILER).
    pub(crate) async fn export(
        &self,
        id: &MachineId,
        request: &ExportRequest,
    ) -> Result<Body, ExportError> {
        let images = self.images.lock_shared().await?;
        let _lock = self.locks.lock(id).await;
        let bundle = self.bundles.get(id)?;
        remove_expired(&bundle)?;
        if self.booted_runtime(id).await?.is_none() && !bundle.is_suspended() {
            // Otherwise every export would add a layer.
            merge_unnamed(&bundle).await?;
        }
        let machine = bundle.configuration()?;
        let disk = self.layer_of_disk(id, &bundle).await?;
        let mut description = Description::new(machine, bundle.boot_configuration()?, disk);
        if request.snapshots {
            // Memory does not fit another host.
            let snapshots = bundle.snapshots()?.into_iter();
            description.snapshots = snapshots
                .map(|it| Snapshot { memory: None, ..it })
                .collect();
        }
        let base;
        (description.layers, base) = layers_and_base(&bundle, &description, &self.images.bases())?;
        let setup_script = bundle.setup_script().map(std::fs::read).transpose();
        let setup_script = setup_script.map_err(|cause| ExportError::SetupScript {
            id: id.clone(),
            cause,
        })?;
        let image = self.image_to_export(&description.machine)?;
        description.is_provisioned = bundle.is_provisioned();
        description.has_setup_script = setup_script.is_some();
        description.has_base = base.is_some();
        description.has_image = image.is_some();
        let archive = MachineArchive {
            layers: self.keep_layers(id, &description)?,
            description,
            setup_script,
            base,
            image,
            images,
        };
        Ok(archive_body(|to| archive.write(to)))
    }

    /// Links the layers, so that they remain until the archive is written.
    fn keep_layers(
        &self,
        id: &MachineId,
        description: &Description,
    ) -> Result<NewBundle, BundleError> {
        let files = description.layers.iter().map(|layer| layer.file.clone());
        let files: Vec<DiskFile> = files.collect();
        self.bundles.link_disk_files(id, &files)
    }

    /// Returns the archive of the machine's image; `None` if it is not complete in the store.
    fn image_to_export(
        &self,
        machine: &MachineConfiguration,
    ) -> Result<Option<ImageArchive>, ExportError> {
        let Some(descriptor) = image_of(machine) else {
            return Ok(None);
        };
        let stored = self.images.images(std::slice::from_ref(&descriptor))?;
        let image = stored
            .iter()
            .find(|it| it.descriptor.digest == descriptor.digest);
        let Some(image) = image else {
            return Ok(None);
        };
        // Without references: on the other host, they may refer to other images.
        let references = Vec::new();
        let to_save = [ImageToSave { image, references }];
        match self
            .images
            .prepare_archive(&to_save, ArchiveFormat::Oci, None)
        {
            Ok(archive) => Ok(Some(archive)),
            Err(SaveError::NotStored { .. }) => Ok(None),
            Err(error) => Err(ImageError::from(error).into()),
        }
    }
}

/// Returns the layers that disk and snapshots consist of, each after the one that it is on, and the
/// base that they are on.
fn layers_and_base(
    bundle: &Bundle,
    description: &Description,
    bases: &Path,
) -> Result<(Vec<DiskLayer>, Option<PathBuf>), ExportError> {
    let mut layers: Vec<DiskLayer> = Vec::new();
    let snapshots = description.snapshots.iter().map(|snapshot| &snapshot.layer);
    for top in snapshots.chain([&description.disk]) {
        let mut chain = layers_below(bundle, top)?;
        chain.insert(0, top.clone());
        let mut on = None;
        for file in chain.into_iter().rev() {
            if !layers.iter().any(|layer| layer.file == file) {
                let file = file.clone();
                layers.push(DiskLayer { file, on });
            }
            on = Some(file);
        }
    }
    let base = disk::find_base(&bundle.disk_file(&description.disk), bases)?;
    Ok((layers, base))
}
