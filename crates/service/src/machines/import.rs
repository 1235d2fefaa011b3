//! `import`: makes a machine from an archive, which is the body of the request.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
};

use axum::body::BodyDataStream;
use container_api::{Created, FailureKind, ImportRequest, Progress};
use container_engine::disk::{self, Backing, DiskError};
use container_image::{
    Digest, ImageError, InvalidDigest, LoadOptions, Platform, SharedGuard, StoreError,
};
use container_machine::{
    BootConfiguration, BundleError, DiskFile, MachineConfiguration, MachineId, NewBundle, Snapshot,
    UserSetup,
};
use tokio::task::spawn_blocking;

use crate::{
    archive_stream::{archive_reader, discard},
    checks::{CheckError, check_isolation, check_platform},
    configuration::ConfigurationError,
    failure::{RequestError, TaskPanicked},
    machine_archive::{self, ArchiveReader, Description, ReadError},
    progress::ByteCounter,
    service::Service,
    stream_client::StreamClient,
};

/// A machine cannot be imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("machine {0:?} already exists (choose another name with --name)")]
    NameTaken(MachineId),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("the digest of the machine's image is invalid: {0}")]
    Digest(InvalidDigest),
    #[error("cannot look up the current user: {0}")]
    User(io::Error),
    #[error("cannot write the disk: {0}")]
    Sync(io::Error),
    #[error(transparent)]
    TaskPanicked(#[from] TaskPanicked),
}

impl RequestError for ImportError {
    fn kind(&self) -> FailureKind {
        match self {
            ImportError::Bundle(error) => error.kind(),
            ImportError::Check(error) => error.kind(),
            ImportError::Image(error) => error.kind(),
            ImportError::NameTaken(_) => FailureKind::Exists,
            ImportError::Read(ReadError::NoSpace { .. }) => FailureKind::Failed,
            ImportError::Read(_) | ImportError::Digest(_) => FailureKind::Invalid,
            ImportError::Configuration(_)
            | ImportError::Disk(_)
            | ImportError::Store(_)
            | ImportError::User(_)
            | ImportError::Sync(_)
            | ImportError::TaskPanicked(_) => FailureKind::Failed,
        }
    }
}

/// An import in progress: everything that the thread that reads the archive needs.
struct Import {
    service: Arc<Service>,
    request: ImportRequest,
    load: LoadOptions,
    user: UserSetup,
    images: SharedGuard,
    client: StreamClient,
}

/// A machine that is complete except for its name.
struct Imported {
    new: NewBundle,
    machine: MachineConfiguration,
    boot: BootConfiguration,
    /// Protects image and base until the machine uses them.
    _images: SharedGuard,
}

impl Service {
    /// Makes a machine from an archive. If a step fails or the client disconnects, nothing of it
    /// remains, except its image.
    pub(crate) async fn import(
        self: Arc<Self>,
        request: ImportRequest,
        archive: BodyDataStream,
        client: &StreamClient,
    ) -> Result<Created, ImportError> {
        let configuration = self.checked_configuration()?;
        let import = Import {
            service: Arc::clone(&self),
            request,
            load: LoadOptions {
                most_bytes: configuration.image.most_bytes,
                default_registry: configuration.registry.domain,
                name_override: None,
            },
            user: UserSetup::current().map_err(ImportError::User)?,
            images: self.images.lock_shared().await?,
            client: client.clone(),
        };
        let set_default = import.request.set_default;
        let mut archive = archive_reader(archive);
        let read = spawn_blocking(move || {
            let client = import.client.clone();
            let imported = import.read(&mut archive);
            if imported.is_err() {
                discard(archive, client);
            }
            imported
        });
        let imported = read.await.map_err(|_| TaskPanicked)??;
        let id = imported.machine.id.clone();
        let _lock = self.locks.lock(&id).await;
        self.ensure_free(&id)?;
        imported.new.finish(&imported.machine, &imported.boot)?;
        if set_default || self.bundles.default_machine()?.is_none() {
            self.bundles.set_default_machine(&id)?;
        }
        Ok(Created { id })
    }

    fn ensure_free(&self, id: &MachineId) -> Result<(), ImportError> {
        match self.bundles.ensure_free(id) {
            Err(BundleError::Exists(id)) => Err(ImportError::NameTaken(id)),
            other => Ok(other?),
        }
    }
}

