//! `container registry logout`

use clap::Args;
use container_client::Client;

use crate::{failure::Failure, output};

/// Forget the credentials for a registry.
///
/// Those that `container registry login` has kept are removed, also from a credential helper. Those
/// that docker or podman keep stay, and are named.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  container registry logout ghcr.io")]
pub struct Logout {
    /// The registry: HOST[:PORT], or docker.io.
    server: String,
}

impl Logout {
    /// Removes them and prints the registry's name.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let done = client.log_out(&self.server).await?;
        for place in &done.left {
            output::note(&format!(
                "There are other credentials for {} in {place}, which count from now on.",
                done.server
            ));
        }
        output::line(done.server)
    }
}
