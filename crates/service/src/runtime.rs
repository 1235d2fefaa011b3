//! Finding, awaiting and stopping the runtime of a machine.

use std::{path::PathBuf, time::Duration};

use container_api::FailureKind;
use container_machine::{Bundle, BundleError, MachineId};
use container_protocol::local::MachinePhase;
use container_runtime::{FindError, Runtime, StopError};
use tokio::time::sleep;

use crate::{failure::RequestError, service::Service};

/// Time for init to stop its services before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(60);

/// Interval at which the state of a booting machine is read.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Way to stop a machine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shutdown {
    /// Init stops its services, and is killed after the grace period.
    InOrder { grace: Duration },
    /// The machine is powered off at once.
    PowerCut,
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::InOrder { grace: STOP_GRACE }
    }
}

/// The runtime of a machine cannot be found or stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error("cannot stop machine {id:?}: {cause}")]
    Stop { id: MachineId, cause: StopError },
}

impl RequestError for RuntimeError {
    fn kind(&self) -> FailureKind {
        match self {
            RuntimeError::Bundle(error) => error.kind(),
            RuntimeError::Find(_) | RuntimeError::Stop { .. } => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Returns the machine's runtime, `None` for a stopped or deleted machine.
    pub(crate) async fn runtime(&self, id: &MachineId) -> Result<Option<Runtime>, RuntimeError> {
        let Ok(bundle) = self.bundles.get(id) else {
            return Ok(None);
        };
        let directory = self.runtime_directory(id, &bundle)?;
        Ok(Runtime::find(&directory, &bundle.runtime_lock()).await?)
    }

    /// Returns the runtime directory of the machine's last boot, or that of its first boot to come.
    pub(crate) fn runtime_directory(
        &self,
        id: &MachineId,
        bundle: &Bundle,
    ) -> Result<PathBuf, BundleError> {
        let last = bundle.runtime_directory()?;
        Ok(last.unwrap_or_else(|| self.directories.runtime_directory(id)))
    }

    /// Returns the machine's runtime after the machine has booted, `None` for a stopped machine.
    /// The caller holds the machine's lock: a boot in progress was begun by a service that was
    /// killed.
    pub(crate) async fn booted_runtime(
        &self,
        id: &MachineId,
    ) -> Result<Option<Runtime>, RuntimeError> {
        loop {
            match self.runtime(id).await? {
                Some(runtime) if runtime.status().has_booted() => return Ok(Some(runtime)),
                // Left over from a commit that was killed. It holds the lock in the bundle.
                Some(runtime) if runtime.status().phase == MachinePhase::ReadingDisk => {
                    self.stop_runtime(id).await?;
                }
                Some(_) => sleep(POLL_INTERVAL).await,
                None => return Ok(None),
            }
        }
    }

    /// Stops the machine's runtime if there is one.
    pub(crate) async fn stop_runtime(&self, id: &MachineId) -> Result<(), RuntimeError> {
        self.stop_runtime_as(id, Shutdown::default()).await
    }

    /// Stops the machine's runtime, if there is one, in this way.
    pub(crate) async fn stop_runtime_as(
        &self,
        id: &MachineId,
        shutdown: Shutdown,
    ) -> Result<(), RuntimeError> {
        if let Some(runtime) = self.runtime(id).await? {
            let stopped = match shutdown {
                Shutdown::PowerCut => runtime.cut_power().await,
                // The guest of a paused machine cannot shut down.
                Shutdown::InOrder { .. } if runtime.status().pause_reason.is_some() => {
                    runtime.stop(Duration::ZERO).await
                }
                Shutdown::InOrder { grace } => runtime.stop(grace).await,
            };
            stopped.map_err(|cause| RuntimeError::Stop {
                id: id.clone(),
                cause,
            })?;
        }
        Ok(())
    }

    /// Removes a machine whose lock the caller holds, after stopping it. Returns whether it was the
    /// default machine.
    pub(crate) async fn remove_machine(&self, id: &MachineId) -> Result<bool, RuntimeError> {
        let bundle = self.bundles.get(id)?;
        self.stop_runtime(id).await?;
        // Determined before the bundle is gone; an error does not prevent the removal of a damaged
        // bundle.
        let runtime_directory = self.runtime_directory(id, &bundle);
        let _space = self.reserve.release();
        let was_default = self.bundles.remove(id)?;
        if let Ok(runtime_directory) = runtime_directory {
            container_runtime::end_stand_in(&runtime_directory).await;
            // Nothing in it is needed, so an error is ignored.
            let _ = std::fs::remove_dir_all(runtime_directory);
        }
        Ok(was_default)
    }
}
