//! The files of one machine. What they contain is described in the documentation of the crate.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::{
    BootConfiguration, MachineAddress, MachineConfiguration,
    atomic_file::{read_json, replace, sync_parent, write_json},
    bundle_error::BundleError,
};

const CONFIGURATION: &str = "config.json";
const BOOT_CONFIGURATION: &str = "boot-config.json";
const SETUP_SCRIPT: &str = "setup.sh";
const RUNTIME_DIRECTORY: &str = "runtime";
const ADDRESS: &str = "address";
const PROVISIONED: &str = "provisioned";

/// The bundle of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    directory: PathBuf,
}

impl Bundle {
    pub(crate) fn new(directory: PathBuf) -> Bundle {
        Bundle { directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Reads what was fixed when the machine was created, with the machine's current id.
    pub fn configuration(&self) -> Result<MachineConfiguration, BundleError> {
        let mut configuration: MachineConfiguration = read_json(&self.file(CONFIGURATION))?;
        // The directory's name is the id. The file may still have the old one if the service was
        // killed while it renamed the machine.
        let name = self.directory.file_name().and_then(|name| name.to_str());
        if let Some(id) = name.and_then(|name| name.parse().ok()) {
            configuration.id = id;
        }
        Ok(configuration)
    }

    pub(crate) fn set_configuration(
        &self,
        configuration: &MachineConfiguration,
    ) -> Result<(), BundleError> {
        write_json(&self.file(CONFIGURATION), configuration)
    }

    /// Reads what the next boot applies.
    pub fn boot_configuration(&self) -> Result<BootConfiguration, BundleError> {
        read_json(&self.file(BOOT_CONFIGURATION))
    }

    /// Replaces what the next boot applies.
    pub fn set_boot_configuration(&self, boot: &BootConfiguration) -> Result<(), BundleError> {
        write_json(&self.file(BOOT_CONFIGURATION), boot)
    }

    /// Returns the path of the machine's disk, a qcow2 overlay.
    pub fn disk(&self) -> PathBuf {
        self.file("disk.qcow2")
    }

    /// Returns the size in bytes that the machine's disk occupies on the host.
    pub fn disk_size(&self) -> Result<u64, BundleError> {
        let disk = self.disk();
        let metadata = fs::metadata(&disk).map_err(BundleError::io("read", &disk))?;
        // st_blocks counts units of 512 bytes (stat(3type)).
        Ok(metadata.blocks() * 512)
    }

    /// Returns the path of the log of init's output.
    pub fn stdio_log(&self) -> PathBuf {
        self.file("stdio.log")
    }

    /// Returns the path of the log of the kernel's console.
    pub fn boot_log(&self) -> PathBuf {
        self.file("boot.log")
    }

    /// Returns the path of the image's set-up script, if the image has one.
    pub fn setup_script(&self) -> Option<PathBuf> {
        Some(self.file(SETUP_SCRIPT)).filter(|script| script.exists())
    }

    /// Returns the path of the file that the machine's runtime locks for its lifetime.
    pub fn runtime_lock(&self) -> PathBuf {
        self.file("lock")
    }

    /// Returns the runtime directory of the machine's last boot; `None` before the first.
    pub fn runtime_directory(&self) -> Result<Option<PathBuf>, BundleError> {
        let file = self.file(RUNTIME_DIRECTORY);
        match fs::read(&file) {
            Ok(path) => Ok(Some(PathBuf::from(OsString::from_vec(path)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(BundleError::io("read", &file)(cause)),
        }
    }

    /// Stores the runtime directory of a boot that begins.
    pub fn set_runtime_directory(&self, directory: &Path) -> Result<(), BundleError> {
        let path = directory.as_os_str().as_encoded_bytes();
        replace(&self.file(RUNTIME_DIRECTORY), path)
    }

    pub(crate) fn forget_runtime_directory(&self) {
        // Fails for a machine that has never booted.
        let _ = fs::remove_file(self.file(RUNTIME_DIRECTORY));
    }

    /// Returns the machine's address; `None` before the first boot.
    pub fn address(&self) -> Result<Option<MachineAddress>, BundleError> {
        let file = self.file(ADDRESS);
        if file.exists() {
            read_json(&file).map(Some)
        } else {
            Ok(None)
        }
    }

    pub(crate) fn set_address(&self, address: MachineAddress) -> Result<(), BundleError> {
        write_json(&self.file(ADDRESS), &address)
    }

    /// Whether the machine's user has been set up.
    pub fn is_provisioned(&self) -> bool {
        self.file(PROVISIONED).exists()
    }

    /// Records that the machine's user has been set up.
    pub fn set_provisioned(&self) -> Result<(), BundleError> {
        replace(&self.file(PROVISIONED), b"")
    }
}

/// A bundle that is being created in a hidden directory. It is removed if it is dropped unfinished.
#[derive(Debug)]
pub struct NewBundle {
    bundle: Bundle,
    directory: tempfile::TempDir,
    target: PathBuf,
}

impl NewBundle {
    /// Creates an empty bundle in `directory`, which [`finish`](Self::finish) renames to `target`.
    pub(crate) fn new(directory: tempfile::TempDir, target: PathBuf) -> NewBundle {
        NewBundle {
            bundle: Bundle::new(directory.path().to_owned()),
            directory,
            target,
        }
    }

    /// Returns the path for the machine's disk.
    pub fn disk(&self) -> PathBuf {
        self.bundle.disk()
    }

    /// Stores the script that sets the machine's user up at the first boot.
    pub fn set_setup_script(&self, script: &[u8]) -> Result<(), BundleError> {
        replace(&self.bundle.file(SETUP_SCRIPT), script)
    }

    /// Writes both configurations, and makes the machine visible.
    pub fn finish(
        self,
        configuration: &MachineConfiguration,
        boot: &BootConfiguration,
    ) -> Result<Bundle, BundleError> {
        self.bundle.set_configuration(configuration)?;
        self.bundle.set_boot_configuration(boot)?;
        let path = self.directory.path();
        fs::rename(path, &self.target).map_err(BundleError::io("rename", path))?;
        // The directory has its final name, so it must not be removed by the guard any more.
        let _ = self.directory.keep();
        sync_parent(&self.target)?;
        Ok(Bundle::new(self.target))
    }
}
