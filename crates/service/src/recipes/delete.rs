//! `delete`: no machine any more.

use container_api::Deleted;
use container_machine::{BundleError, MachineId};

use crate::{Service, error::ServiceError};

impl Service {
    /// Stops the machine if it runs, then removes it and its disk.
    pub(crate) async fn delete(&self, id: &MachineId) -> Result<Deleted, ServiceError> {
        self.bundles.get(id)?;
        // Before the lock, which whoever boots it holds.
        self.stop_running(id).await?;
        let _lock = self.locks.lock(id).await;
        match self.remove(id).await {
            // Whoever held the lock removed it.
            Err(ServiceError::Bundle(BundleError::NotFound(_))) => {
                Ok(Deleted { was_default: false })
            }
            removed => Ok(Deleted {
                was_default: removed?,
            }),
        }
    }

    /// As [`delete`](Self::delete), for a caller that holds the machine's lock. Returns whether
    /// it was the default machine.
    pub(super) async fn remove(&self, id: &MachineId) -> Result<bool, ServiceError> {
        let bundle = self.bundles.get(id)?;
        self.stop_running(id).await?;
        // A bundle that is broken can still be removed.
        let left_over = self.runtime_directory(id, &bundle);
        let was_default = self.bundles.remove(id)?;
        // Left over from its last boot; without it nothing is missing.
        let _ = left_over.map(std::fs::remove_dir_all);
        Ok(was_default)
    }
}
