//! `container machine delete`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;

use crate::{each::for_each, failure::Failure, output};

/// Delete machines and their disks; running ones are stopped first.
///
/// What a machine has on its own disk is lost. Your home directory, which it shared, and the image
/// that it was made from are not touched.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  container machine rm dev web")]
pub struct Delete {
    /// The machines.
    #[arg(required = true)]
    ids: Vec<MachineId>,

    /// Changes nothing, as nothing is asked: other programs' command lines have it.
    #[arg(short, long)]
    force: bool,
}

impl Delete {
    /// Deletes them one after the other and prints their ids.
    pub async fn carry_out(self, client: &Client) -> Result<u8, Failure> {
        for_each(self.ids, async |id| {
            let deleted = client.delete(&id).await?;
            if deleted.was_default {
                output::note(&format!(
                    "{id} was the default machine and there is none now: choose one with `container machine set-default ID`"
                ));
            }
            output::line(id)
        })
        .await
    }
}
