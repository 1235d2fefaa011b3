//! `container image`: one file per verb.

mod filter;
mod freed;
mod inspect;
mod list;
mod load;
pub mod options;
mod prune;
mod pull;
mod push;
mod remove;
mod save;
mod tag;

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
    Inspect(inspect::Inspect),
    Tag(tag::Tag),
    #[command(name = "rm", visible_aliases = ["delete", "remove"])]
    Remove(remove::Remove),
    Prune(prune::Prune),
    Load(load::Load),
    Save(save::Save),
}

impl Image {
    /// Carries the verb out. Returns the exit code.
    pub async fn carry_out(self, build: &str) -> Result<u8, Failure> {
        let client = Client::connect(build).await?;
        match self {
            Image::Pull(pull) => return pull.carry_out(&client).await,
            Image::Push(push) => return push.carry_out(&client).await,
            Image::List(list) => list.carry_out(&client).await?,
            Image::Inspect(inspect) => inspect.carry_out(&client).await?,
            Image::Tag(tag) => tag.carry_out(&client).await?,
            Image::Remove(remove) => return remove.carry_out(&client).await,
            Image::Prune(prune) => prune.carry_out(&client).await?,
            Image::Load(load) => load.carry_out(&client).await?,
            Image::Save(save) => save.carry_out(&client).await?,
        }
        Ok(0)
    }
}
