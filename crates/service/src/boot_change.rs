//! Application of a requested change to a boot configuration.

use container_api::{BootChange, KernelChoice};
use container_machine::BootConfiguration;

/// Returns the configuration with the values that the change names.
pub(crate) fn apply(boot: BootConfiguration, change: &BootChange) -> BootConfiguration {
    BootConfiguration {
        cpus: change.cpus.unwrap_or(boot.cpus),
        disk_capacity: change.disk_capacity.unwrap_or(boot.disk_capacity),
        home_mount: change.home_mount.unwrap_or(boot.home_mount),
        idle_suspend: change.idle_suspend.unwrap_or(boot.idle_suspend),
        kernel: match &change.kernel {
            Some(KernelChoice::Default) => None,
            Some(KernelChoice::Image(path)) => Some(path.clone()),
            None => boot.kernel,
        },
        kernel_args: change.kernel_args.clone().unwrap_or(boot.kernel_args),
        memory: change.memory.unwrap_or(boot.memory),
        private_home: change.private_home.clone().unwrap_or(boot.private_home),
        publish: change.publish.clone().unwrap_or(boot.publish),
        sockets: change.sockets.clone().unwrap_or(boot.sockets),
        virtualization: change.virtualization.unwrap_or(boot.virtualization),
        unknown: boot.unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Configuration;

    #[test]
    fn the_default_kernel_replaces_a_named_one() {
        let boot = BootConfiguration {
            kernel: Some("/k".into()),
            ..Configuration::default().boot_defaults()
        };
        let change = BootChange {
            kernel: Some(KernelChoice::Default),
            ..BootChange::default()
        };
        assert_eq!(apply(boot.clone(), &change).kernel, None);
        assert_eq!(apply(boot.clone(), &BootChange::default()), boot);
    }
}
