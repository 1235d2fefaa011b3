//! `container image tag`

use clap::Args;
use container_api::TagRequest;
use container_client::Client;

use crate::{failure::Failure, output, values::ImageName};

/// Add a reference to an image.
///
/// If the reference belongs to another image, it is moved. The registry is not changed (use `push`
/// for that), and it is not contacted either when a machine is created from the reference.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image tag alpine:3 registry.example/team/base:1
  container image tag 1a2b3c4d5e6f dev:2")]
pub(crate) struct Tag {
    /// Image: a reference, a digest, or the prefix of a digest.
    #[arg(value_name = "IMAGE")]
    image: ImageName,

    /// New reference: [REGISTRY/]REPOSITORY[:TAG]
    #[arg(value_name = "REFERENCE")]
    reference: ImageName,
}

impl Tag {
    /// Adds the reference, and prints it in full.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let request = TagRequest {
            source: self.image.0,
            target: self.reference.0,
        };
        output::line(client.tag_image(&request).await?.reference)
    }
}
