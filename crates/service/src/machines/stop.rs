//! `stop`, `kill`: stop a running machine.

use std::time::Duration;

use container_api::{FailureKind, StopRequest};
use container_machine::{BundleError, MachineId};

use crate::{
    failure::RequestError,
    runtime::{RuntimeError, Shutdown},
    service::Service,
};

/// A machine cannot be stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StopError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(
        "machine {0:?} is suspended, and stopping it would lose what its programs have not written \
         to files (resume it first with: container machine start {0}, or give its memory up with: \
         container machine stop --force {0})"
    )]
    Suspended(MachineId),
    #[error(
        "machine {id:?} is paused, because the host cannot write its disk ({reason}), and stopping \
         it would lose what it has not written (free space, and it continues; or give that up \
         with: container machine stop --force {id})"
    )]
    Paused { id: MachineId, reason: String },
    #[error("cannot remove the saved memory of machine {id:?}: {cause}")]
    Discard {
        id: MachineId,
        cause: std::io::Error,
    },
}

impl RequestError for StopError {
    fn kind(&self) -> FailureKind {
        match self {
            StopError::Bundle(error) => error.kind(),
            StopError::Runtime(error) => error.kind(),
            StopError::Suspended(_) | StopError::Paused { .. } => FailureKind::WouldLose,
            StopError::Discard { .. } => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Stops the machine in an orderly way, also while it boots: the request that boots it fails. A
    /// stopped machine is left as it is. The memory of a suspended or paused one is only given up
    /// with `force`. With `power_cut`, a running machine is powered off at once.
    pub(crate) async fn stop(
        &self,
        id: &MachineId,
        request: &StopRequest,
    ) -> Result<(), StopError> {
        let bundle = self.bundles.get(id)?;
        let shutdown = match request.grace_seconds {
            _ if request.power_cut => Shutdown::PowerCut,
            Some(seconds) => Shutdown::InOrder {
                grace: Duration::from_secs(seconds.into()),
            },
            None => Shutdown::default(),
        };
        if !(request.force || request.power_cut)
            && let Some(runtime) = self.runtime(id).await?
            && let Some(reason) = &runtime.status().pause_reason
        {
            let (id, reason) = (id.clone(), reason.clone());
            return Err(StopError::Paused { id, reason });
        }
        self.stop_runtime_as(id, shutdown).await?;
        // A request that began to boot the machine may not have had a runtime yet. It holds the
        // lock until it has booted it.
        let _lock = self.locks.lock(id).await;
        self.stop_runtime_as(id, shutdown).await?;
        if !bundle.is_suspended() || request.power_cut {
            return Ok(());
        }
        if !request.force {
            return Err(StopError::Suspended(id.clone()));
        }
        let discarded = container_runtime::discard(&bundle.suspended());
        discarded.map_err(|cause| StopError::Discard {
            id: id.clone(),
            cause,
        })?;
        let runtime_directory = self.runtime_directory(id, &bundle)?;
        container_runtime::end_stand_in(&runtime_directory).await;
        Ok(())
    }
}
