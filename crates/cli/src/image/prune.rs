//! `container image prune`

use std::io::{self, BufRead, IsTerminal};

use clap::Args;
use container_api::PruneRequest;
use container_client::Client;

use super::freed;
use crate::{
    failure::Failure,
    output,
    progress::{self, ProgressMode},
};

/// Remove what no machine uses and no name leads to.
///
/// That is: images whose names mean other images now, content that belongs to none, and bases, the
/// disks that machines' disks lie on; the next machine of an image makes its base again. Images with
/// a name stay, unless --all is given.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  container image prune
  container image prune --all --force")]
pub struct Prune {
    /// Remove images with a name as well, if no machine uses them.
    #[arg(short, long)]
    all: bool,

    /// Do not ask on a terminal.
    #[arg(short, long)]
    force: bool,
}

impl Prune {
    /// Removes it, and prints what that freed.
    pub async fn carry_out(self, client: &Client) -> Result<(), Failure> {
        if !self.force && io::stdin().is_terminal() && !self.is_wanted()? {
            return Err(Failure::new("nothing was removed"));
        }
        let request = PruneRequest { all: self.all };
        let given_up = "Given up: nothing was removed.";
        let freed = progress::shown(ProgressMode::Auto, given_up, async |show| {
            client.prune_images(&request, show).await
        });
        let freed = freed.await?;
        if !freed.references.is_empty() {
            freed::print_names(&freed)?;
        }
        output::line(freed::in_words(&freed))
    }

    fn is_wanted(&self) -> Result<bool, Failure> {
        output::note(match self.all {
            true => "This removes all images that no machine uses, and what was made from them.",
            false => {
                "This removes images without a name and bases that no machine uses, and content that belongs to no image."
            }
        });
        output::ask("Go on? [y/N] ");
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}
