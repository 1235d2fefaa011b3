//! The service manager that is responsible for this process's user, and its bus.

use std::{
    env,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use tokio::net::UnixStream;
use zbus::{Connection, connection};

/// Directory that exists while systemd is the host's init system (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Socket of the system bus (D-Bus specification, "System message bus").
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// There is no service manager for this user.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NoManager {
    /// The host has another init system.
    #[error("systemd is not the init system of this host")]
    NotBooted,
    /// The user has never logged in, or has logged out.
    #[error("the user has no service manager: {0} not found")]
    NoBus(PathBuf),
}

/// A service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    /// Whether it is the system's, and not the user's.
    pub(crate) is_of_system: bool,
    /// Socket of its bus.
    pub(crate) bus: PathBuf,
}

impl Manager {
    /// Returns the system's service manager.
    pub(crate) fn of_system() -> Result<Manager, NoManager> {
        if !Path::new(BOOTED).is_dir() {
            return Err(NoManager::NotBooted);
        }
        Ok(Manager {
            is_of_system: true,
            bus: PathBuf::from(SYSTEM_BUS),
        })
    }

    /// Returns the service manager of this process's user: the system's for root.
    pub(crate) fn of_user() -> Result<Manager, NoManager> {
        let of_system = Manager::of_system()?;
        if geteuid().is_root() {
            return Ok(of_system);
        }
        let own = PathBuf::from(format!("/run/user/{}/bus", geteuid()));
        let named =
            env::var_os("XDG_RUNTIME_DIR").map(|directory| Path::new(&directory).join("bus"));
        let bus = named
            .into_iter()
            .chain([own.clone()])
            .find(|bus| bus.exists());
        Ok(Manager {
            is_of_system: false,
            bus: bus.ok_or(NoManager::NoBus(own))?,
        })
    }

    /// Connects to the bus.
    pub(crate) async fn connect(&self) -> zbus::Result<Connection> {
        let stream = UnixStream::connect(&self.bus).await?.into_std()?;
        connection::Builder::unix_stream(stream).build().await
    }
}
