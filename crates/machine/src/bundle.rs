//! The files of one machine. What they contain is described in the documentation of the crate.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::OsStringExt,
        fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
};

use container_protocol::BootOccasion;

use crate::{
    BootConfiguration, DiskFile, MachineAddress, MachineConfiguration, Snapshot,
    atomic_file::{read_json, replace, sync_parent, write_json},
    bundle_error::BundleError,
};

const CONFIGURATION: &str = "config.json";
const BOOT_CONFIGURATION: &str = "boot-config.json";
const SETUP_SCRIPT: &str = "setup.sh";
const RUNTIME_DIRECTORY: &str = "runtime";
const ADDRESS: &str = "address";
const PROVISIONED: &str = "provisioned";
const RENEW_IDENTITY: &str = "renew-identity";
const SNAPSHOTS: &str = "snapshots.json";
const SUSPENDED: &str = "suspended";
const DISK: &str = "disk.qcow2";
const NEW_DISK: &str = ".disk.qcow2";

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
        self.file(DISK)
    }

    /// Returns the size in bytes that the machine's disk occupies on the host, with its layers.
    pub fn disk_size(&self) -> Result<u64, BundleError> {
        if self.has_old_disk() {
            return occupied(&self.disk());
        }
        let files = self.disk_files()?;
        files.iter().map(|file| self.disk_file_size(file)).sum()
    }

    /// Returns the size in bytes that a file of the disk occupies on the host.
    pub fn disk_file_size(&self, file: &DiskFile) -> Result<u64, BundleError> {
        occupied(&self.disk_file(file))
    }

    /// Returns the path of a file of the disk.
    pub fn disk_file(&self, file: &DiskFile) -> PathBuf {
        self.file(file.as_str())
    }

    /// Returns all files of the disk.
    pub fn disk_files(&self) -> Result<Vec<DiskFile>, BundleError> {
        let read = || -> io::Result<Vec<DiskFile>> {
            let mut files = Vec::new();
            for entry in fs::read_dir(&self.directory)? {
                let name = entry?.file_name().into_string().ok();
                files.extend(name.and_then(|name| DiskFile::try_from(name).ok()));
            }
            Ok(files)
        };
        read().map_err(BundleError::io("read", &self.directory))
    }

    /// Returns whether the disk has no file of a name of its own, as in bundles of versions without
    /// snapshots.
    pub fn has_old_disk(&self) -> bool {
        fs::symlink_metadata(self.disk()).is_ok_and(|disk| disk.is_file())
    }

    /// Returns the file that the machine writes to. An [old disk](Self::has_old_disk) gets a name,
    /// for which the machine must be stopped.
    pub fn current_disk_file(&self) -> Result<DiskFile, BundleError> {
        let disk = self.disk();
        if self.has_old_disk() {
            let file = DiskFile::random();
            let path = self.disk_file(&file);
            fs::hard_link(&disk, &path).map_err(BundleError::io("create", &path))?;
            self.use_disk_file(&file)?;
            return Ok(file);
        }
        let target = fs::read_link(&disk).map_err(BundleError::io("read", &disk))?;
        let name = target.to_string_lossy().into_owned();
        DiskFile::try_from(name).map_err(|error| {
            BundleError::io("read", &disk)(io::Error::new(io::ErrorKind::InvalidData, error))
        })
    }

    /// Makes a file the disk.
    pub fn use_disk_file(&self, file: &DiskFile) -> Result<(), BundleError> {
        let (disk, new) = (self.disk(), self.file(NEW_DISK));
        let link = || {
            remove_if_exists(&new)?;
            symlink(file.as_str(), &new)?;
            fs::rename(&new, &disk)
        };
        link().map_err(BundleError::io("replace", &disk))?;
        sync_parent(&disk)
    }

    /// Removes a file of the disk from the bundle. Links in other bundles remain.
    pub fn remove_disk_file(&self, file: &DiskFile) -> Result<(), BundleError> {
        let path = self.disk_file(file);
        fs::remove_file(&path).map_err(BundleError::io("remove", &path))
    }

    /// Returns whether a file of the disk is also in another bundle.
    pub fn shares_disk_file(&self, file: &DiskFile) -> Result<bool, BundleError> {
        let path = self.disk_file(file);
        let metadata = fs::metadata(&path).map_err(BundleError::io("read", &path))?;
        Ok(metadata.nlink() > 1)
    }

    /// Returns the machine's snapshots, the oldest first.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, BundleError> {
        let file = self.file(SNAPSHOTS);
        if file.exists() {
            read_json(&file)
        } else {
            Ok(Vec::new())
        }
    }

    /// Replaces the list of snapshots.
    pub fn set_snapshots(&self, snapshots: &[Snapshot]) -> Result<(), BundleError> {
        write_json(&self.file(SNAPSHOTS), &snapshots)
    }

    /// Returns the path of the directory with the machine's saved memory.
    pub fn suspended(&self) -> PathBuf {
        self.file(SUSPENDED)
    }

    /// Returns whether the machine is suspended.
    pub fn is_suspended(&self) -> bool {
        self.suspended().exists()
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

    /// Returns what the next boot has to set up.
    pub fn boot_occasion(&self) -> BootOccasion {
        if !self.is_provisioned() {
            BootOccasion::First
        } else if self.file(RENEW_IDENTITY).exists() {
            BootOccasion::FirstOfClone
        } else {
            BootOccasion::Later
        }
    }

    /// Whether the machine's user has been set up.
    pub fn is_provisioned(&self) -> bool {
        self.file(PROVISIONED).exists()
    }

    /// Records whether the machine's user has been set up.
    pub fn set_provisioned(&self, is_provisioned: bool) -> Result<(), BundleError> {
        if is_provisioned {
            replace(&self.file(PROVISIONED), b"")
        } else {
            self.remove_mark(PROVISIONED)
        }
    }

    /// Records that the machine has booted, and is set up.
    pub fn note_boot(&self) -> Result<(), BundleError> {
        match self.boot_occasion() {
            BootOccasion::First => {
                // In this order: a machine that is set up again has its ids and keys renewed too.
                self.remove_mark(RENEW_IDENTITY)?;
                self.set_provisioned(true)
            }
            BootOccasion::FirstOfClone => self.remove_mark(RENEW_IDENTITY),
            BootOccasion::Later => Ok(()),
        }
    }

    fn remove_mark(&self, name: &str) -> Result<(), BundleError> {
        let mark = self.file(name);
        remove_if_exists(&mark).map_err(BundleError::io("remove", &mark))
    }
}

