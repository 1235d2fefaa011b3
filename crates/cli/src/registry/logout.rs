//! `container registry logout`

use clap::Args;
use container_client::Client;

use crate::{failure::Failure, output};

/// Remove the stored credentials for a registry.
///
/// Removes the credentials that `container registry login` stored, also from a credential helper.
/// Credentials of docker and podman are not removed; the command prints where they are.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  container registry logout ghcr.io")]
pub(crate) struct Logout {
    /// Registry: HOST[:PORT], or docker.io.
    server: String,
}

impl Logout {
    /// Removes the credentials and prints the registry.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let done = client.log_out(&self.server).await?;
        for place in &done.left {
            output::note(&format!(
                "Credentials for {} from {place} are used now.",
                done.server
            ));
        }
        output::line(done.server)
    }
}
