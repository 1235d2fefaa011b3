//! `create`: makes a machine from an image.

use std::path::PathBuf;

use container_api::{BootRequest, CreateRequest, FailureKind};
use container_engine::{
    EngineError,
    disk::{self, DiskError},
};
use container_image::{
    Image, ImageError, ImageSources, InvalidPlatform, InvalidScheme, Limits, MachineSettings,
    Platform as ImagePlatform, PullOptions, Reference, ResolveError, StoreError,
};
use container_machine::{
    BootConfiguration, Bundle, BundleError, Descriptor, DiskCapacity, DiskFile, ImageDescription,
    InvalidMachineId, MachineConfiguration, MachineId, Platform, UserSetup,
};
use tokio::time::sleep;

use crate::{
    boot_change,
    checks::{
        CheckError, check_home, check_isolation, check_kernel, check_platform, check_resources,
    },
    configuration::ConfigurationError,
    failure::RequestError,
    forwarded_sockets::check_sockets,
    launch::BootError,
    mounts, progress,
    pull_options::{platform, pull_options, scheme},
    runtime::{POLL_INTERVAL, RuntimeError},
    service::Service,
    stream_client::StreamClient,
    timestamp::whole_seconds,
};

/// A machine cannot be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    Reference(#[from] ResolveError),
    #[error(transparent)]
    Platform(#[from] InvalidPlatform),
    #[error(transparent)]
    Scheme(#[from] InvalidScheme),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Name(#[from] InvalidMachineId),
    #[error("machine {0:?} already exists (choose another name with --name)")]
    DefaultNameTaken(MachineId),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("cannot look up the current user: {0}")]
    User(std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{cause}: the image does not fit on a disk of {capacity} (choose a larger one with --disk-size)"
    )]
    DiskTooSmall {
        capacity: DiskCapacity,
        cause: Box<ImageError>,
    },
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("cancelled: the client has disconnected")]
    Cancelled,
}

impl RequestError for CreateError {
    fn kind(&self) -> FailureKind {
        match self {
            CreateError::Reference(error) => error.kind(),
            CreateError::Image(error) => error.kind(),
            CreateError::Bundle(error) => error.kind(),
            CreateError::Check(error) => error.kind(),
            CreateError::Boot(error) => error.kind(),
            CreateError::DefaultNameTaken(_) => FailureKind::Exists,
            CreateError::Platform(_)
            | CreateError::Scheme(_)
            | CreateError::Name(_)
            | CreateError::DiskTooSmall { .. } => FailureKind::Invalid,
            CreateError::Configuration(_)
            | CreateError::Engine(_)
            | CreateError::Disk(_)
            | CreateError::User(_)
            | CreateError::Store(_)
            | CreateError::Cancelled => FailureKind::Failed,
        }
    }
}

/// A validated request.
struct CreatePlan {
    id: MachineId,
    /// Whether the user chose the name; otherwise it is made from the image's.
    is_named: bool,
    reference: Reference,
    platform: ImagePlatform,
    pull: PullOptions,
    limits: Limits,
    no_settings: bool,
    boot: BootConfiguration,
    user: UserSetup,
    home: PathBuf,
    start: bool,
    set_default: bool,
}

impl Service {
    /// Creates a machine. If a step fails or the client disconnects, nothing of it remains, except
    /// a pulled image.
    pub(crate) async fn create(
        &self,
        request: &CreateRequest,
        client: &StreamClient,
    ) -> Result<MachineId, CreateError> {
        let plan = self.plan_create(request)?;
        let _lock = self.locks.lock_for(client, &plan.id).await;
        self.ensure_name_is_free(&plan)?;
        let created = self.create_planned(&plan, client).await;
        if created.is_err() {
            self.remove_incomplete(&plan.id).await;
        }
        created.map(|()| plan.id)
    }

    async fn create_planned(
        &self,
        plan: &CreatePlan,
        client: &StreamClient,
    ) -> Result<(), CreateError> {
        let bundle = tokio::select! {
            bundle = self.create_bundle(plan, client) => bundle?,
            () = client.disconnected() => return Err(CreateError::Cancelled),
        };
        if plan.start {
            self.boot_or_cancel(&plan.id, &bundle, client).await?;
        }
        if plan.set_default || self.bundles.default_machine()?.is_none() {
            self.bundles.set_default_machine(&plan.id)?;
        }
        Ok(())
    }

