//! `container image rm`

use clap::Args;
use container_api::RemoveRequest;
use container_client::Client;

use crate::{
    each::for_each,
    failure::Failure,
    freed, output,
    progress::{self, ProgressMode},
    values::ImageName,
};

/// Remove images, or single references of them.
///
/// If an image has several references, only the given one is removed. With its last reference, or
/// if it is given by digest, the image is removed, with its base images and all blobs that no other
/// image needs. An image that machines were created from cannot be removed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image rm alpine:3 registry.example/team/base:1
  container image rm 1a2b3c4d5e6f
  container image rm --all")]
pub(crate) struct Remove {
    /// Images: references, digests, or prefixes of digests.
    #[arg(required_unless_present = "all", value_name = "IMAGE")]
    images: Vec<ImageName>,

    /// Remove all images that no machine uses.
    #[arg(long, conflicts_with = "images")]
    all: bool,
}

impl Remove {
    /// Removes the images in order and prints the removed references.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let requests = if self.all {
            vec![RemoveRequest::AllUnused]
        } else {
            let images = ImageName::into_strings(self.images);
            images.into_iter().map(RemoveRequest::One).collect()
        };
        for_each(requests, async |request| {
            let cancelled = "Cancelled; nothing was removed.";
            let freed = progress::show_while(ProgressMode::Auto, cancelled, async |show| {
                client.remove_images(&request, show).await
            });
            let freed = freed.await?;
            if freed.bytes > 0 {
                output::note(&freed::summary(&freed));
            }
            freed::print_names(&freed)
        })
        .await
    }
}
