//! `container registry`: one file per verb.

mod list;
mod login;
mod logout;
mod prompt;

use clap::Subcommand;
use container_client::Client;

use crate::failure::Failure;

/// The verbs. What each does is told at its own type, where its help is made from.
#[derive(Debug, Subcommand)]
pub enum Registry {
    Login(login::Login),
    Logout(logout::Logout),
    #[command(visible_alias = "ls")]
    List(list::List),
}

impl Registry {
    /// Carries the verb out. Returns the exit code.
    pub async fn carry_out(self, build: &str) -> Result<u8, Failure> {
        let client = Client::connect(build).await?;
        match self {
            Registry::Login(login) => login.carry_out(&client).await?,
            Registry::Logout(logout) => logout.carry_out(&client).await?,
            Registry::List(list) => list.carry_out(&client).await?,
        }
        Ok(0)
    }
}
