//! `commit`: makes an image from a machine: the layers of its base image, and one with the changes.
//!
//! A running machine is read while it runs, paused if the request asks for it. A stopped machine is
//! booted only to read its disk: its init is not started, and nothing on its disk changes.

use container_api::{CommitRequest, Committed, FailureKind, Progress};
use container_engine::disk::{self, DiskError};
use container_image::{
    Change, CommitError as ImageCommitError, CommitOptions, Image, ImageError, InvalidChange,
    InvalidLayerFormat, Platform, PullOptions, Reference, ReferenceError, Scheme, StoreError,
    write_listing_of_base,
};
use container_machine::{Bundle, BundleError, MachineConfiguration, MachineId};
use container_runtime::{ChangesError, Purpose, Runtime};
use tokio::task::spawn_blocking;

use super::disk_boot::DiskBootError;
use crate::{
    configuration::ConfigurationError,
    failure::{RequestError, TaskPanicked},
    progress::{self, ByteCounter},
    pull_options::pull_options,
    runtime::RuntimeError,
    service::Service,
    stream_client::StreamClient,
};

/// A machine cannot be committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Change(#[from] InvalidChange),
    #[error(transparent)]
    Compression(#[from] InvalidLayerFormat),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the base image of machine {id:?} is incomplete in the store, and cannot be fetched again: {cause}"
    )]
    BaseImage {
        id: MachineId,
        cause: Box<ImageError>,
    },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Boot(#[from] DiskBootError),
    #[error("machine {0:?} is suspended (resume it first with: container machine start {0})")]
    Suspended(MachineId),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("cannot read the changes of machine {id:?}: {cause}")]
    Changes { id: MachineId, cause: ChangesError },
    #[error("cannot cancel the transfer of changes: {0}")]
    Stopper(std::io::Error),
    #[error("cannot commit machine {id:?}: {cause}")]
    Image {
        id: MachineId,
        cause: ImageCommitError,
    },
    #[error(transparent)]
    TaskPanicked(#[from] TaskPanicked),
    #[error("cancelled: the client has disconnected")]
    Cancelled,
}

impl RequestError for CommitError {
    fn kind(&self) -> FailureKind {
        match self {
            CommitError::Bundle(error) => error.kind(),
            CommitError::Runtime(error) => error.kind(),
            CommitError::Boot(error) => error.kind(),
            CommitError::Suspended(_)
            | CommitError::Reference(_)
            | CommitError::Change(_)
            | CommitError::Compression(_)
            | CommitError::Image {
                cause: ImageCommitError::Change(_) | ImageCommitError::Digest(_),
                ..
            } => FailureKind::Invalid,
            CommitError::Configuration(_)
            | CommitError::Store(_)
            | CommitError::BaseImage { .. }
            | CommitError::Disk(_)
            | CommitError::Changes { .. }
            | CommitError::Stopper(_)
            | CommitError::Image { .. }
            | CommitError::TaskPanicked(_)
            | CommitError::Cancelled => FailureKind::Failed,
        }
    }
}

/// A validated request.
struct CommitPlan {
    reference: Reference,
    options: CommitOptions,
    pause: bool,
    /// Options for the case that the base image must be fetched again.
    pull: PullOptions,
}

impl Service {
    /// Makes an image from the machine. If a step fails or the client disconnects, the reference is
    /// unchanged.
    pub(crate) async fn commit(
        &self,
        id: &MachineId,
        request: CommitRequest,
        client: &StreamClient,
    ) -> Result<Committed, CommitError> {
        let plan = self.plan_commit(request)?;
        let _lock = self.locks.lock_for(client, id).await;
        let bundle = self.bundles.get(id)?;
        let machine = bundle.configuration()?;
        // Held until the new image has a name: its blobs have no other user until then.
        let _guard = self.images.lock_shared().await?;
        let base = tokio::select! {
            base = self.base_image(id, &machine, &plan, client) => base?,
            () = client.disconnected() => return Err(CommitError::Cancelled),
        };
        if let Some(runtime) = self.booted_runtime(id).await? {
            return self
                .commit_changes(id, &bundle, &runtime, base, plan, client)
                .await;
        }
        // Its disk is mounted in its saved memory.
        if bundle.is_suspended() {
            return Err(CommitError::Suspended(id.clone()));
        }
        let (runtime, _logs) = self
            .boot_for_disk(id, &bundle, Purpose::ReadDisk, client)
            .await?;
        let committed = self
            .commit_changes(id, &bundle, &runtime, base, plan, client)
            .await;
        self.stop_runtime(id).await?;
        committed
    }

