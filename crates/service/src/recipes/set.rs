//! `set`: what the next boot applies.

use container_api::{BootChange, Changed};
use container_machine::{BootConfiguration, Bundle, MachineId};

use super::boot::problems;
use crate::{Service, configuration::changed, error::ServiceError, host::Host};

impl Service {
    /// Changes the machine's boot configuration, if all of the change can be applied.
    pub(crate) async fn set(
        &self,
        id: &MachineId,
        change: &BootChange,
    ) -> Result<Changed, ServiceError> {
        let _lock = self.locks.lock(id).await;
        let bundle = self.bundles.get(id)?;
        let boot = changed(bundle.boot_configuration()?, change);
        Host::of_this_process().check(&boot)?;
        check_capacity(change, &bundle)?;
        // One that has gone since must not keep anything else from being changed.
        if change.kernel.is_some() {
            check_kernel(&boot)?;
        }
        bundle.set_boot_configuration(&boot)?;
        let runtime = self.runtime(id).await?;
        // Ports are published at once.
        let problems = match (&runtime, &change.publish) {
            (Some(runtime), Some(publish)) => problems(&runtime.publish(publish.clone()).await?),
            _ => Vec::new(),
        };
        let waits = BootChange {
            publish: None,
            ..change.clone()
        } != BootChange::default();
        Ok(Changed {
            running: runtime.is_some() && waits,
            problems,
        })
    }
}

/// Refuses a disk smaller than it is.
fn check_capacity(change: &BootChange, bundle: &Bundle) -> Result<(), ServiceError> {
    let Some(asked) = change.disk_capacity else {
        return Ok(());
    };
    match container_engine::capacity_of(&bundle.disk())? {
        has if asked.bytes() < has => Err(ServiceError::Shrinks { asked, has }),
        _ => Ok(()),
    }
}

/// Refuses what could not boot: more than the host has, or a kernel that is no readable, non-empty
/// regular file.
pub(super) fn check(boot: &BootConfiguration) -> Result<(), ServiceError> {
    Host::of_this_process().check(boot)?;
    check_kernel(boot)
}

fn check_kernel(boot: &BootConfiguration) -> Result<(), ServiceError> {
    match &boot.kernel {
        Some(kernel) => Ok(container_runtime::check_kernel(kernel)?),
        None => Ok(()),
    }
}
