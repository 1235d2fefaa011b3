//! `set`: what the next boot applies.

use std::{collections::HashSet, path::PathBuf};

use container_api::{BootChange, Changed};
use container_kernel::{Kernels, Needs};
use container_machine::{BootConfiguration, Bundle, HomeMount, MachineId};
use container_protocol::PublishedPort;
use container_runtime::GuestFilesError;

use super::boot::problems;
use crate::{
    Service,
    configuration::{Configuration, changed},
    error::ServiceError,
    host::Host,
};

/// Each is an open file of the runtime's.
const MOST_PUBLISHED: usize = 1024;

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
        check_published(&boot.publish)?;
        check_capacity(change, &bundle)?;
        // One that has gone since must not keep anything else from being changed.
        if change.kernel.is_some() || change.virtualization == Some(true) {
            self.check_kernel(&boot)?;
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

/// Refuses two ports at one place, and more than a machine may have.
fn check_published(ports: &[PublishedPort]) -> Result<(), ServiceError> {
    if ports.len() > MOST_PUBLISHED {
        return Err(ServiceError::Invalid(format!(
            "{} published ports are too many: a machine has {MOST_PUBLISHED} at most; at the machine's own address all of its ports are reached without",
            ports.len()
        )));
    }
    let mut taken = HashSet::new();
    let twice = ports
        .iter()
        .find(|it| !taken.insert((it.transport, it.host)));
    match twice {
        Some(port) => Err(ServiceError::Invalid(format!(
            "two ports of the machine are published at {}: give each a place of its own",
            port.host
        ))),
        None => Ok(()),
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

impl Service {
    /// Refuses what could not boot: more than the host has, or a kernel that machines cannot use.
    pub(super) fn check(&self, boot: &BootConfiguration) -> Result<(), ServiceError> {
        Host::of_this_process().check(boot)?;
        check_published(&boot.publish)?;
        self.check_kernel(boot)
    }

    /// Refuses a kernel that machines cannot use, and machines inside where they cannot be.
    fn check_kernel(&self, boot: &BootConfiguration) -> Result<(), ServiceError> {
        if boot.virtualization {
            let engine = Configuration::read(&self.world.config)?.engine;
            container_engine::check_virtualization(&engine)?;
        }
        let needs = Needs {
            home: boot.home_mount != HomeMount::None,
            virtualization: boot.virtualization,
        };
        Ok(container_kernel::check(&self.kernel(boot)?, needs)?)
    }

    /// The image of the kernel that is to boot.
    pub(super) fn kernel(&self, boot: &BootConfiguration) -> Result<PathBuf, ServiceError> {
        if let Some(kernel) = &boot.kernel {
            return Ok(kernel.clone());
        }
        let kernels =
            Kernels::of_program(self.world.kernels()).map_err(GuestFilesError::Program)?;
        Ok(kernels.default_kernel()?.image)
    }
}
