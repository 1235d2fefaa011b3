//! What a kernel can do, as its configuration says (Linux, Documentation/kbuild/kconfig.rst).

use std::collections::HashMap;

/// A kernel's configuration: the options that are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelConfiguration {
    options: HashMap<String, Setting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    BuiltIn,
    Module,
    Other,
}

/// What a machine asks of its kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// It shares a directory of the host's.
    pub home: bool,
    /// It is to run virtual machines of its own.
    pub virtualization: bool,
}

/// What every machine needs and no module can give.
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

/// What every machine needs and a module can give.
const DRIVERS: [&str; 6] = [
    "EXT4_FS",
    "UNIX",
    "VIRTIO_BLK",
    "VIRTIO_CONSOLE",
    "VIRTIO_NET",
    "VIRTIO_PCI",
];

impl KernelConfiguration {
    /// Reads the text of a `.config`.
    pub fn of(text: &str) -> KernelConfiguration {
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

    /// Whether an option, named without `CONFIG_`, is set in any way.
    pub fn is_set(&self, option: &str) -> bool {
        self.options.contains_key(option)
    }

    /// The options that are missing, each with `CONFIG_`. Modules count where there are some.
    pub fn missing(&self, needs: Needs, has_modules: bool) -> Vec<String> {
        let is_built_in = |option: &&str| self.options.get(*option) == Some(&Setting::BuiltIn);
        let is_there = |option: &&str| match self.options.get(*option) {
            Some(Setting::BuiltIn) => true,
            Some(Setting::Module) => has_modules,
            _ => false,
        };
        let drivers = DRIVERS.iter().chain(match needs.home {
            true => &["FUSE_FS", "VIRTIO_FS"][..],
            false => &[],
        });
        let drivers = drivers.chain(needs.virtualization.then_some(&"KVM"));
        let always = ALWAYS.iter().filter(|it| !is_built_in(it));
        let missing = always.chain(drivers.filter(|it| !is_there(it)));
        let mut missing: Vec<String> = missing.map(|it| format!("CONFIG_{it}")).collect();
        if needs.virtualization && !["KVM_AMD", "KVM_INTEL"].iter().any(is_there) {
            missing.push("CONFIG_KVM_AMD or CONFIG_KVM_INTEL".to_owned());
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let built_in = ALWAYS.map(|it| format!("CONFIG_{it}=y\n")).concat();
        let drivers = DRIVERS.map(|it| format!("CONFIG_{it}=m\n")).concat();
        let all = KernelConfiguration::of(&format!("# words\n{built_in}{drivers}"));
        let (plain, home) = (
            Needs::default(),
            Needs {
                home: true,
                ..Needs::default()
            },
        );
        assert!(all.missing(plain, true).is_empty());
        assert_eq!(all.missing(plain, false).len(), DRIVERS.len());
        assert_eq!(
            all.missing(home, true),
            ["CONFIG_FUSE_FS", "CONFIG_VIRTIO_FS"]
        );
        let text = format!("{built_in}{drivers}# CONFIG_KVM is not set\nCONFIG_KVM_AMD=y\n");
        let virtualizing = Needs {
            virtualization: true,
            ..plain
        };
        let without = KernelConfiguration::of(&text);
        assert_eq!(without.missing(virtualizing, true), ["CONFIG_KVM"]);
        let neither = KernelConfiguration::of(&format!("{built_in}{drivers}CONFIG_KVM=y\n"));
        let missing = neither.missing(virtualizing, true);
        assert_eq!(missing, ["CONFIG_KVM_AMD or CONFIG_KVM_INTEL"]);
    }
}
