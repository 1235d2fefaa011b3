//! `container machine stop`

use clap::Args;
use container_api::StopRequest;
use container_client::Client;
use container_machine::MachineId;

use super::target::all_or_default;
use crate::{each::for_each, failure::Failure, output};

/// Stop machines.
///
/// Each machine's init is asked to shut down. If it has not after the time of --time, it is killed,
/// and the machine is powered off. Disks are kept. Stopping a stopped machine succeeds. A machine
/// that is suspended, or that is paused because the host's disk is full, is only stopped with
/// --force.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine stop
  container machine stop dev web
  container machine stop --time 5 dev
  container machine stop $(container machine ls -q)")]
pub(crate) struct Stop {
    /// Give up the memory of suspended and paused machines: what their programs have not written to
    /// files is lost.
    #[arg(short, long)]
    force: bool,

    /// Seconds that init has to stop its services; default: 60.
    #[arg(short, long, value_name = "SECONDS")]
    time: Option<u32>,

    /// Machines; default: the default machine.
    ids: Vec<MachineId>,
}

impl Stop {
    /// Stops the machines in order and prints their ids.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let request = StopRequest {
            force: self.force,
            grace_seconds: self.time,
            power_cut: false,
        };
        let ids = all_or_default(client, self.ids).await?;
        for_each(ids, async |id| {
            client.stop(&id, &request).await?;
            output::line(id)
        })
        .await
    }
}
