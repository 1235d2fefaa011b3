//! `container image prune`

use clap::Args;
use container_api::{Progress, PruneRequest};
use container_client::Client;

use crate::{failure::Failure, freed};

/// Remove unused image data.
///
/// Removes images without a reference and base images (ext4 files) that no machine uses, and blobs
/// that belong to no image. A base image is built again when the next machine is created from its
/// image. Images with a reference are kept unless --all is given.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image prune
  container image prune --all --force")]
pub(crate) struct Prune {
    /// Also remove images with a reference that no machine uses.
    #[arg(short, long)]
    all: bool,

    /// Do not ask for confirmation.
    #[arg(short, long)]
    force: bool,
}

impl Prune {
    /// Asks for confirmation on a terminal, removes the data, and prints how much was freed.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let request = PruneRequest { all: self.all };
        let prune =
            async |show: &mut dyn FnMut(Progress)| client.prune_images(&request, show).await;
        freed::prune(self.what(), self.force, prune).await
    }

    /// Returns what is removed, as a sentence.
    fn what(&self) -> &'static str {
        if self.all {
            "This removes all images that no machine uses, and their base images."
        } else {
            "This removes images without a reference and base images that no machine uses, and blobs that belong to no image."
        }
    }
}
