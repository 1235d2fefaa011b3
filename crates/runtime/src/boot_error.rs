//! Errors of a boot.

use std::{io, path::PathBuf};

use container_engine::{EngineError, EngineExit, ResumeError, disk::DiskError};
use container_kernel::PrepareError;
use container_protocol::frame::FrameError;

use crate::{console::hint, guest_files::GuestFilesError};

/// Error of a boot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// The guest's files are missing.
    #[error(transparent)]
    GuestFiles(#[from] GuestFilesError),
    /// The kernel cannot be used.
    #[error(transparent)]
    Kernel(#[from] PrepareError),
    /// The initramfs could not be written.
    #[error("cannot write the machine's initramfs: {0}")]
    Initramfs(io::Error),
    /// The script for the first boot cannot be read.
    #[error("cannot read the machine's set-up script {path}: {cause}")]
    SetupScript { path: PathBuf, cause: io::Error },
    /// The home directory cannot be shared.
    #[error("cannot share the home directory {path} with the machine: {cause}")]
    Home { path: PathBuf, cause: io::Error },
    /// The machine's network could not be started.
    #[error("cannot start the machine's network: {0}")]
    Network(io::Error),
    /// The disk could not be grown.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine did not continue a machine that it had started.
    #[error(transparent)]
    Resume(ResumeError),
    /// The channel to the guest failed.
    #[error("cannot communicate with the guest agent: {0}")]
    Channel(FrameError),
    /// No random bytes for the guest could be read.
    #[error("cannot read random bytes for the guest: {0}")]
    Entropy(io::Error),
    /// The channel to the guest could not be created.
    #[error("cannot create the channel to the guest agent: {0}")]
    CreateChannel(io::Error),
    /// The engine ended during the boot.
    #[error(
        "the machine ended during the boot{}; the last lines of its kernel's console:\n{console}{}",
        in_parentheses(.exit),
        hint(.console)
    )]
    Ended { exit: EngineExit, console: String },
    /// The machine was ordered to stop during the boot.
    #[error("the machine was stopped during the boot")]
    Stopped,
    /// The agent could not set the machine up; its message.
    #[error("{0}")]
    SetUp(String),
    /// Neither kernel nor agent has sent anything for too long.
    #[error(
        "the machine hung during the boot; the last lines of its kernel's console:\n{console}{}",
        hint(.console)
    )]
    Hung { console: String },
    /// The machine made progress, but was not up in time.
    #[error(
        "timed out after {timeout_seconds} s waiting for the machine to boot; the last lines of \
         its kernel's console:\n{console}"
    )]
    TimedOut {
        timeout_seconds: u64,
        console: String,
    },
}

impl BootError {
    /// Returns whether an emulated processor may have failed, so that another attempt can succeed:
    /// the machine hung, reset itself before the kernel's first output, or the emulator crashed.
    /// QEMU 10.0.2 with TCG aborted once in some 300 boots, in `msix_table_mmio_write`.
    pub(crate) fn is_emulation_fault(&self) -> bool {
        match self {
            BootError::Hung { .. } => true,
            BootError::Ended { exit, console } => match exit {
                EngineExit::Orderly => console.is_empty(),
                EngineExit::Crashed(_) => true,
                EngineExit::Failed(_) => false,
            },
            _ => false,
        }
    }
}

fn in_parentheses(exit: &EngineExit) -> String {
    match exit {
        EngineExit::Orderly => String::new(),
        EngineExit::Failed(message) | EngineExit::Crashed(message) => {
            format!(" ({})", message.trim())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_repeated_after_faults_of_the_emulator_only() {
        let ended = |exit, console: &str| BootError::Ended {
            exit,
            console: console.to_owned(),
        };
        let failed = || EngineExit::Failed("no such option".to_owned());
        assert!(ended(EngineExit::Orderly, "").is_emulation_fault());
        assert!(!ended(EngineExit::Orderly, "Linux version").is_emulation_fault());
        let crashed = EngineExit::Crashed("assertion failed".to_owned());
        assert!(ended(crashed, "Linux version").is_emulation_fault());
        assert!(!ended(failed(), "").is_emulation_fault());
    }
}
