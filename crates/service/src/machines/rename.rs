//! `rename`: gives a stopped machine another name.

use container_api::FailureKind;
use container_image::StoreError;
use container_machine::{BundleError, MachineId};

use crate::{failure::RequestError, runtime::RuntimeError, service::Service};

/// A machine cannot be renamed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenameError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("machine {0:?} is running (stop it first with: container machine stop {0})")]
    Running(MachineId),
    #[error(
        "machine {0:?} is suspended (resume it with: container machine start {0}, and stop it)"
    )]
    Suspended(MachineId),
}

impl RequestError for RenameError {
    fn kind(&self) -> FailureKind {
        match self {
            RenameError::Bundle(error) => error.kind(),
            RenameError::Runtime(error) => error.kind(),
            RenameError::Running(_) | RenameError::Suspended(_) => FailureKind::Invalid,
            RenameError::Store(_) => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Renames the machine, with its disk, logs and address.
    pub(crate) async fn rename(&self, id: &MachineId, new: &MachineId) -> Result<(), RenameError> {
        let _locks = self.locks.lock_both(id, new).await;
        let bundle = self.bundles.get(id)?;
        let runtime_directory = self.runtime_directory(id, &bundle)?;
        if self.runtime(id).await?.is_some() {
            return Err(RenameError::Running(id.clone()));
        }
        // It knows its name.
        if bundle.is_suspended() {
            return Err(RenameError::Suspended(id.clone()));
        }
        // Excludes a removal of images, which could list the machines just when this one has
        // neither name, and remove its image.
        let _guard = self.images.lock_shared().await?;
        self.bundles.rename(id, new)?;
        // Nothing in it is needed, so an error is ignored.
        let _ = std::fs::remove_dir_all(runtime_directory);
        Ok(())
    }
}
