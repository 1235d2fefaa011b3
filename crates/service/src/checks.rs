//! Everything that is refused before a machine boots.

use std::{
    fs,
    path::{Path, PathBuf},
};

use container_api::FailureKind;
use container_engine::AcceleratorError;
use container_image::Platform;
use container_kernel::{Kernels, KernelsError, PrepareError, Requirements};
use container_machine::{BootConfiguration, Directories, FreeSpace, HomeMount};
use container_protocol::EgressMode;
use container_runtime::GuestFilesError;

use crate::{
    boot_change::NoSuchRule,
    configuration::{Configuration, ConfigurationError},
    failure::RequestError,
    forwarded_sockets::ForwardError,
    host_resources::{HostLimitError, HostResources},
    mounts::MountError,
    published_ports::{PublishError, check_published},
};

/// Free space in bytes that a boot needs on the host.
pub(crate) const MIN_FREE_SPACE: u64 = 64 << 20;

/// A machine cannot boot on this host.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error(transparent)]
    HostLimit(#[from] HostLimitError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Forward(#[from] ForwardError),
    #[error(transparent)]
    Allow(#[from] NoSuchRule),
    #[error(
        "an isolated machine requires {required} (name what it needs with mount, socket and allow, \
         or end the isolation with: isolated=false)"
    )]
    Isolated { required: &'static str },
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("platform {0} is not supported: a machine runs Linux")]
    Platform(Platform),
    #[error(transparent)]
    GuestFiles(#[from] GuestFilesError),
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Accelerator(#[from] AcceleratorError),
    #[error(transparent)]
    Kernels(#[from] KernelsError),
    #[error(transparent)]
    Kernel(#[from] PrepareError),
    #[error(
        "cannot share the home directory {path} with the machine: {reason} (set HOME to another directory, or use --home-mount none)"
    )]
    Home { path: PathBuf, reason: String },
    #[error(
        "the disk is full: {free} MiB are free for {disk}, and a machine needs {} MiB to boot", MIN_FREE_SPACE >> 20
    )]
    NoSpace { disk: PathBuf, free: u64 },
}

impl RequestError for CheckError {
    fn kind(&self) -> FailureKind {
        match self {
            CheckError::HostLimit(_)
            | CheckError::Publish(_)
            | CheckError::Forward(_)
            | CheckError::Allow(_)
            | CheckError::Isolated { .. }
            | CheckError::Mount(_)
            | CheckError::Platform(_)
            | CheckError::GuestFiles(_)
            | CheckError::Home { .. } => FailureKind::Invalid,
            CheckError::Configuration(_)
            | CheckError::Accelerator(_)
            | CheckError::Kernels(_)
            | CheckError::Kernel(_)
            | CheckError::NoSpace { .. } => FailureKind::Failed,
        }
    }
}

/// Refuses more CPUs or memory than the host has, and invalid published ports.
pub(crate) fn check_resources(boot: &BootConfiguration) -> Result<(), CheckError> {
    HostResources::detect().check(boot)?;
    Ok(check_published(&boot.publish)?)
}

/// Refuses settings that give an isolated machine more than what is named.
pub(crate) fn check_isolation(boot: &BootConfiguration) -> Result<(), CheckError> {
    let refused = |required: &'static str| Err(CheckError::Isolated { required });
    if boot.isolated && boot.home_mount != HomeMount::None {
        return refused("home-mount=none");
    }
    if boot.isolated && boot.egress != EgressMode::None {
        return refused("egress=none");
    }
    if boot.isolated && boot.virtualization {
        return refused("virtualization=false");
    }
    Ok(())
}

/// Refuses a kernel that machines cannot boot, and nested virtualization if the host does not
/// support it. Returns the path of the kernel's image.
pub(crate) fn check_kernel(
    directories: &Directories,
    boot: &BootConfiguration,
) -> Result<PathBuf, CheckError> {
    if boot.virtualization {
        let engine = Configuration::read(&directories.config)?.engine;
        container_engine::check_virtualization(&engine)?;
    }
    let image = kernel_image(directories, boot)?;
    let requirements = Requirements {
        shared_home: boot.home_mount != HomeMount::None || !boot.mounts.is_empty(),
        virtualization: boot.virtualization,
    };
    container_kernel::check(&image, requirements)?;
    Ok(image)
}

/// Returns the machine's own kernel, or the default one.
fn kernel_image(
    directories: &Directories,
    boot: &BootConfiguration,
) -> Result<PathBuf, CheckError> {
    if let Some(image) = &boot.kernel {
        return Ok(image.clone());
    }
    let kernels =
        Kernels::from_installation(directories.kernels()).map_err(GuestFilesError::Program)?;
    Ok(kernels.default_kernel()?.image)
}

/// Refuses a platform whose programs no machine of this host can run.
pub(crate) fn check_platform(platform: &Platform) -> Result<(), CheckError> {
    if platform.os != "linux" {
        return Err(CheckError::Platform(platform.clone()));
    }
    Ok(container_runtime::check_architecture(
        &platform.architecture,
    )?)
}

/// Refuses a home directory that cannot be shared.
pub(crate) fn check_home(boot: &BootConfiguration, home: &Path) -> Result<(), CheckError> {
    if boot.home_mount == HomeMount::None {
        return Ok(());
    }
    let refused = |reason: &str| {
        Err(CheckError::Home {
            path: home.to_owned(),
            reason: reason.to_owned(),
        })
    };
    if !home.is_absolute() {
        return refused("its path is not absolute");
    }
    if home.parent().is_none() {
        return refused("it is the root of the file system");
    }
    match fs::read_dir(home) {
        Ok(_) => Ok(()),
        Err(error) => refused(&error.to_string()),
    }
}

/// Refuses to boot on a full disk, where the engine would pause the guest at its first write.
pub(crate) fn check_space(disk: &Path) -> Result<(), CheckError> {
    match free_space(disk) {
        Some(free) if free < MIN_FREE_SPACE => Err(CheckError::NoSpace {
            disk: disk.to_owned(),
            free: free >> 20,
        }),
        // A file system that does not report its free space is not refused.
        _ => Ok(()),
    }
}

/// Returns the space in bytes that can be used on the file system of a path, so that machines on it
/// still boot; absent if the file system does not report its free space.
pub(crate) fn usable_space(path: &Path) -> Option<u64> {
    Some(free_space(path)?.saturating_sub(MIN_FREE_SPACE))
}

fn free_space(path: &Path) -> Option<u64> {
    FreeSpace::at(path).map(FreeSpace::bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_must_be_a_readable_directory() {
        let boot = Configuration::default().boot_defaults();
        let directory = tempfile::tempdir().unwrap();
        assert!(check_home(&boot, directory.path()).is_ok());
        let refused = |home: &Path| check_home(&boot, home).unwrap_err().to_string();
        assert!(refused(&directory.path().join("none")).contains("No such file"));
        assert!(refused(Path::new("/")).contains("root of the file system"));
        assert!(refused(Path::new("")).contains("not absolute"));
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(refused(&file).contains("Not a directory"));
        let without = BootConfiguration {
            home_mount: HomeMount::None,
            ..boot
        };
        assert!(check_home(&without, Path::new("/none")).is_ok());
    }
}
