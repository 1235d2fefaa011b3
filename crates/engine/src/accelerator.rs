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
    /// Whether this is macOS.
    pub is_macos: bool,
}

impl Host {
    /// This host.
    pub fn this() -> Host {
        Host {
            cpuinfo: fs::read_to_string("/proc/cpuinfo").unwrap_or_default(),
            kvm: PathBuf::from("/dev/kvm"),
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

    /// The accelerator to use: the one that was asked for, if it can work, else the best.
    pub fn choose(&self, asked: Option<Accelerator>) -> Result<Accelerator, AcceleratorError> {
        let unusable = |asked, reason: &str| {
            let reason = reason.to_owned();
            Err(AcceleratorError::Unusable { asked, reason })
        };
        match (asked, self.kvm_obstacle()) {
            (Some(Accelerator::Kvm), Some(obstacle)) => unusable(Accelerator::Kvm, &obstacle),
            (Some(Accelerator::Hvf), _) if !self.is_macos => {
                unusable(Accelerator::Hvf, "this is not macOS")
            }
            (Some(asked), _) => Ok(asked),
            (None, _) if self.is_macos => Ok(Accelerator::Hvf),
            (None, None) => Ok(Accelerator::Kvm),
            (None, Some(_)) => Ok(Accelerator::Tcg),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn host(cpuinfo: &str, kvm: &Path) -> Host {
        Host {
            cpuinfo: cpuinfo.to_owned(),
            kvm: kvm.to_owned(),
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
    fn a_processor_without_its_device_is_not_enough_either() {
        let backed = host("flags\t\t: vmx\n", Path::new("/nonexistent/kvm"));
        assert_eq!(backed.choose(None).unwrap(), Accelerator::Tcg);
        assert!(backed.choose(Some(Accelerator::Kvm)).is_err());
        assert!(backed.choose(Some(Accelerator::Hvf)).is_err());
    }
}
