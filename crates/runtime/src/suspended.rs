//! The saved memory of a suspended machine or of a snapshot, in the machine's bundle.
//!
//! | directory | content |
//! |---|---|
//! | `suspended` | a suspended machine: its memory and `suspended.json` |
//! | `.suspended.new` | one that is being saved or restored, or was when that was killed |
//! | `.suspended.used` | one that was resumed or given up, until its disk space is freed |
//! | `memory-…` | the memory of a snapshot, in the same form |
//!
//! `suspended` appears and disappears by a rename. It disappears before the resumed machine runs,
//! so that no memory is ever used with a disk that has changed since. It also names the file of the
//! disk, with size and time of modification. The disk may also be an empty overlay of it.
//!
//! A memory file never changes. A suspended machine and snapshots of it have hard links of one.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use container_engine::{EngineSettings, disk};
use container_machine::{
    DiskFile, KernelParameters, MachineId, RESTORED_DISK, SUSPENDED_MANIFEST as MANIFEST,
};
use container_protocol::ResumeToken;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::{
    boot_error::BootError,
    checksum::Checksum,
    file_identity::FileIdentity,
    guest_files::GuestFiles,
    launch::{HomeShare, Launch, Purpose},
    shares::AttachedMount,
};

/// Name of the file with the memory.
const MEMORY: &str = "memory";

/// Suffixes of the directories beside that of a suspended machine.
const NEW: &str = "new";
const USED: &str = "used";

/// Version of the manifest.
const VERSION: u32 = 1;

/// Description of a suspended machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    version: u32,
    /// [`Surroundings::fingerprint`].
    engine: String,
    /// [`Surroundings::guest_files`].
    guest_files: Vec<Checksum>,
    memory: Checksum,
    /// The files that the disk may be, which have the same contents.
    disks: Vec<DiskState>,
    /// Mark of the streams of the resumed machine.
    pub token: ResumeToken,
    /// Whether the agent was saved while it served streams, which it has to end first.
    #[serde(default)]
    pub is_connected: bool,
    /// The machine's id at that time.
    #[serde(default)]
    machine: Option<MachineId>,
    hardware: Hardware,
}

/// The file of a disk, as far as it can be identified without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DiskState {
    name: OsString,
    size: u64,
    modified: (i64, i64),
}

/// The part of a launch that is in the saved memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hardware {
    cpus: u32,
    memory: u64,
    virtualization: bool,
    kernel: PathBuf,
    kernel_args: KernelParameters,
    architecture: String,
    engine: EngineSettings,
    home: Option<HomeShare>,
    #[serde(default)]
    mounts: Vec<AttachedMount>,
}

/// What a machine must have in common with a suspended one to continue it.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// [`Prepared::fingerprint`](container_engine::Prepared::fingerprint).
    pub fingerprint: String,
    /// See [`read_guest_files`].
    pub guest_files: Vec<Checksum>,
}

/// A suspended machine cannot be resumed. Its saved memory is kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnfitError {
    #[error("its saved memory cannot be read: {0}")]
    Read(io::Error),
    #[error("its saved memory is damaged (the checksum differs)")]
    Damaged,
    #[error("it was suspended by another version of this program")]
    Version,
    #[error(
        "QEMU, the accelerator or the processor of this host are not those that it was suspended \
         with"
    )]
    Engine,
    #[error("its agent is not that of this installation")]
    Agent,
    #[error("its disk has changed since it was suspended")]
    Disk,
}

/// The memory of a snapshot cannot be kept or restored.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Its files cannot be read or linked.
    #[error("cannot use the saved memory in {}: {cause}", path.display())]
    Io {
        /// Directory of the memory.
        path: PathBuf,
        /// Error of the file system.
        cause: io::Error,
    },
    /// The disk is not that of the suspended machine.
    #[error(
        "the disk has changed since the machine was suspended, so its memory does not fit (keep \
         the disk alone with --disk-only)"
    )]
    Disk,
    /// The machine had another name. Its programs know it.
    #[error(
        "its memory is that of a machine named {0:?} (rename the machine, or restore the disk \
         alone with --disk-only)"
    )]
    Renamed(MachineId),
}

