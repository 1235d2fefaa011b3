//! `container system kernel`: one file per verb. Kernels are files of one world; nobody else changes them
//! meanwhile but these verbs, each in one step, so they need no service.

mod download;
mod list;
mod remove;
mod set;

use clap::Subcommand;
use container_kernel::Kernels;
use container_machine::World;

use crate::failure::Failure;

/// Choose, add and list the kernels that machines boot.
///
/// Machines boot the one that was chosen, from their next start on, unless they have one of their own
/// (`container machine set kernel=PATH`).
#[derive(Debug, Subcommand)]
#[command(after_long_help = "\
Examples:
  container system kernel ls
  container system kernel set debian
  container system kernel set --binary ./vmlinux
  container system kernel rm vmlinux-6.12.9")]
pub enum Kernel {
    #[command(visible_alias = "ls")]
    List(list::List),
    Set(set::Set),
    #[command(visible_alias = "rm", alias = "delete")]
    Remove(remove::Remove),
}

impl Kernel {
    /// Returns the exit code.
    pub async fn carry_out(self, build: &str) -> Result<u8, Failure> {
        match self {
            Kernel::List(list) => list.carry_out(&kernels()?)?,
            Kernel::Set(set) => set.carry_out(&kernels()?, build).await?,
            Kernel::Remove(remove) => return remove.carry_out(&kernels()?).await,
        }
        Ok(0)
    }
}

fn kernels() -> Result<Kernels, Failure> {
    let own = World::of_environment()?.kernels();
    Ok(Kernels::of_program(own)?)
}