impl Import {
    fn read(self, archive: impl Read) -> Result<Imported, ImportError> {
        let counter = ByteCounter::new(&self.client, "importing machine");
        let source = CountingReader {
            source: archive,
            bytes: 0,
            counter: &counter,
        };
        let mut archive = machine_archive::open(source)?;
        let (mut members, description) = ArchiveReader::new(&mut archive)?;
        let machine = self.machine(&description);
        self.service.ensure_free(&machine.id)?;
        let platform = &machine.platform;
        let variant = platform.variant.as_deref();
        check_platform(&Platform::new(
            &platform.os,
            &platform.architecture,
            variant,
        ))?;
        let (boot, notes) = self.boot(description.boot.clone());
        check_isolation(&boot)?;
        let new = self.service.bundles.begin(&machine.id)?;
        if description.has_setup_script {
            new.set_setup_script(&members.setup_script()?)?;
        }
        for layer in &description.layers {
            members.layer(layer.file.as_str(), &new.disk_file(&layer.file))?;
        }
        let base = if description.has_base {
            Some(self.import_base(&description, &mut members)?)
        } else {
            None
        };
        if description.has_image {
            let image = members.image(self.service.bundles.directory())?;
            let images = &self.service.images;
            let loaded = images.load(&self.images, image, &self.load, &|_| {});
            loaded.map_err(ImageError::from)?;
        }
        machine_archive::finish(archive)?;
        counter.report();
        for note in notes {
            self.client.report(Progress::Note(note));
        }
        adopt_layers(&new, &description, base)?;
        // An archive has no memory, whatever its snapshots say.
        let snapshots = description.snapshots.iter().cloned();
        let snapshots = snapshots.map(|it| Snapshot { memory: None, ..it });
        new.set_snapshots(&snapshots.collect::<Vec<_>>())?;
        self.set_occasion(&new, &description, &machine)?;
        Ok(Imported {
            new,
            machine,
            boot,
            _images: self.images,
        })
    }

    fn import_base<R: Read>(
        &self,
        description: &Description,
        members: &mut ArchiveReader<'_, R>,
    ) -> Result<PathBuf, ImportError> {
        let image = description.machine.image.descriptor.digest.parse();
        let image: Digest = image.map_err(ImportError::Digest)?;
        let images = &self.service.images;
        images.import_base(&self.images, &image, |to| Ok(members.base(to)?))
    }

    /// Returns the machine's configuration on this host, where it is its importer's.
    fn machine(&self, description: &Description) -> MachineConfiguration {
        let machine = &description.machine;
        MachineConfiguration {
            id: self.request.name.clone().unwrap_or(machine.id.clone()),
            home: self.request.home.components().collect(),
            user_setup: self.user.clone(),
            ..machine.clone()
        }
    }

    /// Decides what the first boot on this host sets up. Under its own name, the machine was moved
    /// or restored, and keeps its ids and keys. Under another name it is a copy.
    fn set_occasion(
        &self,
        new: &NewBundle,
        description: &Description,
        machine: &MachineConfiguration,
    ) -> Result<(), BundleError> {
        let was = &description.machine;
        let has_same_user = (&machine.user_setup, &machine.home) == (&was.user_setup, &was.home);
        if !description.is_provisioned || !has_same_user {
            Ok(())
        } else if machine.id == was.id {
            new.set_moved()
        } else {
            new.set_cloned()
        }
    }

    /// Returns the machine's settings on this host, and what the user should know about them.
    fn boot(&self, mut boot: BootConfiguration) -> (BootConfiguration, Vec<String>) {
        let mut notes = Vec::new();
        if let Some(kernel) = boot.kernel.take_if(|kernel| !kernel.exists()) {
            notes.push(format!(
                "The kernel {} does not exist on this host; the machine gets the default kernel \
                 (change it with: container machine set kernel=PATH)",
                kernel.display()
            ));
        }
        if !std::mem::take(&mut boot.sockets).is_empty() {
            // Others may have made the archive, which must not open sockets of this host.
            notes.push(
                "The machine's sockets are not forwarded on this host (forward them with: \
                 container machine set socket=PATH)"
                    .to_owned(),
            );
        }
        if !std::mem::take(&mut boot.mounts).is_empty() {
            // For the same reason.
            notes.push(
                "The machine's mounts are not those of this host (mount directories with: \
                 container machine set mount=SOURCE:TARGET)"
                    .to_owned(),
            );
        }
        if let Some(home_mount) = self.request.home_mount {
            boot.home_mount = home_mount;
        }
        (boot, notes)
    }
}

/// Connects the layers to each other and to the base, whatever they were on before, and puts the
/// disk on its layer.
fn adopt_layers(
    new: &NewBundle,
    description: &Description,
    base: Option<PathBuf>,
) -> Result<(), ImportError> {
    let base = base.map_or(Backing::None, Backing::Base);
    for layer in &description.layers {
        let on = layer.on.as_ref();
        let on = on.map(|on| Backing::Layer(new.disk_file(on)));
        let file = new.disk_file(&layer.file);
        disk::adopt(&file, &on.unwrap_or(base.clone()))?;
        let synced = File::open(&file).and_then(|file| file.sync_all());
        synced.map_err(ImportError::Sync)?;
    }
    let (layer, overlay) = (&description.disk, DiskFile::random());
    let capacity = disk::read_capacity(&new.disk_file(layer))?;
    disk::create_on_layer(layer.as_str(), &new.disk_file(&overlay), capacity)?;
    Ok(new.use_disk_file(&overlay)?)
}

/// Reader that reports the number of bytes read.
struct CountingReader<'a, R> {
    source: R,
    bytes: u64,
    counter: &'a ByteCounter,
}

impl<R: Read> Read for CountingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.bytes += count as u64;
        self.counter.update(self.bytes);
        Ok(count)
    }
}
