//! `df` and `prune` of everything that the program stores.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use container_api::{DiskUsage, FailureKind, Freed, PruneRequest, Status, Usage, UsageKind};
use container_image::StoreError;
use container_kernel::{Kernels, KernelsError};
use container_machine::BundleError;
use container_runtime::{remove_templates, template_usage};

use crate::{
    failure::RequestError,
    images::{InventoryError, RemoveImagesError},
    service::Service,
    stream_client::StreamClient,
};

/// The disk usage cannot be determined, or unused data cannot be removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskUsageError {
    #[error(transparent)]
    Inventory(#[from] InventoryError),
    #[error(transparent)]
    Remove(#[from] RemoveImagesError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Kernels(#[from] KernelsError),
    #[error("cannot read {path}: {cause}")]
    Read { path: PathBuf, cause: io::Error },
}

impl RequestError for DiskUsageError {
    fn kind(&self) -> FailureKind {
        match self {
            DiskUsageError::Inventory(error) => error.kind(),
            DiskUsageError::Remove(error) => error.kind(),
            DiskUsageError::Bundle(error) => error.kind(),
            DiskUsageError::Store(_) | DiskUsageError::Kernels(_) | DiskUsageError::Read { .. } => {
                FailureKind::Failed
            }
        }
    }
}

fn cannot_read(path: &Path) -> impl FnOnce(io::Error) -> DiskUsageError {
    move |cause| DiskUsageError::Read {
        path: path.to_owned(),
        cause,
    }
}

impl Service {
    /// Returns the disk usage of everything that is stored.
    pub(crate) async fn disk_usage(&self) -> Result<DiskUsage, DiskUsageError> {
        let inventory = self.inventory()?;
        let store = self.images.usage(&inventory.uses.roots())?;
        let images = &inventory.images;
        let used = images
            .iter()
            .filter(|image| !inventory.machines_of(image).is_empty());
        let images = Usage {
            kind: UsageKind::Images,
            count: images.len(),
            in_use: used.count(),
            size: store.blobs,
            reclaimable: store.unused_blobs,
        };
        let bases = Usage {
            kind: UsageKind::BaseImages,
            count: store.bases,
            in_use: store.used_bases,
            size: store.bases_size,
            reclaimable: store.unused_bases_size,
        };
        let usage = vec![
            images,
            bases,
            self.usage_of_machines().await?,
            self.usage_of_templates()?,
            self.usage_of_kernels()?,
        ];
        Ok(DiskUsage { usage })
    }

    async fn usage_of_machines(&self) -> Result<Usage, DiskUsageError> {
        let all = self.states().await?;
        let running = all.machines.iter().filter(|it| {
            matches!(
                it.status,
                Status::Running | Status::Paused | Status::Unresponsive
            )
        });
        Ok(Usage {
            kind: UsageKind::Machines,
            count: all.machines.len() + all.broken.len(),
            in_use: running.count(),
            size: tree_size(self.bundles.directory())?,
            reclaimable: 0,
        })
    }

    fn usage_of_templates(&self) -> Result<Usage, DiskUsageError> {
        let directory = self.directories.templates();
        let templates = template_usage(&directory).map_err(cannot_read(&directory))?;
        Ok(Usage {
            kind: UsageKind::Templates,
            count: templates.count,
            in_use: templates.current,
            size: templates.size,
            reclaimable: templates.size,
        })
    }

    fn usage_of_kernels(&self) -> Result<Usage, DiskUsageError> {
        let directory = self.directories.kernels();
        let kernels = Kernels::new(Vec::new(), directory.clone());
        let default = kernels.default_kernel().ok();
        Ok(Usage {
            kind: UsageKind::Kernels,
            count: kernels.all()?.len(),
            in_use: usize::from(default.is_some()),
            size: tree_size(&directory)?,
            reclaimable: 0,
        })
    }

    /// Removes what [`prune_images`](Self::prune_images) removes, and templates that no machine can
    /// start from any more; with `all` every template.
    pub(crate) async fn prune(
        &self,
        request: &PruneRequest,
        client: &StreamClient,
    ) -> Result<Freed, DiskUsageError> {
        let mut freed = self.prune_images(request, client).await?;
        let directory = self.directories.templates();
        let templates =
            remove_templates(&directory, request.all).map_err(cannot_read(&directory))?;
        freed.templates = templates.count;
        freed.bytes += templates.bytes;
        Ok(freed)
    }
}

/// Returns the disk usage in bytes of all files below a directory, each hard link counted once; 0
/// if the directory does not exist.
pub(crate) fn tree_size(directory: &Path) -> Result<u64, DiskUsageError> {
    let (mut pending, mut seen, mut size) = (vec![directory.to_owned()], HashSet::new(), 0);
    while let Some(directory) = pending.pop() {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(cannot_read(&directory))?,
        };
        for entry in entries {
            let entry = entry.map_err(cannot_read(&directory))?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata.map_err(cannot_read(&entry.path()))?,
            };
            if metadata.is_dir() {
                pending.push(entry.path());
            } else if seen.insert((metadata.dev(), metadata.ino())) {
                // `st_blocks` counts 512-byte units whatever the file system's block size is.
                size += metadata.blocks() * 512;
            }
        }
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_are_counted_once() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("below");
        assert_eq!(tree_size(&below).unwrap(), 0);
        fs::create_dir(&below).unwrap();
        fs::write(below.join("file"), vec![1; 8192]).unwrap();
        let size = tree_size(root.path()).unwrap();
        assert!(size >= 8192);
        fs::hard_link(below.join("file"), root.path().join("link")).unwrap();
        assert_eq!(tree_size(root.path()).unwrap(), size);
    }
}
