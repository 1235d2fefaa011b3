//! `container machine commit`

use clap::{Args, ValueEnum};
use container_api::{CallerEnvironment, CommitRequest};
use container_client::Client;
use container_machine::MachineId;

use super::one_or_default;
use crate::{
    failure::Failure,
    output,
    progress::{self, ProgressMode},
};

/// Make an image of a machine.
///
/// The image has the layers of the one that the machine was made from, and one more of what has
/// changed on the machine's disk since. It is kept on this computer under the reference, whatever
/// that meant before. `container machine create` makes machines from it, and any other tool can
/// read it. The reference and the image's digest are printed.
///
/// The image has the machine's user, SSH host keys and all else on its disk: look at it before you
/// give it away. It does not have what is each machine's own (host name, /etc/hosts, resolver
/// configuration, machine id, random seed, systemd's journal), swap files, sockets, the shared
/// home and whatever else is mounted.
///
/// A running machine stands still while it is read. With --no-pause it goes on: what changes
/// meanwhile is in the image as it was before, after or half. A stopped machine is read as it is,
/// without starting its init.
#[derive(Debug, Args)]
#[command(
    allow_missing_positional = true,
    after_long_help = "\
Examples:
  container machine commit registry.example/tools:1
  container machine commit dev registry.example/tools:2 -m 'with gcc'
  container machine commit dev tools --change 'ENV EDITOR=vi'"
)]
pub struct Commit {
    /// The machine; the default one where none is named.
    id: Option<MachineId>,

    /// The new image's name: [REGISTRY/]REPOSITORY[:TAG]
    reference: String,

    /// What the image is, for its history.
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,

    /// Who makes it.
    #[arg(short, long, value_name = "TEXT")]
    author: Option<String>,

    /// Change the image's configuration, as a Dockerfile does: ENV, LABEL, CMD, ENTRYPOINT, USER,
    /// WORKDIR or STOPSIGNAL, and what it is to be. May be given several times.
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,

    /// How the new layer is packed: gzip, which everything reads, or zstd, which is faster.
    #[arg(long, value_enum, default_value_t)]
    compression: Compression,

    /// Let a running machine go on while it is read.
    #[arg(long)]
    no_pause: bool,

    /// How progress is shown.
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressMode,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Compression {
    #[default]
    Gzip,
    Zstd,
}

impl Commit {
    /// Makes the image and prints what it is called.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
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
            environment: CallerEnvironment::of_this_process(),
        };
        let given_up = "Given up: nothing is kept of the image.";
        let made = progress::shown(self.progress, given_up, async |show| {
            client.commit(&id, &request, show).await
        });
        let made = made.await?;
        output::line(format!("{}@{}", made.reference, made.digest))
    }
}
