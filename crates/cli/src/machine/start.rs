//! `container machine start` and `restart`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;

use super::{boot, named_or_default};
use crate::{each::for_each, failure::Failure, interrupt::unless_interrupted, output};

/// Boot machines.
///
/// One that runs already is left as it is. `container machine run` boots a machine by itself.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine start
  container machine start dev web")]
pub struct Start {
    /// The machines; the default one where none is named.
    ids: Vec<MachineId>,
}

impl Start {
    /// Boots them one after the other, unless they run, and prints their ids.
    pub async fn carry_out(self, client: &Client) -> Result<u8, Failure> {
        let ids = named_or_default(client, self.ids).await?;
        for_each(ids, async |id| {
            boot(client, &id).await?;
            output::line(id)
        })
        .await
    }
}

/// Stop machines in order and boot them again.
///
/// What `container machine set` has changed is applied. One that is stopped is just booted.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine restart
  container machine restart dev web")]
pub struct Restart {
    /// The machines; the default one where none is named.
    ids: Vec<MachineId>,
}

impl Restart {
    /// Stops and boots them one after the other and prints their ids.
    pub async fn carry_out(self, client: &Client) -> Result<u8, Failure> {
        let ids = named_or_default(client, self.ids).await?;
        for_each(ids, async |id| {
            unless_interrupted(client.stop(&id)).await??;
            boot(client, &id).await?;
            output::line(id)
        })
        .await
    }
}