    fn plan_commit(&self, request: CommitRequest) -> Result<CommitPlan, CommitError> {
        let configuration = self.configuration()?;
        let reference = Reference::parse(&request.reference, &configuration.registry.domain)?;
        let changes = request.changes.iter().map(|change| change.parse());
        let changes: Vec<Change> = changes.collect::<Result<_, _>>()?;
        let compression = request.compression.as_deref().unwrap_or("gzip");
        let pull = pull_options(
            &self.directories,
            &configuration,
            &request.environment,
            Scheme::default(),
            None,
        );
        Ok(CommitPlan {
            reference,
            options: CommitOptions {
                author: request.author,
                message: request.message,
                changes,
                format: compression.parse()?,
            },
            pause: request.pause,
            pull,
        })
    }

    /// Returns the image that the machine was made from, which is fetched again if it is
    /// incomplete.
    async fn base_image(
        &self,
        id: &MachineId,
        machine: &MachineConfiguration,
        plan: &CommitPlan,
        client: &StreamClient,
    ) -> Result<Image, CommitError> {
        // By digest: the tag may have moved since.
        let image = Reference::parse(&machine.image.reference, "docker.io")?;
        let digest = &machine.image.descriptor.digest;
        let pinned = format!("{}/{}@{digest}", image.registry(), image.repository());
        let pinned = Reference::parse(&pinned, "docker.io")?;
        let platform = Platform::new(
            &machine.platform.os,
            &machine.platform.architecture,
            machine.platform.variant.as_deref(),
        );
        let report = progress::image_listener(client);
        let pulled = self.images.pull(&pinned, &platform, &plan.pull, &report);
        pulled.await.map_err(|cause| CommitError::BaseImage {
            id: id.clone(),
            cause: Box::new(cause),
        })
    }

    /// Reads the machine's changes, and stores them as a layer on top of the base image.
    async fn commit_changes(
        &self,
        id: &MachineId,
        bundle: &Bundle,
        runtime: &Runtime,
        base: Image,
        plan: CommitPlan,
        client: &StreamClient,
    ) -> Result<Committed, CommitError> {
        let counter = ByteCounter::new(client, "reading changes");
        counter.update(0);
        let disk = bundle.disk();
        let base_file = disk::find_base(&disk, &self.images.bases())?.unwrap_or(disk);
        let note_client = client.clone();
        let changes = runtime.changes(
            plan.pause,
            move |to| write_listing_of_base(&base_file, to),
            move |note| note_client.report(Progress::Note(note)),
        );
        let mut changes = changes.await.map_err(|cause| CommitError::Changes {
            id: id.clone(),
            cause,
        })?;
        let stopper = changes.stopper().map_err(CommitError::Stopper)?;
        let images = self.images.clone();
        let mut commit = spawn_blocking(move || {
            let report = |done| counter.update(done);
            let (reference, options) = (&plan.reference, &plan.options);
            let image = images.commit(&base, reference, &mut changes, options, &report)?;
            counter.report();
            Ok(Committed {
                reference: reference.to_string(),
                digest: image.digest.to_string(),
            })
        });
        let committed = tokio::select! {
            committed = &mut commit => committed,
            () = client.disconnected() => {
                // Without further changes the commit fails, and removes what it has written.
                stopper.stop();
                commit.await
            }
        };
        committed
            .map_err(|_| TaskPanicked)?
            .map_err(|cause| CommitError::Image {
                id: id.clone(),
                cause,
            })
    }
}
