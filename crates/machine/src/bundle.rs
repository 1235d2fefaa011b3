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
    BootConfiguration, DiskFile, MachineAddress, MachineConfiguration, MemoryDirectory, Snapshot,
    atomic_file::{create_or_read, read_if_exists, read_json, replace, sync_parent, write_json},
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
const SSH_HOST_KEY: &str = "ssh_host_ed25519_key";
const DISK: &str = "disk.qcow2";
const NEW_DISK: &str = ".disk.qcow2";

/// Name of the file that describes a suspended machine, in its directory.
pub const SUSPENDED_MANIFEST: &str = "suspended.json";

/// Name of the link in the directory of a suspended machine that was restored from a snapshot: the
/// disk that belongs to its memory. Without memory, the machine is stopped.
pub const RESTORED_DISK: &str = "disk.qcow2";

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
        self.complete_restore()?;
        let disk = self.disk();
        if self.has_old_disk() {
            let file = DiskFile::random();
            let path = self.disk_file(&file);
            fs::hard_link(&disk, &path).map_err(BundleError::io("create", &path))?;
            self.use_disk_file(&file)?;
            return Ok(file);
        }
        read_disk_link(&disk)
    }

    /// Makes the disk of a snapshot that was restored the machine's. Nothing has used the memory
    /// yet, because that happens with the current disk.
    fn complete_restore(&self) -> Result<(), BundleError> {
        let link = self.suspended().join(RESTORED_DISK);
        if fs::symlink_metadata(&link).is_err() {
            return Ok(());
        }
        self.use_disk_file(&read_disk_link(&link)?)?;
        if !self.is_suspended() {
            let directory = self.suspended();
            return fs::remove_dir_all(&directory).map_err(BundleError::io("remove", &directory));
        }
        fs::remove_file(&link).map_err(BundleError::io("remove", &link))?;
        sync_parent(&link)
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

    /// Returns the path of the directory with the memory of a snapshot.
    pub fn memory(&self, memory: &MemoryDirectory) -> PathBuf {
        self.file(memory.as_str())
    }

    /// Returns the size in bytes that the memory of a snapshot occupies on the host.
    pub fn memory_size(&self, memory: &MemoryDirectory) -> Result<u64, BundleError> {
        let directory = self.memory(memory);
        let read = || -> io::Result<u64> {
            let mut blocks = 0;
            for entry in fs::read_dir(&directory)? {
                blocks += entry?.metadata()?.blocks();
            }
            Ok(blocks * BLOCK)
        };
        read().map_err(BundleError::io("read", &directory))
    }

    /// Removes the memory that is of none of the machine's snapshots, and what was left of saving
    /// one. Nothing may be saving one now.
    pub fn remove_unused_memory(&self) -> Result<(), BundleError> {
        let snapshots = self.snapshots()?;
        let is_used =
            |name: &MemoryDirectory| snapshots.iter().any(|it| it.memory.as_ref() == Some(name));
        let remove = || -> io::Result<()> {
            for entry in fs::read_dir(&self.directory)? {
                let name = entry?.file_name().into_string().unwrap_or_default();
                let is_new = name.starts_with(".memory-");
                let memory = MemoryDirectory::try_from(name.clone());
                if is_new || memory.is_ok_and(|memory| !is_used(&memory)) {
                    fs::remove_dir_all(self.file(&name))?;
                }
            }
            Ok(())
        };
        remove().map_err(BundleError::io("remove saved memory in", &self.directory))
    }

    /// Returns whether the machine is suspended.
    pub fn is_suspended(&self) -> bool {
        let directory = self.suspended();
        let has_only_disk = !directory.join(SUSPENDED_MANIFEST).exists()
            && fs::symlink_metadata(directory.join(RESTORED_DISK)).is_ok();
        directory.exists() && !has_only_disk
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

    /// Returns the machine's private host key for SSH; `None` before the first connection.
    pub fn ssh_host_key(&self) -> Result<Option<String>, BundleError> {
        read_if_exists(&self.file(SSH_HOST_KEY))
    }

    /// Stores the machine's private host key, unless it has one. Returns the one that it has.
    pub fn create_ssh_host_key(&self, key: &str) -> Result<String, BundleError> {
        create_or_read(&self.file(SSH_HOST_KEY), key)
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

/// Returns the file of the disk that a link leads to.
fn read_disk_link(link: &Path) -> Result<DiskFile, BundleError> {
    let read = || {
        let name = fs::read_link(link)?.to_string_lossy().into_owned();
        let file = DiskFile::try_from(name);
        file.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    };
    read().map_err(BundleError::io("read", link))
}

/// Unit of `st_blocks` in bytes (stat(3type)).
const BLOCK: u64 = 512;

/// Returns the size in bytes that a file occupies.
fn occupied(file: &Path) -> Result<u64, BundleError> {
    let metadata = fs::metadata(file).map_err(BundleError::io("read", file))?;
    Ok(metadata.blocks() * BLOCK)
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
