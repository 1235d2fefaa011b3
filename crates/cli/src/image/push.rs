//! `container image push`

use clap::Args;
use container_api::{CallerEnvironment, PushRequest};
use container_client::Client;

use crate::{
    each::for_each,
    failure::Failure,
    options::{ProgressOptions, RegistryOptions},
    output, progress,
    values::ImageName,
};

/// Push images to their registries.
///
/// Blobs that a registry already has are not sent. The tag in the registry changes only after the
/// whole image has arrived. For each image, the reference with its digest is printed.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image push registry.example/team/dev:2
  container image push localhost:5000/dev:1 localhost:5000/dev:latest")]
pub(crate) struct Push {
    /// References: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]
    #[arg(required = true, value_name = "REFERENCE")]
    references: Vec<ImageName>,

    #[command(flatten)]
    registry: RegistryOptions,

    #[command(flatten)]
    progress: ProgressOptions,
}

impl Push {
    /// Pushes the images in order and prints their references.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        for_each(ImageName::into_strings(self.references), async |image| {
            let request = PushRequest {
                image,
                scheme: self.registry.scheme.clone(),
                environment: CallerEnvironment::from_process(),
            };
            let cancelled = "Cancelled; the tag in the registry is unchanged.";
            let pushed = progress::show_while(self.progress.mode, cancelled, async |show| {
                client.push(&request, show).await
            });
            output::line(pushed.await?.reference)
        })
        .await
    }
}
