//! `set`: changes the settings of the next boot.

use container_api::{AllowChange, BootChange, Changed, FailureKind};
use container_engine::disk::{self, DiskError};
use container_machine::{Bundle, BundleError, DiskCapacity, MachineId};
use container_protocol::{MountProblem, MountReply};
use container_runtime::FindError;

use crate::{
    boot_change,
    checks::{CheckError, check_isolation, check_kernel, check_resources},
    failure::RequestError,
    forwarded_sockets::{check_sockets, resolve_sockets, socket_problems},
    mounts::{self, mount_problems},
    published_ports::publish_problems,
    runtime::RuntimeError,
    service::Service,
};

/// The settings of a machine cannot be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("cannot shrink the machine's disk from {} MiB to {requested}", .current >> 20)]
    Shrink {
        requested: DiskCapacity,
        /// In bytes.
        current: u64,
    },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Publish(FindError),
    #[error("the sockets are only forwarded after the next boot: {0}")]
    ForwardSockets(FindError),
    #[error("the egress rules only apply after the next boot: {0}")]
    ApplyEgress(FindError),
    #[error("the machine cannot change its mounts: {0}")]
    MountDirectories(FindError),
    #[error("cannot remove the mount at {0}")]
    MountInUse(MountProblem),
    #[error("the idle time only applies after the next boot: {0}")]
    ApplyIdleTime(FindError),
}

impl RequestError for SetError {
    fn kind(&self) -> FailureKind {
        match self {
            SetError::Bundle(error) => error.kind(),
            SetError::Check(error) => error.kind(),
            SetError::Runtime(error) => error.kind(),
            SetError::Shrink { .. } | SetError::MountInUse(_) => FailureKind::Invalid,
            SetError::Disk(_)
            | SetError::MountDirectories(_)
            | SetError::Publish(_)
            | SetError::ForwardSockets(_)
            | SetError::ApplyEgress(_)
            | SetError::ApplyIdleTime(_) => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Changes the machine's boot configuration: either all of the change is applied or nothing.
    pub(crate) async fn set(
        &self,
        id: &MachineId,
        change: &BootChange,
    ) -> Result<Changed, SetError> {
        let _lock = self.locks.lock(id).await;
        let bundle = self.bundles.get(id)?;
        let boot = boot_change::apply(bundle.boot_configuration()?, change);
        let mut boot = boot.map_err(CheckError::Allow)?;
        check_resources(&boot)?;
        check_isolation(&boot)?;
        let runtime_directory = self.runtime_directory(id, &bundle)?;
        if change.sockets.is_some() {
            // `inspect` shows default paths, which may be given back.
            let sockets = boot.sockets.into_iter();
            boot.sockets = sockets
                .map(|socket| socket.without_default_path(&runtime_directory))
                .collect();
            check_sockets(&boot.sockets, &self.directories, &runtime_directory)
                .map_err(CheckError::Forward)?;
        }
        let home = bundle.configuration()?.home;
        if let Some(change) = &change.mounts {
            boot.mounts = mounts::changed(boot.mounts, change, &home, &self.directories)
                .map_err(CheckError::Mount)?;
        }
        if change.mounts.is_some() || change.home_mount.is_some() {
            mounts::check_places(&boot.mounts, &home, boot.home_mount)
                .map_err(CheckError::Mount)?;
        }
        check_capacity(change, &bundle)?;
        // Only if the change depends on it: a machine whose kernel was deleted can still be
        // changed.
        if change.kernel.is_some() || change.virtualization == Some(true) {
            check_kernel(&self.directories, &boot)?;
        }
        let runtime = self.runtime(id).await?;
        let mut problems = Vec::new();
        // Before anything is changed, because mounts that are in use are not removed.
        if let (Some(runtime), Some(_)) = (&runtime, &change.mounts) {
            let shares = mounts::shares(&boot.mounts, &self.directories);
            match runtime.set_mounts(shares).await {
                Ok(MountReply::Done(found)) => problems = mount_problems(&found),
                Ok(MountReply::InUse(mount)) => return Err(SetError::MountInUse(mount)),
                Err(error) => return Err(SetError::MountDirectories(error)),
            }
        }
        bundle.set_boot_configuration(&boot)?;
        // Before the rest, because the user may rely on it.
        let changes_egress = change.egress.is_some()
            || change.isolated.is_some()
            || change.allow != AllowChange::default();
        if let (Some(runtime), true) = (&runtime, changes_egress) {
            let applied = runtime.set_egress(boot.egress_rules()).await;
            applied.map_err(SetError::ApplyEgress)?;
        }
        if let (Some(runtime), Some(idle)) = (&runtime, change.idle_suspend) {
            let applied = runtime.suspend_when_idle(idle).await;
            applied.map_err(SetError::ApplyIdleTime)?;
        }
        // Published ports and forwarded sockets apply to a running machine at once as well,
        // everything below at its next boot.
        if let (Some(runtime), Some(publish)) = (&runtime, &change.publish) {
            let ports = runtime.publish(publish.clone()).await;
            problems.extend(publish_problems(&ports.map_err(SetError::Publish)?));
        }
        if let (Some(runtime), Some(_)) = (&runtime, &change.sockets) {
            let (sockets, _) = resolve_sockets(&boot.sockets, &runtime_directory);
            let forwarded = runtime.forward_sockets(sockets).await;
            problems.extend(socket_problems(
                &forwarded.map_err(SetError::ForwardSockets)?,
            ));
        }
        let other_changes = BootChange {
            mounts: None,
            allow: AllowChange::default(),
            egress: None,
            publish: None,
            sockets: None,
            idle_suspend: None,
            ..change.clone()
        };
        Ok(Changed {
            running: runtime.is_some() && other_changes != BootChange::default(),
            suspended: bundle.is_suspended() && other_changes != BootChange::default(),
            problems,
        })
    }
}

/// Refuses a disk smaller than the current one.
fn check_capacity(change: &BootChange, bundle: &Bundle) -> Result<(), SetError> {
    let Some(requested) = change.disk_capacity else {
        return Ok(());
    };
    let current = disk::read_capacity(&bundle.disk())?;
    if requested.bytes() < current {
        return Err(SetError::Shrink { requested, current });
    }
    Ok(())
}
