//! `container machine suspend`

use std::io::{self, IsTerminal};

use clap::Args;
use container_api::SuspendRequest;
use container_client::Client;
use container_machine::MachineId;

use super::target::all_or_default;
use crate::{
    each::for_each,
    failure::Failure,
    output,
    progress::{self, ProgressMode},
};

/// Suspend machines.
///
/// Each machine is written to the host's disk with its running programs, and its memory is freed.
/// `container machine run` and `start` resume it where it was. Its network connections end.
///
/// A machine in which commands of `run` or `exec` are running is refused, as is one whose programs
/// have locked files in the shared home. Interrupting the command keeps the machine running.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine suspend
  container machine suspend dev web
  container machine suspend $(container machine ls -q --filter status=running)")]
pub(crate) struct Suspend {
    /// End commands of `run` and `exec`.
    #[arg(short, long)]
    force: bool,

    /// Machines; default: the default machine.
    ids: Vec<MachineId>,
}

impl Suspend {
    /// Suspends the machines in order and prints their ids.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let request = SuspendRequest { force: self.force };
        let mode = if io::stderr().is_terminal() {
            ProgressMode::Auto
        } else {
            ProgressMode::None
        };
        let ids = all_or_default(client, self.ids).await?;
        for_each(ids, async |id| {
            let cancelled = format!("Cancelled; {id} continues");
            progress::show_while(mode, &cancelled, async |show| {
                client.suspend(&id, &request, show).await
            })
            .await?;
            output::line(id)
        })
        .await
    }
}
