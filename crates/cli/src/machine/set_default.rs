//! `container machine set-default`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;

use crate::{failure::Failure, output};

/// Choose the default machine, which verbs use if no machine is given.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  container machine set-default dev")]
pub(crate) struct SetDefault {
    /// Machine.
    id: MachineId,
}

impl SetDefault {
    /// Makes the machine the default machine and prints its id.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        client.set_default_machine(&self.id).await?;
        output::line(self.id)
    }
}
