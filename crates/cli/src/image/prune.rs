//! `container image prune`

use clap::Args;
use container_api::PruneRequest;
use container_client::Client;

use super::freed;
use crate::{
    confirm::{confirm, is_interactive},
    failure::Failure,
    output,
    progress::{self, ProgressMode},
};

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
        if !self.force && is_interactive() && !confirm(self.what())? {
            return Err(Failure::new("cancelled; nothing was removed"));
        }
        let request = PruneRequest { all: self.all };
        let cancelled = "Cancelled; nothing was removed.";
        let freed = progress::show_while(ProgressMode::Auto, cancelled, async |show| {
            client.prune_images(&request, show).await
        });
        let freed = freed.await?;
        if !freed.references.is_empty() {
            freed::print_names(&freed)?;
        }
        output::line(freed::summary(&freed))
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
