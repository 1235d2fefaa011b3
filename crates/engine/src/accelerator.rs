//! The accelerators, and the errors of choosing one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Environment variable that overrides the configured accelerator.
pub(crate) const ACCELERATOR_VARIABLE: &str = "CONTAINER_ACCELERATOR";

/// Means by which an engine executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// Hardware virtualization through Linux's KVM.
    Kvm,
    /// Hardware virtualization through macOS's Hypervisor framework.
    Hvf,
    /// Emulation: QEMU's Tiny Code Generator translates every instruction.
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

/// Error of an accelerator that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AcceleratorError {
    /// The environment variable has an unknown value.
    #[error("invalid accelerator {0:?} in {ACCELERATOR_VARIABLE}: use kvm, hvf or tcg")]
    Unknown(String),
    /// Guests cannot run virtual machines on this host.
    #[error("nested virtualization is not supported here: {0}")]
    NoNesting(String),
    /// The requested accelerator is not available on this host.
    #[error(
        "the accelerator {requested} cannot be used: {reason}; remove the setting to use the \
         best one of this host, or choose tcg"
    )]
    Unusable {
        /// The accelerator of the environment or the configuration.
        requested: Accelerator,
        /// Requirement that this host does not meet.
        reason: String,
    },
}
