//! `container image tag`

use clap::Args;
use container_api::TagRequest;
use container_client::Client;

use crate::{failure::Failure, output, values::ImageName};

/// Give an image another name.
///
/// Both names mean the same image then. If the new one meant another image, that one loses it. No
/// registry is told: `push` does that, and where the name is used here, none is asked.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image tag alpine:3 registry.example/team/base:1
  container image tag 1a2b3c4d5e6f dev:2")]
pub struct Tag {
    /// The image: a reference, a digest, or the beginning of a digest.
    #[arg(value_name = "IMAGE")]
    image: ImageName,

    /// The name: [REGISTRY/]REPOSITORY[:TAG]
    #[arg(value_name = "REFERENCE")]
    reference: ImageName,
}

impl Tag {
    /// Gives the name, and prints it in full.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let request = TagRequest {
            source: self.image.0,
            target: self.reference.0,
        };
        output::line(client.tag_image(&request).await?.reference)
    }
}
