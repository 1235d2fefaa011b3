//! `container machine stop`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;

use super::named_or_default;
use crate::{each::for_each, failure::Failure, output};

/// Stop machines in order.
///
/// Their init is asked to shut down, and made to when it does not. Disks are kept. A machine that
/// is stopped already is fine.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine stop
  container machine stop dev web
  container machine stop $(container machine ls -q)")]
pub struct Stop {
    /// The machines; the default one where none is named.
    ids: Vec<MachineId>,
}

impl Stop {
    /// Stops them one after the other and prints their ids.
    pub async fn carry_out(self, client: &Client) -> Result<u8, Failure> {
        let ids = named_or_default(client, self.ids).await?;
        for_each(ids, async |id| {
            client.stop(&id).await?;
            output::line(id)
        })
        .await
    }
}