fn remove_if_exists(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns the size in bytes that a file occupies.
fn occupied(file: &Path) -> Result<u64, BundleError> {
    let metadata = fs::metadata(file).map_err(BundleError::io("read", file))?;
    // st_blocks counts units of 512 bytes (stat(3type)).
    Ok(metadata.blocks() * 512)
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

    /// Makes a file of the directory the machine's disk.
    pub fn use_disk_file(&self, file: &DiskFile) -> Result<(), BundleError> {
        self.bundle.use_disk_file(file)
    }

    /// Returns the path for a file of the machine's disk.
    pub fn disk_file(&self, file: &DiskFile) -> PathBuf {
        self.bundle.disk_file(file)
    }

    /// Adds files of another machine's disk, which do not change any more.
    pub fn share_disk_files(&self, of: &Bundle, files: &[DiskFile]) -> Result<(), BundleError> {
        for file in files {
            let path = self.bundle.disk_file(file);
            fs::hard_link(of.disk_file(file), &path).map_err(BundleError::io("create", &path))?;
        }
        Ok(())
    }

    /// Records that the machine was set up before, and keeps its ids and keys.
    pub fn set_moved(&self) -> Result<(), BundleError> {
        self.bundle.set_provisioned(true)
    }

    /// Writes the list of snapshots.
    pub fn set_snapshots(&self, snapshots: &[Snapshot]) -> Result<(), BundleError> {
        self.bundle.set_snapshots(snapshots)
    }

    /// Records that the machine is a copy of one that was set up: its ids and keys are to be
    /// renewed.
    pub fn set_cloned(&self) -> Result<(), BundleError> {
        self.bundle.set_provisioned(true)?;
        replace(&self.bundle.file(RENEW_IDENTITY), b"")
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
