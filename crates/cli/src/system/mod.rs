//! `container system`: verbs about the host.

mod dns;
mod info;
mod kernel;

use clap::Subcommand;

use crate::failure::Failure;

/// Verbs. Their help texts are the docs of the types.
#[derive(Debug, Subcommand)]
pub(crate) enum System {
    Info(info::Info),
    #[command(subcommand)]
    Kernel(kernel::Kernel),
    #[command(subcommand)]
    Dns(dns::Dns),
}

impl System {
    /// Runs the verb. Returns the exit code.
    pub(crate) async fn run(self, build: &str) -> Result<u8, Failure> {
        match self {
            System::Info(info) => info.run(build).await?,
            System::Kernel(kernel) => return kernel.run(build).await,
            System::Dns(dns) => dns.run(build).await?,
        }
        Ok(0)
    }
}
