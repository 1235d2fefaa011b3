//! `container image push`

use clap::Args;
use container_api::{CallerEnvironment, PushRequest};
use container_client::Client;

use crate::{
    each::for_each,
    failure::Failure,
    output,
    progress::{self, ProgressMode},
    values::{ImageName, words},
};

/// Send images to their registries.
///
/// What a registry has already is not sent. Each image's name with its digest is printed when it is
/// there; until then its tag means what it meant before.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image push registry.example/team/dev:2
  container image push localhost:5000/dev:1 localhost:5000/dev:latest")]
pub struct Push {
    /// The images: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]
    #[arg(required = true, value_name = "REFERENCE")]
    references: Vec<ImageName>,

    /// How to reach the registry: http, https, or auto (http on loopback and private names).
    #[arg(long, value_name = "SCHEME", value_parser = ["http", "https", "auto"])]
    scheme: Option<String>,

    /// How progress is shown.
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressMode,
}

impl Push {
    /// Sends them one after the other and prints their names.
    pub async fn carry_out(self, client: &Client) -> Result<u8, Failure> {
        for_each(words(self.references), async |image| {
            let request = PushRequest {
                image,
                scheme: self.scheme.clone(),
                environment: CallerEnvironment::of_this_process(),
            };
            let given_up = "Given up: nothing has changed for whoever pulls it.";
            let pushed = progress::shown(self.progress, given_up, async |show| {
                client.push(&request, show).await
            });
            output::line(pushed.await?.reference)
        })
        .await
    }
}
