//! A machine on disk. See the crate's page for what a bundle holds and what a crash may leave.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, DirBuilder, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    os::unix::{
        ffi::OsStringExt,
        fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{BootConfiguration, MachineAddress, MachineConfiguration, MachineId};

const SETUP_SCRIPT: &str = "setup.sh";

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is no such machine.
    #[error("there is no machine {0}: `container machine ls` lists those there are")]
    NotFound(MachineId),
    /// There is one already.
    #[error("a machine {0} exists already: choose another name, or delete it first")]
    Exists(MachineId),
    /// There are no machines at all.
    #[error("there are no machines yet: make one with `container machine create IMAGE`")]
    NoMachines,
    /// There is no default machine.
    #[error(
        "there is no default machine: name one, or choose one with `container machine set-default ID`"
    )]
    NoDefault,
    /// A file or directory of the bundle failed.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of the bundle is not what it should be.
    #[error(
        "{path} cannot be understood: {source}; mend it, or delete the machine with `container machine rm`"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl BundleError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BundleError {
        let path = path.to_owned();
        move |source| BundleError::Io {
            doing,
            path,
            source,
        }
    }
}

/// All machines of a world, and which of them is the default one. Changes are the service's
/// alone: one process changes, any may read.
#[derive(Debug, Clone)]
pub struct Bundles {
    machines: PathBuf,
    default: PathBuf,
}

