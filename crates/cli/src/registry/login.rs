//! `container registry login`

use std::io::{self, IsTerminal, Read};

use clap::Args;
use container_api::{CallerEnvironment, LogIn, Password};
use container_client::Client;

use super::prompt;
use crate::{failure::Failure, interrupt::unless_interrupted, output};

/// Passwords longer than this are something else.
const LONGEST: u64 = 64 << 10;

/// Keep credentials for a registry.
///
/// The registry is asked whether they are right before they are kept. They are kept in
/// ~/.config/container/auth.json, or with the credential helper that docker's configuration names.
/// Nothing needs to be kept of what docker or podman have already: their files and helpers are
/// read, too.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container registry login ghcr.io
  container registry login -u ann registry.example:5000
  pass registry | container registry login -u ann --password-stdin quay.io")]
pub struct Login {
    /// The registry: HOST[:PORT], or docker.io.
    server: String,

    /// The user; asked for where it is left out.
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,

    /// Read the password, or a token in its place, from standard input.
    #[arg(long, requires = "username")]
    password_stdin: bool,

    /// How to reach the registry: http, https, or auto (http on loopback and private names).
    #[arg(long, value_name = "SCHEME", value_parser = ["http", "https", "auto"])]
    scheme: Option<String>,
}

impl Login {
    /// Has the credentials checked and kept, and says where.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        let (username, password) = match (self.username, self.password_stdin) {
            (Some(username), true) => (username, password_from_stdin()?),
            (username, _) => asked_for(username).await?,
        };
        let request = LogIn {
            server: self.server,
            username,
            password: Password::new(password),
            scheme: self.scheme,
            environment: CallerEnvironment::of_this_process(),
        };
        let kept = unless_interrupted(client.log_in(&request)).await??;
        output::note(&format!("The credentials are kept in {}.", kept.kept_in));
        output::line(kept.server)
    }
}

fn password_from_stdin() -> Result<String, Failure> {
    let mut password = String::new();
    let mut stdin = io::stdin().lock().take(LONGEST);
    stdin
        .read_to_string(&mut password)
        .map_err(|error| Failure::new(format!("reading the password: {error}")))?;
    password.truncate(password.trim_end_matches(['\r', '\n']).len());
    match password.is_empty() {
        true => Err(Failure::new("there is no password on standard input")),
        false => Ok(password),
    }
}

/// Name and password from whoever sits at the terminal.
async fn asked_for(username: Option<String>) -> Result<(String, String), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(
            "there is no terminal to ask for the password at: give --username, and --password-stdin with the password on standard input",
        ));
    }
    let username = match username {
        Some(username) => username,
        None => prompt::line("Username: ").await?,
    };
    let password = prompt::hidden_line("Password: ").await?;
    Ok((username, password))
}
