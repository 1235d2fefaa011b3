//! `container machine export`

use std::path::PathBuf;

use clap::Args;
use container_api::{ExportRequest, Progress};
use container_client::Client;
use container_machine::MachineId;

use crate::{archive_file::NewArchive, failure::Failure, options::ProgressOptions};

/// Export a machine to a file, for another host or as a backup.
///
/// The file has the machine's disk and settings, and its image. `container machine import` makes
/// the machine from it. A running machine continues; the file has its disk as it was when the
/// export began, and a machine made from it boots as after a power failure.
///
/// The file contains everything on the machine's disk, including SSH host keys, so a new file can
/// be read by you alone. It does not contain the shared home or the machine's kernel.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine export dev -o dev.machine
  container machine export dev --snapshots -o dev.machine
  container machine export dev | ssh other container machine import -")]
pub(crate) struct Export {
    /// Machine to export.
    id: MachineId,

    /// File to write; default: standard output (also `-`).
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "-",
        hide_default_value = true
    )]
    output: PathBuf,

    /// Export the machine's snapshots too.
    #[arg(long)]
    snapshots: bool,

    #[command(flatten)]
    progress: ProgressOptions,
}

impl Export {
    /// Writes the file.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let request = ExportRequest {
            snapshots: self.snapshots,
        };
        let archive = NewArchive {
            path: &self.output,
            mode: 0o600,
        };
        let write = async |to, show: &mut dyn FnMut(Progress)| {
            client.export(&self.id, &request, to, show).await
        };
        archive.write(self.progress.mode, write).await
    }
}
