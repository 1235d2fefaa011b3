//! `delete`: removes a machine and its disk.

use container_api::Deleted;
use container_machine::{BundleError, MachineId};

use crate::{runtime::RuntimeError, service::Service};

impl Service {
    /// Stops the machine if it is running, and removes it with its disk.
    pub(crate) async fn delete(&self, id: &MachineId) -> Result<Deleted, RuntimeError> {
        self.bundles.get(id)?;
        // Stopped before the lock is taken: a boot in progress holds the lock, and ends by this.
        self.stop_runtime(id).await?;
        let _lock = self.locks.lock(id).await;
        match self.remove_machine(id).await {
            // The previous holder of the lock removed it.
            Err(RuntimeError::Bundle(BundleError::NotFound(_))) => {
                Ok(Deleted { was_default: false })
            }
            removed => Ok(Deleted {
                was_default: removed?,
            }),
        }
    }
}
