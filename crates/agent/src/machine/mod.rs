//! Sets the machine up: everything between a booted kernel and the start of init.

mod devices;
mod files;
mod growth;
mod host_groups;
mod identity;
mod linger;
mod module_index;
pub(crate) mod mounts;
mod names;
mod network;
mod passwd;
mod private_home;
mod profile;
pub(crate) mod resolver;
mod root;
mod runtime_directory;
pub(crate) mod shell;
mod subordinate_ids;
mod sudo;
mod sysctls;
mod time_zone;
mod udev;
mod user;
mod virtualization;

use std::{io, path::Path};

use container_protocol::{BootOccasion, FileSystemState, MachineSetup, MountProblem};
use tokio::runtime::Handle;

use network::NetworkError;
pub(crate) use passwd::{Passwd, PasswdEntry};
pub(crate) use root::{GuestRoot, descriptor_path};
pub(crate) use runtime_directory::runtime_directory;

use crate::{
    file_system_check::{self, CheckError, Treatment},
    kernel_log,
    paths::{DISK, MACHINE},
    template::{Devices, ProbeError},
};

/// Error of setting the machine up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetUpError {
    /// A file system could not be mounted.
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    /// A device does not work.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The disk's file system could not be checked.
    #[error("cannot check the file system of the machine's disk: {0}")]
    Check(CheckError),
    /// The disk's file system has errors whose repair may lose files.
    #[error(
        "the file system of the machine's disk is damaged (repair it with: container machine check \
         --repair {id}, or save files first with: container machine start --rescue {id})"
    )]
    Damaged {
        /// The machine's id.
        id: String,
    },
    /// The network could not be configured.
    #[error("cannot set up the machine's network: {0}")]
    Network(NetworkError),
    /// The files of the first boot could not be written to the disk.
    #[error("cannot write the machine's files to its disk: {0}")]
    Sync(io::Error),
    /// The mode of a device could not be changed.
    #[error("cannot make devices accessible to the machine's users: {0}")]
    Devices(io::Error),
    /// Virtual machines cannot run in the machine.
    #[error(transparent)]
    Virtualization(#[from] virtualization::VirtualizationError),
    /// Ids or keys of the image could not be replaced.
    #[error("cannot replace the image's machine id and keys: {0}")]
    Identity(io::Error),
    /// The user could not be set up.
    #[error(transparent)]
    User(#[from] user::UserError),
}

/// What the host learns about a boot that has succeeded.
#[derive(Debug, Default)]
pub(crate) struct BootReport {
    /// Notes for the user.
    pub(crate) notes: Vec<String>,
    /// Directories that could not be mounted, without which the machine works.
    pub(crate) mount_problems: Vec<MountProblem>,
}

/// Mounts the machine's file systems and configures the machine as `setup` says.
///
/// Every step is repeated at each boot, except those of a certain [occasion](BootOccasion): ids and
/// keys, the time zone, and the set-up of the user.
///
/// The network is set up in the background meanwhile.
pub(crate) async fn set_up(
    setup: &MachineSetup,
    mut devices: Devices,
    background: &Handle,
) -> Result<BootReport, SetUpError> {
    let card = devices.take_network_card();
    let network = setup.network.clone();
    let network = background.spawn(async move {
        card.await_all()?;
        let done = network::set_up(network.as_ref()).await;
        done.map_err(SetUpError::Network)
    });
    devices.await_disk()?;
    let notes = mount_disk(&setup.id).await?;
    grow_file_system().await;
    let mut root = GuestRoot::open().map_err(mounts::MountError::Disk)?;
    if setup.occasion == BootOccasion::First {
        // A first boot that fails is repeated as a whole.
        root.defer_durability();
    }
    mounts::mount_pseudo(&root)?;
    devices.await_all()?;
    if let Some(share) = &setup.home_share {
        mounts::mount_home(&root, share)?;
        private_home::mount_all(&root, share, &setup.user);
    }
    let mount_problems = mounts::mount_all(&root, &setup.mounts).await;
    devices::publish_all(&root).map_err(SetUpError::Devices)?;
    if setup.virtualization {
        virtualization::enable(&root)?;
    }
    names::write(&root, setup);
    if let Err(error) = profile::write(&root, &setup.init_environment) {
        kernel_log::error(&format!(
            "cannot write the image's PATH to /etc/profile.d: {error}"
        ));
    }
    module_index::install(&root);
    network.await.unwrap_or_else(|error| {
        let cause = NetworkError::Interrupted(error);
        Err(SetUpError::Network(cause))
    })?;
    if let Err(error) = udev::mark_interfaces(&root) {
        kernel_log::error(&format!(
            "cannot mark the network interfaces as initialized: {error}"
        ));
    }
    sysctls::set_all(&root);
    if setup.occasion != BootOccasion::Later {
        identity::renew(&root).await.map_err(SetUpError::Identity)?;
    }
    if setup.occasion == BootOccasion::First {
        set_time_zone(&root, setup);
        user::set_up(&root, setup).await?;
        user::update(&root, setup)?;
        root.sync().map_err(SetUpError::Sync)?;
    } else if let Err(error) = user::update(&root, setup) {
        // The disk may be full.
        kernel_log::error(&error.to_string());
    }
    Ok(BootReport {
        notes,
        mount_problems,
    })
}

/// Mounts the disk. A file system in which the kernel finds or has found errors is repaired before,
/// if that loses nothing. Returns notes for the user.
async fn mount_disk(id: &str) -> Result<Vec<String>, SetUpError> {
    let mounted = mounts::mount_disk();
    let is_damaged = match &mounted {
        Ok(()) => file_system_check::has_noted_errors().unwrap_or_default(),
        Err(error) => error.is_of_a_damaged_disk(),
    };
    if !is_damaged {
        mounted?;
        return Ok(Vec::new());
    }
    mounts::unmount_disk().map_err(mounts::MountError::Disk)?;
    let checked = file_system_check::check(Treatment::RepairSafely)
        .await
        .map_err(SetUpError::Check)?;
    for line in checked.output.lines() {
        kernel_log::info(&format!("e2fsck: {line}"));
    }
    if checked.state == FileSystemState::Damaged {
        return Err(SetUpError::Damaged { id: id.to_owned() });
    }
    mounts::mount_disk()?;
    Ok(vec![format!(
        "The file system of machine {id:?} had errors, which are repaired now (see: container \
         machine logs --boot {id})"
    )])
}

/// Mounts the machine's file systems, and does what succeeds of the rest. Files on the disk are not
/// changed, except for mount points that are missing.
pub(crate) async fn set_up_for_rescue(
    setup: &MachineSetup,
    devices: Devices,
) -> Result<BootReport, SetUpError> {
    devices.await_all()?;
    // A damaged disk can often still be read.
    mounts::mount_disk().or_else(|_| mounts::mount_disk_read_only())?;
    let root = GuestRoot::open().map_err(mounts::MountError::Disk)?;
    mounts::mount_pseudo(&root)?;
    if let Some(share) = &setup.home_share {
        skip_failed(mounts::mount_home(&root, share));
    }
    let mount_problems = mounts::mount_all(&root, &setup.mounts).await;
    skip_failed(devices::publish_all(&root));
    skip_failed(network::set_up(setup.network.as_ref()).await);
    Ok(BootReport {
        notes: Vec::new(),
        mount_problems,
    })
}

fn skip_failed<E: std::fmt::Display>(step: Result<(), E>) {
    if let Err(error) = step {
        kernel_log::error(&format!("skipped in the rescue: {error}"));
    }
}

/// Sets the time zone. A failure is only logged: the machine works in the image's.
fn set_time_zone(root: &GuestRoot, setup: &MachineSetup) {
    if let Some(zone) = &setup.time_zone
        && let Err(error) = time_zone::set(root, zone, &setup.init_environment)
    {
        kernel_log::error(&format!("cannot set the machine's time zone: {error}"));
    }
}

/// Grows the file system if the disk was enlarged. A failure is only logged: the machine works with
/// its old size.
async fn grow_file_system() {
    // On a thread of its own: terabytes take minutes, and the heartbeat must continue.
    let grown =
        tokio::task::spawn_blocking(|| growth::fill_disk(Path::new(DISK), Path::new(MACHINE)));
    if let Err(error) = grown.await.unwrap_or_else(|error| Err(error.into())) {
        kernel_log::error(&format!(
            "cannot grow the machine's file system to the size of its disk: {error}"
        ));
    }
}
