//! `container machine import`

use std::path::PathBuf;

use clap::Args;
use container_api::ImportRequest;
use container_client::Client;
use container_machine::{HomeMount, MachineId, home_directory};

use crate::{archive_file, failure::Failure, options::ProgressOptions, output, progress};

/// Create a machine from a file that `container machine export` has written.
///
/// The machine has the disk and the settings of the exported one. It is not booted, and its id is
/// printed. Under its own name it keeps its machine id and SSH host keys; under another name it is
/// a copy, and gets its own. If you are not the user that exported it, it is set up for you at its
/// first boot, as a new machine is.
///
/// A machine has access to your home directory, as its settings say. If you do not trust it as
/// much as the programs that you run, import it with --home-mount none.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine import dev.machine
  container machine import dev.machine --name copy --home-mount none
  ssh other container machine export dev | container machine import -")]
pub(crate) struct Import {
    /// File to read; `-` for standard input.
    file: PathBuf,

    /// Name of the machine; default: its name when it was exported.
    #[arg(short, long, value_name = "ID")]
    name: Option<MachineId>,

    /// Access to your home directory: rw, ro or none; default: as in the file.
    #[arg(long, value_name = "MODE")]
    home_mount: Option<HomeMount>,

    /// Make it the default machine.
    #[arg(long)]
    set_default: bool,

    #[command(flatten)]
    progress: ProgressOptions,
}

impl Import {
    /// Creates the machine and prints its id.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let archive = archive_file::open(&self.file).await?;
        let request = ImportRequest {
            name: self.name,
            home: home_directory().unwrap_or_default(),
            home_mount: self.home_mount,
            set_default: self.set_default,
        };
        let cancelled = "Cancelled; no machine was created.";
        let created = progress::show_while(self.progress.mode, cancelled, async |show| {
            client.import(&request, archive, show).await
        });
        output::line(created.await?.id)
    }
}
