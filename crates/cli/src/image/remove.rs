//! `container image rm`

use clap::Args;
use container_api::RemoveRequest;
use container_client::Client;

use super::freed;
use crate::{
    each::for_each,
    failure::Failure,
    output,
    progress::{self, ProgressMode},
    values::{ImageName, words},
};

/// Remove images, or single names of them.
///
/// An image with several names loses the one that is given; with its last name, or by its digest, it
/// goes, with the bases made from it and all content that no other image needs. An image that
/// machines were made from stays.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image rm alpine:3 registry.example/team/base:1
  container image rm 1a2b3c4d5e6f
  container image rm --all")]
pub struct Remove {
    /// The images: references, digests, or beginnings of digests.
    #[arg(required_unless_present = "all", value_name = "IMAGE")]
    images: Vec<ImageName>,

    /// Remove every image that no machine uses.
    #[arg(long, conflicts_with = "images")]
    all: bool,
}

impl Remove {
    /// Removes them one after the other and prints the names that are gone.
    pub async fn carry_out(self, client: &Client) -> Result<u8, Failure> {
        let requests = match self.all {
            true => vec![RemoveRequest::AllUnused],
            false => words(self.images)
                .into_iter()
                .map(RemoveRequest::One)
                .collect(),
        };
        for_each(requests, async |request| {
            let given_up = "Given up: nothing was removed.";
            let freed = progress::shown(ProgressMode::Auto, given_up, async |show| {
                client.remove_images(&request, show).await
            });
            let freed = freed.await?;
            if freed.bytes > 0 {
                output::note(&freed::in_words(&freed));
            }
            freed::print_names(&freed)
        })
        .await
    }
}
