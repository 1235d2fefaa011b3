//! The files of the host's SSH client, in `ssh` in the data directory.

use std::path::{Path, PathBuf};

use crate::{
    BundleError, Directories,
    atomic_file::{create_or_read, read_if_exists, replace},
};

/// The files with which `ssh` on the host reaches the machines of this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshFiles {
    directory: PathBuf,
}

impl SshFiles {
    /// Returns the files in the data directory, which is created if it is missing.
    pub fn open(directories: &Directories) -> Result<SshFiles, BundleError> {
        let directory = directories.data.join("ssh");
        // Others cannot enter the data directory.
        std::fs::create_dir_all(&directory).map_err(BundleError::io("create", &directory))?;
        Ok(SshFiles { directory })
    }

    /// Returns the path of the private key that logs in to all machines.
    pub fn identity(&self) -> PathBuf {
        self.directory.join("id_ed25519")
    }

    /// Returns the private key; `None` before it is needed.
    pub fn read_identity(&self) -> Result<Option<String>, BundleError> {
        read_if_exists(&self.identity())
    }

    /// Stores the private key, unless there is one. Returns the one that there is.
    pub fn create_identity(&self, key: &str) -> Result<String, BundleError> {
        create_or_read(&self.identity(), key)
    }

    /// Returns the path of the file with the machines' public host keys.
    pub fn known_hosts(&self) -> PathBuf {
        self.directory.join("known_hosts")
    }

    /// Makes the file with the machines' public host keys have this content.
    pub fn set_known_hosts(&self, text: &str) -> Result<(), BundleError> {
        set(&self.known_hosts(), text)
    }

    /// Returns the path of the configuration that the user's own includes.
    pub fn configuration(&self) -> PathBuf {
        self.directory.join("config")
    }

    /// Makes the configuration have this content.
    pub fn set_configuration(&self, text: &str) -> Result<(), BundleError> {
        set(&self.configuration(), text)
    }

    /// Removes the configuration, if it exists.
    pub fn remove_configuration(&self) -> Result<(), BundleError> {
        let path = self.configuration();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(BundleError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

fn set(path: &Path, text: &str) -> Result<(), BundleError> {
    if read_if_exists(path)?.as_deref() == Some(text) {
        return Ok(());
    }
    replace(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_created_once_and_only_for_its_owner() {
        let data = tempfile::tempdir().unwrap();
        let directories = Directories {
            data: data.path().to_owned(),
            config: data.path().join("config"),
            runtime: data.path().join("runtime"),
        };
        let files = SshFiles::open(&directories).unwrap();
        assert_eq!(files.read_identity().unwrap(), None);
        assert_eq!(files.create_identity("one").unwrap(), "one");
        assert_eq!(files.create_identity("two").unwrap(), "one");
        assert_eq!(files.read_identity().unwrap().as_deref(), Some("one"));
        let mode = std::fs::metadata(files.identity()).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        files.set_configuration("a").unwrap();
        files.remove_configuration().unwrap();
        files.remove_configuration().unwrap();
        assert!(!files.configuration().exists());
    }
}
