//! `container registry list`

use std::{io, str::FromStr};

use clap::Args;
use container_api::{Login, Logins};
use container_client::Client;

use crate::{failure::Failure, output, table::table};

/// List the registries that there are credentials for.
///
/// Besides those that `container registry login` has kept, these are docker's and podman's. Where
/// there are several for one registry, the one that counts is shown. Passwords are not.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container registry ls
  container registry ls --format json")]
pub struct List {
    /// How to print them: table or json.
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: Format,

    /// Print the registries' names only.
    #[arg(short, long)]
    quiet: bool,
}

/// How they are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(word: &str) -> Result<Format, String> {
        match word {
            "table" => Ok(Format::Table),
            "json" => Ok(Format::Json),
            _ => Err("there are table and json".to_owned()),
        }
    }
}

impl List {
    /// Prints whose credentials there are.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let Logins { logins, broken } = client.logins().await?;
        for reason in broken {
            output::note(&reason);
        }
        if self.quiet {
            let servers = logins.iter().map(|login| format!("{}\n", login.server));
            return output::print(&servers.collect::<String>());
        }
        match self.format {
            Format::Json => output::json(&logins),
            Format::Table => output::print(&listed(&logins, output::is_coloured(&io::stdout()))),
        }
    }
}

fn listed(logins: &[Login], is_coloured: bool) -> String {
    let rows = logins.iter().map(|login| {
        let columns = [&login.server, &login.username, &login.kept_in];
        columns.map(Into::into)
    });
    table(["SERVER", "USERNAME", "KEPT IN"], rows, is_coloured)
}
