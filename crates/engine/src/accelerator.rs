//! Which accelerator this host has.
//!
//! A `/dev/kvm` that opens is not enough: in a virtual machine without nested virtualization
//! it may open and then run a guest a hundred times too slowly. The processor must say
//! that it virtualizes: `vmx` or `svm` in `/proc/cpuinfo`.

use std::{
    env, fmt,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::settings::{ACCELERATOR_VARIABLE, EngineSettings};

/// What carries out the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor, through Linux' KVM.
    Kvm,
    /// The processor, through macOS' Hypervisor framework.
    Hvf,
    /// Nobody: instructions are translated.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Hvf => "hvf",
            Accelerator::Tcg => "tcg",
        })
    }
}

impl FromStr for Accelerator {
    type Err = AcceleratorError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "kvm" => Ok(Accelerator::Kvm),
            "hvf" => Ok(Accelerator::Hvf),
            "tcg" => Ok(Accelerator::Tcg),
            other => Err(AcceleratorError::Unknown(other.to_owned())),
        }
    }
}

/// Why an accelerator cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AcceleratorError {
    /// There is none of that name.
    #[error("{ACCELERATOR_VARIABLE} names an accelerator {0:?}: it may be kvm, hvf or tcg")]
    Unknown(String),
    /// Guests cannot have guests of their own here.
    #[error("machines cannot run inside machines here: {0}")]
    NoNesting(String),
    /// This host does not have it.
    #[error(
        "the accelerator {asked} was asked for, but {reason}: leave the choice to the program, or ask for tcg"
    )]
    Unusable {
        /// What was asked for.
        asked: Accelerator,
        /// What is missing.
        reason: String,
    },
}

/// What the probe looks at.
#[derive(Debug)]
pub struct Host {
    /// The text of `/proc/cpuinfo`.
    pub cpuinfo: String,
    /// Where KVM's device is.
    pub kvm: PathBuf,
    /// Where its modules say whether guests may have guests of their own.
    pub modules: PathBuf,
    /// Whether this is macOS.
    pub is_macos: bool,
}

impl Host {
    /// This host.
    pub fn this() -> Host {
        Host {
            cpuinfo: fs::read_to_string("/proc/cpuinfo").unwrap_or_default(),
            kvm: PathBuf::from("/dev/kvm"),
            modules: PathBuf::from("/sys/module"),
            is_macos: cfg!(target_os = "macos"),
        }
    }

    /// Why KVM cannot be used; none if it can.
    fn kvm_obstacle(&self) -> Option<String> {
        let virtualizes = |line: &str| {
            line.starts_with("flags")
                && line
                    .split_whitespace()
                    .any(|flag| matches!(flag, "vmx" | "svm"))
        };
        if cfg!(target_arch = "x86_64") && !self.cpuinfo.lines().any(virtualizes) {
            return Some("the processor has no hardware virtualization (neither vmx nor svm in /proc/cpuinfo)".into());
        }
        usable(&self.kvm)
            .err()
            .map(|error| format!("{} cannot be used: {error}", self.kvm.display()))
    }

    /// Why an accelerator cannot be used; none if it can.
    pub fn obstacle(&self, accelerator: Accelerator) -> Option<String> {
        match accelerator {
            Accelerator::Kvm => self.kvm_obstacle(),
            Accelerator::Hvf => (!self.is_macos).then(|| "this is not macOS".to_owned()),
            Accelerator::Tcg => None,
        }
    }

    /// Why guests cannot have guests of their own; none if they can.
    pub fn nesting_obstacle(&self, accelerator: Accelerator) -> Option<String> {
        match accelerator {
            // An emulated processor has what it is given.
            Accelerator::Tcg => None,
            Accelerator::Hvf => {
                Some("macOS' hypervisor gives guests no virtualization of their own".to_owned())
            }
            Accelerator::Kvm => {
                let settings = ["kvm_intel", "kvm_amd"];
                let settings = settings.map(|it| self.modules.join(it).join("parameters/nested"));
                let said = settings.iter().find_map(|it| fs::read_to_string(it).ok());
                // Linux, Documentation/virt/kvm/x86/running-nested-guests.rst.
                match said.as_deref().map(str::trim) {
                    Some("1" | "Y") => None,
                    _ => Some("this host's KVM does not let guests have guests (options kvm_intel nested=1, or kvm_amd, in /etc/modprobe.d)".to_owned()),
                }
            }
        }
    }

