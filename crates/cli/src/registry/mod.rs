//! `container registry`: one file per verb.

mod list;
mod login;
mod logout;
mod prompt;

use clap::Subcommand;
use container_client::Client;

use crate::failure::Failure;

/// Verbs. Their help texts are the docs of the types.
#[derive(Debug, Subcommand)]
pub(crate) enum Registry {
    Login(login::Login),
    Logout(logout::Logout),
    #[command(visible_alias = "ls")]
    List(list::List),
}

impl Registry {
    /// Runs the verb. Returns the exit code.
    pub(crate) async fn run(self, build: &str) -> Result<u8, Failure> {
        let client = Client::connect(build).await?;
        match self {
            Registry::Login(login) => login.run(&client).await?,
            Registry::Logout(logout) => logout.run(&client).await?,
            Registry::List(list) => list.run(&client).await?,
        }
        Ok(0)
    }
}
