//! `container image`: one file per verb.

mod filter;
mod list;
mod pull;
mod push;

use clap::Subcommand;
use container_client::Client;

pub use filter::ImageFilter;

use crate::failure::Failure;

/// The verbs. What each does is told at its own type, where its help is made from.
#[derive(Debug, Subcommand)]
pub enum Image {
    Pull(pull::Pull),
    Push(push::Push),
    #[command(visible_alias = "ls")]
    List(list::List),
}

impl Image {
    /// Carries the verb out. Returns the exit code.
    pub async fn carry_out(self, build: &str) -> Result<u8, Failure> {
        let client = Client::connect(build).await?;
        match self {
            Image::Pull(pull) => return pull.carry_out(&client).await,
            Image::Push(push) => return push.carry_out(&client).await,
            Image::List(list) => list.carry_out(&client).await?,
        }
        Ok(0)
    }
}
