//! `container image pull`

use clap::Args;
use container_api::{CallerEnvironment, PullRequest};
use container_client::Client;

use crate::{
    each::for_each,
    failure::Failure,
    image::options::{FetchOptions, PlatformOptions},
    output,
    progress::{self, ProgressMode},
};

/// Fetch images from their registries.
///
/// What is here already is not fetched again. Each image's name with its digest, which means the
/// same for ever, is printed. No machine is made, and no disk for one: the first machine of an image
/// makes that.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image pull registry.example/debian-systemd:12
  container image pull alpine:3 localhost:5000/busybox:1
  container image pull --arch arm64 registry.example/debian-systemd:12")]
pub struct Pull {
    /// The images: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]
    #[arg(required = true, value_name = "REFERENCE")]
    references: Vec<String>,

    #[command(flatten)]
    platform: PlatformOptions,

    #[command(flatten)]
    fetch: FetchOptions,

    /// How progress is shown.
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressMode,
}

impl Pull {
    /// Fetches them one after the other and prints their names.
    pub async fn carry_out(self, client: &Client) -> Result<u8, Failure> {
        let platform = self.platform.platform();
        for_each(self.references, async |image| {
            let request = PullRequest {
                image,
                platform: platform.clone(),
                scheme: self.fetch.scheme.clone(),
                max_concurrent_downloads: Some(self.fetch.max_concurrent_downloads),
                environment: CallerEnvironment::of_this_process(),
            };
            let given_up = "Given up: what came whole is not fetched again.";
            let pulled = progress::shown(self.progress, given_up, async |show| {
                client.pull(&request, show).await
            });
            output::line(pulled.await?.reference)
        })
        .await
    }
}