    /// The accelerator to use: the one that was asked for, if it can work, else the best.
    pub fn choose(&self, asked: Option<Accelerator>) -> Result<Accelerator, AcceleratorError> {
        let best = [Accelerator::Hvf, Accelerator::Kvm, Accelerator::Tcg];
        match asked {
            Some(asked) => match self.obstacle(asked) {
                Some(reason) => Err(AcceleratorError::Unusable { asked, reason }),
                None => Ok(asked),
            },
            None => {
                let mut usable = best.into_iter().filter(|it| self.obstacle(*it).is_none());
                Ok(usable.next().unwrap_or(Accelerator::Tcg))
            }
        }
    }
}

fn usable(device: &Path) -> std::io::Result<()> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .map(drop)
}

/// The accelerator for this host: the environment's word, then the configuration's, then the
/// best there is.
pub fn choose(settings: &EngineSettings) -> Result<Accelerator, AcceleratorError> {
    let asked = match env::var(ACCELERATOR_VARIABLE) {
        Ok(word) if !word.is_empty() => Some(word.parse()?),
        _ => settings.accelerator,
    };
    Host::this().choose(asked)
}

/// Refuses machines inside machines where they cannot be.
pub fn check_virtualization(settings: &EngineSettings) -> Result<(), AcceleratorError> {
    match Host::this().nesting_obstacle(choose(settings)?) {
        Some(obstacle) => Err(AcceleratorError::NoNesting(obstacle)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(cpuinfo: &str, kvm: &Path) -> Host {
        Host {
            cpuinfo: cpuinfo.to_owned(),
            kvm: kvm.to_owned(),
            modules: PathBuf::from("/nonexistent"),
            is_macos: false,
        }
    }

    #[test]
    fn a_device_that_opens_is_not_enough() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let plain = host("flags\t\t: fpu sse2\n", device.path());
        assert_eq!(plain.choose(None).unwrap(), Accelerator::Tcg);
        assert!(
            plain
                .choose(Some(Accelerator::Kvm))
                .unwrap_err()
                .to_string()
                .contains("vmx")
        );
        let backed = host("flags\t\t: fpu svm sse2\n", device.path());
        assert_eq!(backed.choose(None).unwrap(), Accelerator::Kvm);
        assert_eq!(
            backed.choose(Some(Accelerator::Tcg)).unwrap(),
            Accelerator::Tcg
        );
    }

    #[test]
    fn guests_have_guests_where_the_host_lets_them() {
        let modules = tempfile::tempdir().unwrap();
        let mut host = host("flags\t\t: svm\n", Path::new("/nonexistent/kvm"));
        assert!(host.nesting_obstacle(Accelerator::Kvm).is_some());
        host.modules = modules.path().to_owned();
        let parameters = modules.path().join("kvm_amd/parameters");
        fs::create_dir_all(&parameters).unwrap();
        for (said, may) in [("1\n", true), ("Y\n", true), ("0\n", false), ("N\n", false)] {
            fs::write(parameters.join("nested"), said).unwrap();
            assert_eq!(
                host.nesting_obstacle(Accelerator::Kvm).is_none(),
                may,
                "{said}"
            );
        }
        assert!(host.nesting_obstacle(Accelerator::Tcg).is_none());
        assert!(host.nesting_obstacle(Accelerator::Hvf).is_some());
    }

    #[test]
    fn a_processor_without_its_device_is_not_enough_either() {
        let backed = host("flags\t\t: vmx\n", Path::new("/nonexistent/kvm"));
        assert_eq!(backed.choose(None).unwrap(), Accelerator::Tcg);
        assert!(backed.choose(Some(Accelerator::Kvm)).is_err());
        assert!(backed.choose(Some(Accelerator::Hvf)).is_err());
    }
}
