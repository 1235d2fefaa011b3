//! `rename`: another name for a machine that does not run.

use container_machine::MachineId;

use crate::{Service, error::ServiceError};

impl Service {
    /// Renames the machine, with all that is its own.
    pub(crate) async fn rename(&self, id: &MachineId, new: &MachineId) -> Result<(), ServiceError> {
        // In the order of their names, so that two at once never wait for each other.
        let _first = self.locks.lock(id.min(new)).await;
        let _second = match id == new {
            true => None,
            false => Some(self.locks.lock(id.max(new)).await),
        };
        let left_over = self.runtime_directory(id, &self.bundles.get(id)?)?;
        if self.runtime(id).await?.is_some() {
            return Err(ServiceError::Running(id.clone()));
        }
        // Whoever looks which images machines use must not miss this one.
        let _hold = self.images.hold().await?;
        self.bundles.rename(id, new)?;
        // Left over from its last boot; without it nothing is missing.
        let _ = std::fs::remove_dir_all(left_over);
        Ok(())
    }
}
