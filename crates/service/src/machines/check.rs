//! `check`: checks the disk of a stopped machine, and repairs it on request.
//!
//! The file of the disk is checked here, by the engine's tools. The file system on it is checked in
//! the machine's virtual machine, because no file system that a guest has written is read on the
//! host.

use container_api::{CheckMachineRequest, CheckedMachine, FailureKind, Progress};
use container_engine::disk::{self, DiskError, ImageState};
use container_machine::{Bundle, BundleError, MachineId, Snapshot, SnapshotName};
use container_protocol::{CheckReply, CheckRequest, FileSystemState};
use container_runtime::{DiskCheckError, Purpose};
use jiff::Timestamp;
use tokio::task::spawn_blocking;

use super::{disk_boot::DiskBootError, layers::LayerError, snapshots::SnapshotError};
use crate::{
    failure::{RequestError, TaskPanicked},
    runtime::RuntimeError,
    service::Service,
    stream_client::StreamClient,
    timestamp::whole_seconds,
};

/// Name of the snapshot of a disk before its repair. A number follows if it is taken.
const SNAPSHOT: &str = "before-repair";

/// A machine cannot be checked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckMachineError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Boot(#[from] DiskBootError),
    #[error("machine {0:?} is running (stop it first with: container machine stop {0})")]
    Running(MachineId),
    #[error(
        "machine {0:?} is suspended, and its memory belongs to its disk as it is (resume it with: \
         container machine start {0}, and stop it)"
    )]
    Suspended(MachineId),
    #[error("cannot check the file system of machine {id:?}: {cause}")]
    Channel {
        id: MachineId,
        cause: DiskCheckError,
    },
    #[error("cannot check the file system of machine {id:?}: {message}")]
    FileSystem { id: MachineId, message: String },
    #[error(transparent)]
    TaskPanicked(#[from] TaskPanicked),
    #[error("cancelled: the client has disconnected")]
    Cancelled,
}

impl RequestError for CheckMachineError {
    fn kind(&self) -> FailureKind {
        match self {
            CheckMachineError::Bundle(error) => error.kind(),
            CheckMachineError::Layer(error) => error.kind(),
            CheckMachineError::Snapshot(error) => error.kind(),
            CheckMachineError::Runtime(error) => error.kind(),
            CheckMachineError::Boot(error) => error.kind(),
            CheckMachineError::Running(_) | CheckMachineError::Suspended(_) => FailureKind::Invalid,
            CheckMachineError::Disk(_)
            | CheckMachineError::Channel { .. }
            | CheckMachineError::FileSystem { .. }
            | CheckMachineError::TaskPanicked(_)
            | CheckMachineError::Cancelled => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Checks the machine's disk. Before a repair, the disk is kept as a snapshot, which is removed
    /// if there was nothing to repair. If the client disconnects, a check is cancelled, and a
    /// repair is completed.
    pub(crate) async fn check(
        &self,
        id: &MachineId,
        request: &CheckMachineRequest,
        client: &StreamClient,
    ) -> Result<CheckedMachine, CheckMachineError> {
        let _lock = self.locks.lock_for(client, id).await;
        let bundle = self.bundles.get(id)?;
        if self.booted_runtime(id).await?.is_some() {
            return Err(CheckMachineError::Running(id.clone()));
        }
        if bundle.is_suspended() {
            return Err(CheckMachineError::Suspended(id.clone()));
        }
        client.report(Progress::step("checking disk"));
        let (image, mut output) = check_image(&bundle, request.repair).await?;
        if image == ImageState::Damaged {
            // A boot might damage more.
            return Ok(CheckedMachine {
                state: FileSystemState::Damaged,
                output,
                snapshot: None,
            });
        }
        let snapshot = if request.repair {
            Some(self.keep_before_repair(id, &bundle).await?)
        } else {
            None
        };
        let checked = self.check_file_system(id, &bundle, request, client).await;
        let is_changed = !matches!(&checked, Ok((FileSystemState::Clean, _)));
        if let Some(name) = snapshot.as_ref().filter(|_| !is_changed) {
            self.remove_snapshot_of_locked(id, name).await?;
        }
        let (file_system, file_system_output) = checked?;
        output.push_str(&file_system_output);
        let state = match (image, file_system) {
            (ImageState::Repaired, FileSystemState::Clean) => FileSystemState::Repaired,
            (_, file_system) => file_system,
        };
        Ok(CheckedMachine {
            state,
            output,
            snapshot: snapshot.filter(|_| is_changed),
        })
    }

    /// Keeps the disk as a snapshot, and returns the snapshot's name.
    async fn keep_before_repair(
        &self,
        id: &MachineId,
        bundle: &Bundle,
    ) -> Result<SnapshotName, CheckMachineError> {
        let mut snapshots = bundle.snapshots()?;
        let numbered = (2..).map(|number| format!("{SNAPSHOT}-{number}"));
        let name = std::iter::once(SNAPSHOT.to_owned())
            .chain(numbered)
            .filter_map(|name| name.parse::<SnapshotName>().ok())
            .find(|name| snapshots.iter().all(|it| it.name != *name));
        let Some(name) = name else {
            unreachable!("there are more names than snapshots");
        };
        snapshots.push(Snapshot {
            layer: self.layer_of_disk(id, bundle).await?,
            name: name.clone(),
            created: whole_seconds(Timestamp::now()),
            expires: None,
            is_provisioned: bundle.is_provisioned(),
            memory: None,
        });
        bundle.set_snapshots(&snapshots)?;
        Ok(name)
    }

    /// Boots the machine to check its file system. Returns the state and what e2fsck has printed.
    async fn check_file_system(
        &self,
        id: &MachineId,
        bundle: &Bundle,
        request: &CheckMachineRequest,
        client: &StreamClient,
    ) -> Result<(FileSystemState, String), CheckMachineError> {
        let purpose = Purpose::CheckDisk;
        let (runtime, _logs) = self.boot_for_disk(id, bundle, purpose, client).await?;
        client.report(Progress::step("checking file system"));
        let repair = request.repair;
        let reply = tokio::select! {
            reply = runtime.check_disk(CheckRequest { repair }) => {
                reply.map_err(|cause| CheckMachineError::Channel { id: id.clone(), cause })
            }
            // Half a repair may be worse than none.
            () = client.disconnected(), if !repair => Err(CheckMachineError::Cancelled),
        };
        self.stop_runtime(id).await?;
        match reply? {
            CheckReply::Checked { state, output } => Ok((state, output)),
            CheckReply::Failed(message) => Err(CheckMachineError::FileSystem {
                id: id.clone(),
                message,
            }),
        }
    }
}

/// Checks the files that the disk consists of, the base image aside. Only the machine's own file is
/// repaired: the others may have other users. Returns the worst state, and what the tool has
/// printed about files that are not in order.
async fn check_image(
    bundle: &Bundle,
    repair: bool,
) -> Result<(ImageState, String), CheckMachineError> {
    let disk = bundle.disk();
    let checked = spawn_blocking(move || {
        let (mut state, mut output) = disk::check(&disk, repair)?;
        for layer in disk::read_layers(&disk)? {
            let (of_layer, more) = disk::check(&layer, false)?;
            if of_layer == ImageState::Damaged {
                state = of_layer;
            }
            output.push_str(&more);
        }
        Ok((state, output))
    });
    checked.await.map_err(|_| TaskPanicked)?
}
