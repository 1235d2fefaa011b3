//! `create`: from an image's reference to a machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use container_api::{CreateRequest, Layers, Progress, Step};
use container_image::{
    Image, Limits, Platform as ImagePlatform, Progress as ImageProgress, PullOptions, Reference,
    Step as ImageStep,
};
use container_machine::{
    BootConfiguration, Bundle, BundleError, Descriptor, HomeMount, ImageDescription,
    MachineConfiguration, MachineId, Platform, UserSetup,
};
use tokio::time::sleep;

use super::ASK_AGAIN;
use crate::{
    Service,
    caller::Caller,
    configuration::{Configuration, changed},
    error::ServiceError,
    images,
    snapshot::in_seconds,
};

/// What was decided before anything is fetched.
struct Plan {
    id: MachineId,
    is_named: bool,
    reference: Reference,
    platform: ImagePlatform,
    options: PullOptions,
    limits: Limits,
    boot: BootConfiguration,
    user: UserSetup,
    home: PathBuf,
    start: bool,
    set_default: bool,
}

impl Service {
    /// Makes a machine. If a step fails, or the caller goes away, nothing is left of it but what
    /// was fetched.
    pub(crate) async fn create(
        &self,
        request: &CreateRequest,
        caller: &Caller,
    ) -> Result<MachineId, ServiceError> {
        let plan = self.plan(request)?;
        let _lock = self.locks.lock_for(caller, &plan.id).await;
        self.ensure_free(&plan)?;
        let made = self.make(&plan, caller).await;
        if made.is_err() {
            self.unmake(&plan.id).await;
        }
        made.map(|()| plan.id)
    }

    async fn make(&self, plan: &Plan, caller: &Caller) -> Result<(), ServiceError> {
        let bundle = tokio::select! {
            bundle = self.make_bundle(plan, caller) => bundle?,
            () = caller.gone() => return Err(ServiceError::GivenUp),
        };
        if plan.start {
            self.boot_unless_given_up(&plan.id, &bundle, caller).await?;
        }
        if plan.set_default || self.bundles.default_machine()?.is_none() {
            self.bundles.set_default_machine(&plan.id)?;
        }
        Ok(())
    }

    async fn make_bundle(&self, plan: &Plan, caller: &Caller) -> Result<Bundle, ServiceError> {
        // Until the machine is there, for which all of it is kept.
        let _hold = self.images.hold().await?;
        let report = |progress| caller.tell(told(progress));
        let (reference, platform) = (&plan.reference, &plan.platform);
        let capacity = plan.boot.disk_capacity;
        let images = self.images.clone().with_limits(plan.limits);
        let (image, base) = images
            .pull_to_base(
                reference,
                platform,
                &plan.options,
                capacity.bytes(),
                &report,
            )
            .await
            .map_err(|source| match source.is_of_size() {
                true => ServiceError::DiskTooSmall {
                    capacity,
                    source: Box::new(source),
                },
                false => source.into(),
            })?;
        let new = self.bundles.begin(&plan.id)?;
        container_engine::create_overlay(&base, &new.disk())?;
        if let Some(script) = &image.settings.setup_script {
            new.set_setup_script(script)?;
        }
        Ok(new.finish(&configuration(plan, &image), &plan.boot)?)
    }

    /// Boots the machine. If the caller goes away it is stopped, and its runtime has ended when
    /// this returns.
    async fn boot_unless_given_up(
        &self,
        id: &MachineId,
        bundle: &Bundle,
        caller: &Caller,
    ) -> Result<(), ServiceError> {
        let mut booting = std::pin::pin!(self.boot_locked(id, bundle, caller));
        tokio::select! {
            booted = &mut booting => return booted.map(drop),
            () = caller.gone() => {}
        }
        // Its runtime may not be there yet, so it is stopped until it is gone.
        loop {
            if let Err(error) = self.stop_running(id).await {
                tracing::warn!("stopping the unfinished machine {id}: {error}");
            }
            tokio::select! {
                _ = &mut booting => return Err(ServiceError::GivenUp),
                () = sleep(ASK_AGAIN) => {}
            }
        }
    }

    /// Removes what there is of a machine that could not be made.
    async fn unmake(&self, id: &MachineId) {
        match self.remove(id).await {
            Ok(_) | Err(ServiceError::Bundle(BundleError::NotFound(_))) => {}
            Err(error) => tracing::error!("removing the unfinished machine {id}: {error}"),
        }
    }

    fn ensure_free(&self, plan: &Plan) -> Result<(), ServiceError> {
        match self.bundles.ensure_free(&plan.id) {
            Err(BundleError::Exists(id)) if !plan.is_named => {
                Err(ServiceError::DefaultNameTaken(id))
            }
            other => Ok(other?),
        }
    }

