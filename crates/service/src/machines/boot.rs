//! `boot`: boots a stopped machine.

use container_api::{BootRequest, Running};
use container_machine::MachineId;
use container_protocol::InitProgram;
use container_runtime::Runtime;

use crate::{
    launch::{BootError, note_state},
    service::Service,
    stream_client::StreamClient,
};

impl Service {
    /// Boots the machine unless it is running. Concurrent requests get the same reply.
    pub(crate) async fn boot(
        &self,
        id: &MachineId,
        request: &BootRequest,
        client: &StreamClient,
    ) -> Result<Running, BootError> {
        let bundle = self.bundles.get(id)?;
        // The usual case, which needs no lock.
        if let Some(runtime) = self.runtime(id).await?
            && runtime.status().has_booted()
        {
            check_mode(id, request, &runtime)?;
            note_state(id, &runtime, request, client);
            return self.running(&bundle, &runtime, client);
        }
        let _lock = self.locks.lock_for(client, id).await;
        // The previous holder of the lock may have deleted the machine.
        let bundle = self.bundles.get(id)?;
        if let Some(runtime) = self.booted_runtime(id).await? {
            check_mode(id, request, &runtime)?;
        }
        self.boot_locked(id, &bundle, request, client).await
    }
}

/// Refuses a rescue of a machine that runs its own init.
fn check_mode(id: &MachineId, request: &BootRequest, runtime: &Runtime) -> Result<(), BootError> {
    if request.rescue && runtime.status().init() != Some(&InitProgram::Rescue) {
        return Err(BootError::Running(id.clone()));
    }
    Ok(())
}
