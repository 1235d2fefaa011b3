//! `container machine kill`

use clap::Args;
use container_api::StopRequest;
use container_client::Client;
use container_machine::MachineId;

use super::target::all_or_default;
use crate::{each::for_each, failure::Failure, output};

/// Power machines off at once.
///
/// Nothing in the machine is shut down, as in a power cut: what its programs have not synced to the
/// disk is lost. For machines that do not answer; `container machine stop` is for others. A stopped
/// or suspended machine is left as it is.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine kill
  container machine kill dev web")]
pub(crate) struct Kill {
    /// Machines; default: the default machine.
    ids: Vec<MachineId>,
}

impl Kill {
    /// Powers the machines off in order and prints their ids.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let request = StopRequest {
            power_cut: true,
            ..StopRequest::default()
        };
        let ids = all_or_default(client, self.ids).await?;
        for_each(ids, async |id| {
            client.stop(&id, &request).await?;
            output::line(id)
        })
        .await
    }
}