    /// Checks all that can be checked before the work begins.
    fn plan(&self, request: &CreateRequest) -> Result<Plan, ServiceError> {
        let configuration = Configuration::read(&self.world.config)?;
        configuration.check()?;
        let domain = &configuration.registry.domain;
        let reference = self.images.reference(&request.image, domain)?;
        let id = match &request.name {
            Some(name) => name.parse()?,
            None => MachineId::from_image(reference.repository(), reference.tag())?,
        };
        let boot = changed(configuration.boot_defaults(), &request.boot);
        self.check(&boot)?;
        container_engine::engine(&configuration.engine).check()?;
        let home: PathBuf = request.home.components().collect();
        check_home(&boot, &home)?;
        let platform = images::platform(request.platform.as_deref())?;
        check_platform(&platform)?;
        let mut options = self.pull_options(
            &configuration,
            &request.environment,
            request.scheme.as_deref(),
            request.max_concurrent_downloads,
        )?;
        options.local_stores = Some(configuration.image.local_stores.clone());
        Ok(Plan {
            id,
            is_named: request.name.is_some(),
            reference,
            platform,
            options,
            limits: configuration.image.limits(),
            boot,
            user: UserSetup::current().map_err(ServiceError::User)?,
            home,
            start: request.start,
            set_default: request.set_default,
        })
    }
}

/// Refuses a platform whose programs no machine here can run.
fn check_platform(platform: &ImagePlatform) -> Result<(), ServiceError> {
    if platform.os != "linux" {
        return Err(ServiceError::Invalid(format!(
            "a machine runs Linux, and {platform} is something else"
        )));
    }
    Ok(container_runtime::check_architecture(
        &platform.architecture,
    )?)
}

/// Refuses a home that could not be shared.
pub(super) fn check_home(boot: &BootConfiguration, home: &Path) -> Result<(), ServiceError> {
    if boot.home_mount == HomeMount::None {
        return Ok(());
    }
    let refused = |reason: &str| {
        Err(ServiceError::Home {
            path: home.to_owned(),
            reason: reason.to_owned(),
        })
    };
    if !home.is_absolute() {
        return refused("its path is not absolute");
    }
    if home.parent().is_none() {
        return refused("it is the root of the file system");
    }
    match fs::read_dir(home) {
        Ok(_) => Ok(()),
        Err(error) => refused(&error.to_string()),
    }
}

/// What the image's own steps are to whoever waits for a machine or an image.
pub(crate) fn told(progress: ImageProgress) -> Progress {
    let name = match progress.step {
        ImageStep::Resolving => return Progress::step("fetching image"),
        ImageStep::Offline { reason } => {
            return Progress::Note(format!(
                "Using the image as it was fetched before: {reason}"
            ));
        }
        ImageStep::CredentialsUnknown { reason } => {
            return Progress::Note(format!(
                "Credentials for registries were passed over: {reason}"
            ));
        }
        ImageStep::EngineUnknown { reason } => {
            return Progress::Note(format!("An engine's images were passed over: {reason}"));
        }
        ImageStep::SettingsUnknown { reason } => {
            return Progress::Note(format!(
                "Asking for machine settings of the image failed: {reason}; going on with those that it had before, if any"
            ));
        }
        ImageStep::OnePlatform { platform } => {
            return Progress::Note(format!(
                "Of the platforms that this image is for, only {platform} is here: that one is pushed alone"
            ));
        }
        ImageStep::Uploading => "pushing image",
        ImageStep::TakingOver { place } => {
            return Progress::step(format!("fetching image from {place}"));
        }
        ImageStep::Downloading => "fetching image",
        ImageStep::Unpacking => "unpacking image",
    };
    Progress::Step(Step {
        name: name.to_owned(),
        layers: progress.layers.map(|layers| Layers {
            done: layers.done,
            total: layers.total,
        }),
        done: Some(progress.done),
        total: progress.total,
    })
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
        shell: image.settings.shell.clone(),
        stop_signal: image.stop_signal.clone(),
        user_setup: plan.user.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_must_be_a_directory_of_its_own() {
        let boot = Configuration::default().boot_defaults();
        let there = tempfile::tempdir().unwrap();
        assert!(check_home(&boot, there.path()).is_ok());
        let refused = |home: &Path| check_home(&boot, home).unwrap_err().to_string();
        assert!(refused(&there.path().join("none")).contains("No such file"));
        assert!(refused(Path::new("/")).contains("root of the file system"));
        assert!(refused(Path::new("")).contains("not absolute"));
        let file = there.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(refused(&file).contains("Not a directory"));
        let without = BootConfiguration {
            home_mount: HomeMount::None,
            ..boot
        };
        assert!(check_home(&without, Path::new("/none")).is_ok());
    }
}
