//! `container machine clone`

use clap::Args;
use container_api::CloneRequest;
use container_client::Client;
use container_machine::{MachineId, SnapshotName};

use crate::{failure::Failure, output};

/// Create a machine that is a copy of another.
///
/// The copy has the disk and the settings of the machine, which may be running, and needs no time
/// or space until one of the two changes its disk. Either can be deleted. Programs that run in the
/// machine do not run in the copy: it is stopped, and boots as after a power failure.
///
/// The copy gets an address, a machine id and SSH host keys of its own, publishes no ports and
/// forwards no sockets.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container machine clone dev experiment
  container machine clone dev yesterday --snapshot monday")]
pub(crate) struct Clone {
    /// Machine to copy.
    id: MachineId,

    /// Name of the copy.
    new: MachineId,

    /// Snapshot to copy in place of the machine's current disk.
    #[arg(long, value_name = "NAME")]
    snapshot: Option<SnapshotName>,
}

impl Clone {
    /// Creates the copy and prints its id.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let request = CloneRequest {
            to: self.new,
            snapshot: self.snapshot,
        };
        output::line(client.clone_machine(&self.id, &request).await?)
    }
}