    /// Refuses everything that can be refused before the image is pulled.
    fn plan_create(&self, request: &CreateRequest) -> Result<CreatePlan, CreateError> {
        let configuration = self.checked_configuration()?;
        let domain = &configuration.registry.domain;
        let reference = self.images.reference(&request.image, domain)?;
        let id = match &request.name {
            Some(name) => name.parse()?,
            None => MachineId::from_image(reference.repository(), reference.tag())?,
        };
        let boot = boot_change::apply(configuration.boot_defaults(), &request.boot);
        let mut boot = boot.map_err(CheckError::Allow)?;
        check_resources(&boot)?;
        check_isolation(&boot)?;
        check_sockets(
            &boot.sockets,
            &self.directories,
            &self.directories.runtime_directory(&id),
        )
        .map_err(CheckError::Forward)?;
        // Without a trailing slash or `.` components.
        let home: PathBuf = request.home.components().collect();
        if let Some(change) = &request.boot.mounts {
            boot.mounts = mounts::changed(boot.mounts, change, &home, &self.directories)
                .map_err(CheckError::Mount)?;
            mounts::check_places(&boot.mounts, &home, boot.home_mount)
                .map_err(CheckError::Mount)?;
        }
        check_kernel(&self.directories, &boot)?;
        container_engine::engine(&configuration.engine).check()?;
        check_home(&boot, &home)?;
        let platform = platform(request.platform.as_deref())?;
        check_platform(&platform)?;
        let mut pull = pull_options(
            &self.directories,
            &configuration,
            &request.environment,
            scheme(request.scheme.as_deref())?,
            request.max_concurrent_downloads,
        );
        pull.sources = ImageSources::LocalFirst(configuration.image.local_stores.clone());
        Ok(CreatePlan {
            id,
            is_named: request.name.is_some(),
            reference,
            platform,
            pull,
            limits: configuration.image.limits(),
            no_settings: request.no_settings,
            boot,
            user: UserSetup::current().map_err(CreateError::User)?,
            home,
            start: request.start,
            set_default: request.set_default,
        })
    }

    fn ensure_name_is_free(&self, plan: &CreatePlan) -> Result<(), CreateError> {
        match self.bundles.ensure_free(&plan.id) {
            Err(BundleError::Exists(id)) if !plan.is_named => {
                Err(CreateError::DefaultNameTaken(id))
            }
            other => Ok(other?),
        }
    }

    /// Pulls the image, and writes the machine's bundle with a disk on top of the image's base.
    async fn create_bundle(
        &self,
        plan: &CreatePlan,
        client: &StreamClient,
    ) -> Result<Bundle, CreateError> {
        // Held until the bundle exists: from then on it is a use of the image and its base.
        let _guard = self.images.lock_shared().await?;
        let (mut image, base) = self.pull_to_base(plan, client).await?;
        if plan.no_settings {
            image.settings = MachineSettings::default();
        }
        let new = self.bundles.begin(&plan.id)?;
        let file = DiskFile::random();
        disk::create_overlay(&base, &new.disk_file(&file))?;
        new.use_disk_file(&file)?;
        if let Some(script) = &image.settings.setup_script {
            new.set_setup_script(script)?;
        }
        Ok(new.finish(&machine_configuration(plan, &image), &plan.boot)?)
    }

    async fn pull_to_base(
        &self,
        plan: &CreatePlan,
        client: &StreamClient,
    ) -> Result<(Image, PathBuf), CreateError> {
        let report = progress::image_listener(client);
        let capacity = plan.boot.disk_capacity;
        let images = self.images.clone().with_limits(plan.limits);
        let pulled = images
            .pull_to_base(
                &plan.reference,
                &plan.platform,
                &plan.pull,
                capacity.bytes(),
                &report,
            )
            .await;
        pulled.map_err(|cause| {
            if cause.is_out_of_space() {
                CreateError::DiskTooSmall {
                    capacity,
                    cause: Box::new(cause),
                }
            } else {
                cause.into()
            }
        })
    }

    /// Boots the machine. If the client disconnects, the boot is stopped, and the runtime has ended
    /// when this returns.
    async fn boot_or_cancel(
        &self,
        id: &MachineId,
        bundle: &Bundle,
        client: &StreamClient,
    ) -> Result<(), CreateError> {
        let request = BootRequest::default();
        let mut boot = std::pin::pin!(self.boot_locked(id, bundle, &request, client));
        tokio::select! {
            booted = &mut boot => return Ok(booted.map(drop)?),
            () = client.disconnected() => {}
        }
        // Stopped repeatedly, since the runtime may not have been started yet.
        loop {
            if let Err(error) = self.stop_runtime(id).await {
                tracing::warn!("stop of incomplete machine {id:?} failed: {error}");
            }
            tokio::select! {
                _ = &mut boot => return Err(CreateError::Cancelled),
                () = sleep(POLL_INTERVAL) => {}
            }
        }
    }

    /// Removes what exists of a machine whose creation failed.
    async fn remove_incomplete(&self, id: &MachineId) {
        match self.remove_machine(id).await {
            Ok(_) | Err(RuntimeError::Bundle(BundleError::NotFound(_))) => {}
            Err(error) => tracing::error!("removal of incomplete machine {id:?} failed: {error}"),
        }
    }
}

fn machine_configuration(plan: &CreatePlan, image: &Image) -> MachineConfiguration {
    MachineConfiguration {
        created_date: whole_seconds(jiff::Timestamp::now()),
        home: plan.home.clone(),
        id: plan.id.clone(),
        image: ImageDescription {
            descriptor: Descriptor {
                digest: image.descriptor.digest.to_string(),
                media_type: image.descriptor.media_type.clone(),
                size: image.descriptor.size,
            },
            reference: plan.reference.to_string(),
        },
        init_environment: image.config.environment.clone(),
        platform: Platform {
            architecture: image.config.platform.architecture.clone(),
            os: image.config.platform.os.clone(),
            variant: image.config.platform.variant.clone(),
        },
        shell: image.settings.shell.clone(),
        stop_signal: image.config.stop_signal.clone(),
        user_setup: plan.user.clone(),
    }
}
