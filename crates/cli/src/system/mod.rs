//! `container system`: what concerns the host and not one machine.

mod dns;

use clap::Subcommand;

use crate::failure::Failure;

/// The verbs. What each does is told at its own type, where its help is made from.
#[derive(Debug, Subcommand)]
pub enum System {
    #[command(subcommand)]
    Dns(dns::Dns),
}

impl System {
    /// Carries the verb out. Returns the exit code.
    pub async fn carry_out(self, build: &str) -> Result<u8, Failure> {
        match self {
            System::Dns(dns) => dns.carry_out(build).await?,
        }
        Ok(0)
    }
}
