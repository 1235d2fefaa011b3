//! `container system prune`

use clap::Args;
use container_api::{Progress, PruneRequest};
use container_client::Client;

use crate::{failure::Failure, freed};

/// Remove unused data.
///
/// Removes images without a reference, base images that no machine uses, blobs that belong to no
/// image, and templates of other kernels or versions of this program. With --all it also removes
/// images with a reference that no machine uses, and all templates; a machine then boots its kernel
/// once before it has a template again. Machines, snapshots and kernels are kept.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container system prune
  container system prune --all --force")]
pub(crate) struct Prune {
    /// Also remove images with a reference that no machine uses, and all templates.
    #[arg(short, long)]
    all: bool,

    /// Do not ask for confirmation.
    #[arg(short, long)]
    force: bool,
}

impl Prune {
    /// Asks for confirmation on a terminal, removes the data, and prints how much was freed.
    pub(crate) async fn run(self, build: &str) -> Result<(), Failure> {
        let what = if self.all {
            "This removes all images that no machine uses, their base images, and all templates."
        } else {
            "This removes images without a reference, base images that no machine uses, and outdated templates."
        };
        let client = Client::connect(build).await?;
        let request = PruneRequest { all: self.all };
        let prune = async |show: &mut dyn FnMut(Progress)| client.prune(&request, show).await;
        freed::prune(what, self.force, prune).await
    }
}
