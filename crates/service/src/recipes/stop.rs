//! `stop`: from a running machine to one that is not.

use std::time::Duration;

use container_machine::MachineId;

use crate::{Service, error::ServiceError};

/// How long init may take before it is killed.
const GRACE: Duration = Duration::from_secs(60);

impl Service {
    /// Stops the machine in order; one that does not run is stopped already. One that boots
    /// is stopped too, and whoever boots it is told.
    pub(crate) async fn stop(&self, id: &MachineId) -> Result<(), ServiceError> {
        self.bundles.get(id)?;
        self.stop_running(id).await?;
        // Whoever boots it in this moment may not have a runtime yet.
        let _lock = self.locks.lock(id).await;
        self.stop_running(id).await
    }

    /// Stops the machine's runtime if there is one.
    pub(crate) async fn stop_running(&self, id: &MachineId) -> Result<(), ServiceError> {
        if let Some(runtime) = self.runtime(id).await? {
            runtime.stop(GRACE).await?;
        }
        Ok(())
    }
}
