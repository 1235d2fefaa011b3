//! Becoming the machine: all that stands between a booted kernel and a running init.

mod devices;
mod files;
mod growth;
pub mod mounts;
mod names;
mod network;
mod passwd;
mod root;
mod user;
mod virtualization;

use std::{io, path::Path};

use container_protocol::{MachineSetup, frame::FrameError};
use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_settime},
};
pub use passwd::{Passwd, PasswdEntry};
pub use root::{GuestRoot, MACHINE, descriptor_path};

use crate::{init::InitError, power};

/// Why the machine could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// The clock could not be set.
    #[error("setting the machine's clock: {0}")]
    Clock(#[source] nix::Error),
    /// A file system could not be mounted.
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    /// The network could not be set up.
    #[error("setting up the machine's network: {0}")]
    Network(#[from] network::NetworkError),
    /// Host name, hosts or resolver files could not be written.
    #[error("writing the machine's name into its disk: {0}")]
    Names(#[source] io::Error),
    /// Devices could not be given to the machine's users.
    #[error("opening devices to the machine's users: {0}")]
    Devices(#[source] io::Error),
    /// Virtual machines cannot run in it.
    #[error("{0}")]
    Virtualization(#[from] virtualization::VirtualizationError),
    /// The user could not be set up.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// The stream to the stdio log could not be opened.
    #[error("opening the machine's stdio log: {0}")]
    StdioLog(#[source] FrameError),
    /// Init could not be started.
    #[error(transparent)]
    Init(#[from] InitError),
}

/// Mounts the machine and makes it what `setup` says, up to the start of its init.
pub async fn set_up(setup: &MachineSetup) -> Result<(), SetUpError> {
    mounts::mount_disk()?;
    fill_disk().await;
    let root = GuestRoot::open().map_err(mounts::MountError::Disk)?;
    mounts::mount_pseudo(&root)?;
    if let Some(share) = &setup.home_share {
        mounts::mount_home(&root, share)?;
    }
    devices::open(&root).map_err(SetUpError::Devices)?;
    if setup.virtualization {
        virtualization::open(&root)?;
    }
    network::set_up(setup.network.as_ref()).await?;
    names::write(&root, setup).map_err(SetUpError::Names)?;
    if setup.first_boot {
        user::set_up(&root, setup).await?;
    } else {
        user::ensure_home(&root, setup)?;
    }
    Ok(())
}

/// Lets the file system fill a disk that has grown. If it cannot, the machine is as it was.
async fn fill_disk() {
    // Terabytes take their time, and the host hears meanwhile that the start goes on.
    let filled = tokio::task::spawn_blocking(|| {
        growth::fill_disk(Path::new(mounts::DISK), Path::new(MACHINE))
    });
    if let Err(error) = filled.await.unwrap_or_else(|lost| Err(lost.into())) {
        power::say(&format!(
            "growing the machine's file system to the size of its disk: {error}"
        ));
    }
}

/// Sets the clock to these nanoseconds since 1970 UTC.
pub fn set_clock(nanoseconds: u64) -> Result<(), SetUpError> {
    let now = TimeSpec::from_duration(std::time::Duration::from_nanos(nanoseconds));
    clock_settime(ClockId::CLOCK_REALTIME, now).map_err(SetUpError::Clock)
}
