//! Requests about machines and the host (see [`container_api`]).

use container_api::{
    BootChange, BootRequest, Changed, CheckMachineRequest, CheckedMachine, CloneRequest,
    CommitRequest, Committed, CreateRequest, Created, DefaultMachine, Deleted, DiskUsage,
    ExportRequest, Freed, ImportRequest, Logs, MachineState, Machines, Ports, Progress,
    PruneRequest, RemoveSnapshotRequest, RenameRequest, RestoreRequest, Running, SnapshotRequest,
    SnapshotState, Snapshots, SshClientFiles, StopRequest, SuspendRequest, SystemInfo,
};
use container_machine::MachineId;
use container_protocol::SshServer;
use hyper::Method;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Client, ClientError, archive::receive_archive};

impl Client {
    /// Returns what machines run on: accelerator, engine, kernel, directories.
    pub async fn system(&self) -> Result<SystemInfo, ClientError> {
        self.request(Method::GET, "/v1/system", &()).await
    }

    /// Returns the disk usage of everything that is stored.
    pub async fn disk_usage(&self) -> Result<DiskUsage, ClientError> {
        self.request(Method::GET, "/v1/system/disk-usage", &())
            .await
    }

    /// Removes everything that is not needed. Dropping the future does not cancel the removal.
    pub async fn prune(
        &self,
        request: &PruneRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Freed, ClientError> {
        self.request_streamed("/v1/system/prune", request, progress)
            .await
    }

    /// Returns all machines, and why broken ones cannot be read.
    pub async fn machines(&self) -> Result<Machines, ClientError> {
        self.request(Method::GET, "/v1/machines", &()).await
    }

    /// Returns one machine.
    pub async fn machine(&self, id: &MachineId) -> Result<MachineState, ClientError> {
        self.request(Method::GET, &path(id, ""), &()).await
    }

    /// Creates a machine. Dropping the future cancels the request, and nothing of the machine
    /// remains.
    pub async fn create(
        &self,
        request: &CreateRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Created, ClientError> {
        self.request_streamed("/v1/machines", request, progress)
            .await
    }

    /// Boots a machine unless it is running. Dropping the future does not cancel the boot.
    pub async fn boot(
        &self,
        id: &MachineId,
        request: &BootRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Running, ClientError> {
        self.request_streamed(&path(id, "/boot"), request, progress)
            .await
    }

    /// Checks the disk of a stopped machine. Dropping the future cancels the request, unless it is
    /// a repair.
    pub async fn check(
        &self,
        id: &MachineId,
        request: &CheckMachineRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<CheckedMachine, ClientError> {
        self.request_streamed(&path(id, "/check"), request, progress)
            .await
    }

    /// Creates an image from a machine. Dropping the future cancels the request, and no image
    /// remains.
    pub async fn commit(
        &self,
        id: &MachineId,
        request: &CommitRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Committed, ClientError> {
        self.request_streamed(&path(id, "/commit"), request, progress)
            .await
    }

    /// Exports a machine as an archive to `to`. What is written is only valid if this succeeds.
    pub async fn export(
        &self,
        id: &MachineId,
        request: &ExportRequest,
        to: impl AsyncWrite + Unpin,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ClientError> {
        let path = path(id, "/export");
        let response = self.send(Method::POST, &path, request).await?;
        receive_archive(response, "exporting machine", to, progress).await
    }

    /// Makes a machine from an archive. Dropping the future cancels the request, and nothing of the
    /// machine remains.
    pub async fn import(
        &self,
        request: &ImportRequest,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Created, ClientError> {
        let query = serde_urlencoded::to_string(request).map_err(ClientError::Query)?;
        let path = format!("/v1/import?{query}");
        self.send_archive(&path, archive, progress).await
    }

    /// Stops a machine, and waits until it has stopped. One that is stopped is left as it is, and
    /// one that is suspended is only stopped with `force`.
    pub async fn stop(&self, id: &MachineId, request: &StopRequest) -> Result<(), ClientError> {
        self.request(Method::POST, &path(id, "/stop"), request)
            .await
    }

    /// Suspends a running machine. Dropping the future cancels the request, and the machine
    /// continues.
    pub async fn suspend(
        &self,
        id: &MachineId,
        request: &SuspendRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ClientError> {
        self.request_streamed(&path(id, "/suspend"), request, progress)
            .await
    }

    /// Renames a stopped machine.
    pub async fn rename(&self, id: &MachineId, to: &MachineId) -> Result<(), ClientError> {
        let rename = RenameRequest { to: to.clone() };
        self.request(Method::POST, &path(id, "/rename"), &rename)
            .await
    }

    /// Creates a machine with the disk and the settings of another. Returns its id.
    pub async fn clone_machine(
        &self,
        id: &MachineId,
        request: &CloneRequest,
    ) -> Result<MachineId, ClientError> {
        let created: Created = self
            .request(Method::POST, &path(id, "/clone"), request)
            .await?;
        Ok(created.id)
    }

    /// Creates a snapshot of a machine. Dropping the future cancels the request, and a running
    /// machine continues.
    pub async fn create_snapshot(
        &self,
        id: &MachineId,
        request: &SnapshotRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ClientError> {
        self.request_streamed(&path(id, "/snapshots"), request, progress)
            .await
    }

    /// Returns the snapshots of a machine, the oldest first.
    pub async fn snapshots(&self, id: &MachineId) -> Result<Vec<SnapshotState>, ClientError> {
        let all: Snapshots = self
            .request(Method::GET, &path(id, "/snapshots"), &())
            .await?;
        Ok(all.snapshots)
    }

    /// Restores a machine that does not run from a snapshot.
    pub async fn restore_snapshot(
        &self,
        id: &MachineId,
        request: &RestoreRequest,
    ) -> Result<(), ClientError> {
        self.request(Method::POST, &path(id, "/snapshots/restore"), request)
            .await
    }

    /// Removes a snapshot.
    pub async fn remove_snapshot(
        &self,
        id: &MachineId,
        request: &RemoveSnapshotRequest,
    ) -> Result<(), ClientError> {
        self.request(Method::POST, &path(id, "/snapshots/remove"), request)
            .await
    }

    /// Deletes a machine, stopping it first if it is running.
    pub async fn delete(&self, id: &MachineId) -> Result<Deleted, ClientError> {
        self.request(Method::DELETE, &path(id, ""), &()).await
    }

    /// Changes settings of a machine. All but published ports, forwarded sockets, egress rules and
    /// the idle time take effect at its next boot.
    pub async fn set(&self, id: &MachineId, change: &BootChange) -> Result<Changed, ClientError> {
        self.request(Method::PATCH, &path(id, ""), change).await
    }

    /// Returns the host addresses at which ports of a running machine are reached.
    pub async fn ports(&self, id: &MachineId) -> Result<Ports, ClientError> {
        self.request(Method::GET, &path(id, "/ports"), &()).await
    }

    /// Returns the SSH server for one connection to a machine. The host's SSH client then knows the
    /// machine's host key.
    pub async fn ssh_server(&self, id: &MachineId) -> Result<SshServer, ClientError> {
        self.request(Method::POST, &path(id, "/ssh"), &()).await
    }

    /// Returns the files with which `ssh` reaches the machines, and creates its key if it is
    /// missing.
    pub async fn ssh_client_files(&self) -> Result<SshClientFiles, ClientError> {
        self.request(Method::POST, "/v1/ssh", &()).await
    }

    /// Returns the paths of a machine's logs.
    pub async fn logs(&self, id: &MachineId) -> Result<Logs, ClientError> {
        self.request(Method::GET, &path(id, "/logs"), &()).await
    }

    /// Returns the default machine.
    pub async fn default_machine(&self) -> Result<MachineId, ClientError> {
        let default: DefaultMachine = self.request(Method::GET, "/v1/default", &()).await?;
        Ok(default.id)
    }

    /// Makes a machine the default machine.
    pub async fn set_default_machine(&self, id: &MachineId) -> Result<(), ClientError> {
        let default = DefaultMachine { id: id.clone() };
        self.request(Method::PUT, "/v1/default", &default).await
    }
}

fn path(id: &MachineId, suffix: &str) -> String {
    format!("/v1/machines/{id}{suffix}")
}
