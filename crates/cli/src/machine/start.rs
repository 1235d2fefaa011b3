//! `container machine start` and `restart`

use clap::Args;
use container_client::Client;
use container_machine::MachineId;

use super::{boot::boot, target::all_or_default};
use crate::{each::for_each, failure::Failure, interrupt::unless_interrupted, output};

/// Boot machines.
///
/// A machine that is running is left as it is. `container machine run` also boots a stopped
/// machine.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine start
  container machine start dev web")]
pub(crate) struct Start {
    /// Machines; default: the default machine.
    ids: Vec<MachineId>,
}

impl Start {
    /// Boots the machines in order and prints their ids.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let ids = all_or_default(client, self.ids).await?;
        for_each(ids, async |id| {
            boot(client, &id).await?;
            output::line(id)
        })
        .await
    }
}

/// Restart machines.
///
/// Shuts each machine down and boots it again, with the settings changed by `container machine
/// set`. A stopped machine is booted.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine restart
  container machine restart dev web")]
pub(crate) struct Restart {
    /// Machines; default: the default machine.
    ids: Vec<MachineId>,
}

impl Restart {
    /// Restarts the machines in order and prints their ids.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let ids = all_or_default(client, self.ids).await?;
        for_each(ids, async |id| {
            unless_interrupted(client.stop(&id)).await??;
            boot(client, &id).await?;
            output::line(id)
        })
        .await
    }
}
