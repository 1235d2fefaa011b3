//! `container image`: one file per verb.

mod filter;
mod inspect;
mod list;
mod load;
mod prune;
mod pull;
mod push;
mod remove;
mod save;
mod tag;

use clap::Subcommand;
use container_client::Client;

pub(crate) use filter::ImageFilter;

use crate::failure::Failure;

/// Verbs. Their help texts are the docs of the types.
#[derive(Debug, Subcommand)]
pub(crate) enum Image {
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
    /// Runs the verb. Returns the exit code.
    pub(crate) async fn run(self, build: &str) -> Result<u8, Failure> {
        let client = Client::connect(build).await?;
        match self {
            Image::Pull(pull) => return pull.run(&client).await,
            Image::Push(push) => return push.run(&client).await,
            Image::List(list) => list.run(&client).await?,
            Image::Inspect(inspect) => inspect.run(&client).await?,
            Image::Tag(tag) => tag.run(&client).await?,
            Image::Remove(remove) => return remove.run(&client).await,
            Image::Prune(prune) => prune.run(&client).await?,
            Image::Load(load) => load.run(&client).await?,
            Image::Save(save) => save.run(&client).await?,
        }
        Ok(0)
    }
}
