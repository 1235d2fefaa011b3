//! Boots of stopped machines for the sake of their disks: init is not started.

use std::io;

use container_api::{FailureKind, Progress};
use container_machine::{Bundle, MachineId};
use container_runtime::{Launch, Purpose, Runtime};
use tempfile::TempDir;

use crate::{
    failure::RequestError,
    launch::{BootError, launch_runtime},
    service::Service,
    stream_client::StreamClient,
};

/// A machine cannot be booted for its disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskBootError {
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("cannot create a temporary directory for logs: {0}")]
    LogDirectory(io::Error),
}

impl RequestError for DiskBootError {
    fn kind(&self) -> FailureKind {
        match self {
            DiskBootError::Boot(error) => error.kind(),
            DiskBootError::LogDirectory(_) => FailureKind::Failed,
        }
    }
}

impl Service {
    /// Boots a stopped machine for `purpose`. Returns the directory of this boot's logs as well:
    /// the logs in the bundle remain those of the machine's own last boot.
    pub(super) async fn boot_for_disk(
        &self,
        id: &MachineId,
        bundle: &Bundle,
        purpose: Purpose,
        client: &StreamClient,
    ) -> Result<(Runtime, TempDir), DiskBootError> {
        let logs = tempfile::tempdir_in(&self.directories.runtime);
        let logs = logs.map_err(DiskBootError::LogDirectory)?;
        let settings = Launch {
            purpose,
            boot_log: logs.path().join("boot.log"),
            stdio_log: logs.path().join("stdio.log"),
            ..self.launch_settings(id, bundle)?
        };
        let step = match settings.purpose {
            Purpose::CheckDisk => "booting machine to check its disk",
            Purpose::ReadDisk | Purpose::Run(_) => "booting machine to read its disk",
        };
        client.report(Progress::step(step));
        let runtime = launch_runtime(bundle, &settings).await?;
        Ok((runtime, logs))
    }
}
