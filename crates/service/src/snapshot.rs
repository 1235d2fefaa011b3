//! A machine's state, read afresh each time.

use std::path::PathBuf;

use container_api::{Machines, Ports, Snapshot, Status};
use container_machine::{Bundle, BundleError, MachineId};
use container_runtime::Runtime;

use crate::{Service, error::ServiceError};

impl Service {
    /// The state of one machine.
    pub(crate) async fn snapshot(&self, id: &MachineId) -> Result<Snapshot, ServiceError> {
        self.snapshot_of(id, &self.bundles.get(id)?).await
    }

    /// The state of all machines, by id, and why there is none of some.
    pub(crate) async fn snapshots(&self) -> Result<Machines, ServiceError> {
        let mut all = Machines::default();
        for id in self.bundles.ids()? {
            match self.snapshot(&id).await {
                Ok(snapshot) => all.machines.push(snapshot),
                // Removed meanwhile.
                Err(ServiceError::Bundle(BundleError::NotFound(_))) => {}
                Err(error) => all.broken.push(format!("machine {id}: {error}")),
            }
        }
        Ok(all)
    }

    async fn snapshot_of(&self, id: &MachineId, bundle: &Bundle) -> Result<Snapshot, ServiceError> {
        let (machine, boot) = (bundle.configuration()?, bundle.boot_configuration()?);
        let runtime = self.runtime(id).await?;
        let running = runtime.as_ref().map(Runtime::status);
        Ok(Snapshot {
            container_id: running.map(|status| status.container_id.clone()),
            cpus: boot.cpus,
            created_date: machine.created_date,
            default: self.bundles.default_machine()?.as_ref() == Some(id),
            disk_capacity: boot.disk_capacity,
            disk_size: bundle.disk_size()?,
            home_mount: boot.home_mount,
            id: machine.id,
            image: machine.image,
            init: running.and_then(|status| status.init.as_ref().map(ToString::to_string)),
            ip_address: running.and_then(|status| status.ip_address),
            kernel: boot.kernel,
            kernel_args: boot.kernel_args,
            memory: boot.memory,
            platform: machine.platform,
            publish: boot.publish,
            started_date: running.map(|status| in_seconds(status.started)),
            status: match running {
                Some(status) if status.is_up() => Status::Running,
                Some(_) => Status::Starting,
                None => Status::Stopped,
            },
            user_setup: machine.user_setup,
            virtualization: boot.virtualization,
        })
    }

    /// The ports of a machine that runs.
    pub(crate) async fn ports(&self, id: &MachineId) -> Result<Ports, ServiceError> {
        self.bundles.get(id)?;
        match self.runtime(id).await? {
            Some(runtime) => Ok(Ports {
                ports: runtime.ports().await?,
            }),
            None => Err(ServiceError::Invalid(format!(
                "the machine {id} is not running, so nothing of it is reached: `container machine start {id}` starts it"
            ))),
        }
    }

    /// The machine's runtime, if it runs.
    pub(crate) async fn runtime(&self, id: &MachineId) -> Result<Option<Runtime>, ServiceError> {
        let Ok(bundle) = self.bundles.get(id) else {
            return Ok(None);
        };
        let directory = self.runtime_directory(id, &bundle)?;
        Ok(Runtime::find(&directory, &bundle.runtime_lock()).await?)
    }

    /// Where the runtime of the machine's newest boot works, or worked; its next one's place if it
    /// never booted.
    pub(crate) fn runtime_directory(
        &self,
        id: &MachineId,
        bundle: &Bundle,
    ) -> Result<PathBuf, ServiceError> {
        let known = bundle.runtime_directory()?;
        Ok(known.unwrap_or_else(|| self.world.runtime_directory(id)))
    }
}

/// Dates are reported in whole seconds.
pub(crate) fn in_seconds(timestamp: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(timestamp.as_second()).unwrap_or(timestamp)
}
