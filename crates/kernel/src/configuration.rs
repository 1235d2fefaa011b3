//! A kernel's configuration (Linux, Documentation/kbuild/kconfig.rst), and the options that
//! machines need.

use std::collections::HashMap;

/// The options that are set in a kernel's configuration, without `CONFIG_`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KernelConfiguration {
    options: HashMap<String, Setting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    BuiltIn,
    Module,
    /// A number or a string.
    Other,
}

/// Features that a machine requires of its kernel, beyond those that every machine does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requirements {
    /// A shared directory of the host (virtiofs).
    pub shared_home: bool,
    /// Virtual machines in the machine (KVM).
    pub virtualization: bool,
}

/// Options that every machine needs and that cannot be modules.
const ALWAYS: [&str; 22] = [
    "BINFMT_ELF",
    "BINFMT_SCRIPT",
    "BLK_DEV_INITRD",
    "CGROUPS",
    "DEVTMPFS",
    "EPOLL",
    "EVENTFD",
    "FUTEX",
    "INET",
    "IPC_NS",
    "MULTIUSER",
    "NET",
    "PCI",
    "PID_NS",
    "PROC_FS",
    "SIGNALFD",
    "SYSFS",
    "TIMERFD",
    "TMPFS",
    "TTY",
    "UNIX98_PTYS",
    "UTS_NS",
];

/// Options that every machine needs and that can be modules.
const DRIVERS: [&str; 6] = [
    "EXT4_FS",
    "UNIX",
    "VIRTIO_BLK",
    "VIRTIO_CONSOLE",
    "VIRTIO_NET",
    "VIRTIO_PCI",
];

impl KernelConfiguration {
    /// Parses the text of a `.config` file.
    pub(crate) fn parse(text: &str) -> KernelConfiguration {
        let options = text.lines().filter_map(|line| {
            let (option, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            let setting = match value {
                "y" => Setting::BuiltIn,
                "m" => Setting::Module,
                _ => Setting::Other,
            };
            Some((option.to_owned(), setting))
        });
        KernelConfiguration {
            options: options.collect(),
        }
    }

    /// Whether an option, without `CONFIG_`, is set to any value.
    #[cfg(test)]
    pub(crate) fn is_set(&self, option: &str) -> bool {
        self.options.contains_key(option)
    }

    /// Returns the missing options, with `CONFIG_`. Options that are modules count as missing
    /// unless `has_modules`.
    pub(crate) fn missing(&self, requirements: Requirements, has_modules: bool) -> Vec<String> {
        let is_built_in = |option: &&str| self.options.get(*option) == Some(&Setting::BuiltIn);
        let is_available = |option: &&str| match self.options.get(*option) {
            Some(Setting::BuiltIn) => true,
            Some(Setting::Module) => has_modules,
            _ => false,
        };
        let shared_home = if requirements.shared_home {
            &["FUSE_FS", "VIRTIO_FS"][..]
        } else {
            &[]
        };
        let drivers = DRIVERS.iter().chain(shared_home);
        let drivers = drivers.chain(requirements.virtualization.then_some(&"KVM"));
        let always = ALWAYS.iter().filter(|it| !is_built_in(it));
        let missing = always.chain(drivers.filter(|it| !is_available(it)));
        let mut missing: Vec<String> = missing.map(|it| format!("CONFIG_{it}")).collect();
        if requirements.virtualization && !["KVM_AMD", "KVM_INTEL"].iter().any(is_available) {
            missing.push("CONFIG_KVM_AMD or CONFIG_KVM_INTEL".to_owned());
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_options_are_listed() {
        let built_in = ALWAYS.map(|it| format!("CONFIG_{it}=y\n")).concat();
        let drivers = DRIVERS.map(|it| format!("CONFIG_{it}=m\n")).concat();
        let all = KernelConfiguration::parse(&format!("# words\n{built_in}{drivers}"));
        let (plain, home) = (
            Requirements::default(),
            Requirements {
                shared_home: true,
                ..Requirements::default()
            },
        );
        assert!(all.missing(plain, true).is_empty());
        assert_eq!(all.missing(plain, false).len(), DRIVERS.len());
        assert_eq!(
            all.missing(home, true),
            ["CONFIG_FUSE_FS", "CONFIG_VIRTIO_FS"]
        );
        let text = format!("{built_in}{drivers}# CONFIG_KVM is not set\nCONFIG_KVM_AMD=y\n");
        let virtualizing = Requirements {
            virtualization: true,
            ..plain
        };
        let without = KernelConfiguration::parse(&text);
        assert_eq!(without.missing(virtualizing, true), ["CONFIG_KVM"]);
        let neither = KernelConfiguration::parse(&format!("{built_in}{drivers}CONFIG_KVM=y\n"));
        let missing = neither.missing(virtualizing, true);
        assert_eq!(missing, ["CONFIG_KVM_AMD or CONFIG_KVM_INTEL"]);
    }
}
