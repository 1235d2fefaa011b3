//! Application of a requested change to a boot configuration.

use container_api::{AllowChange, BootChange, KernelChoice};
use container_machine::{BootConfiguration, HomeMount};
use container_protocol::{AllowRule, EgressMode};

/// The change removes an egress rule that the machine does not have.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove the rule {0} from allow: the machine has no such rule")]
pub(crate) struct NoSuchRule(AllowRule);

/// Returns the configuration with the values that the change names.
pub(crate) fn apply(
    boot: BootConfiguration,
    change: &BootChange,
) -> Result<BootConfiguration, NoSuchRule> {
    let is_isolated_now = change.isolated == Some(true) && !boot.isolated;
    let (egress, home_mount, virtualization) = if is_isolated_now {
        (EgressMode::None, HomeMount::None, false)
    } else {
        (boot.egress, boot.home_mount, boot.virtualization)
    };
    Ok(BootConfiguration {
        allow: apply_allow(boot.allow, &change.allow)?,
        cpus: change.cpus.unwrap_or(boot.cpus),
        disk_capacity: change.disk_capacity.unwrap_or(boot.disk_capacity),
        egress: change.egress.unwrap_or(egress),
        home_mount: change.home_mount.unwrap_or(home_mount),
        isolated: change.isolated.unwrap_or(boot.isolated),
        idle_suspend: change.idle_suspend.unwrap_or(boot.idle_suspend),
        kernel: match &change.kernel {
            Some(KernelChoice::Default) => None,
            Some(KernelChoice::Image(path)) => Some(path.clone()),
            None => boot.kernel,
        },
        kernel_args: change.kernel_args.clone().unwrap_or(boot.kernel_args),
        memory: change.memory.unwrap_or(boot.memory),
        // `mounts` applies the change of them, which may be refused.
        mounts: boot.mounts,
        private_home: change.private_home.clone().unwrap_or(boot.private_home),
        publish: change.publish.clone().unwrap_or(boot.publish),
        sockets: change.sockets.clone().unwrap_or(boot.sockets),
        virtualization: change.virtualization.unwrap_or(virtualization),
        unknown: boot.unknown,
    })
}

fn apply_allow(
    current: Vec<AllowRule>,
    change: &AllowChange,
) -> Result<Vec<AllowRule>, NoSuchRule> {
    let mut rules = Vec::new();
    for rule in change.replaced.clone().unwrap_or(current) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    for removed in &change.removed {
        let at = rules.iter().position(|rule| rule == removed);
        rules.remove(at.ok_or_else(|| NoSuchRule(removed.clone()))?);
    }
    for added in &change.added {
        if !rules.contains(added) {
            rules.push(added.clone());
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Configuration;

    #[test]
    fn an_isolated_machine_has_no_home_network_and_virtualization() {
        let boot = BootConfiguration {
            virtualization: true,
            ..Configuration::default().boot_defaults()
        };
        let isolate = |isolated| BootChange {
            isolated: Some(isolated),
            ..BootChange::default()
        };
        let isolated = apply(boot, &isolate(true)).unwrap();
        assert_eq!(
            (isolated.egress, isolated.home_mount),
            (EgressMode::None, HomeMount::None)
        );
        assert!(!isolated.virtualization);
        // What was closed is not opened again by itself.
        let ended = apply(isolated, &isolate(false)).unwrap();
        assert!(!ended.isolated);
        assert_eq!(
            (ended.egress, ended.home_mount),
            (EgressMode::None, HomeMount::None)
        );
    }

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
        assert_eq!(apply(boot.clone(), &change).unwrap().kernel, None);
        assert_eq!(apply(boot.clone(), &BootChange::default()).unwrap(), boot);
    }

    #[test]
    fn rules_are_replaced_removed_and_added() {
        let rules = |words: &[&str]| -> Vec<AllowRule> {
            words.iter().map(|word| word.parse().unwrap()).collect()
        };
        let current = || rules(&["a.test", "b.test:443"]);
        for (change, expected) in [
            (AllowChange::default(), current()),
            (
                AllowChange {
                    added: rules(&["c.test", "a.test"]),
                    removed: rules(&["b.test:443"]),
                    ..AllowChange::default()
                },
                rules(&["a.test", "c.test"]),
            ),
            (
                AllowChange {
                    replaced: Some(rules(&["d.test", "D.test"])),
                    ..AllowChange::default()
                },
                rules(&["d.test"]),
            ),
        ] {
            assert_eq!(apply_allow(current(), &change).unwrap(), expected);
        }
        let change = AllowChange {
            removed: rules(&["b.test"]),
            ..AllowChange::default()
        };
        let error = apply_allow(current(), &change).unwrap_err();
        assert!(error.to_string().contains("b.test"), "{error}");
    }
}
