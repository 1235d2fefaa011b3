//! `suspend`: writes a running machine, programs and all, to its bundle.

use container_api::{FailureKind, Progress, SuspendRequest};
use container_machine::{Bundle, BundleError, MachineId};
use container_runtime::SuspendError as Cause;

use crate::{
    failure::RequestError, runtime::RuntimeError, service::Service, stream_client::StreamClient,
};

/// A machine cannot be suspended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuspendError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("machine {0:?} is stopped, so it cannot be suspended")]
    Stopped(MachineId),
    #[error("cannot suspend machine {id:?}: {cause}")]
    Suspend { id: MachineId, cause: Cause },
    #[error("cancelled: the client has disconnected, and machine {0:?} continues")]
    Cancelled(MachineId),
}

impl RequestError for SuspendError {
    fn kind(&self) -> FailureKind {
        match self {
            SuspendError::Bundle(error) => error.kind(),
            SuspendError::Runtime(error) => error.kind(),
            SuspendError::Stopped(_)
            | SuspendError::Suspend {
                cause: Cause::Refused(_),
                ..
            } => FailureKind::Invalid,
            SuspendError::Suspend { .. } | SuspendError::Cancelled(_) => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Suspends the machine. A suspended machine stays so; if it was suspended because it was idle,
    /// its ports are closed, so that no use of them resumes it. If the client disconnects, the
    /// machine continues.
    pub(crate) async fn suspend(
        &self,
        id: &MachineId,
        request: &SuspendRequest,
        client: &StreamClient,
    ) -> Result<(), SuspendError> {
        let _lock = self.locks.lock_for(client, id).await;
        let bundle = self.bundles.get(id)?;
        let Some(runtime) = self.booted_runtime(id).await? else {
            return self.keep_suspended(id, &bundle).await;
        };
        client.report(Progress::step("suspending machine"));
        let suspended = tokio::select! {
            suspended = runtime.suspend(request.force) => suspended,
            () = client.disconnected() => return Err(SuspendError::Cancelled(id.clone())),
        };
        match suspended {
            // The runtime has found it idle at the same time.
            Err(Cause::Request(_)) if self.booted_runtime(id).await?.is_none() => {
                self.keep_suspended(id, &bundle).await
            }
            suspended => suspended.map_err(|cause| SuspendError::Suspend {
                id: id.clone(),
                cause,
            }),
        }
    }

    /// Closes the ports of a machine that was suspended because it was idle. Fails for one that is
    /// stopped.
    async fn keep_suspended(&self, id: &MachineId, bundle: &Bundle) -> Result<(), SuspendError> {
        if !bundle.is_suspended() {
            return Err(SuspendError::Stopped(id.clone()));
        }
        container_runtime::end_stand_in(&self.runtime_directory(id, bundle)?).await;
        Ok(())
    }
}
