//! `ports`: addresses at which the ports of a running machine can be reached.

use container_api::{FailureKind, Ports};
use container_machine::{BundleError, MachineId};
use container_runtime::FindError;

use crate::{failure::RequestError, runtime::RuntimeError, service::Service};

/// The ports of a machine cannot be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortsError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("machine {0:?} is not running (start it with: container machine start {0})")]
    NotRunning(MachineId),
    #[error(transparent)]
    Ports(#[from] FindError),
}

impl RequestError for PortsError {
    fn kind(&self) -> FailureKind {
        match self {
            PortsError::Bundle(error) => error.kind(),
            PortsError::Runtime(error) => error.kind(),
            PortsError::NotRunning(_) => FailureKind::Invalid,
            PortsError::Ports(_) => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Returns the ports of a running machine.
    pub(crate) async fn ports(&self, id: &MachineId) -> Result<Ports, PortsError> {
        self.bundles.get(id)?;
        match self.runtime(id).await? {
            Some(runtime) => Ok(Ports {
                // A runtime of an older build has no rules, and blocks nothing.
                blocked: runtime.blocked().await.unwrap_or_default(),
                ports: runtime.ports().await?,
            }),
            None => Err(PortsError::NotRunning(id.clone())),
        }
    }
}
