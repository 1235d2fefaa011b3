//! `container machine commit`

use clap::{Args, ValueEnum};
use container_api::{CallerEnvironment, CommitRequest};
use container_client::Client;
use container_machine::MachineId;

use super::target::one_or_default;
use crate::{failure::Failure, options::ProgressOptions, output, progress};

/// Create an image from a machine.
///
/// The image has the layers of the machine's own image, and a new layer with the changes on the
/// machine's disk. It is stored on this host under REFERENCE, replacing any image of that
/// reference. Machines can be created from it, and other tools can read it. The reference and the
/// digest are printed.
///
/// The image contains everything on the machine's disk, including its user and SSH host keys:
/// review it before you publish it. It does not contain what is specific to one machine (host name,
/// /etc/hosts, resolver configuration, machine id, random seed, systemd's journal), swap files,
/// sockets, the shared home and other mounts.
///
/// A running machine is paused while its disk is read. With --no-pause it keeps running, and a file
/// that changes meanwhile may be stored in its old, its new or a mixed state. The disk of a stopped
/// machine is read without starting its init.
#[derive(Debug, Args)]
#[command(
    allow_missing_positional = true,
    after_long_help = "\
Examples:
  container machine commit registry.example/tools:1
  container machine commit dev registry.example/tools:2 -m 'with gcc'
  container machine commit dev tools --change 'ENV EDITOR=vi'"
)]
pub(crate) struct Commit {
    /// Machine; default: the default machine.
    id: Option<MachineId>,

    /// Reference for the new image: [REGISTRY/]REPOSITORY[:TAG]
    reference: String,

    /// Comment for the image's history.
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,

    /// Author of the image.
    #[arg(short, long, value_name = "TEXT")]
    author: Option<String>,

    /// Change of the image's configuration, as a Dockerfile instruction: ENV, LABEL, CMD,
    /// ENTRYPOINT, USER, WORKDIR or STOPSIGNAL; repeatable.
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,

    /// Compression of the new layer: gzip, which every tool supports, or zstd, which is faster.
    #[arg(long, value_enum, default_value_t)]
    compression: Compression,

    /// Do not pause a running machine while its disk is read.
    #[arg(long)]
    no_pause: bool,

    #[command(flatten)]
    progress: ProgressOptions,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Compression {
    #[default]
    Gzip,
    Zstd,
}

impl Commit {
    /// Creates the image and prints its reference and digest.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let id = one_or_default(client, self.id).await?;
        let compression = match self.compression {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        };
        let request = CommitRequest {
            reference: self.reference,
            author: self.author,
            message: self.message,
            changes: self.changes,
            compression: Some(compression.to_owned()),
            pause: !self.no_pause,
            environment: CallerEnvironment::from_process(),
        };
        let cancelled = "Cancelled; no image was created.";
        let committed = progress::show_while(self.progress.mode, cancelled, async |show| {
            client.commit(&id, &request, show).await
        });
        let committed = committed.await?;
        output::line(format!("{}@{}", committed.reference, committed.digest))
    }
}