impl DiskState {
    fn read(disk: &Path) -> io::Result<DiskState> {
        let about = fs::metadata(disk)?;
        Ok(DiskState {
            name: disk.file_name().unwrap_or_default().to_owned(),
            size: about.len(),
            modified: (about.mtime(), about.mtime_nsec()),
        })
    }
}

impl Manifest {
    /// Returns whether a disk has the contents that the machine was saved with: it is the same
    /// file, or an overlay of it to which nothing was written.
    fn is_of(&self, disk: &Path) -> io::Result<bool> {
        let layers = disk::read_layers(disk).unwrap_or_default();
        for file in std::iter::once(disk.to_owned()).chain(layers) {
            if self.disks.contains(&DiskState::read(&file)?) {
                return Ok(true);
            }
            if !disk::is_unwritten(&file).unwrap_or(false) {
                break;
            }
        }
        Ok(false)
    }
}

impl Hardware {
    fn of(launch: &Launch, mounts: Vec<AttachedMount>) -> Hardware {
        Hardware {
            cpus: launch.cpus,
            memory: launch.memory,
            virtualization: launch.virtualization,
            kernel: launch.kernel.clone(),
            kernel_args: launch.kernel_args.clone(),
            architecture: launch.architecture.clone(),
            engine: launch.engine.clone(),
            home: launch.run_settings().and_then(|it| it.home.clone()),
            mounts,
        }
    }
}

/// Returns the archives of this installation that a guest with programs of `architecture` boots
/// with.
pub(crate) fn installed_guest_files(architecture: &str) -> Result<Vec<FileIdentity>, BootError> {
    let GuestFiles { agent, interpreter } = GuestFiles::find(architecture)?;
    let files = std::iter::once(agent).chain(interpreter);
    let identities = files.map(|file| FileIdentity::read(&file));
    identities
        .collect::<io::Result<_>>()
        .map_err(BootError::Initramfs)
}

/// Returns the checksums of the archives that a guest with programs of `architecture` boots with.
pub(crate) fn read_guest_files(architecture: &str) -> Result<Vec<Checksum>, BootError> {
    let GuestFiles { agent, interpreter } = GuestFiles::find(architecture)?;
    let files = std::iter::once(agent).chain(interpreter);
    let checksums = files.map(|file| Checksum::read(&file));
    checksums
        .collect::<io::Result<_>>()
        .map_err(BootError::Initramfs)
}

/// A machine that is being saved. It is removed if it is dropped before [`publish`](Self::publish).
#[derive(Debug)]
pub(crate) struct Unpublished {
    directory: PathBuf,
    target: PathBuf,
}

impl Unpublished {
    /// Creates the directory for a machine that will be suspended in `target`.
    pub(crate) fn create(target: &Path) -> io::Result<Unpublished> {
        remove_leftovers(target);
        let directory = sibling(target, NEW);
        DirBuilder::new().mode(0o700).create(&directory)?;
        Ok(Unpublished {
            directory,
            target: target.to_owned(),
        })
    }

    /// Returns the path for the memory.
    pub(crate) fn memory(&self) -> PathBuf {
        self.directory.join(MEMORY)
    }

