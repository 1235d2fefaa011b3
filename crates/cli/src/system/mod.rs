//! `container system`: what concerns the host and not one machine.

mod dns;
mod info;
mod kernel;

use clap::Subcommand;

use crate::failure::Failure;

/// The verbs. What each does is told at its own type, where its help is made from.
#[derive(Debug, Subcommand)]
pub enum System {
    Info(info::Info),
    #[command(subcommand)]
    Kernel(kernel::Kernel),
    #[command(subcommand)]
    Dns(dns::Dns),
}

impl System {
    /// Carries the verb out. Returns the exit code.
    pub async fn carry_out(self, build: &str) -> Result<u8, Failure> {
        match self {
            System::Info(info) => info.carry_out(build).await?,
            System::Kernel(kernel) => return kernel.carry_out(build).await,
            System::Dns(dns) => dns.carry_out(build).await?,
        }
        Ok(0)
    }
}