impl Bundles {
    /// The machines below this data directory.
    pub fn open(data: &Path) -> Result<Bundles, BundleError> {
        let machines = data.join("machines");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&machines)
            .map_err(BundleError::io("making", &machines))?;
        Ok(Bundles {
            machines,
            default: data.join("default-machine"),
        })
    }

    /// Removes what was on its way in or out when a service was killed.
    pub fn remove_leftovers(&self) -> Result<(), BundleError> {
        for entry in self.entries()? {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(BundleError::io("removing", &path))?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<fs::DirEntry>, BundleError> {
        let failed = || BundleError::io("reading", &self.machines);
        let entries = fs::read_dir(&self.machines).map_err(failed())?;
        entries.collect::<Result<_, _>>().map_err(failed())
    }

    /// The ids of all machines, in order.
    pub fn ids(&self) -> Result<Vec<MachineId>, BundleError> {
        let entries = self.entries()?;
        let names = entries
            .iter()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let mut ids: Vec<MachineId> = names.filter_map(|name| name.parse().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// The bundle of a machine that is there.
    pub fn get(&self, id: &MachineId) -> Result<Bundle, BundleError> {
        let bundle = self.bundle(id);
        if bundle.directory.is_dir() {
            Ok(bundle)
        } else {
            Err(BundleError::NotFound(id.clone()))
        }
    }

    fn bundle(&self, id: &MachineId) -> Bundle {
        Bundle {
            directory: self.machines.join(id.as_str()),
        }
    }

    /// The machine's address, which it gets here if it has none: one that no other machine of these has,
    /// and hardly one of another user's. Callers take turns.
    pub fn address(&self, id: &MachineId) -> Result<MachineAddress, BundleError> {
        let bundle = self.get(id)?;
        if let Some(address) = bundle.address()? {
            return Ok(address);
        }
        let mut taken = HashSet::new();
        for other in self.ids()? {
            // One that goes meanwhile, or cannot be read, has none to respect.
            let other = self.get(&other).and_then(|other| other.address());
            taken.extend(other.ok().flatten());
        }
        let mut hasher = DefaultHasher::new();
        (&self.machines, id.to_string()).hash(&mut hasher);
        let start = (hasher.finish() % u64::from(MachineAddress::COUNT)) as u32;
        let all = (0..MachineAddress::COUNT).map(|next| MachineAddress::numbered(start + next));
        let mut free = all.filter(|address| !taken.contains(address));
        // With more machines than addresses two share one, and their ports.
        let address = free.next().unwrap_or(MachineAddress::numbered(start));
        write_json(&bundle.file("address"), &address)?;
        Ok(address)
    }

    /// Begins a machine, which is there once it is [finished](NewBundle::finish).
    pub fn begin(&self, id: &MachineId) -> Result<NewBundle, BundleError> {
        self.ensure_free(id)?;
        let directory = tempfile::Builder::new()
            .prefix(&format!(".new-{id}-"))
            .tempdir_in(&self.machines)
            .map_err(BundleError::io("making a bundle in", &self.machines))?;
        Ok(NewBundle {
            bundle: Bundle {
                directory: directory.path().to_owned(),
            },
            directory,
            target: self.bundle(id).directory,
        })
    }

    /// Fails if there is a machine of that name.
    pub fn ensure_free(&self, id: &MachineId) -> Result<(), BundleError> {
        match self.get(id) {
            Ok(_) => Err(BundleError::Exists(id.clone())),
            Err(_) => Ok(()),
        }
    }

    /// Removes a machine. Returns whether it was the default one.
    pub fn remove(&self, id: &MachineId) -> Result<bool, BundleError> {
        let bundle = self.get(id)?;
        let was_default = self.default_machine()?.as_ref() == Some(id);
        if was_default {
            fs::remove_file(&self.default).map_err(BundleError::io("removing", &self.default))?;
        }
        let aside = tempfile::Builder::new()
            .prefix(&format!(".gone-{id}-"))
            .tempdir_in(&self.machines)
            .map_err(BundleError::io("making a place beside", &bundle.directory))?;
        fs::rename(&bundle.directory, aside.path().join("bundle"))
            .map_err(BundleError::io("removing", &bundle.directory))?;
        let path = aside.path().to_owned();
        aside.close().map_err(BundleError::io("removing", &path))?;
        Ok(was_default)
    }

    /// Gives a machine another name. Where it is killed half-way, the directory's name counts, and
    /// at worst there is no default machine.
    pub fn rename(&self, id: &MachineId, new: &MachineId) -> Result<(), BundleError> {
        let bundle = self.get(id)?;
        self.ensure_free(new)?;
        let was_default = self.default_machine()?.as_ref() == Some(id);
        let renamed = self.bundle(new);
        fs::rename(&bundle.directory, &renamed.directory)
            .map_err(BundleError::io("renaming", &bundle.directory))?;
        sync_directory(&renamed.directory)?;
        // It is named after the machine, so that another one may work there from now on.
        let _ = fs::remove_file(renamed.file("runtime"));
        if was_default {
            self.set_default_machine(new)?;
        }
        write_json(&renamed.file("config.json"), &renamed.configuration()?)
    }

    /// The default machine, if there is one.
    pub fn default_machine(&self) -> Result<Option<MachineId>, BundleError> {
        match fs::read_to_string(&self.default) {
            Ok(word) => Ok(word.trim().parse().ok().filter(|id| self.get(id).is_ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BundleError::io("reading", &self.default)(source)),
        }
    }

    /// Makes a machine the default one.
    pub fn set_default_machine(&self, id: &MachineId) -> Result<(), BundleError> {
        self.get(id)?;
        replace(&self.default, format!("{id}\n").as_bytes())
    }
}

/// Where the older part of a log goes that has grown too large.
pub fn put_aside(log: &Path) -> PathBuf {
    let mut aside = log.as_os_str().to_owned();
    aside.push(".1");
    PathBuf::from(aside)
}

/// A bundle that is not there yet. Dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub struct NewBundle {
    bundle: Bundle,
    directory: tempfile::TempDir,
    target: PathBuf,
}

impl NewBundle {
    /// Where the machine's disk goes.
    pub fn disk(&self) -> PathBuf {
        self.bundle.disk()
    }

    /// Keeps a script for the machine's first boot.
    pub fn set_setup_script(&self, script: &[u8]) -> Result<(), BundleError> {
        replace(&self.bundle.file(SETUP_SCRIPT), script)
    }

    /// Writes both configurations and makes the machine appear.
    pub fn finish(
        self,
        configuration: &MachineConfiguration,
        boot: &BootConfiguration,
    ) -> Result<Bundle, BundleError> {
        write_json(&self.bundle.file("config.json"), configuration)?;
        self.bundle.set_boot_configuration(boot)?;
        let path = self.directory.path().to_owned();
        fs::rename(&path, &self.target).map_err(BundleError::io("moving in place", &path))?;
        // Its old name is gone; there is nothing left for the guard to remove.
        let _ = self.directory.keep();
        sync_directory(&self.target)?;
        Ok(Bundle {
            directory: self.target,
        })
    }
}

/// The bundle of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    directory: PathBuf,
}

impl Bundle {
    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What was fixed when the machine was created, under the name that it has now.
    pub fn configuration(&self) -> Result<MachineConfiguration, BundleError> {
        let mut configuration: MachineConfiguration = read_json(&self.file("config.json"))?;
        let name = self.directory.file_name().and_then(|name| name.to_str());
        if let Some(id) = name.and_then(|name| name.parse().ok()) {
            configuration.id = id;
        }
        Ok(configuration)
    }

    /// What the next boot applies.
    pub fn boot_configuration(&self) -> Result<BootConfiguration, BundleError> {
        read_json(&self.file("boot-config.json"))
    }

    /// Changes what the next boot applies.
    pub fn set_boot_configuration(&self, boot: &BootConfiguration) -> Result<(), BundleError> {
        write_json(&self.file("boot-config.json"), boot)
    }

    /// The machine's disk.
    pub fn disk(&self) -> PathBuf {
        self.file("disk.qcow2")
    }

    /// Bytes that the machine's disk takes on the host.
    pub fn disk_size(&self) -> Result<u64, BundleError> {
        let disk = self.disk();
        let about = fs::metadata(&disk).map_err(BundleError::io("looking at", &disk))?;
        Ok(about.blocks() * 512)
    }

    /// What init prints.
    pub fn stdio_log(&self) -> PathBuf {
        self.file("stdio.log")
    }

    /// What the kernel prints.
    pub fn boot_log(&self) -> PathBuf {
        self.file("boot.log")
    }

    /// The script that sets the machine's user up, if its image brought one.
    pub fn setup_script(&self) -> Option<PathBuf> {
        Some(self.file(SETUP_SCRIPT)).filter(|script| script.exists())
    }

    /// Locked by the machine's runtime for as long as it lives.
    pub fn runtime_lock(&self) -> PathBuf {
        self.file("lock")
    }

    /// Where the runtime of the machine's newest boot works, or worked; none before the first one.
    pub fn runtime_directory(&self) -> Result<Option<PathBuf>, BundleError> {
        let file = self.file("runtime");
        match fs::read(&file) {
            Ok(path) => Ok(Some(PathBuf::from(OsString::from_vec(path)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BundleError::io("reading", &file)(source)),
        }
    }

    /// Remembers where the runtime of the boot that begins works.
    pub fn set_runtime_directory(&self, directory: &Path) -> Result<(), BundleError> {
        replace(
            &self.file("runtime"),
            directory.as_os_str().as_encoded_bytes(),
        )
    }

    /// The machine's address; none before its first boot.
    pub fn address(&self) -> Result<Option<MachineAddress>, BundleError> {
        let file = self.file("address");
        match file.exists() {
            true => read_json(&file).map(Some),
            false => Ok(None),
        }
    }

    /// Whether the machine's user has been set up.
    pub fn is_provisioned(&self) -> bool {
        self.file("provisioned").exists()
    }

    /// Remembers that the machine's user has been set up.
    pub fn set_provisioned(&self) -> Result<(), BundleError> {
        replace(&self.file("provisioned"), b"")
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, BundleError> {
    let text = fs::read(path).map_err(BundleError::io("reading", path))?;
    serde_json::from_slice(&text).map_err(|source| BundleError::Malformed {
        path: path.to_owned(),
        source,
    })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), BundleError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|source| BundleError::Malformed {
        path: path.to_owned(),
        source,
    })?;
    text.push(b'\n');
    replace(path, &text)
}

/// Replaces a file's contents so that a crash leaves the old or the new ones.
fn replace(path: &Path, contents: &[u8]) -> Result<(), BundleError> {
    let failed = || BundleError::io("writing", path);
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed())?;
    file.write_all(contents).map_err(failed())?;
    file.as_file().sync_all().map_err(failed())?;
    file.persist(path).map_err(|error| failed()(error.error))?;
    sync_directory(path)
}

/// Makes a rename in the directory around `path` last.
fn sync_directory(path: &Path) -> Result<(), BundleError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let opened = File::open(directory).and_then(|directory| directory.sync_all());
    opened.map_err(BundleError::io("writing", directory))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{
        Descriptor, DiskCapacity, HomeMount, ImageDescription, Memory, Platform, UserSetup,
    };

    fn id(word: &str) -> MachineId {
        word.parse().unwrap()
    }

    fn create(bundles: &Bundles, word: &str) -> Bundle {
        let configuration = MachineConfiguration {
            created_date: jiff::Timestamp::UNIX_EPOCH,
            home: "/home/ann".into(),
            id: id(word),
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
            cpus: NonZeroU32::MIN,
            disk_capacity: DiskCapacity::default(),
            home_mount: HomeMount::Rw,
            kernel: None,
            kernel_args: crate::KernelParameters::default(),
            memory: Memory::half_of(0),
            publish: vec!["8080:80".parse().unwrap()],
            virtualization: false,
        };
        let new = bundles.begin(&id(word)).unwrap();
        fs::write(new.disk(), "disk").unwrap();
        new.finish(&configuration, &boot).unwrap()
    }

    #[test]
    fn a_bundle_is_there_when_it_is_finished_and_gone_when_it_is_removed() {
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
    fn a_renamed_machine_is_the_same_and_still_the_default() {
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
    fn what_a_killed_service_left_is_removed() {
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
    fn a_malformed_file_is_named() {
        let data = tempfile::tempdir().unwrap();
        let bundle = create(&Bundles::open(data.path()).unwrap(), "dev");
        fs::write(bundle.file("boot-config.json"), "{").unwrap();
        let error = bundle.boot_configuration().unwrap_err().to_string();
        assert!(error.contains("boot-config.json"), "{error}");
    }
    #[test]
    fn a_machine_keeps_its_address_and_nobody_else_gets_it() {
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
    fn a_bundle_from_before_disks_had_a_choice_of_sizes_has_the_default_one() {
        let data = tempfile::tempdir().unwrap();
        let bundle = create(&Bundles::open(data.path()).unwrap(), "dev");
        let old =
            r#"{"cpus": 2, "homeMount": "rw", "memory": 2147483648, "virtualization": false}"#;
        fs::write(bundle.file("boot-config.json"), old).unwrap();
        let boot = bundle.boot_configuration().unwrap();
        assert_eq!(boot.disk_capacity, DiskCapacity::default());
    }
}
