//! `inspect` and `list`: the state of machines, read from bundles and runtimes for each request.

use container_api::{MachineState, Machines, Status};
use container_machine::{Bundle, BundleError, MachineId};
use container_protocol::local::MachinePhase;
use container_runtime::Runtime;

use crate::{
    forwarded_sockets::resolve_sockets, runtime::RuntimeError, service::Service,
    timestamp::whole_seconds,
};

impl Service {
    /// Returns the state of one machine.
    pub(crate) async fn state(&self, id: &MachineId) -> Result<MachineState, RuntimeError> {
        self.state_of(id, &self.bundles.get(id)?).await
    }

    /// Returns the state of all machines ordered by id, and a message for each that cannot be read.
    pub(crate) async fn states(&self) -> Result<Machines, BundleError> {
        let mut all = Machines::default();
        for id in self.bundles.ids()? {
            match self.state(&id).await {
                Ok(state) => all.machines.push(state),
                // Removed after the list was read.
                Err(RuntimeError::Bundle(BundleError::NotFound(_))) => {}
                Err(error) => all.broken.push(format!("machine {id:?}: {error}")),
            }
        }
        Ok(all)
    }

    async fn state_of(
        &self,
        id: &MachineId,
        bundle: &Bundle,
    ) -> Result<MachineState, RuntimeError> {
        let (machine, boot) = (bundle.configuration()?, bundle.boot_configuration()?);
        let runtime = self.runtime(id).await?;
        let runtime = runtime.as_ref().map(Runtime::status);
        let is_suspended = runtime.is_none() && bundle.is_suspended();
        let ip_address = match runtime {
            Some(status) => status.ip_address,
            // Its ports may be held.
            None if is_suspended => Some(self.bundles.address(id)?.host()),
            None => None,
        };
        Ok(MachineState {
            allow: boot.allow,
            boot: runtime.and_then(|status| status.boot.clone()),
            container_id: runtime.map(|status| status.container_id.clone()),
            cpus: boot.cpus,
            created_date: machine.created_date,
            default: self.bundles.default_machine()?.as_ref() == Some(id),
            disk_capacity: boot.disk_capacity,
            disk_size: bundle.disk_size()?,
            egress: boot.egress,
            home_mount: boot.home_mount,
            id: machine.id,
            idle_suspend: boot.idle_suspend,
            image: machine.image,
            isolated: boot.isolated,
            init: runtime.and_then(|status| status.init().map(ToString::to_string)),
            ip_address,
            kernel: boot.kernel,
            kernel_args: boot.kernel_args,
            memory: boot.memory,
            mounts: boot.mounts,
            pause_reason: runtime.and_then(|status| status.pause_reason.clone()),
            platform: machine.platform,
            private_home: boot.private_home,
            publish: boot.publish,
            sockets: resolve_sockets(&boot.sockets, &self.runtime_directory(id, bundle)?).0,
            started_date: runtime.map(|status| whole_seconds(status.started)),
            status: match runtime {
                Some(status) if status.pause_reason.is_some() => Status::Paused,
                Some(status) if status.unresponsive => Status::Unresponsive,
                Some(status) if status.has_booted() => Status::Running,
                Some(status) if status.phase == MachinePhase::Suspending => Status::Running,
                Some(_) => Status::Starting,
                None if is_suspended => Status::Suspended,
                None => Status::Stopped,
            },
            user_setup: machine.user_setup,
            virtualization: boot.virtualization,
        })
    }
}
