//! `container machine check`

use clap::Args;
use container_api::{CheckMachineRequest, CheckedMachine};
use container_client::Client;
use container_machine::MachineId;
use container_protocol::FileSystemState;

use super::target::all_or_default;
use crate::{
    control_characters, each::for_each, failure::Failure, options::ProgressOptions, output,
    progress,
};

/// Check the disks of stopped machines.
///
/// The file of the disk and the file system on it are checked, and errors are printed. Nothing is
/// changed without --repair. A machine whose file system has errors repairs it by itself when it
/// boots, if that loses nothing.
///
/// With --repair errors are repaired, which may remove files that are damaged. The disk is kept as
/// a snapshot before, if there is anything to repair.
///
/// The command fails if errors remain.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine check
  container machine check --repair dev")]
pub(crate) struct Check {
    /// Machines; default: the default machine.
    ids: Vec<MachineId>,

    /// Repair errors.
    #[arg(long)]
    repair: bool,

    #[command(flatten)]
    progress: ProgressOptions,
}

impl Check {
    /// Checks the machines in order and prints the results.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let request = CheckMachineRequest {
            repair: self.repair,
        };
        let ids = all_or_default(client, self.ids).await?;
        for_each(ids, async |id| {
            let cancelled = if self.repair {
                "The repair continues in the background."
            } else {
                "Cancelled."
            };
            let checked = progress::show_while(self.progress.mode, cancelled, async |show| {
                client.check(&id, &request, show).await
            });
            report(&id, self.repair, checked.await?)
        })
        .await
    }
}

fn report(id: &MachineId, repair: bool, checked: CheckedMachine) -> Result<(), Failure> {
    if checked.state != FileSystemState::Clean {
        for text in checked.output.lines() {
            output::line(control_characters::shown(text))?;
        }
    }
    if let Some(name) = checked.snapshot {
        output::note(&format!(
            "The disk before the repair is snapshot {name} (restore it with: container machine \
             snapshot restore -n {id} {name}, or remove it with: container machine snapshot rm -n \
             {id} {name})"
        ));
    }
    match checked.state {
        FileSystemState::Clean => output::line(format!("{id}: no errors")),
        FileSystemState::Repaired => output::line(format!("{id}: errors repaired")),
        FileSystemState::Damaged if repair => Err(Failure::Message(format!(
            "machine {id:?} still has errors on its disk, which cannot be repaired"
        ))),
        FileSystemState::Damaged => Err(Failure::Message(format!(
            "machine {id:?} has errors on its disk (repair them with: container machine check \
             --repair {id})"
        ))),
    }
}
