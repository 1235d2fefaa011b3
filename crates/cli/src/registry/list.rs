//! `container registry list`

use std::io;

use clap::Args;
use container_api::{Login, Logins};
use container_client::Client;

use crate::{failure::Failure, output, table::table};

/// List the registries with stored credentials.
///
/// Includes the credentials of docker and podman. If there are several for one registry, the one in
/// use is shown. Passwords are not shown.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container registry ls
  container registry ls --format json")]
pub(crate) struct List {
    /// Output format.
    #[arg(long, default_value = "table", value_name = "FORMAT", value_parser = ["table", "json"])]
    format: String,

    /// Print only the registries.
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    /// Prints the credentials without passwords.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let Logins { logins, broken } = client.logins().await?;
        for reason in broken {
            output::note(&reason);
        }
        if self.quiet {
            let servers = logins.iter().map(|login| format!("{}\n", login.server));
            return output::print(&servers.collect::<String>());
        }
        match &self.format[..] {
            "json" => output::json(&logins),
            _ => output::print(&login_table(&logins, output::is_coloured(&io::stdout()))),
        }
    }
}

fn login_table(logins: &[Login], is_coloured: bool) -> String {
    let rows = logins.iter().map(|login| {
        let columns = [&login.server, &login.username, &login.kept_in];
        columns.map(Into::into)
    });
    table(["SERVER", "USERNAME", "KEPT IN"], rows, is_coloured)
}
