//! `container system kernel`: one file for each verb. Kernels are files of one user, changed only
//! by these verbs and each time in one step, so no service is needed.

mod list;
mod remove;
mod set;

use clap::Subcommand;
use container_kernel::Kernels;
use container_machine::Directories;

use crate::failure::Failure;

/// Manage kernels.
///
/// Machines boot the chosen kernel from their next start on, unless they have one of their own
/// (`container machine set kernel=PATH`).
#[derive(Debug, Subcommand)]
#[command(after_long_help = "\
Examples:
  container system kernel ls
  container system kernel set debian
  container system kernel set --binary ./vmlinux
  container system kernel rm vmlinux-6.12.9")]
pub(crate) enum Kernel {
    #[command(visible_alias = "ls")]
    List(list::List),
    Set(set::Set),
    #[command(visible_alias = "rm", alias = "delete")]
    Remove(remove::Remove),
}

impl Kernel {
    /// Runs the verb. Returns the exit code.
    pub(crate) async fn run(self, build: &str) -> Result<u8, Failure> {
        match self {
            Kernel::List(list) => list.run(&kernels()?)?,
            Kernel::Set(set) => set.run(&kernels()?, build).await?,
            Kernel::Remove(remove) => return remove.run(&kernels()?).await,
        }
        Ok(0)
    }
}

fn kernels() -> Result<Kernels, Failure> {
    let own = Directories::from_environment()?.kernels();
    Kernels::from_installation(own).map_err(Failure::cannot("find the program's kernels"))
}
