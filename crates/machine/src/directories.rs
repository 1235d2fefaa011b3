//! The data, config and runtime directory.

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

/// The three directories that hold everything the program writes, as version 0.8 of the XDG Base
/// Directory Specification defines them. Other values of the three XDG variables give an
/// independent installation with its own service, images and machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Persistent data: images, machines, kernels.
    pub data: PathBuf,
    /// Files that the user writes: `config.toml` and credentials for registries.
    pub config: PathBuf,
    /// Files that are only valid while processes run: sockets, locks.
    pub runtime: PathBuf,
}

/// Error of finding or creating the directories.
#[derive(Debug, thiserror::Error)]
pub enum DirectoriesError {
    /// The user has no home directory.
    #[error(
        "cannot determine your home directory: {0} (set HOME, or XDG_DATA_HOME and XDG_CONFIG_HOME)"
    )]
    NoHome(io::Error),
    /// A directory cannot be created or protected.
    #[error("cannot create directory {path}: {cause}")]
    Create {
        /// Absolute path of the data, config or runtime directory.
        path: PathBuf,
        /// Error of the system call.
        cause: io::Error,
    },
    /// The directory belongs to another user, who could replace the sockets in it.
    #[error(
        "directory {0} belongs to another user (set XDG_RUNTIME_DIR to a directory of your own)"
    )]
    OwnedByOther(PathBuf),
}

impl Directories {
    /// Returns the directories named by the environment, and creates the data and runtime directory
    /// if they are missing.
    pub fn from_environment() -> Result<Directories, DirectoriesError> {
        let home = |below: &str| {
            crate::home_directory()
                .map(|home| home.join(below))
                .map_err(DirectoriesError::NoHome)
        };
        let data = match variable("XDG_DATA_HOME") {
            Some(directory) => directory,
            None => home(".local/share")?,
        };
        let config = match variable("XDG_CONFIG_HOME") {
            Some(directory) => directory,
            None => home(".config")?,
        };
        let directories = Directories {
            data: data.join("container"),
            config: config.join("container"),
            runtime: runtime_directory(),
        };
        create_private(&directories.data)?;
        create_private(&directories.runtime)?;
        Ok(directories)
    }

    /// Returns the directory of the image store.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Returns the directory of the kernels that the user added to those of the program.
    pub fn kernels(&self) -> PathBuf {
        self.data.join("kernels")
    }

    /// Returns the directory of the templates that machines start from.
    pub fn templates(&self) -> PathBuf {
        self.data.join("templates")
    }

    /// Returns the service's socket.
    pub fn service_socket(&self) -> PathBuf {
        self.runtime.join("service.sock")
    }

    /// Returns the directory in which running machines find each other.
    pub fn segment(&self) -> PathBuf {
        self.runtime.join("segment")
    }

    /// Returns the address at which running machines answer the host's DNS queries for their names.
    /// Its port is derived from the runtime directory: other installations and users have another.
    pub fn name_server(&self) -> SocketAddr {
        let digest = Sha256::digest(self.runtime.as_os_str().as_bytes());
        let number = u16::from_be_bytes([digest[0], digest[1]]);
        // 10000 to 29999: below the kernel's ephemeral ports (net.ipv4.ip_local_port_range).
        SocketAddr::from(([127, 19, 0, 1], 10_000 + number % 20_000))
    }

    /// Returns the file with the credentials for registries that this program stores.
    pub fn credentials(&self) -> PathBuf {
        self.config.join("auth.json")
    }

    /// Returns the directory for the runtime of machine `id`.
    pub fn runtime_directory(&self, id: &crate::MachineId) -> PathBuf {
        self.runtime.join("machines").join(id.as_str())
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    // The specification says that relative paths are ignored.
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
    if fs::metadata(&session).is_ok_and(|metadata| metadata.uid() == uid.as_raw()) {
        return session.join("container");
    }
    PathBuf::from(format!("/tmp/container-{uid}"))
}

/// Creates the runtime directory of a machine, which [`Directories::runtime_directory`] returned,
/// and the two above it that are this program's. All of them may have been removed, for example by
/// a cleaner of `/tmp`, and created by another user since.
///
/// # Errors
/// If one cannot be created, or belongs to another user.
pub fn create_runtime_directory(directory: &Path) -> Result<(), DirectoriesError> {
    let mut own: Vec<&Path> = directory.ancestors().take(3).collect();
    own.reverse();
    own.into_iter().try_for_each(create_private)
}

/// Creates a directory with its parents and with mode 0700.
///
/// # Errors
/// If it cannot be created, or belongs to another user.
pub fn create_private(directory: &Path) -> Result<(), DirectoriesError> {
    let failed = |cause| DirectoriesError::Create {
        path: directory.to_owned(),
        cause,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed)?;
    let metadata = fs::symlink_metadata(directory).map_err(failed)?;
    if metadata.uid() != getuid().as_raw() {
        return Err(DirectoriesError::OwnedByOther(directory.to_owned()));
    }
    if metadata.is_dir() && metadata.mode() & 0o077 != 0 {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_directory_is_not_created_in_one_of_another_user() {
        let parent = tempfile::tempdir().unwrap();
        let base = parent.path().join("container");
        let directory = base.join("machines/dev");
        create_runtime_directory(&directory).unwrap();
        for own in [&base, &base.join("machines"), &directory] {
            assert_eq!(fs::metadata(own).unwrap().mode() & 0o777, 0o700);
        }
        if !getuid().is_root() {
            return;
        }
        fs::remove_dir_all(&base).unwrap();
        fs::create_dir(&base).unwrap();
        std::os::unix::fs::chown(&base, Some(12_345), None).unwrap();
        let refused = create_runtime_directory(&directory);
        assert!(matches!(refused, Err(DirectoriesError::OwnedByOther(path)) if path == base));
        assert!(!base.join("machines").exists());
    }
}
