//! All machines of a data directory, and which of them is the default machine.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::{
    DiskFile, MachineAddress, MachineId,
    atomic_file::{replace, sync_parent},
    bundle::{Bundle, NewBundle},
    bundle_error::BundleError,
};

/// Start of the names of bundles that are being created.
const NEW: &str = ".new-";

/// Start of the names of bundles that are being removed.
const GONE: &str = ".gone-";

/// All machines of a data directory, and which of them is the default machine. Only the service
/// changes them, any process may read them.
#[derive(Debug, Clone)]
pub struct Bundles {
    machines: PathBuf,
    /// File with the id of the default machine.
    default: PathBuf,
}

impl Bundles {
    /// Opens the machines of this data directory. Creates the directory of machines if it is
    /// missing.
    pub fn open(data: &Path) -> Result<Bundles, BundleError> {
        let machines = data.join("machines");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&machines)
            .map_err(BundleError::io("create", &machines))?;
        Ok(Bundles {
            machines,
            default: data.join("default-machine"),
        })
    }

    /// Returns the directory of the bundles.
    pub fn directory(&self) -> &Path {
        &self.machines
    }

    /// Removes bundles that were being created or removed when a service was killed. No other
    /// service may be using this data directory.
    pub fn remove_leftovers(&self) -> Result<(), BundleError> {
        for path in self.leftovers()? {
            fs::remove_dir_all(&path).map_err(BundleError::io("remove", &path))?;
        }
        Ok(())
    }

    /// Returns the directories that [`remove_leftovers`](Self::remove_leftovers) removes.
    pub fn leftovers(&self) -> Result<Vec<PathBuf>, BundleError> {
        let leftovers = self.entries()?.into_iter().filter(is_leftover);
        Ok(leftovers.map(|entry| entry.path()).collect())
    }

    /// Returns what is neither a machine nor a leftover of one, for example files, links that lead
    /// nowhere, and directories whose name is no id. Nothing removes it.
    pub fn foreign(&self) -> Result<Vec<PathBuf>, BundleError> {
        let entries = self.entries()?.into_iter();
        let foreign = entries.filter(|entry| !is_leftover(entry) && id_of(entry).is_none());
        let mut foreign: Vec<PathBuf> = foreign.map(|entry| entry.path()).collect();
        foreign.sort();
        Ok(foreign)
    }

    fn entries(&self) -> Result<Vec<fs::DirEntry>, BundleError> {
        let entries = fs::read_dir(&self.machines).and_then(Iterator::collect);
        entries.map_err(BundleError::io("read", &self.machines))
    }

    /// Returns the ids of all machines, sorted.
    pub fn ids(&self) -> Result<Vec<MachineId>, BundleError> {
        let mut ids: Vec<MachineId> = self.entries()?.iter().filter_map(id_of).collect();
        ids.sort();
        Ok(ids)
    }

    /// Returns the bundle of an existing machine.
    pub fn get(&self, id: &MachineId) -> Result<Bundle, BundleError> {
        let bundle = self.bundle(id);
        if bundle.directory().is_dir() {
            Ok(bundle)
        } else {
            Err(BundleError::NotFound(id.clone()))
        }
    }

    fn bundle(&self, id: &MachineId) -> Bundle {
        Bundle::new(self.machines.join(id.as_str()))
    }

    /// Returns the machine's address. A machine without one is assigned one that no other machine
    /// of this data directory has. Two calls must not run at the same time.
    pub fn address(&self, id: &MachineId) -> Result<MachineAddress, BundleError> {
        let bundle = self.get(id)?;
        if let Some(address) = bundle.address()? {
            return Ok(address);
        }
        let mut taken = HashSet::new();
        for other in self.ids()? {
            // Machines that are removed meanwhile or damaged are ignored.
            let address = self.get(&other).and_then(|other| other.address());
            taken.extend(address.ok().flatten());
        }
        // The search starts at a hash of path and id: machines of other users, whose addresses are
        // not known here, rarely get the same one.
        let mut hasher = DefaultHasher::new();
        (&self.machines, id.to_string()).hash(&mut hasher);
        let start = (hasher.finish() % u64::from(MachineAddress::COUNT)) as u32;
        let all = (0..MachineAddress::COUNT).map(|next| MachineAddress::from_index(start + next));
        let mut free = all.filter(|address| !taken.contains(address));
        // With more machines than addresses, two machines share one, and its ports.
        let address = free.next().unwrap_or(MachineAddress::from_index(start));
        bundle.set_address(address)?;
        Ok(address)
    }

    /// Begins a machine, which exists after it is [finished](NewBundle::finish).
    pub fn begin(&self, id: &MachineId) -> Result<NewBundle, BundleError> {
        self.ensure_free(id)?;
        self.new_bundle(id)
    }

    /// Links files of a machine's disk in a bundle that is not to be finished: they remain until it
    /// is dropped, also if the machine is changed or deleted meanwhile.
    pub fn link_disk_files(
        &self,
        id: &MachineId,
        files: &[DiskFile],
    ) -> Result<NewBundle, BundleError> {
        let links = self.new_bundle(id)?;
        links.share_disk_files(&self.get(id)?, files)?;
        Ok(links)
    }

    fn new_bundle(&self, id: &MachineId) -> Result<NewBundle, BundleError> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("{NEW}{id}-"))
            .tempdir_in(&self.machines)
            .map_err(BundleError::io("create a bundle in", &self.machines))?;
        Ok(NewBundle::new(directory, self.machines.join(id.as_str())))
    }

    /// Fails if a machine has this id.
    pub fn ensure_free(&self, id: &MachineId) -> Result<(), BundleError> {
        match self.get(id) {
            Ok(_) => Err(BundleError::Exists(id.clone())),
            Err(_) => Ok(()),
        }
    }

    /// Removes a machine. Returns whether it was the default machine.
    pub fn remove(&self, id: &MachineId) -> Result<bool, BundleError> {
        let bundle = self.get(id)?;
        let was_default = self.default_machine()?.as_ref() == Some(id);
        // Hidden by a rename first, so that a machine never exists without some of its files. A
        // rename needs no space, so that it succeeds on a full disk.
        let hidden = format!("{GONE}{id}-{}", uuid::Uuid::new_v4().simple());
        let hidden = self.machines.join(hidden);
        fs::rename(bundle.directory(), &hidden)
            .map_err(BundleError::io("remove", bundle.directory()))?;
        if was_default {
            fs::remove_file(&self.default).map_err(BundleError::io("remove", &self.default))?;
        }
        fs::remove_dir_all(&hidden).map_err(BundleError::io("remove", &hidden))?;
        Ok(was_default)
    }

    /// Gives a machine another id. If the service is killed meanwhile, the name of the directory is
    /// the machine's id, and there may be no default machine.
    pub fn rename(&self, id: &MachineId, new: &MachineId) -> Result<(), BundleError> {
        let bundle = self.get(id)?;
        self.ensure_free(new)?;
        let was_default = self.default_machine()?.as_ref() == Some(id);
        let renamed = self.bundle(new);
        fs::rename(bundle.directory(), renamed.directory())
            .map_err(BundleError::io("rename", bundle.directory()))?;
        sync_parent(renamed.directory())?;
        // A new machine with the old id will have the same runtime directory.
        renamed.forget_runtime_directory();
        if was_default {
            self.set_default_machine(new)?;
        }
        renamed.set_configuration(&renamed.configuration()?)
    }

    /// Returns the default machine, if there is one.
    pub fn default_machine(&self) -> Result<Option<MachineId>, BundleError> {
        match fs::read_to_string(&self.default) {
            Ok(text) => Ok(text.trim().parse().ok().filter(|id| self.get(id).is_ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(BundleError::io("read", &self.default)(cause)),
        }
    }

    /// Returns the default machine, or an error that says how to get one.
    pub fn require_default_machine(&self) -> Result<MachineId, BundleError> {
        match self.default_machine()? {
            Some(id) => Ok(id),
            None if self.ids()?.is_empty() => Err(BundleError::NoMachines),
            None => Err(BundleError::NoDefault),
        }
    }

    /// Makes a machine the default machine.
    pub fn set_default_machine(&self, id: &MachineId) -> Result<(), BundleError> {
        self.get(id)?;
        replace(&self.default, format!("{id}\n").as_bytes())
    }
}

/// Returns whether an entry is the directory of a bundle that was being created or removed.
fn is_leftover(entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    let name = name.as_encoded_bytes();
    let is_hidden = name.starts_with(NEW.as_bytes()) || name.starts_with(GONE.as_bytes());
    is_hidden && entry.file_type().is_ok_and(|it| it.is_dir())
}

/// Returns the id of the machine whose bundle an entry is, possibly by a link.
fn id_of(entry: &fs::DirEntry) -> Option<MachineId> {
    let id = entry.file_name().into_string().ok()?.parse().ok()?;
    entry.path().is_dir().then_some(id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use std::num::NonZeroU32;

    use super::*;
    use crate::{
        BootConfiguration, Descriptor, DiskCapacity, DiskFile, HomeMount, ImageDescription,
        MachineConfiguration, Memory, MemoryDirectory, Platform, Snapshot, UserSetup,
    };

    fn id(text: &str) -> MachineId {
        text.parse().unwrap()
    }

    fn create(bundles: &Bundles, text: &str) -> Bundle {
        let configuration = MachineConfiguration {
            created_date: jiff::Timestamp::UNIX_EPOCH,
            home: "/home/ann".into(),
            id: id(text),
            image: ImageDescription {
                descriptor: Descriptor {
                    digest: "sha256:0".into(),
                    media_type: "x".into(),
                    size: 1,
                },
                reference: "docker.io/library/alpine:latest".into(),
            },
            init_environment: vec![],
            platform: Platform {
                architecture: "amd64".into(),
                os: "linux".into(),
                variant: None,
            },
            shell: None,
            stop_signal: None,
            user_setup: UserSetup {
                username: "ann".into(),
                uid: 1000,
                gid: 1000,
            },
        };
        let boot = BootConfiguration {
            allow: vec!["*.example.com:443".parse().unwrap()],
            cpus: NonZeroU32::MIN,
            disk_capacity: DiskCapacity::default(),
            egress: container_protocol::EgressMode::None,
            home_mount: HomeMount::Rw,
            idle_suspend: crate::IdleSuspend::default(),
            isolated: false,
            kernel: None,
            kernel_args: crate::KernelParameters::default(),
            memory: Memory::half_of(0),
            mounts: Vec::new(),
            private_home: crate::PrivateHome::default(),
            publish: vec!["8080:80".parse().unwrap()],
            sockets: vec!["/run/docker.sock".parse().unwrap()],
            virtualization: false,
            unknown: std::collections::BTreeMap::new(),
        };
        let new = bundles.begin(&id(text)).unwrap();
        let disk = DiskFile::random();
        fs::write(new.disk_file(&disk), "disk").unwrap();
        new.use_disk_file(&disk).unwrap();
        new.finish(&configuration, &boot).unwrap()
    }

    #[test]
    fn a_restored_disk_becomes_the_machines() {
        let data = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(data.path()).unwrap();
        let bundle = create(&bundles, "dev");
        let before = bundle.current_disk_file().unwrap();
        for has_memory in [true, false] {
            let restored = DiskFile::random();
            let suspended = bundle.suspended();
            fs::create_dir_all(&suspended).unwrap();
            let link = suspended.join(crate::RESTORED_DISK);
            std::os::unix::fs::symlink(restored.as_str(), link).unwrap();
            let manifest = suspended.join(crate::SUSPENDED_MANIFEST);
            if has_memory {
                fs::write(manifest, "{}").unwrap();
            } else {
                fs::remove_file(manifest).unwrap();
            }
            assert_eq!(bundle.is_suspended(), has_memory);
            for _ in 0..2 {
                assert_eq!(bundle.current_disk_file().unwrap(), restored);
                assert_eq!(bundle.is_suspended(), has_memory);
            }
            assert_ne!(restored, before);
        }
    }

    #[test]
    fn memory_of_no_snapshot_is_removed() {
        let data = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(data.path()).unwrap();
        let bundle = create(&bundles, "dev");
        let (used, unused) = (MemoryDirectory::random(), MemoryDirectory::random());
        let being_saved = bundle.file(&format!(".{unused}.new"));
        for directory in [&bundle.memory(&used), &bundle.memory(&unused), &being_saved] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("memory"), "memory").unwrap();
        }
        let snapshot = Snapshot {
            name: "one".parse().unwrap(),
            created: jiff::Timestamp::UNIX_EPOCH,
            expires: None,
            layer: bundle.current_disk_file().unwrap(),
            is_provisioned: true,
            memory: Some(used.clone()),
        };
        bundle.set_snapshots(&[snapshot]).unwrap();
        bundle.remove_unused_memory().unwrap();
        assert!(bundle.memory_size(&used).unwrap() > 0);
        assert!(!bundle.memory(&unused).exists() && !being_saved.exists());
    }

    #[test]
    fn a_bundle_exists_from_finish_to_remove() {
        let data = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(data.path()).unwrap();
        let unfinished = bundles.begin(&id("dev")).unwrap();
        assert!(bundles.ids().unwrap().is_empty());
        drop(unfinished);
        let bundle = create(&bundles, "dev");
        assert_eq!(bundles.ids().unwrap(), [id("dev")]);
        assert_eq!(bundle.configuration().unwrap().id, id("dev"));
        assert!(matches!(
            bundles.begin(&id("dev")),
            Err(BundleError::Exists(_))
        ));
        bundles.set_default_machine(&id("dev")).unwrap();
        assert!(bundles.remove(&id("dev")).unwrap());
        assert_eq!(bundles.default_machine().unwrap(), None);
        assert!(matches!(
            bundles.get(&id("dev")),
            Err(BundleError::NotFound(_))
        ));
        assert_eq!(
            fs::read_dir(data.path().join("machines")).unwrap().count(),
            0
        );
    }

    #[test]
    fn a_renamed_machine_keeps_its_configuration_and_stays_the_default() {
        let data = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(data.path()).unwrap();
        create(&bundles, "dev");
        create(&bundles, "other");
        bundles.set_default_machine(&id("dev")).unwrap();
        let taken = bundles.rename(&id("dev"), &id("other"));
        assert!(matches!(taken, Err(BundleError::Exists(_))));
        bundles.rename(&id("dev"), &id("new")).unwrap();
        assert_eq!(bundles.ids().unwrap(), [id("new"), id("other")]);
        assert_eq!(bundles.default_machine().unwrap(), Some(id("new")));
        let bundle = bundles.get(&id("new")).unwrap();
        assert_eq!(bundle.configuration().unwrap().id, id("new"));
        let written = fs::read_to_string(bundle.file("config.json")).unwrap();
        assert!(written.contains(r#""id": "new""#), "{written}");
    }

    #[test]
    fn leftovers_of_a_killed_service_are_removed() {
        let data = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(data.path()).unwrap();
        create(&bundles, "dev");
        fs::create_dir(data.path().join("machines/.new-x-1")).unwrap();
        fs::create_dir(data.path().join("machines/.gone-y-1")).unwrap();
        bundles.remove_leftovers().unwrap();
        assert_eq!(
            fs::read_dir(data.path().join("machines")).unwrap().count(),
            1
        );
    }

    #[test]
    fn what_is_no_bundle_is_neither_listed_nor_removed() {
        let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bundles = Bundles::open(data.path()).unwrap();
        create(&bundles, "dev");
        let machines = data.path().join("machines");
        let kept = elsewhere.path().join("kept");
        fs::write(&kept, "").unwrap();
        fs::write(machines.join("file"), "").unwrap();
        fs::write(machines.join(".new-file"), "").unwrap();
        fs::create_dir(machines.join(".Trash")).unwrap();
        fs::create_dir(machines.join("No Id!")).unwrap();
        symlink(elsewhere.path(), machines.join(".new-link-1")).unwrap();
        symlink("nowhere", machines.join("broken")).unwrap();
        fs::create_dir(machines.join(".gone-y-1")).unwrap();
        symlink(elsewhere.path(), machines.join(".gone-y-1/link")).unwrap();
        bundles.remove_leftovers().unwrap();
        let names = [
            ".Trash",
            ".new-file",
            ".new-link-1",
            "No Id!",
            "broken",
            "file",
        ];
        let foreign = names.map(|name| machines.join(name));
        assert_eq!(bundles.foreign().unwrap(), foreign);
        assert_eq!(bundles.ids().unwrap(), [id("dev")]);
        assert!(kept.exists() && !machines.join(".gone-y-1").exists());
    }

    #[test]
    fn without_a_default_machine_the_error_depends_on_other_machines() {
        let data = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(data.path()).unwrap();
        let default = || bundles.require_default_machine();
        assert!(matches!(default(), Err(BundleError::NoMachines)));
        create(&bundles, "dev");
        assert!(matches!(default(), Err(BundleError::NoDefault)));
        bundles.set_default_machine(&id("dev")).unwrap();
        assert_eq!(default().unwrap(), id("dev"));
    }

    #[test]
    fn the_error_names_a_malformed_file() {
        let data = tempfile::tempdir().unwrap();
        let bundle = create(&Bundles::open(data.path()).unwrap(), "dev");
        fs::write(bundle.file("boot-config.json"), "{").unwrap();
        let error = bundle.boot_configuration().unwrap_err().to_string();
        assert!(error.contains("boot-config.json"), "{error}");
    }

    #[test]
    fn addresses_are_unique_and_permanent() {
        let data = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(data.path()).unwrap();
        let ids: Vec<MachineId> = (0..300).map(|n| format!("m{n}").parse().unwrap()).collect();
        for id in &ids {
            fs::create_dir(bundles.machines.join(id.to_string())).unwrap();
        }
        let address = |id: &MachineId| bundles.address(id).unwrap();
        let addresses: HashSet<_> = ids.iter().map(address).collect();
        assert_eq!(addresses.len(), ids.len());
        let first = address(&ids[0]);
        assert_eq!(
            bundles.get(&ids[0]).unwrap().address().unwrap(),
            Some(first)
        );
    }

    #[test]
    fn a_bundle_without_disk_capacity_has_the_default_one() {
        let data = tempfile::tempdir().unwrap();
        let bundle = create(&Bundles::open(data.path()).unwrap(), "dev");
        let old =
            r#"{"cpus": 2, "homeMount": "rw", "memory": 2147483648, "virtualization": false}"#;
        fs::write(bundle.file("boot-config.json"), old).unwrap();
        let boot = bundle.boot_configuration().unwrap();
        assert_eq!(boot.disk_capacity, DiskCapacity::default());
        assert!(boot.private_home.is_default());
    }
}
