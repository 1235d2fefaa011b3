//! `container machine rename`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;

use crate::{failure::Failure, output};

/// Give a machine another name.
///
/// It must be stopped. Its disk and settings stay, and it is still the default machine if it was;
/// inside, its host name is the new one from the next boot on.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine rename dev old-dev")]
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