    /// Writes everything but the memory, which the engine has written, and synchronizes it all. The
    /// disk must not change any more.
    pub(crate) fn complete(
        &self,
        launch: &Launch,
        mounts: Vec<AttachedMount>,
        surroundings: &Surroundings,
        token: ResumeToken,
        is_connected: bool,
    ) -> io::Result<()> {
        let memory = self.memory();
        fs::set_permissions(&memory, Permissions::from_mode(0o600))?;
        File::open(&memory)?.sync_all()?;
        File::open(&launch.disk)?.sync_all()?;
        let manifest = Manifest {
            version: VERSION,
            engine: surroundings.fingerprint.clone(),
            guest_files: surroundings.guest_files.clone(),
            memory: Checksum::read(&memory)?,
            disks: vec![DiskState::read(&launch.disk)?],
            token,
            is_connected,
            machine: Some(launch.id.clone()),
            hardware: Hardware::of(launch, mounts),
        };
        self.write(&manifest)
    }

    /// Takes the memory of another directory, and describes it.
    fn link(&self, from: &Path, manifest: &Manifest) -> io::Result<()> {
        fs::hard_link(from.join(MEMORY), self.memory())?;
        self.write(manifest)
    }

    fn write(&self, manifest: &Manifest) -> io::Result<()> {
        write_synchronized(&self.directory.join(MANIFEST), manifest)?;
        File::open(&self.directory)?.sync_all()
    }

    /// Makes the machine a suspended one.
    pub(crate) fn publish(self) -> io::Result<()> {
        fs::rename(&self.directory, &self.target)?;
        synchronize_parent(&self.target)
    }

