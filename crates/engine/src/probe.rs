//! Finds out which accelerators this host can use.
//!
//! A `/dev/kvm` that can be opened is not enough. In a virtual machine without nested
//! virtualization it may open, and then run a guest a hundred times too slowly. The processor must
//! also announce hardware virtualization: `vmx` or `svm` in `/proc/cpuinfo`.

use std::{
    env,
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use crate::{
    accelerator::{ACCELERATOR_VARIABLE, Accelerator, AcceleratorError},
    settings::EngineSettings,
};

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmObstacle {
    /// The processor does not announce hardware virtualization.
    #[error("the processor has no hardware virtualization (neither vmx nor svm in /proc/cpuinfo)")]
    Processor,
    /// KVM's device cannot be opened.
    #[error("cannot open {device}: {cause}")]
    Device {
        /// Path of the device.
        device: PathBuf,
        /// Error of the system call.
        cause: io::Error,
    },
}

/// The properties of a host that decide which accelerators work.
#[derive(Debug)]
pub struct AcceleratorProbe {
    /// Text of `/proc/cpuinfo`.
    cpuinfo: String,
    /// KVM's device.
    kvm: PathBuf,
    /// Directory with the parameters of loaded kernel modules.
    modules: PathBuf,
    is_macos: bool,
}

impl AcceleratorProbe {
    /// Reads the properties of this host.
    pub fn from_host() -> AcceleratorProbe {
        AcceleratorProbe {
            cpuinfo: fs::read_to_string("/proc/cpuinfo").unwrap_or_default(),
            kvm: PathBuf::from("/dev/kvm"),
            modules: PathBuf::from("/sys/module"),
            is_macos: cfg!(target_os = "macos"),
        }
    }

    /// Returns why KVM cannot be used; absent if it can.
    pub fn kvm_obstacle(&self) -> Option<KvmObstacle> {
        let has_virtualization = |line: &str| {
            line.starts_with("flags")
                && line
                    .split_whitespace()
                    .any(|flag| matches!(flag, "vmx" | "svm"))
        };
        if cfg!(target_arch = "x86_64") && !self.cpuinfo.lines().any(has_virtualization) {
            return Some(KvmObstacle::Processor);
        }
        let cause = open(&self.kvm).err()?;
        Some(KvmObstacle::Device {
            device: self.kvm.clone(),
            cause,
        })
    }

    /// Returns why an accelerator cannot be used; absent if it can.
    pub fn obstacle(&self, accelerator: Accelerator) -> Option<String> {
        match accelerator {
            Accelerator::Kvm => self.kvm_obstacle().map(|it| it.to_string()),
            Accelerator::Hvf => (!self.is_macos).then(|| "this host is not macOS".to_owned()),
            Accelerator::Tcg => None,
        }
    }

    /// Returns why guests cannot run virtual machines of their own; absent if they can.
    pub fn nesting_obstacle(&self, accelerator: Accelerator) -> Option<String> {
        match accelerator {
            // An emulated processor has every feature that the command line names.
            Accelerator::Tcg => None,
            Accelerator::Hvf => Some("macOS's Hypervisor framework does not support it".to_owned()),
            Accelerator::Kvm => {
                let settings = ["kvm_intel", "kvm_amd"];
                let settings = settings.map(|it| self.modules.join(it).join("parameters/nested"));
                let nested = settings.iter().find_map(|it| fs::read_to_string(it).ok());
                // Linux, Documentation/virt/kvm/x86/running-nested-guests.rst.
                match nested.as_deref().map(str::trim) {
                    Some("1" | "Y") => None,
                    _ => Some(
                        "it is disabled in this host's KVM (set the option nested=1 of kvm_intel \
                         or kvm_amd in /etc/modprobe.d)"
                            .to_owned(),
                    ),
                }
            }
        }
    }

    /// Returns the requested accelerator if it can be used, and the best one without a request.
    fn choose(&self, requested: Option<Accelerator>) -> Result<Accelerator, AcceleratorError> {
        let best_first = [Accelerator::Hvf, Accelerator::Kvm, Accelerator::Tcg];
        match requested {
            Some(requested) => match self.obstacle(requested) {
                Some(reason) => Err(AcceleratorError::Unusable { requested, reason }),
                None => Ok(requested),
            },
            None => {
                let mut usable = best_first
                    .into_iter()
                    .filter(|it| self.obstacle(*it).is_none());
                Ok(usable.next().unwrap_or(Accelerator::Tcg))
            }
        }
    }
}

fn open(device: &Path) -> io::Result<()> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .map(drop)
}

