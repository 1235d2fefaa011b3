//! `container machine rename`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;

use crate::{failure::Failure, output};

/// Rename a machine.
///
/// The machine must be stopped. It keeps its disk and settings, and remains the default machine if
/// it is. Its host name changes at the next boot.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine rename dev old-dev")]
pub(crate) struct Rename {
    /// Machine to rename.
    id: MachineId,

    /// New name.
    new: MachineId,
}

impl Rename {
    /// Renames the machine and prints its new id.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        client.rename(&self.id, &self.new).await?;
        output::line(self.new)
    }
}
