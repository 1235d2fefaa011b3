//! `container registry login`

use std::io::{self, IsTerminal, Read};

use clap::Args;
use container_api::{CallerEnvironment, LoginRequest, Password};
use container_client::Client;

use super::prompt;
use crate::{failure::Failure, interrupt::unless_interrupted, options::RegistryOptions, output};

/// Maximum length of a password in bytes. A longer input is a mistake.
const MAX_PASSWORD_LENGTH: u64 = 64 << 10;

/// Store credentials for a registry.
///
/// The credentials are verified with the registry first. They are stored in
/// ~/.config/container/auth.json, or by the credential helper that docker's configuration names.
/// Credentials that docker or podman have stored are used as well, and need not be stored again.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container registry login ghcr.io
  container registry login -u ann registry.example:5000
  pass registry | container registry login -u ann --password-stdin quay.io")]
pub(crate) struct Login {
    /// Registry: HOST[:PORT], or docker.io.
    server: String,

    /// User name; default: ask for it.
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,

    /// Read the password or token from standard input.
    #[arg(long, requires = "username")]
    password_stdin: bool,

    #[command(flatten)]
    registry: RegistryOptions,
}

impl Login {
    /// Asks for missing credentials, stores them, and prints where they are stored.
    pub(crate) async fn run(self, client: &Client) -> Result<(), Failure> {
        let (username, password) = match (self.username, self.password_stdin) {
            (Some(username), true) => (username, password_from_stdin()?),
            (username, _) => ask_for(username).await?,
        };
        let request = LoginRequest {
            server: self.server,
            username,
            password: Password::new(password),
            scheme: self.registry.scheme,
            environment: CallerEnvironment::from_process(),
        };
        let stored = unless_interrupted(client.log_in(&request)).await??;
        output::note(&format!("Credentials stored in {}.", stored.kept_in));
        output::line(stored.server)
    }
}

fn password_from_stdin() -> Result<String, Failure> {
    let mut password = String::new();
    let mut stdin = io::stdin().lock().take(MAX_PASSWORD_LENGTH);
    stdin
        .read_to_string(&mut password)
        .map_err(Failure::cannot("read the password"))?;
    password.truncate(password.trim_end_matches(['\r', '\n']).len());
    if password.is_empty() {
        return Err(Failure::new("no password found on standard input"));
    }
    Ok(password)
}

/// Asks for the password, and for the user name if it is not given, on the terminal.
async fn ask_for(username: Option<String>) -> Result<(String, String), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(
            "cannot ask for the password: standard input is not a terminal (use --username and --password-stdin)",
        ));
    }
    let username = match username {
        Some(username) => username,
        None => prompt::line("Username: ").await?,
    };
    let password = prompt::hidden_line("Password: ").await?;
    Ok((username, password))
}