    /// Makes the machine a suspended one, in place of one that may be there.
    fn replace(self) -> io::Result<()> {
        let (new, target) = (&self.directory, &self.target);
        if !target.exists() {
            return self.publish();
        }
        if renameat_with(CWD, new, CWD, target, RenameFlags::EXCHANGE).is_ok() {
            return synchronize_parent(target);
        }
        // Some file systems cannot. A crash between the two leaves a stopped machine.
        give_up(target)?;
        self.publish()
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        // Fails if it was published.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A suspended machine.
#[derive(Debug, Clone)]
pub(crate) struct Suspended {
    directory: PathBuf,
    pub manifest: Manifest,
}

impl Suspended {
    /// Reads the suspended machine in a directory; absent if the machine is not suspended.
    pub(crate) fn find(directory: &Path) -> Result<Option<Suspended>, UnfitError> {
        remove_leftovers(directory);
        if !directory.exists() {
            return Ok(None);
        }
        let manifest = read_manifest(directory).map_err(UnfitError::Read)?;
        if manifest.version != VERSION {
            return Err(UnfitError::Version);
        }
        Ok(Some(Suspended {
            directory: directory.to_owned(),
            manifest,
        }))
    }

    /// Returns the path of the memory.
    pub(crate) fn memory(&self) -> PathBuf {
        self.directory.join(MEMORY)
    }

    /// Returns the mounts that the machine was suspended with.
    pub(crate) fn mounts(&self) -> Vec<AttachedMount> {
        self.manifest.hardware.mounts.clone()
    }

    /// Returns whether the machine had a shared home.
    pub(crate) fn has_home(&self) -> bool {
        self.manifest.hardware.home.is_some()
    }

    /// Returns a launch with the hardware that the machine was suspended with.
    pub(crate) fn launch(&self, launch: &Launch) -> Launch {
        let hardware = self.manifest.hardware.clone();
        let purpose = match launch.purpose.clone() {
            Purpose::Run(mut settings) => {
                settings.home = hardware.home;
                Purpose::Run(settings)
            }
            other @ (Purpose::ReadDisk | Purpose::CheckDisk) => other,
        };
        Launch {
            purpose,
            cpus: hardware.cpus,
            memory: hardware.memory,
            virtualization: hardware.virtualization,
            kernel: hardware.kernel,
            kernel_args: hardware.kernel_args,
            architecture: hardware.architecture,
            engine: hardware.engine,
            ..launch.clone()
        }
    }

    /// Checks that the machine can be resumed with this engine, guest and disk.
    pub(crate) fn check(&self, found: &Surroundings, disk: &Path) -> Result<(), UnfitError> {
        if self.manifest.engine != found.fingerprint {
            return Err(UnfitError::Engine);
        }
        if self.manifest.guest_files != found.guest_files {
            return Err(UnfitError::Agent);
        }
        if self.manifest.is_of(disk).map_err(UnfitError::Read)? {
            Ok(())
        } else {
            Err(UnfitError::Disk)
        }
    }

    /// Checks that the memory is what was written.
    pub(crate) fn check_memory(&self) -> Result<(), UnfitError> {
        let found = Checksum::read(&self.memory()).map_err(UnfitError::Read)?;
        if found != self.manifest.memory {
            return Err(UnfitError::Damaged);
        }
        Ok(())
    }

    /// Marks the memory as used: the machine is not suspended any more.
    pub(crate) fn consume(&self) -> io::Result<()> {
        give_up(&self.directory)
    }

    /// Frees the disk space of the memory, which was [used](Self::consume).
    pub(crate) fn remove_used(&self) {
        // What cannot be removed is removed at the next start.
        let _ = fs::remove_dir_all(sibling(&self.directory, USED));
    }
}

/// Gives up a suspended machine: what is only in its memory is lost.
///
/// # Errors
/// If the directory cannot be renamed. The machine is suspended then.
pub fn discard(directory: &Path) -> io::Result<()> {
    give_up(directory)?;
    remove_leftovers(directory);
    Ok(())
}

/// Keeps the memory of a suspended machine in another directory, for a snapshot. `layer` has the
/// contents of `disk`, the machine's, and does not change any more.
///
/// # Errors
/// [`MemoryError`]. The directory does not exist then.
pub fn keep_memory(
    suspended: &Path,
    disk: &Path,
    layer: &Path,
    to: &Path,
) -> Result<(), MemoryError> {
    let keep = || {
        let manifest = read_manifest(suspended)?;
        if !manifest.is_of(disk)? {
            return Ok(false);
        }
        let manifest = Manifest {
            disks: vec![DiskState::read(layer)?],
            ..manifest
        };
        let new = Unpublished::create(to)?;
        new.link(suspended, &manifest)?;
        new.publish()?;
        Ok(true)
    };
    if keep().map_err(memory_error(suspended))? {
        Ok(())
    } else {
        Err(MemoryError::Disk)
    }
}

/// Makes `id` a suspended machine with the memory of a snapshot, and with `disk`. It takes the
/// place of a memory that the machine may have. Afterwards, or after a crash,
/// [`Bundle::current_disk_file`](container_machine::Bundle::current_disk_file) returns `disk`.
///
/// # Errors
/// [`MemoryError`]. The machine is as before then.
pub fn restore_memory(
    memory: &Path,
    id: &MachineId,
    disk: &DiskFile,
    suspended: &Path,
) -> Result<(), MemoryError> {
    let failed = memory_error(memory);
    let manifest = read_manifest(memory).map_err(&failed)?;
    if let Some(machine) = manifest.machine.clone().filter(|machine| machine != id) {
        return Err(MemoryError::Renamed(machine));
    }
    let restore = || {
        let new = Unpublished::create(suspended)?;
        symlink(disk.as_str(), new.directory.join(RESTORED_DISK))?;
        new.link(memory, &manifest)?;
        new.replace()
    };
    restore().map_err(failed)
}

/// Makes a suspended machine a stopped one with `disk`. Otherwise as [`restore_memory`].
///
/// # Errors
/// [`MemoryError`]. The machine is as before then.
pub fn replace_by_disk(suspended: &Path, disk: &DiskFile) -> Result<(), MemoryError> {
    let replace = || {
        let new = Unpublished::create(suspended)?;
        symlink(disk.as_str(), new.directory.join(RESTORED_DISK))?;
        File::open(&new.directory)?.sync_all()?;
        new.replace()
    };
    replace().map_err(memory_error(suspended))
}

/// Returns whether two directories have the same memory.
pub fn is_same_memory(one: &Path, other: &Path) -> bool {
    let file = |directory: &Path| {
        let file = fs::metadata(directory.join(MEMORY)).ok()?;
        Some((file.dev(), file.ino()))
    };
    file(one).is_some_and(|found| file(other) == Some(found))
}

fn memory_error(path: &Path) -> impl Fn(io::Error) -> MemoryError {
    |cause| MemoryError::Io {
        path: path.to_owned(),
        cause,
    }
}

fn give_up(directory: &Path) -> io::Result<()> {
    fs::rename(directory, sibling(directory, USED))?;
    synchronize_parent(directory)
}

/// Removes what a runtime that was killed has left. The caller is the only one that changes the
/// machine.
fn remove_leftovers(directory: &Path) {
    for suffix in [NEW, USED] {
        // Usually there are none. What cannot be removed is not used either.
        let _ = fs::remove_dir_all(sibling(directory, suffix));
    }
}

/// Returns the path of a hidden directory beside `directory`.
fn sibling(directory: &Path, suffix: &str) -> PathBuf {
    let name = directory.file_name().unwrap_or_default();
    directory.with_file_name(format!(".{}.{suffix}", name.to_string_lossy()))
}

fn read_manifest(directory: &Path) -> io::Result<Manifest> {
    let json = fs::read(directory.join(MANIFEST))?;
    Ok(serde_json::from_slice(&json)?)
}

fn write_synchronized(path: &Path, manifest: &Manifest) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&serde_json::to_vec(manifest)?)?;
    file.sync_all()
}

