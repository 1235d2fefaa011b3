//! `commit`: from a machine to an image of its base's layers and one more, of what has changed.
//!
//! A running machine is read as it runs, paused if that is wanted. One that is stopped is booted
//! to have its disk read, and for nothing else: its init does not run, and nothing of it changes.

use std::cell::Cell;

use container_api::{CommitRequest, Committed, Progress, Step};
use container_image::{
    Change, CommitError, CommitOptions, Image, Platform as ImagePlatform, PullOptions, Reference,
    write_listing_of_base,
};
use container_machine::{Bundle, MachineConfiguration, MachineId};
use container_runtime::{Launch, Purpose, Runtime, launch};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use super::create::told;
use crate::{Service, caller::Caller, configuration::Configuration, error::ServiceError};

/// Bytes between two reports.
const INTERVAL: u64 = 1 << 20;

/// What was decided before anything is read.
struct Plan {
    reference: Reference,
    options: CommitOptions,
    pause: bool,
    fetching: PullOptions,
}

impl Service {
    /// Makes an image of the machine. If a step fails, or the caller goes away, the reference means
    /// what it meant before.
    pub(crate) async fn commit(
        &self,
        id: &MachineId,
        request: CommitRequest,
        caller: &Caller,
    ) -> Result<Committed, ServiceError> {
        let plan = self.plan_commit(request)?;
        let _lock = self.locks.lock_for(caller, id).await;
        let bundle = self.bundles.get(id)?;
        let machine = bundle.configuration()?;
        // Until the new image has its name: see the store's locks.
        let _hold = self.images.hold().await?;
        let base = tokio::select! {
            base = self.base_image(id, &machine, &plan, caller) => base?,
            () = caller.gone() => return Err(ServiceError::GivenUp),
        };
        if let Some(runtime) = self.already_running(id).await? {
            return self.make_image(&bundle, &runtime, base, plan, caller).await;
        }
        let (runtime, _logs) = self.boot_to_read(id, &bundle, caller).await?;
        let made = self.make_image(&bundle, &runtime, base, plan, caller).await;
        self.stop_running(id).await?;
        made
    }

    fn plan_commit(&self, request: CommitRequest) -> Result<Plan, ServiceError> {
        let configuration = Configuration::read(&self.world.config)?;
        let reference = Reference::parse(&request.reference, &configuration.registry.domain)?;
        let changes = request.changes.iter().map(|change| change.parse());
        let changes: Vec<Change> = changes
            .collect::<Result<_, _>>()
            .map_err(CommitError::from)?;
        let compression = request.compression.as_deref().unwrap_or("gzip");
        Ok(Plan {
            reference,
            options: CommitOptions {
                author: request.author,
                message: request.message,
                changes,
                format: compression.parse().map_err(ServiceError::Invalid)?,
            },
            pause: request.pause,
            fetching: self.pull_options(&configuration, &request.environment, None, None)?,
        })
    }

    /// The image that the machine was made from; fetched again if it is not whole.
    async fn base_image(
        &self,
        id: &MachineId,
        machine: &MachineConfiguration,
        plan: &Plan,
        caller: &Caller,
    ) -> Result<Image, ServiceError> {
        // As it was then, whatever its reference means by now.
        let reference = Reference::parse(&machine.image.reference, "docker.io")?;
        let (registry, repository) = (reference.registry(), reference.repository());
        let digest = &machine.image.descriptor.digest;
        let exact = format!("{registry}/{repository}@{digest}");
        let exact = Reference::parse(&exact, "docker.io")?;
        let platform = &machine.platform;
        let platform = ImagePlatform::new(
            &platform.os,
            &platform.architecture,
            platform.variant.as_deref(),
        );
        let report = |progress| caller.tell(told(progress));
        let pulled = self.images.pull(&exact, &platform, &plan.fetching, &report);
        pulled.await.map_err(|source| ServiceError::Base {
            id: id.clone(),
            source: Box::new(source),
        })
    }

    /// Boots the machine to have its disk read. Returns the place of that boot's logs too: the
    /// machine's own are of its own last boot.
    async fn boot_to_read(
        &self,
        id: &MachineId,
        bundle: &Bundle,
        caller: &Caller,
    ) -> Result<(Runtime, TempDir), ServiceError> {
        let logs = tempfile::tempdir().map_err(ServiceError::CommitSurroundings)?;
        let decided = Launch {
            purpose: Purpose::ReadDisk,
            home: None,
            network: None,
            boot_log: logs.path().join("boot.log"),
            stdio_log: logs.path().join("stdio.log"),
            ..self.decide(id, bundle)?
        };
        bundle.set_runtime_directory(&decided.runtime_directory)?;
        caller.tell(Progress::step("reaching the machine's disk"));
        let launched = launch(&decided, |_| ()).await;
        let runtime = launched.map_err(|source| ServiceError::launch(id, source))?;
        Ok((runtime, logs))
    }

    /// Reads what has changed, and keeps it as an image over the base.
    async fn make_image(
        &self,
        bundle: &Bundle,
        runtime: &Runtime,
        base: Image,
        plan: Plan,
        caller: &Caller,
    ) -> Result<Committed, ServiceError> {
        caller.tell(reading(0));
        let disk = bundle.disk();
        let disk = container_engine::base_of(&disk)?.unwrap_or(disk);
        let notes = caller.clone();
        let changes = runtime.changes(
            plan.pause,
            move |to| write_listing_of_base(&disk, to),
            move |note| notes.tell(Progress::Note(note)),
        );
        let mut changes = changes.await?;
        let stopper = changes
            .stopper()
            .map_err(ServiceError::CommitSurroundings)?;
        let (images, reports) = (self.images.clone(), Reports::to(caller));
        let mut making = spawn_blocking(move || {
            let report = |done| reports.note(done);
            let (reference, options) = (&plan.reference, &plan.options);
            let made = images.commit(&base, reference, &mut changes, options, &report)?;
            reports.tell();
            Ok::<_, CommitError>(Committed {
                reference: reference.to_string(),
                digest: made.digest.to_string(),
            })
        });
        let made = tokio::select! {
            made = &mut making => made,
            () = caller.gone() => {
                stopper.stop();
                making.await
            }
        };
        Ok(made.map_err(|_| ServiceError::Crashed)??)
    }
}

/// Tells a caller now and then how much has been read.
struct Reports {
    caller: Caller,
    done: Cell<u64>,
    told: Cell<u64>,
}

impl Reports {
    fn to(caller: &Caller) -> Reports {
        Reports {
            caller: caller.clone(),
            done: Cell::new(0),
            told: Cell::new(0),
        }
    }

    fn note(&self, done: u64) {
        self.done.set(done);
        if done - self.told.get() >= INTERVAL {
            self.tell();
        }
    }

    fn tell(&self) {
        self.told.set(self.done.get());
        self.caller.tell(reading(self.done.get()));
    }
}

fn reading(done: u64) -> Progress {
    Progress::Step(Step {
        name: "reading changes".to_owned(),
        layers: None,
        done: Some(done),
        total: None,
    })
}
