//! What can be asked of the service: see [`container_api`].

use container_api::{
    BootChange, Changed, CommitRequest, Committed, CreateRequest, Created, DefaultMachine, Deleted,
    Logs, Machines, Ports, Progress, Rename, Running, Snapshot, SystemInfo,
};
use container_machine::MachineId;
use hyper::Method;

use crate::{Client, ClientError};

impl Client {
    /// What machines run on here, and why not on something else.
    pub async fn system(&self) -> Result<SystemInfo, ClientError> {
        self.ask(Method::GET, "/v1/system", &()).await
    }

    /// All machines.
    pub async fn machines(&self) -> Result<Machines, ClientError> {
        self.ask(Method::GET, "/v1/machines", &()).await
    }

    /// One machine.
    pub async fn machine(&self, id: &MachineId) -> Result<Snapshot, ClientError> {
        self.ask(Method::GET, &path(id, ""), &()).await
    }

    /// Makes a machine. Dropping the future gives it up: nothing of it is left.
    pub async fn create(
        &self,
        request: &CreateRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Created, ClientError> {
        self.ask_streamed("/v1/machines", request, progress).await
    }

    /// Boots a machine unless it runs.
    pub async fn boot(
        &self,
        id: &MachineId,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Running, ClientError> {
        self.ask_streamed(&path(id, "/boot"), &(), progress).await
    }

    /// Makes an image of a machine. Dropping the future gives it up: nothing is kept.
    pub async fn commit(
        &self,
        id: &MachineId,
        request: &CommitRequest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Committed, ClientError> {
        self.ask_streamed(&path(id, "/commit"), request, progress)
            .await
    }

    /// Stops a machine.
    pub async fn stop(&self, id: &MachineId) -> Result<(), ClientError> {
        self.ask(Method::POST, &path(id, "/stop"), &()).await
    }

    /// Gives a machine that does not run another name.
    pub async fn rename(&self, id: &MachineId, to: &MachineId) -> Result<(), ClientError> {
        let rename = Rename { to: to.clone() };
        self.ask(Method::POST, &path(id, "/rename"), &rename).await
    }

    /// Deletes a machine.
    pub async fn delete(&self, id: &MachineId) -> Result<Deleted, ClientError> {
        self.ask(Method::DELETE, &path(id, ""), &()).await
    }

    /// Changes what a machine's next boot applies.
    pub async fn set(&self, id: &MachineId, change: &BootChange) -> Result<Changed, ClientError> {
        self.ask(Method::PATCH, &path(id, ""), change).await
    }

    /// Where a running machine's ports are reached.
    pub async fn ports(&self, id: &MachineId) -> Result<Ports, ClientError> {
        self.ask(Method::GET, &path(id, "/ports"), &()).await
    }

    /// Where a machine's logs are.
    pub async fn logs(&self, id: &MachineId) -> Result<Logs, ClientError> {
        self.ask(Method::GET, &path(id, "/logs"), &()).await
    }

    /// The machine that is meant where none is named.
    pub async fn default_machine(&self) -> Result<MachineId, ClientError> {
        let default: DefaultMachine = self.ask(Method::GET, "/v1/default", &()).await?;
        Ok(default.id)
    }

    /// Makes a machine the one that is meant where none is named.
    pub async fn set_default_machine(&self, id: &MachineId) -> Result<(), ClientError> {
        let default = DefaultMachine { id: id.clone() };
        self.ask(Method::PUT, "/v1/default", &default).await
    }
}

fn path(id: &MachineId, below: &str) -> String {
    format!("/v1/machines/{id}{below}")
}