/// Returns the accelerator to use on this host: the one of the environment, else the configured
/// one, else the best one.
///
/// # Errors
/// If the requested accelerator is unknown or not available.
pub fn choose(settings: &EngineSettings) -> Result<Accelerator, AcceleratorError> {
    let requested = match env::var(ACCELERATOR_VARIABLE) {
        Ok(word) if !word.is_empty() => Some(word.parse()?),
        _ => settings.accelerator,
    };
    AcceleratorProbe::from_host().choose(requested)
}

/// Checks that guests can run virtual machines of their own.
///
/// # Errors
/// [`AcceleratorError::NoNesting`] if they cannot; otherwise as [`choose`].
pub fn check_virtualization(settings: &EngineSettings) -> Result<(), AcceleratorError> {
    match AcceleratorProbe::from_host().nesting_obstacle(choose(settings)?) {
        Some(obstacle) => Err(AcceleratorError::NoNesting(obstacle)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(cpuinfo: &str, kvm: &Path) -> AcceleratorProbe {
        AcceleratorProbe {
            cpuinfo: cpuinfo.to_owned(),
            kvm: kvm.to_owned(),
            modules: PathBuf::from("/nonexistent"),
            is_macos: false,
        }
    }

    #[test]
    fn kvm_needs_a_processor_with_virtualization() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let plain = probe("flags\t\t: fpu sse2\n", device.path());
        assert_eq!(plain.choose(None).unwrap(), Accelerator::Tcg);
        assert!(
            plain
                .choose(Some(Accelerator::Kvm))
                .unwrap_err()
                .to_string()
                .contains("vmx")
        );
        let backed = probe("flags\t\t: fpu svm sse2\n", device.path());
        assert_eq!(backed.choose(None).unwrap(), Accelerator::Kvm);
        assert_eq!(
            backed.choose(Some(Accelerator::Tcg)).unwrap(),
            Accelerator::Tcg
        );
    }

    #[test]
    fn nesting_follows_the_kvm_module_parameter() {
        let modules = tempfile::tempdir().unwrap();
        let mut probe = probe("flags\t\t: svm\n", Path::new("/nonexistent/kvm"));
        assert!(probe.nesting_obstacle(Accelerator::Kvm).is_some());
        probe.modules = modules.path().to_owned();
        let parameters = modules.path().join("kvm_amd/parameters");
        fs::create_dir_all(&parameters).unwrap();
        for (nested, may) in [("1\n", true), ("Y\n", true), ("0\n", false), ("N\n", false)] {
            fs::write(parameters.join("nested"), nested).unwrap();
            assert_eq!(
                probe.nesting_obstacle(Accelerator::Kvm).is_none(),
                may,
                "{nested}"
            );
        }
        assert!(probe.nesting_obstacle(Accelerator::Tcg).is_none());
        assert!(probe.nesting_obstacle(Accelerator::Hvf).is_some());
    }

    #[test]
    fn kvm_needs_its_device() {
        let backed = probe("flags\t\t: vmx\n", Path::new("/nonexistent/kvm"));
        assert_eq!(backed.choose(None).unwrap(), Accelerator::Tcg);
        assert!(backed.choose(Some(Accelerator::Kvm)).is_err());
        assert!(backed.choose(Some(Accelerator::Hvf)).is_err());
    }
}
