//! `boot`: boots a stopped machine.

use container_api::Running;
use container_machine::MachineId;

use crate::{
    launch::{BootError, running},
    service::Service,
    stream_client::StreamClient,
};

impl Service {
    /// Boots the machine unless it is running. Concurrent requests get the same reply.
    pub(crate) async fn boot(
        &self,
        id: &MachineId,
        client: &StreamClient,
    ) -> Result<Running, BootError> {
        let bundle = self.bundles.get(id)?;
        // The usual case, which needs no lock.
        if let Some(runtime) = self.runtime(id).await?
            && runtime.status().has_booted()
        {
            return running(&bundle, &runtime);
        }
        let _lock = self.locks.lock_for(client, id).await;
        // The previous holder of the lock may have deleted the machine.
        let bundle = self.bundles.get(id)?;
        self.boot_locked(id, &bundle, client).await
    }
}
