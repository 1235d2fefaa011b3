//! `container machine set-default`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;

use crate::{failure::Failure, output};

/// Choose the machine that is meant where none is named.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  container machine set-default dev")]
pub struct SetDefault {
    /// The machine.
    id: MachineId,
}

impl SetDefault {
    /// Makes it the default and prints its id.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        client.set_default_machine(&self.id).await?;
        output::line(self.id)
    }
}
