//! `container machine delete`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;

use crate::{each::for_each, failure::Failure, output};

/// Delete machines and their disks.
///
/// Running machines are stopped first. All files on the machine's own disk are lost. Your home
/// directory, which the machine shared, and the image that it was created from are kept.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  container machine rm dev web")]
pub(crate) struct Delete {
    /// Machines to delete.
    #[arg(required = true)]
    ids: Vec<MachineId>,

    /// No effect: there is no confirmation. Accepted for compatibility with other programs.
    #[arg(short, long)]
    force: bool,
}

impl Delete {
    /// Deletes the machines in order and prints their ids.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        for_each(self.ids, async |id| {
            let deleted = client.delete(&id).await?;
            if deleted.was_default {
                output::note(&format!(
                    "{id} was the default machine; there is none now (choose one with: container machine set-default ID)"
                ));
            }
            output::line(id)
        })
        .await
    }
}
