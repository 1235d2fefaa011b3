//! `stop`: stops a running machine.

use container_machine::MachineId;

use crate::{runtime::RuntimeError, service::Service};

impl Service {
    /// Stops the machine in an orderly way, also while it boots: the request that boots it fails. A
    /// stopped machine is left as it is.
    pub(crate) async fn stop(&self, id: &MachineId) -> Result<(), RuntimeError> {
        self.bundles.get(id)?;
        self.stop_runtime(id).await?;
        // A request that began to boot the machine may not have had a runtime yet. It holds the
        // lock until it has booted it.
        let _lock = self.locks.lock(id).await;
        self.stop_runtime(id).await
    }
}