fn synchronize_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch;

    /// A bundle with a disk.
    struct Fixture {
        bundle: tempfile::TempDir,
        launch: Launch,
    }

    impl Fixture {
        fn new() -> Fixture {
            let bundle = tempfile::tempdir().unwrap();
            let disk = bundle.path().join("disk-1.qcow2");
            disk::create_empty(&disk, 1 << 20).unwrap();
            let launch = Launch {
                disk,
                ..launch::tests::example()
            };
            Fixture { bundle, launch }
        }

        fn directory(&self) -> PathBuf {
            self.bundle.path().join("suspended")
        }

        fn unpublished(&self) -> Unpublished {
            let new = Unpublished::create(&self.directory()).unwrap();
            fs::write(new.memory(), "memory").unwrap();
            let token = ResumeToken::new([7; 16]);
            new.complete(
                &self.launch,
                Vec::new(),
                &surroundings("qemu", &[]),
                token,
                false,
            )
            .unwrap();
            new
        }

        fn find(&self) -> Option<Suspended> {
            Suspended::find(&self.directory()).unwrap()
        }
    }

    fn surroundings(fingerprint: &str, guest_files: &[Checksum]) -> Surroundings {
        Surroundings {
            fingerprint: fingerprint.to_owned(),
            guest_files: guest_files.to_owned(),
        }
    }

    #[test]
    fn a_machine_is_resumed_once() {
        let fixture = Fixture::new();
        let unpublished = fixture.unpublished();
        assert!(fixture.find().is_none(), "it is not published");
        drop(unpublished);
        let unpublished = fixture.unpublished();
        unpublished.publish().unwrap();
        let suspended = fixture.find().unwrap();
        let mode = fs::metadata(suspended.memory()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        suspended.check_memory().unwrap();
        let launch = Launch {
            cpus: 8,
            ..fixture.launch.clone()
        };
        assert_eq!(suspended.launch(&launch), fixture.launch);
        suspended.consume().unwrap();
        assert!(fixture.find().is_none());
        assert_eq!(fs::read_dir(fixture.bundle.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_does_not_fit_is_kept() {
        let fixture = Fixture::new();
        fixture.unpublished().publish().unwrap();
        let suspended = fixture.find().unwrap();
        let disk = &fixture.launch.disk;
        suspended.check(&surroundings("qemu", &[]), disk).unwrap();
        let other_engine = suspended.check(&surroundings("other", &[]), disk);
        assert!(matches!(other_engine, Err(UnfitError::Engine)));
        let agent = [Checksum::read(disk).unwrap()];
        let other_agent = suspended.check(&surroundings("qemu", &agent), disk);
        assert!(matches!(other_agent, Err(UnfitError::Agent)));
        fs::write(disk, "changed").unwrap();
        let changed = suspended.check(&surroundings("qemu", &[]), disk);
        assert!(matches!(changed, Err(UnfitError::Disk)));
        fs::write(suspended.memory(), "Memory").unwrap();
        let damaged = suspended.check_memory();
        assert!(matches!(damaged, Err(UnfitError::Damaged)));
        fs::write(fixture.directory().join(MANIFEST), "{").unwrap();
        assert!(Suspended::find(&fixture.directory()).is_err());
        discard(&fixture.directory()).unwrap();
        assert!(fixture.find().is_none());
    }

    /// Creates an empty overlay of the file `disk-1.qcow2`.
    fn overlay(fixture: &Fixture, name: &str) -> PathBuf {
        let overlay = fixture.bundle.path().join(name);
        disk::create_on_layer("disk-1.qcow2", &overlay, 1 << 20).unwrap();
        overlay
    }

    #[test]
    fn an_empty_overlay_may_become_the_disk() {
        let fixture = Fixture::new();
        fixture.unpublished().publish().unwrap();
        let check = |disk: &Path| {
            let suspended = fixture.find().unwrap();
            suspended.check(&surroundings("qemu", &[]), disk)
        };
        let overlay = overlay(&fixture, "disk-2.qcow2");
        check(&overlay).unwrap();
        check(&fixture.launch.disk).unwrap();
        fs::write(&fixture.launch.disk, "changed").unwrap();
        assert!(matches!(check(&overlay), Err(UnfitError::Disk)));
    }

    #[test]
    fn the_memory_of_a_snapshot_is_restored_any_number_of_times() {
        let fixture = Fixture::new();
        fixture.unpublished().publish().unwrap();
        let (suspended, disk) = (fixture.directory(), &fixture.launch.disk);
        let kept = fixture.bundle.path().join("memory-1");
        keep_memory(&suspended, disk, disk, &kept).unwrap();
        assert!(is_same_memory(&suspended, &kept));
        fixture.find().unwrap().consume().unwrap();
        assert!(!is_same_memory(&suspended, &kept));
        let id = &fixture.launch.id;
        for name in ["disk-2.qcow2", "disk-3.qcow2"] {
            // The second time in place of the first.
            let overlay = overlay(&fixture, name);
            let file = DiskFile::try_from(name.to_owned()).unwrap();
            restore_memory(&kept, id, &file, &suspended).unwrap();
            let found = fixture.find().unwrap();
            found.check_memory().unwrap();
            found.check(&surroundings("qemu", &[]), &overlay).unwrap();
            let link = fs::read_link(suspended.join(RESTORED_DISK)).unwrap();
            assert_eq!(link, Path::new(name));
            assert!(!sibling(&suspended, NEW).exists());
        }
        replace_by_disk(&suspended, &DiskFile::random()).unwrap();
        assert!(!suspended.join(MANIFEST).exists());
        let other = "other".parse().unwrap();
        let file = DiskFile::random();
        let renamed = restore_memory(&kept, &other, &file, &suspended);
        assert!(matches!(renamed, Err(MemoryError::Renamed(_))));
        restore_memory(&kept, id, &file, &suspended).unwrap();
        fs::write(disk, "changed").unwrap();
        let again = fixture.bundle.path().join("memory-2");
        let unfit = keep_memory(&suspended, disk, disk, &again);
        assert!(matches!(unfit, Err(MemoryError::Disk)));
        assert!(!again.exists());
    }
}
