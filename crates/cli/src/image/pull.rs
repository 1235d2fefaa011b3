//! `container image pull`

use clap::Args;
use container_api::{CallerEnvironment, PullRequest};
use container_client::Client;

use crate::{
    each::for_each,
    failure::Failure,
    options::{PlatformOptions, ProgressOptions, PullOptions},
    output, progress,
};

/// Pull images from their registries.
///
/// Blobs that are already stored are not fetched again. For each image, the reference with its
/// digest is printed. No machine and no base image is created: that happens when the first machine
/// is created from the image.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image pull registry.example/debian-systemd:12
  container image pull alpine:3 localhost:5000/busybox:1
  container image pull --arch arm64 registry.example/debian-systemd:12")]
pub(crate) struct Pull {
    /// References: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]
    #[arg(required = true, value_name = "REFERENCE")]
    references: Vec<String>,

    #[command(flatten)]
    platform: PlatformOptions,

    #[command(flatten)]
    pull: PullOptions,

    #[command(flatten)]
    progress: ProgressOptions,
}

impl Pull {
    /// Pulls the images in order and prints their references.
    pub(crate) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let platform = self.platform.platform();
        for_each(self.references, async |image| {
            let request = PullRequest {
                image,
                platform: platform.clone(),
                scheme: self.pull.registry.scheme.clone(),
                max_concurrent_downloads: Some(self.pull.max_concurrent_downloads),
                environment: CallerEnvironment::from_process(),
            };
            let cancelled = "Cancelled; complete blobs are kept and will not be fetched again.";
            let pulled = progress::show_while(self.progress.mode, cancelled, async |show| {
                client.pull(&request, show).await
            });
            output::line(pulled.await?.reference)
        })
        .await
    }
}
