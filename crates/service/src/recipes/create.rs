//! `create`: from an image's reference to a machine.

use std::{fs, path::PathBuf};

use container_api::{CreateRequest, Progress};
use container_image::{
    Image, Platform as ImagePlatform, Progress as ImageProgress, PullOptions, Reference,
};
use container_machine::{
    BootConfiguration, Descriptor, HomeMount, ImageDescription, MachineConfiguration, MachineId,
    Platform, UserSetup, home_directory,
};

use super::Listener;
use crate::{
    Service,
    configuration::{Configuration, changed},
    error::ServiceError,
    snapshot::in_seconds,
};

/// What was decided before anything is fetched.
struct Plan {
    id: MachineId,
    reference: Reference,
    platform: ImagePlatform,
    options: PullOptions,
    boot: BootConfiguration,
    user: UserSetup,
    home: PathBuf,
}

impl Service {
    /// Makes a machine. If a step fails, or `given_up` comes first, nothing is left of it but
    /// what was fetched.
    pub(crate) async fn create(
        &self,
        request: &CreateRequest,
        listener: Listener<'_>,
        given_up: impl Future<Output = ()>,
    ) -> Result<MachineId, ServiceError> {
        let plan = self.plan(request)?;
        let _lock = self.locks.lock(&plan.id).await;
        self.bundles.ensure_free(&plan.id)?;
        let made = tokio::select! {
            made = self.make(&plan, request, listener) => made,
            () = given_up => Err(ServiceError::GivenUp),
        };
        if made.is_err() {
            self.unmake(&plan.id).await;
        }
        made.map(|()| plan.id)
    }

    async fn make(
        &self,
        plan: &Plan,
        request: &CreateRequest,
        listener: Listener<'_>,
    ) -> Result<(), ServiceError> {
        let image = self.pull(plan, listener).await?;
        let base = self.base(&image, listener).await?;
        let new = self.bundles.begin(&plan.id)?;
        container_engine::create_overlay(&base, &new.disk())?;
        let bundle = new.finish(&configuration(plan, &image), &plan.boot)?;
        if request.set_default || self.bundles.default_machine()?.is_none() {
            self.bundles.set_default_machine(&plan.id)?;
        }
        if request.start {
            self.boot_locked(&plan.id, &bundle, listener).await?;
        }
        Ok(())
    }

    /// Removes what there is of a machine that could not be made. Its boot log is kept as
    /// `failed-boot.log` in the data directory: the reason may stand there.
    async fn unmake(&self, id: &MachineId) {
        let Ok(bundle) = self.bundles.get(id) else {
            return;
        };
        if let Err(error) = self.stop_running(id).await {
            tracing::error!("stopping the unfinished machine {id}: {error}");
        }
        let kept = self.world.data.join("failed-boot.log");
        if let Err(error) = fs::copy(bundle.boot_log(), kept) {
            tracing::debug!("keeping the boot log of {id}: {error}");
        }
        if let Err(error) = self.bundles.remove(id) {
            tracing::error!("removing the unfinished machine {id}: {error}");
        }
    }

    /// Checks all that can be checked before the work begins.
    fn plan(&self, request: &CreateRequest) -> Result<Plan, ServiceError> {
        let configuration = Configuration::read(&self.world.config)?;
        let reference = Reference::parse(&request.image, &configuration.registry.domain)?;
        let id = match &request.name {
            Some(name) => {
                let id = name.parse()?;
                self.bundles.ensure_free(&id)?;
                id
            }
            None => {
                let id = MachineId::from_image(reference.repository(), reference.tag_or_digest())?;
                self.bundles
                    .ensure_free(&id)
                    .map_err(|_| ServiceError::DefaultNameTaken(id.clone()))?;
                id
            }
        };
        let boot = changed(configuration.boot_defaults(), &request.boot);
        super::set::check(&boot)?;
        let home = home_directory().map_err(ServiceError::User)?;
        check_home(&boot, &home)?;
        let platform = match &request.platform {
            Some(platform) => platform.parse()?,
            None => ImagePlatform::host(),
        };
        let mut options = PullOptions::default();
        if let Some(scheme) = &request.scheme {
            options.scheme = scheme.parse()?;
        }
        if let Some(downloads) = request.max_concurrent_downloads {
            options.max_concurrent_downloads = downloads.max(1) as usize;
        }
        Ok(Plan {
            id,
            reference,
            platform,
            options,
            boot,
            user: UserSetup::current().map_err(ServiceError::User)?,
            home,
        })
    }

    async fn pull(&self, plan: &Plan, listener: Listener<'_>) -> Result<Image, ServiceError> {
        listener(Progress::step("fetching image"));
        let report = |progress: ImageProgress| listener(as_step("fetching image", &progress));
        let (reference, platform) = (&plan.reference, &plan.platform);
        Ok(self
            .images
            .pull(reference, platform, &plan.options, &report)
            .await?)
    }

    async fn base(&self, image: &Image, listener: Listener<'_>) -> Result<PathBuf, ServiceError> {
        listener(Progress::step("unpacking image"));
        let report = |progress: ImageProgress| listener(as_step("unpacking image", &progress));
        Ok(self.images.base(image, &report).await?)
    }
}

/// Refuses a home that could not be shared.
pub(crate) fn check_home(
    boot: &BootConfiguration,
    home: &std::path::Path,
) -> Result<(), ServiceError> {
    if boot.home_mount == HomeMount::None {
        return Ok(());
    }
    let looked = fs::read_dir(home).map(drop);
    looked.map_err(|source| ServiceError::Home {
        path: home.to_owned(),
        source,
    })
}

fn as_step(step: &str, progress: &ImageProgress) -> Progress {
    Progress {
        step: step.to_owned(),
        done: Some(progress.done),
        total: progress.total,
    }
}

fn configuration(plan: &Plan, image: &Image) -> MachineConfiguration {
    MachineConfiguration {
        created_date: in_seconds(jiff::Timestamp::now()),
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
        init_environment: image.environment.clone(),
        platform: Platform {
            architecture: image.platform.architecture.clone(),
            os: image.platform.os.clone(),
            variant: image.platform.variant.clone(),
        },
        stop_signal: image.stop_signal.clone(),
        user_setup: plan.user.clone(),
    }
}
