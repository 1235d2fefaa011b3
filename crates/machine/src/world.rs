//! The three directories that everything lies in.

use std::{
    env,
    fs::{self, DirBuilder},
    io,
    net::SocketAddr,
    os::unix::ffi::OsStrExt,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::getuid;
use sha2::{Digest, Sha256};

/// All that the program writes lies here. Setting the three XDG variables gives an independent
/// world with a service of its own (XDG Base Directory Specification 0.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// What must not be lost: images, machines.
    pub data: PathBuf,
    /// What people write: `config.toml`; and their credentials for registries.
    pub config: PathBuf,
    /// What lives as long as processes do: sockets, locks.
    pub runtime: PathBuf,
}

/// Why there is no world.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The user has no home directory.
    #[error("finding your home directory (set HOME, or XDG_DATA_HOME and XDG_CONFIG_HOME): {0}")]
    NoHome(#[source] io::Error),
    /// A directory could not be made.
    #[error("making {path}: {source}")]
    Make {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else could put sockets in the way.
    #[error("{0} belongs to another user: set XDG_RUNTIME_DIR to a directory of your own")]
    NotOurs(PathBuf),
}

impl World {
    /// The world that the environment names, its directories made where they are missing.
    pub fn of_environment() -> Result<World, WorldError> {
        let home = |below: &str| {
            crate::home_directory()
                .map(|home| home.join(below))
                .map_err(WorldError::NoHome)
        };
        let data = match variable("XDG_DATA_HOME") {
            Some(directory) => directory,
            None => home(".local/share")?,
        };
        let config = match variable("XDG_CONFIG_HOME") {
            Some(directory) => directory,
            None => home(".config")?,
        };
        let world = World {
            data: data.join("container"),
            config: config.join("container"),
            runtime: runtime_directory(),
        };
        make_private(&world.data)?;
        make_private(&world.runtime)?;
        Ok(world)
    }

    /// The image store.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// The kernels that were added to those of the program.
    pub fn kernels(&self) -> PathBuf {
        self.data.join("kernels")
    }

    /// The socket of this world's service.
    pub fn service_socket(&self) -> PathBuf {
        self.runtime.join("service.sock")
    }

    /// Where running machines find each other.
    pub fn segment(&self) -> PathBuf {
        self.runtime.join("segment")
    }

    /// Where running machines answer the host's questions for their names: at a port of this world's own.
    pub fn name_server(&self) -> SocketAddr {
        let digest = Sha256::digest(self.runtime.as_os_str().as_bytes());
        let number = u16::from_be_bytes([digest[0], digest[1]]);
        // Below the ports that the kernel gives out.
        SocketAddr::from(([127, 19, 0, 1], 10_000 + number % 20_000))
    }

    /// The file with the credentials for registries that people keep with us.
    pub fn credentials(&self) -> PathBuf {
        self.config.join("auth.json")
    }

    /// Where the runtime of the machine `id` works.
    pub fn runtime_directory(&self, id: &crate::MachineId) -> PathBuf {
        self.runtime.join("machines").join(id.as_str())
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    // The specification says to pass over relative paths.
    env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

fn runtime_directory() -> PathBuf {
    if let Some(directory) = variable("XDG_RUNTIME_DIR") {
        return directory.join("container");
    }
    let uid = getuid();
    let session = PathBuf::from(format!("/run/user/{uid}"));
    if fs::metadata(&session).is_ok_and(|about| about.uid() == uid.as_raw()) {
        return session.join("container");
    }
    PathBuf::from(format!("/tmp/container-{uid}"))
}

/// Makes a directory that only its owner may enter, and makes sure that the owner is us.
fn make_private(directory: &Path) -> Result<(), WorldError> {
    let failed = |source| WorldError::Make {
        path: directory.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed)?;
    let about = fs::symlink_metadata(directory).map_err(failed)?;
    if about.uid() != getuid().as_raw() {
        return Err(WorldError::NotOurs(directory.to_owned()));
    }
    if about.is_dir() && about.mode() & 0o077 != 0 {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}
