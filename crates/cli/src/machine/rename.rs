//! `container machine rename`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;

use crate::{failure::Failure, output};

/// Give a machine another name; it must be stopped.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  container machine rename dev old-dev")]
pub struct Rename {
    /// The machine.
    id: MachineId,

    /// Its new name.
    new: MachineId,
}

impl Rename {
    /// Renames it and prints its new id.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        client.rename(&self.id, &self.new).await?;
        output::line(self.new)
    }
}
